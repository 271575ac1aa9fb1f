/**
 * CSV as RFC 4180, Limpet and spreadsheets write it: rows with their lines and columns, and fields quoted so that they
 * read back as the same text. Lines with a quote in them are csv-parse's; a line without one is its text between the
 * separators, which is what csv-parse makes of it in ten times the time.
 */
import { CsvError, parse } from 'csv-parse/sync';
import { IotdmError } from '../errors.ts';
import { inputError, MAX_ROW_BYTES, readText, tooLong } from './text-source.ts';

export interface CsvRow {
  /** 1-based number of the row's first line in the file. */
  readonly line: number;
  /** Unquoted; white space around a cell that is not in quotes is gone. */
  readonly cells: readonly string[];
  /** Where a cell begins, both 1-based, columns in characters. A cell that the row lacks begins at its end. */
  place(cell: number): { line: number; column: number };
}

/** What stands between the cells; where a comma is the decimal sign, spreadsheets write semicolons. */
const separators = [',', ';', '\t'] as const;
type Separator = (typeof separators)[number];

/**
 * The rows of a CSV file, header included: separated by what separates the cells of its first row (comma, semicolon or
 * tab, or what a line `sep=;` of Excel names before it), `"` around a cell and doubled inside it, LF or CR LF, spaces
 * around cells, a byte order mark at the beginning of the file or of a row (concatenated files). Blank lines are
 * skipped. Rows may differ in length.
 * @param name of the file, for messages
 * @throws IotdmError `input.invalid` for what is not text, stray or unclosed quotes, and rows over 1 MiB
 */
export async function* readCsv(
  source: AsyncIterable<Buffer>,
  name: string,
): AsyncGenerator<CsvRow, void, undefined> {
  for await (const batch of readCsvBatches(source, name)) yield* batch;
}

/** The same, a batch for what each piece of the file completed: to hand over single rows costs more than to read them. */
export async function* readCsvBatches(
  source: AsyncIterable<Buffer>,
  name: string,
): AsyncGenerator<readonly CsvRow[], void, undefined> {
  const splitter = new RowSplitter(name);
  for await (const chunk of readText(source, name, 'a CSV file')) {
    const batch = splitter.split(chunk.toString('utf8'));
    if (batch.length > 0) yield batch;
  }
  const last = splitter.end();
  if (last.length > 0) yield last;
}

/**
 * One field of a CSV line, in quotes unless it is plain. The value is never changed: nothing is put in front of `=`,
 * `+`, `-` or `@`, which a spreadsheet takes for a formula. See `csvReportLine`.
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

/**
 * The same for a report that people open in a spreadsheet and nothing reads back: a field that it would take for a
 * formula begins with an apostrophe, which makes it text.
 */
export function csvReportLine(values: readonly string[]): string {
  return csvLine(values.map((value) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value)));
}

interface OpenRow {
  readonly line: number;
  readonly lines: string[];
  bytes: number;
}

/** Cuts text into rows, whatever the pieces in which it comes. */
class RowSplitter {
  readonly #name: string;
  #separator: Separator | undefined;
  /** Of a line that is not complete yet. */
  #rest = '';
  /** 1-based, of the next line. */
  #number = 1;
  /** A row that goes on after a line break in quotes. */
  #open: OpenRow | undefined;

  constructor(name: string) {
    this.#name = name;
  }

  split(piece: string): readonly CsvRow[] {
    const text = this.#rest === '' ? piece : this.#rest + piece;
    const batch = new Batch(this.#name);
    let start = 0;
    for (let end = text.indexOf('\n', this.#rest.length); end !== -1; end = text.indexOf('\n', start)) {
      this.#takeLine(text.slice(start, end), batch);
      start = end + 1;
    }
    this.#rest = text.slice(start);
    if (tooLong(this.#rest)) throw this.#lineTooLong();
    return batch.rows();
  }

  end(): readonly CsvRow[] {
    const batch = new Batch(this.#name);
    if (this.#rest !== '') this.#takeLine(this.#rest, batch);
    if (this.#open !== undefined) {
      const message = 'a quote is opened here and never closed';
      throw inputError(this.#name, this.#open.line, 1, message);
    }
    return batch.rows();
  }

  #takeLine(line: string, batch: Batch): void {
    const number = this.#number;
    if (tooLong(line)) throw this.#lineTooLong();
    this.#number += 1;
    const hasQuote = line.includes('"');
    if (this.#open !== undefined) {
      this.#continueRow(this.#open, line, hasQuote && isOdd(countQuotes(line)), batch);
      return;
    }
    const text = line.startsWith('\ufeff') ? line.slice(1) : line;
    if (isBlank(text) || (this.#separator === undefined && this.#namesSeparator(text))) return;
    if (!hasQuote) batch.addPlain(text, number, this.#separatorOf(text));
    else if (!isOdd(countQuotes(text))) batch.addQuoted(text, number, this.#separatorOf(text));
    else this.#open = { line: number, lines: [text], bytes: Buffer.byteLength(text) + 1 };
  }

  #continueRow(open: OpenRow, line: string, closes: boolean, batch: Batch): void {
    open.lines.push(line);
    open.bytes += Buffer.byteLength(line) + 1;
    if (open.bytes > MAX_ROW_BYTES) throw inputError(this.#name, open.line, 1, rowTooLong(!closes));
    if (!closes) return;
    this.#open = undefined;
    const row = open.lines.join('\n');
    batch.addQuoted(row, open.line, this.#separatorOf(row));
  }

  /** Excel's own line before the header, which names the separator and is no row. */
  #namesSeparator(text: string): boolean {
    const named = /^sep=([,;\t])\r?$/i.exec(text)?.[1];
    this.#separator = separators.find((separator) => separator === named);
    return this.#separator !== undefined;
  }

  #separatorOf(row: string): Separator {
    if (this.#separator !== undefined) return this.#separator;
    const unquoted = row.replaceAll(/"[^"]*"/g, '');
    if (/\r[^\n]/.test(unquoted)) {
      const message = 'the lines end with CR alone instead of LF or CR LF';
      throw inputError(this.#name, this.#number - 1, row.indexOf('\r') + 1, message);
    }
    this.#separator = mostFrequentSeparator(unquoted);
    return this.#separator;
  }

  #lineTooLong(): IotdmError {
    return inputError(this.#name, this.#number, 1, `the line is longer than ${MAX_ROW_BYTES} bytes`);
  }
}

/** The rows of one piece of text, in its order; those with quotes go through the parser together. */
class Batch {
  readonly #name: string;
  readonly #rows: TextRow[] = [];
  readonly #quoted: TextRow[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  addPlain(text: string, line: number, separator: Separator): void {
    const row = new TextRow(text, line, separator);
    row.cells = plainCells(text, separator);
    this.#rows.push(row);
  }

  addQuoted(text: string, line: number, separator: Separator): void {
    const row = new TextRow(text, line, separator);
    this.#rows.push(row);
    this.#quoted.push(row);
  }

  rows(): readonly CsvRow[] {
    const cells = parseTogether(this.#quoted);
    for (const [index, row] of this.#quoted.entries()) {
      row.cells = cells?.[index] ?? parseAlone(row, this.#name);
    }
    return this.#rows;
  }
}

class TextRow implements CsvRow {
  readonly line: number;
  readonly text: string;
  readonly separator: Separator;
  cells: readonly string[] = [];

  constructor(text: string, line: number, separator: Separator) {
    this.text = text;
    this.line = line;
    this.separator = separator;
  }

  place(cell: number): { line: number; column: number } {
    return cellPlace(this.text, this.line, cell, this.separator);
  }
}

/** What csv-parse makes of a line in which no quote stands. */
function plainCells(text: string, separator: Separator): string[] {
  const cells = text.split(separator);
  for (let index = 0; index < cells.length; index += 1) {
    const cell = cells[index] ?? '';
    if (!isTrimmed(cell)) cells[index] = cell.trim();
  }
  return cells;
}

/** Whether a cell surely neither begins nor ends with white space. */
function isTrimmed(cell: string): boolean {
  if (cell === '') return true;
  const first = cell.charCodeAt(0);
  const last = cell.charCodeAt(cell.length - 1);
  return first > 0x20 && first < 0x7f && last > 0x20 && last < 0x7f;
}

/** The comma where there is none. */
function mostFrequentSeparator(unquoted: string): Separator {
  let most: { separator: Separator; count: number } = { separator: ',', count: 0 };
  for (const separator of separators) {
    const count = unquoted.split(separator).length - 1;
    if (count > most.count) most = { separator, count };
  }
  return most.separator;
}

/** All records in one call of the parser, or undefined when one of them is wrong. */
function parseTogether(rows: readonly TextRow[]): string[][] | undefined {
  const [first] = rows;
  if (first === undefined || rows.some((row) => row.separator !== first.separator)) return undefined;
  try {
    const parsed = parseStrict(rows.map((row) => `${row.text}\n`).join(''), first.separator);
    return parsed.length === rows.length ? parsed : undefined;
  } catch (error) {
    if (error instanceof CsvError) return undefined;
    throw error;
  }
}

function parseAlone({ text, line, separator }: TextRow, name: string): string[] {
  try {
    const [row] = parseStrict(`${text}\n`, separator);
    return row ?? [];
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const problem = quoteProblem(text, line, separator);
    throw new IotdmError('input.invalid', `${name}:${problem.line}:${problem.column}: ${problem.message}`, {
      cause: error,
      details: { file: name, line: problem.line, column: problem.column },
    });
  }
}

function parseStrict(text: string, delimiter: Separator): string[][] {
  return parse(text, {
    delimiter,
    record_delimiter: ['\r\n', '\n'],
    relax_column_count: true,
    trim: true,
    max_record_size: 0,
  });
}

/** Of spaces, tabs and carriage returns only. */
function isBlank(text: string): boolean {
  return text === '' || (text.charCodeAt(0) <= 0x20 && /^[ \t\r]*$/.test(text));
}

function countQuotes(text: string): number {
  let count = 0;
  for (let at = text.indexOf('"'); at !== -1; at = text.indexOf('"', at + 1)) count += 1;
  return count;
}

function isOdd(count: number): boolean {
  return count % 2 === 1;
}

function rowTooLong(insideQuotes: boolean): string {
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

function cellPlace(record: string, line: number, wanted: number, separator: Separator): Cursor {
  const cursor: Cursor = { line, column: 1 };
  let cell = 0;
  let insideQuotes = false;
  for (const character of record) {
    const separates = character === separator && !insideQuotes;
    if (cell === wanted && (separates || character.trim() !== '')) return cursor;
    if (!insideQuotes && (character === '\r' || character === '\n')) return cursor;
    if (character === '"') insideQuotes = !insideQuotes;
    if (separates) cell += 1;
    advance(cursor, character);
  }
  return cursor;
}

/** Why the parser refuses a record, and where. Quotes are all that it can refuse. */
function quoteProblem(record: string, line: number, separator: Separator): Cursor & { message: string } {
  const cursor: Cursor = { line, column: 1 };
  let state: 'before' | 'plain' | 'quoted' | 'after' = 'before';
  for (const character of record) {
    if (state === 'quoted') {
      if (character === '"') state = 'after';
    } else if (character === '"') {
      if (state === 'plain')
        return { ...cursor, message: 'a quote stands inside a cell that does not begin with one' };
      state = 'quoted';
    } else if (character === separator) {
      state = 'before';
    } else if (character.trim() !== '') {
      if (state === 'after') return { ...cursor, message: 'something follows the closing quote of a cell' };
      state = 'plain';
    }
    advance(cursor, character);
  }
  return { line, column: 1, message: 'the quotes in this row do not fit together' };
}
