import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FirstSeen, SeenTexts } from '../../src/station/first-seen.ts';

describe('SeenTexts', () => {
  it('keeps the first value of each text, as a Map would', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.string({ maxLength: 2 }), fc.nat())), (entries) => {
        const texts = new SeenTexts();
        const model = new Map<string, number>();
        for (const [text, value] of entries) {
          assert.equal(texts.find(text), model.get(text));
          assert.equal(texts.see(text, value), model.get(text));
          if (!model.has(text)) model.set(text, value);
        }
      }),
    );
  });

  it('finds each of many again, and nothing else', () => {
    const texts = new SeenTexts();
    const count = 50_000;
    for (let number = 0; number < count; number += 1) {
      assert.equal(texts.see(`text ${number}`, 2 ** 32 - 1 - number), undefined);
    }
    for (let number = 0; number < count; number += 1) {
      assert.equal(texts.find(`text ${number}`), 2 ** 32 - 1 - number);
      assert.equal(texts.find(`text ${number + count}`), undefined);
    }
  });
});

describe('FirstSeen', () => {
  it('gives the place back, whatever files and lines lie between', () => {
    const seen = new FirstSeen();
    const places = [
      { file: 0, line: 7 },
      { file: 0, line: 7000 },
      { file: 3, line: 1 },
      { file: 3, line: 2 },
      { file: 4, line: 5 },
    ];
    for (const [index, place] of places.entries())
      assert.equal(seen.seeAt(`text ${index}`, place), undefined);
    for (const [index, place] of places.entries()) {
      assert.deepEqual(seen.seeAt(`text ${index}`, { file: 9, line: 1 + index }), place);
    }
  });
});
