/** What an import would do: every row compared with what the service holds, and nothing written. */

import { bulkLimit } from '../dps/service.ts';
import type { ErrorCode } from '../errors.ts';
import type { EnrollmentRow } from './enrollment-input.ts';
import { namedValues } from './enrollment-rows.ts';
import { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import { asObjection, compare, enrolledAlready, notEnrolled, type Objection } from './import-comparison.ts';
import { Unreadable, type BulkCost, type Requests } from './import-requests.ts';
import type { WriteMode } from './import.ts';
import type { StoredEnrollment } from '../dps/enrollment.ts';

/** `skip`: there is nothing to delete. */
export const plannedActions = ['create', 'update', 'unchanged', 'conflict', 'delete', 'skip'] as const;
export type PlannedAction = (typeof plannedActions)[number];

export interface PlannedRow {
  readonly line: number;
  readonly registrationId: string;
  readonly action: PlannedAction;
  /** Of a conflict. */
  readonly code?: ErrorCode;
  readonly message?: string;
}

/** Counts are rows, by action, besides what the import would cost. */
export interface PlanTotals extends Readonly<Record<PlannedAction, number>> {
  readonly total: number;
  /** HTTP requests, when nothing has to be repeated. */
  readonly requests: number;
  /** At the rate that was given, to a hundredth; null without a rate. */
  readonly minutes: number | null;
}

export interface PlanOptions {
  readonly rows: () => AsyncIterable<EnrollmentRow>;
  readonly total: number;
  readonly mode: WriteMode;
  readonly force: boolean;
  readonly requests: Requests;
  readonly concurrency: number;
  readonly bulkCost: BulkCost;
  /** Operations a minute; Infinity for none. */
  readonly ratePerMinute: number;
}

/** With fewer rows each is looked up by itself. */
const fewRows = 10;

/** Compares in the order of the input; what is found is passed on row by row and not kept. */
export class ImportPlan {
  readonly #options: PlanOptions;
  readonly #counts: Record<PlannedAction, number> = {
    create: 0,
    update: 0,
    unchanged: 0,
    conflict: 0,
    delete: 0,
    skip: 0,
  };
  /** Requests that an import needs to know what exists already. */
  #pages = 1;

  constructor(options: PlanOptions) {
    this.#options = options;
  }

  async *rows(): AsyncGenerator<PlannedRow, void> {
    const { rows, total, requests, concurrency } = this.#options;
    const snapshot =
      total < fewRows
        ? undefined
        : await EnrollmentSnapshot.read({
            ids: idsOf(rows()),
            count: total,
            pages: requests.pages(),
            most: Math.ceil(total / 2),
          });
    try {
      this.#pages = snapshot?.pages ?? 1;
      for await (const row of inOrder(rows(), concurrency, (one) => this.#plan(one, snapshot))) {
        this.#counts[row.action] += 1;
        yield row;
      }
    } finally {
      await snapshot?.close();
    }
  }

  /** Of the rows so far. */
  totals(): PlanTotals {
    const { bulkCost, ratePerMinute, mode } = this.#options;
    const counts = this.#counts;
    const written = [counts.create, counts.update];
    const writes = written.reduce((sum, count) => sum + Math.ceil(count / bulkLimit), 0);
    const existing = counts.update + counts.unchanged + counts.conflict;
    const reads = mode === 'create' ? 0 : Math.min(existing, this.#pages);
    const operations =
      reads + (bulkCost === 'request' ? writes : written.reduce((sum, count) => sum + count, 0));
    return {
      total: Object.values(counts).reduce((sum, count) => sum + count, 0),
      ...counts,
      requests: writes + reads,
      minutes: minutesFor(operations, ratePerMinute),
    };
  }

  async #plan(row: EnrollmentRow, snapshot: EnrollmentSnapshot | undefined): Promise<PlannedRow> {
    const { registrationId } = row.enrollment;
    const { action, objection } = await this.#judged(row, snapshot);
    return {
      line: row.line,
      registrationId,
      action,
      ...(objection === undefined ? {} : { code: objection.code, message: objection.message }),
    };
  }

  async #stored(
    registrationId: string,
    snapshot: EnrollmentSnapshot | undefined,
  ): Promise<StoredEnrollment | undefined> {
    const found = await snapshot?.find(registrationId);
    return found === undefined && snapshot?.isComplete !== true
      ? this.#options.requests.find(registrationId)
      : found;
  }

  async #judged(
    row: EnrollmentRow,
    snapshot: EnrollmentSnapshot | undefined,
  ): Promise<{ readonly action: PlannedAction; readonly objection?: Objection }> {
    const { mode, force } = this.#options;
    let stored: StoredEnrollment | undefined;
    try {
      stored = await this.#stored(row.enrollment.registrationId, snapshot);
    } catch (error) {
      if (error instanceof Unreadable) return { action: 'conflict', objection: asObjection(error.cause) };
      throw error;
    }
    if (stored === undefined) {
      return mode === 'update' ? { action: 'conflict', objection: notEnrolled } : { action: 'create' };
    }
    return mode === 'create'
      ? { action: 'conflict', objection: enrolledAlready }
      : compare(namedValues(row), stored, force);
  }
}

/** What becomes of each row, in their order, some of them being worked on at a time. */
export async function* inOrder<Row, Result>(
  rows: AsyncIterable<Row>,
  concurrency: number,
  task: (row: Row) => Promise<Result>,
): AsyncGenerator<Result, void> {
  const ahead: Promise<Result>[] = [];
  for await (const row of rows) {
    const result = task(row);
    // Awaited in its turn; until then a failure is nobody's.
    result.catch(() => undefined);
    ahead.push(result);
    const first = ahead.length >= concurrency ? ahead.shift() : undefined;
    if (first !== undefined) yield await first;
  }
  for (const result of ahead) yield await result;
}

/** At the rate that was given, to a hundredth; null without a rate. */
export function minutesFor(operations: number, ratePerMinute: number): number | null {
  return Number.isFinite(ratePerMinute) ? Math.round((operations / ratePerMinute) * 100) / 100 : null;
}

async function* idsOf(rows: AsyncIterable<EnrollmentRow>): AsyncGenerator<string, void> {
  for await (const { enrollment } of rows) yield enrollment.registrationId;
}
