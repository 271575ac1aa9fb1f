/** What an import leaves behind for people: its journal, its report, and the rows that failed with the way out. */
import { constants } from 'node:fs';
import { access, mkdtemp, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { IotdmError, systemErrorCode, type ErrorCode } from '../../src/errors.ts';
import type { ImportIdentity, ImportJournal } from '../../src/records/import-journal.ts';
import type { ReportedRow } from '../../src/station/import-report.ts';
import type { ImportSummary } from '../../src/station/import.ts';
import type { Context } from './context.ts';
import { takenFix } from '../catalogue/own-codes.ts';
import { CommandError, toFailure } from './failure.ts';
import type { ImportOptions } from './import-options.ts';
import { writeOutputFile } from './output-file.ts';

/** A failure of a row, as far as its way out depends on it. */
export interface FailedRow {
  readonly registrationId: string;
  readonly code: ErrorCode;
  readonly message: string;
  readonly errorCode?: number;
  readonly other?: string;
}

/** The command that mends a failed row, or the setting. */
export function wayOut({ registrationId, code, message, errorCode, other }: FailedRow): string {
  if (other !== undefined) return takenFix(other);
  const look = `look at it with: iotdm enrollment show ${registrationId}`;
  if (code === 'service.changed-meanwhile') {
    return `${look}; --force goes by the row all the same`;
  }
  if (code === 'service.conflict' && errorCode === undefined) return look;
  if (code === 'service.not-found') return 'check the registration id, or import it with --mode upsert';
  // Others were answered: it is not the host that is wrong.
  if (code === 'service.unexpected-answer') {
    return 'import it again later; -vv shows what the service answers';
  }
  const details = { registrationId, ...(errorCode === undefined ? {} : { errorCode }) };
  return toFailure(new IotdmError(code, message, { details }), 'iotdm enrollment import').hint;
}

/** Where the journal is kept; undefined for nowhere. */
export function journalPath(files: readonly string[], { journal }: ImportOptions): string | undefined {
  if (journal === false) return undefined;
  if (journal !== undefined) return journal;
  const [first] = files;
  if (first === undefined || files.includes('-')) return undefined;
  // Beside a bundle, which is a directory, and not in it.
  return `${first.replace(/[/\\]+$/, '')}.journal`;
}

/**
 * Runs a task with the journal of an import. Where none is kept but a report is wanted, one is kept for as long as the
 * task takes: the report is made from it.
 * @throws IotdmError as ImportJournal.open
 */
export async function withJournal<T>(
  path: string | undefined,
  identity: ImportIdentity,
  { restart = false, report }: ImportOptions,
  task: (journal: ImportJournal) => Promise<T>,
): Promise<T> {
  const { ImportJournal } = await import('../../src/records/import-journal.ts');
  const dir =
    path === undefined && report !== undefined ? await mkdtemp(join(tmpdir(), 'iotdm-import-')) : undefined;
  try {
    const file = dir === undefined ? path : join(dir, 'journal');
    const journal =
      file === undefined
        ? ImportJournal.inMemory(identity.rows)
        : await ImportJournal.open(file, identity, { restart, isTemporary: dir !== undefined });
    try {
      return await task(journal);
    } finally {
      // All that is known is on disk by then: what goes wrong now must not hide what the import has ended with.
      await journal.close().catch(() => undefined);
    }
  } finally {
    if (dir !== undefined) await rm(dir, { recursive: true, force: true }).catch(() => undefined);
  }
}

/**
 * Makes sure, before anything is sent, that the report can be written, and that nothing but an earlier report is
 * overwritten.
 * @throws IotdmError `usage.output-exists`, `usage.output-unwritable`
 */
export async function checkReportPath(path: string): Promise<void> {
  const { reportHeader } = await import('../../src/station/import-report.ts');
  try {
    await access(dirname(resolve(path)), constants.W_OK);
    const found = await stat(path).catch((error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (found === undefined || (found.isFile() && found.size === 0)) return;
    if (found.isFile() && (await beginning(path, reportHeader.length)) === reportHeader) return;
  } catch (cause) {
    throw new IotdmError(
      'usage.output-unwritable',
      `the report ${path} cannot be written (${systemErrorCode(cause) ?? 'unknown reason'})`,
      { cause },
    );
  }
  throw new CommandError(
    'usage.output-exists',
    `${path} is there already and is no report of an import`,
    'choose another name for --report',
  );
}

async function beginning(path: string, length: number): Promise<string> {
  const file = await open(await realpath(path), 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/**
 * Writes the report, for its owner only, and puts it in the place of an earlier one when it is whole.
 * @throws IotdmError `usage.output-unwritable`
 */
export async function writeReport(
  path: string,
  rows: AsyncIterable<readonly ReportedRow[]>,
  journal: ImportJournal,
): Promise<void> {
  const { importReport } = await import('../../src/station/import-report.ts');
  await journal.flush();
  // Always the same name: what a killed run has left of it is replaced.
  const draft = `${path}.part`;
  await rm(draft, { force: true });
  await writeOutputFile(draft, inPieces(importReport(rows, journal, wayOut)));
  await rename(draft, path).catch((cause: unknown) => {
    throw new IotdmError(
      'usage.output-unwritable',
      `the report ${path} cannot be written (${systemErrorCode(cause) ?? 'unknown reason'})`,
      { cause },
    );
  });
}

const PIECE_CHARACTERS = 64 * 1024;

async function* inPieces(lines: AsyncIterable<string>): AsyncGenerator<string, void> {
  let piece = '';
  for await (const line of lines) {
    piece += line;
    if (piece.length < PIECE_CHARACTERS) continue;
    yield piece;
    piece = '';
  }
  if (piece !== '') yield piece;
}

/** A batch with failed rows ends in an error that carries the whole summary; for scripts it is on stdout as well. */
export async function orPartial<Summary extends ImportSummary>(
  context: Context,
  summary: Summary,
  listed: readonly (FailedRow & { readonly place: string })[],
  { report, mode }: ImportOptions,
): Promise<Summary> {
  if (summary.failed === 0) return summary;
  if (context.settings.json) {
    await context.print(`${JSON.stringify(summary, null, 2)}\n`);
  } else {
    const { stderr } = context.host;
    for (const failure of listed) {
      stderr.write(
        `${failure.place}: ${failure.registrationId}: ${failure.message}\n  → ${wayOut(failure)}\n`,
      );
    }
    const more = summary.failed - listed.length;
    const where = report ?? summary.journal;
    if (more > 0) stderr.write(`… and ${more} more${where === null ? '' : `, in ${where}`}\n`);
  }
  const { total, created, updated, unchanged, deleted, failed, skipped, journal } = summary;
  throw new IotdmError('partial.rows-failed', `${failed} of ${total} rows failed`, {
    details: {
      mode,
      total,
      created,
      updated,
      unchanged,
      deleted,
      failed,
      skipped,
      ...(journal === null ? {} : { journal }),
    },
  });
}
