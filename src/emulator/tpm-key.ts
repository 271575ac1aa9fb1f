/** Judges the keys that devices show: TPM2B_PUBLIC of restricted RSA decryption keys, as EK and SRK are. */

import { createPublicKey, type KeyObject } from 'node:crypto';
import { decodeBase64 } from '../encoding.ts';
import { nameOf } from '../duplication.ts';

export interface TpmKey {
  readonly key: KeyObject;
  /** nameAlg and digest. */
  readonly name: Buffer;
  /** All of the TPM2B_PUBLIC. */
  readonly bytes: Buffer;
}

const RSA = 0x0001;
const AES = 0x0006;
const SHA256 = 0x000b;
const NULL = 0x0010;
const CFB = 0x0043;
const modulusBytes = 256;

/** TPMA_OBJECT (Part 2, 8.3). */
const attribute = {
  fixedTPM: 1 << 1,
  fixedParent: 1 << 4,
  sensitiveDataOrigin: 1 << 5,
  restricted: 1 << 16,
  decrypt: 1 << 17,
  sign: 1 << 18,
} as const;

/**
 * With these a TPM vouches for the key: it was made in this TPM and never leaves it. A TPM takes no key from outside
 * that has them (Part 3, TPM2_LoadExternal), so that a credential for the key's name cannot be opened anywhere else.
 */
const required =
  attribute.fixedTPM |
  attribute.fixedParent |
  attribute.sensitiveDataOrigin |
  attribute.restricted |
  attribute.decrypt;

/**
 * A key to which a credential or a duplicated key can be wrapped: RSA 2048 with exponent 65537, nameAlg SHA-256,
 * AES-128-CFB, restricted, for decryption, fixed to its TPM (Part 2, 12.2.4). Undefined for anything else, canonical
 * base64 included.
 */
export function tpmKey(base64: unknown): TpmKey | undefined {
  const bytes = typeof base64 === 'string' ? decodeBase64(base64) : undefined;
  // Size, type, nameAlg, attributes, and the size of authPolicy.
  if (bytes === undefined || bytes.length < 12 || bytes.readUInt16BE(0) !== bytes.length - 2)
    return undefined;
  const attributes = bytes.readUInt32BE(6);
  const policyBytes = bytes.readUInt16BE(10);
  const fits =
    bytes.readUInt16BE(2) === RSA &&
    bytes.readUInt16BE(4) === SHA256 &&
    (attributes & required) === required &&
    (attributes & attribute.sign) === 0 &&
    (policyBytes === 0 || policyBytes === 32);
  const parameters = bytes.subarray(12 + policyBytes);
  // Symmetric algorithm, key bits, mode, scheme, key bits, exponent, unique.
  if (!fits || parameters.length !== 8 + 2 + 4 + 2 + modulusBytes) return undefined;
  const [cipher, cipherBits, mode, scheme, bits] = [0, 2, 4, 6, 8].map((at) => parameters.readUInt16BE(at));
  const exponent = parameters.readUInt32BE(10);
  const modulus = parameters.subarray(16);
  const isUsable =
    cipher === AES &&
    cipherBits === 128 &&
    mode === CFB &&
    scheme === NULL &&
    bits === 2048 &&
    (exponent === 0 || exponent === 65537) &&
    parameters.readUInt16BE(14) === modulusBytes &&
    (modulus[0] ?? 0) >= 0x80 &&
    ((modulus.at(-1) ?? 0) & 1) === 1;
  if (!isUsable) return undefined;
  const jwk = { kty: 'RSA', n: modulus.toString('base64url'), e: 'AQAB' };
  return { key: createPublicKey({ key: jwk, format: 'jwk' }), name: nameOf(bytes.subarray(2)), bytes };
}
