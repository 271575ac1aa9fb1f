import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { withFileLock } from '../../src/records/file-lock.ts';
import { appendRecord, lineHash, manifestLine, parseManifestLine } from '../../src/records/manifest.ts';
import { identity } from './identities.ts';

let directory: string;
let file: string;
let count = 0;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'iotdm-manifest-'));
});
after(async () => {
  await rm(directory, { recursive: true });
});
beforeEach(() => {
  count += 1;
  file = join(directory, `manifest-${count}.ndjson`);
});

function failure(code: ErrorCode, message: RegExp) {
  return (error: unknown) => {
    assert(error instanceof IotdmError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

/** The lines of the manifest, each checked to be a record that refers to the line before it. */
async function checkedLines(): Promise<string[]> {
  const text = await readFile(file, 'utf8');
  assert(text.endsWith('\n'));
  const lines = text.slice(0, -1).split('\n');
  let previous: string | null = null;
  for (const line of lines) {
    const record = parseManifestLine(line);
    assert(record, line);
    assert.equal(record.previous, previous);
    previous = lineHash(line);
  }
  return lines;
}

function station(...args: string[]): ChildProcess {
  const program = fileURLToPath(new URL('manifest-writer.ts', import.meta.url));
  return spawn(process.execPath, ['--import', 'tsx', program, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

describe('appendRecord', () => {
  it('writes the keys in their order, chained, in a file that is the owner’s', async () => {
    const first = await appendRecord(file, { ...identity('A'), tags: { b: '1', a: '2' } });
    const second = await appendRecord(file, identity('B'));
    assert.deepEqual([first.line, first.repeated, first.repaired], [1, false, false]);
    assert.equal(second.line, 2);
    const lines = await checkedLines();
    assert.equal(lines.length, 2);
    assert.equal(lines[1], manifestLine(second.record));
    assert.deepEqual(Object.keys(JSON.parse(lines[0] ?? '') as object), [
      ...[
        'schema',
        'registrationId',
        'endorsementKey',
        'ekName',
        'ekCertificate',
        'ekVerdict',
        'tpm',
        'serialNumber',
      ],
      ...['deviceId', 'station', 'operator', 'lot', 'tags', 'harvestedAt', 'tool', 'tpmCommands', 'previous'],
    ]);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.deepEqual(
      (await readdir(directory)).filter((name) => name.includes('.lock')),
      [],
    );
  });

  it('writes nothing for the same EK and serial number', async () => {
    await appendRecord(file, identity('A'));
    await appendRecord(file, identity(null, 'ek without serial'));
    const text = await readFile(file, 'utf8');
    const again = await appendRecord(file, { ...identity('A'), harvestedAt: '2030-01-01T00:00:00.000Z' });
    assert.deepEqual(
      [again.repeated, again.line, again.record.harvestedAt],
      [true, 1, '2024-05-01T06:00:00.000Z'],
    );
    assert.equal((await appendRecord(file, identity(null, 'ek without serial'))).repeated, true);
    assert.equal(await readFile(file, 'utf8'), text);
  });

  it('refuses one EK under two serial numbers and one serial number on two EKs, naming the earlier line', async () => {
    await appendRecord(file, identity('A'));
    await appendRecord(file, identity('B "ü"'));
    const text = await readFile(file, 'utf8');
    const conflict = (message: RegExp) => failure('verify.identity-conflict', message);
    await assert.rejects(
      appendRecord(file, identity('C', 'ek of A')),
      conflict(/^this TPM is already recorded with the serial number "A" \(.*:1\)$/),
    );
    await assert.rejects(
      appendRecord(file, identity(null, 'ek of A')),
      conflict(/the serial number "A" \(.*:1\)$/),
    );
    await assert.rejects(
      appendRecord(file, identity('B "ü"', 'another ek')),
      conflict(/^the serial number "B \\"ü\\"" is already recorded with another TPM \(.*:2\)$/),
    );
    assert.equal(await readFile(file, 'utf8'), text);
  });

  it('does not take a tag or a device id for the serial number', async () => {
    await appendRecord(file, { ...identity('A'), deviceId: 'B', tags: { old: 'C' } });
    assert.equal((await appendRecord(file, identity('B'))).line, 2);
    assert.equal((await appendRecord(file, identity('C'))).line, 3);
    await checkedLines();
  });

  it('drops a last line that a power loss has cut short', async () => {
    await appendRecord(file, identity('A'));
    const whole = await readFile(file);
    await appendRecord(file, identity('B'));
    const both = await readFile(file);
    const tails = [whole.length + 1, whole.length + 20, both.length - 3].map((end) => both.subarray(0, end));
    for (const torn of [...tails, Buffer.concat([whole, Buffer.alloc(100)])]) {
      await writeFile(file, torn);
      const appended = await appendRecord(file, identity('C'));
      assert.deepEqual([appended.line, appended.repaired], [2, true]);
      assert.equal((await checkedLines()).length, 2);
    }
  });

  it('keeps a last record of which only the line feed is missing', async () => {
    await appendRecord(file, identity('A'));
    await writeFile(file, (await readFile(file, 'utf8')).trimEnd());
    assert.equal((await appendRecord(file, identity('A'))).repeated, true);
    const appended = await appendRecord(file, identity('B'));
    assert.deepEqual([appended.line, appended.repaired], [2, true]);
    assert.equal((await checkedLines()).length, 2);
  });

  it('leaves a file alone that is not a manifest', async () => {
    await appendRecord(file, identity('A'));
    const record = await readFile(file, 'utf8');
    const cases: [text: string, line: number][] = [
      ['registrationId,endorsementKey\n', 1],
      ['half a letter', 1],
      [`${record}\n${record}`, 2],
      [`${record}{"schema":1,"registrationId":"x"\n`, 2],
      [`${record}{"schema":2}\n`, 2],
    ];
    for (const [text, line] of cases) {
      await writeFile(file, text);
      await assert.rejects(
        appendRecord(file, identity('B')),
        failure('verify.manifest', new RegExp(`:${line}: this line`)),
      );
      assert.equal(await readFile(file, 'utf8'), text);
    }
  });

  it('reads records that another program has spaced differently', async () => {
    const line = manifestLine({ schema: 1, ...identity('A'), previous: null });
    await writeFile(file, `${JSON.stringify(JSON.parse(line), undefined, 1).replaceAll('\n', ' ')}\n`);
    assert.equal((await appendRecord(file, identity('A'))).repeated, true);
  });

  it('finds an earlier record across the windows in which it reads', async () => {
    const pad = { pad: 'x'.repeat(300_000) };
    const serials = Array.from({ length: 30 }, (_, index) => `S${index}`);
    let previous: string | null = null;
    let text = '';
    for (const serial of serials) {
      const line: string = manifestLine({ schema: 1, ...identity(serial), tags: pad, previous });
      previous = lineHash(line);
      text += `${line}\n`;
    }
    await writeFile(file, text);
    for (const [index, serial] of serials.entries()) {
      const again = await appendRecord(file, identity(serial));
      assert.deepEqual([again.repeated, again.line], [true, index + 1]);
    }
    assert.equal((await appendRecord(file, identity('new'))).line, 31);
    await checkedLines();
  });

  it('takes any text in a record', async () => {
    const text = fc.string({ unit: 'binary' });
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(text, { minLength: 1, maxLength: 4 }),
        fc.dictionary(text, text, { noNullPrototype: true }),
        async (serials, tags) => {
          await rm(file, { force: true });
          for (const serial of serials) {
            const { record } = await appendRecord(file, { ...identity(serial), tags });
            assert.deepEqual(parseManifestLine(manifestLine(record)), record);
          }
          assert.equal((await checkedLines()).length, serials.length);
          for (const serial of serials)
            assert.equal((await appendRecord(file, identity(serial))).repeated, true);
        },
      ),
      { numRuns: 20 },
    );
  });

  it('says when it cannot write', async () => {
    await mkdir(file);
    await assert.rejects(appendRecord(file, identity('A')), failure('usage.output-unwritable', /EISDIR/));
  });

  it('is one file for all who append at once', async () => {
    const stations = ['a', 'b', 'c', 'd'].map((name) => station('append', file, name, '50'));
    const codes = await Promise.all(
      stations.map(async (child) => ((await once(child, 'exit')) as [number])[0]),
    );
    assert.deepEqual(codes, [0, 0, 0, 0]);
    const serials = (await checkedLines()).map((line) => parseManifestLine(line)?.serialNumber);
    assert.equal(new Set(serials).size, 200);
    for (const name of ['a', 'b', 'c', 'd']) {
      assert.deepEqual(
        serials.filter((serial) => serial?.startsWith(name)),
        Array.from({ length: 50 }, (_, index) => `${name}-${index}`),
      );
    }
  });

  it('loses nothing that was reported when a station is killed', async () => {
    const victim = station('append', file, 'victim', '1000000');
    const others = ['b', 'c'].map((name) => station('append', file, name, '20'));
    assert(victim.stdout);
    let reported = 0;
    for await (const line of createInterface(victim.stdout)) {
      reported = Number(line);
      if (reported >= 15 && !victim.killed) victim.kill('SIGKILL');
    }
    const codes = await Promise.all(
      others.map(async (child) => child.exitCode ?? ((await once(child, 'exit')) as [number])[0]),
    );
    assert.deepEqual(codes, [0, 0]);
    await appendRecord(file, identity('after'));
    const lines = await checkedLines();
    assert(lines.length >= reported);
    const serials = lines.map((line) => parseManifestLine(line)?.serialNumber);
    for (const name of ['b', 'c'])
      assert.equal(serials.filter((serial) => serial?.startsWith(name)).length, 20);
  });
});

describe('withFileLock', () => {
  it('waits no longer than it is told and says who is in the way', async () => {
    await writeFile(file, '');
    await withFileLock(file, async () => {
      const alias = `${file}.alias`;
      await symlink(file, alias);
      await assert.rejects(
        withFileLock(alias, () => Promise.resolve(), { waitMs: 50 }),
        failure(
          'input.locked',
          /^.*\.ndjson has been held by another process for \d+ seconds? \(.*\.ndjson\.lock\)$/,
        ),
      );
    });
    assert.equal(await withFileLock(file, () => Promise.resolve('free again')), 'free again');
  });

  it('gives the file back when the task fails', async () => {
    await writeFile(file, '');
    await assert.rejects(
      withFileLock(file, () => Promise.reject(new Error('no'))),
      /^Error: no$/,
    );
    await withFileLock(file, () => Promise.resolve(), { waitMs: 0 });
  });

  it('takes over from a holder that was killed, one waiter at a time', async () => {
    await writeFile(file, '');
    const holder = station('hold', file);
    assert(holder.stdout);
    await once(holder.stdout, 'data');
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    let inside = 0;
    const waiters = Array.from({ length: 8 }, () =>
      withFileLock(
        file,
        async () => {
          inside += 1;
          assert.equal(inside, 1);
          await new Promise((resolve) => setImmediate(resolve));
          inside -= 1;
        },
        { staleMs: 1500 },
      ),
    );
    await Promise.all(waiters);
    assert.deepEqual(
      (await readdir(directory)).filter((name) => name.includes('.lock')),
      [],
    );
  });
});
