/**
 * Enrollments from files: CSV, NDJSON and JSON arrays, Limpet's output and harvest's manifests, streamed row by row,
 * each row either a checked enrollment or the list of all that is wrong with it.
 */
import { createReadStream } from 'node:fs';
import { IotdmError } from '../errors.ts';
import { readJsonElements, readNdjson } from '../records/json-rows.ts';
import { detectRowFormat, type RowFormat } from '../records/row-format.ts';
import { inputError } from '../records/text-source.ts';
import { ColumnWatch, type ColumnNotice } from './column-watch.ts';
import type { RowVerification } from './certificate-witness.ts';
import { DuplicateSearch } from './duplicate-search.ts';
import { readCsvEnrollments } from './enrollment-csv.ts';
import { jsonRow } from './enrollment-json.ts';
import { InputSealer, unchanged, type InputSeal } from './input-seal.ts';
import type {
  CheckOptions,
  DeletionRow,
  EnrollmentRow,
  FaultyRow,
  InputOptions,
  ReadRow,
  RowFault,
  SoundDeletion,
  SoundRow,
} from './enrollment-rows.ts';

export { describeFault } from './enrollment-rows.ts';
export type { ColumnNotice, SeenCell } from './column-watch.ts';
export type {
  CheckOptions,
  DeletionRow,
  EnrollmentRow,
  FaultyRow,
  InputOptions,
  RowFault,
} from './enrollment-rows.ts';

export type InputFormat = RowFormat;

export interface InputSource {
  /** File name, or `<stdin>`, for messages and for the format. */
  readonly name: string;
  /** The bytes from the beginning; called once for each pass over the source. */
  open(): AsyncIterable<Buffer>;
  /** Overrides what name and content say. */
  readonly format?: InputFormat;
  /** As `encodingOfLabel` gives it; without one, UTF-8, or UTF-16 with its byte order mark. */
  readonly encoding?: string;
}

/** A row and the file that it stands in. */
export interface PlacedRow extends EnrollmentRow {
  readonly file: string;
}

export interface PlacedDeletion extends DeletionRow {
  readonly file: string;
}

export interface InputCheck {
  /** Rows in all sources, faulty ones included. */
  readonly rows: number;
  /** The first 100. */
  readonly faults: readonly RowFault[];
  readonly faultCount: number;
  /** What is no fault, and may still not be meant. */
  readonly notices: readonly ColumnNotice[];
  /** What was found of the EK certificates, where they were looked at. */
  readonly verification?: RowVerification;
  /** What the sources were when they were checked. */
  readonly seal: InputSeal;
  /** Registration ids that are lower-cased where they are written: how many, and where the first of them stands. */
  readonly lowerCased?: { readonly count: number; readonly first: string; readonly place: string };
  /** Columns and members that are left out, with the number of rows (or headers) that have them; the first hundred. */
  readonly ignored: ReadonlyMap<string, number>;
}

const MAX_LISTED_FAULTS = 100;
const MAX_IGNORED = 100;
/** With fewer, fetching them would take as long as what is done with them. */
const READ_BYTES = 128 * 1024;

/** A file as a source. */
export function fileInput(path: string, format?: InputFormat, encoding?: string): InputSource {
  return {
    name: path,
    open: () => createReadStream(path, { highWaterMark: READ_BYTES }),
    ...(format === undefined ? {} : { format }),
    ...(encoding === undefined ? {} : { encoding }),
  };
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
  for await (const batch of readBatches(source, source.open(), options)) {
    for (const item of batch) yield 'faults' in item ? item : rowToEnroll(item);
  }
}

/**
 * The enrollments of sources that were checked before.
 * @param seal of the check: rows are given out of bytes only that are what they were then
 * @throws IotdmError as `readEnrollmentRows`, `input.changed`, and `input.invalid` with the first fault of a row
 */
export async function* readCheckedRows(
  sources: readonly InputSource[],
  options: InputOptions = {},
  seal?: InputSeal,
): AsyncGenerator<EnrollmentRow, void, undefined> {
  for (const [index, source] of sources.entries()) {
    for await (const batch of readBatches(source, sealedBytes(source, seal, index), options)) {
      for (const item of batch) yield checkedRow(item);
    }
  }
}

/** The same, each with the name of its file, as they come: to hand over single rows costs as much as to read them. */
export async function* readPlacedRows(
  sources: readonly InputSource[],
  options: InputOptions = {},
  seal?: InputSeal,
): AsyncGenerator<readonly PlacedRow[], void, undefined> {
  for (const [index, source] of sources.entries()) {
    const file = source.name;
    for await (const batch of readBatches(source, sealedBytes(source, seal, index), options)) {
      yield batch.map((item) => {
        const { line, enrollment, serialNumber, impliesDeviceId } = checkedRow(item);
        // Copied by name, which takes a tenth of the time.
        const row: { -readonly [Name in keyof PlacedRow]: PlacedRow[Name] } = { line, enrollment, file };
        if (serialNumber !== undefined) row.serialNumber = serialNumber;
        if (impliesDeviceId !== undefined) row.impliesDeviceId = impliesDeviceId;
        return row;
      });
    }
  }
}

/** What is to be deleted, from sources that were checked before with the same options. */
export async function* readPlacedDeletions(
  sources: readonly InputSource[],
  options: InputOptions,
  seal: InputSeal,
): AsyncGenerator<readonly PlacedDeletion[], void, undefined> {
  for (const [index, source] of sources.entries()) {
    const file = source.name;
    for await (const batch of readBatches(source, sealedBytes(source, seal, index), options)) {
      yield batch.map((item) => {
        if (!('deletion' in item)) throw notADeletion(item);
        return { ...item.deletion, file };
      });
    }
  }
}

function sealedBytes(source: InputSource, seal: InputSeal | undefined, index: number): AsyncIterable<Buffer> {
  return seal === undefined ? source.open() : unchanged(source.open(), source.name, seal.blocks[index] ?? []);
}

function checkedRow(item: ReadRow): EnrollmentRow {
  if ('faults' in item) throw faultOf(item);
  return rowToEnroll(item);
}

function rowToEnroll(item: SoundRow | SoundDeletion): EnrollmentRow {
  if ('row' in item) return item.row;
  throw new IotdmError('internal.unexpected', 'rows that are to be deleted were read to be enrolled');
}

function notADeletion(item: SoundRow | FaultyRow): IotdmError {
  if ('faults' in item) return faultOf(item);
  return new IotdmError('internal.unexpected', 'rows that are to be enrolled were read to be deleted');
}

function faultOf({ faults: [fault], line }: FaultyRow): IotdmError {
  if (fault === undefined) return new IotdmError('input.invalid', `line ${line} is no enrollment`);
  return inputError(fault.file, fault.line, fault.column, fault.message);
}

/**
 * Reads all sources once and lists what is wrong: faults of rows, and registration ids, endorsement keys and serial
 * numbers that stand in two rows, and device ids that do in the same hub. Of each row only hashes are kept.
 * @param onFault called with each of them, in the order of the files, for as many as there are
 * @throws IotdmError as `readEnrollmentRows`
 */
export async function checkEnrollmentInput(
  sources: readonly InputSource[],
  options: CheckOptions = {},
  onFault: (fault: RowFault) => Promise<void> | void = () => undefined,
): Promise<InputCheck> {
  const duplicates = new DuplicateSearch(sources.map((source) => source.name));
  const faults: RowFault[] = [];
  const sealer = new InputSealer(readingOf(sources, options));
  const watch = new ColumnWatch(options.textColumns);
  const ignored = new Map<string, number>();
  const onIgnored = (name: string): void => {
    if (ignored.size < MAX_IGNORED || ignored.has(name)) ignored.set(name, (ignored.get(name) ?? 0) + 1);
  };
  let lowerCased: { count: number; first: string; place: string } | undefined;
  let rows = 0;
  let faultCount = 0;
  const report = async (found: readonly RowFault[]): Promise<void> => {
    faultCount += found.length;
    faults.push(...found.slice(0, MAX_LISTED_FAULTS - faults.length));
    for (const fault of found) await onFault(fault);
  };
  for (const [file, source] of sources.entries()) {
    const batches = readBatches(source, sealer.of(source.open()), { ...options, onIgnored }, watch);
    for await (const batch of batches) {
      for (const item of batch) {
        if ('writtenId' in item) {
          lowerCased ??= { count: 0, first: item.writtenId, place: `${source.name}:${item.row.line}` };
          lowerCased.count += 1;
        }
        const found = 'faults' in item ? item.faults : repetitions(duplicates, file, item);
        if (!('faults' in item) || !item.isHeader) rows += 1;
        if (found.length > 0) await report(found);
      }
    }
  }
  await report(watch.faults());
  const verification = options.certificates?.verification();
  const check = {
    rows,
    faults,
    faultCount,
    notices: watch.notices(),
    seal: sealer.seal(),
    ignored,
    ...(verification === undefined ? {} : { verification }),
  };
  return lowerCased === undefined ? check : { ...check, lowerCased };
}

/** What makes other rows of the same bytes. Empty for the usual way. */
function readingOf(sources: readonly InputSource[], { textColumns = [] }: InputOptions): string {
  const encodings = sources.map(({ encoding = '' }) => encoding);
  if (textColumns.length === 0 && encodings.every((encoding) => encoding === '')) return '';
  return JSON.stringify([textColumns.toSorted(), encodings]);
}

/** Of two enrollments with one key, one may well be deleted, and both; of an id, only one thing can become. */
function repetitions(
  duplicates: DuplicateSearch,
  file: number,
  item: SoundRow | SoundDeletion,
): readonly RowFault[] {
  return 'row' in item ? duplicates.look(file, item) : duplicates.lookById(file, item.deletion);
}

async function* readBatches(
  source: InputSource,
  bytes: AsyncIterable<Buffer>,
  options: CheckOptions,
  watch?: ColumnWatch,
): AsyncGenerator<readonly ReadRow[], void> {
  let isEmpty = true;
  for await (const batch of batchesOf(source, bytes, options, watch)) {
    isEmpty = false;
    yield batch;
  }
  if (isEmpty) throw new IotdmError('input.invalid', `${source.name} holds no rows`);
}

async function* batchesOf(
  source: InputSource,
  bytes: AsyncIterable<Buffer>,
  options: CheckOptions,
  watch: ColumnWatch | undefined,
): AsyncGenerator<readonly ReadRow[], void> {
  const { name, encoding } = source;
  const { format, whole } =
    source.format === undefined
      ? await detectRowFormat(bytes, name, encoding)
      : { format: source.format, whole: bytes };
  if (format === 'csv') {
    yield* readCsvEnrollments(whole, source, options, watch);
    return;
  }
  const rows =
    format === 'ndjson' ? readNdjson(whole, name, encoding) : readJsonElements(whole, name, encoding);
  for await (const row of rows) yield [jsonRow(row, name, options)];
}
