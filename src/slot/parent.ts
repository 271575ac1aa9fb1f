/** The parent of a slot's key: the storage root key, made where there is none, and not left behind for nothing. */
import type { Looked } from './guard.ts';
import { SRK_HANDLE } from './layout.ts';
import { readSlotParts } from './parts.ts';
import { beforeOf, isKeyAsBefore, isUriAsBefore } from './record.ts';
import type { SlotAccess } from './slot-tpm.ts';
import { prepareParent } from './transaction.ts';

/**
 * Runs a change that needs a parent for a new key. Where the change fails and the slot is as it was, a storage root key
 * that was made for it is removed again, so that the TPM holds what it held before.
 * @param standing persistent handles
 * @param change gets the name of the storage root key
 * @throws IotdmError as `prepareParent` and the change do
 */
export async function withParent<T>(
  access: SlotAccess,
  slot: number,
  looked: Looked,
  standing: ReadonlySet<number>,
  change: (tpmName: Buffer) => Promise<T>,
): Promise<T> {
  const tpmName = await prepareParent(access, slot, looked, standing);
  try {
    return await change(tpmName);
  } catch (error) {
    // Where the TPM does not answer any more it cannot be done, and the change's own failure says more than this one's.
    if (!standing.has(SRK_HANDLE)) await removeIfUnused(access, slot, looked).catch(() => undefined);
    throw error;
  }
}

async function removeIfUnused({ tpm, recovery }: SlotAccess, slot: number, looked: Looked): Promise<void> {
  const before = beforeOf(looked.parts);
  const { key, uri } = await readSlotParts(tpm, slot);
  // A record of a change under way is good for nothing without the storage root key.
  if (recovery.mayHave(slot) || !isKeyAsBefore(key, before) || !isUriAsBefore(uri, before)) return;
  await tpm.removePersistent(SRK_HANDLE);
}
