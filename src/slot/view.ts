/** What a slot holds, for people and scripts. Reading changes nothing. */
import { keyHandle, SLOT_COUNT, uriIndex } from './layout.ts';
import { InterruptedChanges, isStillOf, type FoundRecord } from './interrupted.ts';
import { noParts, readSlotParts, type KeyPart, type SlotParts, type UriPart } from './parts.ts';
import type { ChangeKind, ChangeRecord } from './record.ts';
import type { RecoveryStore } from './recovery.ts';
import type { SlotTpm } from './slot-tpm.ts';

/**
 * `empty`: nothing there. `ready`: key and URI, both as they should be. `incomplete`: one of them is missing or was never
 * written. `foreign`: something else stands at a handle or index of this slot.
 */
export type SlotState = 'empty' | 'ready' | 'incomplete' | 'foreign';

export interface SlotView {
  readonly slot: number;
  readonly state: SlotState;
  readonly uri: string | null;
  readonly hostName: string | null;
  readonly deviceId: string | null;
  readonly moduleId: string | null;
  /** Name of the key object, hex. */
  readonly keyName: string | null;
  /** For people: what is missing, strange or interrupted; null where there is nothing to say. */
  readonly remark: string | null;
  /** A change that was interrupted and can be finished or taken back without the secret. */
  readonly interrupted: ChangeKind | null;
}

/**
 * What stands in one slot. Two TPM commands for an empty slot, three for a full one, one more where a change to this
 * slot of some TPM was interrupted.
 * @param recovery where records of interrupted changes are; without it none is looked for
 */
export async function showSlot(tpm: SlotTpm, slot: number, recovery?: RecoveryStore): Promise<SlotView> {
  const parts = await readSlotParts(tpm, slot);
  return viewOf(slot, parts, await new InterruptedChanges(tpm, recovery).of(slot));
}

/** All slots, the empty ones too. Two TPM commands, and up to three for each slot in use. */
export async function listSlots(tpm: SlotTpm, recovery?: RecoveryStore): Promise<SlotView[]> {
  const used = await usedSlots(tpm);
  const changes = new InterruptedChanges(tpm, recovery);
  const views: SlotView[] = [];
  for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
    const parts = used.has(slot) ? await readSlotParts(tpm, slot) : noParts;
    views.push(viewOf(slot, parts, await changes.of(slot)));
  }
  return views;
}

/** Numbers of the slots in which anything stands. Two TPM commands. */
export async function usedSlots(tpm: SlotTpm): Promise<ReadonlySet<number>> {
  return new Set([
    ...(await tpm.handles(keyHandle(0), SLOT_COUNT)).map((handle) => handle - keyHandle(0)),
    ...(await tpm.handles(uriIndex(0), SLOT_COUNT)).map((index) => index - uriIndex(0)),
  ]);
}

export function viewOf(slot: number, parts: SlotParts, found?: FoundRecord): SlotView {
  const { key, uri } = parts;
  const identity = uri.kind === 'right' ? uri.identity : undefined;
  const { state, remark } = stateOf(key, uri);
  const isOurs = found?.kind === 'record' && isStillOf(parts, found.record);
  const remarks = [remark, found === undefined ? null : recordRemark(parts, found)];
  return {
    slot,
    state,
    uri: uri.kind === 'right' ? uri.text : null,
    hostName: identity?.hostName ?? null,
    deviceId: identity?.deviceId ?? null,
    moduleId: identity?.moduleId ?? null,
    keyName: key.kind === 'right' ? key.name.toString('hex') : null,
    remark: remarks.filter((text) => text !== null).join('; ') || null,
    interrupted: isOurs ? found.record.kind : null,
  };
}

function stateOf(key: KeyPart, uri: UriPart): { state: SlotState; remark: string | null } {
  if (key.kind === 'foreign') return { state: 'foreign', remark: key.why };
  if (uri.kind === 'foreign') return { state: 'foreign', remark: uri.why };
  if (key.kind === 'absent' && uri.kind === 'absent') return { state: 'empty', remark: null };
  if (key.kind === 'right' && uri.kind === 'right') return { state: 'ready', remark: null };
  if (key.kind === 'right') return { state: 'incomplete', remark: 'it has a key but no URI' };
  return {
    state: 'incomplete',
    remark: uri.kind === 'right' ? 'it has a URI but no key' : 'it has neither a key nor a written URI',
  };
}

function recordRemark(parts: SlotParts, found: FoundRecord): string | null {
  if (found.kind === 'damaged') return `the recovery file of an interrupted change is damaged`;
  // Somebody else has written the slot since: the record is of no use, and removed by the next write.
  if (!isStillOf(parts, found.record)) return null;
  return `${describeChange(found.record)} was interrupted`;
}

/** Such as `writing plant.azure-devices.net/press-17`. */
export function describeChange({ kind, target }: Pick<ChangeRecord, 'kind' | 'target'>): string {
  switch (kind) {
    case 'write':
    case 'uri write':
      return `writing ${target.uri ?? ''}`;
    case 'key write':
      return 'writing a key';
    case 'clear':
      return 'clearing it';
  }
}
