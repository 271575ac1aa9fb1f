import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { slotToken, type SlotToken } from '../../src/slot/slots.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export interface SlotTokenOptions {
  readonly ttl?: string;
  readonly expiresAt?: string;
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
    'Whoever has it can act as the device until it expires: in an hour, unless --ttl or --expires-at says otherwise.',
  examples: [
    'iotdm slot token 0',
    'iotdm slot token 0 --ttl 600 --json',
    'iotdm slot token 0 --expires-at 2030-01-01T00:00:00Z',
  ],
  seeAlso: ['iotdm slot show', 'iotdm slot sign', 'iotdm slot verify'],
  settings: ['tpm', 'timeout', 'state'],
  options: [
    new Option('--ttl <seconds>', `how long the token is good for (default: ${DEFAULT_TTL_S})`),
    new Option(
      '--expires-at <time>',
      'until when it is good: ISO 8601 with a zone, or Unix seconds',
    ).conflicts('ttl'),
  ],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const expiry = expiryOf(options, context.host.clock());
    const { tpm, recovery } = await context.openSlots();
    return slotToken(tpm, number, expiry, recovery);
  },
  describe: ({ connectionString }) => `${connectionString}\n`,
};

/** Unix seconds. */
export function expiryOf({ ttl, expiresAt }: SlotTokenOptions, clock: Date): number {
  const now = Math.floor(clock.getTime() / 1000);
  if (expiresAt === undefined) return now + (ttl === undefined ? DEFAULT_TTL_S : parseTtl(ttl));
  const expiry = parseTime(expiresAt);
  if (expiry <= now) throw new IotdmError('usage.invalid', `"${expiresAt}" has passed already`);
  if (expiry - now > MAX_TTL_S) {
    throw new IotdmError('usage.invalid', `"${expiresAt}" is too far away: at most ten years`);
  }
  return expiry;
}

function parseTtl(text: string): number {
  const seconds = Number(text);
  if (!/^[0-9]+$/.test(text) || seconds < 1 || seconds > MAX_TTL_S) {
    throw new IotdmError('usage.invalid', `"${text}" is not a time to live: expected seconds, such as 3600`);
  }
  return seconds;
}

/** Without a zone nobody could tell which moment is meant. */
function parseTime(text: string): number {
  if (/^[0-9]{9,11}$/.test(text)) return Number(text);
  const isIso = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})$/i.test(text);
  const milliseconds = isIso ? Date.parse(text.toUpperCase()) : Number.NaN;
  if (Number.isNaN(milliseconds)) {
    throw new IotdmError(
      'usage.invalid',
      `"${text}" is not a moment: expected one such as 2030-01-01T00:00:00Z, or Unix seconds`,
    );
  }
  return Math.floor(milliseconds / 1000);
}
