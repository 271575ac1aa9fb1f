import { Option } from 'commander';
import { formatUri, type DeviceCredentials } from '../../src/slot/device-identity.ts';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { checkSlotWritable, writeSlot } from '../../src/slot/slots.ts';
import type { Context } from '../shared/context.ts';
import { readDeviceCredentials } from '../shared/device-credentials.ts';
import { CommandError } from '../shared/failure.ts';
import { noteSdkSlot, slotArgument } from '../shared/slot-argument.ts';
import { secretFlag, table, type Verb } from '../shared/verb.ts';

export interface SlotWriteOptions {
  readonly connectionStringFile?: string;
  readonly overwrite?: boolean;
  readonly force?: boolean;
}

export interface SlotWriteResult {
  readonly slot: number;
  readonly uri: string;
  /** Null on a dry run, when no key was made. */
  readonly keyName: string | null;
  readonly replaced: boolean;
  readonly dryRun?: true;
}

export const slotWrite: Verb<[string], SlotWriteOptions, SlotWriteResult> = {
  name: 'write',
  arguments: [slotArgument],
  summary: 'write a connection string into a slot',
  description:
    'Writes the identity in a connection string (HostName=…;DeviceId=…;SharedAccessKey=…) into a slot, and reports ' +
    'success only after the TPM has signed with the stored key what the given key yields. The key leaves for the TPM ' +
    'and stands nowhere else. A slot that is in use is left alone unless --overwrite is given.',
  examples: [
    'iotdm slot write 0 --connection-string-file device.txt',
    'fetch-identity | iotdm slot write 0 --connection-string-file -',
    'IOTDM_CONNECTION_STRING="$CS" iotdm slot write 3 --overwrite',
  ],
  seeAlso: ['iotdm slot show', 'iotdm slot verify', 'iotdm slot repair', 'iotdm slot clear'],
  settings: ['tpm', 'timeout', 'change', 'dry-run'],
  options: [
    new Option('--connection-string-file <file>', 'file with the connection string (- reads stdin)'),
    new Option('--overwrite', 'replace the identity that the slot holds'),
    new Option('--force', "replace even what is not a slot's key or URI"),
    secretFlag('--connection-string <value>', '--connection-string-file FILE or IOTDM_CONNECTION_STRING'),
  ],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const credentials = await readCredentials(context, options);
    const slots = await context.openSlotsToChange();
    try {
      if (context.settings.dryRun) {
        const before = await checkSlotWritable(slots, number, options);
        const uri = formatUri(credentials.identity);
        return { slot: number, uri, keyName: null, replaced: before.state !== 'empty', dryRun: true };
      }
      const written = await writeSlot(slots, number, credentials, options);
      noteSdkSlot(context, number);
      return written;
    } finally {
      credentials.key.wipe();
    }
  },
  describe({ slot, uri, keyName, replaced, dryRun }, { console: { style } }) {
    if (dryRun === true)
      return `Would write ${uri} into slot ${slot}${replaced ? ', replacing what it holds' : ''}.\n`;
    const done = `${style.green('✔')} Slot ${slot} is written and proved: the TPM signs with its key.\n`;
    return (
      done +
      table([
        ['URI', uri],
        ['Key name', keyName ?? '-'],
        ['Replaced', replaced ? 'yes' : 'no, the slot was empty'],
      ])
    );
  },
};

async function readCredentials(context: Context, options: SlotWriteOptions): Promise<DeviceCredentials> {
  const credentials = await readDeviceCredentials(context, options.connectionStringFile);
  if (credentials !== undefined) return credentials;
  throw new CommandError(
    'usage.invalid',
    'no connection string was given',
    'pass --connection-string-file FILE (- reads stdin) or set IOTDM_CONNECTION_STRING',
  );
}
