import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parse } from 'csv-parse/sync';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { csvLine, csvReportLine, readCsv } from '../../src/records/csv.ts';
import { MAX_ROW_BYTES } from '../../src/records/text-source.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';

async function rows(data: string | Buffer, chunk?: number): Promise<[line: number, ...cells: string[]][]> {
  const all = await collect(readCsv(chunked(data, chunk), 'rows.csv'));
  return all.map((row) => [row.line, ...row.cells]);
}

function refused(message: RegExp) {
  return (error: unknown) => {
    assert(error instanceof IotdmError);
    assert.equal(error.code, 'input.invalid');
    assert.match(error.message, message);
    return true;
  };
}

describe('readCsv', () => {
  it('numbers rows by their first line, blank lines and quoted line breaks included', async () => {
    assert.deepEqual(await rows('a,b\n\n"1\r\n2",x\r\n  \n3,"say ""hi"""'), [
      [1, 'a', 'b'],
      [3, '1\r\n2', 'x'],
      [6, '3', 'say "hi"'],
    ]);
  });

  it('reads what Limpet writes, with a byte order mark before each of several files', async () => {
    const file = '\ufeff"Registration Id", "Endorsement Key"\r\n"id", "key"\r\n';
    assert.deepEqual(await rows(file + file, 1), [
      [1, 'Registration Id', 'Endorsement Key'],
      [2, 'id', 'key'],
      [3, 'Registration Id', 'Endorsement Key'],
      [4, 'id', 'key'],
    ]);
  });

  it('reads what spreadsheets save where the comma is a decimal sign, and their Unicode text', async () => {
    const table: [line: number, ...cells: string[]][] = [
      [1, 'id', 'site, hall', 'größe'],
      [2, '1', 'a;b\tc', '0,5'],
      [3, '2', '', ''],
    ];
    const semicolons = '\ufeffid;site, hall;größe\r\n1;"a;b\tc";0,5\r\n2;;\r\n';
    const tabs = 'id\tsite, hall\tgröße\r\n1\t"a;b\tc"\t0,5\r\n2\t\t\r\n';
    const bigEndian = Buffer.from(`\ufeff${tabs}`, 'utf16le').swap16();
    for (const size of [1, 3, 1000]) {
      assert.deepEqual(await rows(semicolons, size), table);
      assert.deepEqual(await rows(tabs, size), table);
      assert.deepEqual(await rows(Buffer.from(`\ufeff${tabs}`, 'utf16le'), size), table);
      assert.deepEqual(await rows(bigEndian, size), table);
    }
    assert.deepEqual(await rows('sep=;\r\na,b;c\r\n'), [[2, 'a,b', 'c']]);
    const [, row] = await collect(readCsv(chunked('a;b;c\n"1;2"; x;y\n'), 'rows.csv'));
    assert.deepEqual(
      [row?.place(1), row?.place(2)],
      [
        { line: 2, column: 8 },
        { line: 2, column: 10 },
      ],
    );
  });

  it('reads a line without quotes as csv-parse does', async () => {
    const cell = fc.string({
      unit: fc.constantFrom(
        'a',
        ' ',
        '\t',
        '\r',
        '\v',
        '\f',
        '\u00a0',
        '\ufeff',
        '\u2003',
        '\u3000',
        '\u180e',
        '\u200b',
        '\u0085',
        ';',
        '🙂',
        '=',
      ),
    });
    const line = fc.array(cell, { minLength: 2, maxLength: 5 }).map((cells) => cells.join(','));
    await fc.assert(
      fc.asyncProperty(fc.array(line, { minLength: 1, maxLength: 4 }), async (lines) => {
        const text = `a,b\n${lines.join('\n')}\n`;
        const parsed = parse(text, {
          record_delimiter: ['\r\n', '\n'],
          relax_column_count: true,
          trim: true,
        });
        const marks = /^\ufeff/;
        const expected = lines.some((each) => marks.test(each)) ? undefined : parsed;
        if (expected === undefined) return;
        assert.deepEqual(
          (await collect(readCsv(chunked(text), 'rows.csv'))).map(({ cells }) => cells),
          expected,
        );
      }),
      { numRuns: 1000 },
    );
  });

  it('tells where a cell begins, in characters', async () => {
    const [row] = await collect(readCsv(chunked('ä, "b\nc,d" ,🙂,e\n'), 'rows.csv'));
    assert(row);
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((cell) => row.place(cell)),
      [
        { line: 1, column: 1 },
        { line: 1, column: 4 },
        { line: 2, column: 7 },
        { line: 2, column: 9 },
        { line: 2, column: 10 },
      ],
    );
  });

  it('says what a file is that is not CSV', async () => {
    const signatures: [hex: string, name: RegExp][] = [
      ['89504e470d0a1a0a0000', /^rows\.csv is not a CSV file: it looks like a PNG image$/],
      ['504b030414000600', /a ZIP archive or an Excel workbook/],
      ['1f8b0800', /gzip/],
      ['255044462d312e37', /PDF/],
      ['612c620a0031', /^rows\.csv:2:1: this is not a CSV file: it holds NUL bytes, as binary files do, /],
      ['612c620ac3bc00', /^rows\.csv:2:2: /],
      [
        'fffe610000d8',
        /^rows\.csv is not a CSV file: it begins as UTF-16, and at line 1 or soon after it is not$/,
      ],
    ];
    for (const [hex, message] of signatures) {
      await assert.rejects(rows(Buffer.from(hex, 'hex')), refused(message));
      await assert.rejects(rows(Buffer.from(hex, 'hex'), 1), refused(message));
    }
  });

  it('names the line that is not UTF-8, at every chunk size', async () => {
    const file = Buffer.concat([
      Buffer.from('id,site\n1,Zürich\n2,M'),
      Buffer.from([0xfc]),
      Buffer.from('nchen\n'),
    ]);
    for (const size of [1, 2, 3, 7, 100]) {
      await assert.rejects(rows(file, size), refused(/line 3 holds bytes that are not UTF-8/));
    }
    await assert.rejects(rows(Buffer.from([0x61, 0x0a, 0xe2, 0x82])), refused(/line 2 holds bytes/));
  });

  it('reports quotes with line and column', async () => {
    await assert.rejects(
      rows('a,b\n1,"open\n2,3\n'),
      refused(/^rows\.csv:2:1: a quote is opened here and never closed/),
    );
    await assert.rejects(rows('\na,b\r1,2\r'), refused(/^rows\.csv:2:4: the lines end with CR alone/));
    await assert.rejects(rows('a,b\n1,x"y"\n'), refused(/^rows\.csv:2:4: a quote stands inside a cell/));
    await assert.rejects(
      rows('a,b\n1,"x"y\n'),
      refused(/^rows\.csv:2:6: something follows the closing quote/),
    );
  });

  it('bounds the length of lines and of rows with an open quote', async () => {
    await assert.rejects(
      rows(`a\n${'x'.repeat(MAX_ROW_BYTES + 1)}`),
      refused(/^rows\.csv:2:1: the line is longer/),
    );
    const open = `a\n"${'x\n'.repeat(MAX_ROW_BYTES / 2)}`;
    await assert.rejects(rows(open), refused(/^rows\.csv:2:1: .*is a quote not closed$/));
  });

  it('passes on why a file cannot be read', async () => {
    const broken = (async function* () {
      await Promise.resolve();
      yield Buffer.from('a,b\n');
      throw Object.assign(new Error('EISDIR: illegal operation'), { code: 'EISDIR' });
    })();
    await assert.rejects(collect(readCsv(broken, 'rows.csv')), (error: unknown) => {
      assert(error instanceof IotdmError);
      assert.equal(error.code, 'input.unreadable');
      assert.equal(error.message, 'rows.csv cannot be read: it is a directory');
      return true;
    });
  });

  it('throws nothing but IotdmError, whatever the bytes', async () => {
    const soup = fc
      .array(fc.constantFrom('"', ',', '\n', '\r', ' ', 'a', 'ü', '\ufeff', '""', ',"'))
      .map((a) => a.join(''));
    const input = fc.oneof(
      soup,
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    );
    await fc.assert(
      fc.asyncProperty(input, fc.integer({ min: 1, max: 9 }), async (data, size) => {
        await rows(data, size).catch((error: unknown) => {
          assert(error instanceof IotdmError, String(error));
        });
      }),
      { numRuns: 1000 },
    );
  });
});

describe('csvLine', () => {
  it('leaves plain fields alone and changes no value', () => {
    assert.equal(csvLine(['a-1', '=1+1', ' x ', 'say "hi"', '']), 'a-1,"=1+1"," x ","say ""hi""",\n');
  });

  it('makes text of what a spreadsheet would calculate, in reports', () => {
    assert.equal(csvReportLine(['=HYPERLINK("x")', '-1', 'a=b']), `"'=HYPERLINK(""x"")","'-1",a=b\n`);
  });

  it('reads back as the same cells', async () => {
    const text = fc.string({ unit: 'binary' }).map((value) => value.replaceAll(/[\0\p{Cs}]/gu, ''));
    const table = fc.array(fc.array(text, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(table, fc.integer({ min: 1, max: 50 }), async (cells, size) => {
        const read = await collect(readCsv(chunked(cells.map(csvLine).join(''), size), 'rows.csv'));
        assert.deepEqual(
          read.map((row) => row.cells),
          cells,
        );
      }),
      { numRuns: 500 },
    );
  });
});
