import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { readLines, serialNumberOf } from '../../../src/station/provision/barcode.ts';

async function linesOf(chunks: readonly (string | Buffer)[]): Promise<(string | undefined)[]> {
  async function* input(): AsyncGenerator<Buffer> {
    for (const chunk of chunks) {
      await Promise.resolve();
      yield Buffer.from(chunk as string);
    }
  }
  const lines: (string | undefined)[] = [];
  for await (const line of readLines(input())) lines.push(line);
  return lines;
}

describe('the lines of a scanner', () => {
  it('end with LF, CR or both, and the last one with the input', async () => {
    assert.deepEqual(await linesOf(['SN-1\nSN-', '2\rSN-3\r', '\nSN-4']), [
      'SN-1',
      'SN-2',
      'SN-3',
      '',
      'SN-4',
    ]);
    assert.deepEqual(await linesOf([]), []);
  });

  it('that are too long or no text cost no other line', async () => {
    const long = ['x'.repeat(3000), 'x'.repeat(3000)];
    assert.deepEqual(await linesOf([...long, '\nSN-1\n']), [undefined, 'SN-1']);
    assert.deepEqual(await linesOf(['x'.repeat(5000)]), [undefined]);
    assert.deepEqual(await linesOf([Buffer.from([0xff, 0x0a]), 'SN-1']), [undefined, 'SN-1']);
  });

  it('are the same however they are cut into chunks, in the middle of a character too', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ unit: 'grapheme' })),
        fc.integer({ min: 1, max: 5 }),
        async (texts, size) => {
          const bytes = Buffer.from(texts.map((text) => text.replaceAll(/[\r\n]/g, '')).join('\n'));
          const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
            bytes.subarray(index * size, (index + 1) * size),
          );
          assert.deepEqual(await linesOf(chunks), await linesOf([bytes]));
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe('a serial number', () => {
  it('is what stands between blanks', () => {
    assert.equal(serialNumberOf('  SN-0001 \t'), 'SN-0001');
    assert.equal(serialNumberOf('Gerät Nr. 7'), 'Gerät Nr. 7');
    assert.equal(serialNumberOf('   '), undefined);
    assert.equal(serialNumberOf('x'.repeat(256))?.length, 256);
  });

  it('has nothing in it that a terminal would obey, and no refusal repeats what was read', () => {
    const bad = [
      'a\u001b[2Jb',
      'a\u0000b',
      'a\u202eb',
      'a\u2028b',
      'a\u200bb',
      'a\udc00b',
      'x'.repeat(257),
      undefined,
    ];
    for (const text of bad) {
      assert.throws(() => serialNumberOf(text), { code: 'input.barcode', message: /^[ -~]*$/ });
    }
  });
});
