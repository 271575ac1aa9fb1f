import { Option } from 'commander';
import { plainConnectionString, plainKey } from '../../../src/connection-string.ts';
import { decodeBase64 } from '../../../src/encoding.ts';
import { parseSlotNumber } from '../../../src/slot/layout.ts';
import { Secret } from '../../../src/secret.ts';
import { checkKey, checkSlotKeyWritable, writeSlotKey } from '../../../src/slot/slots.ts';
import type { Context } from '../../shared/context.ts';
import { CommandError } from '../../shared/failure.ts';
import { secretVariables } from '../../shared/settings.ts';
import { noteSdkSlot, slotArgument } from '../../shared/slot-argument.ts';
import { secretFlag, table, type Verb } from '../../shared/verb.ts';

export interface SlotKeyWriteOptions {
  readonly keyFile?: string;
  readonly overwrite?: boolean;
  readonly force?: boolean;
}

export interface SlotKeyWriteResult {
  readonly slot: number;
  /** Null on a dry run, when no key was made. */
  readonly keyName: string | null;
  readonly replaced: boolean;
  readonly dryRun?: true;
}

export const slotKeyWrite: Verb<[string], SlotKeyWriteOptions, SlotKeyWriteResult> = {
  name: 'write',
  arguments: [slotArgument],
  summary: 'give a slot its key, and leave its URI',
  description:
    'Writes a key of 16 to 64 bytes, in base64, into a slot and leaves its URI, if it has one. Reports success only after ' +
    'the TPM has signed with the stored key what the given key yields. The slot is ready only with both: iotdm slot ' +
    'write writes them together.',
  examples: [
    'iotdm slot key write 3 --key-file key.txt',
    'fetch-key | iotdm slot key write 3 --key-file - --overwrite',
    'IOTDM_SLOT_KEY="$KEY" iotdm slot key write 3',
  ],
  seeAlso: ['iotdm slot uri write', 'iotdm slot write', 'iotdm slot sign'],
  settings: ['tpm', 'timeout', 'change', 'dry-run'],
  options: [
    new Option(
      '--key-file <file>',
      `file with the key in base64 (- reads stdin) [${secretVariables.slotKey}]`,
    ),
    new Option('--overwrite', 'replace the key that the slot has'),
    new Option('--force', "replace even what is not a slot's key"),
    secretFlag('--key <value>', `--key-file FILE or ${secretVariables.slotKey}`),
  ],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const key = await readKey(context, options);
    try {
      checkKey(key);
      const slots = await context.openSlotsToChange();
      if (context.settings.dryRun) {
        const { replaced } = await checkSlotKeyWritable(slots, number, key, options);
        return { slot: number, keyName: null, replaced, dryRun: true };
      }
      const written = await writeSlotKey(slots, number, key, options);
      noteSdkSlot(context, number);
      return written;
    } finally {
      key.wipe();
    }
  },
  describe({ slot, keyName, replaced, dryRun }, { console: { style } }) {
    if (dryRun === true)
      return `Would write a key into slot ${slot}${replaced ? ', replacing the one it has' : ''}.\n`;
    return (
      `${style.green('✔')} The key of slot ${slot} is written and proved: the TPM signs with it.\n` +
      table([
        ['Key name', keyName ?? '-'],
        ['Replaced', replaced ? 'yes' : 'no, the slot had no key'],
      ])
    );
  },
};

async function readKey(context: Context, { keyFile }: SlotKeyWriteOptions): Promise<Secret> {
  const secret = await context.readSecret(keyFile, secretVariables.slotKey, 'the key');
  const from = `--key-file FILE (- reads stdin) or ${secretVariables.slotKey}`;
  if (secret === undefined) throw new CommandError('usage.invalid', 'no key was given', `pass ${from}`);
  try {
    return parseKey(plainKey(plainConnectionString(secret.revealText())));
  } finally {
    secret.wipe();
  }
}

/** @throws CommandError `input.invalid` */
export function parseKey(base64: string): Secret {
  const bytes = decodeBase64(base64);
  if (bytes !== undefined) return Secret.fromBytes(bytes);
  throw new CommandError(
    'input.invalid',
    'the key is not base64',
    'expected the key alone, such as the part behind SharedAccessKey= in a connection string',
  );
}
