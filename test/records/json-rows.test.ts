import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import {
  readJsonElements,
  readNdjson,
  type BrokenJsonRow,
  type JsonRow,
} from '../../src/records/json-rows.ts';
import { rowFormatOf } from '../../src/records/row-format.ts';
import { MAX_ROW_BYTES } from '../../src/records/text-source.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';

function valuesOf(rows: readonly (JsonRow | BrokenJsonRow)[]): unknown[] {
  return rows.map((row) => (row.kind === 'row' ? row.value : row.message));
}

function refused(message: RegExp) {
  return (error: unknown) => {
    assert(error instanceof IotdmError);
    assert.equal(error.code, 'input.invalid');
    assert.match(error.message, message);
    return true;
  };
}

const elements = (data: string | Buffer, size?: number) =>
  collect(readJsonElements(chunked(data, size), 'rows.json'));
const lines = (data: string | Buffer, size?: number) =>
  collect(readNdjson(chunked(data, size), 'rows.ndjson'));

describe('readNdjson', () => {
  it('reads a value a line, with the lines numbered', async () => {
    const rows = await lines('\ufeff{"a":1}\r\n\n{"b":[2]}', 1);
    assert.deepEqual(valuesOf(rows), [{ a: 1 }, { b: [2] }]);
    assert.deepEqual(
      rows.map((row) => row.line),
      [1, 3],
    );
  });

  it('goes on after a line that is not JSON and says where it breaks', async () => {
    const [first, second, third, fourth] = await lines('{"a":1}\n{"ü":1,}\n{"a":"x\n{"b":2}\n');
    assert.equal(first?.kind, 'row');
    assert.deepEqual(second, {
      kind: 'broken',
      line: 2,
      column: 8,
      message: 'this is not JSON from here on',
    });
    assert.deepEqual(third, { kind: 'broken', line: 3, column: 6, message: 'this is not JSON from here on' });
    assert.equal(fourth?.kind, 'row');
    const [torn] = await lines('{"a":');
    assert.deepEqual(torn, { kind: 'broken', line: 1, column: 6, message: 'the JSON breaks off here' });
  });

  it('finds where the longest unterminated string begins, in time that grows with its length only', async () => {
    for (const content of ['x'.repeat(900_000), '\\n'.repeat(400_000), '\u0085'.repeat(400_000)]) {
      const [row] = await lines(`{"a":"${content}`);
      assert.deepEqual([row?.kind, row?.line, row?.kind === 'broken' && row.column], ['broken', 1, 6]);
    }
  });

  it('bounds the length of a line', async () => {
    await assert.rejects(
      lines(`{}\n${' '.repeat(MAX_ROW_BYTES + 1)}\n`),
      refused(/^rows\.ndjson:2:1: the line is longer/),
    );
  });
});

describe('readJsonElements', () => {
  it('reads arrays one after the other, and objects outside arrays', async () => {
    const text = '\ufeff[ {"a":"]\\"}"} , [1,{"b":2}],"x",3,null ]\n\ufeff[]\n[true]{"c":\n{}}';
    for (const size of [1, 2, 5, 1000]) {
      const rows = await elements(text, size);
      assert.deepEqual(valuesOf(rows), [{ a: ']"}' }, [1, { b: 2 }], 'x', 3, null, true, { c: {} }]);
      assert.deepEqual(
        rows.map((row) => row.line),
        [1, 1, 1, 1, 1, 3, 3],
      );
    }
  });

  it('tells where a member stands', async () => {
    const [row] = await elements('[\n  {"ü": {"x": [1, "}"]},\n   "t": {"s": 2}}\n]');
    assert.equal(row?.kind, 'row');
    assert.deepEqual(row.place([]), { line: 2, column: 3 });
    assert.deepEqual(row.place(['ü', 'x']), { line: 2, column: 15 });
    assert.deepEqual(row.place(['t', 's']), { line: 3, column: 15 });
    assert.deepEqual(row.place(['t', 'absent', 'y']), { line: 3, column: 9 });
    assert.deepEqual(row.place(['absent']), { line: 2, column: 3 });
  });

  it('reports what breaks an element and what breaks the array', async () => {
    const [broken] = await elements('[{"a":1,}]');
    assert.deepEqual(broken, {
      kind: 'broken',
      line: 1,
      column: 9,
      message: 'this is not JSON from here on',
    });
    const cases: [text: string, message: RegExp][] = [
      ['[{"a":1}\n{"b":2}]', /^rows\.json:2:1: a comma or \] is missing/],
      ['[{"a":1]}]', /^rows\.json:1:8: the other closing bracket/],
      ['[{},]', /^rows\.json:1:5: an element of the array is missing/],
      ['[,{}]', /^rows\.json:1:2: an element/],
      ['[{}', /^rows\.json:1:4: the JSON breaks off/],
      ['[{"a":"x}]', /^rows\.json:1:11: the JSON breaks off/],
      ['registrationId,endorsementKey', /^rows\.json:1:1: a JSON array of objects is expected/],
    ];
    for (const [text, message] of cases) await assert.rejects(elements(text), refused(message));
  });

  it('bounds the length of an element, not of the file', async () => {
    const element = `{"a":"${'x'.repeat(1000)}"}`;
    const many = `[${Array.from({ length: 2 * 1049 }, () => element).join(',')}]`;
    assert(many.length > 2 * MAX_ROW_BYTES);
    assert.equal((await elements(many)).length, 2 * 1049);
    await assert.rejects(
      elements(`[{"a":"${'x'.repeat(MAX_ROW_BYTES)}"}]`),
      refused(/^rows\.json:1:2: the element/),
    );
  });

  it('takes deep nesting without running out of stack', async () => {
    const [deep] = await elements(`[${'['.repeat(200_000)}${']'.repeat(200_000)}]`);
    assert.equal(deep?.kind, 'row');
    const [broken] = await elements(`[${'['.repeat(200_000)}x${']'.repeat(200_000)}]`);
    assert.equal(broken?.kind, 'broken');
  });

  it('reads every array of JSON values, cut anywhere, and finds its members', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.jsonValue()),
        fc.integer({ min: 1, max: 20 }),
        fc.nat(3),
        async (values, size, indent) => {
          const text = JSON.stringify(values, undefined, indent);
          const rows = await elements(text, size);
          assert.deepEqual(valuesOf(rows), JSON.parse(text));
          for (const row of rows) {
            if (row.kind === 'row' && typeof row.value === 'object' && row.value !== null)
              row.place(Object.keys(row.value));
          }
        },
      ),
    );
  });

  it('throws nothing but IotdmError, whatever the text', async () => {
    const soup = fc
      .array(fc.constantFrom('[', ']', '{', '}', '"', ',', ':', '\\', '\n', ' ', '1', 'true', 'é', '"a":'))
      .map((tokens) => tokens.join(''));
    await fc.assert(
      fc.asyncProperty(fc.oneof(soup, fc.string()), fc.integer({ min: 1, max: 9 }), async (text, size) => {
        for (const read of [elements, lines]) {
          await read(text, size).catch((error: unknown) => {
            assert(error instanceof IotdmError, String(error));
          });
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('rowFormatOf', () => {
  it('goes by content, then by name', () => {
    const cases: [name: string, head: string, format: string][] = [
      ['<stdin>', 'registrationId,endorsementKey\n', 'csv'],
      ['<stdin>', '\ufeff [{"a":1}]', 'json'],
      ['<stdin>', '{"schema":1}\n{"schema":1}\n', 'ndjson'],
      ['<stdin>', '{"schema":1', 'ndjson'],
      ['<stdin>', '{\n  "a": 1\n}\n', 'json'],
      ['rows.csv', '[{"a":1}]', 'json'],
      ['rows.json', '{"a":1}\n{"a":2}\n', 'ndjson'],
      ['rows.jsonl', 'oops', 'ndjson'],
      ['ROWS.JSON', '', 'json'],
      ['harvest.txt', '', 'csv'],
    ];
    for (const [name, head, format] of cases)
      assert.equal(rowFormatOf(name, Buffer.from(head)), format, `${name} ${head}`);
  });
});
