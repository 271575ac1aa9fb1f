/** Enrollments from CSV: the header names the columns, each row is checked by RowDraft. */
import { readCsvBatches, type CsvRow } from '../records/csv.ts';
import { inputError } from '../records/text-source.ts';
import type { ColumnWatch, TwinColumnWatch } from './column-watch.ts';
import { CsvShape } from './csv-shape.ts';
import { draftOf, isIdColumn, notAnId } from './deletion-rows.ts';
import { columnOfName, keyFields, nameOfColumn, unknownColumn, type Column } from './enrollment-columns.ts';
import type { CheckOptions, FaultyRow, ReadRow } from './enrollment-rows.ts';
import { twinPathProblem, twinValueOfCell } from './initial-twin.ts';
import { RowDraft } from './row-draft.ts';
import { errorValueIn, identityDamage, type Damage, type LongNumbers } from './spreadsheet-damage.ts';
import { textColumnOf } from './text-columns.ts';

/** Longer than any field's name, with the spaces that people put into it. */
const MAX_FIELD_NAME = 40;

/**
 * The rows of a CSV file, a batch for each piece of it. A header that cannot be used is one item with `isHeader`, after
 * which the file ends.
 * @param encoding as for `readText`
 * @param watch is shown the columns of the file
 * @throws IotdmError as `readCsv`, and `input.invalid` for a header without rows
 */
export async function* readCsvEnrollments(
  source: AsyncIterable<Buffer>,
  { name, encoding }: { readonly name: string; readonly encoding?: string },
  options: CheckOptions,
  watch?: ColumnWatch,
): AsyncGenerator<readonly ReadRow[], void> {
  const reader = new CsvReader(name, options, watch);
  for await (const batch of readCsvBatches(source, name, encoding === undefined ? {} : { encoding })) {
    const rows: ReadRow[] = [];
    for (const row of batch) {
      if (!reader.isAtEnd) reader.take(row, rows);
    }
    if (rows.length > 0) yield rows;
    if (reader.isAtEnd) return;
  }
  reader.finish();
}

/** A column and how its cells are read. */
interface HeaderColumn {
  /** Undefined for what is left out: it has no name, or an unknown one. */
  readonly meaning: Column | undefined;
  /** What a spreadsheet has made of a cell in it, or undefined; for columns in which that is looked for. */
  readonly damageOf?: (cell: string) => Damage | undefined;
  readonly numbers?: LongNumbers;
  readonly isText?: boolean;
  readonly watch?: TwinColumnWatch;
  readonly onIgnored?: (name: string) => void;
}

const leftOut: HeaderColumn = { meaning: undefined };

interface Header {
  /** As messages show them; empty for a column without one. */
  readonly names: readonly string[];
  readonly columns: readonly HeaderColumn[];
  readonly shape: CsvShape;
}

class CsvReader {
  readonly #name: string;
  readonly #options: CheckOptions;
  readonly #watch: ColumnWatch | undefined;
  #header: Header | undefined;
  #headerLine = 0;
  #rows = 0;
  isAtEnd = false;

  constructor(name: string, options: CheckOptions, watch: ColumnWatch | undefined) {
    this.#name = name;
    this.#options = options;
    this.#watch = watch;
  }

  take(row: CsvRow, rows: ReadRow[]): void {
    // Spreadsheets write rows of commas below the last one.
    if (row.problem === undefined && row.cells.every((cell) => cell === '')) return;
    // A list of registration ids needs no header.
    if (isListOfIds(row, this.#options)) this.#header ??= listOfIds(this.#name, this.#options, this.#watch);
    const header = this.#header;
    if (header !== undefined && !isHeader(row.cells, header.columns)) {
      rows.push(csvRow(row, header, this.#name, this.#options));
      this.#rows += 1;
      return;
    }
    // In concatenated files the header stands before each part, and may differ.
    const found = readHeader(row, this.#name, this.#options, this.#watch);
    if ('faults' in found) {
      rows.push(found);
      this.isAtEnd = true;
    } else {
      this.#header = found;
      this.#headerLine = row.line;
    }
  }

  finish(): void {
    if (this.#header === undefined || this.#rows > 0) return;
    throw inputError(this.#name, this.#headerLine, 1, 'this names the columns, and no row follows it');
  }
}

/** Whether a row names columns: all its cells do, or one where a key should stand names a key. */
function isHeader(cells: readonly string[], columns: readonly HeaderColumn[]): boolean {
  // A key has hundreds of characters: the names need not be looked at in a row that holds one.
  if (
    columns.some(({ meaning }, index) => isKeyColumn(meaning) && (cells[index] ?? '').length > MAX_FIELD_NAME)
  )
    return false;
  const named = cells.map(columnOfName);
  if (!columns.some(({ meaning }) => isKeyColumn(meaning)))
    return isIdColumn(named[columns.findIndex(({ meaning }) => isIdColumn(meaning))]);
  return (
    columns.some(({ meaning }, index) => isKeyColumn(meaning) && isKeyColumn(named[index])) ||
    (named.some(isKeyColumn) && named.every((column, index) => column !== undefined || cells[index] === ''))
  );
}

function isKeyColumn(column: Column | undefined): boolean {
  return column?.kind === 'field' && (keyFields as readonly string[]).includes(column.field);
}

function readHeader(
  row: CsvRow,
  file: string,
  options: CheckOptions,
  watch: ColumnWatch | undefined,
): FaultyRow | Header {
  const draft = draftOf(file, row.line, options);
  if (row.problem !== undefined) {
    draft.fault(null, row.problem, row.problem.message);
    return draft.faulty(true);
  }
  if (options.deletion === 'ids-only') return readIdHeader(row, file, options, watch);
  const columns = row.cells.map(columnOfName);
  const named = new Set<string>();
  if (columns.every((column) => column === undefined)) {
    const problem = 'the first line does not name the columns (registrationId, endorsementKey, …)';
    draft.fault(null, row.place(0), problem);
    return draft.faulty(true);
  }
  const { ignoreUnknownColumns = false } = options;
  for (const [index, column] of columns.entries()) {
    const written = row.cells[index] ?? '';
    const place = row.place(index);
    if (column === undefined) {
      if (written !== '') draft.unknown(written, () => place, unknownColumn(written, index + 1));
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
  if (draft.hasFaults) return draft.faulty(true);
  const names = columns.map((column, index) =>
    column === undefined ? (row.cells[index] ?? '') : nameOfColumn(column),
  );
  return {
    names,
    columns: columns.map((column) => headerColumn(column, file, options, watch)),
    shape: new CsvShape(names, { ignoreUnnamed: ignoreUnknownColumns }),
  };
}

/** Columns whose values are the device's name: what a spreadsheet makes of a long number or of a code. */
const identityFields: ReadonlySet<string> = new Set(['registrationId', 'deviceId', 'serialNumber']);

function headerColumn(
  meaning: Column | undefined,
  file: string,
  { asText = false, textColumns = [], deletion, onIgnored }: CheckOptions,
  watch: ColumnWatch | undefined,
): HeaderColumn {
  if (meaning === undefined) return { meaning, ...(onIgnored === undefined ? {} : { onIgnored }) };
  if (deletion !== undefined && !isIdColumn(meaning) && !isKeyColumn(meaning)) return leftOut;
  const name = nameOfColumn(meaning);
  if (meaning.kind === 'field') {
    if (asText || !identityFields.has(meaning.field)) return { meaning };
    const numbers = watch?.numbers(file, name);
    return { meaning, damageOf: identityDamage, ...(numbers === undefined ? {} : { numbers }) };
  }
  const textColumn = textColumnOf(name, textColumns);
  if (textColumn !== undefined) watch?.isText(textColumn);
  return {
    meaning,
    isText: textColumn !== undefined,
    ...(asText ? {} : { damageOf: errorValueIn }),
    ...(textColumn !== undefined || watch === undefined ? {} : { watch: watch.twin(name) }),
  };
}

const idColumn: Column = { kind: 'field', field: 'registrationId' };

function isListOfIds({ cells, problem }: CsvRow, { deletion }: CheckOptions): boolean {
  if (deletion !== 'ids-only' || problem !== undefined || cells.length !== 1) return false;
  return columnOfName(cells[0] ?? '') === undefined;
}

/** The header that a list of registration ids does without. */
function listOfIds(file: string, options: CheckOptions, watch: ColumnWatch | undefined): Header {
  return {
    names: [nameOfColumn(idColumn)],
    columns: [headerColumn(idColumn, file, options, watch)],
    shape: new CsvShape([nameOfColumn(idColumn)]),
  };
}

/** Of a file that names registration ids and nothing else. */
function readIdHeader(
  row: CsvRow,
  file: string,
  options: CheckOptions,
  watch: ColumnWatch | undefined,
): FaultyRow | Header {
  const draft = draftOf(file, row.line, options);
  const { ignoreUnknownColumns = false } = options;
  const areIds = row.cells.map((cell) => isIdColumn(columnOfName(cell)));
  const ids = areIds.filter(Boolean).length;
  if (ids !== 1) {
    const problem = `the column registrationId ${ids === 0 ? 'is missing' : 'stands here twice'}`;
    draft.fault('registrationId', row.place(0), problem);
  }
  for (const [index, cell] of row.cells.entries()) {
    if (areIds[index] !== true && cell !== '' && !ignoreUnknownColumns)
      draft.fault(cell, row.place(index), notAnId(cell));
  }
  if (draft.hasFaults) return draft.faulty(true);
  return {
    names: row.cells,
    columns: areIds.map((isId) => (isId ? headerColumn(idColumn, file, options, watch) : leftOut)),
    shape: new CsvShape(row.cells, { ignoreUnnamed: ignoreUnknownColumns }),
  };
}

function csvRow(
  row: CsvRow,
  { names, columns, shape }: Header,
  file: string,
  options: CheckOptions,
): ReadRow {
  const { cells, line } = row;
  const problem = shape.problemOf(row);
  if (problem !== undefined) {
    const broken = new RowDraft(file, line);
    broken.fault(problem.field, problem, problem.message);
    return broken.faulty(false);
  }
  const draft = draftOf(file, line, options);
  for (let index = 0; index < columns.length; index += 1) {
    const { meaning, damageOf, numbers, isText = false, watch, onIgnored } = columns[index] ?? leftOut;
    const cell = cells[index] ?? '';
    if (cell === '') continue;
    if (meaning === undefined) {
      // One that has a name is told of with the header.
      if (names[index] === '') onIgnored?.('a column without a name');
      continue;
    }
    const place = () => row.place(index);
    const damage = damageOf?.(cell);
    if (damage !== undefined) {
      draft.fault(nameOfColumn(meaning), place(), damage.message, { damage: damage.kind });
    } else if (meaning.kind === 'field') {
      numbers?.see(cell, place);
      draft.setText(meaning.field, cell, place);
    } else {
      const value = isText ? cell : twinValueOfCell(cell);
      watch?.see(value, cell, file, line);
      draft.setTwin(meaning.part, meaning.path, value, () => place());
    }
  }
  return draft.finish();
}
