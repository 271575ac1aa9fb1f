/**
 * A change to a slot as a transaction: what can fail is tried first, what is needed to finish is on disk before the
 * first step, and only a proved slot ends it.
 */
import { IotdmError, withDetails } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { advance, extraUriBytes, probeRoom, Progress, removeRoomProbe, takeBack } from './change.ts';
import type { Looked } from './guard.ts';
import { InterruptedChanges, isStillOf, type FoundRecord } from './interrupted.ts';
import { keyHandle, SRK_HANDLE } from './layout.ts';
import { flushLeftover } from './leftovers.ts';
import { hmacOf, proveKey, proveUri, sameBytes, signNonce, type Proof } from './proof.ts';
import type { SlotParts } from './parts.ts';
import {
  beforeOf,
  formatRecord,
  isKeyAsBefore,
  isUriAsBefore,
  nameOf,
  recordBody,
  signedOfRecord,
  type ChangeKind,
  type SlotBefore,
  type Target,
} from './record.ts';
import type { SlotAccess, SlotTpm } from './slot-tpm.ts';
import { describeChange } from './view.ts';

export interface Plan {
  readonly kind: ChangeKind;
  readonly slot: number;
  /** Name of the storage root key. */
  readonly tpmName: Buffer;
  readonly target: Target;
  readonly looked: Looked;
  /** The new key itself, where it is known; otherwise the TPM's own copy is what the slot is compared with. */
  readonly secret?: Secret;
}

/**
 * Sees to it that there is a parent for a new key, and room for the key as far as the TPM tells. At most two TPM
 * commands where a storage root key stands, three where none does.
 * @param standing persistent handles
 * @returns the name of the storage root key
 * @throws IotdmError `tpm.no-room` with nothing changed
 */
export async function prepareParent(
  { tpm, recovery }: SlotAccess,
  slot: number,
  { parts }: Looked,
  standing: ReadonlySet<number>,
): Promise<Buffer> {
  if (!standing.has(SRK_HANDLE)) return (await tpm.makeStorageRootKey()).name;
  // 1 stands for "at least one" (Part 2, 6.13), so only 0 says anything.
  if (parts.key.kind === 'absent' && (await tpm.persistentLeft()) === 0) {
    throw new IotdmError('tpm.no-room', 'the TPM has no room for another persistent key');
  }
  const { name } = await tpm.readStorageRootKey();
  await freeLeftover({ tpm, recovery }, slot, name);
  return name;
}

/** Flushes what an interrupted change to this slot has left loaded. No TPM command where there is no record of one. */
export async function freeLeftover(
  { tpm, recovery }: SlotAccess,
  slot: number,
  tpmName: Buffer,
): Promise<void> {
  const found = await new InterruptedChanges(tpm, recovery, tpmName).of(slot);
  const key = found?.kind === 'record' ? found.record.target.key : undefined;
  if (key != null) await flushLeftover(tpm, nameOf(key));
}

/**
 * Carries the change out and proves it.
 * @throws IotdmError as the TPM gave it, with the slot as it was; `tpm.slot-incomplete` where the change is only partly
 * done, with the record left for `repairSlot`; `verify.slot`; `usage.output-unwritable` with nothing changed
 */
export async function carryOut({ tpm, recovery }: SlotAccess, plan: Plan): Promise<void> {
  const { slot, tpmName, target, looked, secret } = plan;
  const former = await new InterruptedChanges(tpm, recovery, tpmName).of(slot);
  const before = takeOver(looked.parts, former);
  const body = recordBody({ kind: plan.kind, slot, tpmName, before, target });
  const write = (signature: Buffer | null): void => {
    recovery.write(tpmName, slot, formatRecord(body, signature));
  };
  const progress = new Progress();
  try {
    let proof: Proof | undefined;
    if (target.key == null) {
      const signs = looked.parts.key.kind === 'right';
      write(signs ? await tpm.hmac(keyHandle(slot), signedOfRecord(body)) : null);
      await makeChange(tpm, plan, progress);
    } else {
      const expected = secret === undefined ? undefined : hmacOf(secret, signedOfRecord(body));
      // On disk before the key is loaded: what a killed process leaves in the TPM is known by its name.
      write(expected ?? null);
      proof = await tpm.withLoaded(SRK_HANDLE, target.key, async ({ handle }) => {
        const signature = await tpm.hmac(handle, signedOfRecord(body));
        if (expected === undefined) write(signature);
        else if (!sameBytes(signature, expected)) {
          throw new IotdmError('verify.slot', 'the TPM does not sign with the key it was given');
        }
        await makeChange(tpm, plan, progress, handle);
        return secret === undefined ? signNonce(tpm, handle) : undefined;
      });
    }
    const expected = proof ?? secret;
    if (expected !== undefined) await proveKey(tpm, slot, expected);
    if (typeof target.uri === 'string') await proveUri(tpm, slot, target.uri);
  } catch (error) {
    throw await failure({ tpm, recovery }, plan, { before, former, progress }, error);
  }
  recovery.remove(tpmName, slot);
}

/** Changes what stands in the slot, after a last look whether there is room. */
async function makeChange(
  tpm: SlotTpm,
  { slot, target, looked: { parts } }: Plan,
  progress: Progress,
  transientHandle?: number,
): Promise<void> {
  const extra = extraUriBytes(parts, target);
  if (extra > 0) await probeRoom(tpm, extra, progress);
  await advance(tpm, slot, parts, target, progress, transientHandle);
}

/**
 * What stood in the slot before: of an interrupted change that this one follows, what stood there before that, as far
 * as it could still be brought back.
 */
function takeOver(parts: SlotParts, former: FoundRecord | undefined): SlotBefore {
  const now = beforeOf(parts);
  if (former?.kind !== 'record') return now;
  const { before } = former.record;
  const isOldKeyThere = before.keyName !== null && isKeyAsBefore(parts.key, before);
  return isOldKeyThere && parts.uri.kind !== 'right' && isStillOf(parts, former.record) ? before : now;
}

/** How far a change had come. */
interface Course {
  /** What to take the slot back to. */
  readonly before: SlotBefore;
  /** Of the interrupted change that stood in the slot when this one began. */
  readonly former: FoundRecord | undefined;
  readonly progress: Progress;
}

/** What a failure comes to: taken back where the TPM still answers and the old identity is still there. */
async function failure(access: SlotAccess, plan: Plan, course: Course, error: unknown): Promise<unknown> {
  const { tpm } = access;
  const { slot, kind, target, looked } = plan;
  const { before, progress } = course;
  if (!progress.changed) {
    const isDropped = await dropRecord(access, plan, course, { isAsFound: true });
    // The record stays for whoever finishes or takes back what was begun.
    return isDropped || !(error instanceof IotdmError)
      ? error
      : withDetails(error, { slot, interrupted: kind });
  }
  // A slot that is written and fails its proof is not taken back: what is wrong with it is still to be seen.
  if (error instanceof IotdmError && error.code === 'verify.slot') return error;
  if (await takeBack(tpm, slot, before).catch(() => false)) {
    await dropRecord(access, plan, course, { isAsFound: isAsBefore(looked.parts, before) });
    return error;
  }
  if (!(error instanceof IotdmError)) return error;
  const lost = looked.view.uri === null ? '' : `, and may no longer hold ${looked.view.uri}`;
  return new IotdmError(
    'tpm.slot-incomplete',
    `${describeChange({ kind, target })} in slot ${slot} may be only partly done${lost}: ${error.message}`,
    {
      cause: error,
      // Of the change, not of the one command that failed.
      effect: 'unknown',
      details: {
        ...error.details,
        slot,
        interrupted: kind,
        before: looked.view.uri,
        causeCode: error.code,
      },
    },
  );
}

/**
 * Removes the record of a change of which nothing is left, and says whether it did; else it stays, for whoever comes next to clean up by. One
 * that was replaced, and still says how to finish what stands in the slot, comes back.
 * @param options.isAsFound whether the slot is as this change found it
 */
async function dropRecord(
  { tpm, recovery }: SlotAccess,
  { slot, tpmName, looked }: Plan,
  { former, progress }: Course,
  { isAsFound }: { readonly isAsFound: boolean },
): Promise<boolean> {
  if (tpm.mayHaveLeftLoaded) return false;
  if (progress.hasProbe && !(await removeRoomProbe(tpm).catch(() => false))) return false;
  if (isAsFound && former?.kind === 'record' && isStillOf(looked.parts, former.record)) {
    recovery.write(tpmName, slot, formatRecord(former.body, former.signature));
  } else recovery.remove(tpmName, slot);
  return true;
}

function isAsBefore({ key, uri }: SlotParts, before: SlotBefore): boolean {
  return isKeyAsBefore(key, before) && isUriAsBefore(uri, before);
}
