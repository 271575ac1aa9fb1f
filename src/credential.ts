/**
 * TPM2_MakeCredential in software: a secret that only the TPM with a certain EK can open, and only while it holds a
 * certain object. This is the challenge that DPS puts to a TPM.
 *
 * Source: TPM 2.0 Library, Part 1 (revision 1.59), section 24 "Credential Protection"; Part 3, TPM2_MakeCredential.
 */
import type { KeyObject } from 'node:crypto';
import { HASH_BYTES, sized, wrapFor } from './outer-wrap.ts';

/** What TPM2_ActivateCredential takes. */
export interface Credential {
  /** Contents of TPM2B_ID_OBJECT: the HMAC with its 2-byte size, and the encrypted secret. */
  readonly credentialBlob: Buffer;
  /** Contents of TPM2B_ENCRYPTED_SECRET: the seed, encrypted to the EK. */
  readonly encryptedSeed: Buffer;
}

/**
 * Protects a secret for the TPM that holds both keys.
 * @param endorsementKey an RSA EK whose nameAlg is SHA-256 and whose symmetric algorithm is AES-128-CFB, as template
 * L-1 has them
 * @param objectName name of the object that must be in the same TPM: nameAlg and digest
 * @param secret at most 32 bytes
 */
export function makeCredential(endorsementKey: KeyObject, objectName: Buffer, secret: Buffer): Credential {
  if (secret.length > HASH_BYTES) throw new RangeError(`a credential holds at most ${HASH_BYTES} bytes`);
  // Part 1, 24.4: the secret's size is encrypted too.
  const plain = sized(secret);
  const { wrapped, encryptedSeed } = wrapFor(endorsementKey, 'IDENTITY', objectName, plain);
  plain.fill(0);
  return { credentialBlob: wrapped, encryptedSeed };
}
