/** Whether the rows of a CSV file have the form that its header gives them. */
import type { CsvRow } from '../records/csv.ts';

export interface ShapeProblem {
  readonly line: number;
  readonly column: number;
  /** Name of the column, where the problem is in one that has a name. */
  readonly field: string | null;
  /** Lower case, without a full stop. */
  readonly message: string;
}

/** The columns of a header: which of them have a name. Spreadsheets write columns without one beside a table. */
export class CsvShape {
  readonly #names: readonly string[];
  /** Those that a row must have. */
  readonly #least: number;
  readonly #unnamed: readonly number[];

  /**
   * @param names of the columns, in the order of the file; an empty one where there is none
   * @param options `ignoreUnnamed`: what stands under a column without a name is left out
   */
  constructor(
    names: readonly string[],
    { ignoreUnnamed = false }: { readonly ignoreUnnamed?: boolean } = {},
  ) {
    this.#names = names;
    this.#least = names.findLastIndex((name) => name !== '') + 1;
    this.#unnamed = ignoreUnnamed ? [] : [...names.keys()].filter((index) => names[index] === '');
  }

  /**
   * What keeps a row from being read under this header: quotes, missing or surplus cells, or a value under a column
   * without a name. Cells that are empty do no harm there.
   */
  problemOf(row: CsvRow): ShapeProblem | undefined {
    const { cells, problem } = row;
    if (problem !== undefined) {
      const { line, column, cell, message } = problem;
      return { line, column, field: this.#names[cell] ?? null, message };
    }
    const { length } = this.#names;
    const isSurplus = cells.length > length && cells.slice(length).some((cell) => cell !== '');
    if (cells.length < this.#least || isSurplus) {
      const message = `the row has ${cells.length} cells, the header has ${length}`;
      return { ...row.place(Math.min(cells.length, length)), field: null, message };
    }
    const index = this.#unnamed.find((unnamed) => (cells[unnamed] ?? '') !== '');
    if (index === undefined) return undefined;
    const message = `a value stands in column ${index + 1}, which has no name`;
    return { ...row.place(index), field: null, message };
  }
}
