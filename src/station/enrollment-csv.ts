/** Enrollments from CSV: the header names the columns, each row is checked by RowDraft. */
import { readCsvBatches, type CsvRow } from '../records/csv.ts';
import { inputError } from '../records/text-source.ts';
import { columnOfName, keyFields, nameOfColumn, unknownColumn, type Column } from './enrollment-columns.ts';
import type { FaultyRow, InputOptions, ReadRow } from './enrollment-rows.ts';
import { twinPathProblem, twinValueOfCell } from './initial-twin.ts';
import { RowDraft } from './row-draft.ts';

/** Longer than any field's name, with the spaces that people put into it. */
const MAX_FIELD_NAME = 40;

/**
 * The rows of a CSV file, a batch for each piece of it. A header that cannot be used is one item with `isHeader`, after
 * which the file ends.
 * @throws IotdmError as `readCsv`, and `input.invalid` for a header without rows
 */
export async function* readCsvEnrollments(
  source: AsyncIterable<Buffer>,
  name: string,
  options: InputOptions,
): AsyncGenerator<readonly ReadRow[], void> {
  const reader = new CsvReader(name, options);
  for await (const batch of readCsvBatches(source, name)) {
    const rows: ReadRow[] = [];
    for (const row of batch) {
      if (!reader.isAtEnd) reader.take(row, rows);
    }
    if (rows.length > 0) yield rows;
    if (reader.isAtEnd) return;
  }
  reader.finish();
}

class CsvReader {
  readonly #name: string;
  readonly #options: InputOptions;
  #columns: readonly (Column | undefined)[] | undefined;
  #headerLine = 0;
  #rows = 0;
  isAtEnd = false;

  constructor(name: string, options: InputOptions) {
    this.#name = name;
    this.#options = options;
  }

  take(row: CsvRow, rows: ReadRow[]): void {
    // Spreadsheets write rows of commas below the last one.
    if (row.cells.every((cell) => cell === '')) return;
    const columns = this.#columns;
    if (columns !== undefined && !isHeader(row.cells, columns)) {
      rows.push(csvRow(row, columns, this.#name));
      this.#rows += 1;
      return;
    }
    // In concatenated files the header stands before each part, and may differ.
    const header = readHeader(row, this.#name, this.#options);
    if ('faults' in header) {
      rows.push(header);
      this.isAtEnd = true;
    } else {
      this.#columns = header.columns;
      this.#headerLine = row.line;
    }
  }

  finish(): void {
    if (this.#columns === undefined || this.#rows > 0) return;
    throw inputError(this.#name, this.#headerLine, 1, 'this names the columns, and no row follows it');
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
    const problem = 'the first line does not name the columns (registrationId, endorsementKey, …)';
    draft.fault(null, row.place(0), problem);
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

function csvRow(row: CsvRow, columns: readonly (Column | undefined)[], file: string): ReadRow {
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
