import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parse } from 'csv-parse/sync';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { csvLine, csvReportLine, readCsv } from '../../src/records/csv.ts';
import { encodingOfLabel, MAX_ROW_BYTES } from '../../src/records/text-source.ts';
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

  const inWindows1252 = Buffer.from('id;site\r\n1;M\xfcnchen \x80 5\x92s\r\n', 'latin1');

  it('names the byte that is not UTF-8, at every chunk size', async () => {
    const file = Buffer.concat([Buffer.from('id,site\n1,Zürich\n2,ä🙂M'), inWindows1252.subarray(12)]);
    for (const size of [1, 2, 3, 7, 100]) {
      await assert.rejects(
        rows(file, size),
        refused(
          /^rows\.csv:3:6: this is not a CSV file in UTF-8: the byte 0xfc stands here, which is "ü" in the Windows code page 1252$/,
        ),
      );
    }
    const cutOff = Buffer.from([0x61, 0x0a, 0xe2, 0x82]);
    await assert.rejects(rows(cutOff), refused(/^rows\.csv:2:1: .* the byte 0xe2 stands here/));
    await assert.rejects(rows(Buffer.from([0x61, 0x81])), refused(/the byte 0x81 stands here$/));
  });

  it('reads a file in the encoding that is named, at every chunk size', async () => {
    const read = async (data: Buffer, label: string, size: number) => {
      const encoding = encodingOfLabel(label);
      assert(encoding !== undefined, label);
      const all = await collect(readCsv(chunked(data, size), 'rows.csv', { encoding }));
      return all.map(({ cells }) => cells);
    };
    const expected = [
      ['id', 'site'],
      ['1', 'München € 5’s'],
    ];
    const text = 'id;site\r\n1;München € 5’s\r\n';
    for (const size of [1, 2, 3, 7, 100]) {
      for (const label of ['windows-1252', 'CP1252', 'latin1', 'iso-8859-1'])
        assert.deepEqual(await read(inWindows1252, label, size), expected, label);
      assert.deepEqual(await read(Buffer.from(text, 'utf16le'), 'utf-16le', size), expected);
      assert.deepEqual(await read(Buffer.from(text), 'utf8', size), expected);
      // A mark says what the file is, whatever somebody believes.
      assert.deepEqual(await read(Buffer.from(`\ufeff${text}`), 'windows-1252', size), expected);
      assert.deepEqual(await read(Buffer.from(`\ufeff${text}`, 'utf16le'), 'windows-1252', size), expected);
    }
    assert.equal(encodingOfLabel('klingon'), undefined);
    await assert.rejects(
      read(Buffer.from('a\nb\n\xff\xff\n', 'latin1'), 'gb18030', 2),
      refused(/^rows\.csv is not a CSV file: it was to be read as gb18030, and at line 3 or soon after/),
    );
    await assert.rejects(
      read(Buffer.from('504b0304140006000800', 'hex'), 'windows-1252', 100),
      refused(/it looks like a ZIP archive or an Excel workbook/),
    );
  });

  /** Where the quotes of a file cannot be read, and the rows that are read all the same. */
  async function quotesOf(text: string, chunk?: number): Promise<[problems: string[], rows: string[]]> {
    const all = await collect(readCsv(chunked(text, chunk), 'rows.csv'));
    const problems = all.flatMap(({ problem }) =>
      problem === undefined
        ? []
        : [`${problem.line}:${problem.column} cell ${problem.cell}: ${problem.message}`],
    );
    const sound = all.filter(({ problem }) => problem === undefined);
    return [problems, sound.map(({ line, cells }) => `${line} ${cells.join('|')}`)];
  }

  it('reports a quote where it stands, and reads on in the next line', async () => {
    const stray = 'cell 1: a quote stands inside a cell that does not begin with one: 5" is written "5"""';
    for (const chunk of [1, 5, 1000]) {
      assert.deepEqual(await quotesOf('a,b\n1,5" panel\n2,x"y"\n3,"7"" panel"\n4,c"\n5,d\n', chunk), [
        [`2:4 ${stray}`, `3:4 ${stray}`, `5:4 ${stray}`],
        ['1 a|b', '4 3|7" panel', '6 5|d'],
      ]);
      assert.deepEqual(await quotesOf('a,b\n1,"x"y\n2,"x\ny"z,"\n3,d\n', chunk), [
        [
          '2:6 cell 1: something follows the closing quote of a cell: a quote in a cell in quotes is written twice',
          '4:3 cell 1: something follows the closing quote of the cell that begins in line 3: a quote in a cell in quotes is written twice',
        ],
        ['1 a|b', '5 3|d'],
      ]);
      assert.deepEqual(await quotesOf('a,b\n0,"x\ny"\n1, "open\n2,3\n', chunk), [
        ['4:4 cell 1: a quote is opened here and never closed'],
        ['1 a|b', '2 0|x\ny'],
      ]);
    }
    assert.deepEqual(await quotesOf('a,5" b\n1,2\n'), [[`1:4 ${stray}`], []]);
    await assert.rejects(rows('\na,b\r1,2\r'), refused(/^rows\.csv:2:4: the lines end with CR alone/));
  });

  it('refuses the quotes that csv-parse refuses, and no others', async () => {
    const soup = fc
      .array(fc.constantFrom('"', '""', ',', '\n', ' ', 'a', ',"', '",'), { maxLength: 12 })
      .map((tokens) => `x,y\n${tokens.join('')}\n`);
    const isRow = (cells: readonly string[]) => cells.length > 1 || cells[0] !== '';
    await fc.assert(
      fc.asyncProperty(soup, fc.integer({ min: 1, max: 9 }), async (text, size) => {
        const read = await collect(readCsv(chunked(text, size), 'rows.csv'));
        const isSound = read.every(({ problem }) => problem === undefined);
        let parsed: string[][] | undefined;
        try {
          parsed = parse(text, { record_delimiter: ['\r\n', '\n'], relax_column_count: true, trim: true });
        } catch {
          parsed = undefined;
        }
        assert.equal(isSound, parsed !== undefined);
        if (parsed === undefined) return;
        assert.deepEqual(read.map(({ cells }) => cells).filter(isRow), parsed.filter(isRow));
      }),
      { numRuns: 2000 },
    );
  });

  it('bounds the length of lines and of rows with an open quote', async () => {
    await assert.rejects(
      rows(`a\n${'x'.repeat(MAX_ROW_BYTES + 1)}`),
      refused(/^rows\.csv:2:1: the line is longer/),
    );
    const open = `a\n"${'x\n'.repeat(MAX_ROW_BYTES / 2)}`;
    await assert.rejects(rows(open), refused(/^rows\.csv:2:1: .*is a quote not closed$/));
    const second = `a,b\n1,"${'x\n'.repeat(MAX_ROW_BYTES / 2)}`;
    await assert.rejects(rows(second), refused(/^rows\.csv:2:3: .*is a quote not closed$/));
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
