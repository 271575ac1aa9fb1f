/**
 * What a TPM can do and what state it is in, as far as its capabilities say: read with few commands, none of which
 * changes anything.
 *
 * Source: TPM 2.0 Library, Part 2, sections 6.13 (TPM_PT), 8.6 (TPMA_PERMANENT), 8.7 (TPMA_STARTUP_CLEAR) and 6.5.2
 * (TPM_CC).
 */
import { hex32 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import { descriptionFrom, letters, type TpmDescription } from './description.ts';
import type { Tpm } from './tpm.ts';
import { Algorithm, type Hierarchy } from './tss.ts';

const PT_FIXED = 0x100;
const PT_VARIABLE = 0x200;
const PT_GROUP_SIZE = 0x100;

const PT_FAMILY = 0x100;
const PT_LEVEL = 0x101;
const PT_VENDOR_TYPE = 0x10a;

const PT_PERSISTENT_MIN = 0x10f;

const PT_PERMANENT = 0x200;
const PT_STARTUP_CLEAR = 0x201;
const PT_LOADED_SESSIONS = 0x203;
const PT_LOADED_SESSIONS_LEFT = 0x204;
const PT_ACTIVE_SESSIONS_LEFT = 0x206;
const PT_TRANSIENT_LEFT = 0x207;
const PT_PERSISTENT_USED = 0x208;
const PT_PERSISTENT_LEFT = 0x209;
const PT_NV_COUNTERS_LEFT = 0x20b;
const PT_LOCKOUT_COUNTER = 0x20e;
const PT_MAX_AUTH_FAIL = 0x20f;
const PT_LOCKOUT_INTERVAL = 0x210;
const PT_LOCKOUT_RECOVERY = 0x211;

/** TPMA_PERMANENT. */
const OWNER_AUTH_SET = 1 << 0;
const ENDORSEMENT_AUTH_SET = 1 << 1;
const LOCKOUT_AUTH_SET = 1 << 2;
const DISABLE_CLEAR = 1 << 8;
const IN_LOCKOUT = 1 << 9;

/** TPMA_STARTUP_CLEAR. */
const OWNER_ENABLED = 1 << 1;
const ENDORSEMENT_ENABLED = 1 << 2;

const TEST_PARMS = 0x18a;

/** What reading the identity, registering with DPS and writing a slot send: by iotdm, Limpet and Azure's SDKs. */
const commandsForDps: Readonly<Record<string, number>> = {
  EvictControl: 0x120,
  NV_UndefineSpace: 0x122,
  NV_DefineSpace: 0x12a,
  CreatePrimary: 0x131,
  NV_Write: 0x137,
  ActivateCredential: 0x147,
  NV_Read: 0x14e,
  PolicySecret: 0x151,
  Create: 0x153,
  HMAC: 0x155,
  Import: 0x156,
  Load: 0x157,
  FlushContext: 0x165,
  NV_ReadPublic: 0x169,
  ReadPublic: 0x173,
  StartAuthSession: 0x176,
  GetCapability: 0x17a,
  GetRandom: 0x17b,
};

export interface TpmCapabilities {
  readonly description: TpmDescription;
  /** Such as `2.0`. */
  readonly family: string;
  readonly level: number;
  /** TPM_PT_VENDOR_TPM_TYPE, whose meaning each vendor defines. */
  readonly vendorType: number;
  /** Whether an authorization value is set. */
  readonly authSet: Readonly<Record<Hierarchy, boolean>>;
  readonly enabled: Readonly<Record<'owner' | 'endorsement', boolean>>;
  readonly disableClear: boolean;
  readonly inLockout: boolean;
  /** Wrong authorization values counted, how many lock the TPM, and the seconds after which one is forgotten. */
  readonly wrongAuth: {
    readonly counted: number;
    readonly limit: number | undefined;
    readonly forgetSeconds: number | undefined;
    /** How long one wrong value shuts the lockout hierarchy; 0 until the TPM is restarted. */
    readonly shutSeconds: number | undefined;
  };
  /** Undefined where the TPM does not say. */
  readonly left: {
    readonly transient: number | undefined;
    readonly loadedSessions: number | undefined;
    readonly activeSessions: number | undefined;
    /** An estimate, and 1 may stand for "at least one" (Part 2, 6.13, TPM_PT_HR_PERSISTENT_AVAIL). */
    readonly persistent: number | undefined;
    readonly nvCounters: number | undefined;
  };
  /** Persistent keys: how many there are, and for how many at least the TPM keeps room. */
  readonly persistentUsed: number | undefined;
  readonly persistentMinimum: number | undefined;
  readonly loadedSessions: number;
  readonly algorithms: ReadonlySet<number>;
  /** What the TPM said when asked for exactly these keys (TPM2_TestParms); undefined where it cannot be asked. */
  readonly storageKeys: boolean | undefined;
  readonly hmacKeys: boolean | undefined;
  /** Names of the commands that DPS needs and this TPM does not implement. */
  readonly missingCommands: readonly string[];
}

/**
 * Six TPM commands, more only where a TPM gives its lists in pieces: GetCapability four times, TestParms twice.
 * @throws IotdmError `tpm-unavailable.*`
 */
export async function readCapabilities(tpm: Tpm): Promise<TpmCapabilities> {
  const fixed = await tpm.properties(PT_FIXED, PT_GROUP_SIZE);
  const variable = await tpm.properties(PT_VARIABLE, PT_GROUP_SIZE);
  const algorithms = await tpm.algorithms();
  const commands = await tpm.commandCodes();
  const permanent = variable.get(PT_PERMANENT);
  const startup = variable.get(PT_STARTUP_CLEAR);
  if (permanent === undefined || startup === undefined) {
    throw new IotdmError('tpm-unavailable.protocol', `${tpm.name} does not say what state it is in`);
  }
  const testable = commands.has(TEST_PARMS);
  return {
    description: descriptionFrom(fixed),
    family: letters([fixed.get(PT_FAMILY) ?? 0]),
    level: fixed.get(PT_LEVEL) ?? 0,
    vendorType: fixed.get(PT_VENDOR_TYPE) ?? 0,
    authSet: {
      owner: (permanent & OWNER_AUTH_SET) !== 0,
      endorsement: (permanent & ENDORSEMENT_AUTH_SET) !== 0,
      lockout: (permanent & LOCKOUT_AUTH_SET) !== 0,
    },
    enabled: {
      owner: (startup & OWNER_ENABLED) !== 0,
      endorsement: (startup & ENDORSEMENT_ENABLED) !== 0,
    },
    disableClear: (permanent & DISABLE_CLEAR) !== 0,
    inLockout: (permanent & IN_LOCKOUT) !== 0,
    wrongAuth: {
      counted: variable.get(PT_LOCKOUT_COUNTER) ?? 0,
      limit: variable.get(PT_MAX_AUTH_FAIL),
      forgetSeconds: variable.get(PT_LOCKOUT_INTERVAL),
      shutSeconds: variable.get(PT_LOCKOUT_RECOVERY),
    },
    left: {
      transient: variable.get(PT_TRANSIENT_LEFT),
      loadedSessions: variable.get(PT_LOADED_SESSIONS_LEFT),
      activeSessions: variable.get(PT_ACTIVE_SESSIONS_LEFT),
      persistent: variable.get(PT_PERSISTENT_LEFT),
      nvCounters: variable.get(PT_NV_COUNTERS_LEFT),
    },
    persistentUsed: variable.get(PT_PERSISTENT_USED),
    persistentMinimum: fixed.get(PT_PERSISTENT_MIN),
    loadedSessions: variable.get(PT_LOADED_SESSIONS) ?? 0,
    algorithms,
    storageKeys: testable ? await tpm.supports('storage') : undefined,
    hmacKeys: testable ? await tpm.supports('hmac') : undefined,
    missingCommands: Object.entries(commandsForDps)
      .filter(([, code]) => !commands.has(code))
      .map(([name]) => name),
  };
}

/** What a TPM lacks for DPS, in words; empty where it was seen to have everything. */
export function lacksForDps(capabilities: TpmCapabilities): string[] {
  const { family, storageKeys, hmacKeys, missingCommands } = capabilities;
  return [
    ...(family === '2.0' ? [] : [`TPM 2.0 (it says "${family}")`]),
    ...(storageKeys === true ? [] : ['RSA 2048 keys with AES-128-CFB']),
    ...(hmacKeys === true ? [] : ['HMAC-SHA256 keys']),
    ...missingCommands.map((name) => `TPM2_${name}`),
  ];
}

/** The JSON result of `tpm info`: what Limpet's `-GTI` gives, under the names of this tool. */
export interface TpmInfo extends TpmDescription {
  /** TPM_PT_VENDOR_TPM_TYPE, such as `0x00000001`: each vendor defines what it means. */
  readonly type: string;
  readonly family: string;
  readonly level: number;
  readonly lockoutAuth: 'set' | 'notSet';
  readonly endorsementAuth: 'set' | 'notSet';
  readonly storageAuth: 'set' | 'notSet';
  readonly disableClear: boolean;
  readonly inLockout: boolean;
  readonly rsa: boolean;
  readonly hmac: boolean;
  readonly aes: boolean;
  readonly ecc: boolean;
  readonly suitableForDps: boolean;
}

export function toTpmInfo(capabilities: TpmCapabilities): TpmInfo {
  const { description, family, level, vendorType, authSet, disableClear, inLockout, algorithms } =
    capabilities;
  const said = (isSet: boolean): 'set' | 'notSet' => (isSet ? 'set' : 'notSet');
  return {
    type: hex32(vendorType),
    family,
    level,
    revision: description.revision,
    manufacturer: description.manufacturer,
    vendorString: description.vendorString,
    firmware: description.firmware,
    lockoutAuth: said(authSet.lockout),
    endorsementAuth: said(authSet.endorsement),
    storageAuth: said(authSet.owner),
    disableClear,
    inLockout,
    rsa: algorithms.has(Algorithm.rsa),
    hmac: algorithms.has(Algorithm.hmac),
    aes: algorithms.has(Algorithm.aes),
    ecc: algorithms.has(Algorithm.ecc),
    suitableForDps: lacksForDps(capabilities).length === 0,
  };
}
