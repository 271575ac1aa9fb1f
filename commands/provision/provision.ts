import { IotdmError } from '../../src/errors.ts';
import { readLines, serialNumberOf } from '../../src/station/provision/barcode.ts';
import type { DeviceProvisioned } from '../../src/station/provision/device.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import type { Context } from '../shared/context.ts';
import { indexNotes } from '../shared/identity-index.ts';
import type { Verb } from '../shared/verb.ts';
import { provisionLoop, type LoopResult } from './loop.ts';
import { asError, openLine } from './parts.ts';
import { provisionOptions, provisionPlan, type ProvisionOptions } from './plan.ts';
import { describeRack, provisionTargets, type RackResult } from './rack.ts';
import { hinted, outcomeText, resultOf, stepLine, type ProvisionResult } from './show.ts';

export const provisionVerb: Verb<[], ProvisionOptions, ProvisionResult | RackResult | LoopResult> = {
  name: 'provision',
  summary: 'the whole line: check, harvest, enroll, register, modules, prove, record',
  description:
    'Takes a device from a bare TPM to an identity that its IoT Hub accepts: checks the TPM, records it in the manifest, ' +
    'enrolls it, registers it and keeps the identity in a slot, provisions its modules, has the hub judge what the TPM ' +
    'signs, and records what came of it. Each step looks first and leaves alone what is right, so the same command again ' +
    'takes up where the last one stopped, and a device that is done passes at once. An enrollment with another ' +
    'endorsement key is never overwritten, and a slot that holds another identity only with --overwrite.\n\n' +
    'What is the same for every device stands in iotdm.config.json: dpsConnectionStringFile, idScope, manifest, station, ' +
    'operator, lot, verify, ekRoots, slot, modules, hubHost, skip, budget and the rest of the options by their long names.\n\n' +
    'With --loop it waits for the next barcode on stdin, opens the TPM anew for each, and ends with the input. With ' +
    '--targets it takes a CSV file with the columns tpm and serialNumber, as iotdm harvest does.',
  examples: [
    'iotdm provision --serial SN-0001 --manifest shift.ndjson --id-scope 0ne000A1B2C --module AppB=2',
    'iotdm provision --serial -                        the serial number from a barcode scanner',
    'iotdm provision --loop                            one device after the other',
    'iotdm provision --serial SN-0001 --skip enroll    enrolled offline: no service credentials on the line',
    'iotdm provision --targets rack.csv --concurrency 16 --budget 120',
  ],
  seeAlso: [
    'iotdm tpm check',
    'iotdm harvest',
    'iotdm device register',
    'iotdm module provision',
    'iotdm slot verify',
  ],
  notes: indexNotes,
  settings: ['tpm', 'service', 'index', 'device', 'timeout', 'change', 'dry-run'],
  options: provisionOptions(),
  async run(context, _args, options) {
    const plan = provisionPlan(context, options);
    if (options.targets !== undefined) return provisionTargets(context, plan, options, options.targets);
    if (options.loop === true) return provisionLoop(context, plan, options);
    const line = await openLine(context, plan, options);
    const serialNumber = await serialOf(context, options.serial);
    const progress = await context.console.progress('Provisioning');
    const { tpm } = context.settings;
    const outcome = await line
      .provision({
        tcti: tpm === undefined ? undefined : parseTcti(tpm),
        label: 'tpm',
        labels: { ...plan.labels, serialNumber, deviceId: plan.deviceId },
        progress,
        onEvent: (event) => {
          if (event.kind === 'begun') progress.update(`${event.step} …`);
          else if (!context.settings.json)
            progress.above(() => context.host.stdout.write(stepLine(event, context)));
        },
      })
      .finally(async () => {
        progress.done();
        await line.close();
      });
    return orFail(context, outcome);
  },
  describe(result, context) {
    if (result === undefined) return '';
    if ('devices' in result) return describeRack(result, context);
    return outcomeText(result, context);
  },
};

/** @throws IotdmError `input.barcode`, `usage.invalid` */
async function serialOf(context: Context, given: string | undefined): Promise<string | null> {
  if (given !== '-') {
    try {
      const serial = given === undefined ? null : serialNumberOf(given);
      if (serial !== undefined) return serial;
    } catch (error) {
      if (!(error instanceof IotdmError)) throw error;
    }
    throw new IotdmError('usage.invalid', '--serial takes 1 to 256 printable characters');
  }
  if (context.console.isInteractive) context.console.note('scan the serial number of the device');
  for await (const line of readLines(context.openInput('-', 'the barcode'))) {
    const serial = serialNumberOf(line);
    if (serial !== undefined) return serial;
  }
  throw new IotdmError('input.barcode', 'no barcode came: the input has ended');
}

/** A device that failed ends in an error; what was done until then is on stdout all the same. */
async function orFail(context: Context, outcome: DeviceProvisioned): Promise<ProvisionResult> {
  const result = resultOf(outcome);
  if (outcome.passed) return result;
  await context.print(
    context.settings.json ? `${JSON.stringify(result, null, 2)}\n` : outcomeText(outcome, context),
  );
  throw hinted(asError(outcome.failure));
}
