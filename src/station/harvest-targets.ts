/**
 * Many devices harvested from one station: a CSV file that names them, all of it checked before the first TPM is
 * touched, and the TPMs read side by side into one manifest.
 *
 * A `cmd:` in the column `tpm` is run by the system's shell: who may write the file may run commands as whoever
 * harvests with it.
 */
import { deviceIdProblem } from '../dps/enrollment.ts';
import { IotdmError, type ErrorCode } from '../errors.ts';
import { nearest } from '../nearest.ts';
import { OneAtATime } from '../one-at-a-time.ts';
import { readCsv, type CsvRow } from '../records/csv.ts';
import { appendRecord, type AppendedRecord } from '../records/manifest.ts';
import { redact } from '../secret.ts';
import { parseTcti, type Tcti } from '../tpm/tcti.ts';
import type { Tpm } from '../tpm/tpm.ts';
import { CsvShape } from './csv-shape.ts';
import { quoted, shownText } from './enrollment-columns.ts';
import type { InputSource, RowFault } from './enrollment-input.ts';
import { readIdentity, type HarvestLabels, type HarvestOptions } from './harvest.ts';
import { errorValueIn, identityDamage, LongNumbers, type Damage } from './spreadsheet-damage.ts';

export interface HarvestTarget {
  /** 1-based, of the row in the file. */
  readonly line: number;
  /** As it stands in the file. */
  readonly tpm: string;
  readonly tcti: Tcti;
  readonly labels: HarvestLabels & { readonly serialNumber: string };
}

export interface TargetsCheck {
  /** Rows of the file, faulty ones included. */
  readonly rows: number;
  /** The rows in which nothing is wrong. */
  readonly targets: readonly HarvestTarget[];
  /** The first 100, in the order of the file. */
  readonly faults: readonly RowFault[];
  readonly faultCount: number;
}

/** What a row takes over where it says nothing itself. */
export type TargetDefaults = Pick<HarvestLabels, 'station' | 'operator' | 'lot' | 'tags'>;

const fields = ['tpm', 'serialNumber', 'deviceId', 'station', 'operator', 'lot'] as const;
type Field = (typeof fields)[number];
const identityFields = ['serialNumber', 'deviceId'] as const satisfies readonly Field[];
type Column =
  { readonly kind: 'field'; readonly field: Field } | { readonly kind: 'tag'; readonly tag: string };

const MAX_LISTED_FAULTS = 100;
const MAX_LABEL_CHARACTERS = 256;

export interface TargetsOptions {
  /** Takes serial numbers, device ids and labels as they stand where they look as if a spreadsheet had changed them. */
  readonly asText?: boolean;
}

/**
 * Reads the file and checks every row of it. Columns by name, without regard to case, spaces, `-` and `_`: `tpm` and
 * `serialNumber` must be there, `deviceId`, `station`, `operator`, `lot` and `tags.NAME` may be.
 * @throws IotdmError `input.unreadable`; `input.invalid` for a file that is no CSV or holds no rows
 */
export async function readTargets(
  source: InputSource,
  defaults: TargetDefaults,
  options: TargetsOptions = {},
): Promise<TargetsCheck> {
  const { name, encoding } = source;
  const reader = new TargetReader(name, defaults, options);
  for await (const row of readCsv(source.open(), name, encoding === undefined ? {} : { encoding })) {
    // Spreadsheets write rows of commas below the last one.
    if (row.problem === undefined && row.cells.every((cell) => cell === '')) continue;
    if (!reader.take(row)) break;
  }
  return reader.finish();
}

export interface TargetFailure {
  readonly line: number;
  readonly tpm: string;
  readonly serialNumber: string;
  readonly code: ErrorCode;
  readonly message: string;
}

/** What became of one target. */
export interface TargetOutcome {
  readonly target: HarvestTarget;
  readonly result: AppendedRecord | TargetFailure;
  /** How many are finished, this one included. */
  readonly done: number;
}

export interface TargetsSummary {
  readonly total: number;
  readonly recorded: number;
  /** The manifest had them already. */
  readonly repeated: number;
  readonly failed: number;
  /** In the order of the file. */
  readonly failures: readonly TargetFailure[];
  readonly elapsedMs: number;
}

export interface HarvestTargetsOptions {
  readonly targets: readonly HarvestTarget[];
  readonly manifest: string;
  /** What else is to be known for each device. */
  readonly reading: Omit<HarvestOptions, 'tpm' | 'labels' | 'now'>;
  /** Devices under way at once. */
  readonly concurrency: number;
  /** Connects to a TPM, with a time limit for each of its commands; it is closed here. */
  readonly openTpm: (target: HarvestTarget) => Promise<Tpm>;
  readonly clock: () => Date;
  /** Aborted: no new device is begun. */
  readonly signal?: AbortSignal;
  readonly onOutcome?: (outcome: TargetOutcome) => void;
}

/** Whether an error is no device's own: of the manifest, the settings, or this program. It would meet the next one too. */
function isFatal(error: IotdmError): boolean {
  return /^(usage|input|internal)\.|^verify\.manifest$/.test(error.code);
}

/**
 * Harvests the targets; a device that fails costs no other. Every device that is reported is on disk by then.
 * @throws IotdmError where the manifest cannot take records or what all devices share is wrong, and
 * `interrupted.signal`: no new device is begun then, and those under way are finished before this rejects, with the
 * numbers so far in its details
 */
export async function harvestTargets(options: HarvestTargetsOptions): Promise<TargetsSummary> {
  const { targets, concurrency, signal } = options;
  const began = performance.now();
  const tally = new Tally(targets.length, options.onOutcome);
  // Stations wait for each other with pauses, which one process need not.
  const appending = new OneAtATime();
  const waiting = targets.values();
  const isAborted = (): boolean => signal?.aborted === true;
  let fatal: Error | undefined;
  const work = async (): Promise<void> => {
    for (const target of waiting) {
      if (fatal !== undefined || isAborted()) return;
      try {
        tally.add(target, await harvestTarget(target, options, appending));
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        if (!(error instanceof IotdmError) || isFatal(error)) fatal ??= error;
        else if (!isAborted()) tally.add(target, toFailure(target, error));
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, targets.length) }, work));
  const summary = { ...tally.summary(), elapsedMs: Math.round(performance.now() - began) };
  if (fatal instanceof IotdmError) {
    const { code, message, details } = fatal;
    throw new IotdmError(code, message, { cause: fatal, details: { ...details, ...counts(summary) } });
  }
  if (fatal !== undefined) throw fatal;
  const done = summary.recorded + summary.repeated;
  if (done + summary.failed < summary.total) {
    const message = `interrupted: ${done} of ${summary.total} devices are recorded`;
    throw new IotdmError('interrupted.signal', message, { details: counts(summary) });
  }
  return summary;
}

async function harvestTarget(
  target: HarvestTarget,
  { reading, openTpm, clock, manifest }: HarvestTargetsOptions,
  appending: OneAtATime,
): Promise<AppendedRecord> {
  const tpm = await openTpm(target);
  const job = { ...reading, tpm, labels: target.labels, now: clock() };
  const identity = await readIdentity(job).finally(() => tpm.close());
  return appending.run(() => appendRecord(manifest, identity));
}

class Tally {
  readonly #total: number;
  readonly #onOutcome: HarvestTargetsOptions['onOutcome'];
  readonly #failures: TargetFailure[] = [];
  #recorded = 0;
  #repeated = 0;

  constructor(total: number, onOutcome: HarvestTargetsOptions['onOutcome']) {
    this.#total = total;
    this.#onOutcome = onOutcome;
  }

  add(target: HarvestTarget, result: AppendedRecord | TargetFailure): void {
    if ('code' in result) this.#failures.push(result);
    else if (result.repeated) this.#repeated += 1;
    else this.#recorded += 1;
    const done = this.#failures.length + this.#repeated + this.#recorded;
    this.#onOutcome?.({ target, result, done });
  }

  summary(): Omit<TargetsSummary, 'elapsedMs'> {
    return {
      total: this.#total,
      recorded: this.#recorded,
      repeated: this.#repeated,
      failed: this.#failures.length,
      failures: this.#failures.toSorted((a, b) => a.line - b.line),
    };
  }
}

function counts({ total, recorded, repeated, failed }: TargetsSummary): Readonly<Record<string, number>> {
  return { total, recorded, repeated, failed };
}

function toFailure({ line, tpm, labels }: HarvestTarget, { code, message }: IotdmError): TargetFailure {
  return { line, tpm: redact(tpm), serialNumber: labels.serialNumber, code, message: redact(message) };
}

// The file

/** Takes the rows of one file, the header first. */
class TargetReader {
  readonly #file: string;
  readonly #defaults: TargetDefaults;
  readonly #targets: HarvestTarget[] = [];
  readonly #faults: RowFault[] = [];
  readonly #seen = new Map<string, number>();
  readonly #asText: boolean;
  /** Of the fields in which a spreadsheet may have shortened them. */
  readonly #numbers: ReadonlyMap<Field, LongNumbers>;
  #header: { readonly columns: readonly (Column | undefined)[]; readonly shape: CsvShape } | undefined;
  #rows = 0;
  #faultCount = 0;

  constructor(file: string, defaults: TargetDefaults, { asText = false }: TargetsOptions) {
    this.#file = file;
    this.#defaults = defaults;
    this.#asText = asText;
    this.#numbers = new Map(asText ? [] : identityFields.map((field) => [field, new LongNumbers()]));
  }

  /** @returns false where no row behind this one can be understood */
  take(row: CsvRow): boolean {
    if (this.#header === undefined) {
      this.#header = this.#readHeader(row);
      return this.#faultCount === 0;
    }
    this.#rows += 1;
    const problem = this.#header.shape.problemOf(row);
    if (problem === undefined) this.#target(row, this.#header.columns);
    else this.#fault(problem.field, problem, problem.message);
    return true;
  }

  finish(): TargetsCheck {
    for (const [field, numbers] of this.#numbers) {
      const problem = numbers.problem();
      if (problem !== undefined) this.#fault(field, problem, problem.message, { damage: 'number' });
    }
    if (this.#rows === 0 && this.#faultCount === 0) {
      throw new IotdmError('input.invalid', `${this.#file} holds no rows`);
    }
    return {
      rows: this.#rows,
      targets: this.#targets,
      faults: this.#faults.toSorted((a, b) => a.line - b.line || (a.column ?? 0) - (b.column ?? 0)),
      faultCount: this.#faultCount,
    };
  }

  #fault(
    field: string | null,
    spot: { line: number; column: number | null },
    message: string,
    extra: Pick<RowFault, 'damage'> = {},
  ): void {
    this.#faultCount += 1;
    if (this.#faults.length === MAX_LISTED_FAULTS) return;
    const { line, column } = spot;
    const name = field === null ? null : shownText(field);
    const place = { file: this.#file, line, column, field: name, registrationId: null };
    this.#faults.push({ ...place, code: 'input.invalid', message: redact(message), ...extra });
  }

  #readHeader(row: CsvRow): { columns: (Column | undefined)[]; shape: CsvShape } {
    const columns = row.cells.map(columnOf);
    const names = columns.map((column) => (column === undefined ? undefined : nameOf(column)));
    const header = { columns, shape: new CsvShape(names.map((name) => name ?? '')) };
    if (row.problem !== undefined) {
      this.#fault(null, row.problem, row.problem.message);
      return header;
    }
    if (columns.every((column) => column === undefined)) {
      this.#fault(null, row.place(0), 'the first line does not name the columns (tpm, serialNumber, …)');
      return header;
    }
    for (const [index, name] of names.entries()) {
      const written = row.cells[index] ?? '';
      if (name === undefined) {
        if (written !== '') this.#fault(written, row.place(index), unknownColumn(written));
      } else if (names.indexOf(name) < index) {
        this.#fault(name, row.place(index), `the column ${name} stands here a second time`);
      }
    }
    for (const name of ['tpm', 'serialNumber']) {
      if (!names.includes(name)) {
        this.#fault(name, { line: row.line, column: null }, `the column ${name} is missing`);
      }
    }
    return header;
  }

  #target(row: CsvRow, columns: readonly (Column | undefined)[]): void {
    const { cells, line } = row;
    const faultsBefore = this.#faultCount;
    const texts: Partial<Record<Field, string>> = {};
    const tags = new Map(Object.entries(this.#defaults.tags));
    for (const [index, column] of columns.entries()) {
      const text = cells[index] ?? '';
      if (column === undefined || text === '') continue;
      const damage = this.#asText ? undefined : damageOf(column, text);
      const problem = damage?.message ?? labelProblem(column, text);
      const extra = damage === undefined ? {} : { damage: damage.kind };
      if (problem !== undefined) this.#fault(nameOf(column), row.place(index), problem, extra);
      else if (column.kind === 'field') this.#numbers.get(column.field)?.see(text, () => row.place(index));
      if (column.kind === 'tag') tags.set(column.tag, text);
      else texts[column.field] = text;
    }
    const spot = (field: Field): { line: number; column: number } =>
      row.place(columns.findIndex((column) => column?.kind === 'field' && column.field === field));
    const tcti = this.#tcti(texts.tpm, () => spot('tpm'));
    const { serialNumber, deviceId = null } = texts;
    if (serialNumber === undefined)
      this.#fault('serialNumber', spot('serialNumber'), 'the serial number is missing');
    this.#unique('tpm', tcti === undefined ? undefined : JSON.stringify(tcti), 'this TPM', line, spot);
    for (const field of ['serialNumber', 'deviceId'] as const) {
      this.#unique(field, texts[field], quoted(texts[field] ?? ''), line, spot);
    }
    if (tcti === undefined || serialNumber === undefined || this.#faultCount > faultsBefore) return;
    const { station, operator, lot } = { ...this.#defaults, ...texts };
    const labels = { serialNumber, deviceId, station, operator, lot, tags: Object.fromEntries(tags) };
    this.#targets.push({ line, tpm: texts.tpm ?? '', tcti, labels });
  }

  #tcti(text: string | undefined, spot: () => { line: number; column: number }): Tcti | undefined {
    if (text === undefined) {
      this.#fault('tpm', spot(), 'the TPM is missing');
      return undefined;
    }
    try {
      return parseTcti(text);
    } catch (error) {
      if (!(error instanceof IotdmError)) throw error;
      this.#fault('tpm', spot(), error.message);
      return undefined;
    }
  }

  #unique(
    field: Field,
    text: string | undefined,
    what: string,
    line: number,
    spot: (field: Field) => { line: number; column: number },
  ): void {
    if (text === undefined) return;
    const key = `${field} ${text}`;
    const earlier = this.#seen.get(key);
    if (earlier === undefined) this.#seen.set(key, line);
    else this.#fault(field, spot(field), `${what} stands in line ${earlier} already`);
  }
}

function columnOf(name: string): Column | undefined {
  const plain = plainName(name);
  const field = fields.find((candidate) => plainName(candidate) === plain);
  if (field !== undefined) return { kind: 'field', field };
  const dot = name.indexOf('.');
  const tag = name.slice(dot + 1).trim();
  return dot > 0 && plainName(name.slice(0, dot)) === 'tags' && tag !== '' ? { kind: 'tag', tag } : undefined;
}

function nameOf(column: Column): string {
  return column.kind === 'tag' ? `tags.${column.tag}` : column.field;
}

function plainName(name: string): string {
  return name.replace(/[\s_-]/g, '').toLowerCase();
}

function unknownColumn(name: string): string {
  const plain = plainName(name);
  const guess = plain.startsWith('tag') ? 'tags.NAME' : nearest(plain, fields);
  return `unknown column ${quoted(name)}${guess === undefined ? '' : `; did you mean ${guess}?`}`;
}

/** What a spreadsheet has made of a cell. */
function damageOf(column: Column, text: string): Damage | undefined {
  const isIdentity = column.kind === 'field' && (identityFields as readonly string[]).includes(column.field);
  return isIdentity ? identityDamage(text) : errorValueIn(text);
}

/** What is wrong with a cell; how a TPM is named is another matter. */
function labelProblem(column: Column, text: string): string | undefined {
  if (/[\p{Cc}\p{Cs}]/u.test(text)) return 'control characters stand in this cell';
  if (column.kind === 'field' && column.field === 'tpm') return undefined;
  if (column.kind === 'field' && column.field === 'deviceId') return deviceIdProblem(text);
  return text.length > MAX_LABEL_CHARACTERS
    ? `this has more than ${MAX_LABEL_CHARACTERS} characters`
    : undefined;
}
