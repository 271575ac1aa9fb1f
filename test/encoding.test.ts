import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { base32, decodeBase32 } from '../src/encoding.ts';

const bytes = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array));

describe('base32', () => {
  it('is that of RFC 4648, 10, in lower case and without padding', () => {
    const vectors = ['', 'my', 'mzxq', 'mzxw6', 'mzxw6yq', 'mzxw6ytb', 'mzxw6ytboi'];
    for (const [length, text] of vectors.entries()) {
      assert.equal(base32(Buffer.from('foobar'.slice(0, length))), text);
    }
  });

  it('is read back', () => {
    fc.assert(
      fc.property(bytes, (some) => {
        assert.deepEqual(decodeBase32(base32(some)), some);
      }),
    );
  });

  it('has one notation only', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), (text) => {
        const read = decodeBase32(text);
        if (read !== undefined) assert.equal(base32(read), text);
      }),
    );
    // Upper case, padding, a digit that is none, bits that are left over, and a length that no bytes give.
    for (const text of ['MY', 'my======', 'm1', 'mz', 'mzx'])
      assert.equal(decodeBase32(text), undefined, text);
  });
});
