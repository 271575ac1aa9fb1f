/**
 * Finds texts that occur twice among millions: of each only a keyed hash and a place are kept, about twenty bytes.
 *
 * Two different texts have the same hash with a probability of 2^-64: among a million texts, one in forty million files
 * would be told of a repetition that is none, and not when it is read again, as the key is new every time.
 */
import { KeyedHash } from '../keyed-hash.ts';

export interface SeenPlace {
  /** Number of the file among the inputs. */
  readonly file: number;
  readonly line: number;
}

/** Two words of hash, the value, and the entry before it in its bucket, counted from one. */
const ENTRY_WORDS = 4;
/** Entries are kept in pieces, so that nothing is copied when there are more of them. */
const PIECE_ENTRIES = 2 ** 13;
const FIRST_BUCKETS = 2 ** 12;
const ENTRIES_PER_BUCKET = 1.5;

/** A table of texts with a number for each, of 32 bits. */
export class SeenTexts {
  readonly #hash = new KeyedHash();
  readonly #pieces: Int32Array[] = [];
  /** The last entry of each bucket, counted from one; 0 where there is none. */
  #buckets = new Int32Array(FIRST_BUCKETS);
  #count = 0;

  /** The value that this text was first seen with, or undefined. */
  find(text: string): number | undefined {
    const [low = 0, high = 0] = this.#hash.of(text);
    return this.#find(low, high);
  }

  /** The same, and where it is undefined, this value is kept. */
  see(text: string, value: number): number | undefined {
    const [low = 0, high = 0] = this.#hash.of(text);
    const found = this.#find(low, high);
    if (found === undefined) this.#add(low, high, value);
    return found;
  }

  #find(low: number, high: number): number | undefined {
    let entry = this.#buckets[low & (this.#buckets.length - 1)] ?? 0;
    while (entry !== 0) {
      const piece = this.#pieceOf(entry);
      const at = offsetOf(entry);
      if (piece[at] === low && piece[at + 1] === high) return (piece[at + 2] ?? 0) >>> 0;
      entry = piece[at + 3] ?? 0;
    }
    return undefined;
  }

  #add(low: number, high: number, value: number): void {
    this.#count += 1;
    if (this.#count > this.#buckets.length * ENTRIES_PER_BUCKET) this.#moreBuckets();
    if (this.#count > this.#pieces.length * PIECE_ENTRIES)
      this.#pieces.push(new Int32Array(PIECE_ENTRIES * ENTRY_WORDS));
    const piece = this.#pieceOf(this.#count);
    const at = offsetOf(this.#count);
    piece[at] = low;
    piece[at + 1] = high;
    piece[at + 2] = value;
    this.#link(this.#count);
  }

  #moreBuckets(): void {
    this.#buckets = new Int32Array(this.#buckets.length * 2);
    for (let entry = 1; entry < this.#count; entry += 1) this.#link(entry);
  }

  #link(entry: number): void {
    const piece = this.#pieceOf(entry);
    const at = offsetOf(entry);
    const bucket = (piece[at] ?? 0) & (this.#buckets.length - 1);
    piece[at + 3] = this.#buckets[bucket] ?? 0;
    this.#buckets[bucket] = entry;
  }

  #pieceOf(entry: number): Int32Array {
    const piece = this.#pieces[Math.floor((entry - 1) / PIECE_ENTRIES)];
    if (piece === undefined) throw new RangeError('there is no such entry');
    return piece;
  }
}

function offsetOf(entry: number): number {
  return ((entry - 1) % PIECE_ENTRIES) * ENTRY_WORDS;
}

/** Lines of one or several files as numbers of 32 bits, in the order of the files. */
export class LineNumbers {
  /** The number before each file's first line. */
  readonly #bases: number[] = [];
  #last = 0;

  /** The number of a line; the files and the lines of each come in their order. */
  of({ file, line }: SeenPlace): number {
    while (this.#bases.length <= file) this.#bases.push(this.#last);
    this.#last = (this.#bases[file] ?? 0) + line;
    return this.#last;
  }

  placeOf(number: number): SeenPlace {
    const file = this.#bases.findLastIndex((base) => base < number);
    return { file, line: number - (this.#bases[file] ?? 0) };
  }
}

export class FirstSeen {
  readonly #texts = new SeenTexts();
  readonly #lines = new LineNumbers();

  /**
   * Where this text occurred before, or undefined: then this place is kept as its first one. Places come in the order
   * of files and lines.
   */
  seeAt(text: string, place: SeenPlace): SeenPlace | undefined {
    const found = this.#texts.see(text, this.#lines.of(place));
    return found === undefined ? undefined : this.#lines.placeOf(found);
  }
}
