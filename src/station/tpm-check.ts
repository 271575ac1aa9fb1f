/**
 * Whether a device with this TPM would get through DPS and could keep what it is given: one named finding after the
 * other, each from few TPM commands. Makes and flushes transient keys, and changes nothing else; no authorization value
 * is tried that the TPM does not ask for.
 */
import { hex32 } from '../encoding.ts';
import { IotdmError, type ErrorCode } from '../errors.ts';
import { SLOT_COUNT, uriIndex } from '../slot/layout.ts';
import { listSlots, type RecoveryStore, type SlotView } from '../slot/slots.ts';
import { readCapabilities, type TpmCapabilities } from '../tpm/capabilities.ts';
import { findEkCertificate, isCertificateFor, type StoredCertificate } from '../tpm/ek-certificate.ts';
import { EkDerivation, findEkOrigin, type DerivedKey } from '../tpm/ek-origin.ts';
import { endorsementKeyProblem } from '../tpm/endorsement-key.ts';
import { EK_HANDLE, SRK_HANDLE, type Tpm } from '../tpm/tpm.ts';
import { Algorithm, ObjectAttributes, srkPublicPrefix, srkTemplate, type PublicObject } from '../tpm/tss.ts';
import { provesPossession } from './endorsement.ts';

/** In the order in which they are made and shown. */
export const checkIds = [
  'reachable',
  'permissions',
  'tpm-2.0',
  'started',
  'aes-cfb',
  'hmac',
  'commands',
  'lockout',
  'owner-auth',
  'endorsement-auth',
  'lockout-auth',
  'transient',
  'sessions',
  'ek',
  'ek-certificate',
  'ek-origin',
  'srk',
  'ek-round-trip',
  'slots',
  'room',
] as const;

export type CheckId = (typeof checkIds)[number];

/** What was found to be worth mending, for the hint. */
export const findings = [
  'unsuitable',
  'locked-out',
  'wrong-values-counted',
  'auth-not-given',
  'auth-not-set',
  'hierarchy-disabled',
  'transient-full',
  'transient-left',
  'sessions-full',
  'sessions-left',
  'ek-absent',
  'ek-unsuitable',
  'certificate-absent',
  'certificate-closed',
  'certificate-damaged',
  'certificate-of-another-key',
  'certificate-of-another-chip',
  'ek-made-by-sdk',
  'ek-foreign',
  'srk-absent',
  'srk-unsuitable',
  'srk-unusual',
  'round-trip-failed',
  'slot-0-foreign',
  'slot-foreign',
  'slots-to-mend',
  'no-room',
  'little-room',
] as const;

export type Finding = (typeof findings)[number];

export interface Check {
  readonly id: CheckId;
  readonly status: 'pass' | 'warn' | 'fail' | 'skip';
  readonly message: string;
  /** Set on `warn`, and on `fail` unless `error` is. */
  readonly finding?: Finding;
  /** Set on `fail`: decides the exit code. */
  readonly code?: ErrorCode;
  /** What the TPM answered, where that is what failed. */
  readonly error?: IotdmError;
}

export interface CheckReport {
  /** No check failed. */
  readonly ok: boolean;
  readonly checks: readonly Check[];
}

type Verdict = Omit<Check, 'id'>;

const pass = (message: string): Verdict => ({ status: 'pass', message });
const skip = (message: string): Verdict => ({ status: 'skip', message });
const warn = (finding: Finding, message: string): Verdict => ({ status: 'warn', message, finding });
const fail = (code: ErrorCode, finding: Finding, message: string): Verdict => ({
  status: 'fail',
  message,
  finding,
  code,
});
const failed = (error: IotdmError): Verdict => ({
  status: 'fail',
  message: error.message,
  code: error.code,
  error,
});

export interface CheckOptions {
  /** Those that are to be written; slot 0 when absent, as it is the one that Azure's SDKs use. */
  readonly slots?: readonly number[];
  /** Where records of interrupted changes to slots are. */
  readonly recovery?: RecoveryStore;
}

/**
 * About 20 TPM commands for a healthy TPM whose certificate names its EK, plus three for each slot in use; two more for
 * each key that has to be derived.
 * @param open connects to the TPM
 * @throws IotdmError `usage.*`, `interrupted.*`; everything else is in the report
 */
export async function checkTpm(
  open: () => Promise<Tpm>,
  { slots = [0], recovery }: CheckOptions = {},
): Promise<CheckReport> {
  const made = new Map<CheckId, Verdict>();
  const tpm = await connect(open, made);
  const capabilities = tpm === undefined ? undefined : await look(tpm, made);
  if (tpm !== undefined && capabilities !== undefined) {
    await inspect(tpm, capabilities, { slots, recovery }, made);
  }
  const firstFailure = checkIds.find((id) => made.get(id)?.status === 'fail');
  const checks = checkIds.map((id): Check => ({
    id,
    ...(made.get(id) ?? skip(`not checked, as ${firstFailure ?? 'an earlier check'} failed`)),
  }));
  return { ok: firstFailure === undefined, checks };
}

async function connect(open: () => Promise<Tpm>, made: Map<CheckId, Verdict>): Promise<Tpm | undefined> {
  try {
    const tpm = await open();
    made.set('permissions', pass(`${tpm.name} may be used`));
    return tpm;
  } catch (error) {
    if (!(error instanceof IotdmError) || !error.code.startsWith('tpm')) throw error;
    made.set(error.code === 'tpm-unavailable.permission' ? 'permissions' : 'reachable', failed(error));
    return undefined;
  }
}

/** The first commands: they show whether there is a TPM 2.0 at all, and whether it works. */
async function look(tpm: Tpm, made: Map<CheckId, Verdict>): Promise<TpmCapabilities | undefined> {
  try {
    const capabilities = await readCapabilities(tpm);
    const { family, description } = capabilities;
    made.set('reachable', pass(`${tpm.name} answers`));
    made.set('started', pass('the TPM is started'));
    if (family === '2.0') {
      const { manufacturer, vendorString, firmware } = description;
      made.set('tpm-2.0', pass(`${[manufacturer, vendorString].join(' ')}, firmware ${firmware}`));
      return capabilities;
    }
    made.set(
      'tpm-2.0',
      fail('tpm-unavailable.not-tpm2', 'unsuitable', `it says that it is a TPM "${family}"`),
    );
    return undefined;
  } catch (error) {
    if (!(error instanceof IotdmError) || !error.code.startsWith('tpm')) throw error;
    const answered: readonly ErrorCode[] = [
      'tpm-unavailable.not-tpm2',
      'tpm-unavailable.not-started',
      'tpm-unavailable.failure-mode',
    ];
    if (!answered.includes(error.code)) {
      made.set(error.code === 'tpm-unavailable.permission' ? 'permissions' : 'reachable', failed(error));
      if (error.code === 'tpm-unavailable.permission') made.delete('reachable');
      return undefined;
    }
    made.set('reachable', pass(`${tpm.name} answers`));
    if (error.code === 'tpm-unavailable.not-tpm2') made.set('tpm-2.0', failed(error));
    else {
      made.set('tpm-2.0', pass('it answers in the form of a TPM 2.0'));
      made.set('started', failed(error));
    }
    return undefined;
  }
}

/** What later checks build on. */
interface Scene {
  readonly tpm: Tpm;
  readonly capabilities: TpmCapabilities;
  readonly recovery: RecoveryStore | undefined;
  readonly derivation: EkDerivation;
  /** Whether keys can be derived: the authorization is known and a transient slot is free. */
  canDerive: boolean;
  ownerUsable: boolean;
  ek: DerivedKey | undefined;
  /** Nothing stands at 0x81010001. */
  ekAbsent: boolean;
  srkAbsent: boolean;
  certificate: StoredCertificate | undefined;
  /** Made early where the EK had to be derived: that takes a chip seconds, and is not done twice. */
  roundTrip: Verdict | undefined;
  /** The slots that are to be written. */
  readonly wantedSlots: readonly number[];
  /** Those of them that need room: where a key stands, writing the slot again takes no more. */
  slotsWithoutKey: readonly number[];
}

async function inspect(
  tpm: Tpm,
  capabilities: TpmCapabilities,
  { slots, recovery }: Pick<Scene, 'recovery'> & { readonly slots: readonly number[] },
  made: Map<CheckId, Verdict>,
): Promise<void> {
  const usable = (hierarchy: 'owner' | 'endorsement'): boolean =>
    capabilities.enabled[hierarchy] && capabilities.authSet[hierarchy] === tpm.hasAuth(hierarchy);
  const scene: Scene = {
    tpm,
    capabilities,
    recovery,
    derivation: new EkDerivation(tpm),
    canDerive: usable('endorsement') && capabilities.left.transient !== 0,
    ownerUsable: usable('owner'),
    ek: undefined,
    ekAbsent: false,
    srkAbsent: false,
    certificate: undefined,
    roundTrip: undefined,
    wantedSlots: slots,
    slotsWithoutKey: slots,
  };
  for (const [id, check] of inspections) {
    try {
      made.set(id, await check(scene));
    } catch (error) {
      if (!(error instanceof IotdmError) || !error.code.startsWith('tpm')) throw error;
      made.set(id, failed(error));
      // What was refused once is not tried a second time.
      scene.canDerive = false;
      scene.ownerUsable = false;
      // The TPM is gone, and so are the checks that are left.
      if (error.code.startsWith('tpm-unavailable')) return;
    }
  }
}

/** One place for each check, after those it builds on. */
const inspections: readonly (readonly [CheckId, (scene: Scene) => Verdict | Promise<Verdict>])[] = [
  ['aes-cfb', ({ capabilities }) => checkKeys(capabilities.storageKeys, 'RSA 2048 keys with AES-128-CFB')],
  ['hmac', ({ capabilities }) => checkKeys(capabilities.hmacKeys, 'HMAC-SHA256 keys')],
  ['commands', checkCommands],
  ['lockout', checkLockout],
  ['owner-auth', (scene) => checkHierarchy(scene, 'owner')],
  ['endorsement-auth', (scene) => checkHierarchy(scene, 'endorsement')],
  ['lockout-auth', checkLockoutAuth],
  ['transient', checkTransient],
  ['sessions', checkSessions],
  ['ek', checkEk],
  ['ek-certificate', checkCertificate],
  ['ek-origin', checkOrigin],
  ['srk', checkSrk],
  ['ek-round-trip', checkRoundTrip],
  ['slots', checkSlots],
  ['room', checkRoom],
];

function checkKeys(supported: boolean | undefined, what: string): Verdict {
  if (supported === true) return pass(`the TPM has ${what}`);
  if (supported === undefined) {
    return fail('tpm-unavailable.unsuitable', 'unsuitable', `the TPM cannot be asked whether it has ${what}`);
  }
  return fail('tpm-unavailable.unsuitable', 'unsuitable', `the TPM has no ${what}`);
}

function checkCommands({ capabilities: { missingCommands } }: Scene): Verdict {
  if (missingCommands.length === 0) return pass('all commands that DPS and the slots need are there');
  const names = missingCommands.map((name) => `TPM2_${name}`).join(', ');
  return fail('tpm-unavailable.unsuitable', 'unsuitable', `the TPM does not have ${names}`);
}

function checkLockout({ capabilities: { inLockout, wrongAuth } }: Scene): Verdict {
  const { counted, limit, forgetSeconds } = wrongAuth;
  const forgotten = forgetSeconds === undefined ? '' : `; one is forgotten every ${forgetSeconds} s`;
  if (inLockout) {
    return fail(
      'tpm.lockout',
      'locked-out',
      `the TPM is locked out after ${counted} wrong authorization value${counted === 1 ? '' : 's'}${forgotten}`,
    );
  }
  if (counted === 0) return pass('no wrong authorization value is counted');
  const of = limit === undefined ? '' : ` of ${limit}`;
  const values = counted === 1 && of === '' ? 'value is' : 'values are';
  return warn('wrong-values-counted', `${counted}${of} wrong authorization ${values} counted${forgotten}`);
}

/** Neither hierarchy is locked by a wrong value (Part 1, 19.8), so one that was given is tried, by deriving a key. */
async function checkHierarchy(
  { tpm, capabilities, derivation }: Scene,
  hierarchy: 'owner' | 'endorsement',
): Promise<Verdict> {
  if (!capabilities.enabled[hierarchy]) {
    return fail('tpm.hierarchy-disabled', 'hierarchy-disabled', `the ${hierarchy} hierarchy is disabled`);
  }
  const isSet = capabilities.authSet[hierarchy];
  const given = tpm.hasAuth(hierarchy);
  if (!isSet && !given) return pass(`the ${hierarchy} authorization is not set`);
  if (!isSet) {
    return fail(
      'tpm.authorization',
      'auth-not-set',
      `a value for the ${hierarchy} authorization was given, but none is set: the TPM would refuse it`,
    );
  }
  if (!given) {
    return fail(
      'tpm.authorization',
      'auth-not-given',
      `the ${hierarchy} authorization is set, and no value for it was given`,
    );
  }
  if (capabilities.left.transient === 0) {
    return skip(
      `the ${hierarchy} authorization is set; the value given cannot be tried without a transient slot`,
    );
  }
  if (hierarchy === 'endorsement') await derivation.manufacturer();
  else await tpm.withPrimary('owner', srkTemplate(), () => Promise.resolve());
  return pass(`the ${hierarchy} authorization is set, and the value given is right`);
}

function checkLockoutAuth({ capabilities: { authSet } }: Scene): Verdict {
  return pass(
    authSet.lockout
      ? 'the lockout authorization is set; DPS does not need it'
      : 'the lockout authorization is not set',
  );
}

const FIRST_TRANSIENT = 0x80000000;
const MANY = 64;

/** A credential is opened with the EK and the SRK; a TPM takes a slot even for a key that is persistent. */
const OBJECTS_AT_ONCE = 2;

async function checkTransient({ tpm, capabilities: { left } }: Scene): Promise<Verdict> {
  const used = (await tpm.handles(FIRST_TRANSIENT, MANY)).map(hex32);
  if (left.transient === 0) {
    return fail('tpm.transient-full', 'transient-full', `no transient slot is free: ${used.join(', ')}`);
  }
  if (used.length > 0 && left.transient !== undefined && left.transient < OBJECTS_AT_ONCE) {
    return fail(
      'tpm.transient-full',
      'transient-full',
      `only ${left.transient} transient slot is free, and ${OBJECTS_AT_ONCE} are needed at once: another program left ${used.join(', ')}`,
    );
  }
  if (used.length > 0) {
    return warn('transient-left', `a program left ${used.join(', ')} in the transient slots`);
  }
  return pass(
    left.transient === undefined
      ? 'nothing is left in the transient slots'
      : `${left.transient} transient slots are free`,
  );
}

function checkSessions({ capabilities: { left, loadedSessions } }: Scene): Verdict {
  if (left.loadedSessions === 0 || left.activeSessions === 0) {
    return fail('tpm.transient-full', 'sessions-full', 'the session slots are used up');
  }
  if (loadedSessions > 0)
    return warn('sessions-left', `another program left ${loadedSessions} sessions loaded`);
  return pass('no session is left loaded');
}

async function checkEk(scene: Scene): Promise<Verdict> {
  const standing = await scene.tpm.readPublic(EK_HANDLE);
  if (standing === undefined) {
    scene.ekAbsent = true;
    const absent = `nothing stands at ${hex32(EK_HANDLE)}`;
    // What a device would register with: that it can be derived is what counts.
    if (scene.canDerive) await deriveAndProve(scene);
    return warn('ek-absent', scene.canDerive ? `${absent}; template L-1 gives a key` : absent);
  }
  const problem = endorsementKeyProblem(standing.publicArea);
  if (problem !== undefined || standing.rsa === undefined) {
    return fail(
      'tpm.ek-unsuitable',
      'ek-unsuitable',
      `the key at ${hex32(EK_HANDLE)} is not an RSA 2048 endorsement key that DPS takes`,
    );
  }
  scene.ek = { publicArea: standing.publicArea, modulus: standing.rsa.modulus };
  return pass(`an RSA 2048 endorsement key stands at ${hex32(EK_HANDLE)}`);
}

async function checkCertificate(scene: Scene): Promise<Verdict> {
  const { tpm, ek, canDerive, derivation, ownerUsable } = scene;
  const stored = await findEkCertificate(tpm, { ownerUsable });
  scene.certificate = stored;
  switch (stored.kind) {
    case 'absent':
      return warn('certificate-absent', 'the TPM holds no EK certificate');
    case 'closed':
      return warn('certificate-closed', `the EK certificate cannot be read: ${stored.why}`);
    case 'damaged':
      return fail(
        'verify.ek-certificate',
        'certificate-damaged',
        `the EK certificate is damaged: ${stored.why}`,
      );
    case 'certificate':
      break;
  }
  if (ek !== undefined && isCertificateFor(stored, ek.modulus)) {
    const whose = scene.ekAbsent ? 'that template L-1 gives' : `at ${hex32(EK_HANDLE)}`;
    return pass(`the EK certificate is for the key ${whose}; who signed it is not checked here`);
  }
  if (canDerive && isCertificateFor(stored, (await derivation.manufacturer()).modulus)) {
    return warn(
      'certificate-of-another-key',
      `the EK certificate is for this TPM's manufacturer key, which is not the one at ${hex32(EK_HANDLE)}`,
    );
  }
  if (!canDerive && ek === undefined) return skip('not checked, as there is no key to compare with');
  const chip = canDerive
    ? 'the EK certificate is for no key of this TPM'
    : `the EK certificate is not for the key at ${hex32(EK_HANDLE)}`;
  return fail('verify.ek-certificate', 'certificate-of-another-chip', chip);
}

async function checkOrigin({ ek, ekAbsent, certificate, canDerive, derivation }: Scene): Promise<Verdict> {
  if (ek === undefined || ekAbsent)
    return skip(`not checked, as no endorsement key stands at ${hex32(EK_HANDLE)}`);
  const stored = certificate ?? { kind: 'absent' };
  const named = stored.kind === 'certificate' && isCertificateFor(stored, ek.modulus);
  if (!named && !canDerive) return skip('not checked, as the TPM would not derive keys to compare with');
  const { origin, evidence } = await findEkOrigin(ek, stored, derivation);
  switch (origin) {
    case 'manufacturer':
      return pass(
        evidence === 'certificate'
          ? "it is the manufacturer's key: the EK certificate names it"
          : "it is the manufacturer's key: template L-1 gives the same",
      );
    case 'azure-sdk':
      return warn(
        'ek-made-by-sdk',
        "it was made by one of Azure's SDKs, whose template has an empty unique: no manufacturer's certificate names it",
      );
    case 'foreign':
      return warn('ek-foreign', "neither template L-1 nor that of Azure's SDKs gives this key");
  }
}

async function checkSrk(scene: Scene): Promise<Verdict> {
  const key = await scene.tpm.readPublic(SRK_HANDLE);
  if (key === undefined) {
    scene.srkAbsent = true;
    return warn('srk-absent', `nothing stands at ${hex32(SRK_HANDLE)}; it is made when a slot is written`);
  }
  if (!canBeParent(key)) {
    return fail(
      'tpm.parent-unsuitable',
      'srk-unsuitable',
      `the key at ${hex32(SRK_HANDLE)} is not an RSA 2048 storage root key`,
    );
  }
  const prefix = srkPublicPrefix();
  if (!key.publicArea.subarray(0, prefix.length).equals(prefix)) {
    return warn(
      'srk-unusual',
      `the key at ${hex32(SRK_HANDLE)} can be a parent, but is not of the template that Limpet and Azure's SDKs use`,
    );
  }
  return pass(`the storage root key stands at ${hex32(SRK_HANDLE)}`);
}

function canBeParent({ type, attributes, rsa }: PublicObject): boolean {
  const { restricted, decrypt, sign } = ObjectAttributes;
  const kind = attributes & (restricted | decrypt | sign);
  return (
    type === Algorithm.rsa && kind === (restricted | decrypt) && rsa?.bits === 2048 && rsa.exponent === 65537
  );
}

/** What DPS will ask of the TPM: to open a secret that is encrypted to its EK and bound to its SRK. */
async function checkRoundTrip(scene: Scene): Promise<Verdict> {
  const { tpm, ek, srkAbsent, canDerive, ownerUsable, capabilities, roundTrip } = scene;
  if (roundTrip !== undefined) return roundTrip;
  if (ek === undefined) return skip('not checked, as there is no endorsement key to check');
  // Using an EK takes the endorsement hierarchy's authorization (PolicySecret), wherever the key stands.
  if (!canDerive || (srkAbsent && !ownerUsable)) {
    return skip(
      'not checked, as authorization that the TPM asks for is not known, or its transient slots are full',
    );
  }
  if ((srkAbsent && capabilities.left.transient === 0) || capabilities.left.loadedSessions === 0) {
    return skip('not checked, as the transient slots or sessions of the TPM do not suffice');
  }
  const proved = await tpm.withEndorsementKey((key, handle) => provesPossession(tpm, key, handle));
  return roundTripVerdict(proved);
}

function roundTripVerdict(proved: boolean): Verdict {
  return proved
    ? pass('the TPM opens what is encrypted to its endorsement key, as DPS will ask it to')
    : fail(
        'verify.ek',
        'round-trip-failed',
        'the TPM cannot open what is encrypted to the endorsement key that it shows',
      );
}

/** Derives the EK once for both: what it is, and whether the TPM can use it. */
async function deriveAndProve(scene: Scene): Promise<void> {
  const { tpm } = scene;
  await tpm.withDerivedEndorsementKey(async (key, handle) => {
    scene.ek = { publicArea: key.publicArea, modulus: key.modulus };
    try {
      scene.roundTrip = roundTripVerdict(await provesPossession(tpm, key, handle));
    } catch (error) {
      // What the SRK or the owner's authorization lacks is found by their own checks.
      if (!(error instanceof IotdmError) || !error.code.startsWith('tpm.')) throw error;
      scene.roundTrip = skip(`not checked: ${error.message}`);
    }
  });
}

async function checkSlots(scene: Scene): Promise<Verdict> {
  const slots = await listSlots(scene.tpm, scene.recovery);
  scene.slotsWithoutKey = scene.wantedSlots.filter((slot) => slots[slot]?.keyName == null);
  const inState = (state: SlotView['state']): SlotView[] => slots.filter((slot) => slot.state === state);
  const [foreign, incomplete, ready] = [inState('foreign'), inState('incomplete'), inState('ready')];
  const interrupted = slots.filter((slot) => slot.interrupted !== null && slot.state !== 'incomplete');
  const remarks = [...foreign, ...incomplete, ...interrupted]
    .map(({ slot, remark }) => `slot ${slot}: ${remark ?? ''}`)
    .join('; ');
  // Azure's SDKs know slot 0 only.
  const inTheWay = foreign.filter(({ slot }) => scene.wantedSlots.includes(slot));
  if (inTheWay.length > 0) {
    const isOfSdks = inTheWay.some(({ slot }) => slot === 0);
    return fail('tpm.slot-foreign', isOfSdks ? 'slot-0-foreign' : 'slot-foreign', remarks);
  }
  if (remarks !== '') return warn('slots-to-mend', remarks);
  return pass(`${ready.length} of ${SLOT_COUNT} slots are in use`);
}

/** An estimate of the TPM's own; how much is free for NV indexes no property tells, and nothing is written to find out. */
async function checkRoom(scene: Scene): Promise<Verdict> {
  const { capabilities, ekAbsent, srkAbsent, slotsWithoutKey } = scene;
  const needed = [
    ...slotsWithoutKey.map((slot) => `slot ${slot}`),
    ...(srkAbsent ? ['the storage root key'] : []),
    ...(ekAbsent ? ['the endorsement key'] : []),
  ];
  const { persistent, nvCounters } = capabilities.left;
  if (persistent === undefined) return skip('the TPM does not say how much room it has');
  if (persistent === 0 && needed.length > 0) {
    return fail('tpm.no-room', 'no-room', `there is no room for a persistent key: ${needed.join(', ')}`);
  }
  if (persistent < needed.length) {
    return fail(
      'tpm.no-room',
      'no-room',
      `there is room for ${persistent} persistent ${persistent === 1 ? 'key' : 'keys'} only, and needed are ${needed.length}: ${needed.join(', ')}`,
    );
  }
  if (persistent === 0) return warn('little-room', 'there is no room for another persistent key');
  const others = nvCounters === 0 || isDownToMinimum(capabilities) ? await otherIndexes(scene.tpm) : 0;
  if (others > 0) {
    return warn(
      'little-room',
      `NV memory may be full: ${others} NV indexes of other programs take room, and the URI of a slot may not fit`,
    );
  }
  return pass(
    `there is room for about ${persistent} more persistent keys; a TPM does not tell how much is left for the URI of a slot`,
  );
}

/**
 * The TPM reference code gives NV indexes all memory but what its guaranteed number of persistent keys takes. So a full
 * one has room for just these; but so has a small one, whether it is full or not.
 */
function isDownToMinimum({ left, persistentUsed, persistentMinimum }: TpmCapabilities): boolean {
  if (left.persistent === undefined || persistentUsed === undefined || persistentMinimum === undefined)
    return false;
  return persistentUsed + left.persistent <= persistentMinimum;
}

const FIRST_NV_INDEX = 0x01000000;
const ALL = 1024;

/** How many NV indexes are neither slots' nor in the range that the TCG reserves for certificates. */
async function otherIndexes(tpm: Tpm): Promise<number> {
  const slots = new Set(Array.from({ length: SLOT_COUNT }, (_, slot) => uriIndex(slot)));
  const indexes = await tpm.handles(FIRST_NV_INDEX, ALL);
  return indexes.filter((index) => !slots.has(index) && index >>> 16 !== 0x01c0).length;
}
