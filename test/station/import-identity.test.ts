import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { Enrollment } from '../../src/dps/enrollment.ts';
import { Governor } from '../../src/dps/governor.ts';
import type { RowFailure } from '../../src/records/import-journal.ts';
import type { EnrollmentRow } from '../../src/station/enrollment-input.ts';
import { IdentityIndex, type IdentitySource } from '../../src/station/identity-index.ts';
import {
  deleteEnrollments,
  importEnrollments,
  type ImportOptions,
  type WriteMode,
} from '../../src/station/import.ts';
import { ImportPlan, type PlannedRow } from '../../src/station/import-plan.ts';
import { Requests } from '../../src/station/import-requests.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService, refusal } from '../fakes/memory-service.ts';

async function scratch(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'iotdm-index-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function* rowsOf(enrollments: readonly Enrollment[]): AsyncGenerator<readonly EnrollmentRow[]> {
  await Promise.resolve();
  yield enrollments.map((enrollment, index) => ({ line: index + 2, enrollment }));
}

function opener(stateDirectory: string, service: MemoryService): NonNullable<ImportOptions['openIndex']> {
  return (source: IdentitySource) =>
    IdentityIndex.open(
      {
        stateDirectory,
        host: service.host,
        maxAgeMs: 3_600_000,
        now: Date.now,
        signal: new AbortController().signal,
        claimsAreDistinct: true,
      },
      source,
    );
}

interface Run {
  readonly counts: Readonly<Record<string, number>>;
  readonly failures: readonly RowFailure[];
  readonly operations: readonly string[];
}

async function run(
  dir: string,
  service: MemoryService,
  mode: WriteMode,
  enrollments: readonly Enrollment[],
  more: Partial<ImportOptions> = {},
): Promise<Run> {
  const failures: RowFailure[] = [];
  const before = service.log.length;
  const { created, updated, unchanged, failed } = await importEnrollments({
    rows: () => rowsOf(enrollments),
    total: enrollments.length,
    service,
    mode,
    openIndex: opener(dir, service),
    governor: new Governor({ ratePerMinute: Infinity, delay: () => Promise.resolve() }),
    onFailure: (failure) => failures.push(failure),
    ...more,
  });
  const counts = Object.entries({ created, updated, unchanged, failed }).filter(([, count]) => count > 0);
  return {
    counts: Object.fromEntries(counts),
    failures: failures.toSorted((a, b) => a.row - b.row),
    operations: service.log.slice(before).map(({ operation }) => operation),
  };
}

async function plan(
  dir: string,
  service: MemoryService,
  mode: WriteMode,
  enrollments: readonly Enrollment[],
): Promise<PlannedRow[]> {
  const requests = new Requests({
    service,
    governor: new Governor({ ratePerMinute: Infinity }),
    concurrency: 4,
    bulkCost: 'request',
    giveUpAfterMs: 1000,
    signal: new AbortController().signal,
  });
  const index = await opener(
    dir,
    service,
  )({
    pages: () => requests.pages(),
    find: (id) => requests.find(id),
  });
  async function* single(): AsyncGenerator<EnrollmentRow> {
    for await (const rows of rowsOf(enrollments)) yield* rows;
  }
  const options = { total: enrollments.length, force: false, concurrency: 4, bulkCost: 'request' } as const;
  const planned = new ImportPlan({
    ...options,
    rows: single,
    mode,
    requests,
    index,
    ratePerMinute: Infinity,
  });
  const rows: PlannedRow[] = [];
  for await (const row of planned.rows()) rows.push(row);
  await index?.close();
  return rows;
}

function fleet(count: number, from: number, more: (number: number) => Partial<Enrollment>): Enrollment[] {
  return Array.from({ length: count }, (_, index) => fakeEnrollment(from + index, more(index)));
}

const press = (index: number): Partial<Enrollment> => ({ deviceId: `press-${index}` });

describe('a second file with device ids of the first', () => {
  for (const count of [2, 120]) {
    for (const mode of ['upsert', 'create'] as const) {
      it(`is refused row by row, ${count} rows, ${mode}`, async (t) => {
        const service = new MemoryService();
        const dir = await scratch(t);
        await run(dir, service, 'upsert', fleet(count, 1, press));
        const second = [...fleet(count, 1001, press), fakeEnrollment(5000, { deviceId: 'of-its-own' })];
        for (const row of (await plan(dir, service, mode, second)).slice(0, -1)) {
          assert.deepEqual([row.action, row.code], ['conflict', 'service.conflict']);
          assert.match(
            row.message ?? '',
            /^would have the device id "press-[0-9]+" of the enrollment device-0/,
          );
        }
        const before = new Map(service.all);
        const { counts, failures } = await run(dir, service, mode, second);
        assert.deepEqual(counts, { created: 1, failed: count });
        assert.deepEqual([...service.all].slice(0, count), [...before]);
        const [first] = failures;
        assert.deepEqual(
          [first?.registrationId, first?.code, first?.message, first?.other],
          [
            'device-1001',
            'service.conflict',
            'would have the device id "press-0" of the enrollment device-0001',
            'device-0001',
          ],
        );
        // Another station, which has never heard of the first file.
        const elsewhere = await run(await scratch(t), service, mode, second.slice(0, -1));
        assert.deepEqual(elsewhere.counts, { failed: count });
      });
    }
  }

  it('and keys of the first under other ids are refused as well', async (t) => {
    const service = new MemoryService();
    const dir = await scratch(t);
    await run(dir, service, 'upsert', fleet(12, 1, press));
    const again = fleet(12, 1, (index) => ({ registrationId: `again-${index}`, deviceId: `again-${index}` }));
    const { counts, failures } = await run(dir, service, 'upsert', again);
    assert.deepEqual(counts, { failed: 12 });
    assert.equal(failures[0]?.message, 'would have the endorsement key of the enrollment device-0001');
    assert.equal(
      (await plan(dir, service, 'upsert', again)).every(({ action }) => action === 'conflict'),
      true,
    );
  });
});

describe('the same file again', () => {
  it('is unchanged, and all enrollments are read once for both', async (t) => {
    const service = new MemoryService();
    await run(await scratch(t), service, 'upsert', fleet(120, 1, press));
    const dir = await scratch(t);
    const { counts, operations } = await run(dir, service, 'upsert', fleet(120, 1, press));
    assert.deepEqual(counts, { unchanged: 120 });
    assert.deepEqual(operations, ['list'], 'one page');
    assert.deepEqual((await run(dir, service, 'upsert', fleet(5, 1, press))).counts, { unchanged: 5 });
  });

  it('is unchanged also where another tool has given its device ids twice', async (t) => {
    const service = new MemoryService();
    for (const number of [1, 2]) await service.create(fakeEnrollment(number, { deviceId: 'twin' }));
    const dir = await scratch(t);
    await run(dir, service, 'upsert', [fakeEnrollment(9)]);
    const row = fakeEnrollment(2, { deviceId: 'twin' });
    assert.deepEqual((await run(dir, service, 'upsert', [row])).counts, { unchanged: 1 });
    const disabled = { ...row, provisioningStatus: 'disabled' } as const;
    assert.deepEqual((await run(dir, service, 'upsert', [disabled])).counts, { updated: 1 });
    assert.deepEqual((await run(dir, service, 'create', [row])).counts, { failed: 1 });
  });
});

describe('updates', () => {
  for (const mode of ['upsert', 'update'] as const) {
    it(`do not give a device id that another enrollment has (${mode})`, async (t) => {
      const service = new MemoryService();
      const dir = await scratch(t);
      await run(dir, service, 'upsert', fleet(20, 1, press));
      const swapped = fleet(20, 1, (index) => press(index < 2 ? 1 - index : index));
      assert.deepEqual((await plan(dir, service, mode, swapped)).map(({ action }) => action).slice(0, 3), [
        'conflict',
        'conflict',
        'unchanged',
      ]);
      const { counts, failures } = await run(dir, service, mode, swapped);
      assert.deepEqual(counts, { unchanged: 18, failed: 2 });
      assert.deepEqual(
        failures.map(({ message }) => message),
        [
          'would have the device id "press-1" of the enrollment device-0002',
          'would have the device id "press-0" of the enrollment device-0001',
        ],
      );
      // In two files: first out of the way.
      const away = fakeEnrollment(1, { deviceId: 'away' });
      assert.deepEqual((await run(dir, service, mode, [away])).counts, { updated: 1 });
      assert.deepEqual((await run(dir, service, mode, [fakeEnrollment(2, press(0))])).counts, { updated: 1 });
      assert.deepEqual((await run(dir, service, mode, [fakeEnrollment(1, press(1))])).counts, { updated: 1 });
    });
  }
});

describe('what became of a row', () => {
  it('that was refused leaves its device id free, and one of unknown fate does not', async (t) => {
    const service = new MemoryService();
    const dir = await scratch(t);
    await run(dir, service, 'create', [fakeEnrollment(9)]);
    service.intercept = ({ operation }) => {
      if (operation === 'bulk create') throw refusal(400004, 'no');
    };
    assert.deepEqual((await run(dir, service, 'create', [fakeEnrollment(1, press(1))])).counts, {
      failed: 1,
    });
    service.intercept = () => undefined;
    const free = await run(dir, service, 'create', [fakeEnrollment(2, press(1))]);
    assert.deepEqual([free.counts, free.operations], [{ created: 1 }, ['bulk create']]);
    // It arrives, and its answer does not.
    let cuts = 1;
    service.interceptAnswer = ({ operation }) => {
      if (operation === 'bulk create' && cuts-- > 0) throw refusal(500001, 'cut');
    };
    assert.deepEqual((await run(dir, service, 'create', [fakeEnrollment(3, press(3))])).counts, {
      created: 1,
    });
    assert.deepEqual((await run(dir, service, 'create', [fakeEnrollment(4, press(3))])).counts, {
      failed: 1,
    });
  });

  it('that was deleted by a file is free at once', async (t) => {
    const service = new MemoryService();
    const dir = await scratch(t);
    await run(dir, service, 'upsert', fleet(3, 1, press));
    const { deleted } = await deleteEnrollments({
      rows: () => rowsOf(fleet(3, 1, press)),
      total: 3,
      service,
      openIndex: opener(dir, service),
    });
    assert.equal(deleted, 3);
    const { counts, operations } = await run(dir, service, 'create', fleet(3, 1001, press));
    assert.deepEqual([counts, operations], [{ created: 3 }, ['bulk create']]);
  });

  it('two imports at once: each device id is given once', async (t) => {
    const service = new MemoryService();
    const dir = await scratch(t);
    const results = await Promise.all(
      [1, 2001].map((from) => run(dir, service, 'upsert', fleet(200, from, press), { concurrency: 8 })),
    );
    const created = results.reduce((sum, { counts }) => sum + (counts['created'] ?? 0), 0);
    const ids = [...service.all.values()].map(({ deviceId }) => deviceId);
    assert.equal(new Set(ids).size, ids.length);
    assert.equal(created, ids.length);
    assert.equal(created, 200, 'and each was given');
  });

  it('an import whose list cannot be read sends nothing', async (t) => {
    const service = new MemoryService();
    service.intercept = ({ operation }) => {
      if (operation === 'list') throw refusal(401002, 'not allowed');
    };
    await assert.rejects(run(await scratch(t), service, 'upsert', fleet(3, 1, press)), {
      code: 'auth.refused',
      message: 'not allowed; all enrollments were to be read, to compare with',
    });
    assert.equal(service.all.size, 0);
  });
});
