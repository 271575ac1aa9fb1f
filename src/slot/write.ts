/** Writing a whole identity into a slot, and clearing it. */
import type { Secret } from '../secret.ts';
import { formatUri, type DeviceCredentials, type DeviceIdentity } from './device-identity.ts';
import { lookAt, refuseToDestroy, standingKeys, type Leave, type Looked } from './guard.ts';
import { advance, Progress } from './change.ts';
import { SRK_HANDLE } from './layout.ts';
import { withParent } from './parent.ts';
import { nameOf } from './record.ts';
import type { SlotAccess, WrappedKey } from './slot-tpm.ts';
import { carryOut, freeLeftover } from './transaction.ts';
import type { SlotView } from './view.ts';

export interface SlotWritten {
  readonly slot: number;
  readonly uri: string;
  readonly keyName: string;
  /** Whether another identity stood there before. */
  readonly replaced: boolean;
}

/**
 * Puts an identity into a slot and proves that the TPM signs with its key before it returns. At most 14 TPM commands
 * into an empty slot.
 * @throws IotdmError `tpm.slot-not-empty`, `tpm.slot-foreign`, `tpm.no-room` and what else `carryOut` throws
 */
export async function writeSlot(
  access: SlotAccess,
  slot: number,
  { identity, key }: DeviceCredentials,
  leave: Leave = {},
): Promise<SlotWritten> {
  const standing = await standingKeys(access.tpm);
  const looked = await lookAt(access, slot, standing);
  refuseToDestroy(looked.view, leave);
  return withParent(access, slot, looked, standing, async (tpmName) => {
    const wrapped = await access.tpm.createHmacKey(SRK_HANDLE, key.bytes);
    return install(access, slot, { identity, wrapped, tpmName, looked, secret: key });
  });
}

/**
 * The same with a key that this TPM has wrapped under its storage root key already, as one that a service has encrypted
 * to the TPM: the secret itself is nowhere outside of it.
 */
export async function writeWrappedSlot(
  access: SlotAccess,
  slot: number,
  { identity, key }: { readonly identity: DeviceIdentity; readonly key: WrappedKey },
  leave: Leave = {},
): Promise<SlotWritten> {
  const standing = await standingKeys(access.tpm);
  const looked = await lookAt(access, slot, standing);
  refuseToDestroy(looked.view, leave);
  return withParent(access, slot, looked, standing, (tpmName) =>
    install(access, slot, { identity, wrapped: key, tpmName, looked }),
  );
}

async function install(
  access: SlotAccess,
  slot: number,
  {
    identity,
    wrapped,
    tpmName,
    looked,
    secret,
  }: {
    readonly identity: DeviceIdentity;
    readonly wrapped: WrappedKey;
    readonly tpmName: Buffer;
    readonly looked: Looked;
    readonly secret?: Secret;
  },
): Promise<SlotWritten> {
  const uri = formatUri(identity);
  await carryOut(access, {
    kind: 'write',
    slot,
    tpmName,
    target: { uri, key: wrapped },
    looked,
    ...(secret === undefined ? {} : { secret }),
  });
  const replaced = looked.view.state !== 'empty';
  return { slot, uri, keyName: nameOf(wrapped).toString('hex'), replaced };
}

/**
 * Empties a slot: the URI first, then the key.
 * @returns what stood there before
 * @throws IotdmError `tpm.slot-foreign`, `tpm.slot-incomplete`
 */
export async function clearSlot(
  access: SlotAccess,
  slot: number,
  { force = false }: Pick<Leave, 'force'> = {},
): Promise<SlotView> {
  const looked = await lookAt(access, slot);
  const { parts, view } = looked;
  refuseToDestroy(view, { overwrite: true, force });
  const target = { uri: null, key: null };
  if (parts.uri.kind === 'absent' || parts.key.kind === 'absent') {
    // One step needs no record.
    await advance(access.tpm, slot, parts, target, new Progress());
    await forget(access, slot);
    return view;
  }
  const { name: tpmName } = await access.tpm.readStorageRootKey();
  await freeLeftover(access, slot, tpmName);
  await carryOut(access, { kind: 'clear', slot, tpmName, target, looked });
  return view;
}

/** Removes the record of a change that this slot has nothing left of. */
async function forget(access: SlotAccess, slot: number): Promise<void> {
  const { tpm, recovery } = access;
  if (!recovery.mayHave(slot)) return;
  const { name: tpmName } = await tpm.readStorageRootKey();
  await freeLeftover(access, slot, tpmName);
  recovery.remove(tpmName, slot);
}
