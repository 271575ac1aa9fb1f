/**
 * Brings a file's enrollments into the provisioning service, ten to a request, and says what became of each row. Rows
 * stream through: no more than a few batches are in memory at a time. What is known of each row is in the journal, so
 * that an import that ends midway can be taken up.
 */

import { Governor } from '../dps/governor.ts';
import type { ProvisioningService } from '../dps/service.ts';
import { IotdmError } from '../errors.ts';
import { ImportJournal, type RowFailure } from '../records/import-journal.ts';
import { DeletionWork, type DeletionWorkOptions } from './deletion-work.ts';
import type { DeletionRow, EnrollmentRow } from './enrollment-input.ts';
import type { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import type { IdentityIndex, IdentitySource } from './identity-index.ts';
import { prepareWithSnapshot } from './identity-reading.ts';
import { Requests, type BulkCost } from './import-requests.ts';
import { ImportTally, type ImportCounts, type ImportFailure, type ImportProgress } from './import-tally.ts';
import { ImportWork } from './import-work.ts';

export type { BulkCost } from './import-requests.ts';
export type { ImportCounts, ImportFailure, ImportProgress } from './import-tally.ts';

/**
 * - `upsert`: creates what is absent; what is there is merged with the row (see mergeEnrollment), and written only where
 *   that changes something, and only over the version that was read.
 * - `create`: what is there already is a failure of its row (`service.conflict`), even when it is identical.
 * - `update`: as upsert, but what is absent is a failure of its row (`service.not-found`).
 * - `delete`: what is there is deleted if it is what the row says (see deletionObjection), and in the version that was
 *   compared only; what is absent already counts as skipped.
 *
 * None touches an enrollment that holds another endorsement key than the row's.
 */
export const importModes = ['upsert', 'create', 'update', 'delete'] as const;
export type ImportMode = (typeof importModes)[number];

export interface ImportRow extends EnrollmentRow {
  /** Of a failure it is told in which file it stands. */
  readonly file?: string;
}

export interface PlacedDeletionRow extends DeletionRow {
  readonly file?: string;
}

export interface ImportSummary extends ImportCounts {
  readonly elapsedMs: number;
  /** Path of the journal; null when none is kept. */
  readonly journal: string | null;
  /** The first 100 of this run. */
  readonly failures: readonly ImportFailure[];
}

/** What writes enrollments. */
export type WriteMode = Exclude<ImportMode, 'delete'>;

export interface ImportOptions extends CommonOptions {
  readonly mode: WriteMode;
  /** The input from its beginning, some rows at a time; called again when all of it is to be looked through. */
  readonly rows: () => AsyncIterable<readonly ImportRow[]>;
}

export interface DeletionOptions extends CommonOptions {
  /** As those of an import. */
  readonly rows: () => AsyncIterable<readonly PlacedDeletionRow[]>;
}

interface CommonOptions {
  /** How many rows there are; the journal's are as many. */
  readonly total: number;
  readonly service: ProvisioningService;
  /** Write over what somebody else has changed between reading and writing, and over other versions than a row's etag. */
  readonly force?: boolean;
  /** Requests at a time; 4 when absent. */
  readonly concurrency?: number;
  /** `enrollment` when absent. */
  readonly bulkCost?: BulkCost;
  /** Without a limit of its own when absent. */
  readonly governor?: Governor;
  /** Kept in memory only when absent. The caller closes it. */
  readonly journal?: ImportJournal;
  /** For how long nothing may get through before the import ends with the last error; ten minutes when absent. */
  readonly giveUpAfterMs?: number;
  /** What other enrollments have, read by these requests: what is written is compared with it, and what is deleted is free. */
  readonly openIndex?: (source: IdentitySource) => Promise<IdentityIndex | undefined>;
  /** Called while all enrollments are read for it, with their number so far. */
  readonly onReading?: (enrollments: number) => Promise<void> | void;
  /** Called after each row. */
  readonly onProgress?: (progress: ImportProgress) => void;
  /** Called for each row that fails. */
  readonly onFailure?: (failure: RowFailure) => void;
  /** Stops between requests: what is under way is finished first. */
  readonly signal?: AbortSignal;
}

export const defaultGiveUpAfterMs = 600_000;

/**
 * Rows that the journal has as done are left out; failed ones are tried again. Faults of single rows are counted and
 * listed. What ends the whole import is thrown once what was under way has settled and is in the journal: `auth`,
 * `network`, an answer that is no provisioning service's, `interrupted.signal`, a journal that cannot be written, or
 * what reading the rows throws; the error's details then hold the counts so far under the summary's names.
 */
export async function importEnrollments(options: ImportOptions): Promise<ImportSummary> {
  const { mode, rows } = options;
  return carryOut(options, async (common) => {
    const known = await readOthers(common.index, options);
    return new ImportWork({ ...common, rows, mode, known });
  });
}

/** The mode `delete`: as `importEnrollments` in everything else. */
export async function deleteEnrollments(options: DeletionOptions): Promise<ImportSummary> {
  const { rows } = options;
  return carryOut(options, (common) => Promise.resolve(new DeletionWork({ ...common, rows })));
}

async function carryOut(
  options: CommonOptions,
  workOf: (common: Omit<DeletionWorkOptions, 'rows'>) => Promise<{ run(): Promise<void> }>,
): Promise<ImportSummary> {
  const { total, service, force = false, concurrency = 4, signal } = options;
  const journal = options.journal ?? ImportJournal.inMemory(total);
  const tally = new ImportTally(journal, service, options);
  const stop = new AbortController();
  const interrupt = (): void => {
    stop.abort(interruption());
  };
  if (signal?.aborted === true) interrupt();
  signal?.addEventListener('abort', interrupt);
  try {
    if (journal.done < total) {
      const requests = new Requests({
        service,
        governor: options.governor ?? new Governor({ ratePerMinute: Infinity }),
        log: journal,
        concurrency,
        bulkCost: options.bulkCost ?? 'enrollment',
        giveUpAfterMs: options.giveUpAfterMs ?? defaultGiveUpAfterMs,
        signal: stop.signal,
      });
      const index = await options.openIndex?.({
        pages: () => requests.pages(),
        find: (registrationId) => requests.find(registrationId),
      });
      try {
        const work = await workOf({ force, concurrency, journal, tally, requests, stop, index });
        await work.run();
      } finally {
        await index?.close();
      }
    }
    if (signal?.aborted === true && journal.done + tally.counts().failed < total) throw interruption();
    await journal.flush();
  } catch (error) {
    await journal.flush().catch(() => undefined);
    throw withCounts(signal?.aborted === true ? interrupted(error) : error, tally, journal);
  } finally {
    signal?.removeEventListener('abort', interrupt);
  }
  const { failures, elapsedMs } = tally;
  return { ...tally.counts(), elapsedMs, journal: journal.path, failures };
}

/**
 * Brings the index up to date. Whoever compares rows with what the service holds gets that from the same reading.
 * @throws as `IdentityIndex.prepare`
 */
async function readOthers(
  index: IdentityIndex | undefined,
  { rows, total, mode, onReading }: ImportOptions,
): Promise<EnrollmentSnapshot | undefined> {
  if (index === undefined) return undefined;
  const watcher = onReading === undefined ? {} : { onReading };
  if (mode !== 'create')
    return prepareWithSnapshot(index, { ids: () => idsOf(rows()), count: total, ...watcher });
  await index.prepare({ expected: total, ...watcher });
  return undefined;
}

async function* idsOf(rows: AsyncIterable<readonly ImportRow[]>): AsyncGenerator<string, void> {
  for await (const some of rows) for (const { enrollment } of some) yield enrollment.registrationId;
}

function interruption(): IotdmError {
  return new IotdmError('interrupted.signal', 'interrupted');
}

/** Who interrupts is not told of the requests that were cut for it. */
function interrupted(error: unknown): unknown {
  const isConsequence = error instanceof IotdmError && error.code === 'interrupted.signal';
  return isConsequence ? error : new IotdmError('interrupted.signal', 'interrupted', { cause: error });
}

function withCounts(error: unknown, tally: ImportTally, journal: ImportJournal): unknown {
  if (!(error instanceof IotdmError)) return error;
  const counts = tally.counts();
  const done = counts.skipped + tally.finished - counts.failed;
  const isMidway = error.code === 'interrupted.signal' || error.code === 'input.changed';
  const message = isMidway ? `${error.message}: ${done} of ${counts.total} rows are done` : error.message;
  return new IotdmError(error.code, message, {
    cause: error,
    details: { ...error.details, ...counts, ...(journal.path === null ? {} : { journal: journal.path }) },
  });
}
