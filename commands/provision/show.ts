/** How a provisioning is shown: one line a step as it ends, and then PASS or FAIL. */
import type { DeviceProvisioned } from '../../src/station/provision/device.ts';
import type { StepEvent, StepStatus } from '../../src/station/provision/steps.ts';
import type { DeviceOutcome } from '../../src/station/provision/line.ts';
import type { Check } from '../../src/station/tpm-check.ts';
import type { IotdmError } from '../../src/errors.ts';
import type { Context } from '../shared/context.ts';
import { CommandError, toFailure, type Failure } from '../shared/failure.ts';
import { table } from '../shared/verb.ts';
import { hintFor } from '../tpm/check.ts';
import { banner } from './verdict.ts';

/** What scripts rely on; `passed`, `serialNumber` and `modules` besides. */
export type ProvisionResult = Omit<DeviceProvisioned, 'failure'>;

export function resultOf(outcome: DeviceProvisioned): ProvisionResult {
  const { registrationId, deviceId, assignedHub, slot, ekVerified, steps } = outcome;
  const { serialNumber, modules, identityCompared, passed } = outcome;
  const shown = { registrationId, deviceId, assignedHub, slot, ekVerified, steps, serialNumber, modules };
  return { ...shown, identityCompared, passed };
}

/** The same for a barcode that named no device. */
export function scannedResult(context: Context, outcome: DeviceOutcome, slot: number): object {
  const { failure } = outcome;
  const error = failure === undefined ? {} : { error: shownError(explained(failure, context)) };
  if ('steps' in outcome) return { ...resultOf(outcome), ...error };
  const unknown = { registrationId: null, deviceId: null, assignedHub: null, slot, ekVerified: null };
  const nothing = { steps: [], serialNumber: outcome.serialNumber, modules: [], identityCompared: null };
  return { ...unknown, ...nothing, passed: false, ...error };
}

function shownError({ code, message, hint }: Failure): object {
  return { code, message, hint };
}

/** A failed check knows what mends it; for every other failure the catalogue does. */
export function explained(failure: IotdmError, context: Context): Failure {
  return toFailure(hinted(failure), context.command);
}

export function hinted(failure: IotdmError): IotdmError {
  const { check, finding } = failure.details ?? {};
  if (check === undefined || finding === undefined) return failure;
  const hint = hintFor({ id: check, finding } as Pick<Check, 'id' | 'finding'>);
  return hint === undefined
    ? failure
    : new CommandError(failure.code, failure.message, hint, failure.details);
}

const MARKS: Readonly<Record<StepStatus, string>> = {
  done: '✔',
  unchanged: '✔',
  planned: '·',
  skipped: '–',
  failed: '✘',
};

/** A line for a step that has ended; why it failed is said below. */
export function stepLine(
  event: StepEvent & { readonly kind: 'ended' },
  { console: { style } }: Context,
): string {
  const { step, status, elapsedMs, detail } = event;
  const paint = {
    done: style.green,
    unchanged: style.green,
    planned: style.cyan,
    skipped: style.dim,
    failed: style.red,
  };
  const time = status === 'skipped' ? '' : `${(elapsedMs / 1000).toFixed(2)} s`;
  const text = status === 'failed' ? style.red('failed') : detail;
  return `${paint[status](MARKS[status])} ${step.padEnd(8)} ${time.padStart(8)}  ${text}\n`;
}

export function outcomeText(outcome: DeviceOutcome, context: Context): string {
  const { stdout } = context.host;
  const { style } = context.console;
  const columns = stdout.isTTY === true ? (stdout.columns ?? 0) : undefined;
  const verdict = banner(outcome.passed, columns, style);
  if (!('steps' in outcome)) return verdict;
  const { registrationId, deviceId, assignedHub, slot, ekVerified, serialNumber, modules } = outcome;
  const { identityCompared } = outcome;
  const rows: [string, string][] = [];
  if (serialNumber !== null) rows.push(['Serial number', serialNumber]);
  rows.push(['Registration id', registrationId ?? '-']);
  rows.push(['Device id', deviceId ?? '-'], ['IoT Hub', assignedHub ?? '-'], ['Slot', String(slot)]);
  for (const { moduleId, slot: at } of modules) rows.push(['Module', `${moduleId} in slot ${at}`]);
  rows.push(['EK verified', ekVerified === null ? 'not asked for' : ekVerified ? 'yes, genuine' : 'no']);
  if (identityCompared === false) rows.push(['Compared', 'not with other enrollments (--no-index)']);
  return verdict + table(rows);
}
