/**
 * Enrollments from files: CSV, NDJSON and JSON arrays, Limpet's output and harvest's manifests, streamed row by row,
 * each row either a checked enrollment or the list of all that is wrong with it.
 */
import { createReadStream } from 'node:fs';
import {
  allocationPolicies,
  deviceIdProblem,
  hostNameProblem,
  provisioningStatuses,
  registrationIdProblem,
  type Enrollment,
  type ReprovisionPolicy,
  type TwinObject,
} from '../dps/enrollment.ts';
import { decodeBase64 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import { readCsv, type CsvRow } from '../records/csv.ts';
import { readJsonElements, readNdjson, type BrokenJsonRow, type JsonRow } from '../records/json-rows.ts';
import { detectRowFormat, type RowFormat } from '../records/row-format.ts';
import { inputError } from '../records/text-source.ts';
import { redact } from '../secret.ts';
import { endorsementKeyProblem, registrationIdOf } from '../tpm/endorsement-key.ts';
import {
  nameOfKey,
  recognizeEndorsementKey,
  type RecognizedEndorsementKey,
} from '../tpm/endorsement-key-forms.ts';
import {
  booleanOf,
  columnOfName,
  keyFields,
  nameOfColumn,
  nearestColumnName,
  quoted,
  reprovisionPolicyOf,
  shownText,
  type Column,
  type EnrollmentField,
  type InputField,
  type KeyField,
} from './enrollment-columns.ts';
import { FirstSeen } from './first-seen.ts';
import {
  checkTwinValue,
  placeTwinValue,
  TWIN_PART_BYTES,
  twinPathProblem,
  twinSize,
  twinValueOfCell,
  type MutableTwin,
  type TwinPart,
} from './initial-twin.ts';

export type InputFormat = RowFormat;

export interface InputSource {
  /** File name, or `<stdin>`, for messages and for the format. */
  readonly name: string;
  /** The bytes from the beginning; called once for each pass over the source. */
  open(): AsyncIterable<Buffer>;
  /** Overrides what name and content say. */
  readonly format?: InputFormat;
}

export interface InputOptions {
  readonly ignoreUnknownColumns?: boolean;
}

export interface EnrollmentRow {
  /** 1-based number of the row's first line in its file. */
  readonly line: number;
  readonly enrollment: Enrollment;
  readonly serialNumber?: string;
}

export interface RowFault {
  readonly file: string;
  /** 1-based. */
  readonly line: number;
  /** 1-based, in characters; null where a fault has no column. */
  readonly column: number | null;
  /** The column's or member's name, as `iotEdge` or `tags.site`; null for faults of a whole row. */
  readonly field: string | null;
  /** Of the row, where that much is known. */
  readonly registrationId: string | null;
  readonly code: 'input.invalid';
  /** Lower case, without a full stop. */
  readonly message: string;
}

/** A row that is no enrollment, or a CSV header behind which no row can be read. */
export interface FaultyRow {
  readonly line: number;
  readonly isHeader: boolean;
  /** All that was found, in the order of the file. */
  readonly faults: readonly RowFault[];
}

export interface InputCheck {
  /** Rows in all sources, faulty ones included. */
  readonly rows: number;
  /** The first 100. */
  readonly faults: readonly RowFault[];
  readonly faultCount: number;
}

const MAX_LISTED_FAULTS = 100;

/** Longer than any field's name, with the spaces that people put into it. */
const MAX_FIELD_NAME = 40;

/** A file as a source. */
export function fileInput(path: string, format?: InputFormat): InputSource {
  return { name: path, open: () => createReadStream(path), ...(format === undefined ? {} : { format }) };
}

/**
 * The rows of one source. Unknown columns are faults unless they are to be ignored; a CSV header that cannot be used
 * is one item with `isHeader`, after which the source ends.
 * @throws IotdmError `input.unreadable`; `input.invalid` for a file that is not in its format, breaks off, or holds no
 * rows
 */
export async function* readEnrollmentRows(
  source: InputSource,
  options: InputOptions = {},
): AsyncGenerator<EnrollmentRow | FaultyRow, void, undefined> {
  let empty = true;
  for await (const item of readRows(source, options)) {
    empty = false;
    yield item;
  }
  if (empty) throw new IotdmError('input.invalid', `${source.name} holds no rows`);
}

/**
 * The enrollments of sources that were checked before.
 * @throws IotdmError as `readEnrollmentRows`, and `input.invalid` with the first fault of a row
 */
export async function* readCheckedRows(
  sources: readonly InputSource[],
  options: InputOptions = {},
): AsyncGenerator<EnrollmentRow, void, undefined> {
  for (const source of sources) {
    for await (const item of readEnrollmentRows(source, options)) {
      if (!('faults' in item)) yield item;
      else
        for (const fault of item.faults)
          throw inputError(fault.file, fault.line, fault.column, fault.message);
    }
  }
}

/**
 * Reads all sources once and lists what is wrong: faults of rows, and registration ids, endorsement keys and serial
 * numbers that stand in two rows. Of each row only digests are kept.
 * @throws IotdmError as `readEnrollmentRows`
 */
export async function checkEnrollmentInput(
  sources: readonly InputSource[],
  options: InputOptions = {},
): Promise<InputCheck> {
  const duplicates = new DuplicateSearch(sources.map((source) => source.name));
  const faults: RowFault[] = [];
  let rows = 0;
  let faultCount = 0;
  for (const [file, source] of sources.entries()) {
    for await (const item of readEnrollmentRows(source, options)) {
      const found = 'faults' in item ? item.faults : duplicates.look(file, item);
      if (!('faults' in item) || !item.isHeader) rows += 1;
      faultCount += found.length;
      faults.push(...found.slice(0, MAX_LISTED_FAULTS - faults.length));
    }
  }
  return { rows, faults, faultCount };
}

/** A fault on one line: `rows.csv:3:17: deviceId: message`. */
export function describeFault(fault: RowFault): string {
  const place = fault.column === null ? `${fault.line}` : `${fault.line}:${fault.column}`;
  return `${fault.file}:${place}: ${fault.field === null ? '' : `${fault.field}: `}${fault.message}`;
}

async function* readRows(
  source: InputSource,
  options: InputOptions,
): AsyncGenerator<EnrollmentRow | FaultyRow, void> {
  const { name } = source;
  const { format, whole } =
    source.format === undefined
      ? await detectRowFormat(source.open(), name)
      : { format: source.format, whole: source.open() };
  if (format === 'csv') {
    yield* csvRows(whole, name, options);
    return;
  }
  const rows = format === 'ndjson' ? readNdjson(whole, name) : readJsonElements(whole, name);
  for await (const row of rows) yield jsonRow(row, name, options);
}

// CSV

async function* csvRows(
  source: AsyncIterable<Buffer>,
  name: string,
  options: InputOptions,
): AsyncGenerator<EnrollmentRow | FaultyRow, void> {
  let columns: readonly (Column | undefined)[] | undefined;
  for await (const row of readCsv(source, name)) {
    // Spreadsheets write rows of commas below the last one.
    if (row.cells.every((cell) => cell === '')) continue;
    // In concatenated files the header stands before each part, and may differ.
    if (columns === undefined || isHeader(row.cells, columns)) {
      const header = readHeader(row, name, options);
      if ('faults' in header) {
        yield header;
        return;
      }
      columns = header.columns;
    } else {
      yield csvRow(row, columns, name);
    }
  }
}

/** Whether a row names columns: all its cells do, or one where a key should stand names a key. */
function isHeader(cells: readonly string[], columns: readonly (Column | undefined)[]): boolean {
  // A key has hundreds of characters: the names need not be looked at in a row that holds one.
  if (columns.some((column, index) => isKeyColumn(column) && (cells[index] ?? '').length > MAX_FIELD_NAME))
    return false;
  const named = cells.map(columnOfName);
  return (
    columns.some((column, index) => isKeyColumn(column) && isKeyColumn(named[index])) ||
    (named.some(isKeyColumn) && !named.includes(undefined))
  );
}

function isKeyColumn(column: Column | undefined): boolean {
  return column?.kind === 'field' && (keyFields as readonly string[]).includes(column.field);
}

function readHeader(
  row: CsvRow,
  file: string,
  options: InputOptions,
): FaultyRow | { columns: readonly (Column | undefined)[] } {
  const draft = new RowDraft(file, row.line);
  const columns = row.cells.map(columnOfName);
  const named = new Set<string>();
  if (columns.every((column) => column === undefined)) {
    draft.fault(null, row.place(0), headerProblem(row.cells));
    return draft.faulty(true);
  }
  for (const [index, column] of columns.entries()) {
    const written = row.cells[index] ?? '';
    const place = row.place(index);
    if (column === undefined) {
      if (options.ignoreUnknownColumns !== true)
        draft.fault(written, place, unknownColumn(written, index + 1));
      continue;
    }
    const name = nameOfColumn(column);
    if (named.has(name))
      draft.fault(name, place, `the column ${name} stands here a second time (column ${index + 1})`);
    named.add(name);
    const problem = column.kind === 'twin' ? twinPathProblem(column.path) : undefined;
    if (problem !== undefined) draft.fault(name, place, problem);
  }
  if (!keyFields.some((field) => named.has(field))) {
    const missing = 'the column endorsementKey is missing (or ekCertificate, or publicKey)';
    draft.fault('endorsementKey', { line: row.line, column: null }, missing);
  }
  return draft.hasFaults ? draft.faulty(true) : { columns };
}

function headerProblem(cells: readonly string[]): string {
  const [only = ''] = cells;
  if (cells.length === 1 && only.includes(';'))
    return 'the columns are separated by semicolons instead of commas';
  if (cells.length === 1 && only.includes('\t')) return 'the columns are separated by tabs instead of commas';
  if (cells.length === 1 && only.includes('\r')) return 'the lines end with CR alone instead of LF or CR LF';
  return 'the first line does not name the columns (registrationId, endorsementKey, …)';
}

function unknownColumn(name: string, number?: number): string {
  const where = number === undefined ? '' : ` (column ${number})`;
  if (name === '') return `a column has no name${where}`;
  const nearest = nearestColumnName(name);
  return `unknown column ${quoted(name)}${where}${nearest === undefined ? '' : `; did you mean ${quotedName(nearest)}?`}`;
}

function quotedName(name: string): string {
  return /^[\w.]+$/.test(name) ? name : quoted(name);
}

function csvRow(
  row: CsvRow,
  columns: readonly (Column | undefined)[],
  file: string,
): EnrollmentRow | FaultyRow {
  const draft = new RowDraft(file, row.line);
  const { cells } = row;
  if (cells.length !== columns.length) {
    const place = row.place(Math.min(cells.length, columns.length));
    draft.fault(null, place, `the row has ${cells.length} cells, the header has ${columns.length}`);
    return draft.faulty(false);
  }
  for (const [index, column] of columns.entries()) {
    const cell = cells[index] ?? '';
    if (column === undefined || cell === '') continue;
    const place = () => row.place(index);
    if (column.kind === 'field') draft.setText(column.field, cell, place);
    else draft.setTwin(column.part, column.path, twinValueOfCell(cell), () => place());
  }
  return draft.finish();
}

// JSON

type Members = Readonly<Record<string, unknown>>;

function isMembers(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function jsonRow(
  row: JsonRow | BrokenJsonRow,
  file: string,
  options: InputOptions,
): EnrollmentRow | FaultyRow {
  const draft = new RowDraft(file, row.line);
  if (row.kind === 'broken') {
    draft.fault(null, row, row.message);
    return draft.faulty(false);
  }
  if (!isMembers(row.value)) {
    draft.fault(null, row.place([]), 'a row is a JSON object, this is something else');
    return draft.faulty(false);
  }
  if ('attestation' in row.value) fillFromEnrollment(draft, row, row.value, options);
  else if ('schema' in row.value) fillFromManifest(draft, row, row.value);
  else fillFromFlat(draft, row, row.value, options);
  return draft.finish();
}

/** What the service adds when it shows an enrollment. */
const readOnlyMembers = new Set(['registrationState', 'createdDateTimeUtc', 'lastUpdatedDateTimeUtc']);
const textMembers = [
  'registrationId',
  'deviceId',
  'iotHubHostName',
  'provisioningStatus',
  'allocationPolicy',
] as const satisfies readonly EnrollmentField[];
const enrollmentMembers = new Set<string>([
  ...textMembers,
  ...readOnlyMembers,
  'attestation',
  'capabilities',
  'initialTwin',
  'iotHubs',
  'reprovisionPolicy',
  'optionalDeviceInformation',
  'etag',
]);

/** An enrollment in the service's own shape, as Limpet, `az` and our export write it. */
function fillFromEnrollment(draft: RowDraft, row: JsonRow, members: Members, options: InputOptions): void {
  const inner = (path: readonly string[]): unknown => memberAt(members, path);
  for (const name of textMembers) setJsonText(draft, name, row, [name], members[name]);
  const type = inner(['attestation', 'type']);
  if (type !== undefined && type !== 'tpm') {
    const shown = typeof type === 'string' ? quoted(type) : 'something else';
    draft.fault(
      'attestation.type',
      row.place(['attestation', 'type']),
      `only tpm can be enrolled here, not ${shown}`,
    );
  }
  const keyPath = ['attestation', 'tpm', 'endorsementKey'];
  setJsonText(draft, 'endorsementKey', row, keyPath, inner(keyPath));
  const edgePath = ['capabilities', 'iotEdge'];
  setJsonText(draft, 'iotEdge', row, edgePath, inner(edgePath));
  setJsonTwin(draft, 'tags', row, ['initialTwin', 'tags'], inner(['initialTwin', 'tags']));
  const desiredPath = ['initialTwin', 'properties', 'desired'];
  setJsonTwin(draft, 'desired', row, desiredPath, inner(desiredPath));
  draft.setReprovisionPolicy(members.reprovisionPolicy, () => row.place(['reprovisionPolicy']));
  draft.setHubs(members.iotHubs, () => row.place(['iotHubs']));
  draft.setDeviceInformation(members.optionalDeviceInformation, (path) =>
    row.place(['optionalDeviceInformation', ...path]),
  );
  draft.setEtag(members.etag, () => row.place(['etag']));
  if (options.ignoreUnknownColumns === true) return;
  for (const name of Object.keys(members)) {
    if (!enrollmentMembers.has(name)) draft.fault(name, row.place([name]), `unknown member ${quoted(name)}`);
  }
}

function memberAt(members: Members, path: readonly string[]): unknown {
  let value: unknown = members;
  for (const key of path) value = isMembers(value) && Object.hasOwn(value, key) ? value[key] : undefined;
  return value;
}

/** A record of `harvest`: its tags are labels of the harvest, not of the device's twin, and stay behind. */
function fillFromManifest(draft: RowDraft, row: JsonRow, members: Members): void {
  if (members.schema !== 1) {
    draft.fault('schema', row.place(['schema']), 'this is a manifest of a schema other than 1');
    return;
  }
  const names = ['registrationId', 'endorsementKey', 'ekCertificate', 'deviceId', 'serialNumber'] as const;
  for (const name of names) setJsonText(draft, name, row, [name], members[name]);
  draft.isHarvested = true;
}

/** What `ek read --json` and `ek convert --json` say besides the two columns. */
const readReport = new Set(['name', 'algorithm', 'persistent', 'handle']);
const convertReport = new Set(['hexRegistrationId', 'input']);
const noReport = new Set<string>();

function reportMembers(members: Members): ReadonlySet<string> {
  if (members.algorithm === 'rsa2048') return readReport;
  return 'hexRegistrationId' in members ? convertReport : noReport;
}

/** Columns as members: the names of CSV, and the whole of `tags` and `desired` as objects too. */
function fillFromFlat(draft: RowDraft, row: JsonRow, members: Members, options: InputOptions): void {
  const report = reportMembers(members);
  const named = new Set<string>();
  for (const [name, value] of Object.entries(members)) {
    const column = columnOfName(name);
    if (column === undefined) {
      if (name === 'tags' || name === 'desired') setJsonTwin(draft, name, row, [name], value);
      else if (report.has(name)) continue;
      else if (options.ignoreUnknownColumns !== true)
        draft.fault(name, row.place([name]), unknownColumn(name));
      continue;
    }
    const plain = nameOfColumn(column);
    if (named.has(plain))
      draft.fault(plain, row.place([name]), `the column ${plain} stands here a second time`);
    named.add(plain);
    if (column.kind === 'field') setJsonText(draft, column.field, row, [name], value);
    else {
      const problem = twinPathProblem(column.path);
      if (problem !== undefined) draft.fault(plain, row.place([name]), problem);
      else draft.setTwin(column.part, column.path, value, (path) => row.place([name, ...path]));
    }
  }
}

function setJsonText(
  draft: RowDraft,
  field: InputField,
  row: JsonRow,
  path: readonly string[],
  value: unknown,
): void {
  if (value === undefined || value === null || value === '') return;
  const place = () => row.place(path);
  if (typeof value === 'string') draft.setText(field, value, place);
  else if (typeof value === 'boolean' && field === 'iotEdge') draft.setText(field, String(value), place);
  else if (
    typeof value === 'number' &&
    Number.isSafeInteger(value) &&
    (field === 'serialNumber' || field === 'iotEdge')
  ) {
    draft.setText(field, String(value), place);
  } else
    draft.fault(
      field,
      place(),
      field === 'iotEdge' ? 'true or false is expected' : 'a text in quotes is expected',
    );
}

function setJsonTwin(
  draft: RowDraft,
  part: TwinPart,
  row: JsonRow,
  path: readonly string[],
  value: unknown,
): void {
  if (value === undefined || value === null) return;
  if (isMembers(value)) draft.setTwin(part, [], value, (below) => row.place([...path, ...below]));
  else draft.fault(part, row.place(path), 'a JSON object is expected');
}

// Checks

interface Spot {
  readonly line: number;
  readonly column: number | null;
}

interface Text {
  readonly text: string;
  readonly spot: () => Spot;
}

/** Gathers one row, and everything that is wrong with it. */
class RowDraft {
  readonly #file: string;
  readonly #line: number;
  readonly #texts = new Map<InputField, Text>();
  readonly #twin: Record<TwinPart, MutableTwin> = { tags: {}, desired: {} };
  readonly #faults: Omit<RowFault, 'registrationId'>[] = [];
  /** From a manifest: the endorsement key was read from the TPM, and its certificate only stands beside it. */
  isHarvested = false;
  #reprovisionPolicy: ReprovisionPolicy | undefined;
  #hubs: readonly string[] | undefined;
  #deviceInformation: TwinObject | undefined;
  #etag: string | undefined;

  constructor(file: string, line: number) {
    this.#file = file;
    this.#line = line;
  }

  get hasFaults(): boolean {
    return this.#faults.length > 0;
  }

  fault(field: string | null, spot: Spot, message: string): void {
    const { line, column } = spot;
    const shownField = field === null ? null : shownText(field);
    // Names of columns come from the file, which may be a wrong one that holds secrets.
    const shown = { field: shownField, message: redact(message) };
    this.#faults.push({ file: this.#file, line, column, code: 'input.invalid', ...shown });
  }

  setText(field: InputField, text: string, spot: () => Spot): void {
    this.#texts.set(field, { text, spot });
  }

  /** `value` at `path` below the part; `spot` gives the place of what stands further below that. */
  setTwin(
    part: TwinPart,
    path: readonly string[],
    value: unknown,
    spot: (below: readonly string[]) => Spot,
  ): void {
    const checked = checkTwinValue(value, path, (at, problem) => {
      this.fault([part, ...at].join('.'), spot(at.slice(path.length)), problem);
    });
    if (checked === undefined || placeTwinValue(this.#twin[part], path, checked)) return;
    const name = [part, ...path].join('.');
    this.fault(name, spot([]), `${name} is given twice, or both as a value and as an object`);
  }

  setReprovisionPolicy(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    if (isMembers(value)) {
      const { updateHubAssignment, migrateDeviceData } = value;
      if (typeof updateHubAssignment === 'boolean' && typeof migrateDeviceData === 'boolean') {
        this.#reprovisionPolicy = { updateHubAssignment, migrateDeviceData };
        return;
      }
    }
    this.fault(
      'reprovisionPolicy',
      spot(),
      'updateHubAssignment and migrateDeviceData, each true or false, are expected',
    );
  }

  setHubs(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    const hubs = Array.isArray(value) ? value.filter((hub) => typeof hub === 'string') : [];
    const problem = hubs.map(hostNameProblem).find((found) => found !== undefined);
    if (!Array.isArray(value) || hubs.length !== value.length) {
      this.fault('iotHubs', spot(), 'an array of host names is expected');
    } else if (problem !== undefined) this.fault('iotHubs', spot(), problem);
    else if (hubs.length > 0) this.#hubs = hubs;
  }

  setDeviceInformation(value: unknown, spot: (path: readonly string[]) => Spot): void {
    if (value === undefined || value === null) return;
    if (!isMembers(value)) {
      this.fault('optionalDeviceInformation', spot([]), 'a JSON object is expected');
      return;
    }
    const checked = checkTwinValue(value, [], (at, problem) => {
      this.fault(['optionalDeviceInformation', ...at].join('.'), spot(at), problem);
    });
    if (isMembers(checked) && Object.keys(checked).length > 0) this.#deviceInformation = checked;
  }

  setEtag(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    if (typeof value === 'string') this.#etag = value;
    else this.fault('etag', spot(), 'a text in quotes is expected');
  }

  /** The row as it is, for one that cannot be read any further. */
  faulty(isHeader: boolean, registrationId: string | null = null): FaultyRow {
    const faults = this.#faults
      .toSorted((a, b) => a.line - b.line || (a.column ?? 0) - (b.column ?? 0))
      .map(({ file, line, column, field, code, message }) => {
        return { file, line, column, field, registrationId, code, message };
      });
    return { line: this.#line, isHeader, faults };
  }

  /** Checks what was gathered. */
  finish(): EnrollmentRow | FaultyRow {
    const key = this.#endorsementKey();
    const registrationId = this.#registrationId(key);
    const deviceId = this.#checked('deviceId', deviceIdProblem);
    const iotHubHostName = this.#checked('iotHubHostName', hostNameProblem);
    const provisioningStatus = this.#oneOf('provisioningStatus', provisioningStatuses);
    const allocationPolicy = this.#oneOf('allocationPolicy', allocationPolicies);
    const iotEdge = this.#parsed('iotEdge', booleanOf, 'true or false');
    const reprovisionPolicy =
      this.#parsed('reprovision', reprovisionPolicyOf, 'migrate, reset or never') ?? this.#reprovisionPolicy;
    const serialNumber = this.#checked('serialNumber', serialNumberProblem);
    const tags = this.#twinPart('tags');
    const desired = this.#twinPart('desired');
    this.#checkHubs(allocationPolicy);
    if (key === undefined || registrationId === undefined || this.hasFaults) {
      return this.faulty(false, registrationId ?? null);
    }
    const enrollment: Enrollment = {
      registrationId,
      ...(deviceId === undefined ? {} : { deviceId }),
      attestation: { type: 'tpm', tpm: { endorsementKey: key.toString('base64') } },
      ...(iotEdge === undefined ? {} : { capabilities: { iotEdge } }),
      ...(iotHubHostName === undefined ? {} : { iotHubHostName }),
      ...(this.#hubs === undefined ? {} : { iotHubs: this.#hubs }),
      ...(allocationPolicy === undefined ? {} : { allocationPolicy }),
      ...initialTwin(tags, desired),
      ...(provisioningStatus === undefined ? {} : { provisioningStatus }),
      ...(reprovisionPolicy === undefined ? {} : { reprovisionPolicy }),
      ...(this.#deviceInformation === undefined
        ? {}
        : { optionalDeviceInformation: this.#deviceInformation }),
      ...(this.#etag === undefined ? {} : { etag: this.#etag }),
    };
    return { line: this.#line, enrollment, ...(serialNumber === undefined ? {} : { serialNumber }) };
  }

  /** The key that the row gives, in one form or in several that agree. */
  #endorsementKey(): Buffer | undefined {
    const given = keyFields.flatMap((field) => {
      const entry = this.#texts.get(field);
      return entry === undefined ? [] : [{ field, ...entry }];
    });
    if (given.length === 0 || (this.isHarvested && !this.#texts.has('endorsementKey'))) {
      this.fault('endorsementKey', { line: this.#line, column: null }, 'the endorsement key is missing');
      return undefined;
    }
    let first: { readonly field: KeyField; readonly key: Buffer } | undefined;
    for (const { field, text, spot } of given) {
      const result = keyOfCell(field, text);
      if ('problem' in result) {
        // What a certificate in a manifest is worth is for those to say who verify it; it must not be another's.
        if (!this.isHarvested || field === 'endorsementKey') this.fault(field, spot(), result.problem);
        else if (result.isAnotherKey) this.fault(field, spot(), differentKeys(field, 'endorsementKey'));
      } else if (first === undefined) first = { field, key: result.key };
      else if (!first.key.equals(result.key)) this.fault(field, spot(), differentKeys(field, first.field));
    }
    return first?.key;
  }

  /** DPS matches ids without regard to case; they are written in lower case. */
  #registrationId(key: Buffer | undefined): string | undefined {
    const entry = this.#texts.get('registrationId');
    if (entry === undefined) return key === undefined ? undefined : registrationIdOf(key);
    const id = entry.text.toLowerCase();
    const problem = registrationIdProblem(id);
    if (problem === undefined) return id;
    this.fault('registrationId', entry.spot(), problem);
    return undefined;
  }

  #checked(field: EnrollmentField, problemOf: (text: string) => string | undefined): string | undefined {
    const entry = this.#texts.get(field);
    const problem = entry === undefined ? undefined : problemOf(entry.text);
    if (entry === undefined || problem === undefined) return entry?.text;
    this.fault(field, entry.spot(), problem);
    return undefined;
  }

  #oneOf<T extends string>(field: EnrollmentField, values: readonly T[]): T | undefined {
    const find = (text: string) => values.find((value) => value.toLowerCase() === text.toLowerCase());
    return this.#parsed(field, find, `${values.slice(0, -1).join(', ')} or ${values.at(-1) ?? ''}`);
  }

  #parsed<T>(
    field: EnrollmentField,
    parse: (text: string) => T | undefined,
    expected: string,
  ): T | undefined {
    const entry = this.#texts.get(field);
    if (entry === undefined) return undefined;
    const value = parse(entry.text);
    if (value === undefined)
      this.fault(field, entry.spot(), `${expected} is expected, not ${quoted(entry.text)}`);
    return value;
  }

  #twinPart(part: TwinPart): TwinObject | undefined {
    const twin = this.#twin[part];
    if (Object.keys(twin).length === 0) return undefined;
    const size = twinSize(twin);
    if (size > TWIN_PART_BYTES[part]) {
      const limit = `IoT Hub takes ${TWIN_PART_BYTES[part]} bytes of ${part}, these are ${size}`;
      this.fault(part, { line: this.#line, column: null }, limit);
    }
    return twin;
  }

  #checkHubs(allocationPolicy: string | undefined): void {
    const policy = this.#texts.get('allocationPolicy');
    const hubs = this.#hubs?.length ?? 0;
    if (allocationPolicy === 'static' && policy !== undefined) {
      const named = this.#texts.has('iotHubHostName') ? 1 : 0;
      if (named + hubs === 0) {
        this.fault('allocationPolicy', policy.spot(), 'static allocation needs the hub in iotHubHostName');
      } else if (hubs > 1) {
        this.fault('allocationPolicy', policy.spot(), 'static allocation takes one hub, iotHubs names more');
      }
    } else if (policy === undefined && hubs > 0) {
      this.fault('iotHubs', { line: this.#line, column: null }, 'iotHubs needs an allocationPolicy');
    }
  }
}

function initialTwin(
  tags: TwinObject | undefined,
  desired: TwinObject | undefined,
): Pick<Enrollment, 'initialTwin'> {
  if (tags === undefined && desired === undefined) return {};
  return {
    initialTwin: {
      ...(tags === undefined ? {} : { tags }),
      ...(desired === undefined ? {} : { properties: { desired } }),
    },
  };
}

function serialNumberProblem(text: string): string | undefined {
  return /[\p{Cc}\p{Cs}]/u.test(text) ? 'a serial number holds no control characters' : undefined;
}

// Keys

function differentKeys(field: KeyField, other: KeyField): string {
  return `${field} and ${other} of this row hold different keys`;
}

type KeyOfCell =
  | { readonly key: Buffer }
  /** `isAnotherKey`: the cell was understood, and holds a key that is no endorsement key. */
  | { readonly problem: string; readonly isAnotherKey: boolean };

function keyOfCell(field: KeyField, text: string): KeyOfCell {
  const bytes = field === 'endorsementKey' ? decodeBase64(text) : undefined;
  const problem = bytes === undefined ? undefined : endorsementKeyProblem(bytes);
  if (bytes !== undefined && problem === undefined) return { key: bytes };
  const found = recognizeEndorsementKey(Buffer.from(text));
  if (found.kind === 'unrecognized') {
    return { problem: problem ?? `${expectedIn[field]} is expected, ${found.problem}`, isAnotherKey: false };
  }
  if (found.kind !== 'endorsement-key') {
    return { problem: found.problem, isAnotherKey: found.kind === 'other-key' };
  }
  const wrong = wrongColumn(field, text, found);
  return wrong === undefined ? { key: found.endorsementKey } : { problem: wrong, isAnotherKey: false };
}

const expectedIn: Readonly<Record<KeyField, string>> = {
  endorsementKey: 'base64 of a TPM2B_PUBLIC',
  ekCertificate: 'an EK certificate',
  publicKey: 'a public key',
};

/** What is wrong with a key that was recognized, but in the wrong column or notation. */
function wrongColumn(field: KeyField, text: string, found: RecognizedEndorsementKey): string | undefined {
  const column = found.form === 'EK certificate' ? 'ekCertificate' : 'publicKey';
  if (field === column) return undefined;
  const it = nameOfKey(found);
  if (field !== 'endorsementKey') return `this is ${it}: name the column ${column}`;
  if (found.input === 'TPM2B_PUBLIC (base64)')
    return `${expectedIn[field]} is expected, this ${/\s/.test(text) ? 'has white space in it' : 'is not padded'}`;
  const missing = found.form === 'TPM2B_PUBLIC' ? 'one in base64' : 'a TPM2B_PUBLIC';
  return `this is ${it}, not ${missing}; iotdm ek convert FILE gives the value, or name the column ${column}`;
}

/** Finds rows that would enroll one device twice, or two devices as one. */
class DuplicateSearch {
  readonly #names: readonly string[];
  readonly #ids = new FirstSeen();
  readonly #keys = new FirstSeen();
  readonly #serials = new FirstSeen();

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  look(file: number, row: EnrollmentRow): RowFault[] {
    const { registrationId, attestation } = row.enrollment;
    const place = { file, line: row.line };
    const faults: RowFault[] = [];
    const report = (field: string, what: string, earlier: { file: number; line: number }) => {
      faults.push({
        file: this.#names[file] ?? '',
        line: row.line,
        column: null,
        field,
        registrationId,
        code: 'input.invalid',
        message: `${what} stands in ${this.#names[earlier.file] ?? ''}:${earlier.line} already`,
      });
    };
    const sameId = this.#ids.seeAt(registrationId, place);
    const sameKey = this.#keys.seeAt(attestation.tpm.endorsementKey, place);
    const sameSerial =
      row.serialNumber === undefined ? undefined : this.#serials.seeAt(row.serialNumber, place);
    if (sameId !== undefined) report('registrationId', `the registration id ${registrationId}`, sameId);
    else if (sameKey !== undefined) {
      report('endorsementKey', 'the same endorsement key under another registration id', sameKey);
    }
    if (sameSerial !== undefined && sameId === undefined) {
      report('serialNumber', `the serial number ${quoted(row.serialNumber ?? '')}`, sameSerial);
    }
    return faults;
  }
}
