/**
 * A change to a slot, step by step, and back. The old URI goes first and the new one comes last, so that no moment shows
 * one identity's key under another's name. Each step can be the last one before the power goes: what follows from what
 * stands in the TPM is done by whoever comes next.
 */
import { IotdmError, mayHaveTakenEffect } from '../errors.ts';
import { keyHandle, ROOM_PROBE_INDEX, URI_ATTRIBUTES, uriIndex } from './layout.ts';
import { readSlotParts, type SlotParts } from './parts.ts';
import { isKeyAsBefore, isUriAsBefore, nameOf, type SlotBefore, type Target } from './record.ts';
import type { SlotTpm } from './slot-tpm.ts';

/** What a change may have done: also where a step got no answer, as the TPM may have done it all the same. */
export class Progress {
  /** The slot may hold something else than before. */
  changed = false;
  /** The probe for room may be left in the TPM. */
  hasProbe = false;

  async changing(step: Promise<void>): Promise<void> {
    await noting(step, () => {
      this.changed = true;
    });
  }

  async probing(step: Promise<void>): Promise<void> {
    await noting(step, () => {
      this.hasProbe = true;
    });
  }
}

async function noting(step: Promise<void>, note: () => void): Promise<void> {
  try {
    await step;
  } catch (error) {
    if (mayHaveTakenEffect(error)) note();
    throw error;
  }
  note();
}

/** Whether the slot holds what it is to hold. */
export function isReached({ key, uri }: SlotParts, target: Target): boolean {
  return isKeyReached({ key, uri }, target) && isUriReached({ key, uri }, target);
}

function isKeyReached({ key }: SlotParts, target: Target): boolean {
  if (target.key === undefined) return true;
  if (target.key === null) return key.kind === 'absent';
  return key.kind === 'right' && key.name.equals(nameOf(target.key));
}

function isUriReached({ uri }: SlotParts, target: Target): boolean {
  if (target.uri === undefined) return true;
  if (target.uri === null) return uri.kind === 'absent';
  return uri.kind === 'right' && uri.text === target.uri;
}

/**
 * Brings the slot from what stands there to what is to stand there. At most five TPM commands.
 * @param transientHandle of the target's key, where it has one
 */
export async function advance(
  tpm: SlotTpm,
  slot: number,
  parts: SlotParts,
  target: Target,
  progress: Progress,
  transientHandle?: number,
): Promise<void> {
  if (isReached(parts, target)) return;
  const { key, uri } = parts;
  const newUri = typeof target.uri === 'string' ? Buffer.from(target.uri, 'utf8') : undefined;
  const isPlaceTaken = newUri !== undefined && uri.kind === 'unwritten' && uri.size === newUri.length;
  if (target.uri !== undefined && uri.kind !== 'absent' && !isPlaceTaken) {
    await progress.changing(tpm.nvUndefine(uriIndex(slot)));
  }
  // Before the old key goes: where there is no room for the URI, the old one still fits.
  if (newUri !== undefined && !isPlaceTaken) {
    await progress.changing(tpm.nvDefine(uriIndex(slot), URI_ATTRIBUTES, newUri.length));
  }
  if (!isKeyReached(parts, target)) {
    if (key.kind !== 'absent') await progress.changing(tpm.removePersistent(keyHandle(slot)));
    if (transientHandle !== undefined) await progress.changing(tpm.persist(transientHandle, keyHandle(slot)));
  }
  if (newUri !== undefined) await progress.changing(tpm.nvWrite(uriIndex(slot), newUri));
}

/**
 * Brings the slot back to what stood there.
 * @returns false where that cannot be: a key that is gone does not come back, and what was foreign is not known
 */
export async function takeBack(tpm: SlotTpm, slot: number, before: SlotBefore): Promise<boolean> {
  const parts = await readSlotParts(tpm, slot);
  if (!canTakeBack(parts, before)) return false;
  if (isUriAsBefore(parts.uri, before) && isKeyAsBefore(parts.key, before)) return true;
  const target: Target = {
    ...(isUriAsBefore(parts.uri, before) ? {} : { uri: before.uri?.text ?? null }),
    ...(isKeyAsBefore(parts.key, before) ? {} : { key: null }),
  };
  await advance(tpm, slot, parts, target, new Progress());
  return true;
}

export function canTakeBack({ key, uri }: SlotParts, before: SlotBefore): boolean {
  if (!isKeyAsBefore(key, before) && before.keyName !== null) return false;
  return isUriAsBefore(uri, before) || before.uri === null || before.uri.text !== null;
}

/** How many bytes the new URI needs beyond the place that the old one leaves. */
export function extraUriBytes({ uri }: SlotParts, target: Target): number {
  if (typeof target.uri !== 'string' || uri.kind === 'absent') return 0;
  return Math.max(0, Buffer.byteLength(target.uri) - uri.size);
}

/**
 * Tries whether there is room for an NV index of this size, as no TPM tells. Two TPM commands.
 * @throws IotdmError `tpm.no-room`
 */
export async function probeRoom(tpm: SlotTpm, bytes: number, progress: Progress): Promise<void> {
  const define = (): Promise<void> => progress.probing(tpm.nvDefine(ROOM_PROBE_INDEX, URI_ATTRIBUTES, bytes));
  try {
    await define();
  } catch (error) {
    if (!(error instanceof IotdmError) || error.code !== 'tpm.occupied') throw error;
    if (!(await removeRoomProbe(tpm))) throw error;
    await define();
  }
  await tpm.nvUndefine(ROOM_PROBE_INDEX);
  progress.hasProbe = false;
}

/** Removes a probe that was left behind. One TPM command where there is none. @returns false for what is not ours */
export async function removeRoomProbe(tpm: SlotTpm): Promise<boolean> {
  const area = await tpm.nvReadPublic(ROOM_PROBE_INDEX);
  if (area === undefined) return true;
  // Never written: nothing is lost.
  if (area.attributes >>> 0 !== URI_ATTRIBUTES) return false;
  await tpm.nvUndefine(ROOM_PROBE_INDEX);
  return true;
}
