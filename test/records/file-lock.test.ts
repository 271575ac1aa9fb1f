import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { LockLost, withFileLock } from '../../src/records/file-lock.ts';
import { appendRecord, lineHash, parseManifestLine } from '../../src/records/manifest.ts';
import { appendOutcome } from '../../src/records/outcome-log.ts';
import { scratchDirectory } from '../lab/lab.ts';
import { identity } from './identities.ts';

async function fileIn(t: TestContext, content = ''): Promise<string> {
  const file = join(await scratchDirectory(t), 'file');
  writeFileSync(file, content);
  return file;
}

/** What a station does that takes this one for dead: its lock stands in the place of ours. */
function takeOver(file: string): void {
  rmSync(`${file}.lock`, { recursive: true });
  mkdirSync(`${file}.lock`);
  writeFileSync(join(`${file}.lock`, 'another'), '');
}

/** An object whose member does something when the record is made of it: after the scan, before the write. */
function acting<T extends object>(value: T, member: keyof T & string, act: () => void): T {
  const { [member]: original } = value;
  return Object.defineProperty({ ...value }, member, {
    enumerable: true,
    get() {
      act();
      return original;
    },
  });
}

describe('a lock that was lost', () => {
  it('is noticed by its holder, who begins anew once it is free', async (t) => {
    const file = await fileIn(t);
    let begun = 0;
    const result = await withFileLock(
      file,
      async (lease) => {
        lease.assertHeld();
        begun += 1;
        if (begun === 1) {
          takeOver(file);
          assert.throws(() => {
            lease.assertHeld();
          }, LockLost);
          throw new LockLost();
        }
        await delay(1);
        lease.assertHeld();
        return begun;
      },
      { staleMs: 50 },
    );
    assert.equal(result, 2);
    assert.equal(existsSync(`${file}.lock`), false);
  });

  it('is not given back: it is another’s by now', async (t) => {
    const file = await fileIn(t);
    await withFileLock(file, () => {
      takeOver(file);
      return Promise.resolve();
    });
    assert.deepEqual(readdirSync(`${file}.lock`), ['another']);
    assert.deepEqual(readdirSync(join(file, '..')).toSorted(), ['file', 'file.lock']);
  });

  it('is not touched as if it were still held', async (t) => {
    const file = await fileIn(t);
    await withFileLock(file, async () => {
      takeOver(file);
      const past = new Date(1_000_000);
      utimesSync(join(`${file}.lock`, 'another'), past, past);
      await delay(1100);
    });
    assert.equal(await withFileLock(file, () => Promise.resolve(1), { staleMs: 50, waitMs: 2000 }), 1);
  });

  it('does not come back in the place of a third process that has it meanwhile', async (t) => {
    const file = await fileIn(t);
    // The lock of an earlier version of this program: an empty directory.
    mkdirSync(`${file}.lock`);
    let inside = 0;
    const waiters = Array.from({ length: 6 }, () =>
      withFileLock(
        file,
        async (lease) => {
          inside += 1;
          assert.equal(inside, 1);
          await delay(5);
          lease.assertHeld();
          inside -= 1;
        },
        { staleMs: 60 },
      ),
    );
    await Promise.all(waiters);
    assert.deepEqual(readdirSync(join(file, '..')), ['file']);
  });

  it('has nothing written to the manifest, until it is held again', async (t) => {
    const file = await fileIn(t);
    await appendRecord(file, identity('first'));
    const before = readFileSync(file, 'utf8');
    const stopped = acting(identity('mine'), 'station', () => {
      takeOver(file);
    });
    await assert.rejects(appendRecord(file, stopped, { waitMs: 20, staleMs: 10_000 }), {
      code: 'input.locked',
    });
    assert.equal(readFileSync(file, 'utf8'), before);
    assert.deepEqual(readdirSync(`${file}.lock`), ['another']);
  });

  it('costs nothing of what another station has appended to the manifest meanwhile', async (t) => {
    const file = await fileIn(t);
    await appendRecord(file, identity('first'));
    writeFileSync(file, `${readFileSync(file, 'utf8')}{"schema":1,"regis`);
    let others = 0;
    const stopped = acting(identity('mine'), 'station', () => {
      if (others > 0) return;
      others += 1;
      takeOver(file);
      // The other one has found the torn line, and dropped it.
      const [first = ''] = readFileSync(file, 'utf8').split('\n');
      const other = { schema: 1, ...identity('other'), previous: lineHash(first) };
      writeFileSync(file, `${first}\n${JSON.stringify(other)}\n`);
    });
    const { line } = await appendRecord(file, stopped, { staleMs: 50 });
    assert.equal(line, 3);
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
    const records = lines.map((text) => parseManifestLine(text));
    assert.deepEqual(
      records.map((record) => record?.serialNumber),
      ['first', 'other', 'mine'],
    );
    assert.equal(records[2]?.previous, lineHash(lines[1] ?? ''));
  });

  it('costs nothing of what another station has appended to the outcomes meanwhile', async (t) => {
    const file = await fileIn(t);
    const entry = (id: string) => ({ schema: 1 as const, result: 'pass', id });
    const append = (value: ReturnType<typeof entry>): Promise<boolean> =>
      appendOutcome(file, { entry: value, subject: value.id, isNeedless: () => false }, { staleMs: 50 });
    await append(entry('first'));
    let others = 0;
    const lines = readFileSync(file, 'utf8');
    writeFileSync(file, `${lines}{"schema":1,"res`);
    const isNeedless = (): boolean => {
      if (others === 0) {
        takeOver(file);
        writeFileSync(file, `${lines}${JSON.stringify(entry('other'))}\n`);
      }
      others += 1;
      return false;
    };
    const mine = entry('first');
    assert.equal(
      await appendOutcome(file, { entry: mine, subject: 'first', isNeedless }, { staleMs: 50 }),
      true,
    );
    const ids = readFileSync(file, 'utf8')
      .trimEnd()
      .split('\n')
      .map((text) => (JSON.parse(text) as { id: string }).id);
    assert.deepEqual(ids, ['first', 'other', 'first']);
  });
});
