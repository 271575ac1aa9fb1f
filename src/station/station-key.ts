/**
 * The key with which a station signs what leaves it: Ed25519 (RFC 8032), in PEM, so that openssl makes it and can check
 * what it has signed.
 */
import { createHash, createPrivateKey, createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import { IotdmError } from '../errors.ts';
import type { Secret } from '../secret.ts';

/** Length of an Ed25519 signature in bytes. */
export const SIGNATURE_BYTES = 64;

export interface StationSigner {
  /** See `stationKeyId`. */
  readonly keyId: string;
  /** 64 bytes. */
  sign(content: Buffer): Buffer;
}

/**
 * A private key in PEM (PKCS#8, not encrypted).
 * @throws IotdmError `input.station-key`, whose details say what it is instead
 */
export function readStationSigner(pem: Secret): StationSigner {
  const text = pem.revealText();
  if (/-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type:.*ENCRYPTED/.test(text))
    throw unusable(
      'encrypted',
      'the station key is encrypted with a passphrase, which iotdm does not ask for',
    );
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) {
    const what = text.includes('-----BEGIN PUBLIC KEY-----')
      ? 'it is a public key'
      : 'it is no PEM private key';
    throw unusable('not-private', `the station key cannot sign: ${what}`);
  }
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: pem.bytes, format: 'pem' });
  } catch {
    // The reason may quote the key.
    throw unusable(
      'unreadable',
      'the station key cannot be read: it is damaged, or of a kind that is not known',
    );
  }
  refuseOtherKinds(key);
  return { keyId: stationKeyId(createPublicKey(key)), sign: (content) => sign(null, content, key) };
}

/**
 * A public key in PEM (SubjectPublicKeyInfo).
 * @throws IotdmError `input.station-key`, `input.private-key`
 */
export function readStationKey(pem: Buffer): KeyObject {
  const text = pem.toString('latin1');
  if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) {
    throw new IotdmError('input.private-key', 'a private key was given to check signatures with');
  }
  if (!text.includes('-----BEGIN PUBLIC KEY-----'))
    throw unusable('not-public', 'the key to check signatures with is no PEM public key');
  let key: KeyObject;
  try {
    key = createPublicKey({ key: pem, format: 'pem' });
  } catch {
    throw unusable('unreadable', 'the key to check signatures with cannot be read: it is damaged');
  }
  refuseOtherKinds(key);
  return key;
}

/** Whether this station has signed the content. */
export function isSignedBy(key: KeyObject, content: Buffer, signature: Buffer): boolean {
  return signature.length === SIGNATURE_BYTES && verify(null, content, key, signature);
}

/** SHA-256 of the SubjectPublicKeyInfo, in hex: `openssl pkey -pubin -in FILE -outform der | sha256sum`. */
export function stationKeyId(key: KeyObject): string {
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

function refuseOtherKinds(key: KeyObject): void {
  const kind = key.asymmetricKeyType;
  if (kind !== 'ed25519')
    throw unusable('other-kind', `a station key is an Ed25519 key, this is ${kind ?? 'none'}`);
}

function unusable(reason: string, message: string): IotdmError {
  return new IotdmError('input.station-key', message, { details: { reason } });
}
