import { Option } from 'commander';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import type { SlotCheck } from '../../src/station/slot-verify.ts';
import { hubAddress } from '../shared/hub.ts';
import { readDeviceCredentials } from '../shared/device-credentials.ts';
import type { Context } from '../shared/context.ts';
import { CommandError, toFailure } from '../shared/failure.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import { secretFlag, type Verb } from '../shared/verb.ts';

export interface SlotVerifyOptions {
  readonly connectionStringFile?: string;
  readonly hub?: boolean;
  readonly hubHost?: string;
}

export interface SlotVerifyResult {
  readonly slot: number;
  readonly ok: boolean;
  readonly uri: string | null;
  readonly keyName: string | null;
  readonly checks: readonly (Omit<SlotCheck, 'error'> & { readonly hint?: string })[];
}

export const slotVerify: Verb<[string], SlotVerifyOptions, SlotVerifyResult> = {
  name: 'verify',
  arguments: [slotArgument],
  summary: 'prove what a slot holds, in the TPM and at the hub',
  description:
    'Proves that key and URI of a slot stand, that nothing was interrupted and that the key signs. With the connection ' +
    'string it proves that the slot holds just that identity. --hub issues a token and looks for a message to the device ' +
    'at the IoT Hub in the URI: what is found is given back. Changes nothing in the TPM. Ends with the exit code of the ' +
    'first check that fails; the result is printed all the same.',
  examples: [
    'iotdm slot verify 3',
    'iotdm slot verify 3 --connection-string-file device.txt',
    'iotdm slot verify 0 --hub',
    'iotdm slot verify 0 --hub --hub-host 127.0.0.1:8443 --ca ca.pem',
  ],
  seeAlso: ['iotdm slot show', 'iotdm slot repair', 'iotdm slot token'],
  settings: ['tpm', 'timeout', 'state', 'tls'],
  options: [
    new Option(
      '--connection-string-file <file>',
      'what the slot should hold (- reads stdin) [IOTDM_CONNECTION_STRING]',
    ),
    new Option('--hub', 'ask the IoT Hub whether it takes the token'),
    new Option(
      '--hub-host <host>',
      'where that hub is, if not where the URI says: a host, or host:port',
    ).implies({
      hub: true,
    }),
    secretFlag('--connection-string <value>', '--connection-string-file FILE or IOTDM_CONNECTION_STRING'),
  ],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const hub = options.hub === true ? await hubAddress(context, options.hubHost) : undefined;
    const credentials = await readDeviceCredentials(context, options.connectionStringFile);
    const { verifySlot } = await import('../../src/station/slot-verify.ts');
    try {
      const report = await verifySlot(await context.openSlots(), number, {
        now: Math.floor(context.host.clock().getTime() / 1000),
        ...(credentials === undefined ? {} : { credentials }),
        ...(hub === undefined ? {} : { hub }),
      });
      const { uri, keyName } = report.view;
      const result = { slot: number, ok: report.ok, uri, keyName, checks: report.checks.map(show) };
      const first = report.checks.find(({ status }) => status === 'fail');
      if (first?.error === undefined) return result;
      await context.print(
        context.settings.json ? `${JSON.stringify(result, null, 2)}\n` : describe(result, context),
      );
      const { error } = first;
      throw new CommandError(error.code, `${first.id}: ${error.message}`, hintOf(first) ?? '', {
        ...error.details,
        check: first.id,
      });
    } finally {
      credentials?.key.wipe();
    }
  },
  describe,
};

function show(check: SlotCheck): SlotVerifyResult['checks'][number] {
  const { id, status, message } = check;
  const hint = hintOf(check);
  return { id, status, message, ...(hint === undefined ? {} : { hint }) };
}

function hintOf({ error }: SlotCheck): string | undefined {
  return error === undefined ? undefined : toFailure(error, 'iotdm slot verify').hint;
}

function describe({ slot, ok, checks }: SlotVerifyResult, { console: { style } }: Context): string {
  const marks = { pass: style.green('✔'), fail: style.red('✖'), skip: style.dim('-') };
  const width = Math.max(...checks.map(({ id }) => id.length));
  const lines = checks.flatMap(({ id, status, message, hint }) => [
    `${marks[status]} ${id.padEnd(width)}  ${message}\n`,
    ...(hint === undefined ? [] : [`  ${' '.repeat(width)}  ${style.cyan('→')} ${hint}\n`]),
  ]);
  const verdict = ok
    ? `${style.green('✔')} Slot ${slot} is proved.`
    : `${style.red('✖')} Slot ${slot} is not proved.`;
  return `${lines.join('')}\n${verdict}\n`;
}
