/** `provision --targets`: many devices from one station. */
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import type { HarvestTarget } from '../../src/station/harvest-targets.ts';
import type { LineSummary } from '../../src/station/provision/line.ts';
import type { Context } from '../shared/context.ts';
import { refuseRows } from '../shared/enrollment-options.ts';
import { targetsInput, warnOfCommands } from '../shared/harvest-batch.ts';
import { count, table } from '../shared/verb.ts';
import { openLine } from './parts.ts';
import type { ProvisionOptions, ProvisionPlan } from './plan.ts';
import { explained, resultOf, type ProvisionResult } from './show.ts';
import { banner } from './verdict.ts';

export interface RackDevice extends ProvisionResult {
  /** Of the row in the file. */
  readonly line: number;
  readonly error?: { readonly code: ErrorCode; readonly message: string; readonly hint: string };
}

export interface RackResult extends LineSummary {
  /** In the order of the file. */
  readonly devices: readonly RackDevice[];
}

/** Checks all rows, then provisions. @throws IotdmError `input.rows`, `partial.rows-failed` */
export async function provisionTargets(
  context: Context,
  plan: ProvisionPlan,
  options: ProvisionOptions,
  file: string,
): Promise<RackResult> {
  if (context.settings.flags.has('tpm')) {
    throw new IotdmError('usage.invalid', '--tpm and --targets exclude each other: the file names the TPMs');
  }
  const [{ readTargets }, { provisionRack }] = await Promise.all([
    import('../../src/station/harvest-targets.ts'),
    import('../../src/station/provision/line.ts'),
  ]);
  const check = await readTargets(targetsInput(context, file, options), plan.labels, options);
  if (check.faultCount > 0) throw refuseRows(context, check);
  const { targets } = check;
  await warnOfCommands(context, file, check);
  const line = await openLine(context, plan, options);
  const devices: RackDevice[] = [];
  const began = performance.now();
  const inOrder = (): RackDevice[] => devices.toSorted((a, b) => a.line - b.line);
  const summary = await provisionRack<HarvestTarget>({
    targets,
    concurrency: plan.concurrency,
    signal: context.host.signal,
    provision: ({ tcti, labels }) => line.provision({ tcti, label: `tpm of ${labels.serialNumber}`, labels }),
    onOutcome: ({ line: row, labels }, outcome, done) => {
      const failure = outcome.failure === undefined ? undefined : explained(outcome.failure, context);
      const { green, red } = context.console.errorStyle;
      const progress = `${done}/${targets.length} ${labels.serialNumber}`;
      if (failure === undefined) context.console.note(`${progress}: ${green('PASS')}`);
      else context.console.note(`${progress}: ${red('FAIL')}: ${failure.message}`);
      const error =
        failure === undefined
          ? {}
          : { error: { code: failure.code, message: failure.message, hint: failure.hint } };
      devices.push({ line: row, ...resultOf(outcome), ...error });
    },
  })
    .finally(() => line.close())
    .catch(async (error: unknown) => {
      // What is done is said, whatever ended it.
      if (context.settings.json && devices.length > 0) {
        const passed = devices.filter((device) => device.passed).length;
        const failed = devices.length - passed;
        const elapsedMs = Math.round(performance.now() - began);
        const result = { total: targets.length, passed, failed, elapsedMs, devices: inOrder() };
        await context.print(`${JSON.stringify(result, null, 2)}\n`);
      }
      throw error;
    });
  return orPartial(context, { ...summary, devices: inOrder() });
}

export function describeRack({ total, passed, failed, elapsedMs }: RackResult, context: Context): string {
  const { stdout } = context.host;
  const columns = stdout.isTTY === true ? (stdout.columns ?? 0) : undefined;
  return (
    banner(failed === 0, columns, context.console.style) +
    table([
      ['Devices', String(total)],
      ['Passed', String(passed)],
      ['Failed', String(failed)],
      ['Time', `${(elapsedMs / 1000).toFixed(1)} s`],
    ])
  );
}

async function orPartial(context: Context, result: RackResult): Promise<RackResult> {
  const { total, passed, failed, devices } = result;
  if (failed === 0) return result;
  if (context.settings.json) await context.print(`${JSON.stringify(result, null, 2)}\n`);
  else {
    await context.print(describeRack(result, context));
    for (const { line, serialNumber, error } of devices) {
      if (error === undefined) continue;
      context.host.stderr.write(`line ${line}: ${serialNumber ?? '-'}: ${error.message}; ${error.hint}\n`);
    }
  }
  throw new IotdmError('partial.rows-failed', `${failed} of ${count(total, 'device')} failed`, {
    details: { total, passed, failed },
  });
}
