/** What a command may destroy, and what not. */
import { IotdmError } from '../errors.ts';
import { InterruptedChanges } from './interrupted.ts';
import { keyHandle, SLOT_COUNT, SRK_HANDLE } from './layout.ts';
import { readSlotParts, type SlotParts } from './parts.ts';
import type { SlotAccess, SlotTpm } from './slot-tpm.ts';
import { viewOf, type SlotView } from './view.ts';

export interface Leave {
  /** Replace what the slot holds. */
  readonly overwrite?: boolean;
  /** Replace even what is not a slot's key or URI. */
  readonly force?: boolean;
}

/** What a write would meet: what stands in the slot now. @throws as `writeSlot` does before it changes anything */
export async function checkSlotWritable(
  access: SlotAccess,
  slot: number,
  leave: Leave = {},
): Promise<SlotView> {
  const before = await lookAt(access, slot);
  refuseToDestroy(before.view, leave);
  return before.view;
}

/** What clearing would destroy. @throws IotdmError `tpm.slot-foreign` */
export async function checkSlotClearable(
  access: SlotAccess,
  slot: number,
  { force = false }: Pick<Leave, 'force'> = {},
): Promise<SlotView> {
  return checkSlotWritable(access, slot, { overwrite: true, force });
}

export interface Looked {
  readonly parts: SlotParts;
  readonly view: SlotView;
}

export async function lookAt(
  { tpm, recovery }: SlotAccess,
  slot: number,
  standing?: ReadonlySet<number>,
): Promise<Looked> {
  const parts = await readSlotParts(tpm, slot, standing);
  return { parts, view: viewOf(slot, parts, await new InterruptedChanges(tpm, recovery).of(slot)) };
}

/** The persistent handles from the storage root key to the last slot's key. One TPM command. */
export async function standingKeys(tpm: SlotTpm): Promise<ReadonlySet<number>> {
  return new Set(await tpm.handles(SRK_HANDLE, keyHandle(SLOT_COUNT) - SRK_HANDLE));
}

/** @throws IotdmError `tpm.slot-foreign`, `tpm.slot-not-empty`, `tpm.slot-incomplete` */
export function refuseToDestroy(before: SlotView, { overwrite = false, force = false }: Leave): void {
  if (before.state === 'foreign' && !force) throw foreign(before);
  if (before.state === 'empty' || overwrite || force) return;
  if (before.state === 'incomplete' && before.interrupted !== null) throw incomplete(before);
  const holder = before.uri === null ? '' : `: it holds ${before.uri}`;
  throw new IotdmError('tpm.slot-not-empty', `slot ${before.slot} is not empty${holder}`, {
    details: detailsOf(before),
  });
}

/** A half that is changed by itself leaves no room for the other half of a change under way. */
export function refuseWhileInterrupted(before: SlotView): void {
  if (before.interrupted !== null) throw incomplete(before);
}

/** The failure of a use that needs a ready slot. */
export function notReady(view: SlotView): IotdmError {
  switch (view.state) {
    case 'empty':
      return new IotdmError('tpm.slot-empty', `slot ${view.slot} is empty`, { details: detailsOf(view) });
    case 'foreign':
      return foreign(view);
    case 'incomplete':
    case 'ready':
      return incomplete(view);
  }
}

function foreign(view: SlotView): IotdmError {
  return new IotdmError('tpm.slot-foreign', `slot ${view.slot} is foreign: ${view.remark ?? ''}`, {
    details: detailsOf(view),
  });
}

function incomplete(view: SlotView): IotdmError {
  const what = view.state === 'incomplete' ? 'is incomplete' : 'is being changed';
  return new IotdmError('tpm.slot-incomplete', `slot ${view.slot} ${what}: ${view.remark ?? ''}`, {
    details: detailsOf(view),
  });
}

function detailsOf({ slot, state, uri, keyName, interrupted }: SlotView): Readonly<Record<string, unknown>> {
  return { slot, state, uri, keyName, interrupted };
}
