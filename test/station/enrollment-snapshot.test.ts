/** All enrollments at once, in a temporary file that may have no room, or not be there any more. */
import assert from 'node:assert/strict';
import { closeSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { devNull, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';
import { IotdmError } from '../../src/errors.ts';
import { deleteEnrollments, importEnrollments, type ImportSummary } from '../../src/station/import.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService, refusal } from '../fakes/memory-service.ts';

const COUNT = 60;

async function* rows() {
  for (let number = 1; number <= COUNT; number += 1) {
    await Promise.resolve();
    yield [{ line: number + 1, enrollment: fakeEnrollment(number) }];
  }
}

/** What all open files are made of. */
let files: FileHandle;
let service: MemoryService;

beforeEach(async () => {
  const handle = await open(devNull, 'r');
  files = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  service = new MemoryService();
  for (let number = 1; number <= COUNT; number += 1) await service.create(fakeEnrollment(number));
  service.log.length = 0;
});
afterEach(() => {
  mock.restoreAll();
});

const update = (): Promise<ImportSummary> =>
  importEnrollments({ rows, total: COUNT, service, mode: 'update', concurrency: 32 });
const lookUps = (): number => service.log.filter(({ operation }) => operation === 'find').length;
const noRoom = (): Error => Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });

type Write = (
  this: FileHandle,
  bytes: Buffer,
  offset: number,
  length: number,
  position: number,
) => Promise<unknown>;
const writing = (): Write => Reflect.get(files, 'write');

describe('a temporary file', () => {
  it('that is full in the midst of a page costs look-ups, and nothing else', async () => {
    const write = writing();
    let written = 0;
    mock.method(files, 'write', async function (this: FileHandle, ...args: Parameters<Write>) {
      const [bytes, offset, length, position] = args;
      const room = 5000 - written;
      if (room <= 0) throw noRoom();
      written += Math.min(room, length);
      return write.call(this, bytes, offset, Math.min(room, length), position);
    });
    const { unchanged, failed } = await update();
    assert.deepEqual([unchanged, failed], [COUNT, 0]);
    assert.equal(lookUps(), COUNT, 'of a page that was cut short nothing is believed');
    const { deleted } = await deleteEnrollments({ rows, total: COUNT, service, concurrency: 32 });
    assert.equal(deleted, COUNT);
  });

  it('that cannot be made costs look-ups, and no page', async () => {
    const before = process.env['TMPDIR'];
    process.env['TMPDIR'] = join(tmpdir(), 'there-is-no-such-directory');
    try {
      const { unchanged } = await update();
      assert.equal(unchanged, COUNT);
      assert.equal(service.log.filter(({ operation }) => operation === 'list').length, 0);
    } finally {
      if (before === undefined) delete process.env['TMPDIR'];
      else process.env['TMPDIR'] = before;
    }
  });

  it('that cannot be read back says nothing: what was in it is looked up, and not taken for absent', async () => {
    mock.method(files, 'read', () => Promise.reject(noRoom()));
    const { deleted, skipped } = await deleteEnrollments({ rows, total: COUNT, service, concurrency: 32 });
    assert.deepEqual([deleted, skipped], [COUNT, 0]);
  });

  it('that fails to close hides nothing', async () => {
    const write = writing();
    let fd = -1;
    mock.method(files, 'write', async function (this: FileHandle, ...args: Parameters<Write>) {
      fd = this.fd;
      return write.apply(this, args);
    });
    let isClosed = false;
    service.intercept = ({ operation }) => {
      if (operation !== 'bulk updateIfMatchETag') return;
      if (!isClosed) closeSync(fd);
      isClosed = true;
      throw refusal(401002, 'no');
    };
    async function* changed() {
      for await (const some of rows()) {
        yield some.map((row) => ({ ...row, enrollment: { ...row.enrollment, deviceId: 'new' } }));
      }
    }
    const failing = importEnrollments({ rows: changed, total: COUNT, service, mode: 'update' });
    await assert.rejects(failing, (error: unknown) => {
      assert.ok(error instanceof IotdmError);
      assert.equal(error.code, 'auth.refused');
      return true;
    });
    assert.ok(isClosed);
  });
});
