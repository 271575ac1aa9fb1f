/**
 * CSV as RFC 4180, Limpet and spreadsheets write it: rows with their lines and columns, and fields quoted so that they
 * read back as the same text. Lines with a quote in them are csv-parse's; a line without one is its text between the
 * separators, which is what csv-parse makes of it in ten times the time.
 */
import { CsvError, parse } from 'csv-parse/sync';
import type { IotdmError } from '../errors.ts';
import { inputError, MAX_ROW_BYTES, readText, tooLong } from './text-source.ts';

export interface CsvRow {
  /** 1-based number of the row's first line in the file. */
  readonly line: number;
  /** Unquoted; white space around a cell that is not in quotes is gone. */
  readonly cells: readonly string[];
  /** What is wrong with its quotes; the row has no cells then. */
  readonly problem?: QuoteProblem;
  /** Where a cell begins, both 1-based, columns in characters. A cell that the row lacks begins at its end. */
  place(cell: number): { line: number; column: number };
}

/** A quote that cannot be read. */
export interface QuoteProblem {
  readonly line: number;
  readonly column: number;
  /** 0-based: the cell in which it stands. */
  readonly cell: number;
  /** Lower case, without a full stop. */
  readonly message: string;
}

export interface CsvOptions {
  /** A label of the WHATWG's Encoding standard; without one, UTF-8, or UTF-16 with its byte order mark. */
  readonly encoding?: string;
}

/** What stands between the cells; where a comma is the decimal sign, spreadsheets write semicolons. */
const separators = [',', ';', '\t'] as const;
type Separator = (typeof separators)[number];

/**
 * The rows of a CSV file, header included: separated by what separates the cells of its first row (comma, semicolon or
 * tab, or what a line `sep=;` of Excel names before it), `"` around a cell and doubled inside it, LF or CR LF, spaces
 * around cells, a byte order mark at the beginning of the file or of a row (concatenated files). Blank lines are
 * skipped. Rows may differ in length. A row whose quotes are stray or never closed says so, and where, in place of its
 * cells.
 * @param name of the file, for messages
 * @throws IotdmError `input.invalid` for what is not text in its encoding, and for rows over 1 MiB
 */
export async function* readCsv(
  source: AsyncIterable<Buffer>,
  name: string,
  options: CsvOptions = {},
): AsyncGenerator<CsvRow, void, undefined> {
  for await (const batch of readCsvBatches(source, name, options)) yield* batch;
}

/** The same, a batch for what each piece of the file completed: to hand over single rows costs more than to read them. */
export async function* readCsvBatches(
  source: AsyncIterable<Buffer>,
  name: string,
  { encoding }: CsvOptions = {},
): AsyncGenerator<readonly CsvRow[], void, undefined> {
  const splitter = new RowSplitter(name);
  for await (const chunk of readText(source, name, 'a CSV file', encoding)) {
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
  /** Undefined while it is not known yet what separates the cells. */
  readonly quotes: QuoteScan | undefined;
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
    const batch = new Batch();
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
    const batch = new Batch();
    if (this.#rest !== '') this.#takeLine(this.#rest, batch);
    const open = this.#open;
    if (open !== undefined) {
      const row = open.lines.join('\n');
      const separator = this.#separatorOf(row);
      const quotes = open.quotes ?? new QuoteScan(separator, open.line).take(row);
      batch.addBroken(row, open.line, separator, quotes.problem ?? quotes.unclosed());
    }
    return batch.rows();
  }

  #takeLine(line: string, batch: Batch): void {
    const number = this.#number;
    if (tooLong(line)) throw this.#lineTooLong();
    this.#number += 1;
    const hasQuote = line.includes('"');
    if (this.#open !== undefined) {
      this.#continueRow(this.#open, line, hasQuote, batch);
      return;
    }
    const text = line.startsWith('\ufeff') ? line.slice(1) : line;
    if (isBlank(text) || (this.#separator === undefined && this.#namesSeparator(text))) return;
    if (!hasQuote) batch.addPlain(text, number, this.#separatorOf(text));
    else if (!isOdd(countQuotes(text))) batch.addQuoted(text, number, this.#separatorOf(text));
    else this.#openRow(text, number, batch);
  }

  /** A quote is left over: the row goes on in the next line, unless the quote stands where none can. */
  #openRow(text: string, line: number, batch: Batch): void {
    const separator = this.#separator;
    const quotes = separator === undefined ? undefined : new QuoteScan(separator, line).take(text);
    if (separator !== undefined && quotes?.problem !== undefined) {
      batch.addBroken(text, line, separator, quotes.problem);
    } else {
      this.#open = { line, lines: [text], bytes: Buffer.byteLength(text) + 1, quotes };
    }
  }

  #continueRow(open: OpenRow, line: string, hasQuote: boolean, batch: Batch): void {
    const { quotes } = open;
    open.lines.push(line);
    open.bytes += Buffer.byteLength(line) + 1;
    const isWhole =
      quotes === undefined
        ? hasQuote && isOdd(countQuotes(line))
        : !quotes.takeNextLine(line, hasQuote).isOpen;
    if (open.bytes > MAX_ROW_BYTES) {
      const { line: at, column } = quotes?.opened ?? { line: open.line, column: 1 };
      throw inputError(this.#name, at, column, rowTooLong(!isWhole));
    }
    if (!isWhole) return;
    this.#open = undefined;
    const row = open.lines.join('\n');
    const separator = this.#separatorOf(row);
    if (quotes?.problem === undefined) batch.addQuoted(row, open.line, separator);
    else batch.addBroken(row, open.line, separator, quotes.problem);
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
  readonly #rows: TextRow[] = [];
  readonly #quoted: TextRow[] = [];

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

  addBroken(text: string, line: number, separator: Separator, problem: QuoteProblem): void {
    const row = new TextRow(text, line, separator);
    row.problem = problem;
    this.#rows.push(row);
  }

  rows(): readonly CsvRow[] {
    const cells = parseTogether(this.#quoted);
    for (const [index, row] of this.#quoted.entries()) {
      const found = cells?.[index];
      if (found === undefined) parseAlone(row);
      else row.cells = found;
    }
    return this.#rows;
  }
}

class TextRow implements CsvRow {
  readonly line: number;
  readonly text: string;
  readonly separator: Separator;
  cells: readonly string[] = [];
  problem?: QuoteProblem;

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

function parseAlone(row: TextRow): void {
  const { text, line, separator } = row;
  try {
    [row.cells = []] = parseStrict(`${text}\n`, separator);
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const message = 'the quotes in this row do not fit together';
    row.problem = new QuoteScan(separator, line).take(text).problem ?? { line, column: 1, cell: 0, message };
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

/** Follows the quotes through a row: whether one is open at its end, and where one stands that the parser refuses. */
class QuoteScan {
  readonly #separator: Separator;
  readonly #cursor: Cursor;
  #state: 'before' | 'plain' | 'quoted' | 'after' = 'before';
  #cell = 0;
  #opened: Cursor;
  problem: QuoteProblem | undefined;

  constructor(separator: Separator, line: number) {
    this.#separator = separator;
    this.#cursor = { line, column: 1 };
    this.#opened = { line, column: 1 };
  }

  get isOpen(): boolean {
    return this.#state === 'quoted' && this.problem === undefined;
  }

  /** Where the quote stands that was opened last. */
  get opened(): Readonly<Cursor> {
    return this.#opened;
  }

  unclosed(): QuoteProblem {
    return { ...this.#opened, cell: this.#cell, message: 'a quote is opened here and never closed' };
  }

  takeNextLine(line: string, hasQuote: boolean): this {
    advance(this.#cursor, '\n');
    return hasQuote || !this.isOpen ? this.take(line) : this;
  }

  take(text: string): this {
    for (const character of text) {
      if (this.#state === 'quoted') {
        if (character === '"') this.#state = 'after';
      } else if (character === '"') {
        if (this.#state === 'plain') return this.#fail(strayQuote);
        if (this.#state === 'before') this.#opened = { ...this.#cursor };
        this.#state = 'quoted';
      } else if (character === this.#separator) {
        this.#state = 'before';
        this.#cell += 1;
      } else if (character.trim() !== '') {
        if (this.#state === 'after') return this.#fail(this.#followed());
        this.#state = 'plain';
      }
      advance(this.#cursor, character);
    }
    return this;
  }

  #followed(): string {
    const { line } = this.#opened;
    const which = line === this.#cursor.line ? 'a cell' : `the cell that begins in line ${line}`;
    return `something follows the closing quote of ${which}: a quote in a cell in quotes is written twice`;
  }

  #fail(message: string): this {
    this.problem = { ...this.#cursor, cell: this.#cell, message };
    return this;
  }
}

const strayQuote = 'a quote stands inside a cell that does not begin with one: 5" is written "5"""';
