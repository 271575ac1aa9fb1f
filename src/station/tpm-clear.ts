/**
 * TPM2_Clear, preceded by a list of what it destroys.
 *
 * Source: TPM 2.0 Library, Part 3, section 24.6: the objects of the storage and the endorsement hierarchy, persistent
 * ones too, and the NV indexes that the platform did not make are removed; the storage seed is replaced; authorization
 * values and policies of owner, endorsement and lockout become empty. The endorsement seed stays.
 */
import { hex32 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import { keyHandle, SLOT_COUNT, uriIndex } from '../slot/layout.ts';
import { listSlots, type SlotView } from '../slot/slots.ts';
import { readCapabilities, type TpmCapabilities } from '../tpm/capabilities.ts';
import { findEkCertificate, isCertificateFor } from '../tpm/ek-certificate.ts';
import { EK_HANDLE, type Tpm } from '../tpm/tpm.ts';

const FIRST_PERSISTENT = 0x81000000;
/** From here on persistent keys are the platform's, and stay. */
const FIRST_PLATFORM_PERSISTENT = 0x81800000;
const FIRST_NV_INDEX = 0x01000000;
const ALL = 1024;

/** TPMA_NV_PLATFORMCREATE. */
const PLATFORM_CREATE = 1 << 30;

export interface ClearPlan {
  /** Those that hold something. */
  readonly slots: readonly SlotView[];
  /** Persistent keys and NV indexes that belong to no slot. */
  readonly persistentHandles: readonly number[];
  readonly nvIndexes: readonly number[];
  /**
   * Whether template L-1 gives the key at 0x81010001 again afterwards: true where the EK certificate names that key,
   * null where that is not known, undefined where nothing stands there.
   */
  readonly ekComesBack: true | null | undefined;
  /** A value for the lockout authorization was given, but none is set: the value is not used. */
  readonly lockoutAuthUnused: boolean;
  readonly capabilities: TpmCapabilities;
}

/**
 * What clearing this TPM would destroy. Changes nothing. About a dozen TPM commands, and up to three for each slot and
 * one for each NV index.
 * @throws IotdmError `tpm.clear-disabled`, `tpm.authorization` where clearing would be refused; nothing was tried then,
 * as one wrong value shuts the lockout hierarchy
 */
export async function planClear(tpm: Tpm): Promise<ClearPlan> {
  const capabilities = await readCapabilities(tpm);
  if (capabilities.disableClear) {
    throw new IotdmError(
      'tpm.clear-disabled',
      'this TPM does not let its owner clear it (disableClear is set)',
    );
  }
  if (capabilities.authSet.lockout && !tpm.hasAuth('lockout')) {
    throw new IotdmError(
      'tpm.authorization',
      'the lockout authorization is set, and no value for it was given',
    );
  }
  const slots = (await listSlots(tpm)).filter(({ state }) => state !== 'empty');
  const ofSlots = new Set(
    Array.from({ length: SLOT_COUNT }, (_, slot) => [keyHandle(slot), uriIndex(slot)]).flat(),
  );
  return {
    slots,
    persistentHandles: (await ownersKeys(tpm)).filter((handle) => !ofSlots.has(handle)),
    nvIndexes: (await ownersIndexes(tpm)).filter((index) => !ofSlots.has(index)),
    ekComesBack: await ekComesBack(tpm, capabilities),
    lockoutAuthUnused: !capabilities.authSet.lockout && tpm.hasAuth('lockout'),
    capabilities,
  };
}

/**
 * Clears the TPM and looks whether the keys are gone. Two TPM commands.
 * @throws IotdmError `tpm.authorization`, `tpm.lockout`
 */
export async function clearTpm(tpm: Tpm, { capabilities }: ClearPlan): Promise<void> {
  try {
    await tpm.clear({ authSet: capabilities.authSet.lockout });
  } catch (error) {
    throw error instanceof IotdmError ? explained(error, capabilities) : error;
  }
  const left = await ownersKeys(tpm);
  if (left.length > 0) {
    throw new IotdmError(
      'tpm.refused',
      `the TPM says that it is cleared, but still holds ${left.map(hex32).join(', ')}`,
    );
  }
}

/** A wrong value shuts the lockout hierarchy itself: no other value helps before it opens again. */
function explained(error: IotdmError, { wrongAuth: { shutSeconds } }: TpmCapabilities): IotdmError {
  if (error.code !== 'tpm.lockout' && error.code !== 'tpm.authorization') return error;
  const opens = shutSeconds === 0 || shutSeconds === undefined ? 'a restart' : `${shutSeconds} s`;
  const what =
    error.code === 'tpm.lockout'
      ? `after a wrong value the TPM takes no lockout authorization before ${opens === 'a restart' ? opens : `${opens} have passed`}`
      : `the lockout authorization value is wrong, and the TPM takes no other before ${opens === 'a restart' ? opens : `${opens} have passed`}`;
  return new IotdmError(error.code, `${what}: ${error.message}`, {
    cause: error,
    details: { command: 'Clear', opensAfter: opens },
  });
}

async function ownersKeys(tpm: Tpm): Promise<number[]> {
  return (await tpm.handles(FIRST_PERSISTENT, ALL)).filter((handle) => handle < FIRST_PLATFORM_PERSISTENT);
}

async function ownersIndexes(tpm: Tpm): Promise<number[]> {
  const found: number[] = [];
  for (const index of await tpm.handles(FIRST_NV_INDEX, ALL)) {
    const area = await tpm.nvReadPublic(index);
    if (area !== undefined && (area.attributes & PLATFORM_CREATE) === 0) found.push(index);
  }
  return found;
}

async function ekComesBack(
  tpm: Tpm,
  { enabled, authSet }: TpmCapabilities,
): Promise<true | null | undefined> {
  const standing = await tpm.readPublic(EK_HANDLE);
  if (standing === undefined) return undefined;
  const ownerUsable = enabled.owner && authSet.owner === tpm.hasAuth('owner');
  const stored = await findEkCertificate(tpm, { ownerUsable });
  const { rsa } = standing;
  return rsa !== undefined && stored.kind === 'certificate' && isCertificateFor(stored, rsa.modulus)
    ? true
    : null;
}
