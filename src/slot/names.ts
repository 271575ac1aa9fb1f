/** The TPM's names of what stands in the slots, whatever it is: Limpet lists and prints them. */
import { SLOT_COUNT } from './layout.ts';
import { readSlotParts } from './parts.ts';
import type { SlotTpm } from './slot-tpm.ts';
import { usedSlots } from './view.ts';

export interface SlotNames {
  readonly slot: number;
  /** nameAlg and digest of the key's public area; null where no key stands. */
  readonly keyName: Buffer | null;
  /** nameAlg and digest of the NV index's public area; null where there is none. */
  readonly storageName: Buffer | null;
}

/** Two TPM commands, three where a URI stands. */
export async function slotNames(tpm: SlotTpm, slot: number): Promise<SlotNames> {
  const { key, uri } = await readSlotParts(tpm, slot);
  return {
    slot,
    keyName: key.kind === 'absent' ? null : key.name,
    storageName: uri.kind === 'absent' ? null : uri.name,
  };
}

/** Those in use. Two TPM commands, and up to three for each. */
export async function listSlotNames(tpm: SlotTpm): Promise<SlotNames[]> {
  const used = await usedSlots(tpm);
  const named: SlotNames[] = [];
  for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
    if (used.has(slot)) named.push(await slotNames(tpm, slot));
  }
  return named;
}
