/**
 * Rows from JSON: NDJSON line by line, or the elements of JSON arrays, both streamed, with the place of every row and
 * of its members. What is not JSON in one row is a broken row; what makes the rest unreadable is thrown.
 */
import { jsonFaultOffset, jsonMemberOffset, placeOf } from './json-text.ts';
import { beginsWithBom, inputError, MAX_ROW_BYTES, readLines, readText } from './text-source.ts';

export interface Place {
  /** 1-based. */
  readonly line: number;
  /** 1-based, in characters. */
  readonly column: number;
}

export interface JsonRow {
  readonly kind: 'row';
  /** 1-based number of the line on which the row begins. */
  readonly line: number;
  readonly value: unknown;
  /** Where the value of a member stands, or the deepest member on the way to it that is there. */
  place(path: readonly string[]): Place;
}

export interface BrokenJsonRow extends Place {
  readonly kind: 'broken';
  /** Lower case, without a full stop; does not quote the file. */
  readonly message: string;
}

/**
 * One JSON value a line; blank lines are skipped, LF or CR LF.
 * @param encoding as for `readText`
 * @throws IotdmError `input.invalid` for what is not UTF-8 text and for lines over 1 MiB
 */
export async function* readNdjson(
  source: AsyncIterable<Buffer>,
  name: string,
  encoding?: string,
): AsyncGenerator<JsonRow | BrokenJsonRow, void, undefined> {
  for await (const batch of readLines(source, name, 'an NDJSON file', encoding)) {
    for (const line of batch) {
      const text = (beginsWithBom(line.bytes) ? line.bytes.subarray(3) : line.bytes).toString('utf8');
      if (text.trim() !== '') yield parseRow(text, { line: line.number, column: 1 });
    }
  }
}

/**
 * The elements of a JSON array. Several arrays one after the other (concatenated files) count as one, and an object
 * outside an array counts as one element, so that indented objects one after the other are read as well. The file is
 * streamed: its size is not limited, that of an element is (1 MiB).
 * @throws IotdmError `input.invalid` with the place at which the array cannot be read any further
 */
export async function* readJsonElements(
  source: AsyncIterable<Buffer>,
  name: string,
  encoding?: string,
): AsyncGenerator<JsonRow | BrokenJsonRow, void, undefined> {
  const splitter = new ElementSplitter(name);
  for await (const chunk of readText(source, name, 'a JSON file', encoding)) {
    for (const element of splitter.split(chunk)) yield parseRow(element.text, element);
  }
  splitter.end();
}

function parseRow(text: string, first: Place): JsonRow | BrokenJsonRow {
  try {
    const value: unknown = JSON.parse(text);
    return {
      kind: 'row',
      line: first.line,
      value,
      place: (path) => placeOf(text, jsonMemberOffset(text, path), first),
    };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const offset = jsonFaultOffset(text) ?? 0;
    const cut = text.slice(offset).trim() === '';
    const place = placeOf(text, offset, first);
    return {
      kind: 'broken',
      ...place,
      message: cut ? 'the JSON breaks off here' : 'this is not JSON from here on',
    };
  }
}

interface Element extends Place {
  readonly text: string;
}

/** Where the splitter stands: outside arrays, before an element that may or must follow, behind one, or inside one. */
type State = 'outside' | 'element-or-end' | 'element' | 'comma-or-end' | 'nested' | 'scalar';

const byte = {
  quote: 0x22,
  comma: 0x2c,
  backslash: 0x5c,
  openBracket: 0x5b,
  closeBracket: 0x5d,
  openBrace: 0x7b,
  closeBrace: 0x7d,
  lineFeed: 0x0a,
} as const;

/** Finds where elements begin and end, by brackets and strings only; whether they are whole JSON is for JSON.parse. */
class ElementSplitter {
  readonly #name: string;
  #state: State = 'outside';
  #inArray = false;
  /** The closing brackets that are still to come, the innermost last. */
  #closers: number[] = [];
  #insideString = false;
  #escaped = false;
  #place = { line: 1, column: 1 };
  #begin: Place = { line: 1, column: 1 };
  #pieces: Buffer[] = [];
  #held = 0;

  constructor(name: string) {
    this.#name = name;
  }

  *split(chunk: Buffer): Generator<Element> {
    let start = 0;
    for (let index = 0; index < chunk.length; index += 1) {
      const value = chunk[index] ?? 0;
      if (this.#state === 'nested') {
        if (this.#nestedEnds(value)) {
          yield this.#finish(chunk.subarray(start, index + 1));
          start = index + 1;
        }
      } else {
        if (this.#state === 'scalar' && endsScalar(value)) {
          yield this.#finish(chunk.subarray(start, index));
          start = index;
        }
        if (this.#state !== 'scalar' && this.#between(value)) start = index;
      }
      this.#advance(value);
    }
    if (this.#state === 'nested' || this.#state === 'scalar') this.#hold(chunk.subarray(start));
  }

  /** @throws IotdmError `input.invalid` when the text ends inside an array or element */
  end(): void {
    if (this.#state === 'outside') return;
    const { line, column } = this.#place;
    throw inputError(this.#name, line, column, 'the JSON breaks off here: its end is missing');
  }

  /** Takes a byte that stands between elements; true when an element begins with it. */
  #between(value: number): boolean {
    if (isSpace(value)) return false;
    if (this.#state === 'comma-or-end') {
      if (value === byte.comma) this.#state = 'element';
      else if (value === byte.closeBracket) this.#leaveArray();
      else throw this.#unexpected('a comma or ] is missing before this');
      return false;
    }
    if (this.#state === 'outside') {
      // A byte order mark before a further file of a concatenation.
      if (value === 0xef || value === 0xbb || value === 0xbf) return false;
      if (value === byte.openBracket) {
        this.#inArray = true;
        this.#state = 'element-or-end';
        return false;
      }
      if (value !== byte.openBrace) throw this.#unexpected('a JSON array of objects is expected here');
    } else if (value === byte.closeBracket && this.#state === 'element-or-end') {
      this.#leaveArray();
      return false;
    }
    if (value === byte.comma || value === byte.closeBracket || value === byte.closeBrace) {
      throw this.#unexpected('an element of the array is missing before this');
    }
    this.#begin = { ...this.#place };
    const closer = closerOf(value);
    this.#closers = closer === undefined ? [] : [closer];
    this.#insideString = value === byte.quote;
    this.#state = closer !== undefined || this.#insideString ? 'nested' : 'scalar';
    return true;
  }

  #leaveArray(): void {
    this.#inArray = false;
    this.#state = 'outside';
  }

  /** Takes a byte of an object, array or string; true when it is the last one. */
  #nestedEnds(value: number): boolean {
    if (this.#insideString) {
      if (this.#escaped) this.#escaped = false;
      else if (value === byte.backslash) this.#escaped = true;
      else if (value === byte.quote) this.#insideString = false;
      return !this.#insideString && this.#closers.length === 0;
    }
    const closer = closerOf(value);
    if (value === byte.quote) this.#insideString = true;
    else if (closer !== undefined) this.#closers.push(closer);
    else if (value === byte.closeBrace || value === byte.closeBracket) {
      if (this.#closers.pop() !== value) throw this.#unexpected('the other closing bracket is expected here');
    }
    return this.#closers.length === 0;
  }

  #finish(last: Buffer): Element {
    this.#hold(last);
    const text = Buffer.concat(this.#pieces).toString('utf8');
    this.#pieces = [];
    this.#held = 0;
    this.#state = this.#inArray ? 'comma-or-end' : 'outside';
    return { ...this.#begin, text };
  }

  #hold(piece: Buffer): void {
    this.#pieces.push(piece);
    this.#held += piece.length;
    if (this.#held <= MAX_ROW_BYTES) return;
    const { line, column } = this.#begin;
    throw inputError(
      this.#name,
      line,
      column,
      `the element that begins here is longer than ${MAX_ROW_BYTES} bytes`,
    );
  }

  #advance(value: number): void {
    if (value === byte.lineFeed) {
      this.#place.line += 1;
      this.#place.column = 1;
    } else if ((value & 0xc0) !== 0x80) {
      this.#place.column += 1;
    }
  }

  #unexpected(message: string): Error {
    return inputError(this.#name, this.#place.line, this.#place.column, message);
  }
}

function closerOf(value: number): number | undefined {
  if (value === byte.openBrace) return byte.closeBrace;
  return value === byte.openBracket ? byte.closeBracket : undefined;
}

function isSpace(value: number): boolean {
  return value === 0x20 || value === 0x0a || value === 0x0d || value === 0x09;
}

function endsScalar(value: number): boolean {
  return isSpace(value) || value === byte.comma || value === byte.closeBracket || value === byte.closeBrace;
}
