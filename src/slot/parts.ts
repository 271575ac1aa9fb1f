/** The two parts of a slot as they stand in the TPM: the key and the URI. */
import { hex32 } from '../encoding.ts';
import { parseUri, type DeviceIdentity } from './device-identity.ts';
import {
  KEY_ATTRIBUTES,
  KEY_HASH,
  KEY_TYPE,
  keyHandle,
  URI_ATTRIBUTES,
  URI_LIMIT_BYTES,
  URI_WRITTEN,
  uriIndex,
} from './layout.ts';
import type { SlotTpm } from './slot-tpm.ts';

/** `name` is nameAlg and digest of the public area. */
export type KeyPart =
  | { readonly kind: 'absent' }
  | { readonly kind: 'right'; readonly name: Buffer }
  | { readonly kind: 'foreign'; readonly name: Buffer; readonly why: string };

/** `name` is that of the NV index, `size` its bytes. */
export type UriPart =
  | { readonly kind: 'absent' }
  | { readonly kind: 'unwritten'; readonly name: Buffer; readonly size: number }
  | {
      readonly kind: 'right';
      readonly name: Buffer;
      readonly size: number;
      readonly text: string;
      readonly identity: DeviceIdentity;
    }
  | { readonly kind: 'foreign'; readonly name: Buffer; readonly size: number; readonly why: string };

export interface SlotParts {
  readonly key: KeyPart;
  readonly uri: UriPart;
}

export const noParts: SlotParts = { key: { kind: 'absent' }, uri: { kind: 'absent' } };

/**
 * Two TPM commands for an empty slot, three for a full one.
 * @param standing persistent handles, where they are known: what is none of them is not asked for
 */
export async function readSlotParts(
  tpm: SlotTpm,
  slot: number,
  standing?: ReadonlySet<number>,
): Promise<SlotParts> {
  const isAbsent = standing?.has(keyHandle(slot)) === false;
  const key: KeyPart = isAbsent ? { kind: 'absent' } : await readKeyPart(tpm, slot);
  return { key, uri: await readUriPart(tpm, slot) };
}

/** One TPM command. */
export async function readKeyPart(tpm: SlotTpm, slot: number): Promise<KeyPart> {
  const key = await tpm.readPublic(keyHandle(slot));
  if (key === undefined) return { kind: 'absent' };
  const isSlotKey =
    key.type === KEY_TYPE &&
    key.nameAlg === KEY_HASH &&
    key.attributes === KEY_ATTRIBUTES &&
    key.hmacHash === KEY_HASH;
  if (isSlotKey) return { kind: 'right', name: key.name };
  const why = `the key at ${hex32(keyHandle(slot))} is not a slot's HMAC key`;
  return { kind: 'foreign', name: key.name, why };
}

/** One TPM command, two where a URI stands. */
export async function readUriPart(tpm: SlotTpm, slot: number): Promise<UriPart> {
  const index = uriIndex(slot);
  const area = await tpm.nvReadPublic(index);
  if (area === undefined) return { kind: 'absent' };
  const { name, dataSize: size } = area;
  const foreign = (why: string): UriPart => ({
    kind: 'foreign',
    name,
    size,
    why: `NV index ${hex32(index)} ${why}`,
  });
  const isUriIndex =
    (area.attributes & ~URI_WRITTEN) >>> 0 === URI_ATTRIBUTES &&
    area.nameAlg === KEY_HASH &&
    size < URI_LIMIT_BYTES;
  if (!isUriIndex) return foreign("is not a slot's");
  if ((area.attributes & URI_WRITTEN) === 0) return { kind: 'unwritten', name, size };
  const bytes = await tpm.nvRead(index, size);
  const identity = parseUri(bytes);
  if (identity === undefined) return foreign("does not hold a slot's URI");
  return { kind: 'right', name, size, text: bytes.toString('utf8'), identity };
}
