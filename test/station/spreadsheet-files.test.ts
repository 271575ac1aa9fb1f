import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  checkEnrollmentInput,
  describeFault,
  readCheckedRows,
  type InputCheck,
  type InputOptions,
  type InputSource,
} from '../../src/station/enrollment-input.ts';
import { readTargets } from '../../src/station/harvest-targets.ts';
import { textColumnProblem } from '../../src/station/text-columns.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';

const key = (number: number): string => syntheticEndorsementKey(number);

function file(content: string | Buffer, name = 'rows.csv'): InputSource {
  return { name, open: () => chunked(content, 700) };
}

function check(content: string | Buffer, options?: InputOptions): Promise<InputCheck> {
  return checkEnrollmentInput([file(content)], options);
}

async function faultsOf(content: string | Buffer, options?: InputOptions): Promise<string[]> {
  return (await check(content, options)).faults.map((fault) =>
    describeFault(fault).slice('rows.csv:'.length),
  );
}

/** The initial twin's tags of each row. */
async function tagsOf(content: string, options?: InputOptions): Promise<unknown[]> {
  const rows = await collect(readCheckedRows([file(content)], options));
  return rows.map(({ enrollment }) => enrollment.initialTwin?.tags);
}

describe('enrollments that a spreadsheet has changed', () => {
  const damaged =
    'endorsementKey,registrationId,deviceId,serialNumber,tags.x,desired.y\n' +
    `${key(1)},,3.57E+14,"1,23457E+11",,\n` +
    `${key(2)},Mar-17,########,#REF!,,\n` +
    `${key(3)},3.57E+14,d-3,3/17/2026,#VALUE!,#N/A\n` +
    `#NAME?,,d-4,SN-4,3.57E+14,Mar-17\n`;

  it('are refused where they stand, with what has happened', async () => {
    assert.deepEqual(await faultsOf(damaged), [
      '2:427: deviceId: 3.57E+14 is a number that a spreadsheet has shortened, and its digits are gone',
      '2:436: serialNumber: 1,23457E+11 is a number that a spreadsheet has shortened, and its digits are gone',
      '3:426: registrationId: Mar-17 is a date that a spreadsheet has made of something else',
      '3:433: deviceId: ######## is what a spreadsheet shows in place of a value where the column is too narrow',
      "3:442: serialNumber: #REF! is a spreadsheet's error, not a value",
      '4:426: registrationId: 3.57E+14 is a number that a spreadsheet has shortened, and its digits are gone',
      '4:439: serialNumber: 3/17/2026 is a date that a spreadsheet has made of something else',
      "4:449: tags.x: #VALUE! is a spreadsheet's error, not a value",
      "4:457: desired.y: #N/A is a spreadsheet's error, not a value",
      "5:1: endorsementKey: #NAME? is a spreadsheet's error, not a value",
    ]);
    const { faults } = await check(damaged);
    assert.deepEqual(
      faults.map(({ damage }) => damage),
      ['number', 'number', 'date', 'narrow', 'error', 'number', 'date', 'error', 'error', 'error'],
    );
  });

  it('are read where they are meant, as far as the service takes them', async () => {
    const options = { asText: true };
    assert.deepEqual(await faultsOf(damaged, options), [
      '4:426: registrationId: a registration id is 1 to 128 lower-case letters, digits and - . _ : and begins and ends with a letter or digit',
      "5:1: endorsementKey: #NAME? is a spreadsheet's error, not a value",
    ]);
    const sound = damaged.split('\n').slice(0, 3).join('\n');
    const [first, second] = await collect(readCheckedRows([file(sound)], options));
    assert.equal(first?.enrollment.deviceId, '3.57E+14');
    assert.equal(first.serialNumber, '1,23457E+11');
    assert.deepEqual(
      [second?.enrollment.registrationId, second?.enrollment.deviceId, second?.serialNumber],
      ['mar-17', '########', '#REF!'],
    );
  });

  it('are found by the zeros of all long numbers, over the whole file', async () => {
    const rows = (last: string) =>
      `endorsementKey,serialNumber\n${key(1)},8944500123456780000\n${key(2)},SN-2\n${key(3)},${last}\n`;
    const fault = (await check(rows('8944500123456790000'))).faults[0];
    assert.equal(
      fault && describeFault(fault),
      'rows.csv:2:426: serialNumber: 8944500123456780000 and all 2 numbers of more than 15 digits in this column end in zeros: ' +
        'a spreadsheet keeps 15 digits of a number',
    );
    assert.equal((await check(rows('8944500123456790000'))).faultCount, 1);
    assert.equal(fault?.damage, 'number');
    assert.deepEqual(await faultsOf(rows('8944500123456790001')), []);
    assert.deepEqual(await faultsOf(rows('8944500123456790000'), { asText: true }), []);
  });

  it('are looked for in CSV only: what programs write as text is text', async () => {
    const row = { endorsementKey: key(1), deviceId: 'Mar-17', serialNumber: '3.57E+14', 'tags.x': '#REF!' };
    const { faultCount } = await checkEnrollmentInput([file(`${JSON.stringify(row)}\n`, 'rows.ndjson')]);
    assert.equal(faultCount, 0);
  });
});

describe('columns beside a table', () => {
  it('that are empty are read, whether the header or the rows have them', async () => {
    for (const text of [
      `endorsementKey,deviceId,,\n${key(1)},a-1,,\n${key(2)},a-2\n`,
      `endorsementKey,deviceId\n${key(1)},a-1,,\n${key(2)},a-2, ,\n`,
      `,endorsementKey,,deviceId\n,${key(1)},,a-1\n,${key(2)},,a-2\n`,
      `endorsementKey,deviceId,,\n${key(1)},a-1,,\ndeviceId,endorsementKey,,\na-2,${key(2)},,\n`,
    ]) {
      const rows = await collect(readCheckedRows([file(text)]));
      assert.deepEqual(
        rows.map(({ enrollment }) => enrollment.deviceId),
        ['a-1', 'a-2'],
        text,
      );
    }
  });

  it('with a value that has no name are refused at that value', async () => {
    assert.deepEqual(await faultsOf(`endorsementKey,deviceId,,\n${key(1)},a-1,,oops\n${key(2)},a-2,,\n`), [
      '2:431: a value stands in column 4, which has no name',
    ]);
    assert.deepEqual(await faultsOf(`endorsementKey,,deviceId\n${key(1)},x,a-1\n`), [
      '2:426: a value stands in column 2, which has no name',
    ]);
    assert.deepEqual(await faultsOf(`endorsementKey,deviceId\n${key(1)},a-1,,oops\n`), [
      '2:430: the row has 4 cells, the header has 2',
    ]);
    assert.deepEqual(await faultsOf(`endorsementKey,deviceId,tags.x,,\n${key(1)},a-1\n`), [
      '2:429: the row has 2 cells, the header has 5',
    ]);
    assert.deepEqual(
      await faultsOf(`endorsementKey,deviceId,,\n${key(1)},a-1,,oops\n`, { ignoreUnknownColumns: true }),
      [],
    );
  });
});

describe('a quote inside a cell', () => {
  it('is a fault of its row, and the others are read', async () => {
    const text = `endorsementKey,deviceId,tags.note\n${key(1)},a-1,5" panel\n${key(2)},a 2,\n${key(3)},a-3,"7"" panel"\n`;
    assert.deepEqual(await faultsOf(text), [
      '2:431: tags.note: a quote stands inside a cell that does not begin with one: 5" is written "5"""',
      "3:426: deviceId: a device id is 1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
    ]);
    assert.equal((await check(text)).rows, 3);
    assert.deepEqual(await faultsOf(`endorsementKey,dev"iceId\n${key(1)},a-1\n`), [
      '1:19: a quote stands inside a cell that does not begin with one: 5" is written "5"""',
    ]);
  });
});

describe('a column with numbers and texts', () => {
  const versions = `endorsementKey,tags.version,tags.site\n${key(1)},1.9,Linz\n${key(2)},1.10,Graz\n`;

  it('is noticed, over several files, and can be read as texts', async () => {
    assert.deepEqual((await check(versions)).notices, [
      {
        kind: 'mixed',
        column: 'tags.version',
        number: { cell: '1.9', file: 'rows.csv', line: 2 },
        text: { cell: '1.10', file: 'rows.csv', line: 3 },
      },
    ]);
    const apart = await checkEnrollmentInput([
      file(`endorsementKey,desired.a\n${key(1)},5\n`, 'one.csv'),
      file(`desired.a,endorsementKey\nfive,${key(2)}\n`, 'two.csv'),
    ]);
    assert.deepEqual(
      apart.notices.map((notice) =>
        notice.kind === 'mixed' ? [notice.number.file, notice.text.file] : notice,
      ),
      [['one.csv', 'two.csv']],
    );
    assert.deepEqual(await tagsOf(versions), [
      { version: 1.9, site: 'Linz' },
      { version: '1.10', site: 'Graz' },
    ]);
    for (const textColumns of [['tags.version'], ['tags.*'], ['x', 'TAGS.version']]) {
      const found = await check(versions, { textColumns });
      assert.deepEqual(
        found.notices.map(({ kind, column }) => `${kind} ${column}`),
        textColumns.includes('x') ? ['absent x'] : [],
      );
      assert.deepEqual((await tagsOf(versions, { textColumns }))[0], { version: '1.9', site: 'Linz' });
    }
  });

  it('is one that has no other values: all numbers or all texts are said nothing of', async () => {
    const text = `endorsementKey,tags.a,tags.b,tags.c,tags.d\n${key(1)},1,1.10,true,\n${key(2)},2,x,false,3\n`;
    assert.deepEqual((await check(text)).notices, []);
  });

  it('as texts takes every cell as it stands', async () => {
    const cells = ['5', 'true', 'null', '{"a":1}', '"""5"""'];
    const text = `endorsementKey,tags.line.no\n${cells.map((cell, index) => `${key(index)},${/["{]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell}`).join('\n')}\n`;
    assert.deepEqual(
      (await tagsOf(text, { textColumns: ['tags.line.*'] })).map(
        (tags) => (tags as { line: { no: string } }).line.no,
      ),
      cells,
    );
  });

  it('is another input for a journal, for its rows are others', async () => {
    const digest = async (options?: InputOptions, encoding?: string) => {
      const source = { ...file(versions), ...(encoding === undefined ? {} : { encoding }) };
      return (await checkEnrollmentInput([source], options)).seal.digest;
    };
    const usual = await digest();
    assert.equal(await digest({ asText: true, ignoreUnknownColumns: true }), usual);
    const others = [
      await digest({ textColumns: ['tags.version'] }),
      await digest({ textColumns: ['tags.*'] }),
      await digest({}, 'windows-1252'),
    ];
    assert.equal(new Set([usual, ...others]).size, 4);
  });

  it('warns of numbers without their digits in twins, which may be meant there', async () => {
    const { notices, faultCount } = await check(
      `endorsementKey,tags.imei,desired.gain\n${key(1)},3.57E+14,1.5\n${key(2)},3.58E+14,2.5\n`,
    );
    assert.equal(faultCount, 0);
    assert.deepEqual(notices, [
      { kind: 'shortened', column: 'tags.imei', seen: { cell: '3.57E+14', file: 'rows.csv', line: 2 } },
    ]);
  });

  it('is named by what it is called', () => {
    for (const name of ['tags.a', 'tags.a.b', 'desired.*', 'tags.a.*', 'Tags.A'])
      assert.equal(textColumnProblem(name), undefined, name);
    for (const name of ['', 'deviceId', 'tags', 'tags.', '*', 'tag.a', 'tags.$x'])
      assert.notEqual(textColumnProblem(name), undefined, name);
  });
});

describe('a file of targets that a spreadsheet has changed', () => {
  const rack =
    'tpm,serialNumber,deviceId,lot,tags.x,,\n' +
    'swtpm:port=1,3.57E+14,Mar-17,Mar-17,1.10,,\n' +
    'swtpm:port=2,########,press-2,#REF!,#VALUE!,,\n' +
    'swtpm:port=3,SN-3,press-3,,,,oops\n' +
    'swtpm:port=4,SN-4,press-4,5" W48,,,\n' +
    'swtpm:port=5,8944500123456780000,press-5,,\n';
  const read = (content: string | Buffer, asText?: boolean, encoding?: string) =>
    readTargets(
      { ...file(content, 'rack.csv'), ...(encoding === undefined ? {} : { encoding }) },
      { station: null, operator: null, lot: null, tags: {} },
      asText === undefined ? {} : { asText },
    );

  it('is refused where it stands', async () => {
    const { faults } = await read(rack);
    assert.deepEqual(faults.map(describeFault), [
      'rack.csv:2:14: serialNumber: 3.57E+14 is a number that a spreadsheet has shortened, and its digits are gone',
      'rack.csv:2:23: deviceId: Mar-17 is a date that a spreadsheet has made of something else',
      'rack.csv:3:14: serialNumber: ######## is what a spreadsheet shows in place of a value where the column is too narrow',
      "rack.csv:3:31: lot: #REF! is a spreadsheet's error, not a value",
      "rack.csv:3:37: tags.x: #VALUE! is a spreadsheet's error, not a value",
      'rack.csv:4:30: a value stands in column 7, which has no name',
      'rack.csv:5:28: lot: a quote stands inside a cell that does not begin with one: 5" is written "5"""',
      'rack.csv:6:14: serialNumber: 8944500123456780000 ends in zeros: a spreadsheet keeps 15 digits of a number',
    ]);
    assert.equal(faults[0]?.damage, 'number');
  });

  it('is read where it is meant', async () => {
    const { targets, faults } = await read(rack.replace('oops', '').replace('5" W48', ''), true);
    assert.deepEqual(faults, []);
    assert.deepEqual(
      targets.map(({ labels: { serialNumber, deviceId, tags } }) => [serialNumber, deviceId, tags]),
      [
        ['3.57E+14', 'Mar-17', { x: '1.10' }],
        ['########', 'press-2', { x: '#VALUE!' }],
        ['SN-3', 'press-3', {}],
        ['SN-4', 'press-4', {}],
        ['8944500123456780000', 'press-5', {}],
      ],
    );
  });

  it('is read in the encoding that is named', async () => {
    const content = Buffer.from('tpm;serialNumber;operator\r\nswtpm:port=1;SN-1;J\xfcrgen\r\n', 'latin1');
    await assert.rejects(read(content), { code: 'input.invalid' });
    const { targets } = await read(content, false, 'windows-1252');
    assert.equal(targets[0]?.labels.operator, 'Jürgen');
  });
});
