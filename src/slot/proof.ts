/** Proof that a slot holds what it should: a fresh nonce is signed in the TPM, and the URI is read back. */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { because, IotdmError, type ErrorReason } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { keyHandle, uriIndex } from './layout.ts';
import type { SlotTpm } from './slot-tpm.ts';

/** What the key that is to stand in the slot makes of a nonce. */
export interface Proof {
  readonly nonce: Buffer;
  readonly signature: Buffer;
}

export function sameBytes(one: Buffer, other: Buffer): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

/** HMAC-SHA256 in software. */
export function hmacOf(key: Secret, data: Buffer): Buffer {
  return createHmac('sha256', key.bytes).update(data).digest();
}

/** A fresh nonce, signed by the key at this handle. One TPM command. */
export async function signNonce(tpm: SlotTpm, handle: number): Promise<Proof> {
  const nonce = randomBytes(32);
  return { nonce, signature: await tpm.hmac(handle, nonce) };
}

/**
 * The slot's key signs a nonce as the expected key does. One TPM command.
 * @param expected the key itself, or what it has signed
 * @param which key, for the error
 * @param reason why it may be another one
 * @throws IotdmError `verify.slot`
 */
export async function proveKey(
  tpm: SlotTpm,
  slot: number,
  expected: Proof | Secret,
  which = 'that was written',
  reason?: ErrorReason,
): Promise<void> {
  const proof = 'nonce' in expected ? expected : ofSecret(expected);
  const signature = await tpm.hmac(keyHandle(slot), proof.nonce);
  if (!sameBytes(signature, proof.signature)) {
    throw new IotdmError('verify.slot', `slot ${slot} does not sign with the key ${which}`, {
      details: reason === undefined ? { slot } : because(reason, { slot }),
    });
  }
}

function ofSecret(key: Secret): Proof {
  const nonce = randomBytes(32);
  return { nonce, signature: hmacOf(key, nonce) };
}

/** Whether the slot's key is this one: both sign a fresh nonce alike. One TPM command. */
export async function isSlotKey(tpm: SlotTpm, slot: number, key: Secret): Promise<boolean> {
  const { nonce, signature } = ofSecret(key);
  return sameBytes(await tpm.hmac(keyHandle(slot), nonce), signature);
}

/** The slot's URI is this one. One TPM command. @throws IotdmError `verify.slot` */
export async function proveUri(tpm: SlotTpm, slot: number, uri: string): Promise<void> {
  const expected = Buffer.from(uri, 'utf8');
  const stored = await tpm.nvRead(uriIndex(slot), expected.length);
  if (!stored.equals(expected)) {
    throw new IotdmError('verify.slot', `slot ${slot} does not hold the URI that was written`, {
      details: { slot },
    });
  }
}
