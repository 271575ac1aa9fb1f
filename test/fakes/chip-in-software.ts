/**
 * What a TPM does with credentials and duplicated keys, in software with private keys at hand: written from the
 * specification's view of the receiver (TPM 2.0 Library, Part 1, 23.3 and 24), apart from the code that makes them.
 */
import {
  constants,
  createDecipheriv,
  createHash,
  createHmac,
  privateDecrypt,
  type KeyObject,
} from 'node:crypto';

/** The TPM2B structures, end to end, that the bytes consist of; throws when something is left over. */
export function structures(bytes: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += 2 + (found.at(-1)?.length ?? 0)) {
    const size = bytes.readUInt16BE(at);
    if (at + 2 + size > bytes.length) throw new Error('a structure is cut off');
    found.push(bytes.subarray(at + 2, at + 2 + size));
  }
  return found;
}

/** The secret in a credential, or undefined when the TPM would refuse it. */
export function openCredential(
  endorsementKey: KeyObject,
  name: Buffer,
  blob: Buffer,
  encryptedSeed: Buffer,
): Buffer | undefined {
  const plain = unwrap(endorsementKey, 'IDENTITY\0', name, blob, encryptedSeed);
  return plain?.subarray(2, 2 + plain.readUInt16BE(0));
}

export interface OpenedKey {
  readonly type: number;
  readonly authValue: Buffer;
  readonly seed: Buffer;
  readonly key: Buffer;
}

/** The sensitive area of a duplicated object; without a key there is no inner wrapper. */
export function openDuplicate(
  parent: KeyObject,
  innerKey: Buffer | undefined,
  publicArea: Buffer,
  duplicate: Buffer,
  encryptedSeed: Buffer,
): OpenedKey | undefined {
  const name = Buffer.concat([Buffer.from('000b', 'hex'), sha256(publicArea)]);
  let plain = unwrap(parent, 'DUPLICATE\0', name, duplicate, encryptedSeed);
  if (plain === undefined) return undefined;
  if (innerKey !== undefined) {
    plain = decrypt(innerKey, plain);
    const sensitive = plain.subarray(34);
    if (plain.readUInt16BE(0) !== 32 || !plain.subarray(2, 34).equals(sha256(sensitive, name)))
      return undefined;
    plain = sensitive;
  }
  if (plain.readUInt16BE(0) !== plain.length - 2) return undefined;
  const [authValue, seed, key] = structures(plain.subarray(4));
  if (authValue === undefined || seed === undefined || key === undefined) return undefined;
  return { type: plain.readUInt16BE(2), authValue, seed, key };
}

function unwrap(
  key: KeyObject,
  label: string,
  name: Buffer,
  wrapped: Buffer,
  encryptedSeed: Buffer,
): Buffer | undefined {
  let seed: Buffer;
  try {
    seed = privateDecrypt(
      { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256', oaepLabel: Buffer.from(label) },
      encryptedSeed,
    );
  } catch {
    return undefined;
  }
  const hmac = wrapped.subarray(2, 2 + wrapped.readUInt16BE(0));
  const encrypted = wrapped.subarray(2 + hmac.length);
  const hmacKey = kdfa(seed, 'INTEGRITY', Buffer.alloc(0), 256);
  const expected = createHmac('sha256', hmacKey).update(encrypted).update(name).digest();
  return hmac.equals(expected) ? decrypt(kdfa(seed, 'STORAGE', name, 128), encrypted) : undefined;
}

function decrypt(key: Buffer, bytes: Buffer): Buffer {
  return createDecipheriv('aes-128-cfb', key, Buffer.alloc(16)).update(bytes);
}

function kdfa(seed: Buffer, label: string, context: Buffer, bits: number): Buffer {
  const counter = Buffer.from([0, 0, 0, 1]);
  const length = Buffer.from([0, 0, bits >> 8, bits & 255]);
  const input = Buffer.concat([counter, Buffer.from(`${label}\0`), context, length]);
  return createHmac('sha256', seed)
    .update(input)
    .digest()
    .subarray(0, bits / 8);
}

function sha256(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
