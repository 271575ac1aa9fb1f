/** `provision --loop`: one device after the other, as a scanner reads their barcodes. */
import { IotdmError } from '../../src/errors.ts';
import { readLines } from '../../src/station/provision/barcode.ts';
import type { LineSummary } from '../../src/station/provision/line.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import type { Context } from '../shared/context.ts';
import { count } from '../shared/verb.ts';
import { openLine } from './parts.ts';
import type { ProvisionOptions, ProvisionPlan } from './plan.ts';
import { explained, outcomeText, scannedResult, stepLine } from './show.ts';

/** Each device has been printed by then. */
export type LoopResult = undefined;

export async function provisionLoop(
  context: Context,
  plan: ProvisionPlan,
  options: ProvisionOptions,
): Promise<LoopResult> {
  if (options.serial !== undefined && options.serial !== '-') {
    throw new IotdmError('usage.invalid', '--loop reads serial numbers from stdin, and --serial names one');
  }
  const only = ['deviceId', 'registrationId'] as const;
  const single = only.find((name) => options[name] !== undefined);
  if (single !== undefined) {
    throw new IotdmError(
      'usage.invalid',
      `--loop and --${single === 'deviceId' ? 'device-id' : 'registration-id'} exclude each other: it is for many devices`,
    );
  }
  const { Acquaintances, provisionAsScanned } = await import('../../src/station/provision/line.ts');
  const known = new Acquaintances();
  const line = await openLine(context, plan, options, {
    recognize: (serial, id) => {
      known.recognize(serial, id);
    },
    remember: (serial, id) => {
      known.remember(serial, id);
    },
  });
  const { tpm, json } = context.settings;
  const tcti = tpm === undefined ? undefined : parseTcti(tpm);
  const summary = await provisionAsScanned({
    lines: readLines(context.openInput('-', 'the barcodes')),
    provision: async (serialNumber) => {
      if (!json) await context.print(`${serialNumber}\n`);
      return line.provision({
        tcti,
        label: 'tpm',
        labels: { ...plan.labels, serialNumber, deviceId: null },
        onEvent: (event) => {
          if (event.kind === 'ended' && !json) context.host.stdout.write(stepLine(event, context));
        },
      });
    },
    onOutcome: async (outcome) => {
      if (json) {
        await context.print(`${JSON.stringify(scannedResult(context, outcome, plan.slot))}\n`);
        return;
      }
      await context.print(outcomeText(outcome, context));
      if (outcome.failure !== undefined) {
        const { message, hint } = explained(outcome.failure, context);
        context.console.error(message, hint);
      }
      await context.print('\n');
    },
    onReady: () => {
      context.console.note('ready: put in the next device and scan its serial number');
    },
  }).finally(() => line.close());
  orPartial(context, summary);
}

function orPartial(context: Context, { total, passed, failed }: LineSummary): void {
  context.console.note(`${count(total, 'device')}: ${passed} passed, ${failed} failed`);
  if (failed === 0) return;
  throw new IotdmError('partial.rows-failed', `${failed} of ${count(total, 'device')} failed`, {
    details: { total, passed, failed },
  });
}
