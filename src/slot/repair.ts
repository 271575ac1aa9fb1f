/**
 * Ends a change that was interrupted: finishes it, or takes it back where all that the slot held before is still to be
 * had. The secret is not needed: the record holds the new key as this TPM wrapped it.
 *
 * A record is not trusted. Its key must be one that this TPM loads, and its contents must be signed by that key, or by
 * the slot's own where no key is new.
 */
import { IotdmError, withDetails } from '../errors.ts';
import {
  advance,
  canTakeBack,
  extraUriBytes,
  isReached,
  probeRoom,
  Progress,
  removeRoomProbe,
  takeBack,
} from './change.ts';
import { lookAt, notReady, standingKeys, type Looked } from './guard.ts';
import { InterruptedChanges, isStillOf } from './interrupted.ts';
import { keyHandle, SRK_HANDLE } from './layout.ts';
import { proveKey, proveUri, sameBytes, signNonce, type Proof } from './proof.ts';
import {
  damaged,
  isKeyAsBefore,
  isUriAsBefore,
  signedOfRecord,
  type ChangeRecord,
  type ParsedRecord,
  type SlotBefore,
  nameOf,
  type ChangeKind,
} from './record.ts';
import type { SlotParts } from './parts.ts';
import type { SlotAccess, SlotTpm } from './slot-tpm.ts';
import { freeLeftover } from './transaction.ts';
import { describeChange, showSlot, type SlotView } from './view.ts';

/**
 * `finished`: the slot holds what was to be written, and has proved it, or is empty as it was to be. `undone`: it holds
 * what it held before. `outdated`: somebody has written it since, and the record was removed. `nothing`: there was none.
 */
export type RepairOutcome = 'finished' | 'undone' | 'outdated' | 'nothing';

export interface SlotRepaired extends SlotView {
  readonly outcome: RepairOutcome;
}

export interface RepairOptions {
  /** Take the change back in place of finishing it. */
  readonly undo?: boolean;
}

interface RepairPlan {
  readonly outcome: RepairOutcome;
  readonly tpmName: Buffer;
  readonly looked: Looked;
  readonly parsed?: ParsedRecord;
}

/**
 * What `repairSlot` would come to. Changes nothing.
 * @throws IotdmError as `repairSlot` does before it changes anything
 */
export async function checkRepair(
  access: SlotAccess,
  slot: number,
  options: RepairOptions = {},
): Promise<{
  readonly outcome: RepairOutcome;
  /** For people. */
  readonly what: string | null;
  readonly change: InterruptedChange | null;
}> {
  const { outcome, parsed } = await planRepair(access, slot, options);
  if (parsed === undefined) return { outcome, what: null, change: null };
  const { record } = parsed;
  const { kind, target } = record;
  const keyName = target.key == null ? null : nameOf(target.key).toString('hex');
  return { outcome, what: describeChange(record), change: { kind, uri: target.uri ?? null, keyName } };
}

/** What an interrupted change was to make of its slot, as its record has it. */
export interface InterruptedChange {
  readonly kind: ChangeKind;
  /** Null where it was to go, or to stay as it was. */
  readonly uri: string | null;
  /** Name of the key, hex; null as above. */
  readonly keyName: string | null;
}

/**
 * @throws IotdmError `input.recovery-damaged` and `tpm.cannot-undo` with nothing changed; `tpm.slot-incomplete` for a
 * slot that is incomplete and of which there is no record; `verify.slot`; what the TPM refuses, with the record kept
 */
export async function repairSlot(
  access: SlotAccess,
  slot: number,
  options: RepairOptions = {},
): Promise<SlotRepaired> {
  const { tpm, recovery } = access;
  const { outcome, tpmName, looked, parsed } = await planRepair(access, slot, options);
  if (outcome === 'nothing') return { ...looked.view, outcome };
  await freeLeftover(access, slot, tpmName);
  if (parsed !== undefined) {
    const { record } = parsed;
    try {
      if (record.target.key != null) {
        if (!(await standingKeys(tpm)).has(SRK_HANDLE)) await tpm.makeStorageRootKey();
      }
      if (outcome === 'finished') await finish(tpm, looked, parsed);
      if (outcome === 'undone') await undo(tpm, looked, parsed);
    } catch (error) {
      // Its record is there still.
      throw error instanceof IotdmError ? withDetails(error, { slot, interrupted: record.kind }) : error;
    }
  }
  recovery.remove(tpmName, slot);
  return { ...(await showSlot(tpm, slot, recovery)), outcome };
}

async function planRepair(
  access: SlotAccess,
  slot: number,
  { undo: wantsUndo = false }: RepairOptions,
): Promise<RepairPlan> {
  const { tpm, recovery } = access;
  const looked = await lookAt(access, slot);
  const isWhole = looked.view.state === 'ready' || looked.view.state === 'empty';
  const { name: tpmName } = recovery.mayHave(slot)
    ? await tpm.readStorageRootKey()
    : { name: Buffer.alloc(0) };
  const found = await new InterruptedChanges(tpm, recovery, tpmName).of(slot);
  if (found === undefined) {
    if (isWhole) return { outcome: 'nothing', tpmName, looked };
    throw notReady(looked.view);
  }
  if (found.kind === 'damaged') {
    // There is nothing to finish or to take back; the slot is what it looks like.
    if (isWhole && wantsUndo) return { outcome: 'outdated', tpmName, looked };
    throw new IotdmError(found.error.code, found.error.message, {
      details: { slot, state: looked.view.state },
    });
  }
  const parsed: ParsedRecord = found;
  const { record } = parsed;
  if (!isStillOf(looked.parts, record)) {
    if (isWhole) return { outcome: 'outdated', tpmName, looked };
    throw notReady(looked.view);
  }
  if (record.target.key != null && parsed.signature === null) {
    // Signed as soon as the key is loaded, and nothing is changed before that.
    if (isUntouched(looked.parts, record.before)) return { outcome: 'undone', tpmName, looked };
    throw damaged('it is not signed', slot);
  }
  if (!wantsUndo) return { outcome: 'finished', tpmName, looked, parsed };
  if (!canTakeBack(looked.parts, record.before)) throw cannotUndo(record);
  return { outcome: 'undone', tpmName, looked, parsed };
}

function isUntouched(parts: SlotParts, before: SlotBefore): boolean {
  return isKeyAsBefore(parts.key, before) && isUriAsBefore(parts.uri, before);
}

function cannotUndo({ slot, kind }: ChangeRecord): IotdmError {
  return new IotdmError(
    'tpm.cannot-undo',
    `what slot ${slot} held before cannot be brought back: it is gone from the TPM, which gives no key away`,
    { details: { slot, interrupted: kind } },
  );
}

async function finish(tpm: SlotTpm, { parts }: Looked, parsed: ParsedRecord): Promise<void> {
  const { slot, target } = parsed.record;
  const proof = await authenticated(tpm, parts.key.kind === 'right', parsed, async (handle) => {
    await removeRoomProbe(tpm);
    if (!isReached(parts, target)) {
      const progress = new Progress();
      const extra = extraUriBytes(parts, target);
      if (extra > 0) await probeRoom(tpm, extra, progress);
      await advance(tpm, slot, parts, target, progress, handle);
    }
    return handle === undefined ? undefined : signNonce(tpm, handle);
  });
  if (proof !== undefined) await proveKey(tpm, slot, proof);
  if (typeof target.uri === 'string') await proveUri(tpm, slot, target.uri);
}

async function undo(tpm: SlotTpm, { parts }: Looked, parsed: ParsedRecord): Promise<void> {
  const { record } = parsed;
  await authenticated(tpm, parts.key.kind === 'right', parsed, () => Promise.resolve(undefined));
  await removeRoomProbe(tpm);
  if (!(await takeBack(tpm, record.slot, record.before))) throw cannotUndo(record);
}

/**
 * Runs the task once the record has proved to be written by whoever had the key.
 * @param hasKey whether a slot's key stands in the slot
 */
async function authenticated(
  tpm: SlotTpm,
  hasKey: boolean,
  { record, body, signature }: ParsedRecord,
  task: (transientHandle?: number) => Promise<Proof | undefined>,
): Promise<Proof | undefined> {
  const { slot, target } = record;
  const check = async (handle: number): Promise<void> => {
    const expected = await tpm.hmac(handle, signedOfRecord(body));
    if (signature === null || !sameBytes(signature, expected)) {
      throw damaged('it is not signed by the key that it is about', slot);
    }
  };
  if (target.key == null) {
    // Without a key in the slot there is nothing that a false record could turn to its use.
    if (hasKey) await check(keyHandle(slot));
    return task();
  }
  const progress = { isLoaded: false };
  try {
    return await tpm.withLoaded(SRK_HANDLE, target.key, async ({ handle }) => {
      progress.isLoaded = true;
      await check(handle);
      return task(handle);
    });
  } catch (error) {
    if (!progress.isLoaded && error instanceof IotdmError && error.code === 'tpm.refused') {
      throw damaged('this TPM does not take the key in it', slot);
    }
    throw error;
  }
}
