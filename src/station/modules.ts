/** Identities of modules: each is read from the hub or created there, in the name of the device, and put into its slot. */
import { because, IotdmError } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { formatUri, type DeviceIdentity } from '../slot/device-identity.ts';
import {
  checkRepair,
  checkSlotWritable,
  isSlotKey,
  showSlot,
  slotToken,
  writeSlot,
  type SlotAccess,
  type SlotView,
} from '../slot/slots.ts';
import { moduleSlotsProblem, type ModuleSlot } from './agent-config.ts';

/** What modules need of an IoT Hub, which is asked in the name of the device. */
export interface ModuleHub {
  /**
   * Reads the identity of a module, or creates it.
   * @param token shared access signature of the device
   * @throws IotdmError `auth.*`, `service.*`, `network.*`
   */
  moduleIdentity(
    device: DeviceIdentity,
    moduleId: string,
    token: string,
  ): Promise<{ readonly key: Secret; readonly created: boolean }>;
}

export interface ModulesJob {
  readonly slots: SlotAccess;
  /** Where the identity of the device stands. */
  readonly deviceSlot: number;
  readonly modules: readonly ModuleSlot[];
  /** Replace what the slots hold, whatever it is. */
  readonly overwrite?: boolean;
  readonly hub: ModuleHub;
  readonly now: () => Date;
  readonly onEvent?: (event: { readonly moduleId: string; readonly slot: number }) => void;
}

/**
 * `written`: the slot holds the module's identity and has proved it. `unchanged`: it held it already, and has proved it.
 */
export type ModuleStatus = 'written' | 'unchanged' | 'failed';

export interface ModuleOutcome {
  readonly moduleId: string;
  readonly slot: number;
  readonly status: ModuleStatus;
  /** Whether the hub did not have the module before; null where it was not asked. */
  readonly created: boolean | null;
  /** Name of the slot's key, hex. */
  readonly keyName: string | null;
  /** Why it failed. */
  readonly error?: IotdmError;
}

export interface ModulesOutcome {
  readonly device: DeviceIdentity;
  /** In the order in which they were given. */
  readonly modules: readonly ModuleOutcome[];
}

/** What ails one module ails the others: no use in trying them. */
const commonFamilies: readonly string[] = ['tpm-unavailable', 'auth', 'network'];

const TOKEN_LIFETIME_S = 3600;

/**
 * Provisions all modules, one after the other. What one of them fails of is its outcome, and the others keep theirs; what
 * ails all of them is thrown, if none is done by then.
 * @throws IotdmError `usage.invalid` for slots that cannot be, `tpm.slot-*` where there is no device, `interrupted.signal`
 */
export async function provisionModules(job: ModulesJob): Promise<ModulesOutcome> {
  const { slots, deviceSlot, modules, now, onEvent } = job;
  const problem = moduleSlotsProblem(modules, deviceSlot);
  if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
  const device = await readDevice(slots, deviceSlot);
  if (modules.length === 0) return { device, modules: [] };
  const expiry = Math.ceil(now().getTime() / 1000) + TOKEN_LIFETIME_S;
  const token = await slotToken(slots.tpm, deviceSlot, expiry, slots.recovery);

  const outcomes: ModuleOutcome[] = [];
  let common: IotdmError | undefined;
  for (const module of modules) {
    if (common !== undefined) {
      outcomes.push(failed(module, notTried(common)));
      continue;
    }
    onEvent?.(module);
    try {
      outcomes.push(await provisionModule(job, module, device, token.sharedAccessSignature));
    } catch (error) {
      if (!(error instanceof IotdmError) || error.code === 'interrupted.signal') throw error;
      outcomes.push(failed(module, error));
      if (isCommon(error)) common = error;
    }
  }
  if (common !== undefined && outcomes.every(({ status }) => status === 'failed')) throw common;
  return { device, modules: outcomes };
}

/** What stands in the way of a module. Changes nothing. @throws IotdmError as `provisionModules` reports it */
export async function checkModuleSlot(
  { slots, overwrite = false }: Pick<ModulesJob, 'slots' | 'overwrite'>,
  { slot }: ModuleSlot,
  identity: DeviceIdentity,
): Promise<SlotView> {
  const uri = formatUri(identity);
  const before = await checkSlotWritable(slots, slot, { overwrite: true });
  if (before.state === 'empty' || overwrite || before.uri === uri) return before;
  if (before.interrupted !== null) {
    const { change } = await checkRepair(slots, slot);
    if (change?.kind === 'write' && change.uri === uri) return before;
  }
  const { state, keyName, interrupted } = before;
  throw new IotdmError(
    'tpm.slot-not-empty',
    `slot ${slot} is not empty: ${before.uri === null ? (before.remark ?? '') : `it holds ${before.uri}`}`,
    { details: { slot, state, uri: before.uri, keyName, interrupted } },
  );
}

/** Who the device is. @throws IotdmError `tpm.slot-empty`, `tpm.slot-incomplete`, `tpm.slot-foreign`, `usage.invalid` */
export async function readDevice({ tpm, recovery }: SlotAccess, slot: number): Promise<DeviceIdentity> {
  const view = await showSlot(tpm, slot, recovery);
  const { state, hostName, deviceId, moduleId, remark } = view;
  if (state === 'ready' && hostName !== null && deviceId !== null && moduleId === null) {
    return { hostName, deviceId, moduleId: null };
  }
  const details = { slot, state, uri: view.uri, keyName: view.keyName, interrupted: view.interrupted };
  if (moduleId !== null) {
    throw new IotdmError('usage.invalid', `slot ${slot} holds the identity of a module, not of a device`, {
      details: because('module-slot', details),
    });
  }
  const what = state === 'ready' ? 'incomplete' : state;
  throw new IotdmError(`tpm.slot-${what}`, `slot ${slot} is ${what}${remark === null ? '' : `: ${remark}`}`, {
    details,
  });
}

async function provisionModule(
  job: ModulesJob,
  module: ModuleSlot,
  device: DeviceIdentity,
  token: string,
): Promise<ModuleOutcome> {
  const { slots, hub } = job;
  const { moduleId, slot } = module;
  const identity = { ...device, moduleId };
  const before = await checkModuleSlot(job, module, identity);
  const { key, created } = await hub.moduleIdentity(device, moduleId, token);
  try {
    const isItsSlot = before.state === 'ready' && before.uri === formatUri(identity);
    if (isItsSlot && before.interrupted === null && (await isSlotKey(slots.tpm, slot, key))) {
      return { moduleId, slot, status: 'unchanged', created, keyName: before.keyName };
    }
    const { keyName } = await writeSlot(slots, slot, { identity, key }, { overwrite: true });
    return { moduleId, slot, status: 'written', created, keyName };
  } finally {
    key.wipe();
  }
}

function failed({ moduleId, slot }: ModuleSlot, error: IotdmError): ModuleOutcome {
  return { moduleId, slot, status: 'failed', created: null, keyName: null, error };
}

function notTried(common: IotdmError): IotdmError {
  return new IotdmError(common.code, `not tried: ${common.message}`, {
    cause: common,
    ...(common.details === undefined ? {} : { details: common.details }),
  });
}

/** A slot that is left half written may be so because the TPM is gone. */
function isCommon({ code, details }: IotdmError): boolean {
  const cause = details?.['causeCode'];
  const [family = ''] = (typeof cause === 'string' ? cause : code).split('.');
  return commonFamilies.includes(family);
}
