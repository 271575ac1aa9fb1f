/** What a process that was killed has left in the transient slots of a TPM without a resource manager. */
import { IotdmError } from '../errors.ts';
import type { SlotTpm } from './slot-tpm.ts';

const FIRST_TRANSIENT = 0x80000000;
const MANY = 64;

/**
 * Flushes the key of this name where it is loaded: ours for certain, as the TPM puts a random seed into each key's name.
 * One TPM command, and one for each loaded object.
 */
export async function flushLeftover(tpm: SlotTpm, keyName: Buffer): Promise<void> {
  for (const handle of await tpm.handles(FIRST_TRANSIENT, MANY)) {
    if ((await nameAt(tpm, handle))?.equals(keyName) === true) await tpm.flushTransient(handle);
  }
}

/** Undefined for what has no public area, such as another program's hash sequence. */
async function nameAt(tpm: SlotTpm, handle: number): Promise<Buffer | undefined> {
  try {
    return (await tpm.readPublic(handle))?.name;
  } catch (error) {
    if (error instanceof IotdmError && error.code.startsWith('tpm.')) return undefined;
    throw error;
  }
}
