/**
 * The endorsement key as DPS knows it: bytes only, no TPM needed, so that files can be checked without a device.
 *
 * Source of the template: TCG EK Credential Profile for TPM Family 2.0, Annex B, template L-1 (RSA 2048).
 */
import crypto, { createHash, createPublicKey, type KeyObject } from 'node:crypto';
import { IotdmError } from '../errors.ts';
import { base32, decodeBase32, decodeBase64 } from '../encoding.ts';

/** PolicySecret(TPM_RH_ENDORSEMENT), the authorization policy of every L-1 endorsement key. */
export const EK_AUTH_POLICY = Buffer.from(
  '837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa',
  'hex',
);

/** TPM2B_PUBLIC of an L-1 EK up to its modulus: sizes, attributes, policy, AES-128-CFB, RSA 2048, exponent 65537. */
export const EK_PUBLIC_PREFIX = Buffer.concat([
  Buffer.from('013a0001000b000300b20020', 'hex'),
  EK_AUTH_POLICY,
  Buffer.from('00060080004300100800000000000100', 'hex'),
]);

/** Base32 of 32 bytes. */
const DERIVED_ID_LENGTH = 52;

/** Length of the modulus of RSA 2048 in bytes. */
const MODULUS_BYTES = 256;

/** Length of TPM2B_PUBLIC of an RSA 2048 EK in bytes. */
export const EK_PUBLIC_BYTES = EK_PUBLIC_PREFIX.length + MODULUS_BYTES;

/**
 * Checks that the bytes are exactly the TPM2B_PUBLIC of an RSA 2048 EK and returns them.
 * @throws IotdmError `input.invalid` saying what they are instead
 */
export function checkEndorsementKey(bytes: Buffer): Buffer {
  const problem = endorsementKeyProblem(bytes);
  if (problem !== undefined) throw new IotdmError('input.invalid', problem);
  return bytes;
}

/** Why these bytes are not an EK that DPS takes, or undefined when they are one. */
export function endorsementKeyProblem(bytes: Buffer): string | undefined {
  if (bytes.length !== EK_PUBLIC_BYTES) {
    return `an RSA 2048 endorsement key is a TPM2B_PUBLIC of ${EK_PUBLIC_BYTES} bytes, this has ${bytes.length}`;
  }
  if (!bytes.subarray(0, EK_PUBLIC_PREFIX.length).equals(EK_PUBLIC_PREFIX)) {
    return 'the bytes have the length of an endorsement key but not the TCG template L-1 for RSA 2048';
  }
  const modulus = bytes.subarray(EK_PUBLIC_PREFIX.length);
  const top = modulus[0] ?? 0;
  const bottom = modulus[MODULUS_BYTES - 1] ?? 0;
  if ((top & 0x80) === 0 || (bottom & 1) === 0) {
    return 'the modulus in this endorsement key cannot be that of an RSA 2048 key';
  }
  return undefined;
}

/**
 * Reads the base64 text that DPS and this tool use for an EK.
 * @throws IotdmError `input.invalid` when it is not canonical base64 or not an RSA 2048 EK
 */
export function parseEndorsementKey(text: string): Buffer {
  const bytes = decodeBase64(text);
  if (bytes === undefined) throw new IotdmError('input.invalid', 'the endorsement key is not base64');
  return checkEndorsementKey(bytes);
}

/** DPS's registration id of a TPM: lower-case base32 of SHA-256 over the TPM2B_PUBLIC, 52 characters. */
export function registrationIdOf(endorsementKey: Buffer): string {
  return base32(Buffer.from(digestOfKey(endorsementKey), 'binary'));
}

/** SHA-256 over the TPM2B_PUBLIC, a character for each byte: what an id that follows from the key stands for. */
export function digestOfKey(endorsementKey: Buffer): string {
  // Node.js 20.12 and later do this in one call, in half the time: it is most of what a row of an import costs.
  const { hash } = crypto as Partial<typeof crypto>;
  return hash === undefined
    ? createHash('sha256').update(endorsementKey).digest('binary')
    : hash('sha256', endorsementKey, 'binary');
}

/** The digest that a registration id stands for, or undefined when it follows from no key. */
export function digestOfRegistrationId(registrationId: string): string | undefined {
  return registrationId.length === DERIVED_ID_LENGTH
    ? decodeBase32(registrationId)?.toString('binary')
    : undefined;
}

/** The same digest in hex: what Microsoft's IoT Edge documentation shows as registration id, 64 characters. */
export function hexRegistrationIdOf(endorsementKey: Buffer): string {
  return createHash('sha256').update(endorsementKey).digest('hex');
}

/** The RSA modulus of an EK or SRK public area as a Node.js key object, for PEM output. */
export function rsaKeyObject(modulus: Buffer): KeyObject {
  return createPublicKey({
    key: { kty: 'RSA', n: modulus.toString('base64url'), e: 'AQAB' },
    format: 'jwk',
  });
}
