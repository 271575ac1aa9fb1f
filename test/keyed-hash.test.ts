import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KeyedHash } from '../src/keyed-hash.ts';

/** Of the bytes 00 01 02 …, with the key 00 … 07: from the reference implementation of HalfSipHash-2-4. */
const vectors: [length: number, hash: string][] = [
  [0, '218d1f59b9b83cc8'],
  [2, '064f39ef7c50eb57'],
  [4, 'd5e78a175be52ea1'],
  [6, 'ce3e91358aa2bc25'],
  [8, 'edfee820bce4858c'],
  [12, '7bc71f9faef5c799'],
  [14, '3bb1a870eae8e658'],
];

const counting = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, index) => index));

describe('KeyedHash', () => {
  it('is HalfSipHash-2-4 of the text in UTF-16', () => {
    const hash = new KeyedHash(counting(8));
    for (const [length, expected] of vectors) {
      const [low = 0, high = 0] = hash.of(counting(length).toString('utf16le'));
      const bytes = Buffer.alloc(8);
      bytes.writeInt32LE(low, 0);
      bytes.writeInt32LE(high, 4);
      assert.equal(bytes.toString('hex'), expected);
    }
  });

  it('has another key every time', () => {
    assert.notDeepEqual([...new KeyedHash().of('a')], [...new KeyedHash().of('a')]);
  });
});
