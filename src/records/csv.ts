/**
 * CSV as RFC 4180 and Limpet write it, through csv-parse: rows with their lines and columns, and fields quoted so that
 * they read back as the same text.
 */
import { CsvError, parse } from 'csv-parse/sync';
import { IotdmError } from '../errors.ts';
import { beginsWithBom, inputError, MAX_ROW_BYTES, readLines, type TextLine } from './text-source.ts';

export interface CsvRow {
  /** 1-based number of the row's first line in the file. */
  readonly line: number;
  /** Unquoted; white space around a cell that is not in quotes is gone. */
  readonly cells: readonly string[];
  /** Where a cell begins, both 1-based, columns in characters. A cell that the row lacks begins at its end. */
  place(cell: number): { line: number; column: number };
}

const QUOTE = 0x22;
const LINE_FEED = Buffer.from('\n');

/**
 * The rows of a CSV file, header included, one row at a time: comma-separated, `"` around a cell and doubled inside it,
 * LF or CR LF, spaces around cells, a byte order mark at the beginning of the file or of a row (concatenated files).
 * Blank lines are skipped. Rows may differ in length.
 * @param name of the file, for messages
 * @throws IotdmError `input.invalid` for what is not UTF-8 text, stray or unclosed quotes, and rows over 1 MiB
 */
export async function* readCsv(
  source: AsyncIterable<Buffer>,
  name: string,
): AsyncGenerator<CsvRow, void, undefined> {
  let open: TextLine[] = [];
  let openBytes = 0;
  let insideQuotes = false;
  for await (const batch of readLines(source, name, 'a CSV file')) {
    const records: Buffer[] = [];
    const lines: number[] = [];
    for (const line of batch) {
      const bytes = open.length === 0 && beginsWithBom(line.bytes) ? line.bytes.subarray(3) : line.bytes;
      if (open.length === 0 && isBlank(bytes)) continue;
      open.push({ number: line.number, bytes });
      openBytes += bytes.length + 1;
      if (countQuotes(bytes) % 2 === 1) insideQuotes = !insideQuotes;
      const first = open[0] ?? line;
      if (openBytes > MAX_ROW_BYTES) throw inputError(name, first.number, null, tooLong(insideQuotes));
      if (insideQuotes) continue;
      records.push(joinLines(open));
      lines.push(first.number);
      open = [];
      openBytes = 0;
    }
    if (records.length > 0) yield* parseRecords(records, lines, name);
  }
  const [first] = open;
  if (first !== undefined)
    throw inputError(name, first.number, null, 'a quote is opened here and never closed');
}

/**
 * One field of a CSV line, in quotes unless it is plain. The value is never changed: nothing is put in front of `=`,
 * `+`, `-` or `@`, so a spreadsheet may take such a field for a formula. Import the file into it as text.
 */
export function csvField(value: string): string {
  return /^[A-Za-z0-9_][A-Za-z0-9_.:+/=-]*$/.test(value) || value === ''
    ? value
    : `"${value.replaceAll('"', '""')}"`;
}

/** One CSV line with its line feed. A line of a single empty field is `""`, for a blank line is no row. */
export function csvLine(values: readonly string[]): string {
  const line = values.map(csvField).join(',');
  return line === '' ? '""\n' : `${line}\n`;
}

function* parseRecords(
  records: readonly Buffer[],
  lines: readonly number[],
  name: string,
): Generator<CsvRow> {
  const rows =
    parseTogether(records) ?? records.map((record, index) => parseAlone(record, lines[index] ?? 0, name));
  for (const [index, cells] of rows.entries()) {
    const line = lines[index] ?? 0;
    const record = records[index] ?? Buffer.alloc(0);
    yield { line, cells, place: (cell) => cellPlace(record.toString('utf8'), line, cell) };
  }
}

/** All records in one call of the parser, or undefined when one of them is wrong. */
function parseTogether(records: readonly Buffer[]): string[][] | undefined {
  try {
    const rows = parseStrict(Buffer.concat(records));
    return rows.length === records.length ? rows : undefined;
  } catch (error) {
    if (error instanceof CsvError) return undefined;
    throw error;
  }
}

function parseAlone(record: Buffer, line: number, name: string): string[] {
  try {
    const [row] = parseStrict(record);
    return row ?? [];
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const problem = quoteProblem(record.toString('utf8'), line);
    throw new IotdmError('input.invalid', `${name}:${problem.line}:${problem.column}: ${problem.message}`, {
      cause: error,
      details: { file: name, line: problem.line, column: problem.column },
    });
  }
}

function parseStrict(bytes: Buffer): string[][] {
  return parse(bytes, {
    record_delimiter: ['\r\n', '\n'],
    relax_column_count: true,
    trim: true,
    max_record_size: 0,
  });
}

function joinLines(lines: readonly TextLine[]): Buffer {
  return Buffer.concat(lines.flatMap((line) => [line.bytes, LINE_FEED]));
}

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
}

function countQuotes(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(QUOTE); at !== -1; at = bytes.indexOf(QUOTE, at + 1)) count += 1;
  return count;
}

function tooLong(insideQuotes: boolean): string {
  const limit = `the row that begins here is longer than ${MAX_ROW_BYTES} bytes`;
  return insideQuotes ? `${limit}: is a quote not closed` : limit;
}

interface Cursor {
  line: number;
  column: number;
}

function advance(cursor: Cursor, character: string): void {
  if (character === '\n') {
    cursor.line += 1;
    cursor.column = 1;
  } else {
    cursor.column += 1;
  }
}

function cellPlace(record: string, line: number, wanted: number): Cursor {
  const cursor: Cursor = { line, column: 1 };
  let cell = 0;
  let insideQuotes = false;
  for (const character of record) {
    if (cell === wanted && character.trim() !== '') return cursor;
    if (!insideQuotes && (character === '\r' || character === '\n')) return cursor;
    if (character === '"') insideQuotes = !insideQuotes;
    if (character === ',' && !insideQuotes) {
      if (cell === wanted) return cursor;
      cell += 1;
    }
    advance(cursor, character);
  }
  return cursor;
}

/** Why the parser refuses a record, and where. Quotes are all that it can refuse. */
function quoteProblem(record: string, line: number): Cursor & { message: string } {
  const cursor: Cursor = { line, column: 1 };
  let state: 'before' | 'plain' | 'quoted' | 'after' = 'before';
  for (const character of record) {
    if (state === 'quoted') {
      if (character === '"') state = 'after';
    } else if (character === '"') {
      if (state === 'plain')
        return { ...cursor, message: 'a quote stands inside a cell that does not begin with one' };
      state = 'quoted';
    } else if (character === ',') {
      state = 'before';
    } else if (character.trim() !== '') {
      if (state === 'after') return { ...cursor, message: 'something follows the closing quote of a cell' };
      state = 'plain';
    }
    advance(cursor, character);
  }
  return { line, column: 1, message: 'the quotes in this row do not fit together' };
}
