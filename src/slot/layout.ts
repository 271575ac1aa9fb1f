/**
 * Where a logical device ("slot") lives in a TPM: Limpet's layout, which Windows.Devices.Tpm and Azure's device SDKs
 * read as well. What stands here must not change.
 */
import { createHash } from 'node:crypto';
import { IotdmError } from '../errors.ts';

export const SLOT_COUNT = 10;

/** The storage root key, parent of every slot's HMAC key. */
export const SRK_HANDLE = 0x81000001;

/** TPMA_OBJECT of a slot's key: exactly userWithAuth, noDA and sign. */
export const KEY_ATTRIBUTES = (1 << 6) | (1 << 10) | (1 << 18);

/** TPM_ALG_KEYEDHASH and TPM_ALG_SHA256. */
export const KEY_TYPE = 0x0008;
export const KEY_HASH = 0x000b;

/**
 * TPMT_PUBLIC of a slot's key up to its `unique`, which is a digest of SHA-256: type, nameAlg, attributes, no policy,
 * scheme HMAC with SHA-256, size of `unique`.
 */
export const KEY_PUBLIC_PREFIX = Buffer.from('0008000b0004044000000005000b0020', 'hex');
export const KEY_PUBLIC_BYTES = KEY_PUBLIC_PREFIX.length + 32;

/** TPMA_NV of a slot's URI: AUTHWRITE, AUTHREAD and NO_DA. */
export const URI_ATTRIBUTES = (1 << 2) | (1 << 18) | (1 << 25);

/** TPMA_NV_WRITTEN, which the TPM itself sets. */
export const URI_WRITTEN = 1 << 29;

/** A URI is shorter than this, in bytes of UTF-8. */
export const URI_LIMIT_BYTES = 512;

/** Length of an HMAC key in bytes. */
export const KEY_MIN_BYTES = 16;
export const KEY_MAX_BYTES = 64;

/**
 * An NV index that is defined and removed again to see whether there is room. It is outside of the slots, and what is
 * found there in this form and never written is left from a process that was interrupted meanwhile.
 */
export const ROOM_PROBE_INDEX = 0x014001ff;

export function keyHandle(slot: number): number {
  return 0x81000100 + slot;
}

export function uriIndex(slot: number): number {
  return 0x01400100 + slot;
}

/**
 * The name of the NV index that holds a written URI of this size: nameAlg, and the digest of TPMS_NV_PUBLIC (Part 2,
 * 13.5): index, nameAlg, attributes, an empty policy, size.
 */
export function uriStorageName(slot: number, sizeBytes: number): Buffer {
  const area = Buffer.alloc(14);
  area.writeUInt32BE(uriIndex(slot), 0);
  area.writeUInt16BE(KEY_HASH, 4);
  area.writeUInt32BE((URI_ATTRIBUTES | URI_WRITTEN) >>> 0, 6);
  area.writeUInt16BE(sizeBytes, 12);
  return Buffer.concat([Buffer.from('000b', 'hex'), createHash('sha256').update(area).digest()]);
}

/** @throws IotdmError `usage.invalid` */
export function parseSlotNumber(text: string): number {
  if (!/^[0-9]$/.test(text)) {
    throw new IotdmError(
      'usage.invalid',
      `"${text}" is not a slot: slots are numbered 0 to ${SLOT_COUNT - 1}`,
    );
  }
  return Number(text);
}
