/** Limpet's commands on one slot. */
import type { IotdmError } from '../../src/errors.ts';
import {
  clearSlot,
  clearSlotKey,
  clearSlotUri,
  encodedName,
  readSlotUri,
  slotDeviceId,
  slotNames,
  slotSign,
  slotToken,
  writeSlot,
  writeSlotKey,
  writeSlotUri,
} from '../../src/slot/slots.ts';
import type { Context } from '../shared/context.ts';
import { parseDeviceCredentials } from '../shared/device-credentials.ts';
import { CommandError } from '../shared/failure.ts';
import { parseKey } from '../slot/key/write.ts';
import type { SlotHandler } from './output.ts';
import type { SlotSwitchName } from './switches.ts';
import { element, type XmlElement } from './xml.ts';

const DEFAULT_VALIDITY_S = 3600;

export const slotHandlers: Readonly<Record<SlotSwitchName, SlotHandler>> = {
  async RID(context, slot) {
    const { deviceId } = await slotDeviceId(await context.openTpm(), slot);
    return element('DevId', deviceId);
  },

  async SUR(context, slot, [uri = '']) {
    const { storageName } = await writeSlotUri(await context.openSlotsToChange(), slot, uri);
    return named('StorageName', storageName);
  },

  async RUR(context, slot) {
    const { tpm, recovery } = await context.openSlots();
    const { uri } = await readSlotUri(tpm, slot, recovery);
    return element('ServiceURI', uri);
  },

  async DUR(context, slot) {
    const { storageName } = await clearSlotUri(await context.openSlotsToChange(), slot);
    if (storageName === null) throw nothingThere(slot, 'has no URI');
    return named('StorageName', storageName);
  },

  async PCS(context, slot, [connectionString = '']) {
    warnOfArgument(context, 'a connection string', `iotdm slot write ${slot} --connection-string-file FILE`);
    const credentials = parseDeviceCredentials(connectionString);
    try {
      const slots = await context.openSlotsToChange();
      const { keyName } = await writeSlot(slots, slot, credentials);
      const { storageName } = await slotNames(slots.tpm, slot);
      return element('Provisioned', [named('StorageName', storageName), named('KeyName', keyName)]);
    } finally {
      credentials.key.wipe();
    }
  },

  async CHK(context, slot, [text = '']) {
    warnOfArgument(context, 'a key', `iotdm slot key write ${slot} --key-file FILE`);
    const key = parseKey(text);
    try {
      const { keyName } = await writeSlotKey(await context.openSlotsToChange(), slot, key);
      return named('KeyName', keyName);
    } finally {
      key.wipe();
    }
  },

  async EHK(context, slot) {
    const { keyName } = await clearSlotKey(await context.openSlotsToChange(), slot);
    if (keyName === null) throw nothingThere(slot, 'has no key');
    return named('KeyName', keyName);
  },

  async SHK(context, slot, [file = '']) {
    const data = context.openInput(file, 'what is to be signed');
    const { tpm, recovery } = await context.openSlots();
    const hmac = await slotSign(tpm, slot, data, recovery);
    return element('Sha256Hmac', hmac.toString('base64'));
  },

  async AST(context, slot, [seconds]) {
    const now = Math.floor(context.host.clock().getTime() / 1000);
    const expiry = now + validity(seconds);
    const { tpm, recovery } = await context.openSlots();
    const { connectionString } = await slotToken(tpm, slot, expiry, recovery, 'limpet');
    return `${connectionString}\n`;
  },

  async DLD(context, slot) {
    const slots = await context.openSlotsToChange();
    const { storageName, keyName } = await slotNames(slots.tpm, slot);
    const { state } = await clearSlot(slots, slot);
    if (state === 'empty') throw nothingThere(slot, 'is empty');
    return element('Destroyed', [
      ...(storageName === null ? [] : [named('StorageName', storageName)]),
      ...(keyName === null ? [] : [named('HmacKeyName', keyName)]),
    ]);
  },
};

/** Where Limpet has nothing to destroy, it fails. */
function nothingThere(slot: number, problem: string): IotdmError {
  return new CommandError(
    'tpm.slot-empty',
    `slot ${slot} ${problem}: nothing was destroyed`,
    `what the slot holds is shown by: iotdm slot show ${slot}`,
  );
}

/**
 * Seconds. Limpet knows no upper limit, and scripts may rely on that.
 * @throws CommandError `usage.invalid`, which does not repeat what was typed
 */
function validity(seconds: string | undefined): number {
  if (seconds === undefined) return DEFAULT_VALIDITY_S;
  if (/^[1-9]\d{0,9}$/.test(seconds)) return Number(seconds);
  throw new CommandError(
    'usage.invalid',
    'the validity behind -AST is no number of seconds',
    'give seconds, such as 0 -AST 3600, or nothing for an hour',
  );
}

/** @param tpmName nameAlg and digest, as bytes or in hex */
function named(name: string, tpmName: Buffer | string | null): XmlElement {
  if (tpmName === null) return element(name, '');
  return element(name, encodedName(typeof tpmName === 'string' ? Buffer.from(tpmName, 'hex') : tpmName));
}

/** Limpet takes secrets from the command line, and so a script written for it must be able to give them there. */
function warnOfArgument(context: Context, what: string, instead: string): void {
  context.console.warn(
    `${what} on the command line can be read by every user of this machine: use ${instead} (- reads stdin)`,
  );
}
