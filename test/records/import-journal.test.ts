import assert from 'node:assert/strict';
import {
  appendFileSync,
  chmodSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import {
  ImportJournal,
  rowOperations,
  rowOutcomes,
  type ImportIdentity,
  type RowFailure,
} from '../../src/records/import-journal.ts';
import { formatRanges, readRanges } from '../../src/records/row-ranges.ts';

const identity: ImportIdentity = { input: 'ab'.repeat(32), rows: 100, mode: 'upsert', host: 'dps.example' };
const failure: RowFailure = {
  row: 7,
  line: 9,
  registrationId: 'device-0007',
  code: 'service.invalid',
  message: 'the service refused it (400004): "no", it says \u00fc',
  errorCode: 400004,
};

let dir: string;
let path: string;
let number = 0;

before(() => {
  dir = mkdtempSync(join(tmpdir(), 'iotdm-journal-'));
});
beforeEach(() => {
  number += 1;
  path = join(dir, `${number}.journal`);
});
after(() => {
  rmSync(dir, { recursive: true });
});

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    return `${error.code} ${error.message.replaceAll(path, 'FILE')}`;
  }
  return assert.fail('did not fail');
}

async function filled(): Promise<void> {
  const journal = await ImportJournal.open(path, identity);
  await journal.sent('create', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  for (const row of [0, 1, 2, 3, 4]) journal.settled(row, 'created');
  journal.settled(5, 'unchanged');
  journal.failed(failure);
  await journal.sent('update', [6]);
  await journal.close();
}

describe('a journal', () => {
  it('tells after a restart what it was told before', async () => {
    await filled();
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const journal = await ImportJournal.open(path, identity);
    assert.deepEqual(
      Array.from({ length: 12 }, (_, row) => journal.state(row)),
      [
        ...Array.from({ length: 5 }, () => 'created'),
        'unchanged',
        'update',
        'failed',
        'create',
        'create',
        'open',
        'open',
      ],
    );
    assert.deepEqual([journal.done, journal.count('failed'), journal.count('open')], [6, 1, 90]);
    assert.deepEqual(await journal.failure(7), failure);
    assert.equal(await journal.failure(8), undefined);
    await journal.close();
  });

  it('is kept for its owner alone, whoever made the file', async () => {
    writeFileSync(path, '');
    chmodSync(path, 0o644);
    await (await ImportJournal.open(path, identity)).close();
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it('loses no more than a torn last line, wherever it is torn', async () => {
    await filled();
    const whole = readFileSync(path);
    const header = whole.indexOf(0x0a) + 1;
    for (let length = 0; length < whole.length; length += 1) {
      writeFileSync(path, whole.subarray(0, length));
      const journal = await ImportJournal.open(path, identity);
      const lines = whole.subarray(0, length).toString().split('\n').length - 1;
      assert.equal(journal.done > 0, lines >= 4, `${length} bytes`);
      journal.settled(99, 'created');
      await journal.close();
      const again = await ImportJournal.open(path, identity);
      assert.equal(again.state(99), 'created', `${length} bytes`);
      await again.close();
      if (length < header) continue;
      assert.ok(readFileSync(path).subarray(0, header).equals(whole.subarray(0, header)));
    }
  });

  it('takes the zeros that a power loss leaves for torn', async () => {
    await filled();
    const { size } = statSync(path);
    truncateSync(path, size + 100_000);
    const journal = await ImportJournal.open(path, identity);
    assert.equal(journal.done, 6);
    await journal.close();
    assert.equal(statSync(path).size, size);
  });

  it('keeps outcomes in order however they come (property)', async () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constantFrom(...rowOperations), row: fc.nat(99) }),
      fc.record({ kind: fc.constantFrom(...rowOutcomes), row: fc.nat(99) }),
      fc.record({ kind: fc.constant('failed' as const), row: fc.nat(99) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        rmSync(path, { force: true });
        const journal = await ImportJournal.open(path, identity);
        const open = new Set(Array.from({ length: 100 }, (_, row) => row));
        for (const { kind, row } of steps) {
          // A row has one outcome in a run, and is sent before it.
          if (!open.has(row)) continue;
          if (kind === 'create' || kind === 'update' || kind === 'delete') await journal.sent(kind, [row]);
          else {
            open.delete(row);
            if (kind === 'failed') journal.failed({ ...failure, row });
            else journal.settled(row, kind);
          }
        }
        const states = Array.from({ length: 100 }, (_, row) => journal.state(row));
        await journal.close();
        const again = await ImportJournal.open(path, identity);
        assert.deepEqual(
          Array.from({ length: 100 }, (_, row) => again.state(row)),
          states,
        );
        await again.close();
      }),
      { numRuns: 30 },
    );
  });

  it('has outcomes on disk before the next request but one', async () => {
    const journal = await ImportJournal.open(path, identity);
    const onDisk = () => readFileSync(path, 'utf8').includes('"created":"1"');
    journal.settled(1, 'created');
    await journal.beforeSending();
    journal.markSending();
    await journal.beforeSending();
    assert.ok(onDisk());
    await journal.close();
  });

  it('has it on disk that a row is sent before it is', async () => {
    const journal = await ImportJournal.open(path, identity);
    await journal.sent('create', [3, 4, 5, 50]);
    assert.match(readFileSync(path, 'utf8'), /\n\{"create":"3-5,50"\}\n$/);
    await journal.close();
  });

  it('is refused while another import uses it, and taken over from one that is gone', async () => {
    const journal = await ImportJournal.open(path, identity);
    assert.match(
      await codeOf(ImportJournal.open(path, identity)),
      /^input\.locked another import uses the journal FILE \(process \d+ on /,
    );
    await journal.close();
    writeFileSync(
      `${path}.lock`,
      readFileSync('/proc/sys/kernel/hostname', 'utf8')
        .trim()
        .replace(/.*/, (machine) => JSON.stringify({ pid: 2 ** 22 + 1, machine, started: null })),
    );
    await (await ImportJournal.open(path, identity)).close();
    writeFileSync(`${path}.lock`, JSON.stringify({ pid: 1, machine: 'another-station', started: null }));
    assert.match(await codeOf(ImportJournal.open(path, identity)), /\(process 1 on another-station\)$/);
  });

  it('is refused for another import, and only begun anew when told so', async () => {
    await filled();
    chmodSync(path, 0o640);
    const before = readFileSync(path);
    for (const [other, reason] of [
      [
        { ...identity, input: 'cd'.repeat(32) },
        'is the journal of another input: its content is not what it was',
      ],
      [{ ...identity, rows: 99 }, 'is the journal of another input: its content is not what it was'],
      [{ ...identity, mode: 'delete' }, 'is the journal of an import with the mode upsert, not delete'],
      [{ ...identity, host: 'other' }, 'is the journal of an import with the host dps.example, not other'],
    ] as const) {
      assert.equal(await codeOf(ImportJournal.open(path, other)), `input.journal FILE ${reason}`);
      assert.ok(readFileSync(path).equals(before));
      assert.equal(statSync(path).mode & 0o777, 0o640);
    }
    const journal = await ImportJournal.open(path, { ...identity, mode: 'delete' }, { restart: true });
    assert.equal(journal.done, 0);
    await journal.close();
    assert.match(await codeOf(ImportJournal.open(path, identity)), /mode delete, not upsert$/);
  });

  it('never destroys a file that is none, restarted or not', async () => {
    for (const content of [
      'registrationId,endorsementKey\na,b\n',
      'x',
      '{"iotdm',
      '\n',
      '{}\n{}\n',
      '\u0000\u0000x',
    ]) {
      for (const restart of [false, true]) {
        writeFileSync(path, content);
        chmodSync(path, 0o644);
        const opened = ImportJournal.open(path, identity, { restart });
        if (content === '{"iotdm') {
          await (await opened).close();
          continue;
        }
        assert.equal(await codeOf(opened), 'input.journal FILE is not a journal of an import', content);
        assert.equal(readFileSync(path, 'utf8'), content);
        assert.equal(statSync(path).mode & 0o777, 0o644);
      }
    }
  });

  it('is written to by nobody else: an import whose lock was not heeded ends', async () => {
    const journal = await ImportJournal.open(path, identity);
    await journal.sent('create', [0]);
    // As an import on another machine does, where somebody has removed the lock.
    appendFileSync(path, '{"created":"0"}\n');
    const refused = 'input.locked somebody else has written to the journal FILE meanwhile';
    assert.equal(await codeOf(journal.sent('create', [2])), refused);
    assert.equal(await codeOf(journal.flush()), refused);
    await journal.close();
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n').slice(1);
    assert.deepEqual(lines, ['{"create":"0"}', '{"created":"0"}']);
  });

  it('gives back no lock that has become another’s', async () => {
    const journal = await ImportJournal.open(path, identity);
    rmSync(`${path}.lock`);
    writeFileSync(`${path}.lock`, '{"pid":1,"machine":"another"}');
    await journal.close();
    assert.equal(readFileSync(`${path}.lock`, 'utf8'), '{"pid":1,"machine":"another"}');
  });

  it('is refused when it is damaged, with the line', async () => {
    await filled();
    const [header = '', ...lines] = readFileSync(path, 'utf8').trimEnd().split('\n');
    for (const damaged of [
      '{"created":"0-100"}',
      '{"created":"5-3"}',
      '{"gone":"1"}',
      'x',
      '{"created":7}',
      '""',
    ]) {
      writeFileSync(path, [header, lines[0], damaged, ...lines.slice(1), ''].join('\n'));
      assert.equal(
        await codeOf(ImportJournal.open(path, identity)),
        'input.journal FILE is damaged in line 3',
        damaged,
      );
    }
    writeFileSync(path, `${header}\n${'x'.repeat(100_000)}`);
    assert.equal(await codeOf(ImportJournal.open(path, identity)), 'input.journal FILE is damaged in line 2');
  });

  it('that cannot be written is said at once', async () => {
    for (const [file, reason] of [
      [join(dir, 'no', 'folder'), 'ENOENT'],
      [dir, 'EISDIR'],
    ] as const) {
      assert.equal(
        await codeOf(ImportJournal.open(file, identity)),
        `usage.output-unwritable the journal ${file} cannot be written (${reason})`,
      );
    }
    assert.match(await codeOf(ImportJournal.open('/dev/null', identity)), /is not a regular file$/);
  });

  it('costs little memory', async () => {
    const rows = 1_000_000;
    const journal = await ImportJournal.open(path, { ...identity, rows });
    const before = process.memoryUsage();
    for (let row = 0; row < rows; row += 10) {
      for (let at = row; at < row + 10; at += 1) journal.settled(at, 'created');
      if (row % 10_000 === 0) await journal.flush();
    }
    await journal.flush();
    global.gc?.();
    const after = process.memoryUsage();
    const grown = after.external + after.arrayBuffers - before.external - before.arrayBuffers;
    assert.ok(grown < 10 * rows, `${grown} bytes`);
    await journal.close();
    assert.ok(statSync(path).size < 10 * rows);
  });
});

describe('ranges of rows', () => {
  it('are read as they were written (property)', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(5000)), (rows) => {
        const read: number[] = [];
        assert.ok(rows.length === 0 || readRanges(formatRanges(rows), 5001, (row) => read.push(row)));
        assert.deepEqual(
          read,
          rows.toSorted((a, b) => a - b),
        );
      }),
    );
    assert.equal(formatRanges([3, 1, 2, 9]), '1-3,9');
  });
});
