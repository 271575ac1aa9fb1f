/**
 * Limpet.exe's public command line, row by row. Parsing, help, usage and the README's table follow from it.
 */

export interface LimpetSwitch {
  /** Without the dash. Two for what Limpet spells as a switch and a command, such as `-azuredps -register`. */
  readonly words: readonly [string] | readonly [string, string];
  /** Behind the number of a slot, or by itself. */
  readonly scope: 'tpm' | 'slot';
  /** Parameters that must be there, then those that may. */
  readonly required?: readonly string[];
  readonly optional?: readonly string[];
  /** What the parameters may be, where they are words of Limpet's own. */
  readonly choices?: readonly string[];
  readonly does: string;
  /** The element around its output, and alone, empty, on a failure; null where Limpet prints plain text. */
  readonly element: string | null;
  /** The command of iotdm that does the same. */
  readonly iotdm: string;
  /** It changes a TPM, a file or a process. */
  readonly changes: boolean;
}

const rows = {
  VER: {
    words: ['VER'],
    scope: 'tpm',
    does: 'version',
    element: 'Version',
    iotdm: 'iotdm --version',
    changes: false,
  },
  GTI: {
    words: ['GTI'],
    scope: 'tpm',
    does: 'what the TPM is',
    element: 'TpmInfo',
    iotdm: 'iotdm tpm info',
    changes: false,
  },
  FCT: {
    words: ['FCT'],
    scope: 'tpm',
    does: 'clear the TPM',
    element: 'TpmClear',
    iotdm: 'iotdm tpm clear',
    changes: true,
  },
  LAT: {
    words: ['LAT'],
    scope: 'tpm',
    does: 'list the add-on TPMs',
    element: 'TpmAddInSupport',
    iotdm: 'iotdm tpm list',
    changes: false,
  },
  IAT: {
    words: ['IAT'],
    scope: 'tpm',
    required: ['index'],
    does: 'install an add-on TPM; 1 is the simulator, 0 none',
    element: 'Installed',
    iotdm: 'iotdm simulator start',
    changes: true,
  },
  LLD: {
    words: ['LLD'],
    scope: 'tpm',
    does: 'list the slots in use',
    element: 'LogicalDevices',
    iotdm: 'iotdm slot list',
    changes: false,
  },
  ERK: {
    words: ['ERK'],
    scope: 'tpm',
    optional: ['file'],
    does: 'public EK, also into a file',
    element: 'ERKPub',
    iotdm: 'iotdm ek read',
    changes: false,
  },
  SRK: {
    words: ['SRK'],
    scope: 'tpm',
    optional: ['file'],
    does: 'public SRK, also into a file',
    element: 'SRKPub',
    iotdm: 'iotdm srk read',
    changes: false,
  },
  RID: {
    words: ['RID'],
    scope: 'slot',
    does: 'logical device id',
    element: 'DevId',
    iotdm: 'iotdm slot device-id 0',
    changes: false,
  },
  SUR: {
    words: ['SUR'],
    scope: 'slot',
    required: ['uri'],
    does: 'store the URI',
    element: 'StorageName',
    iotdm: 'iotdm slot uri write 0',
    changes: true,
  },
  RUR: {
    words: ['RUR'],
    scope: 'slot',
    does: 'read the URI',
    element: 'ServiceURI',
    iotdm: 'iotdm slot uri read 0',
    changes: false,
  },
  DUR: {
    words: ['DUR'],
    scope: 'slot',
    does: 'destroy the URI',
    element: 'StorageName',
    iotdm: 'iotdm slot uri clear 0',
    changes: true,
  },
  PCS: {
    words: ['PCS'],
    scope: 'slot',
    required: ['connection string'],
    does: 'provision a connection string',
    element: 'Provisioned',
    iotdm: 'iotdm slot write 0',
    changes: true,
  },
  CHK: {
    words: ['CHK'],
    scope: 'slot',
    required: ['key'],
    does: 'create the HMAC key',
    element: 'KeyName',
    iotdm: 'iotdm slot key write 0',
    changes: true,
  },
  EHK: {
    words: ['EHK'],
    scope: 'slot',
    does: 'evict the HMAC key',
    element: 'KeyName',
    iotdm: 'iotdm slot key clear 0',
    changes: true,
  },
  SHK: {
    words: ['SHK'],
    scope: 'slot',
    required: ['file'],
    does: 'HMAC of a file',
    element: 'Sha256Hmac',
    iotdm: 'iotdm slot sign 0 FILE',
    changes: false,
  },
  AST: {
    words: ['AST'],
    scope: 'slot',
    optional: ['seconds'],
    does: 'SAS connection string',
    element: 'SASToken',
    iotdm: 'iotdm slot token 0',
    changes: false,
  },
  DLD: {
    words: ['DLD'],
    scope: 'slot',
    does: 'destroy the logical device',
    element: 'Destroyed',
    iotdm: 'iotdm slot clear 0',
    changes: true,
  },
  enrollmentInfo: {
    words: ['azuredps', 'enrollmentinfo'],
    scope: 'tpm',
    optional: ['csv', 'json', 'txt'],
    choices: ['csv', 'json', 'txt'],
    does: 'EK and registration id',
    element: null,
    iotdm: 'iotdm ek read --format csv',
    changes: false,
  },
  register: {
    words: ['azuredps', 'register'],
    scope: 'tpm',
    required: ['slot', 'host', 'id scope'],
    does: 'register with DPS, fill the slot',
    element: null,
    iotdm: 'iotdm device register',
    changes: true,
  },
} as const satisfies Readonly<Record<string, LimpetSwitch>>;

export type SwitchName = keyof typeof rows;

/** The names of the rows that stand by themselves, and of those that stand behind the number of a slot. */
export type TpmSwitchName = {
  [N in SwitchName]: (typeof rows)[N]['scope'] extends 'tpm' ? N : never;
}[SwitchName];
export type SlotSwitchName = Exclude<SwitchName, TpmSwitchName>;

export const limpetSwitches: Readonly<Record<SwitchName, LimpetSwitch>> = rows;

export const switchNames = Object.keys(rows) as readonly SwitchName[];

export function isSlotSwitch(name: SwitchName): name is SlotSwitchName {
  return limpetSwitches[name].scope === 'slot';
}

/** Identity certificates, activation, hostage keys, payload protection, certificate stores: not available yet. */
export const plannedSwitches: readonly string[] =
  'PFX IIC SIC REC AEI DEC RRC ARI DRC CAI CSI ISI AIC EPL DPL DCS ICS'.split(' ');

/** Such as `0 -AST {seconds}`: the number of the slot stands for any. */
export function notation({ words, scope, required = [], optional = [], choices }: LimpetSwitch): string {
  return [
    ...(scope === 'slot' ? ['0'] : []),
    ...words.map((word) => `-${word}`),
    ...required.map((name) => `<${name}>`),
    ...(choices === undefined ? optional.map((name) => `{${name}}`) : [`{${choices.join('|')}}`]),
  ].join(' ');
}
