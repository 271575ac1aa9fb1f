/**
 * The logical device id that Limpet prints for a slot: it depends on the TPM and the slot's number, not on what the slot
 * holds.
 */
import { createHash } from 'node:crypto';
import type { SlotTpm } from './slot-tpm.ts';

const HASH_ALGORITHM = Buffer.from('000b', 'hex');

/** One TPM command; three where no storage root key stands. */
export async function slotDeviceId(
  tpm: Pick<SlotTpm, 'readStorageRootKey'>,
  slot: number,
): Promise<{ readonly slot: number; readonly deviceId: string }> {
  const { name } = await tpm.readStorageRootKey();
  return { slot, deviceId: logicalDeviceId(slot, name) };
}

/** @param storageRootKeyName nameAlg and digest */
export function logicalDeviceId(slot: number, storageRootKeyName: Buffer): string {
  const number = Buffer.alloc(4);
  number.writeUInt32LE(slot);
  const digest = createHash('sha256').update(number).update(storageRootKeyName).digest();
  return encodedName(Buffer.concat([HASH_ALGORITHM, digest]));
}

/** A TPM name, or something like one, the way Limpet prints it: base64, URL-encoded with lower-case hex. */
export function encodedName(bytes: Buffer): string {
  return bytes
    .toString('base64')
    .replace(/[^A-Za-z0-9!()*\-._]/g, (character) => `%${character.charCodeAt(0).toString(16)}`);
}
