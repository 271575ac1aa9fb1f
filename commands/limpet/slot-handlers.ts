/** Limpet's commands on one slot. */
import { limpetName } from '../../src/slot/limpet-notation.ts';
import { slotNames } from '../../src/slot/names.ts';
import { clearSlot, slotSign, slotToken, writeSlot } from '../../src/slot/slots.ts';
import { IotdmError } from '../../src/errors.ts';
import type { Context } from '../shared/context.ts';
import { CommandError } from '../shared/failure.ts';
import { parseCredentials } from '../slot/write.ts';
import { DEFAULT_TTL_S, parseTtl } from '../slot/token.ts';
import type { LimpetOutput, SlotHandler } from './output.ts';
import type { SlotSwitchName } from './switches.ts';
import { element } from './xml.ts';

export const slotHandlers: Readonly<Record<SlotSwitchName, SlotHandler>> = {
  RID: later,
  SUR: later,
  RUR: later,
  DUR: later,
  CHK: later,
  EHK: later,

  async PCS(context, slot, [connectionString = '']) {
    warnOfArgument(context, 'a connection string', `iotdm slot write ${slot} --connection-string-file FILE`);
    const credentials = parseCredentials(connectionString);
    const tpm = await context.openTpm();
    try {
      await writeSlot(tpm, slot, credentials);
    } finally {
      credentials.key.wipe();
    }
    const { storageName, keyName } = await slotNames(tpm, slot);
    return element('Provisioned', [named('StorageName', storageName), named('KeyName', keyName)]);
  },

  async SHK(context, slot, [file = '']) {
    const data = context.openInput(file, 'what is to be signed');
    const hmac = await slotSign(await context.openTpm(), slot, data);
    return element('Sha256Hmac', hmac.toString('base64'));
  },

  async AST(context, slot, [seconds]) {
    const validity = parseValidity(seconds);
    const now = Math.floor(context.host.clock().getTime() / 1000);
    const { connectionString } = await slotToken(await context.openTpm(), slot, now + validity, 'limpet');
    return `${connectionString}\n`;
  },

  async DLD(context, slot) {
    const tpm = await context.openTpm();
    const { storageName, keyName } = await slotNames(tpm, slot);
    const { state } = await clearSlot(tpm, slot);
    if (state === 'empty') throw new IotdmError('tpm.slot-empty', `slot ${slot} is empty`);
    return element('Destroyed', [
      ...(storageName === null ? [] : [named('StorageName', storageName)]),
      ...(keyName === null ? [] : [named('HmacKeyName', keyName)]),
    ]);
  },
};

function later(): Promise<LimpetOutput> {
  throw new CommandError('usage.unsupported', 'not available yet', 'run: iotdm limpet --help');
}

/** @throws CommandError `usage.invalid`, which does not repeat what was typed */
function parseValidity(seconds: string | undefined): number {
  if (seconds === undefined) return DEFAULT_TTL_S;
  if (/^\d{1,10}$/.test(seconds)) return parseTtl(seconds);
  throw new CommandError(
    'usage.invalid',
    'the validity behind -AST is no number of seconds',
    'give seconds, such as 0 -AST 3600, or nothing for an hour',
  );
}

function named(name: string, tpmName: Buffer | null): ReturnType<typeof element> {
  return element(name, tpmName === null ? '' : limpetName(tpmName));
}

/** Limpet takes secrets from the command line, and so a script written for it must be able to give them there. */
function warnOfArgument(context: Context, what: string, instead: string): void {
  context.console.warn(
    `${what} on the command line can be read by every user of this machine: use ${instead} (- reads stdin)`,
  );
}
