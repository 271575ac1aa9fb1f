import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { slotToken, type SlotToken } from '../../src/slot/slots.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export interface SlotTokenOptions {
  readonly ttl: string;
}

/** IoT Hub's own tools default to an hour. */
const DEFAULT_TTL_S = 3600;
const MAX_TTL_S = 10 * 365 * 86400;

export const slotTokenVerb: Verb<[string], SlotTokenOptions, SlotToken> = {
  name: 'token',
  arguments: [slotArgument],
  summary: "issue a connection string with a token signed by the slot's key",
  description:
    'Issues a connection string that carries a shared access signature in place of the key, signed inside the TPM. ' +
    'Whoever has it can act as the device until it expires.',
  examples: ['iotdm slot token 0', 'iotdm slot token 0 --ttl 600 --json'],
  seeAlso: ['iotdm slot show', 'iotdm slot sign'],
  settings: ['tpm', 'timeout'],
  options: [new Option('--ttl <seconds>', 'how long the token is good for').default(String(DEFAULT_TTL_S))],
  async run(context, [slot], { ttl }) {
    const number = parseSlotNumber(slot);
    const seconds = parseTtl(ttl);
    const now = Math.floor(context.host.clock().getTime() / 1000);
    return slotToken(await context.openTpm(), number, now + seconds);
  },
  describe: ({ connectionString }) => `${connectionString}\n`,
};

function parseTtl(text: string): number {
  const seconds = Number(text);
  if (!/^[0-9]+$/.test(text) || seconds < 1 || seconds > MAX_TTL_S) {
    throw new IotdmError('usage.invalid', `"${text}" is not a time to live: expected seconds, such as 3600`);
  }
  return seconds;
}
