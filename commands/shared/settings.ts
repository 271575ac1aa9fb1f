/**
 * The options that every command shares: declared once, read from the flag, the environment or iotdm.config.json, in
 * this order.
 */
import { readFileSync } from 'node:fs';
import { Option, type Command } from 'commander';
import { because, IotdmError, systemErrorCode } from '../../src/errors.ts';
import { nearest } from '../../src/nearest.ts';
import { secondsOf } from './duration.ts';
import {
  isLineSetting,
  lineSettingKeys,
  lineSettingProblem,
  resolveLineSettings,
  type LineSettings,
} from './line-settings.ts';
import { secretFlag } from './secret-flag.ts';

export interface Settings {
  readonly tpm: string | undefined;
  readonly ownerAuthFile: string | undefined;
  readonly endorsementAuthFile: string | undefined;
  readonly lockoutAuthFile: string | undefined;
  readonly dps: string | undefined;
  readonly dpsConnectionStringFile: string | undefined;
  readonly idScope: string | undefined;
  readonly deviceHost: string | undefined;
  readonly ca: string | undefined;
  readonly stateDir: string | undefined;
  /** Seconds to wait for another iotdm that changes the TPM; Infinity as long as it takes. */
  readonly wait: number | undefined;
  /** A secret where it holds a password. */
  readonly proxy: string | undefined;
  /** Seconds, of one TPM command or HTTP request. */
  readonly timeout: number | undefined;
  /** Whether an enrollment is compared with all others before it gets a device id or a key. */
  readonly index: boolean;
  /** Seconds: how old what is known of the others may be. */
  readonly indexAge: number;
  readonly yes: boolean;
  readonly dryRun: boolean;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: number;
  readonly color: boolean;
  /** What the environment and the settings file say of the line; flags are the commands' own. */
  readonly line: LineSettings;
  /** Keys of the settings that were given as flags, and not by the environment or the settings file. */
  readonly flags: ReadonlySet<string>;
}

/** What a command needs decides which of the shared options its help lists. */
export type SettingGroup =
  | 'tpm'
  | 'service'
  | 'index'
  | 'device'
  | 'tls'
  | 'timeout'
  | 'state'
  | 'change'
  | 'confirm'
  | 'dry-run'
  | 'output';

interface SharedOption {
  readonly key: Exclude<keyof Settings, 'flags' | 'line'> | 'config';
  readonly group: SettingGroup;
  readonly flags: string;
  readonly description: string;
  /** Environment variables, first one first. */
  readonly environment: readonly string[];
  /** The environment variable that holds the secret itself, in place of the file that this option names. */
  readonly secret?: string;
  readonly type: 'text' | 'seconds' | 'wait' | 'switch' | 'count' | 'negated';
}

/** Environment variables that hold a secret itself, and so have no flag. */
export const secretVariables = {
  connectionString: 'IOTDM_CONNECTION_STRING',
  slotKey: 'IOTDM_SLOT_KEY',
  dpsConnectionString: 'IOTDM_DPS_CONNECTION_STRING',
  ownerAuth: 'IOTDM_OWNER_AUTH',
  endorsementAuth: 'IOTDM_ENDORSEMENT_AUTH',
  lockoutAuth: 'IOTDM_LOCKOUT_AUTH',
} as const;

/** A service of a million enrollments is read in a thousand requests: in an hour it allows sixty times as many. */
export const DEFAULT_INDEX_AGE = '1h';
const MAX_INDEX_AGE_S = 30 * 86_400;

const sharedOptions: readonly SharedOption[] = [
  {
    key: 'tpm',
    group: 'tpm',
    flags: '--tpm <tcti>',
    description:
      'which TPM: device:PATH, swtpm:host=H,port=P, swtpm:path=SOCKET, mssim:host=H,port=P, cmd:COMMAND, tbs ' +
      '(default: /dev/tpmrm0, then /dev/tpm0; on Windows tbs)',
    environment: ['IOTDM_TPM', 'TPM2TOOLS_TCTI'],
    type: 'text',
  },
  {
    key: 'ownerAuthFile',
    group: 'tpm',
    flags: '--owner-auth-file <file>',
    description: "the owner hierarchy's authorization value, where one is set (- reads stdin)",
    environment: [],
    secret: secretVariables.ownerAuth,
    type: 'text',
  },
  {
    key: 'endorsementAuthFile',
    group: 'tpm',
    flags: '--endorsement-auth-file <file>',
    description: "the endorsement hierarchy's authorization value, where one is set (- reads stdin)",
    environment: [],
    secret: secretVariables.endorsementAuth,
    type: 'text',
  },
  {
    key: 'lockoutAuthFile',
    group: 'tpm',
    flags: '--lockout-auth-file <file>',
    description: 'the lockout authorization value, where one is set (- reads stdin)',
    environment: [],
    secret: secretVariables.lockoutAuth,
    type: 'text',
  },
  {
    key: 'dps',
    group: 'service',
    flags: '--dps <host>',
    description:
      'DPS service host, where it is not the one in the connection string; without one, Microsoft Entra ID gives access',
    environment: ['IOTDM_DPS_HOST'],
    type: 'text',
  },
  {
    key: 'dpsConnectionStringFile',
    group: 'service',
    flags: '--dps-connection-string-file <file>',
    description: "the service's connection string (- reads stdin)",
    environment: [],
    secret: secretVariables.dpsConnectionString,
    type: 'text',
  },
  {
    key: 'idScope',
    group: 'device',
    flags: '--id-scope <scope>',
    description: 'ID scope of the Device Provisioning Service, as the portal shows it',
    environment: ['IOTDM_ID_SCOPE'],
    type: 'text',
  },
  {
    key: 'deviceHost',
    group: 'device',
    flags: '--device-host <host>',
    description:
      'where devices register, as host or host:port (default: global.azure-devices-provisioning.net)',
    environment: ['IOTDM_DEVICE_HOST'],
    type: 'text',
  },
  {
    key: 'ca',
    group: 'tls',
    flags: '--ca <pem>',
    description: 'extra certificate authority to trust, such as the emulator or an inspecting proxy',
    environment: ['IOTDM_CA'],
    type: 'text',
  },
  {
    key: 'stateDir',
    group: 'state',
    flags: '--state-dir <dir>',
    description:
      'where locks, records of interrupted changes and the index of identities are kept (default: ~/.local/state/iotdm on Linux)',
    environment: ['IOTDM_STATE_DIR'],
    type: 'text',
  },
  {
    key: 'wait',
    group: 'change',
    flags: '--wait [seconds]',
    description: 'wait while another iotdm changes the TPM, without a number as long as it takes',
    environment: [],
    type: 'wait',
  },
  {
    key: 'proxy',
    group: 'service',
    flags: '--proxy <url>',
    description: 'HTTPS proxy, http://host:port; hosts in NO_PROXY are reached without it',
    environment: ['HTTPS_PROXY', 'https_proxy'],
    type: 'text',
  },
  {
    key: 'timeout',
    group: 'timeout',
    flags: '--timeout <seconds>',
    description: 'time limit of one TPM command (default: 120) or HTTP request (default: 30)',
    environment: [],
    type: 'seconds',
  },
  {
    key: 'indexAge',
    group: 'index',
    flags: '--index-age <time>',
    description:
      'read all enrollments again, to compare device ids and keys with, when what is known of them is older: seconds, or ' +
      `such as 10m or 8h (default: ${DEFAULT_INDEX_AGE})`,
    environment: ['IOTDM_INDEX_AGE'],
    type: 'text',
  },
  {
    key: 'index',
    group: 'index',
    flags: '--no-index',
    description: 'do not compare device ids and keys with those of all other enrollments',
    environment: [],
    type: 'negated',
  },
  {
    key: 'yes',
    group: 'confirm',
    flags: '--yes',
    description: 'do not ask before something destructive; required when not at a terminal',
    environment: [],
    type: 'switch',
  },
  {
    key: 'dryRun',
    group: 'dry-run',
    flags: '--dry-run',
    description: 'say what would be done, change nothing',
    environment: [],
    type: 'switch',
  },
  {
    key: 'json',
    group: 'output',
    flags: '--json',
    description: 'print the result, or the error, as one JSON document',
    environment: ['IOTDM_JSON'],
    type: 'switch',
  },
  {
    key: 'quiet',
    group: 'output',
    flags: '-q, --quiet',
    description: 'print results and errors only',
    environment: [],
    type: 'switch',
  },
  {
    key: 'verbose',
    group: 'output',
    flags: '-v, --verbose',
    description: 'say more; -vv traces TPM commands and HTTP requests, without secrets',
    environment: [],
    type: 'count',
  },
  {
    key: 'color',
    group: 'output',
    flags: '--no-color',
    description: 'no colours, also where stderr is a terminal',
    environment: ['NO_COLOR'],
    type: 'negated',
  },
  {
    key: 'config',
    group: 'output',
    flags: '--config <file>',
    description: 'settings file (default: iotdm.config.json in the working directory)',
    environment: [],
    type: 'text',
  },
];

export type Environment = Readonly<Record<string, string | undefined>>;

const DEFAULT_CONFIG_FILE = 'iotdm.config.json';

/** Adds the shared options to the program, where commander takes them before and after the command's name. */
export function declareSharedOptions(program: Command): void {
  for (const { flags, description, environment, secret, type } of sharedOptions) {
    const variables = secret === undefined ? environment : [secret];
    const inEnvironment = variables.length === 0 ? '' : ` [${variables.join(', ')}]`;
    const option = new Option(flags, description + inEnvironment);
    if (type === 'count') option.argParser((_: string, before: unknown) => Number(before ?? 0) + 1);
    program.addOption(option);
    if (secret === undefined) continue;
    const [name = ''] = flags.split(' ');
    program.addOption(secretFlag(`${name.replace(/-file$/, '')} <value>`, `${name} FILE or ${secret}`));
  }
}

/**
 * How many words of a command line this one begins, its value included, where it is a shared option; otherwise 0.
 * @param next what follows, where an option whose value may be left out can have it there
 */
export function sharedOptionLength(word: string, next?: string): number {
  if (/^-v+$/.test(word)) return 1;
  for (const { flags, type } of sharedOptions) {
    const names = flags.replace(/ [<[].*$/, '').split(', ');
    const takesValue = type === 'text' || type === 'seconds';
    const mayTakeValue = type === 'wait' && /^\d/.test(next ?? '');
    if (names.includes(word)) return takesValue || mayTakeValue ? 2 : 1;
    if ((takesValue || type === 'wait') && names.some((name) => word.startsWith(`${name}=`))) return 1;
  }
  return 0;
}

/** Whether a command's help lists this shared option. */
export function isShownFor(groups: readonly SettingGroup[], option: Option): boolean {
  const shared = sharedOptions.find(({ flags }) => flags === option.flags);
  return shared === undefined || shared.group === 'output' || shownGroups(groups).has(shared.group);
}

/** What changes the TPM keeps a record of it, and services are reached over TLS. */
function shownGroups(groups: readonly SettingGroup[]): ReadonlySet<SettingGroup> {
  const implied: Partial<Record<SettingGroup, SettingGroup>> = {
    change: 'state',
    index: 'state',
    service: 'tls',
    device: 'tls',
  };
  return new Set(groups.flatMap((group) => [group, implied[group] ?? group]));
}

/**
 * Flag, else environment, else settings file.
 * @param flags what commander parsed, by long name in camelCase
 * @throws IotdmError `usage.invalid`, `input.unreadable`
 */
export function resolveSettings(
  flags: Readonly<Record<string, unknown>>,
  environment: Environment,
): Settings {
  const file = readSettingsFile(flags['config'] as string | undefined);
  const found = (key: string): unknown => {
    const option = sharedOptions.find((candidate) => candidate.key === key);
    // Commander gives a negated option the value true when it was not used.
    const flag = option?.type === 'negated' && flags[key] === true ? undefined : flags[key];
    if (flag !== undefined) return flag;
    const variable = option?.environment.find((name) => (environment[name] ?? '') !== '');
    if (variable !== undefined) return fromEnvironment(option, variable, environment[variable] ?? '');
    const isSecretGiven = option?.secret !== undefined && (environment[option.secret] ?? '') !== '';
    return isSecretGiven ? undefined : file.get(key);
  };
  const text = (key: keyof Settings): string | undefined => found(key) as string | undefined;
  const timeout = found('timeout');
  const wait = found('wait');
  return {
    tpm: text('tpm'),
    ownerAuthFile: text('ownerAuthFile'),
    endorsementAuthFile: text('endorsementAuthFile'),
    lockoutAuthFile: text('lockoutAuthFile'),
    dps: text('dps'),
    dpsConnectionStringFile: text('dpsConnectionStringFile'),
    idScope: text('idScope'),
    deviceHost: text('deviceHost'),
    ca: text('ca'),
    stateDir: text('stateDir'),
    wait: wait === undefined ? undefined : parseWait(wait),
    proxy: text('proxy'),
    timeout: timeout === undefined ? undefined : parseSeconds(timeout),
    index: found('index') !== false,
    indexAge: parseAge(found('indexAge') ?? DEFAULT_INDEX_AGE),
    yes: found('yes') === true,
    dryRun: found('dryRun') === true,
    json: found('json') === true,
    quiet: found('quiet') === true,
    verbose: Number(found('verbose') ?? 0),
    color: found('color') !== false,
    line: resolveLineSettings(file, environment),
    flags: new Set(Object.keys(flags).filter((key) => flags[key] !== undefined)),
  };
}

function fromEnvironment(option: SharedOption | undefined, name: string, value: string): unknown {
  // https://no-color.org: any value but the empty one.
  if (option?.type === 'negated') return false;
  if (option?.type !== 'switch') return value;
  if (/^(1|true|yes)$/i.test(value)) return true;
  if (/^(0|false|no)$/i.test(value)) return false;
  throw new IotdmError('usage.invalid', `${name} is "${value}", expected 1 or 0`);
}

function readSettingsFile(given: string | undefined): Map<string, unknown> {
  const path = given ?? DEFAULT_CONFIG_FILE;
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if (given === undefined && systemErrorCode(cause) === 'ENOENT') return new Map();
    const reason = systemErrorCode(cause) ?? 'unknown error';
    throw new IotdmError('input.unreadable', `cannot read the settings file ${path} (${reason})`, {
      cause,
      details: because('settings-file'),
    });
  }
  let settings: unknown;
  try {
    settings = JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (cause) {
    throw new IotdmError('input.invalid', `the settings file ${path} is not JSON`, {
      cause,
      details: because('settings-file'),
    });
  }
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) {
    throw new IotdmError('input.invalid', `the settings file ${path} does not hold a JSON object`, {
      details: because('settings-file'),
    });
  }
  return new Map(Object.entries(settings).map(([key, value]) => [key, checkFileValue(path, key, value)]));
}

function checkFileValue(path: string, key: string, value: unknown): unknown {
  if (isLineSetting(key)) {
    const problem = lineSettingProblem(key, value);
    if (problem === undefined) return value;
    throw new IotdmError('input.invalid', `the setting "${key}" in ${path} ${problem}`, {
      details: because('settings-file'),
    });
  }
  const shared = sharedOptions.map((option) => option.key).filter((name) => name !== 'config');
  const names = [...shared, ...lineSettingKeys];
  const option = sharedOptions.find((candidate) => candidate.key === key && candidate.key !== 'config');
  if (option === undefined) {
    const guess = nearest(key, names);
    const hint = guess === undefined ? '' : `; did you mean "${guess}"?`;
    throw new IotdmError(
      'input.invalid',
      `the settings file ${path} has an unknown setting "${key}"${hint}`,
      { details: because('settings-file') },
    );
  }
  const expected = {
    text: 'string',
    seconds: 'number',
    wait: 'number',
    switch: 'boolean',
    count: 'number',
    negated: 'boolean',
  }[option.type];
  if (typeof value !== expected) {
    throw new IotdmError('input.invalid', `the setting "${key}" in ${path} must be a ${expected}`, {
      details: because('settings-file'),
    });
  }
  return value;
}

/** `--wait` without a number is `true`. */
function parseWait(value: unknown): number {
  if (value === true) return Number.POSITIVE_INFINITY;
  return value === 0 || value === '0' ? 0 : parseSeconds(value);
}

function parseAge(value: unknown): number {
  const seconds = secondsOf(String(value));
  if (seconds !== undefined && seconds <= MAX_INDEX_AGE_S) return seconds;
  throw new IotdmError(
    'usage.invalid',
    `"${String(value)}" is no age of the index: expected seconds, or such as 10m, 8h or 1d, up to 30 days`,
  );
}

function parseSeconds(value: unknown): number {
  const seconds = Number(value);
  if (!Number.isFinite(seconds) || seconds <= 0 || seconds > 86400) {
    throw new IotdmError(
      'usage.invalid',
      `"${String(value)}" is not a time limit: expected seconds, such as 30`,
    );
  }
  return seconds;
}
