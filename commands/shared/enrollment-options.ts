/** What the commands that read files of enrollments share. */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import {
  checkEnrollmentInput,
  describeFault,
  fileInput,
  type CheckOptions,
  type ColumnNotice,
  type InputCheck,
  type InputFormat,
  type InputSource,
  type SeenCell,
} from '../../src/station/enrollment-input.ts';
import { shownText } from '../../src/station/enrollment-columns.ts';
import { onlyIds } from '../../src/station/deletion-rows.ts';
import type { Context } from './context.ts';
import { BundleOpener } from './bundle-input.ts';
import { encodingOf, type CsvFileOptions } from './csv-options.ts';
import { CommandError } from './failure.ts';
import { defaultFaultReport, FaultReport } from './fault-report.ts';
import { rowWitness, warnOfUnverified, type RowVerificationOptions } from './row-verification.ts';
import { count } from './verb.ts';

export interface InputFileOptions extends CsvFileOptions, RowVerificationOptions {
  readonly ignoreUnknownColumns?: boolean;
  readonly textColumns?: readonly string[];
  readonly deletion?: 'compared' | 'ids-only';
  readonly faults?: string;
  readonly verifyKey?: string;
}

const SHOWN_NAMES = 20;
/** More than these are not shown, and go into a file. */
const SHOWN_FAULTS = 100;

export const inputFormats = ['csv', 'ndjson', 'json'] as const satisfies readonly InputFormat[];

export function ignoreUnknownColumnsOption(): Option {
  return new Option('--ignore-unknown-columns', 'leave out columns that mean nothing to iotdm');
}

export function faultsOption(): Option {
  return new Option(
    '--faults <file>',
    'CSV report of everything that is wrong with the rows (default: beside the input, where there is more than can be shown)',
  );
}

export function verifyKeyOption(): Option {
  return new Option('--verify-key <pem>', "the station's public key: take bundles only that it has signed");
}

/**
 * Runs a task on files of enrollments after every row in them was checked. Standard input is kept in a file (0600)
 * meanwhile, as it is read twice: once to check, once to work.
 * @throws IotdmError `verify.*` for a bundle, `input.rows` with all faults in its details, or `verify.rows` where all of
 * them are certificates that are not verified; the task has not begun then
 */
export async function withCheckedInput<T>(
  context: Context,
  files: readonly string[],
  format: InputFormat | undefined,
  options: InputFileOptions,
  task: (sources: readonly InputSource[], check: InputCheck) => Promise<T>,
): Promise<T> {
  const encoding = encodingOf(options);
  const certificates = await rowWitness(context, options);
  const sources: InputSource[] = [];
  let spool: string | undefined;
  try {
    const bundles = new BundleOpener(context, options.verifyKey);
    for (const file of files) {
      const bundle = await bundles.open(file);
      if (bundle !== undefined) {
        sources.push(...bundle);
      } else if (file === '-') {
        spool ??= await spoolStdin(context);
        const kept = fileInput(spool, format, encoding);
        sources.push({ ...kept, name: '<stdin>' });
      } else {
        sources.push(fileInput(file, format, encoding));
      }
    }
    const { check, report } = await checkAndReport(context, sources, files, {
      ...options,
      ...(certificates === undefined ? {} : { certificates }),
    });
    if (check.faultCount > 0) throw refuseRows(context, check, report, deletionHint(options, check));
    tellWhatWasChanged(context, check);
    return await task(sources, check);
  } finally {
    if (spool !== undefined) await rm(join(spool, '..'), { recursive: true, force: true });
  }
}

/** Once for all rows: what of the input does not reach the service as it stands there. */
function tellWhatWasChanged(context: Context, { lowerCased, ignored }: InputCheck): void {
  if (ignored.size > 0) {
    const names = [...ignored].map(([name, rows]) => (rows === 1 ? name : `${name} (${rows} times)`));
    const shown = names.slice(0, SHOWN_NAMES).join(', ');
    const rest = names.length > SHOWN_NAMES ? ' and more' : '';
    context.console.warn(`left out, as they mean nothing to iotdm: ${shown}${rest}`);
  }
  if (lowerCased === undefined) return;
  const { count: rows, first, place } = lowerCased;
  const others = rows === 1 ? '' : `, and ${count(rows - 1, 'other')}`;
  context.console.note(
    `the registration id ${first} (${place})${others}: written in lower case; the device id, where it is that too, is not`,
  );
}

/** Checks all rows, and writes the report of their faults where one is wanted. */
async function checkAndReport(
  context: Context,
  sources: readonly InputSource[],
  files: readonly string[],
  options: InputFileOptions & CheckOptions,
): Promise<{ check: InputCheck; report: string | undefined }> {
  const { faults: wanted } = options;
  const report = new FaultReport(
    wanted ?? defaultFaultReport(files[0]),
    wanted === undefined ? SHOWN_FAULTS : 0,
  );
  const progress = await context.console.progress('Checking all rows');
  const state = { isWritable: true };
  const attempt = async (step: () => Promise<void>): Promise<void> => {
    try {
      if (state.isWritable) await step();
    } catch (error) {
      // What is wrong with the rows matters more than a report that nobody has asked for.
      if (wanted !== undefined || !(error instanceof IotdmError)) throw error;
      state.isWritable = false;
      context.console.warn(error.message);
    }
  };
  try {
    const check = await checkEnrollmentInput(sources, options, (fault) => attempt(() => report.add(fault)));
    for (const notice of check.notices) context.console.warn(describeNotice(notice));
    warnOfUnverified(context, check);
    const isNeeded = wanted !== undefined || check.faultCount > SHOWN_FAULTS;
    if (isNeeded) await attempt(() => report.finish());
    return { check, report: isNeeded && state.isWritable ? report.path : undefined };
  } finally {
    progress.done();
    await report.discard();
  }
}

function describeNotice(notice: ColumnNotice): string {
  const { column } = notice;
  switch (notice.kind) {
    case 'mixed': {
      const { number, text } = notice;
      const seen = `${shownCell(number)} a number, ${shownCell(text)} a text`;
      return `cells of ${column} become numbers and texts (${seen}): --text-columns ${column} makes all of them texts`;
    }
    case 'shortened':
      return `${column} holds ${shownCell(notice.seen)}, which a spreadsheet has shortened if it was a long number`;
    case 'absent':
      return `--text-columns names ${column}, and no file has such a column`;
  }
}

function shownCell({ cell, file, line }: SeenCell): string {
  return `${shownText(cell)} in ${file}:${line}`;
}

/**
 * Prints the faults and returns the error that ends the command.
 * @param report the file that holds all of them, where there is one
 * @param hint where another one than usual helps
 */
export function refuseRows(
  context: Context,
  {
    faults,
    faultCount,
    rows,
    verification,
  }: Pick<InputCheck, 'faults' | 'faultCount' | 'rows' | 'verification'>,
  report?: string,
  hint?: string,
): IotdmError {
  // A single fault stands in the error line itself.
  if (!context.settings.json && faultCount > 1) {
    for (const fault of faults) context.host.stderr.write(`${describeFault(fault)}\n`);
    if (faultCount > faults.length) context.host.stderr.write(`… and ${faultCount - faults.length} more\n`);
  }
  const [first] = faults;
  const place = report === undefined ? '' : `, all of them in ${report}`;
  const message =
    faultCount === 1 && first !== undefined
      ? `one fault in ${count(rows, 'row')}: ${describeFault(first)}`
      : `${faultCount} faults in ${count(rows, 'row')}${place}`;
  const details = { rows, faultCount, faults, ...(report === undefined ? {} : { report }) };
  // The rows may be as they were delivered: what they hold is not to be trusted.
  const isUnverified = verification?.policy === 'require' && verification.notVerified === faultCount;
  if (isUnverified) return new IotdmError('verify.rows', message, { details });
  return hint === undefined
    ? new IotdmError('input.rows', message, { details })
    : new CommandError('input.rows', message, hint, details);
}

/** Rows to be deleted that say too little to be compared, or more than is compared. */
function deletionHint({ deletion }: InputFileOptions, { faults }: InputCheck): string | undefined {
  if (deletion === 'ids-only') {
    if (!faults.some(({ message }) => message.startsWith(onlyIds))) return undefined;
    return 'leave out --ids-only to have the rows compared, or pass --ignore-unknown-columns to delete by id all the same';
  }
  const isKeyMissing = faults.some(
    ({ field, message }) => field === 'endorsementKey' && message.includes('missing'),
  );
  if (deletion === undefined || !isKeyMissing) return undefined;
  return 'the endorsement key is compared before anything is deleted: name it, or pass --ids-only to delete by registration id alone';
}

async function spoolStdin(context: Context): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'iotdm-stdin-'));
  const path = join(folder, 'input');
  context.console.detail('reading standard input');
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      for await (const piece of context.openInput('-', 'the enrollments')) await file.write(piece);
    } finally {
      await file.close();
    }
    return path;
  } catch (error) {
    // Interrupted, or out of space: half a copy is of no use to anybody.
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}
