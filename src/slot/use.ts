/** Using a slot: tokens and signatures by its key, inside the TPM. */
import { IotdmError } from '../errors.ts';
import { notReady } from './guard.ts';
import { keyHandle } from './layout.ts';
import { readUriPart } from './parts.ts';
import { formatLimpetSignature, limpetResource } from './limpet-signature.ts';
import type { RecoveryStore } from './recovery.ts';
import {
  encodedResource,
  formatSignature,
  formatTokenConnectionString,
  signedText,
} from './shared-access-signature.ts';
import type { SlotTpm } from './slot-tpm.ts';
import { showSlot } from './view.ts';

export interface SlotToken {
  readonly connectionString: string;
  readonly sharedAccessSignature: string;
  /** ISO 8601. */
  readonly expiresAt: string;
}

/** How a shared access signature is written: as IoT Hub documents it, or as Limpet does. */
export type SignatureForm = 'documented' | 'limpet';

const signatureForms = {
  documented: { resourceOf: encodedResource, format: formatSignature },
  limpet: { resourceOf: limpetResource, format: formatLimpetSignature },
} as const;

/**
 * A SAS connection string, signed by the slot's key inside the TPM. Three TPM commands.
 * @param expiry Unix seconds
 */
export async function slotToken(
  tpm: SlotTpm,
  slot: number,
  expiry: number,
  recovery?: RecoveryStore,
  form: SignatureForm = 'documented',
): Promise<SlotToken> {
  const uri = await readUriPart(tpm, slot);
  if (uri.kind !== 'right') throw notReady(await showSlot(tpm, slot, recovery));
  const { resourceOf, format } = signatureForms[form];
  const resource = resourceOf(uri.identity);
  const sign = (): Promise<Buffer> => tpm.hmac(keyHandle(slot), signedText(resource, expiry));
  const hmac = await signing(tpm, slot, recovery, sign);
  const sharedAccessSignature = format(resource, expiry, hmac);
  return {
    connectionString: formatTokenConnectionString(uri.identity, sharedAccessSignature),
    sharedAccessSignature,
    expiresAt: new Date(expiry * 1000).toISOString(),
  };
}

/** HMAC-SHA256 of any amount of data by the slot's key, 32 bytes. */
export async function slotSign(
  tpm: SlotTpm,
  slot: number,
  data: AsyncIterable<Buffer>,
  recovery?: RecoveryStore,
): Promise<Buffer> {
  return signing(tpm, slot, recovery, () => tpm.hmacOfStream(keyHandle(slot), data));
}

async function signing<T>(
  tpm: SlotTpm,
  slot: number,
  recovery: RecoveryStore | undefined,
  sign: () => Promise<T>,
): Promise<T> {
  try {
    return await sign();
  } catch (error) {
    if (error instanceof IotdmError && (error.code === 'tpm.key-missing' || error.code === 'tpm.refused')) {
      const now = await showSlot(tpm, slot, recovery);
      if (now.keyName === null) throw notReady(now);
    }
    throw error;
  }
}
