/** What a deletion would do: every row held beside what the service has, and nothing deleted. */

import type { StoredEnrollment } from '../dps/enrollment.ts';
import { deletionObjection } from './deletion-comparison.ts';
import type { DeletionRow } from './enrollment-rows.ts';
import { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import { asObjection, type Objection } from './import-comparison.ts';
import { inOrder, minutesFor, type PlannedAction, type PlannedRow, type PlanTotals } from './import-plan.ts';
import { Unreadable, type Requests } from './import-requests.ts';
import { fewLookups, idsOf } from './import-work.ts';

export interface DeletionPlanOptions {
  readonly rows: () => AsyncIterable<readonly DeletionRow[]>;
  readonly total: number;
  readonly force: boolean;
  /** Rows have registration ids alone: a deletion looks nothing up, and its plan only whether there is something. */
  readonly isByIdOnly: boolean;
  readonly requests: Requests;
  readonly concurrency: number;
  /** Operations a minute; Infinity for none. */
  readonly ratePerMinute: number;
}

type Judgement = Pick<PlannedRow, 'action'> & { readonly objection?: Objection };

/** As ImportPlan: in the order of the input, row by row. */
export class DeletionPlan {
  readonly #options: DeletionPlanOptions;
  readonly #counts: Partial<Record<PlannedAction, number>> = {};
  /** Pages and look-ups, which the deletion needs as well. */
  #reads = 0;

  constructor(options: DeletionPlanOptions) {
    this.#options = options;
  }

  async *rows(): AsyncGenerator<PlannedRow, void> {
    const { rows, total, requests, concurrency } = this.#options;
    const snapshot =
      total < fewLookups
        ? undefined
        : await EnrollmentSnapshot.read({
            ids: idsOf(rows()),
            count: total,
            pages: requests.pages(),
            most: Math.ceil(total / 2),
          });
    try {
      this.#reads += snapshot?.pages ?? 0;
      for await (const row of inOrder(single(rows()), concurrency, (one) => this.#plan(one, snapshot))) {
        this.#counts[row.action] = (this.#counts[row.action] ?? 0) + 1;
        yield row;
      }
    } finally {
      await snapshot?.close();
    }
  }

  /** Of the rows so far. What a bulk request costs does not matter: each deletion is a request and an operation. */
  totals(): PlanTotals {
    const { isByIdOnly, ratePerMinute } = this.#options;
    const { delete: deletions = 0, conflict = 0, skip = 0 } = this.#counts;
    // By its id alone, also what is not there costs a request.
    const requests = isByIdOnly ? deletions + skip : this.#reads + deletions;
    return {
      total: deletions + conflict + skip,
      create: 0,
      update: 0,
      unchanged: 0,
      conflict,
      delete: deletions,
      skip,
      requests,
      minutes: minutesFor(requests, ratePerMinute),
    };
  }

  async #plan(
    { line, enrollment }: DeletionRow,
    snapshot: EnrollmentSnapshot | undefined,
  ): Promise<PlannedRow> {
    const { action, objection } = await this.#judged(enrollment, snapshot);
    return {
      line,
      registrationId: enrollment.registrationId,
      action,
      ...(objection === undefined ? {} : { code: objection.code, message: objection.message }),
    };
  }

  async #judged(
    target: DeletionRow['enrollment'],
    snapshot: EnrollmentSnapshot | undefined,
  ): Promise<Judgement> {
    const { force } = this.#options;
    let stored: StoredEnrollment | undefined;
    try {
      stored = await this.#stored(target.registrationId, snapshot);
    } catch (error) {
      if (error instanceof Unreadable) return { action: 'conflict', objection: asObjection(error.cause) };
      throw error;
    }
    if (stored === undefined) return { action: 'skip' };
    const objection = deletionObjection(target, stored, force);
    return objection === undefined ? { action: 'delete' } : { action: 'conflict', objection };
  }

  async #stored(
    registrationId: string,
    snapshot: EnrollmentSnapshot | undefined,
  ): Promise<StoredEnrollment | undefined> {
    const found = await snapshot?.find(registrationId);
    if (found !== undefined || snapshot?.isComplete === true) return found;
    this.#reads += 1;
    return this.#options.requests.find(registrationId);
  }
}

async function* single<Row>(batches: AsyncIterable<readonly Row[]>): AsyncGenerator<Row, void> {
  for await (const batch of batches) yield* batch;
}
