/**
 * Brings a file's enrollments into the provisioning service, ten to a request, and says what became of each row. Rows
 * stream through: no more than `concurrency` batches are in memory at a time.
 */

import type { Enrollment, StoredEnrollment } from '../dps/enrollment.ts';
import { bulkErrorCode, shownText } from '../dps/service-errors.ts';
import { bulkLimit, type BulkFailure, type BulkMode, type ProvisioningService } from '../dps/service.ts';
import { IotdmError, type ErrorCode } from '../errors.ts';
import type { EnrollmentRow } from './enrollment-input.ts';
import { holdsSameKey, mergeEnrollment } from './enrollment-merge.ts';

/**
 * - `upsert`: creates what is absent; what is there is merged with the row (see mergeEnrollment), and written only where
 *   that changes something, and only over the version that was read.
 * - `create`: what is there already is a failure of its row (`service.conflict`), even when it is identical.
 * - `update`: as upsert, but what is absent is a failure of its row (`service.not-found`).
 * - `delete`: by registration id alone; what is absent already counts as skipped.
 *
 * Neither upsert nor update writes over an enrollment that holds another endorsement key than the row's: two devices
 * with one identity is the mistake that cannot be mended later.
 */
export type ImportMode = 'upsert' | 'create' | 'update' | 'delete';

export interface ImportProgress {
  /** Rows of which the outcome is known. */
  readonly done: number;
  /** Present once the last row has been read. */
  readonly total?: number;
  readonly failed: number;
}

export interface ImportFailure {
  readonly line: number;
  readonly registrationId: string;
  readonly code: ErrorCode;
  readonly message: string;
}

/** Counts are rows, except `requests` (HTTP requests, retries included) and `throttled` (answers with status 429). */
export interface ImportSummary {
  readonly total: number;
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly deleted: number;
  readonly failed: number;
  readonly skipped: number;
  readonly requests: number;
  readonly throttled: number;
  readonly elapsedMs: number;
  /** Path of the journal; null, as none is kept yet. */
  readonly journal: string | null;
  /** The first 100. */
  readonly failures: readonly ImportFailure[];
}

export interface ImportOptions {
  readonly rows: AsyncIterable<EnrollmentRow>;
  readonly service: ProvisioningService;
  readonly mode: ImportMode;
  /** Batches at a time; 4 when absent. */
  readonly concurrency?: number;
  /** Called after each row. */
  readonly onProgress?: (progress: ImportProgress) => void;
  /** Stops between batches: what is under way is finished first. */
  readonly signal?: AbortSignal;
}

const listedFailures = 100;

/**
 * Faults of single rows are counted and listed. What ends the whole import is thrown once the batches under way have
 * settled: `auth`, `network`, an answer that is no provisioning service's, `interrupted.signal`, or what reading the
 * rows throws; the error's details then hold the counts so far under the summary's names.
 */
export async function importEnrollments(options: ImportOptions): Promise<ImportSummary> {
  const { rows, service, mode, signal } = options;
  const concurrency = Math.max(1, Math.trunc(options.concurrency ?? 4));
  const tally = new Tally(service, options.onProgress);
  const work = new Work(service, tally);
  const underWay = new Map<Promise<void>, ReadonlySet<string>>();
  let fault: { readonly error: unknown } | undefined;

  const start = (batch: readonly EnrollmentRow[]) => {
    const finished: Promise<void> = work[mode](batch)
      .catch((error: unknown) => {
        fault ??= { error };
      })
      .then(() => {
        underWay.delete(finished);
      });
    underWay.set(finished, new Set(batch.map(idOf)));
  };
  /** While a batch is being filled, one less than `concurrency` is under way. */
  const untilRoom = async (id: string) => {
    while (underWay.size >= concurrency || [...underWay.values()].some((ids) => ids.has(id))) {
      await Promise.race(underWay.keys());
    }
  };
  const isStopped = () => fault !== undefined || signal?.aborted === true;

  try {
    let batch: EnrollmentRow[] = [];
    for await (const row of rows) {
      const id = idOf(row);
      // One id twice in a request fails it all, and twice at a time is a race: the later row finds the earlier one done.
      if (batch.some((earlier) => idOf(earlier) === id)) {
        start(batch);
        batch = [];
      }
      await untilRoom(id);
      if (isStopped()) break;
      tally.total += 1;
      batch.push(row);
      if (batch.length === bulkLimit) {
        start(batch);
        batch = [];
      }
    }
    if (!isStopped()) {
      tally.isComplete = true;
      if (batch.length > 0) start(batch);
    }
  } catch (error) {
    fault ??= { error };
  }
  await Promise.all(underWay.keys());

  if (fault !== undefined) throw withCounts(fault.error, tally);
  if (!tally.isComplete) throw withCounts(new IotdmError('interrupted.signal', 'interrupted'), tally);
  return tally.summary();
}

function withCounts(error: unknown, tally: Tally): unknown {
  if (!(error instanceof IotdmError)) return error;
  return new IotdmError(error.code, error.message, {
    cause: error,
    details: { ...error.details, ...tally.counts() },
  });
}

type Outcome = 'created' | 'updated' | 'unchanged' | 'deleted' | 'skipped';

interface RowFault {
  readonly code: ErrorCode;
  readonly message: string;
}

/** Keeps the counts; every row's outcome passes through it once. */
class Tally {
  total = 0;
  /** Whether all rows have been read. */
  isComplete = false;

  readonly #outcomes: Record<Outcome, number> = {
    created: 0,
    updated: 0,
    unchanged: 0,
    deleted: 0,
    skipped: 0,
  };
  #failed = 0;
  readonly #failures: ImportFailure[] = [];
  readonly #service: ProvisioningService;
  readonly #requestsBefore: number;
  readonly #throttledBefore: number;
  readonly #startedAt = performance.now();
  readonly #onProgress: ImportOptions['onProgress'];

  constructor(service: ProvisioningService, onProgress: ImportOptions['onProgress']) {
    this.#service = service;
    this.#requestsBefore = service.requests;
    this.#throttledBefore = service.throttled;
    this.#onProgress = onProgress;
  }

  succeed(outcome: Outcome): void {
    this.#outcomes[outcome] += 1;
    this.#report();
  }

  fail(row: EnrollmentRow, fault: RowFault): void {
    this.#failed += 1;
    if (this.#failures.length < listedFailures) {
      const { registrationId } = row.enrollment;
      this.#failures.push({ line: row.line, registrationId, code: fault.code, message: fault.message });
    }
    this.#report();
  }

  counts(): Omit<ImportSummary, 'elapsedMs' | 'journal' | 'failures'> {
    const { created, updated, unchanged, deleted, skipped } = this.#outcomes;
    return {
      total: this.total,
      created,
      updated,
      unchanged,
      deleted,
      failed: this.#failed,
      skipped,
      requests: this.#service.requests - this.#requestsBefore,
      throttled: this.#service.throttled - this.#throttledBefore,
    };
  }

  summary(): ImportSummary {
    const elapsedMs = Math.round(performance.now() - this.#startedAt);
    return { ...this.counts(), elapsedMs, journal: null, failures: this.#failures };
  }

  #report(): void {
    const { created, updated, unchanged, deleted, skipped } = this.#outcomes;
    this.#onProgress?.({
      done: created + updated + unchanged + deleted + skipped + this.#failed,
      ...(this.isComplete ? { total: this.total } : {}),
      failed: this.#failed,
    });
  }
}

/** A row with what is to be sent for it. */
interface Item {
  readonly row: EnrollmentRow;
  readonly enrollment: Enrollment;
}

/** What is done with one batch, by mode. Throws only what ends the import. */
class Work implements Record<ImportMode, (batch: readonly EnrollmentRow[]) => Promise<void>> {
  readonly #service: ProvisioningService;
  readonly #tally: Tally;

  constructor(service: ProvisioningService, tally: Tally) {
    this.#service = service;
    this.#tally = tally;
  }

  async upsert(batch: readonly EnrollmentRow[]): Promise<void> {
    const existing: { readonly row: EnrollmentRow; readonly fault: RowFault }[] = [];
    await this.#send('create', batch.map(asWritten), ({ row }, fault) => {
      if (fault?.code === 'service.conflict') existing.push({ row, fault });
      else this.#settle(row, 'created', fault);
    });
    await this.#change(existing);
  }

  async create(batch: readonly EnrollmentRow[]): Promise<void> {
    await this.#send('create', batch.map(asWritten), ({ row }, fault) => {
      this.#settle(row, 'created', fault);
    });
  }

  async update(batch: readonly EnrollmentRow[]): Promise<void> {
    const fault: RowFault = { code: 'service.not-found', message: 'is not enrolled' };
    await this.#change(batch.map((row) => ({ row, fault })));
  }

  async delete(batch: readonly EnrollmentRow[]): Promise<void> {
    await this.#send('delete', batch.map(asWritten), ({ row }, fault) => {
      if (fault?.code === 'service.not-found') this.#tally.succeed('skipped');
      else this.#settle(row, 'deleted', fault);
    });
  }

  /** Merges each row with what the service holds; `fault` is the row's when the service holds nothing. */
  async #change(rows: readonly { readonly row: EnrollmentRow; readonly fault: RowFault }[]): Promise<void> {
    const changes: Item[] = [];
    // One look-up at a time, so that `concurrency` holds for them too.
    for (const { row, fault } of rows) {
      const stored = await this.#find(row, fault);
      if (stored === undefined) continue;
      if (!holdsSameKey(stored, row.enrollment)) {
        this.#tally.fail(row, { code: 'service.conflict', message: whoseKey(stored) });
        continue;
      }
      const { enrollment, unchanged } = mergeEnrollment(stored, row.enrollment);
      if (unchanged) this.#tally.succeed('unchanged');
      else changes.push({ row, enrollment });
    }
    await this.#send('updateIfMatchETag', changes, ({ row }, fault) => {
      this.#settle(row, 'updated', fault);
    });
  }

  /** Undefined when the row has failed. */
  async #find(row: EnrollmentRow, whenAbsent: RowFault): Promise<StoredEnrollment | undefined> {
    try {
      const stored = await this.#service.find(row.enrollment.registrationId);
      if (stored === undefined) this.#tally.fail(row, whenAbsent);
      return stored;
    } catch (error) {
      const fault = rowFault(error);
      if (fault === undefined && !isUnexpectedAnswer(error)) throw error;
      this.#tally.fail(
        row,
        fault ?? { code: 'service.unexpected-answer', message: (error as Error).message },
      );
      return undefined;
    }
  }

  /** One request for all items, and more only when the service refuses it as a whole: then by halves. */
  async #send(
    mode: BulkMode,
    items: readonly Item[],
    settle: (item: Item, fault: RowFault | undefined) => void,
  ): Promise<void> {
    const [first] = items;
    if (first === undefined) return;
    let failures: readonly BulkFailure[];
    try {
      const result = await this.#service.bulk(
        mode,
        items.map(({ enrollment }) => enrollment),
      );
      failures = result.errors;
    } catch (error) {
      const fault = rowFault(error);
      if (fault === undefined) throw error;
      if (items.length === 1) {
        settle(first, fault);
        return;
      }
      const middle = Math.ceil(items.length / 2);
      await this.#send(mode, items.slice(0, middle), settle);
      await this.#send(mode, items.slice(middle), settle);
      return;
    }
    const faults = new Map(failures.map((failure) => [failure.registrationId, bulkFault(failure)]));
    for (const item of items) settle(item, faults.get(item.enrollment.registrationId));
  }

  #settle(row: EnrollmentRow, outcome: Outcome, fault: RowFault | undefined): void {
    if (fault === undefined) this.#tally.succeed(outcome);
    else this.#tally.fail(row, fault);
  }
}

function asWritten(row: EnrollmentRow): Item {
  return { row, enrollment: row.enrollment };
}

function idOf(row: EnrollmentRow): string {
  return row.enrollment.registrationId.toLowerCase();
}

function whoseKey(stored: StoredEnrollment): string {
  return stored.attestation.type === 'tpm'
    ? 'holds another endorsement key'
    : `is enrolled with ${shownText(stored.attestation.type, 30)} attestation, not with a TPM`;
}

/** What the service has against a request's content; undefined for whatever would befall every other request too. */
function rowFault(error: unknown): RowFault | undefined {
  if (!(error instanceof IotdmError)) return undefined;
  const { code, message } = error;
  const isAboutContent =
    code === 'service.invalid' ||
    code === 'service.conflict' ||
    code === 'service.not-found' ||
    code === 'service.changed-meanwhile' ||
    code === 'usage.invalid';
  return isAboutContent ? { code, message } : undefined;
}

/** In answer to a look-up, nothing has been changed yet and the fault may lie in that one enrollment. */
function isUnexpectedAnswer(error: unknown): boolean {
  return error instanceof IotdmError && error.code === 'service.unexpected-answer';
}

function bulkFault({ errorCode, errorStatus }: BulkFailure): RowFault {
  const said = shownText(errorStatus, 300).replace(/\.$/, '');
  const message = `the service refused it (${errorCode})`;
  return { code: bulkErrorCode(errorCode), message: said === '' ? message : `${message}: ${said}` };
}
