/** The halves of a slot by themselves, as Limpet's commands write them: the URI and the key. */
import { decodeBase64 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { parseUri } from './device-identity.ts';
import { lookAt, notReady, refuseWhileInterrupted, standingKeys, type Leave, type Looked } from './guard.ts';
import { KEY_MAX_BYTES, KEY_MIN_BYTES, keyHandle, SRK_HANDLE, uriIndex, uriStorageName } from './layout.ts';
import { withParent } from './parent.ts';
import { readUriPart, type KeyPart, type UriPart } from './parts.ts';
import { nameOf } from './record.ts';
import type { RecoveryStore } from './recovery.ts';
import type { SlotAccess, SlotTpm } from './slot-tpm.ts';
import { carryOut } from './transaction.ts';
import { showSlot } from './view.ts';

export interface SlotUri {
  readonly slot: number;
  readonly uri: string;
  /** Name of the NV index, hex. */
  readonly storageName: string;
}

export interface SlotUriWritten extends SlotUri {
  readonly replaced: boolean;
}

export interface SlotUriCleared {
  readonly slot: number;
  /** What stood there. */
  readonly uri: string | null;
  readonly storageName: string | null;
  readonly cleared: boolean;
}

export interface SlotKeyWritten {
  readonly slot: number;
  readonly keyName: string;
  readonly replaced: boolean;
}

export interface SlotKeyCleared {
  readonly slot: number;
  /** What stood there. */
  readonly keyName: string | null;
  readonly cleared: boolean;
}

/**
 * The URI of a slot, whether it has a key or not. Two TPM commands.
 * @throws IotdmError `tpm.slot-empty`, `tpm.slot-incomplete`, `tpm.slot-foreign`
 */
export async function readSlotUri(tpm: SlotTpm, slot: number, recovery?: RecoveryStore): Promise<SlotUri> {
  const uri = await readUriPart(tpm, slot);
  if (uri.kind !== 'right') throw notReady(await showSlot(tpm, slot, recovery));
  return { slot, uri: uri.text, storageName: uri.name.toString('hex') };
}

/** What writing a URI would meet. @throws as `writeSlotUri` does before it changes anything */
export async function checkSlotUriWritable(
  access: SlotAccess,
  slot: number,
  text: string,
  leave: Leave = {},
): Promise<Looked & { readonly replaced: boolean }> {
  checkUri(text);
  const looked = await lookAt(access, slot);
  refuseWhileInterrupted(looked.view);
  refuseToReplace(slot, looked.parts.uri, leave);
  return { ...looked, replaced: looked.parts.uri.kind !== 'absent' };
}

/**
 * Gives a slot its URI, whether it has a key or not.
 * @param text `HOST/DEVICE` or `HOST/DEVICE/MODULE`
 * @throws IotdmError `input.invalid`, `tpm.slot-not-empty`, `tpm.slot-foreign`, `tpm.slot-incomplete`
 */
export async function writeSlotUri(
  access: SlotAccess,
  slot: number,
  text: string,
  leave: Leave = {},
): Promise<SlotUriWritten> {
  const looked = await checkSlotUriWritable(access, slot, text, leave);
  const { name: tpmName } = await access.tpm.readStorageRootKey();
  await carryOut(access, { kind: 'uri write', slot, tpmName, target: { uri: text }, looked });
  const storageName = uriStorageName(slot, Buffer.byteLength(text)).toString('hex');
  return { slot, uri: text, storageName, replaced: looked.replaced };
}

/** What removing the URI would meet. @throws as `clearSlotUri` does before it changes anything */
export async function checkSlotUriClearable(
  access: SlotAccess,
  slot: number,
  { force = false }: Pick<Leave, 'force'> = {},
): Promise<SlotUriCleared> {
  const { parts, view } = await lookAt(access, slot);
  refuseWhileInterrupted(view);
  refuseToReplace(slot, parts.uri, { overwrite: true, force });
  const storageName = parts.uri.kind === 'absent' ? null : parts.uri.name.toString('hex');
  return { slot, uri: view.uri, storageName, cleared: false };
}

/**
 * Removes the URI of a slot and leaves its key. One step, which is done or not.
 * @throws IotdmError `tpm.slot-foreign`, `tpm.slot-incomplete`
 */
export async function clearSlotUri(
  access: SlotAccess,
  slot: number,
  { force = false }: Pick<Leave, 'force'> = {},
): Promise<SlotUriCleared> {
  const found = await checkSlotUriClearable(access, slot, { force });
  if (found.storageName === null) return found;
  await access.tpm.nvUndefine(uriIndex(slot));
  return { ...found, cleared: true };
}

/** What writing a key would meet. @throws as `writeSlotKey` does before it changes anything */
export async function checkSlotKeyWritable(
  access: SlotAccess,
  slot: number,
  key: Secret,
  leave: Leave = {},
): Promise<Looked & { readonly replaced: boolean }> {
  checkKey(key);
  const looked = await lookAt(access, slot);
  refuseWhileInterrupted(looked.view);
  refuseToReplace(slot, looked.parts.key, leave);
  return { ...looked, replaced: looked.parts.key.kind !== 'absent' };
}

/**
 * Gives a slot its key, whether it has a URI or not, and proves it.
 * @param key 16 to 64 bytes
 * @throws IotdmError `input.invalid`, `tpm.slot-not-empty`, `tpm.slot-foreign`, `tpm.slot-incomplete`, `verify.slot`
 */
export async function writeSlotKey(
  access: SlotAccess,
  slot: number,
  key: Secret,
  leave: Leave = {},
): Promise<SlotKeyWritten> {
  const looked = await checkSlotKeyWritable(access, slot, key, leave);
  const standing = await standingKeys(access.tpm);
  const wrapped = await withParent(access, slot, looked, standing, async (tpmName) => {
    const made = await access.tpm.createHmacKey(SRK_HANDLE, key.bytes);
    await carryOut(access, { kind: 'key write', slot, tpmName, target: { key: made }, looked, secret: key });
    return made;
  });
  return { slot, keyName: nameOf(wrapped).toString('hex'), replaced: looked.replaced };
}

/** What removing the key would meet. @throws as `clearSlotKey` does before it changes anything */
export async function checkSlotKeyClearable(
  access: SlotAccess,
  slot: number,
  { force = false }: Pick<Leave, 'force'> = {},
): Promise<SlotKeyCleared> {
  const { parts, view } = await lookAt(access, slot);
  refuseWhileInterrupted(view);
  refuseToReplace(slot, parts.key, { overwrite: true, force });
  const keyName = parts.key.kind === 'absent' ? null : parts.key.name.toString('hex');
  return { slot, keyName, cleared: false };
}

/**
 * Removes the key of a slot and leaves its URI. One step, which is done or not.
 * @throws IotdmError `tpm.slot-foreign`, `tpm.slot-incomplete`
 */
export async function clearSlotKey(
  access: SlotAccess,
  slot: number,
  { force = false }: Pick<Leave, 'force'> = {},
): Promise<SlotKeyCleared> {
  const found = await checkSlotKeyClearable(access, slot, { force });
  if (found.keyName === null) return found;
  await access.tpm.removePersistent(keyHandle(slot));
  return { ...found, cleared: true };
}

/** @throws IotdmError `input.invalid`, `usage.secret-in-argv`, without quoting the text: it may be a key */
export function checkUri(text: string): void {
  // A key in base64 may look like a host and a device.
  if ((decodeBase64(text)?.length ?? 0) >= KEY_MIN_BYTES) {
    throw new IotdmError('usage.secret-in-argv', 'what was given for the URI is perhaps a key');
  }
  if (parseUri(Buffer.from(text, 'utf8')) !== undefined) return;
  throw new IotdmError(
    'input.invalid',
    'the URI is not HOST/DEVICE or HOST/DEVICE/MODULE as IoT Hub has them',
  );
}

/** @throws IotdmError `input.invalid` */
export function checkKey({ bytes: { length } }: Secret): void {
  if (length >= KEY_MIN_BYTES && length <= KEY_MAX_BYTES) return;
  throw new IotdmError(
    'input.invalid',
    `the key has ${length} bytes, and a slot takes ${KEY_MIN_BYTES} to ${KEY_MAX_BYTES}`,
  );
}

function refuseToReplace(
  slot: number,
  part: KeyPart | UriPart,
  { overwrite = false, force = false }: Leave,
): void {
  if (part.kind === 'foreign' && !force) {
    throw new IotdmError('tpm.slot-foreign', `slot ${slot} is foreign: ${part.why}`, { details: { slot } });
  }
  if (part.kind === 'absent' || part.kind === 'unwritten' || overwrite || force) return;
  const what = 'text' in part ? `its URI is ${part.text}` : 'it has a key';
  throw new IotdmError('tpm.slot-not-empty', `slot ${slot} is not empty: ${what}`, { details: { slot } });
}
