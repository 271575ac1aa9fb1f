import assert from 'node:assert/strict';
import { appendFileSync, chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, mock, type TestContext } from 'node:test';
import { AppendLog, type Extent } from '../../src/records/append-log.ts';
import { scratchDirectory } from '../lab/lab.ts';

const limits = { windowBytes: 16, longestLine: 40 };

async function logIn(t: TestContext, content?: string): Promise<AppendLog> {
  const file = join(await scratchDirectory(t), 'log');
  if (content !== undefined) writeFileSync(file, content, { mode: 0o640 });
  const log = await AppendLog.open(file, 'the log');
  t.after(() => log.close());
  return log;
}

async function scanned(log: AppendLog): Promise<Extent & { readonly lines: string }> {
  const pieces: Buffer[] = [];
  const extent = await log.scan(limits, (lines, offset) => {
    assert.equal(offset, Buffer.concat(pieces).length);
    assert.equal(lines.at(-1), 0x0a);
    pieces.push(lines);
  });
  return { ...extent, lines: Buffer.concat(pieces).toString() };
}

const contentOf = (log: AppendLog): string => readFileSync(log.path, 'utf8');
const bytes = (text: string): Buffer => Buffer.from(text);

describe('a file that records are appended to', () => {
  it('is made for its owner only; one that is there is not changed by being opened', async (t) => {
    assert.equal(statSync((await logIn(t)).path).mode & 0o777, 0o600);
    const there = await logIn(t, 'a\n');
    chmodSync(there.path, 0o640);
    const again = await AppendLog.open(there.path, 'the log');
    await again.close();
    assert.equal(statSync(there.path).mode & 0o777, 0o640);
    await assert.rejects(AppendLog.open('/dev/null', 'the log'), { code: 'usage.output-unwritable' });
  });

  it('is read in whole lines, however they fall into what is read at a time', async (t) => {
    const text = `${Array.from({ length: 30 }, (_, index) => 'x'.repeat(index)).join('\n')}\n`;
    const log = await logIn(t, `${text}torn`);
    const { size, end, tail, lines } = await scanned(log);
    assert.deepEqual([size, end, tail.toString(), lines], [text.length + 4, text.length, 'torn', text]);
  });

  it('is read no further than to a line that is too long', async (t) => {
    const log = await logIn(t, `a\n${'y'.repeat(100_000)}`);
    const { end, tail } = await scanned(log);
    assert.equal(end, 2);
    assert(tail.length > limits.longestLine && tail.length < 100);
  });

  it('drops what was cut short, with the next record', async (t) => {
    const log = await logIn(t, 'a\nhal');
    const { size, end } = await scanned(log);
    assert.equal(await log.append(bytes('b\n'), { size, keep: end }), true);
    assert.equal(contentOf(log), 'a\nb\n');
  });

  it('is left alone where somebody else has written since it was scanned', async (t) => {
    const log = await logIn(t, 'a\nhal');
    const { size, end } = await scanned(log);
    writeFileSync(log.path, 'a\nother\n');
    assert.equal(await log.append(bytes('b\n'), { size, keep: end }), false);
    assert.equal(await log.cut({ size, keep: end }), false);
    assert.equal(contentOf(log), 'a\nother\n');
  });

  it('is left alone where the lock is not held any more', async (t) => {
    const log = await logIn(t, 'a\nhal');
    const { size, end } = await scanned(log);
    const lost = new Error('lost');
    const assertHeld = (): void => {
      throw lost;
    };
    await assert.rejects(log.append(bytes('b\n'), { size, keep: end, assertHeld }), lost);
    assert.equal(contentOf(log), 'a\nhal');
  });

  it('loses nothing to somebody who writes in the very moment between look and write', async (t) => {
    const log = await logIn(t, 'a\n');
    const { size } = await scanned(log);
    let isFirst = true;
    const assertHeld = (): void => {
      if (isFirst) appendFileSync(log.path, 'other\n');
      isFirst = false;
    };
    // What was appended behind it does not belong there, and is taken back.
    assert.equal(await log.append(bytes('b\n'), { size, assertHeld }), false);
    assert.equal(contentOf(log), 'a\nother\n');
  });

  it('takes a record back that did not get to the disk, so that the next attempt writes it again', async (t) => {
    for (const writeThrough of [false, true]) {
      const file = join(await scratchDirectory(t), 'log');
      writeFileSync(file, 'a\n');
      const log = await AppendLog.open(file, 'the log', { writeThrough });
      const prototype = await handlePrototype(file);
      const method = writeThrough ? 'write' : 'sync';
      const failing = mock.method(prototype, method, () => {
        // As a full disk does it: a part is written, then nothing more.
        if (writeThrough) appendFileSync(file, 'b');
        return Promise.reject(Object.assign(new Error('no'), { code: 'EIO' }));
      });
      try {
        await assert.rejects(log.append(bytes('bcd\n'), { size: 2 }), { code: 'EIO' });
        assert.equal(contentOf(log), 'a\n');
      } finally {
        failing.mock.restore();
      }
      assert.equal(await log.append(bytes('bcd\n'), { size: 2 }), true);
      assert.equal(contentOf(log), 'a\nbcd\n');
      await log.close();
    }
  });

  it('does not take back what somebody else has appended', async (t) => {
    const log = await logIn(t, 'a\n');
    const prototype = await handlePrototype(log.path);
    const failing = mock.method(prototype, 'sync', () => {
      appendFileSync(log.path, 'other\n');
      return Promise.reject(Object.assign(new Error('no'), { code: 'EIO' }));
    });
    try {
      await assert.rejects(log.append(bytes('b\n'), { size: 2 }), { code: 'EIO' });
    } finally {
      failing.mock.restore();
    }
    assert.equal(contentOf(log), 'a\nb\nother\n');
  });
});

/** What all open files have in common: there is no other way to a disk that fails on demand. */
async function handlePrototype(file: string): Promise<FileHandle> {
  const handle = await open(file, 'r');
  try {
    return Object.getPrototypeOf(handle) as FileHandle;
  } finally {
    await handle.close();
  }
}
