/**
 * What protects a secret on its way into a TPM: encryption and integrity under a seed that only the holder of an RSA
 * key can decrypt, bound to the name of an object. Credentials and duplicated keys are both wrapped like this.
 *
 * Source: TPM 2.0 Library, Part 1 (revision 1.59): section 11.4.10.2 (KDFa), 23.3.2.3 (outer duplication wrapper), 24
 * (credential protection), annex B.10.4 (secret sharing with RSA).
 */
import {
  constants,
  createCipheriv,
  createHmac,
  publicEncrypt,
  randomBytes,
  type KeyObject,
} from 'node:crypto';

/** Both follow from the templates of EK and SRK: their nameAlg is SHA-256 and their symmetric cipher AES-128-CFB. */
const HASH = 'sha256';
export const HASH_BYTES = 32;
const CIPHER = 'aes-128-cfb';
export const CIPHER_KEY_BYTES = 16;

export interface Wrapped {
  /** The HMAC with its 2-byte size, and the encrypted secret. */
  readonly wrapped: Buffer;
  /** Contents of TPM2B_ENCRYPTED_SECRET: the seed, encrypted to the key. */
  readonly encryptedSeed: Buffer;
}

/**
 * @param key an RSA key whose nameAlg is SHA-256 and whose symmetric algorithm is AES-128-CFB
 * @param label what it is for (Part 1, B.4): a credential or a duplicated object
 * @param objectName to which the secret is bound: nameAlg and digest
 * @param secret with its own size in front, where it has one
 */
export function wrapFor(
  key: KeyObject,
  label: 'IDENTITY' | 'DUPLICATE',
  objectName: Buffer,
  secret: Buffer,
): Wrapped {
  const seed = randomBytes(HASH_BYTES);
  const encryptedSeed = publicEncrypt(
    {
      key,
      padding: constants.RSA_PKCS1_OAEP_PADDING,
      oaepHash: HASH,
      // The label of OAEP includes its terminating zero.
      oaepLabel: Buffer.from(`${label}\0`, 'latin1'),
    },
    seed,
  );
  // Part 1, 24.4: symKey = KDFa(nameAlg, seed, "STORAGE", name, NULL, bits).
  const cipherKey = deriveKey(seed, 'STORAGE', objectName, CIPHER_KEY_BYTES);
  const encrypted = encrypt(cipherKey, secret);
  // Part 1, 24.5: HMACkey = KDFa(nameAlg, seed, "INTEGRITY", NULL, NULL, bits), over the encrypted secret and the name.
  const hmacKey = deriveKey(seed, 'INTEGRITY', Buffer.alloc(0), HASH_BYTES);
  const hmac = createHmac(HASH, hmacKey).update(encrypted).update(objectName).digest();
  for (const secretBytes of [seed, cipherKey, hmacKey]) secretBytes.fill(0);
  return { wrapped: Buffer.concat([sized(hmac), encrypted]), encryptedSeed };
}

/** AES-128-CFB with an initialization vector of zeros, as the TPM's own wrappers have it. */
export function encrypt(key: Buffer, secret: Buffer): Buffer {
  return createCipheriv(CIPHER, key, Buffer.alloc(16)).update(secret);
}

/** TPM2B: two bytes of size, then the bytes. */
export function sized(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 0xff]), bytes]);
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

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
