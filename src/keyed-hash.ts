/**
 * HalfSipHash-2-4 with 64 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): a keyed hash for
 * tables. Whoever writes the input does not know the key, so that nobody can make texts collide on purpose.
 */
import { randomBytes } from 'node:crypto';

/** Two words of 32 bits; overwritten by the next call. */
export type HashWords = Int32Array;

export class KeyedHash {
  readonly #low: number;
  readonly #high: number;
  readonly #words = new Int32Array(2);

  /** @param key 8 bytes; random ones when absent */
  constructor(key: Buffer = randomBytes(8)) {
    this.#low = key.readInt32LE(0);
    this.#high = key.readInt32LE(4);
  }

  /** The hash of the text's UTF-16 code units, little-endian. */
  of(text: string): HashWords {
    const { length } = text;
    let v0 = this.#low;
    let v1 = this.#high ^ 0xee;
    let v2 = this.#low ^ 0x6c796765;
    let v3 = this.#high ^ 0x74656462;
    const whole = length - (length % 2);
    // One more block at the end, of what is left over and the length in bytes; then four rounds to finish, twice.
    for (let at = 0; at <= whole + 4; at += 2) {
      let word = 0;
      let rounds = 2;
      if (at < whole) {
        word = text.charCodeAt(at) | (text.charCodeAt(at + 1) << 16);
      } else if (at === whole) {
        word = ((length * 2) << 24) | (whole < length ? text.charCodeAt(whole) : 0);
      } else {
        rounds = 4;
        if (at === whole + 2) v2 ^= 0xee;
        else v1 ^= 0xdd;
      }
      v3 ^= word;
      for (let round = 0; round < rounds; round += 1) {
        v0 = (v0 + v1) | 0;
        v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
        v0 = (v0 << 16) | (v0 >>> 16);
        v2 = (v2 + v3) | 0;
        v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
        v0 = (v0 + v3) | 0;
        v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
        v2 = (v2 + v1) | 0;
        v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
        v2 = (v2 << 16) | (v2 >>> 16);
      }
      v0 ^= word;
      if (at === whole + 2) this.#words[0] = v1 ^ v3;
    }
    this.#words[1] = v1 ^ v3;
    return this.#words;
  }
}
