/** `harvest --targets`: many devices from one station. */
import { stat } from 'node:fs/promises';
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import type { HarvestOptions } from '../../src/station/harvest.ts';
import type {
  TargetDefaults,
  TargetOutcome,
  TargetsCheck,
  TargetsSummary,
} from '../../src/station/harvest-targets.ts';
import type { InputSource } from '../../src/station/enrollment-input.ts';
import type { Context } from './context.ts';
import { csvOptions, encodingOf, type CsvFileOptions } from './csv-options.ts';
import { refuseRows } from './enrollment-options.ts';
import { table } from './verb.ts';

export interface BatchOptions extends CsvFileOptions {
  readonly manifest: string;
  readonly targets: string;
  readonly concurrency: string;
}

export type BatchResult =
  | (TargetsSummary & { readonly manifest: string })
  | { readonly total: number; readonly manifest: string; readonly dryRun: true };

const MAX_CONCURRENCY = 64;

export function batchOptions(): Option[] {
  return [
    new Option('--targets <file>', 'CSV of many devices, one TPM a row (- reads stdin)').conflicts([
      'serial',
      'deviceId',
    ]),
    new Option('--concurrency <n>', 'with --targets: devices under way at once').default('8'),
    ...csvOptions('with --targets: '),
  ];
}

/** Checks all rows, then harvests. @throws IotdmError `input.rows`, `partial.rows-failed`, what `harvestTargets` throws */
export async function harvestBatch(
  context: Context,
  { manifest, targets: file, concurrency, ...csv }: BatchOptions,
  defaults: TargetDefaults,
  verification: Pick<HarvestOptions, 'judge'>,
): Promise<BatchResult> {
  if (context.settings.flags.has('tpm')) {
    throw new IotdmError('usage.invalid', '--tpm and --targets exclude each other: the file names the TPMs');
  }
  const limit = parseConcurrency(concurrency);
  const { harvestTargets, readTargets } = await import('../../src/station/harvest-targets.ts');
  const check = await readTargets(targetsInput(context, file, csv), defaults, csv);
  if (check.faultCount > 0) throw refuseRows(context, check);
  const { targets } = check;
  await warnOfCommands(context, file, check);
  if (context.settings.dryRun) return { total: targets.length, manifest, dryRun: true };
  const summary = await harvestTargets({
    targets,
    manifest,
    reading: { tool: context.host.tool, ...verification },
    concurrency: limit,
    openTpm: ({ tcti, labels }) => context.connectTpm(tcti, `tpm of ${labels.serialNumber}`),
    clock: context.host.clock,
    signal: context.host.signal,
    onOutcome: (outcome) => {
      context.console.note(describeOutcome(context, outcome, targets.length));
    },
  });
  return orPartial(context, { ...summary, manifest });
}

/** The file of targets. @throws CommandError `usage.invalid` for its encoding */
export function targetsInput(context: Context, file: string, options: CsvFileOptions): InputSource {
  const encoding = encodingOf(options);
  return {
    name: file === '-' ? '<stdin>' : file,
    open: () => context.openInput(file),
    ...(encoding === undefined ? {} : { encoding }),
  };
}

export function describeBatch(result: BatchResult, { console: { style } }: Context): string {
  if ('dryRun' in result) return `${result.total} targets are in order; no TPM was touched.\n`;
  const { total, recorded, repeated, manifest, elapsedMs } = result;
  return (
    `${style.green('✔')} ${total} devices harvested.\n` +
    table([
      ['Recorded', String(recorded)],
      ['Earlier', `${repeated} (recorded before; nothing to do)`],
      ['Manifest', manifest],
      ['Time', `${(elapsedMs / 1000).toFixed(1)} s`],
    ])
  );
}

function describeOutcome(context: Context, { target, result, done }: TargetOutcome, total: number): string {
  const { red, yellow } = context.console.errorStyle;
  const device = `${done}/${total} ${target.labels.serialNumber}`;
  if ('code' in result) return `${device}: ${red('failed')}: ${result.message}`;
  if (result.repeated) return `${device}: ${yellow('recorded earlier')}, line ${result.line}`;
  if (result.repaired)
    return `${device}: recorded, line ${result.line}; a line that was cut short has been mended`;
  return `${device}: recorded, line ${result.line}`;
}

/** A batch with failures ends in an error that carries the numbers; for scripts the result is on stdout as well. */
async function orPartial(
  context: Context,
  result: TargetsSummary & { readonly manifest: string },
): Promise<BatchResult> {
  const { total, recorded, repeated, failed, failures } = result;
  if (failed === 0) return result;
  if (context.settings.json) {
    await context.print(`${JSON.stringify(result, null, 2)}\n`);
  } else {
    for (const { line, serialNumber, message } of failures) {
      context.host.stderr.write(`line ${line}: ${serialNumber}: ${message}\n`);
    }
  }
  throw new IotdmError(
    'partial.rows-failed',
    `${failed} of ${total} devices failed; ${recorded} recorded, ${repeated} recorded earlier`,
    { details: { total, recorded, repeated, failed } },
  );
}

/** Whoever may write the file decides what runs here. */
export async function warnOfCommands(
  context: Context,
  file: string,
  { targets }: TargetsCheck,
): Promise<void> {
  if (file === '-' || process.platform === 'win32') return;
  if (!targets.some(({ tcti }) => tcti.kind === 'command')) return;
  const { mode } = await stat(file);
  if ((mode & 0o022) !== 0) {
    context.console.warn(
      `other users can write ${file}, and its cmd: targets run commands: chmod go-w ${file}`,
    );
  }
}

function parseConcurrency(text: string): number {
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || number < 1 || number > MAX_CONCURRENCY) {
    throw new IotdmError('usage.invalid', `--concurrency takes a number from 1 to ${MAX_CONCURRENCY}`);
  }
  return number;
}
