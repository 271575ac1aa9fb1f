/**
 * The blob in which DPS gives a device a key: TPM structures end to end, in the order in which the device uses them
 * (the fields of Azure's security clients; TPM 2.0 Library, Part 2).
 */

import { randomBytes } from 'node:crypto';
import { makeCredential } from '../credential.ts';
import { duplicateHmacKey } from '../duplication.ts';
import { CIPHER_KEY_BYTES, encrypt, sized } from '../outer-wrap.ts';
import type { TpmKey } from './tpm-key.ts';

/**
 * TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET of a credential that is the inner wrapper's key, TPM2B_PRIVATE and
 * TPM2B_ENCRYPTED_SECRET of the duplicated key, its TPM2B_PUBLIC, and a TPM2B_DATA with the encrypted URI.
 * @param uri what the key is for. How Azure encrypts it is not documented, and its clients do not read it; here it is
 * AES-128-CFB under the key of the inner wrapper
 * @returns base64
 */
export function authenticationKey(
  endorsementKey: TpmKey,
  storageRootKey: TpmKey,
  hmacKey: Buffer,
  uri: string,
): string {
  const innerKey = randomBytes(CIPHER_KEY_BYTES);
  const credential = makeCredential(endorsementKey.key, storageRootKey.name, innerKey);
  const duplicated = duplicateHmacKey(storageRootKey.key, innerKey, hmacKey);
  const blob = Buffer.concat([
    sized(credential.credentialBlob),
    sized(credential.encryptedSeed),
    sized(duplicated.duplicate),
    sized(duplicated.encryptedSeed),
    sized(duplicated.publicArea),
    sized(encrypt(innerKey, Buffer.from(uri, 'utf8'))),
  ]);
  innerKey.fill(0);
  return blob.toString('base64');
}
