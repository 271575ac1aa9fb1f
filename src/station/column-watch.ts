/**
 * What only shows when a whole column is looked at, over all files: one that yields numbers in some rows and texts in
 * others, and long numbers that all end in zeros. A few texts a column are kept, however many rows there are.
 */
import type { TwinValue } from '../dps/enrollment.ts';
import type { RowFault } from './enrollment-rows.ts';
import { isShortenedNumber, LongNumbers } from './spreadsheet-damage.ts';

/** A cell and where it stands. */
export interface SeenCell {
  readonly cell: string;
  readonly file: string;
  readonly line: number;
}

/** Something that is no fault, and that whoever made the file should know. */
export type ColumnNotice =
  /** The column's cells become numbers in some rows and texts in others. */
  | {
      readonly kind: 'mixed';
      readonly column: string;
      readonly number: SeenCell;
      readonly text: SeenCell;
    }
  /** A text in a twin that looks like a number without its digits. */
  | { readonly kind: 'shortened'; readonly column: string; readonly seen: SeenCell }
  /** A column that was to be read as text is in no file. */
  | { readonly kind: 'absent'; readonly column: string };

/** One column of `tags` or `desired`. */
export class TwinColumnWatch {
  #number: SeenCell | undefined;
  #text: SeenCell | undefined;
  #shortened: SeenCell | undefined;

  see(value: TwinValue, cell: string, file: string, line: number): void {
    if (typeof value === 'number') this.#number ??= { cell, file, line };
    else if (typeof value === 'string') {
      this.#text ??= { cell, file, line };
      if (this.#shortened === undefined && isShortenedNumber(cell)) this.#shortened = { cell, file, line };
    }
  }

  *notices(column: string): Generator<ColumnNotice> {
    if (this.#number !== undefined && this.#text !== undefined)
      yield { kind: 'mixed', column, number: this.#number, text: this.#text };
    if (this.#shortened !== undefined) yield { kind: 'shortened', column, seen: this.#shortened };
  }
}

/** Long numbers in one column of one file. */
interface WatchedNumbers {
  readonly file: string;
  readonly field: string;
  readonly numbers: LongNumbers;
}

export class ColumnWatch {
  readonly #twins = new Map<string, TwinColumnWatch>();
  readonly #numbers: WatchedNumbers[] = [];
  readonly #textColumns = new Map<string, boolean>();

  /** @param textColumns the names or patterns by which columns were to be read as text */
  constructor(textColumns: readonly string[] = []) {
    for (const column of textColumns) this.#textColumns.set(column, false);
  }

  /** The watch of a twin's column, which is one over all files. */
  twin(name: string): TwinColumnWatch {
    const found = this.#twins.get(name) ?? new TwinColumnWatch();
    this.#twins.set(name, found);
    return found;
  }

  /** The watch of a column of ids or serial numbers in one file. */
  numbers(file: string, field: string): LongNumbers {
    const numbers = new LongNumbers();
    this.#numbers.push({ file, field, numbers });
    return numbers;
  }

  /** A column is read as text for this name or pattern. */
  isText(textColumn: string): void {
    this.#textColumns.set(textColumn, true);
  }

  faults(): RowFault[] {
    return this.#numbers.flatMap(({ file, field, numbers }) => {
      const problem = numbers.problem();
      if (problem === undefined) return [];
      const place = { file, field, registrationId: null, code: 'input.invalid' } as const;
      return [{ ...place, ...problem, damage: 'number' } as const];
    });
  }

  notices(): ColumnNotice[] {
    const notices = [...this.#twins].flatMap(([column, watch]) => [...watch.notices(column)]);
    for (const [column, isFound] of this.#textColumns) {
      if (!isFound) notices.push({ kind: 'absent', column });
    }
    return notices;
  }
}
