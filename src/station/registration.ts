/** A device registered: DPS gives it a hub, an id and a key, and all three go into a slot of its TPM. */
import type { RegistrationOptions } from '../dps/azure-registration.ts';
import type { Registered, RegistrationEvent } from '../dps/registration.ts';
import { IotdmError } from '../errors.ts';
import { formatUri, type DeviceIdentity } from '../slot/device-identity.ts';
import { KEY_PUBLIC_BYTES, KEY_PUBLIC_PREFIX } from '../slot/layout.ts';
import {
  checkRepair,
  checkSlotWritable,
  keyNameOf,
  mayBringKey,
  repairSlot,
  writeWrappedSlot,
  type RecoveryStore,
  type SlotView,
} from '../slot/slots.ts';
import { registrationIdOf } from '../tpm/endorsement-key.ts';
import { activateIdentityKey } from '../tpm/identity-key.ts';
import { SRK_HANDLE, type Tpm } from '../tpm/tpm.ts';
import type { WrappedKey } from '../tpm/tss.ts';
import type { RegistrationRecord, RegistrationRecords } from './registration-records.ts';

export interface RegistrationJob {
  readonly slots: { readonly tpm: Tpm; readonly recovery: RecoveryStore };
  readonly slot: number;
  readonly records: RegistrationRecords;
  /** Where and how to register; without a registration id it is the one derived from the EK. */
  readonly dps: Omit<RegistrationOptions<never>, 'tpm' | 'registrationId' | 'onEvent'> & {
    readonly registrationId?: string;
  };
  /** Register anew what is registered. */
  readonly anew?: boolean;
  /** Replace the identity that the slot holds, whatever it is. */
  readonly overwrite?: boolean;
  /** Has the hub judge the new identity before it replaces the old one. */
  readonly hubCheck?: HubCheck;
  readonly now: () => Date;
  readonly onEvent?: (event: RegistrationJobEvent) => void;
}

/**
 * Asks a hub whether it accepts an identity.
 * @param sign HMAC-SHA256 by the key of the identity
 * @returns false where the hub cannot be asked
 * @throws IotdmError where it does not accept it
 */
export type HubCheck = (
  identity: DeviceIdentity,
  sign: (data: Buffer) => Promise<Buffer>,
) => Promise<boolean>;

export type RegistrationJobEvent = RegistrationEvent | { readonly kind: 'storing'; readonly uri: string };

export interface RegistrationOutcome extends Omit<Registered<WrappedKey>, 'key'> {
  readonly slot: number;
  /** Name of the slot's key, hex. */
  readonly keyName: string;
  /** Whether another identity stood in the slot before. */
  readonly replaced: boolean;
  /** It was registered before, and nothing was done. */
  readonly alreadyRegistered: boolean;
  /** Whether the hub has accepted the new identity; null where it was not asked. */
  readonly hubVerified: boolean | null;
}

/** What is known of a registration before it is made; what is not is null. */
export interface RegistrationPreview {
  readonly registrationId: string;
  readonly deviceId: string | null;
  readonly assignedHub: string | null;
  readonly status: 'assigned' | null;
  readonly substatus: string | null;
  readonly slot: number;
  readonly alreadyRegistered: boolean;
  /** Whether it would replace what stands in the slot. */
  readonly replaced: boolean;
}

/**
 * Registers the device and writes what it got into the slot. Until DPS has answered and the TPM has opened and tried the new
 * key, the slot stays as it is; run again, it goes on or finds that nothing is left to do.
 * @throws IotdmError `tpm.slot-not-empty`, `tpm.slot-foreign`, what `registerWithDps` and `writeWrappedSlot` throw
 */
export async function registerDevice(job: RegistrationJob): Promise<RegistrationOutcome> {
  const { slots, slot, records, dps, onEvent } = job;
  await takeUpRegistration(job);
  const { known, isDone } = await planRegistration(job);
  if (known !== undefined && isDone) return alreadyRegistered(known);

  const registered = await attest(job, known);
  const { key, tpmName, ...result } = registered;
  const identity = { hostName: result.assignedHub, deviceId: result.deviceId, moduleId: null };
  const keyName = keyNameOf(key).toString('hex');
  const hubVerified = (await checkWithHub(job, identity, key)) ?? null;
  onEvent?.({ kind: 'storing', uri: formatUri(identity) });
  // Before the slot is touched: whoever finishes an interrupted write need not know where the key came from.
  records.write({
    slot,
    keyName,
    isDerivedId: dps.registrationId === undefined,
    idScope: dps.idScope,
    deviceHost: dps.host,
    registrationId: result.registrationId,
    deviceId: result.deviceId,
    assignedHub: result.assignedHub,
    substatus: result.substatus,
    registeredAt: job.now().toISOString(),
    isSuperseded: false,
  });
  const { replaced } = await writeWrappedSlot(slots, slot, { identity, key }, { overwrite: true }).catch(
    (error: unknown) => {
      const isKept = keyName === known?.keyName || mayBringKey(slots.recovery, tpmName, slot, keyName);
      if (!isKept) records.remove(slot, keyName);
      throw error;
    },
  );
  if (known !== undefined && known.keyName !== keyName) records.remove(slot, known.keyName);
  return { ...result, slot, keyName, replaced, alreadyRegistered: false, hubVerified };
}

interface RegistrationPlan {
  /** The record of what the slot holds, where it was registered from here. */
  readonly known: RegistrationRecord | undefined;
  /** It holds what is asked for. */
  readonly isDone: boolean;
  readonly isEmpty: boolean;
}

/**
 * What stands in the way of a registration, or makes it needless. Changes nothing.
 * @throws IotdmError as `registerDevice` does before it changes anything
 */
async function planRegistration(
  job: Pick<RegistrationJob, 'slots' | 'slot' | 'records' | 'dps' | 'anew' | 'overwrite'>,
): Promise<RegistrationPlan> {
  const { slots, slot, records, dps, anew = false, overwrite = false } = job;
  const before = await checkSlotWritable(slots, slot, { overwrite: true });
  const known = before.keyName === null ? undefined : records.find(slot, before.keyName);
  const isSame = known !== undefined && isSameRegistration(known, before, dps);
  if (before.state !== 'empty' && !overwrite && !isSame) throw inTheWay(before, known);
  return {
    known,
    isDone: isSame && !known.isSuperseded && !anew && !overwrite,
    isEmpty: before.state === 'empty',
  };
}

/** What a registration would come to. Changes nothing, and asks nobody. @throws as `planRegistration` does */
export async function previewRegistration(
  job: Pick<RegistrationJob, 'slots' | 'slot' | 'records' | 'dps' | 'anew' | 'overwrite'>,
): Promise<RegistrationPreview> {
  const { slots, slot, dps } = job;
  const { known, isDone, isEmpty } = await planRegistration(job);
  if (known !== undefined && isDone) {
    const { registrationId, deviceId, assignedHub, substatus } = known;
    const found = { registrationId, deviceId, assignedHub, status: 'assigned', substatus, slot } as const;
    return { ...found, alreadyRegistered: true, replaced: false };
  }
  const registrationId =
    dps.registrationId ?? registrationIdOf((await slots.tpm.readEndorsementKey()).publicArea);
  const unknown = { deviceId: null, assignedHub: null, status: null, substatus: null };
  return { registrationId, ...unknown, slot, alreadyRegistered: false, replaced: !isEmpty };
}

/**
 * Finishes what an earlier registration had begun to write when it was interrupted. The slot's own record has all that
 * this takes; other changes that were interrupted are left for `iotdm slot repair`.
 */
export async function takeUpRegistration({
  slots,
  slot,
  records,
  anew = false,
  overwrite = false,
}: Pick<RegistrationJob, 'slots' | 'slot' | 'records' | 'anew' | 'overwrite'>): Promise<void> {
  if (anew || overwrite || !slots.recovery.mayHave(slot)) return;
  const { outcome, change } = await checkRepair(slots, slot).catch((error: unknown) => {
    // Whatever there is cannot be finished: what stands in the slot decides.
    if (error instanceof IotdmError && /^(?:tpm|input)\./.test(error.code))
      return { outcome: 'nothing', change: null };
    throw error;
  });
  // The very key that was registered: an identity of the same name may have been meant otherwise.
  const isOurs =
    change?.kind === 'write' &&
    records.all(slot).some((record) => change.keyName === record.keyName && change.uri === uriOf(record));
  if (outcome === 'finished' && isOurs) await repairSlot(slots, slot);
}

/** The part that needs both the TPM and DPS. An EK that is derived is held all the while: to derive it again is slow. */
async function attest(
  { slots: { tpm }, records, dps, onEvent }: RegistrationJob,
  known: RegistrationRecord | undefined,
): Promise<Registered<WrappedKey> & { readonly tpmName: Buffer }> {
  const { registerWithDps } = await import('../dps/azure-registration.ts');
  return tpm.withEndorsementKey(async (endorsementKey, ekHandle) => {
    const storageRootKey = await tpm.readStorageRootKey({ persist: true });
    const registrationId = dps.registrationId ?? registrationIdOf(endorsementKey.publicArea);
    const isItsKey = known?.registrationId === registrationId && known.idScope === dps.idScope;
    const registered = await registerWithDps<WrappedKey>({
      ...dps,
      registrationId,
      ...(onEvent === undefined ? {} : { onEvent }),
      tpm: {
        endorsementKey: endorsementKey.publicArea,
        storageRootKey: storageRootKey.publicArea,
        takeOver: async (blob) => {
          const key = await activateIdentityKey(tpm, blob, { ekHandle, srkHandle: SRK_HANDLE });
          if (!isSlotKey(key)) {
            throw new IotdmError(
              'verify.identity-key',
              'the service sent a key of another kind than a slot holds',
            );
          }
          return key;
        },
        sign: async (key, data) => {
          const signature = await tpm.withLoaded(SRK_HANDLE, key, ({ handle }) => tpm.hmac(handle, data));
          // With this DPS may give the hub another key: until that is in the slot, the old one is registered no more.
          if (isItsKey) records.write({ ...known, isSuperseded: true });
          return signature;
        },
      },
    });
    return { ...registered, tpmName: storageRootKey.name };
  });
}

async function checkWithHub(
  { slots: { tpm }, hubCheck }: RegistrationJob,
  identity: DeviceIdentity,
  key: WrappedKey,
): Promise<boolean | undefined> {
  return hubCheck?.(identity, (data) =>
    tpm.withLoaded(SRK_HANDLE, key, ({ handle }) => tpm.hmac(handle, data)),
  );
}

function isSameRegistration(
  known: RegistrationRecord,
  { state, uri }: SlotView,
  { registrationId, idScope }: RegistrationJob['dps'],
): boolean {
  const isSameId = registrationId === undefined ? known.isDerivedId : known.registrationId === registrationId;
  return state === 'ready' && uri === uriOf(known) && isSameId && known.idScope === idScope;
}

function alreadyRegistered(known: RegistrationRecord): RegistrationOutcome {
  const { registrationId, deviceId, assignedHub, substatus, slot, keyName } = known;
  return {
    registrationId,
    deviceId,
    assignedHub,
    status: 'assigned',
    substatus,
    payload: null,
    slot,
    keyName,
    replaced: false,
    alreadyRegistered: true,
    hubVerified: null,
  };
}

function inTheWay(before: SlotView, known: RegistrationRecord | undefined): IotdmError {
  const { slot, state, uri, keyName, interrupted } = before;
  const details = { slot, state, uri, keyName, interrupted };
  if (state === 'incomplete') {
    return new IotdmError('tpm.slot-incomplete', `slot ${slot} is incomplete: ${before.remark ?? ''}`, {
      details,
    });
  }
  const from = known === undefined ? '' : `, registered as ${known.registrationId} in ${known.idScope}`;
  return new IotdmError(
    'tpm.slot-not-empty',
    `slot ${slot} is not empty: it holds ${uri ?? 'a key'}${from}`,
    {
      details,
    },
  );
}

function uriOf({ assignedHub, deviceId }: RegistrationRecord): string {
  return formatUri({ hostName: assignedHub, deviceId, moduleId: null });
}

/** Exactly what a slot holds: what is otherwise would be taken for a foreign object. */
function isSlotKey({ publicPart }: WrappedKey): boolean {
  return (
    publicPart.length === KEY_PUBLIC_BYTES &&
    publicPart.subarray(0, KEY_PUBLIC_PREFIX.length).equals(KEY_PUBLIC_PREFIX)
  );
}
