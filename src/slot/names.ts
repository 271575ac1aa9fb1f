/** The TPM's names of what stands in the slots, whatever it is: Limpet lists and prints them. */
import { keyHandle, SLOT_COUNT, uriIndex } from './layout.ts';

/** What the names need of a TPM. */
export interface NamingTpm {
  readPublic(handle: number): Promise<{ readonly name: Buffer } | undefined>;
  nvReadPublic(index: number): Promise<{ readonly name: Buffer } | undefined>;
  handles(first: number, count: number): Promise<number[]>;
}

export interface SlotNames {
  /** nameAlg and digest of the key's public area; null where no key stands. */
  readonly keyName: Buffer | null;
  /** nameAlg and digest of the NV index's public area; null where there is none. */
  readonly storageName: Buffer | null;
}

/** Two TPM commands. */
export async function slotNames(tpm: NamingTpm, slot: number): Promise<SlotNames> {
  const key = await tpm.readPublic(keyHandle(slot));
  const storage = await tpm.nvReadPublic(uriIndex(slot));
  return { keyName: key?.name ?? null, storageName: storage?.name ?? null };
}

/** Those in use. Two TPM commands, and two for each. */
export async function listSlotNames(tpm: NamingTpm): Promise<(SlotNames & { readonly slot: number })[]> {
  const keys = await tpm.handles(keyHandle(0), SLOT_COUNT);
  const indexes = await tpm.handles(uriIndex(0), SLOT_COUNT);
  const named: (SlotNames & { readonly slot: number })[] = [];
  for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
    if (!keys.includes(keyHandle(slot)) && !indexes.includes(uriIndex(slot))) continue;
    named.push({ slot, ...(await slotNames(tpm, slot)) });
  }
  return named;
}
