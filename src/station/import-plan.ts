/** What an import would do: every row compared with what the service holds, and nothing written. */

import { bulkLimit } from '../dps/service.ts';
import type { ErrorCode } from '../errors.ts';
import type { EnrollmentRow } from './enrollment-input.ts';
import { enrollmentToCreate } from './enrollment-merge.ts';
import { namedValues } from './enrollment-rows.ts';
import { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import { asObjection, compare, enrolledAlready, notEnrolled, type Objection } from './import-comparison.ts';
import { identityObjection, objectionTo } from './import-claims.ts';
import type { Writing } from './identity-facts.ts';
import type { IdentityIndex } from './identity-index.ts';
import { prepareWithSnapshot } from './identity-reading.ts';
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
  /** What other enrollments have. Absent where nothing is to be compared with them. */
  readonly index?: IdentityIndex | undefined;
  readonly onReading?: ((enrollments: number) => Promise<void> | void) | undefined;
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
    const read = await this.#readOthers();
    const snapshot =
      read !== undefined || total < fewRows
        ? read
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

  async #readOthers(): Promise<EnrollmentSnapshot | undefined> {
    const { index, rows, total, onReading } = this.#options;
    if (index === undefined) return undefined;
    const watcher = onReading === undefined ? {} : { onReading };
    return prepareWithSnapshot(index, { ids: () => idsOf(rows()), count: total, ...watcher });
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
      return mode === 'update'
        ? { action: 'conflict', objection: notEnrolled }
        : this.#unlessTaken('create', { enrollment: enrollmentToCreate(row.enrollment) });
    }
    if (mode === 'create') return { action: 'conflict', objection: enrolledAlready };
    const comparison = compare(namedValues(row), stored, force);
    return comparison.action === 'update'
      ? this.#unlessTaken('update', { enrollment: comparison.enrollment, stored })
      : comparison;
  }

  /** What is to be done, unless another enrollment has what the row would get. */
  async #unlessTaken(
    action: 'create' | 'update',
    writing: Writing,
  ): Promise<{ readonly action: PlannedAction; readonly objection?: Objection }> {
    try {
      const conflict = await this.#options.index?.compare(writing);
      return conflict === undefined
        ? { action }
        : { action: 'conflict', objection: identityObjection(conflict) };
    } catch (error) {
      const objection = objectionTo(error);
      if (objection === undefined) throw error;
      return { action: 'conflict', objection };
    }
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
