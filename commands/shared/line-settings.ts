/**
 * What a production line is: where it records, who works at it, and what its devices get. These settings have flags at
 * the commands that heed them; here is what the environment and the settings file say.
 */
import { delimiter } from 'node:path';
import { IotdmError } from '../../src/errors.ts';
import { isStepName, stepNames, type StepName } from '../../src/station/provision/steps.ts';

export const trustPolicies = ['require', 'warn', 'off'] as const;
/** What to do about a verdict on an EK certificate other than `genuine`. */
export type TrustPolicy = (typeof trustPolicies)[number];

export interface LineSettings {
  readonly manifest?: string;
  readonly record?: string;
  readonly station?: string;
  readonly operator?: string;
  readonly lot?: string;
  readonly tags?: Readonly<Record<string, string>>;
  readonly verify?: TrustPolicy;
  readonly ekRoots?: readonly string[];
  readonly slot?: number;
  /** Module ids and their slots. */
  readonly modules?: Readonly<Record<string, number>>;
  readonly hubHost?: string;
  readonly skip?: readonly StepName[];
  /** Seconds. */
  readonly budget?: number;
  readonly concurrency?: number;
}

type Key = keyof LineSettings;

interface Kind {
  /** Such as `must be a string`. */
  readonly expected: string;
  readonly accepts: (value: unknown) => boolean;
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
const isSlot = (value: unknown): boolean =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 9;
const isMapOf = (value: unknown, accepts: (member: unknown) => boolean): boolean =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every(accepts);

const text: Kind = { expected: 'must be a string', accepts: isText };
const number: Kind = {
  expected: 'must be a number',
  accepts: (value) => typeof value === 'number' && value > 0,
};

const kinds: Readonly<Record<Key, Kind>> = {
  manifest: text,
  record: text,
  station: text,
  operator: text,
  lot: text,
  tags: {
    expected: 'must be an object of strings, such as {"board": "rev-c"}',
    accepts: (value) => isMapOf(value, (member) => typeof member === 'string'),
  },
  verify: {
    expected: `must be one of ${trustPolicies.join(', ')}`,
    accepts: (value) => (trustPolicies as readonly unknown[]).includes(value),
  },
  ekRoots: {
    expected: 'must be a string, or a list of strings',
    accepts: (value) => isText(value) || (Array.isArray(value) && value.every(isText)),
  },
  slot: { expected: 'must be a number from 0 to 9', accepts: isSlot },
  modules: {
    expected: 'must be an object of modules and their slots, such as {"AppB": 2}',
    accepts: (value) => isMapOf(value, isSlot),
  },
  hubHost: text,
  skip: {
    expected: `must be a list of steps: ${stepNames.join(', ')}`,
    accepts: (value) => Array.isArray(value) && value.every((name) => isStepName(name)),
  },
  budget: number,
  concurrency: number,
};

/** Texts only; what has structure stands in the file, or is given by flags. */
const variables: Partial<Record<Key, string>> = {
  manifest: 'IOTDM_MANIFEST',
  record: 'IOTDM_RECORD',
  station: 'IOTDM_STATION',
  operator: 'IOTDM_OPERATOR',
  lot: 'IOTDM_LOT',
  ekRoots: 'IOTDM_EK_ROOTS',
  hubHost: 'IOTDM_HUB_HOST',
};

export const lineSettingKeys = Object.keys(kinds) as readonly Key[];

export function isLineSetting(key: string): key is Key {
  return Object.hasOwn(kinds, key);
}

/** What a value in the settings file should be, or undefined where it is that. */
export function lineSettingProblem(key: Key, value: unknown): string | undefined {
  const { accepts, expected } = kinds[key];
  return accepts(value) ? undefined : expected;
}

/** `[IOTDM_STATION]`, for the description of a flag. */
export function variableNote(key: Key): string {
  return variables[key] === undefined ? '' : ` [${variables[key]}]`;
}

/** @param file checked values of the settings file */
export function resolveLineSettings(
  file: ReadonlyMap<string, unknown>,
  environment: Readonly<Record<string, string | undefined>>,
): LineSettings {
  const found = lineSettingKeys.flatMap((key) => {
    const inEnvironment = environment[variables[key] ?? ''] ?? '';
    const value = inEnvironment === '' ? file.get(key) : inEnvironment;
    if (value === undefined) return [];
    return [[key, key === 'ekRoots' ? rootsOf(value) : value] as const];
  });
  return Object.fromEntries(found);
}

/** As in PATH; a list in the file. */
function rootsOf(value: unknown): readonly string[] {
  if (Array.isArray(value)) return value as readonly string[];
  return String(value)
    .split(delimiter)
    .filter((path) => path !== '');
}

/** `check,prove` and more of that. @throws IotdmError `usage.invalid` */
export function parseSteps(texts: readonly string[]): readonly StepName[] {
  return texts
    .flatMap((list) => list.split(','))
    .map((name) => {
      const step = name.trim().toLowerCase();
      if (isStepName(step)) return step;
      throw new IotdmError('usage.invalid', `"${name}" is no step: the steps are ${stepNames.join(', ')}`);
    });
}
