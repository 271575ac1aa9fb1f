import assert from 'node:assert/strict';
import { appendFileSync, chmodSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { appendOutcome, type Outcome } from '../../src/records/outcome-log.ts';
import { scratchDirectory } from '../lab/lab.ts';

interface Entry extends Outcome {
  readonly id: string;
  readonly text: string;
}

const entry = (id: string, text: string): Entry => ({ schema: 1, result: 'pass', id, text });

function append(file: string, id: string, text: string): Promise<boolean> {
  return appendOutcome(file, {
    entry: entry(id, text),
    subject: id,
    isNeedless: (last) => last.text === text,
  });
}

async function logIn(t: TestContext): Promise<string> {
  return join(await scratchDirectory(t), 'outcomes');
}

const lines = (file: string): Entry[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Entry);

describe('a file of outcomes', () => {
  it('is for its owner only, and takes what is new of each subject', async (t) => {
    const file = await logIn(t);
    assert.equal(await append(file, 'a', '1'), true);
    assert.equal(await append(file, 'b', '1'), true);
    assert.equal(await append(file, 'a', '1'), false);
    assert.equal(await append(file, 'a', '2'), true);
    assert.equal(await append(file, 'a', '1'), true);
    assert.deepEqual(
      lines(file).map(({ id, text }) => id + text),
      ['a1', 'b1', 'a2', 'a1'],
    );
    assert.equal(statSync(file).mode & 0o777, 0o600);
  });

  it('loses nothing to stations that write at once', async (t) => {
    const file = await logIn(t);
    await Promise.all(Array.from({ length: 12 }, (_, index) => append(file, `s${index}`, 'x')));
    assert.equal(new Set(lines(file).map(({ id }) => id)).size, 12);
  });

  it('drops what a power loss has cut short, wherever that was', async (t) => {
    const file = await logIn(t);
    await append(file, 'a', '1');
    const whole = statSync(file).size;
    await append(file, 'b', '1');
    const full = readFileSync(file);
    for (let size = whole + 1; size < full.length; size += 7) {
      writeFileSync(file, full);
      truncateSync(file, size);
      assert.equal(await append(file, 'c', '1'), true);
      assert.deepEqual(
        lines(file).map(({ id }) => id),
        ['a', 'c'],
      );
    }
    writeFileSync(file, Buffer.concat([full.subarray(0, whole), Buffer.alloc(100)]));
    assert.equal(await append(file, 'd', '1'), true);
    assert.deepEqual(
      lines(file).map(({ id }) => id),
      ['a', 'd'],
    );
  });

  it('is never some other file', async (t) => {
    const file = await logIn(t);
    for (const text of ['hello\n', 'hello', '{"schema":1,"registrationId":"x"}\n', '\n']) {
      writeFileSync(file, text);
      await assert.rejects(append(file, 'a', '1'), { code: 'input.invalid' });
      assert.equal(readFileSync(file, 'utf8'), text);
    }
    writeFileSync(file, '');
    await append(file, 'a', '1');
    appendFileSync(file, '{"schema":1,"result":"pass","id":"a" oops\n');
    await assert.rejects(append(file, 'a', '1'), { code: 'input.invalid' });
    await assert.rejects(append(join(file, 'below'), 'a', '1'), { code: 'usage.output-unwritable' });
  });

  it('keeps the permissions that somebody gave it', async (t) => {
    const file = await logIn(t);
    await append(file, 'a', '1');
    chmodSync(file, 0o640);
    await append(file, 'a', '2');
    assert.equal(statSync(file).mode & 0o777, 0o640);
  });
});
