/** The options of an import as they are typed, and as numbers. */
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { importModes, type BulkCost, type ImportMode } from '../../src/station/import.ts';
import { csvOptions, textColumnsOption } from './csv-options.ts';
import { secondsOf } from './duration.ts';
import {
  faultsOption,
  ignoreUnknownColumnsOption,
  inputFormats,
  verifyKeyOption,
  type InputFileOptions,
} from './enrollment-options.ts';
import { rowVerificationOptions } from './row-verification.ts';
import type { InputFormat, InputOptions } from '../../src/station/enrollment-input.ts';

export interface ImportOptions extends InputFileOptions {
  readonly mode: ImportMode;
  readonly concurrency?: string;
  readonly format?: InputFormat;
  readonly rate: string;
  readonly bulkCost: BulkCost;
  readonly giveUpAfter: string;
  /** False with `--no-journal`. */
  readonly journal?: string | false;
  readonly restart?: boolean;
  readonly report?: string;
  readonly force?: boolean;
  readonly idsOnly?: boolean;
}

const MAX_CONCURRENCY = 64;
/** Paced, a few are enough for any distance to the service. Else there is always one more that it could be doing. */
const CONCURRENCY = { paced: 8, unlimited: 64 };
const MAX_RATE = 10_000_000;
const MAX_WAIT_S = 7 * 86_400;

export const importOptions: readonly Option[] = [
  new Option('--mode <mode>', 'what to do with each row').choices([...importModes]).default('upsert'),
  new Option('--format <format>', 'of the files, where their names do not tell').choices(inputFormats),
  new Option(
    '--rate <n>',
    'operations a minute at most (100/s: a second); 0 or unlimited for no limit',
  ).default('1000'),
  new Option('--bulk-cost <unit>', 'what a bulk request counts as')
    .choices(['request', 'enrollment'] satisfies BulkCost[])
    .default('enrollment'),
  new Option(
    '--concurrency <n>',
    `requests under way at once (default: ${CONCURRENCY.paced}; ${CONCURRENCY.unlimited} with --rate unlimited)`,
  ),
  new Option(
    '--give-up-after <time>',
    'end when nothing has got through for so long: seconds, or such as 10m or 2h',
  ).default('10m'),
  new Option(
    '--journal <file>',
    'where to keep what has become of each row (default: the input with .journal added; none for stdin)',
  ),
  new Option('--no-journal', 'keep none: an import that is broken off begins at the beginning'),
  new Option('--restart', 'forget what the journal holds and begin at the beginning'),
  new Option('--report <file>', 'write a CSV with every row and what has become of it'),
  new Option(
    '--force',
    "also write over or delete what somebody else changed meanwhile, and other versions than a row's etag; never what " +
      'holds another endorsement key or is of another kind',
  ),
  new Option(
    '--ids-only',
    'with --mode delete: the files hold registration ids and nothing else; whatever is enrolled under them is deleted',
  ),
  ignoreUnknownColumnsOption(),
  ...csvOptions(),
  textColumnsOption(),
  faultsOption(),
  verifyKeyOption(),
  ...rowVerificationOptions(),
];

export interface ImportLimits {
  readonly concurrency: number;
  /** Operations; Infinity for no limit. */
  readonly ratePerMinute: number;
  readonly giveUpAfterMs: number;
}

/**
 * How the rows are read, by what is to be done with them.
 * @throws IotdmError `usage.invalid`
 */
export function inputOptions<Options extends Pick<ImportOptions, 'mode' | 'idsOnly'>>(
  options: Options,
): Options & InputOptions {
  const { mode, idsOnly = false } = options;
  if (mode === 'delete') return { ...options, deletion: idsOnly ? 'ids-only' : 'compared' };
  if (!idsOnly) return options;
  throw new IotdmError(
    'usage.invalid',
    '--ids-only goes with --mode delete: a device is not enrolled by its id alone',
  );
}

/** @throws IotdmError `usage.invalid` */
export function importLimits(options: ImportOptions): ImportLimits {
  const ratePerMinute = parseRate(options.rate);
  const usual = Number.isFinite(ratePerMinute) ? CONCURRENCY.paced : CONCURRENCY.unlimited;
  return {
    concurrency: options.concurrency === undefined ? usual : parseConcurrency(options.concurrency),
    ratePerMinute,
    giveUpAfterMs: parseDuration(options.giveUpAfter) * 1000,
  };
}

function parseConcurrency(text: string): number {
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || number < 1 || number > MAX_CONCURRENCY) {
    throw new IotdmError('usage.invalid', `--concurrency takes a number from 1 to ${MAX_CONCURRENCY}`);
  }
  return number;
}

function parseRate(text: string): number {
  if (/^(?:0|unlimited)$/i.test(text)) return Infinity;
  const [, digits = '', unit = 'min'] = /^([0-9]{1,8})(?:\/(s|sec|second|min|minute))?$/.exec(text) ?? [];
  const perMinute = Number(digits) * (unit.startsWith('s') ? 60 : 1);
  if (digits === '' || perMinute < 1 || perMinute > MAX_RATE) {
    throw new IotdmError(
      'usage.invalid',
      '--rate takes operations a minute such as 1000, or a second such as 100/s, or unlimited',
    );
  }
  return perMinute;
}

function parseDuration(text: string): number {
  const seconds = secondsOf(text);
  if (seconds === undefined || seconds > MAX_WAIT_S) {
    throw new IotdmError(
      'usage.invalid',
      '--give-up-after takes seconds such as 300, or 10m or 2h, up to a week',
    );
  }
  return seconds;
}
