/**
 * What spreadsheets leave of a value that they did not take for text: long numbers without their digits, dates, error
 * values and number signs. In ids and serial numbers nobody means these; what is plausible as an id is let through.
 */

/** Of Excel, LibreOffice or Google Sheets in any of their languages: `#REF!`, `#BEZUG!`, `#¿NOMBRE?`, `#N/A`, `Err:502`. */
const errorValue =
  /^(?:#[¡¿]?[\p{Lu}0-9_/]{1,24}[!?]|#\p{Lu}{1,3}\/\p{Lu}{1,3}|#(?:NV|YOK|HIÁNYZIK|NENÍ_K_DISPOZICI|GETTING_DATA)|Err:[0-9]{3})$/u;

/** `3.57E+14`, `1,23457E+11`. A sign or a decimal part must be there, for ids of hexadecimal digits look like `1E10`. */
const shortenedNumber = /^[+-]?[0-9]{1,3}(?:[.,][0-9]{1,14}E[+-]?|E[+-])[0-9]{1,3}$/i;

/** Names of months as the spreadsheets of several languages shorten them, as far as no device is called so. */
const capitalMonth =
  '(?:Jan|Jän|Feb|Mar|Mär|Mrz|Apr|May|Mai|Jun|Jul|Aug|Sep|Sept|Oct|Okt|Nov|Dec|Dez|January|February|March|April|June|July|August|September|October|November|December|Januar|Februar|März|Juni|Juli|Oktober|Dezember)';
const lowerMonth =
  '(?:jan|janv|feb|fev|févr|mar|mars|mrt|abr|apr|avr|mai|may|maj|mei|mag|giu|jun|juin|jul|juil|lug|ago|aug|août|sep|sept|oct|okt|ott|out|nov|dec|déc|dez|des|dic|ene|gen|set)';
const monthDates: readonly RegExp[] = [
  // Mar-17, Mrz 17, Mrz. 26, Mar-2026
  new RegExp(`^${capitalMonth}\\.?[- ](?:[0-9]{2}|(?:19|20)[0-9]{2})$`, 'u'),
  // 17-Mar, 17. Mrz, 17-Mar-26, 17 March 2026
  new RegExp(`^[0-3]?[0-9](?:-|\\. ?| )${capitalMonth}\\.?(?:[- ](?:[0-9]{2}|(?:19|20)[0-9]{2}))?$`, 'u'),
  // 17-mars, 01-févr, 17-mar-26: a device may be called mar-17, and none 17-mar.
  new RegExp(`^[0-3]?[0-9][-/]${lowerMonth}\\.?(?:[-/](?:[0-9]{2}|(?:19|20)[0-9]{2}))?$`, 'u'),
  // March 17, 2026
  new RegExp(`^${capitalMonth} [0-3]?[0-9], (?:19|20)[0-9]{2}$`, 'u'),
];

const time = '(?:[ T][0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9](?:\\.[0-9]{1,3})?)?(?: ?[AP]M)?)?';
const year = '(?:1[89]|20)[0-9]{2}';
const numberDates: readonly RegExp[] = [
  // 3/17/2026, 17/03/26
  new RegExp(`^[0-3]?[0-9]/[0-3]?[0-9]/(?:${year}|[0-9]{2})${time}$`),
  // 17.03.2026, 17-03-2026
  new RegExp(`^[0-3]?[0-9]([.-])[0-3]?[0-9]\\1${year}${time}$`),
  // 2026-03-17, 2026/3/17
  new RegExp(`^${year}([-/])[01]?[0-9]\\1[0-3]?[0-9]${time}$`),
];

/** Longer than any of these. */
const MAX_CHARACTERS = 32;
const NUMBER_SIGN = 0x23;
const LETTER_E = 0x45;

/** What has become of a value: the error of a formula, signs for a narrow column, a number without its digits, a date. */
export type DamageKind = 'error' | 'narrow' | 'number' | 'date';

export interface Damage {
  readonly kind: DamageKind;
  /** A clause that quotes the cell. */
  readonly message: string;
}

/** What a spreadsheet has put into a cell of any column in place of its value: an error value, or number signs. */
export function errorValueIn(cell: string): Damage | undefined {
  const first = cell.charCodeAt(0);
  // Most cells are told by their first character.
  if (first !== NUMBER_SIGN && first !== LETTER_E) return undefined;
  if (cell.length > MAX_CHARACTERS) return /^#+$/.test(cell) ? tooNarrow('####…') : undefined;
  if (/^#{2,}$/.test(cell)) return tooNarrow(cell);
  return errorValue.test(cell) ? damage('error', `${cell} is a spreadsheet's error, not a value`) : undefined;
}

function tooNarrow(cell: string): Damage {
  return damage(
    'narrow',
    `${cell} is what a spreadsheet shows in place of a value where the column is too narrow`,
  );
}

function damage(kind: DamageKind, message: string): Damage {
  return { kind, message };
}

/**
 * The same for a column of ids or serial numbers, in which numbers that lost their digits and dates have no place
 * either.
 */
export function identityDamage(cell: string): Damage | undefined {
  const error = errorValueIn(cell);
  if (error !== undefined || cell.length > MAX_CHARACTERS) return error;
  if (isShortenedNumber(cell))
    return damage('number', `${cell} is a number that a spreadsheet has shortened, and its digits are gone`);
  if (isDate(cell)) return damage('date', `${cell} is a date that a spreadsheet has made of something else`);
  return undefined;
}

/** Whether a cell is a number whose digits a spreadsheet has replaced by a power of ten. */
export function isShortenedNumber(cell: string): boolean {
  const first = cell.charCodeAt(0);
  return (isDigit(first) || first === 0x2b || first === 0x2d) && shortenedNumber.test(cell);
}

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

function isDate(cell: string): boolean {
  const first = cell.charCodeAt(0);
  // Most ids and serial numbers are told by how they begin.
  if (isDigit(first)) return /^[0-9]{1,4}[-./ ]/.test(cell) && hasFormOfDate(cell);
  // Names of months: a capital letter from A to S, and small ones behind it.
  if (first < 0x41 || first > 0x53 || cell.charCodeAt(1) < 0x61) return false;
  return /^\p{Lu}\p{Ll}{2,8}[-. ]/u.test(cell) && hasFormOfDate(cell);
}

function hasFormOfDate(cell: string): boolean {
  return [...monthDates, ...numberDates].some((pattern) => pattern.test(cell));
}

/** A spreadsheet keeps so many digits of a number, and writes zeros for the others. */
const KEPT_DIGITS = 15;
/** Fewer digits that are zero may be so by chance: one file in ten thousand. */
const MIN_ZEROS = 4;

/** Looks at the long numbers of one column: a spreadsheet has turned all of their last digits into zeros, or none. */
export class LongNumbers {
  #zeros = 0;
  #count = 0;
  #areKept = false;
  #first: { readonly cell: string; readonly line: number; readonly column: number } | undefined;

  see(cell: string, place: () => { readonly line: number; readonly column: number }): void {
    if (this.#areKept || cell.length <= KEPT_DIGITS || !isDigit(cell.charCodeAt(0)) || !/^[0-9]+$/.test(cell))
      return;
    if (!/^0+$/.test(cell.slice(KEPT_DIGITS))) this.#areKept = true;
    this.#count += 1;
    this.#zeros += cell.length - KEPT_DIGITS;
    this.#first ??= { cell, ...place() };
  }

  /** The first of them and what is wrong with all, where something is. */
  problem(): { readonly line: number; readonly column: number; readonly message: string } | undefined {
    const first = this.#first;
    if (this.#areKept || first === undefined || this.#zeros < MIN_ZEROS) return undefined;
    const { cell, line, column } = first;
    const which =
      this.#count === 1
        ? `${cell} ends in zeros`
        : `${cell} and all ${this.#count} numbers of more than ${KEPT_DIGITS} digits in this column end in zeros`;
    return { line, column, message: `${which}: a spreadsheet keeps ${KEPT_DIGITS} digits of a number` };
  }
}
