/**
 * TPM2_MakeCredential in software: a secret that only the TPM with a certain EK can open, and only while it holds a
 * certain object. This is the challenge that DPS puts to a TPM.
 *
 * Source: TPM 2.0 Library, Part 1 (revision 1.59), section 24 "Credential Protection", section 11.4.10.2 (KDFa) and
 * annex B.10.4 (secret sharing with RSA); Part 3, TPM2_MakeCredential.
 */
import {
  constants,
  createCipheriv,
  createHmac,
  publicEncrypt,
  randomBytes,
  type KeyObject,
} from 'node:crypto';

/** What TPM2_ActivateCredential takes. */
export interface Credential {
  /** Contents of TPM2B_ID_OBJECT: the HMAC with its 2-byte size, and the encrypted secret. */
  readonly credentialBlob: Buffer;
  /** Contents of TPM2B_ENCRYPTED_SECRET: the seed, encrypted to the EK. */
  readonly encryptedSeed: Buffer;
}

/** Both follow from the EK's template: its nameAlg is SHA-256 and its symmetric cipher AES-128-CFB. */
const HASH = 'sha256';
const HASH_BYTES = 32;
const CIPHER = 'aes-128-cfb';
const CIPHER_KEY_BYTES = 16;

/** The label of OAEP, its terminating zero included (Part 1, B.4 and 24.2). */
const IDENTITY_LABEL = Buffer.from('IDENTITY\0', 'latin1');

/**
 * Protects a secret for the TPM that holds both keys.
 * @param endorsementKey an RSA EK whose nameAlg is SHA-256 and whose symmetric algorithm is AES-128-CFB, as template
 * L-1 has them
 * @param objectName name of the object that must be in the same TPM: nameAlg and digest
 * @param secret at most 32 bytes
 */
export function makeCredential(endorsementKey: KeyObject, objectName: Buffer, secret: Buffer): Credential {
  if (secret.length > HASH_BYTES) throw new RangeError(`a credential holds at most ${HASH_BYTES} bytes`);
  const seed = randomBytes(HASH_BYTES);
  const encryptedSeed = publicEncrypt(
    {
      key: endorsementKey,
      padding: constants.RSA_PKCS1_OAEP_PADDING,
      oaepHash: HASH,
      oaepLabel: IDENTITY_LABEL,
    },
    seed,
  );
  // Part 1, 24.4: symKey = KDFa(nameAlg, seed, "STORAGE", name, NULL, bits); the IV is zero, the size is encrypted too.
  const key = deriveKey(seed, 'STORAGE', objectName, CIPHER_KEY_BYTES);
  const sized = Buffer.concat([sizeOf(secret), secret]);
  const encrypted = createCipheriv(CIPHER, key, Buffer.alloc(16)).update(sized);
  // Part 1, 24.5: HMACkey = KDFa(nameAlg, seed, "INTEGRITY", NULL, NULL, bits), over the encrypted secret and the name.
  const hmacKey = deriveKey(seed, 'INTEGRITY', Buffer.alloc(0), HASH_BYTES);
  const hmac = createHmac(HASH, hmacKey).update(encrypted).update(objectName).digest();
  for (const secretBytes of [seed, key, sized, hmacKey]) secretBytes.fill(0);
  return { credentialBlob: Buffer.concat([sizeOf(hmac), hmac, encrypted]), encryptedSeed };
}

/** KDFa with SHA-256, no more than one block long: HMAC(seed, 1 || label || 0 || context || bits). */
function deriveKey(seed: Buffer, label: string, context: Buffer, bytes: number): Buffer {
  const block = createHmac(HASH, seed)
    .update(uint32(1))
    .update(`${label}\0`, 'latin1')
    .update(context)
    .update(uint32(bytes * 8))
    .digest();
  return block.subarray(0, bytes);
}

function sizeOf(bytes: Buffer): Buffer {
  return Buffer.from([bytes.length >> 8, bytes.length & 0xff]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
