/**
 * Takes over a key that a service has made for this TPM: what DPS sends as `authenticationKey`, once for the
 * registration itself and once for the device.
 *
 * The form is that of Azure's device SDKs: big-endian TPM structures end to end (TPM 2.0 Library, Part 2): TPM2B_ID_OBJECT
 * and TPM2B_ENCRYPTED_SECRET of a credential whose secret is the inner wrap key, TPM2B_PRIVATE and TPM2B_ENCRYPTED_SECRET
 * of the duplicated key, its TPM2B_PUBLIC, and a TPM2B_DATA with a URI that nobody reads.
 */
import type { Credential } from '../credential.ts';
import { IotdmError } from '../errors.ts';
import { EK_HANDLE } from './tpm.ts';
import type { DuplicatedKey, TpmCommands, WrappedKey } from './tss.ts';

export interface IdentityKeyBlob {
  /** For the EK and the name of the SRK; its secret is the inner wrap key. */
  readonly credential: Credential;
  readonly key: Omit<DuplicatedKey, 'innerKey'>;
}

/** A real one has about a thousand. */
const BLOB_LIMIT_BYTES = 16_384;

/** Of the inner wrap key, which is for AES. */
const INNER_KEY_BYTES: readonly number[] = [16, 32];

/**
 * How the public area of an HMAC-SHA256 key begins (Part 2, 12.2.4): type KEYEDHASH, nameAlg SHA-256. Its attributes and
 * the policy follow, then scheme HMAC with SHA-256, then a unique value of 32 bytes.
 */
const KEYED_HASH_WITH_SHA256 = Buffer.from('0008000b', 'hex');
const HMAC_WITH_SHA256_AND_UNIQUE = Buffer.from('0005000b0020', 'hex');

/**
 * Takes the blob apart; its bytes are not trusted.
 * @throws IotdmError `verify.identity-key`
 */
export function parseIdentityKeyBlob(blob: Buffer): IdentityKeyBlob {
  if (blob.length > BLOB_LIMIT_BYTES) throw unusable('it is too long');
  let rest = blob;
  const take = (what: string): Buffer => {
    const size = rest.length < 2 ? 0 : 2 + rest.readUInt16BE(0);
    if (size === 0 || size > rest.length) throw unusable(`${what} is cut short`);
    const contents = rest.subarray(2, size);
    rest = rest.subarray(size);
    return contents;
  };
  const credentialBlob = take('the credential');
  const credentialSeed = take('the seed of the credential');
  const duplicate = take('the private part');
  const encryptedSeed = take('the seed of the private part');
  const publicPart = take('the public part');
  take('the URI');
  if (rest.length > 0) throw unusable('more follows than belongs to it');
  if (!isHmacKey(publicPart)) throw unusable('it is no HMAC-SHA256 key');
  return {
    credential: { credentialBlob, encryptedSeed: credentialSeed },
    key: { publicPart, duplicate, encryptedSeed },
  };
}

/**
 * Opens the blob with the EK, and makes the key in it a child of the SRK. Nothing stays in the TPM, neither object nor
 * session. Four commands.
 * @param srkHandle the storage root key whose public part the service was given, with empty authorization
 * @throws IotdmError `verify.identity-key` where the blob is not for these two keys or not whole
 */
export async function activateIdentityKey(
  tpm: TpmCommands,
  blob: Buffer,
  { ekHandle, srkHandle }: { readonly ekHandle: number; readonly srkHandle: number },
): Promise<WrappedKey> {
  const { credential, key } = parseIdentityKeyBlob(blob);
  const usable = async <T>(why: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (await refusesWhatItWasGiven(tpm, error)) throw unusable(why, error);
      throw error;
    }
  };
  const innerKey = await usable(
    'it was made for another endorsement key or storage root key, or has been changed',
    () => tpm.activateCredential(srkHandle, ekHandle, credential),
  );
  try {
    if (!INNER_KEY_BYTES.includes(innerKey.length)) throw unusable('its inner wrap key is none for AES');
    return await usable('the storage root key cannot open it', () =>
      tpm.importKey(srkHandle, { ...key, innerKey }),
    );
  } finally {
    innerKey.fill(0);
  }
}

/**
 * Whether a TPM refused a credential or a duplicated key because it is not for this TPM or not whole, and for no other
 * reason. libtpms then answers TPM_RC_FAILURE, and works on as if nothing had happened.
 */
export async function refusesWhatItWasGiven(tpm: TpmCommands, error: unknown): Promise<boolean> {
  if (!(error instanceof IotdmError)) return false;
  if (error.code === 'tpm.refused' || error.code === 'input.invalid') return true;
  if (error.code !== 'tpm-unavailable.failure-mode') return false;
  return tpm.readPublic(EK_HANDLE).then(
    () => true,
    () => false,
  );
}

function isHmacKey(area: Buffer): boolean {
  const policyAt = KEYED_HASH_WITH_SHA256.length + 4;
  if (area.length < policyAt + 2 || !area.subarray(0, 4).equals(KEYED_HASH_WITH_SHA256)) return false;
  const tail = area.subarray(policyAt + 2 + area.readUInt16BE(policyAt));
  return (
    tail.length === HMAC_WITH_SHA256_AND_UNIQUE.length + 32 &&
    tail.subarray(0, HMAC_WITH_SHA256_AND_UNIQUE.length).equals(HMAC_WITH_SHA256_AND_UNIQUE)
  );
}

function unusable(why: string, cause?: unknown): IotdmError {
  const details = cause instanceof IotdmError ? cause.details : undefined;
  return new IotdmError('verify.identity-key', `the key that the service sent cannot be used: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
    ...(details === undefined ? {} : { details }),
  });
}
