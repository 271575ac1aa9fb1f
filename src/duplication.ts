/**
 * TPM2_Duplicate in software: an HMAC key in the form in which a TPM imports it under its storage root key, with both
 * wrappers: the inner one under a symmetric key that the TPM is given apart, the outer one for the storage root key.
 *
 * Source: TPM 2.0 Library, Part 1 (revision 1.59), section 23.3 (duplication) and 27.6.3 (unique of a keyed hash); Part
 * 2, 12.2.4 (TPMT_PUBLIC), 12.3.2.4 (TPMT_SENSITIVE); Part 3, TPM2_Duplicate and TPM2_Import.
 */
import { createHash, randomBytes, type KeyObject } from 'node:crypto';
import { encrypt, HASH_BYTES, sized, wrapFor } from './outer-wrap.ts';

/** What TPM2_Import takes, besides the key of the inner wrapper. */
export interface DuplicatedKey {
  /** TPMT_PUBLIC, contents of TPM2B_PUBLIC. */
  readonly publicArea: Buffer;
  /** Contents of TPM2B_PRIVATE. */
  readonly duplicate: Buffer;
  /** Contents of TPM2B_ENCRYPTED_SECRET: the outer wrapper's seed, encrypted to the storage root key. */
  readonly encryptedSeed: Buffer;
}

const SHA256 = 0x000b;
const KEYEDHASH = 0x0008;
const HMAC = 0x0005;
/** TPMA_OBJECT: userWithAuth, noDA, sign; it may be duplicated, so neither fixedTPM nor fixedParent. */
const ATTRIBUTES = 0x00040440;

/**
 * Wraps an HMAC-SHA256 key without authorization value.
 * @param parent the RSA storage root key: nameAlg SHA-256, symmetric algorithm AES-128-CFB
 * @param innerKey of the inner wrapper: 16 bytes, for AES-128-CFB
 */
export function duplicateHmacKey(parent: KeyObject, innerKey: Buffer, hmacKey: Buffer): DuplicatedKey {
  // As long as the digest of nameAlg: it blinds the unique value, which is public.
  const seed = randomBytes(HASH_BYTES);
  const unique = createHash('sha256').update(seed).update(hmacKey).digest();
  const publicArea = Buffer.concat([
    words(KEYEDHASH, SHA256),
    long(ATTRIBUTES),
    words(0, HMAC, SHA256),
    sized(unique),
  ]);
  const name = nameOf(publicArea);

  // TPM2B_SENSITIVE: type, no authorization value, seed, key.
  const sensitive = sized(Buffer.concat([words(KEYEDHASH, 0), sized(seed), sized(hmacKey)]));
  // Part 1, 23.3.2.2: the inner integrity value is a plain digest, the encryption hides it.
  const integrity = createHash('sha256').update(sensitive).update(name).digest();
  const plain = Buffer.concat([sized(integrity), sensitive]);
  const inner = encrypt(innerKey, plain);
  const { wrapped, encryptedSeed } = wrapFor(parent, 'DUPLICATE', name, inner);
  for (const secretBytes of [seed, sensitive, plain]) secretBytes.fill(0);
  return { publicArea, duplicate: wrapped, encryptedSeed };
}

/** The name of an object whose nameAlg is SHA-256 (Part 1, section 16). @param publicArea TPMT_PUBLIC */
export function nameOf(publicArea: Buffer): Buffer {
  return Buffer.concat([words(SHA256), createHash('sha256').update(publicArea).digest()]);
}

function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(2 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt16BE(value, 2 * index);
  return bytes;
}

function long(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
