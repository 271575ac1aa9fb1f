/** Finds texts that occur twice among millions, in 20 to 40 bytes each: only digests and places are kept. */
import { createHash } from 'node:crypto';

export interface SeenPlace {
  /** Number of the file among the inputs. */
  readonly file: number;
  readonly line: number;
}

/** Three words of the SHA-256 (96 bits), the line, and the number of the file plus one; 0 there is a free slot. */
const SLOT_WORDS = 5;
const FIRST_SLOTS = 1024;

export class FirstSeen {
  #slots = new Uint32Array(FIRST_SLOTS * SLOT_WORDS);
  #count = 0;

  /** Where this text occurred before, or undefined: then this place is kept as its first one. */
  seeAt(text: string, place: SeenPlace): SeenPlace | undefined {
    const hash = createHash('sha256').update(text).digest();
    const entry = [
      hash.readUInt32LE(0),
      hash.readUInt32LE(4),
      hash.readUInt32LE(8),
      place.line,
      place.file + 1,
    ];
    const at = findSlot(this.#slots, entry);
    const file = this.#slots[at + 4] ?? 0;
    if (file !== 0) return { file: file - 1, line: this.#slots[at + 3] ?? 0 };
    this.#slots.set(entry, at);
    this.#count += 1;
    if (this.#count * SLOT_WORDS * 4 > this.#slots.length * 3) this.#grow();
    return undefined;
  }

  #grow(): void {
    const larger = new Uint32Array(this.#slots.length * 2);
    for (let at = 0; at < this.#slots.length; at += SLOT_WORDS) {
      const entry = this.#slots.subarray(at, at + SLOT_WORDS);
      if (entry[4] !== 0) larger.set(entry, findSlot(larger, entry));
    }
    this.#slots = larger;
  }
}

/** Offset of the slot that holds this digest, or of the free one in which it belongs. */
function findSlot(slots: Uint32Array, entry: ArrayLike<number>): number {
  const count = slots.length / SLOT_WORDS;
  let slot = (entry[0] ?? 0) % count;
  for (;;) {
    const at = slot * SLOT_WORDS;
    if (slots[at + 4] === 0) return at;
    if (slots[at] === entry[0] && slots[at + 1] === entry[1] && slots[at + 2] === entry[2]) return at;
    slot = (slot + 1) % count;
  }
}
