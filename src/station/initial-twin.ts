/**
 * The initial twin of an enrollment: dotted columns and their cells, and the limits that IoT Hub sets for tags and
 * desired properties. Source: "Understand and use device twins in IoT Hub", sections "Tags and properties format" and
 * "Device twin size".
 */
import type { TwinObject, TwinValue } from '../dps/enrollment.ts';
import { errorValueIn } from './spreadsheet-damage.ts';

export type TwinPart = 'tags' | 'desired';

export type MutableTwin = Record<string, TwinValue>;

/** Largest size of a part in bytes, counted as IoT Hub counts it (see `twinSize`). */
export const TWIN_PART_BYTES: Readonly<Record<TwinPart, number>> = { tags: 8 * 1024, desired: 32 * 1024 };

const MAX_DEPTH = 10;
const MAX_KEY_BYTES = 1024;
const MAX_TEXT_BYTES = 4096;
const MAX_INTEGER = 2 ** 52 - 1;

/**
 * The value of a cell in a `tags.*` or `desired.*` column. `true`, `false`, `null`, numbers as JavaScript prints them
 * (`5`, `-0.25`, not `007`, `1.0` or `1e5`, and no integer beyond 2^53), JSON objects and JSON arrays become that
 * value; a JSON string in its quotes becomes its content, which is how `"5"` stays text; anything else is text as it
 * stands.
 */
export function twinValueOfCell(cell: string): TwinValue {
  if (cell === 'true') return true;
  if (cell === 'false') return false;
  if (cell === 'null') return null;
  const number = Number(cell);
  if (String(number) === cell && Number.isFinite(number)) {
    return Number.isInteger(number) && !Number.isSafeInteger(number) ? cell : number;
  }
  if (!/^[[{"]/.test(cell)) return cell;
  try {
    return JSON.parse(cell) as TwinValue;
  } catch {
    return cell;
  }
}

/**
 * The cell that `twinValueOfCell` reads as this value. It is never empty, for an empty cell is an absent value, and no
 * spreadsheet takes it for a formula, nor is it taken for an error of one.
 */
export function twinCell(value: TwinValue): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  const plain =
    !/^(?:$|[=+\-@])|[\p{Cc}\p{Cs}]/u.test(value) &&
    twinValueOfCell(value) === value &&
    errorValueIn(value) === undefined;
  return plain ? value : JSON.stringify(value);
}

/** The columns of a twin part and their cells: one for each value that is not an object with members. */
export function* twinCells(part: TwinPart, twin: TwinObject): Generator<[column: string, cell: string]> {
  for (const [key, value] of Object.entries(twin)) {
    yield* cellsBelow(`${part}.${key}`, value);
  }
}

function* cellsBelow(column: string, value: TwinValue): Generator<[string, string]> {
  const members = isTwinObject(value) ? Object.entries(value) : [];
  if (members.length === 0) yield [column, twinCell(value)];
  for (const [key, member] of members) yield* cellsBelow(`${column}.${key}`, member);
}

/**
 * Puts a value at a path of the twin. An object joins an object that is already there.
 * @returns false when another value stands there or on the way there
 */
export function placeTwinValue(twin: MutableTwin, path: readonly string[], value: TwinValue): boolean {
  const [key, ...rest] = path;
  if (key === undefined) return placeMembers(twin, value);
  const existing = Object.hasOwn(twin, key) ? twin[key] : undefined;
  if (existing === undefined) {
    const inner: MutableTwin = {};
    const placed = rest.length === 0 && !isTwinObject(value) ? value : inner;
    twin[key] = placed;
    return placed !== inner || placeTwinValue(inner, rest, value);
  }
  return isTwinObject(existing) && placeTwinValue(existing, rest, value);
}

function placeMembers(twin: MutableTwin, value: TwinValue): boolean {
  if (!isTwinObject(value)) return false;
  return Object.entries(value).every(([key, member]) => placeTwinValue(twin, [key], member));
}

/** Why a path cannot lead to a value below `tags` or `desired`, or undefined when it can. */
export function twinPathProblem(path: readonly string[]): string | undefined {
  if (path.length > MAX_DEPTH + 1) return `a twin is at most ${MAX_DEPTH} levels deep`;
  return path.map(twinKeyProblem).find((problem) => problem !== undefined);
}

/**
 * A checked copy of a value at a path below `tags` or `desired`, or undefined when `report` was called. `-0` becomes 0,
 * which is how JSON writes it.
 */
export function checkTwinValue(
  value: unknown,
  path: readonly string[],
  report: (path: readonly string[], problem: string) => void,
): TwinValue | undefined {
  if (value === null || typeof value === 'boolean') return value;
  if (typeof value === 'number') {
    if (!Number.isInteger(value) || (value <= MAX_INTEGER && value >= -MAX_INTEGER - 1)) return value + 0;
    report(path, 'an integer in a twin lies between -4503599627370496 and 4503599627370495');
    return undefined;
  }
  if (typeof value === 'string') {
    const problem = textProblem(value);
    if (problem === undefined) return value;
    report(path, problem);
    return undefined;
  }
  if (path.length > MAX_DEPTH) {
    report(path, `a twin is at most ${MAX_DEPTH} levels deep`);
    return undefined;
  }
  if (Array.isArray(value)) return checkElements(value, path, report);
  return checkMembers(value as Readonly<Record<string, unknown>>, path, report);
}

function checkElements(
  values: readonly unknown[],
  path: readonly string[],
  report: (path: readonly string[], problem: string) => void,
): TwinValue | undefined {
  const checked = values.map((value, index) => checkTwinValue(value, [...path, String(index)], report));
  const whole = checked.filter((value) => value !== undefined);
  return whole.length === values.length ? whole : undefined;
}

function checkMembers(
  members: Readonly<Record<string, unknown>>,
  path: readonly string[],
  report: (path: readonly string[], problem: string) => void,
): TwinValue | undefined {
  const copy: MutableTwin = {};
  let whole = true;
  for (const [key, member] of Object.entries(members)) {
    const problem = twinKeyProblem(key);
    const value = problem === undefined ? checkTwinValue(member, [...path, key], report) : undefined;
    if (problem !== undefined) report([...path, key], problem);
    if (value === undefined) whole = false;
    else copy[key] = value;
  }
  return whole ? copy : undefined;
}

/** What the Azure CLI puts around tags, desired properties and device information. */
const collectionMembers: ReadonlySet<string> = new Set([
  'additionalProperties',
  'count',
  'metadata',
  'version',
]);
const COLLECTION = 'additionalProperties';

/**
 * Looks for the wrapper that the Azure CLI writes tags and properties in, TwinCollection of its SDK: the values under
 * `additionalProperties`, beside them `count`, `metadata` and `version`, which only the service sets.
 * @returns the values, and the path to them; a problem where the wrapper is not whole, as it is no data either
 */
export function unwrapTwinCollection(
  value: Readonly<Record<string, unknown>>,
):
  | { readonly values: Readonly<Record<string, unknown>>; readonly path: readonly string[] }
  | { readonly problem: string; readonly path: readonly string[] } {
  const inner = Object.hasOwn(value, COLLECTION) ? value[COLLECTION] : undefined;
  const isInner = typeof inner === 'object' && !Array.isArray(inner);
  if (!isInner || (inner === null && !isCollection(value))) return { values: value, path: [] };
  if (isCollection(value)) {
    return { values: (inner ?? {}) as Readonly<Record<string, unknown>>, path: [COLLECTION] };
  }
  const problem =
    "this is the Azure CLI's TwinCollection, or part of one: write what stands in additionalProperties in its place";
  return { problem, path: [COLLECTION] };
}

/** Nothing but the wrapper: what stands beside the values is null, or as the service writes it. */
function isCollection(value: Readonly<Record<string, unknown>>): boolean {
  const isNumber = (member: unknown): boolean => (member ?? null) === null || Number.isInteger(member);
  const names = Object.keys(value);
  return (
    names.length > 1 &&
    names.every((name) => collectionMembers.has(name)) &&
    isNumber(value['count']) &&
    isNumber(value['version']) &&
    typeof (value['metadata'] ?? null) === 'object'
  );
}

/** Why a text cannot be a key in a twin, or undefined when it can. */
export function twinKeyProblem(key: string): string | undefined {
  if (key === '') return 'a key in a twin is empty';
  if (key === '__proto__') return 'the key __proto__ is not taken';
  if (/[\p{Cc}\p{Cs}.$ ]/u.test(key))
    return 'a key in a twin has no control characters, no space and no . or $';
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) return `a key in a twin has at most ${MAX_KEY_BYTES} bytes`;
  return undefined;
}

function textProblem(text: string): string | undefined {
  if (/\p{Cs}/u.test(text)) return 'the text holds half a surrogate pair';
  if (Buffer.byteLength(text) > MAX_TEXT_BYTES) return `a text in a twin has at most ${MAX_TEXT_BYTES} bytes`;
  return undefined;
}

/** Size as IoT Hub counts it: keys and texts in UTF-8 without control characters, 8 bytes a number, 4 a boolean. */
export function twinSize(value: TwinValue): number {
  if (typeof value === 'number') return 8;
  if (typeof value === 'boolean') return 4;
  if (typeof value === 'string') return textSize(value);
  if (isTwinObject(value)) {
    return Object.entries(value).reduce((sum, [key, member]) => sum + textSize(key) + twinSize(member), 0);
  }
  let size = 0;
  for (const element of value ?? []) size += twinSize(element);
  return size;
}

function textSize(text: string): number {
  return Buffer.byteLength(text.replace(/\p{Cc}/gu, ''));
}

function isTwinObject(value: TwinValue): value is MutableTwin {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
