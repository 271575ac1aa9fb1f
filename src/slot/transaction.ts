/**
 * A change to a slot as a transaction: what can fail is tried first, what is needed to finish is on disk before the
 * first step, and only a proved slot ends it.
 */
import { IotdmError } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { advance, extraUriBytes, probeRoom, Progress, takeBack } from './change.ts';
import type { Looked } from './guard.ts';
import { InterruptedChanges, isStillOf } from './interrupted.ts';
import { keyHandle, SRK_HANDLE } from './layout.ts';
import { flushLeftover } from './leftovers.ts';
import { hmacOf, proveKey, proveUri, sameBytes, signNonce, type Proof } from './proof.ts';
import {
  beforeOf,
  formatRecord,
  isKeyAsBefore,
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
  const before = await takeOver({ tpm, recovery }, plan);
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
    throw await failure({ tpm, recovery }, plan, before, progress, error);
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
  if (extra > 0) await probeRoom(tpm, extra);
  await advance(tpm, slot, parts, target, progress, transientHandle);
}

/**
 * What stood in the slot before: of an interrupted change that this one follows, what stood there before that, as far
 * as it could still be brought back.
 */
async function takeOver({ tpm, recovery }: SlotAccess, { slot, tpmName, looked }: Plan): Promise<SlotBefore> {
  const { parts } = looked;
  const now = beforeOf(parts);
  const found = await new InterruptedChanges(tpm, recovery, tpmName).of(slot);
  if (found?.kind !== 'record') return now;
  const { before } = found.record;
  const isOldKeyThere = before.keyName !== null && isKeyAsBefore(parts.key, before);
  return isOldKeyThere && parts.uri.kind !== 'right' && isStillOf(parts, found.record) ? before : now;
}

/** What a failure comes to: taken back where the TPM still answers and the old identity is still there. */
async function failure(
  { tpm, recovery }: SlotAccess,
  plan: Plan,
  before: SlotBefore,
  progress: Progress,
  error: unknown,
): Promise<unknown> {
  const { slot, tpmName, kind, target, looked } = plan;
  if (!(error instanceof IotdmError)) return error;
  const isTpmThere = !error.code.startsWith('tpm-unavailable');
  if (!progress.changed) {
    // With the connection the key may have been left loaded, and is known by the record.
    if (isTpmThere) recovery.remove(tpmName, slot);
    return error;
  }
  // A slot that is written and fails its proof is not taken back: what is wrong with it is still to be seen.
  if (isTpmThere && error.code !== 'verify.slot') {
    const isBack = await takeBack(tpm, slot, before).catch(() => false);
    if (isBack) {
      recovery.remove(tpmName, slot);
      return error;
    }
  }
  if (error.code === 'verify.slot') return error;
  const lost = looked.view.uri === null ? '' : `, and may no longer hold ${looked.view.uri}`;
  return new IotdmError(
    'tpm.slot-incomplete',
    `${describeChange({ kind, target })} in slot ${slot} may be only partly done${lost}: ${error.message}`,
    {
      cause: error,
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
