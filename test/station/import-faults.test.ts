/** An import against a service that fails in every way that leaves doubt, in virtual time, and through crashes. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { Governor } from '../../src/dps/governor.ts';
import type { Enrollment } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { ImportJournal } from '../../src/records/import-journal.ts';
import {
  deleteEnrollments,
  importEnrollments,
  type ImportMode,
  type ImportOptions,
  type ImportSummary,
} from '../../src/station/import.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService, refusal, type ServiceRequest } from '../fakes/memory-service.ts';
import { repeatableRandom, VirtualTime } from '../fakes/virtual-time.ts';

const cut = (): IotdmError => new IotdmError('network.unavailable', 'the connection was cut');
const strange = (): IotdmError => new IotdmError('service.unexpected-answer', 'it is not valid JSON');

function fleet(count: number, more: (number: number) => Partial<Enrollment> = () => ({})): Enrollment[] {
  return Array.from({ length: count }, (_, index) => fakeEnrollment(index + 1, more(index + 1)));
}

async function run(
  service: MemoryService,
  mode: ImportMode,
  enrollments: readonly Enrollment[],
  more: Partial<ImportOptions> = {},
): Promise<ImportSummary> {
  async function* rows() {
    for (const [index, enrollment] of enrollments.entries()) {
      await Promise.resolve();
      yield [{ line: index + 2, enrollment }];
    }
  }
  const { clock, delay } = new VirtualTime();
  const governor = new Governor({ ratePerMinute: Infinity, clock, delay, random: repeatableRandom() });
  const options = { rows, total: enrollments.length, service, governor, ...more };
  const summary = await (mode === 'delete'
    ? deleteEnrollments(options)
    : importEnrollments({ ...options, mode }));
  const { total, created, updated, unchanged, deleted, failed, skipped } = summary;
  assert.equal(
    created + updated + unchanged + deleted + failed + skipped,
    total,
    'every row has one outcome',
  );
  return summary;
}

function counts(summary: ImportSummary): Record<string, number> {
  const { created, updated, unchanged, deleted, failed, skipped } = summary;
  return Object.fromEntries(
    Object.entries({ created, updated, unchanged, deleted, failed, skipped }).filter(([, n]) => n > 0),
  );
}

const isBulk = ({ operation }: ServiceRequest): boolean => operation.startsWith('bulk');

/** What the rows name is there; nothing else is asserted. */
function assertHolds(service: MemoryService, enrollments: readonly Enrollment[]): void {
  assert.equal(service.all.size, enrollments.length);
  for (const enrollment of enrollments) {
    const stored = service.all.get(enrollment.registrationId);
    assert.deepEqual({ ...stored, ...enrollment }, stored);
  }
}

/** Throws once for each kind of bulk request. */
function failOnce(
  service: MemoryService,
  where: 'intercept' | 'interceptAnswer',
  error: () => IotdmError,
): void {
  let failed = false;
  service[where] = (request) => {
    if (failed || !isBulk(request)) return;
    failed = true;
    throw error();
  };
}

describe('a request of which nobody knows whether it took effect', () => {
  for (const [name, error] of [
    ['a connection that is cut', cut],
    ['an answer that is broken', strange],
    ['status 500', () => refusal(500001, 'oops')],
    ['status 503', () => new IotdmError('network.unavailable', 'busy', { details: { status: 503 } })],
    ['no answer in time', () => new IotdmError('network.timeout', 'too late')],
  ] as const) {
    for (const where of ['intercept', 'interceptAnswer'] as const) {
      it(`has its rows looked up before they are sent again: ${name}, ${where === 'intercept' ? 'not applied' : 'applied'}`, async () => {
        for (const mode of ['upsert', 'create'] as const) {
          const service = new MemoryService();
          // An answer that has been had makes it the service, and no page of somebody else's.
          await run(service, 'create', [fakeEnrollment(77)]);
          let armed = 1;
          service[where] = (request) => {
            if (isBulk(request) && request.ids.includes('device-0003') && armed-- > 0) throw error();
          };
          const rows = [...fleet(20), fakeEnrollment(77)];
          const summary = await run(service, mode, mode === 'create' ? rows.slice(0, 20) : rows);
          assert.deepEqual(
            counts(summary),
            mode === 'create' ? { created: 20 } : { created: 20, unchanged: 1 },
            'what had arrived counts as created',
          );
          assertHolds(service, rows);
          const touching = service.log.filter(({ ids }) => ids.includes('device-0003'));
          assert.deepEqual(
            touching.map(({ operation }) => operation),
            where === 'intercept' ? ['bulk create', 'find', 'bulk create'] : ['bulk create', 'find'],
          );
        }
      });
    }
  }

  it('is not one that was not sent: it is sent again, and nothing is looked up', async () => {
    for (const code of ['network.unreachable', 'network.timeout', 'network.proxy'] as const) {
      const service = new MemoryService();
      let armed = 1;
      // Not the first of all, after which a host that cannot be reached is given up.
      service.intercept = ({ ids }) => {
        if (ids.includes('device-0013') && armed-- > 0) {
          throw new IotdmError(code, 'no connection', { effect: 'none' });
        }
      };
      assert.deepEqual(counts(await run(service, 'create', fleet(15))), { created: 15 });
      const sent = service.log.map(({ operation }) => operation);
      assert.deepEqual(sent, ['bulk create', 'bulk create', 'bulk create'], code);
    }
  });

  it('of an update is written once, and not over what somebody else wrote meanwhile', async () => {
    for (const where of ['intercept', 'interceptAnswer'] as const) {
      const service = new MemoryService();
      await run(service, 'create', fleet(12));
      failOnce(service, where, cut);
      const changed = fleet(12, (number) => ({ deviceId: `d-${number}` }));
      assert.deepEqual(counts(await run(service, 'update', changed)), { updated: 12 });
      assertHolds(service, changed);
    }
    const service = new MemoryService();
    await run(service, 'create', fleet(3));
    let failed = false;
    service.intercept = async ({ operation }) => {
      if (operation !== 'bulk updateIfMatchETag' || failed) return;
      failed = true;
      await service.replace(fakeEnrollment(2, { deviceId: 'theirs' }), '*');
      throw cut();
    };
    const summary = await run(
      service,
      'update',
      fleet(3, (number) => ({ deviceId: `d-${number}` })),
    );
    assert.deepEqual(counts(summary), { updated: 2, failed: 1 });
    assert.equal(summary.failures[0]?.code, 'service.changed-meanwhile');
    assert.equal(service.all.get('device-0002')?.deviceId, 'theirs');
  });

  it('of a deletion is deleted, whoever was first', async () => {
    for (const where of ['intercept', 'interceptAnswer'] as const) {
      const service = new MemoryService();
      await run(service, 'create', fleet(10));
      failOnce(service, where, cut);
      assert.deepEqual(counts(await run(service, 'delete', fleet(12))), { deleted: 10, skipped: 2 });
      assert.equal(service.all.size, 0);
    }
  });
});

describe('the deletion of a version', () => {
  /** As they are enrolled, with their etags. */
  const enrolled = async (service: MemoryService, count: number): Promise<Enrollment[]> => {
    await run(service, 'create', fleet(count));
    return fleet(count).map((enrollment) => {
      const etag = service.all.get(enrollment.registrationId)?.etag ?? '';
      return { ...enrollment, etag };
    });
  };

  it('leaves alone what somebody else has changed, unless it is forced', async () => {
    const service = new MemoryService();
    const rows = await enrolled(service, 4);
    await service.replace(fakeEnrollment(2, { deviceId: 'theirs' }), '*');
    const summary = await run(service, 'delete', [...rows, ...fleet(6).slice(4)]);
    assert.deepEqual(counts(summary), { deleted: 3, failed: 1, skipped: 2 });
    assert.deepEqual(summary.failures, [
      {
        line: 3,
        registrationId: 'device-0002',
        code: 'service.changed-meanwhile',
        message: 'was changed by somebody else meanwhile: it is not the version with the etag of the row',
      },
    ]);
    assert.deepEqual(
      [...service.all.values()].map(({ deviceId }) => deviceId),
      ['theirs'],
    );
    assert.deepEqual(counts(await run(service, 'delete', rows, { force: true })), { deleted: 1, skipped: 3 });
    assert.equal(service.all.size, 0);
  });

  it('of which nobody knows whether it took effect is done once', async () => {
    for (const where of ['intercept', 'interceptAnswer'] as const) {
      for (const isChanged of [false, true]) {
        const service = new MemoryService();
        const rows = await enrolled(service, 12);
        let isCut = false;
        service[where] = async ({ operation, ids }) => {
          if (isCut || operation !== 'delete' || !ids.includes('device-0003')) return;
          isCut = true;
          // Before it arrives, or enrolling the device again after it has.
          if (isChanged) await service.replace(fakeEnrollment(3, { deviceId: 'theirs' }), '*');
          throw cut();
        };
        const summary = await run(service, 'delete', rows);
        assert.deepEqual(counts(summary), isChanged ? { deleted: 11, failed: 1 } : { deleted: 12 });
        assert.equal(service.all.size, isChanged ? 1 : 0);
      }
    }
  });
});

describe('a request that fails again and again', () => {
  it('for one of its rows leaves that row behind, with the reason', async () => {
    const service = new MemoryService();
    service.intercept = (request) => {
      if (isBulk(request) && request.ids.includes('device-0014')) throw refusal(500001, 'it hurts');
    };
    const summary = await run(service, 'upsert', fleet(40));
    assert.deepEqual(counts(summary), { created: 39, failed: 1 });
    assert.deepEqual(summary.failures, [
      { line: 15, registrationId: 'device-0014', code: 'network.unavailable', message: 'it hurts' },
    ]);
  });

  it('whatever it holds ends the import when it was to give up, although look-ups get through', async () => {
    const service = new MemoryService();
    service.intercept = (request) => {
      if (isBulk(request)) throw refusal(500001, 'down');
    };
    await assert.rejects(
      run(service, 'upsert', fleet(30), { giveUpAfterMs: 60_000 }),
      (error: IotdmError) => {
        assert.equal(error.code, 'network.unavailable');
        assert.match(error.message, /^down; nothing got through for \d+ s$/);
        assert.equal(error.details?.['failed'], 0, 'no row is blamed for it');
        return true;
      },
    );
  });

  it('because the host is not there is not waited for at the beginning, and later is', async () => {
    const gone = () => new IotdmError('network.unreachable', 'nothing listens there', { effect: 'none' });
    const service = new MemoryService();
    service.intercept = () => {
      throw gone();
    };
    await assert.rejects(run(service, 'upsert', fleet(30)), {
      code: 'network.unreachable',
      message: gone().message,
    });
    assert.ok(service.requests <= 4);

    let outage = 0;
    service.intercept = () => {
      outage += 1;
      if (outage > 1 && outage < 30) throw gone();
    };
    assert.deepEqual(counts(await run(service, 'upsert', fleet(30))), { created: 30 });
    assert.equal(
      service.log.filter(({ operation }) => operation === 'find').length,
      0,
      'nothing was in doubt',
    );
  });

  it('with pages in place of answers ends the import', async () => {
    const service = new MemoryService();
    let answered = 0;
    service.intercept = () => {
      answered += 1;
      if (answered > 3) throw strange();
    };
    await assert.rejects(run(service, 'upsert', fleet(500)), { code: 'service.unexpected-answer' });
    assert.ok(service.requests < 50, `${service.requests} requests`);
  });
});

describe('a service that contradicts itself', () => {
  /** How many requests, and how much time at least, an import takes to see that it leads nowhere. */
  const bounded = async (
    service: MemoryService,
    mode: ImportMode,
    rows: readonly Enrollment[],
    more: Partial<ImportOptions> = {},
  ): Promise<ImportSummary> => {
    const { clock, delay } = new VirtualTime();
    const before = service.requests;
    // Whatever goes wrong, the test comes to an end.
    const { intercept } = service;
    service.intercept = (request) => {
      assert.ok(service.requests - before < 100, 'far too many requests');
      return intercept(request);
    };
    const governor = new Governor({ ratePerMinute: Infinity, clock, delay, random: repeatableRandom() });
    const summary = await run(service, mode, rows, { governor, ...more });
    assert.ok(clock() > 1000, `no pause between ${service.requests - before} requests`);
    return summary;
  };

  for (const force of [false, true]) {
    it(`refuses for an etag that it shows itself: the row fails${force ? ', also with --force' : ''}`, async () => {
      for (const mode of ['upsert', 'update'] as const) {
        const service = new MemoryService();
        await run(service, 'create', fleet(1));
        service.intercept = ({ operation }) => {
          if (operation === 'bulk updateIfMatchETag') throw refusal(412001, 'precondition failed');
        };
        const summary = await bounded(service, mode, [fakeEnrollment(1, { deviceId: 'new' })], { force });
        assert.deepEqual(summary.failures, [
          {
            line: 2,
            registrationId: 'device-0001',
            code: 'service.unexpected-answer',
            message: 'the service refuses it as changed meanwhile, and shows it unchanged',
          },
        ]);
      }
    });
  }

  it('for a while only: an old version that is shown is asked for again', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(1));
    let refusals = 0;
    service.intercept = ({ operation }) => {
      if (operation !== 'bulk updateIfMatchETag' || refusals >= 3) return;
      refusals += 1;
      throw refusal(412001, 'precondition failed');
    };
    assert.deepEqual(counts(await bounded(service, 'upsert', [fakeEnrollment(1, { deviceId: 'new' })])), {
      updated: 1,
    });
  });

  it('has an enrollment and has it not, in turns: the row fails', async () => {
    const service = new MemoryService();
    const stored = await service.create(fakeEnrollment(1));
    const find = service.find.bind(service);
    let looks = 0;
    service.find = async (id) => ((await find(id)) === undefined || looks++ % 2 === 1 ? undefined : stored);
    service.intercept = ({ operation }) => {
      if (operation === 'bulk create') throw refusal(409001, 'exists');
      if (operation === 'bulk updateIfMatchETag') throw cut();
    };
    const row = fakeEnrollment(1, { deviceId: 'new' });
    const summary = await bounded(service, 'upsert', [row], { force: true });
    assert.deepEqual(counts(summary), { failed: 1 });
  });

  it('cannot show one of its enrollments, whatever it shows of others: that row fails', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(8));
    service.intercept = ({ operation, ids }) => {
      if (operation === 'find' && ids[0] === 'device-0003') throw refusal(500001, 'oops');
    };
    let others = 0;
    async function* rows(): AsyncGenerator<readonly { line: number; enrollment: Enrollment }[]> {
      // The others come one after the other, so that something gets through all the time.
      for (let number = 1; number <= 8; number += 1)
        yield [{ line: number, enrollment: fakeEnrollment(number) }];
      for (; others < 2000 && !failed; others += 1) {
        await new Promise((resolve) => setImmediate(resolve));
        await service.find('device-0001');
      }
    }
    let failed = false;
    const { clock, delay } = new VirtualTime();
    const governor = new Governor({ ratePerMinute: Infinity, clock, delay, random: repeatableRandom() });
    const summary = await importEnrollments({
      rows,
      total: 8,
      service,
      mode: 'update',
      governor,
      onFailure: () => (failed = true),
    });
    assert.deepEqual([summary.unchanged, summary.failed], [7, 1]);
    assert.equal(summary.failures[0]?.registrationId, 'device-0003');
  });

  it('asks for no pause when it refuses, and gets one', async () => {
    const service = new MemoryService();
    service.intercept = () => {
      throw new IotdmError('network.throttled', 'slow', { details: { retryAfterMs: 0 } });
    };
    await assert.rejects(run(service, 'upsert', fleet(1), { giveUpAfterMs: 600_000 }), {
      code: 'network.throttled',
    });
    assert.ok(service.requests < 40, `${service.requests} requests in ten minutes`);
  });
});

describe('another writer', () => {
  const race = (service: MemoryService, times: number): void => {
    service.intercept = async (request) => {
      if (request.operation !== 'bulk updateIfMatchETag' || times-- <= 0) return;
      const stored = service.all.get('device-0002');
      assert.ok(stored !== undefined);
      await service.replace({ ...(stored as Enrollment), iotHubHostName: `hub-${times}.example` }, '*');
    };
  };
  const changed = fleet(3, (number) => ({ deviceId: `d-${number}` }));

  it('is not written over', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(3));
    race(service, 1);
    const summary = await run(service, 'upsert', changed);
    assert.deepEqual(counts(summary), { updated: 2, failed: 1 });
    assert.deepEqual(summary.failures, [
      {
        line: 3,
        registrationId: 'device-0002',
        code: 'service.changed-meanwhile',
        message: 'was changed by somebody else meanwhile and is not as the row says',
      },
    ]);
    assert.deepEqual(
      counts(await run(service, 'upsert', changed)),
      { updated: 1, unchanged: 2 },
      'next time',
    );
  });

  it('is with --force, and keeps what the row does not name', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(3));
    race(service, 3);
    assert.deepEqual(counts(await run(service, 'upsert', changed, { force: true })), { updated: 3 });
    assert.deepEqual(
      [service.all.get('device-0002')?.deviceId, service.all.get('device-0002')?.iotHubHostName],
      ['d-2', 'hub-0.example'],
    );
    race(service, Infinity);
    const again = await run(service, 'upsert', fleet(3), { force: true });
    assert.deepEqual(counts(again), { unchanged: 3 }, 'a row that names nothing changes nothing');
  });

  it('who is always faster is not fought with for ever', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(3));
    race(service, Infinity);
    const summary = await run(service, 'upsert', changed, { force: true });
    assert.deepEqual(counts(summary), { updated: 2, failed: 1 });
    assert.equal(summary.failures[0]?.code, 'service.changed-meanwhile');
  });

  it('who wrote what the row says has done the work', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(3));
    let raced = false;
    service.intercept = async ({ operation }) => {
      if (operation !== 'bulk updateIfMatchETag' || raced) return;
      raced = true;
      await service.replace(fakeEnrollment(2, { deviceId: 'd-2' }), '*');
    };
    assert.deepEqual(counts(await run(service, 'upsert', changed)), { updated: 2, unchanged: 1 });
  });

  it('since a row was exported is found by the row’s etag', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(2));
    const etag = service.all.get('device-0001')?.etag ?? '';
    const row = fakeEnrollment(1, { deviceId: 'mine', etag });
    const other = fakeEnrollment(2, { deviceId: 'mine-2', etag: '"other"' });
    const summary = await run(service, 'upsert', [row, other]);
    assert.deepEqual(counts(summary), { updated: 1, failed: 1 });
    assert.equal(summary.failures[0]?.registrationId, 'device-0002');
    assert.deepEqual(
      counts(await run(service, 'upsert', [row])),
      { unchanged: 1 },
      'its own write is no conflict',
    );
    assert.deepEqual(counts(await run(service, 'upsert', [other], { force: true })), { updated: 1 });
  });
});

describe('rows that exist already', () => {
  it('are looked up a thousand at a time, and written ten at a time', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(1500));
    const rows = fleet(2000, (number) => (number % 3 === 0 ? { deviceId: `d-${number}` } : {}));
    const summary = await run(service, 'upsert', rows);
    assert.deepEqual(counts(summary), { created: 500, updated: 500, unchanged: 1000 });
    assertHolds(service, rows);
    // 50 requests create and 50 update; two pages, and what was under way before they were read.
    assert.ok(summary.requests <= 100 + 2 + 10, `${summary.requests} requests`);
    const update = await run(
      service,
      'update',
      fleet(2000, (number) => ({ deviceId: `e-${number}` })),
    );
    assert.deepEqual(counts(update), { updated: 2000 });
    assert.ok(update.requests <= 200 + 3, `${update.requests} requests`);
  });

  it('are few: a service that holds millions is not read for them', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(25));
    let pages = 0;
    service.list = async function* () {
      for (; ; pages += 1) {
        await new Promise((resolve) => setImmediate(resolve));
        yield [{ ...fakeEnrollment(9999), etag: '"x"' }];
      }
    };
    const summary = await run(service, 'upsert', fleet(100));
    assert.deepEqual(counts(summary), { created: 75, unchanged: 25 });
    assert.ok(pages <= 50, `${pages} pages`);
  });

  it('are looked up one by one where the list breaks off', async () => {
    const service = new MemoryService();
    await run(service, 'create', fleet(1500));
    let pages = 0;
    service.intercept = ({ operation }) => {
      if (operation === 'list' && ++pages > 1) throw cut();
    };
    const summary = await run(service, 'upsert', fleet(1500));
    assert.deepEqual(counts(summary), { unchanged: 1500 });
    assert.ok(summary.requests >= 500, 'those of the second page');
  });
});

describe('a service that fails at random', () => {
  it('holds what the file says in the end, and every row is told of once (property)', async () => {
    const fault = fc.constantFrom(
      ...([
        cut,
        strange,
        () => refusal(500001, 'oops'),
        () => refusal(429001, 'slow'),
        () => new IotdmError('network.throttled', 'slow', { details: { retryAfterMs: 2000 } }),
        () => new IotdmError('network.timeout', 'late'),
        () => new IotdmError('network.unreachable', 'gone', { effect: 'none' }),
      ] as const),
    );
    const isRefused = (error: IotdmError): boolean =>
      error.code === 'network.throttled' || error.code === 'network.unreachable';
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        fc.array(fault, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 25 }),
        async (seed, faults, percent) => {
          const random = repeatableRandom(seed);
          const service = new MemoryService();
          const rows = fleet(150, (number) => ({ deviceId: `d-${number}` }));
          await run(service, 'create', fleet(60));
          const strike = (isAfter: boolean) => () => {
            if (random() * 100 >= percent) return;
            const error = (faults[Math.floor(random() * faults.length)] ?? cut)();
            // Who refuses has not done it.
            if (!isAfter || !isRefused(error)) throw error;
          };
          service.intercept = strike(false);
          service.interceptAnswer = strike(true);
          let first: IotdmError | undefined;
          for (let round = 0; round < 20; round += 1) {
            try {
              const summary = await run(service, 'upsert', rows);
              if (summary.failed > 0) continue;
              service.intercept = () => undefined;
              assertHolds(service, rows);
              return;
            } catch (error) {
              // The very first answer was none.
              assert.ok(error instanceof IotdmError, String(error));
              first = error;
            }
          }
          throw first ?? new Error('never finished');
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe('an import that is killed', () => {
  let dir: string;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'iotdm-crash-'));
  });
  after(() => {
    rmSync(dir, { recursive: true });
  });

  /** Ends everything at one request, before or after it took effect; returns the journal as it was then. */
  async function crash(
    service: MemoryService,
    mode: ImportMode,
    rows: readonly Enrollment[],
    path: string,
    at: number,
    isAfter: boolean,
  ): Promise<boolean> {
    const journal = await ImportJournal.open(path, { input: 'x', rows: rows.length, mode, host: 'memory' });
    let count = 0;
    let left: Buffer | undefined;
    const strike = (request: ServiceRequest): void => {
      if (left === undefined && isBulk(request) && ++count === at) left = readFileSync(path);
      if (left !== undefined) throw new IotdmError('interrupted.signal', 'killed');
    };
    service.intercept = isAfter
      ? () => {
          strike({ operation: 'find', ids: [] });
        }
      : strike;
    service.interceptAnswer = isAfter ? strike : () => undefined;
    try {
      await run(service, mode, rows, { journal });
    } catch (error) {
      assert.equal((error as IotdmError).message.startsWith('killed'), true, String(error));
    }
    service.intercept = () => undefined;
    service.interceptAnswer = () => undefined;
    await journal.close();
    if (left !== undefined) writeFileSync(path, left);
    return left !== undefined;
  }

  it('goes on where it was, and tells of every row once (property)', async () => {
    let number = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<ImportMode>('upsert', 'create', 'update', 'delete'),
        fc.array(fc.tuple(fc.integer({ min: 1, max: 12 }), fc.boolean()), { minLength: 1, maxLength: 4 }),
        async (mode, crashes) => {
          number += 1;
          const path = join(dir, `${number}`);
          const service = new MemoryService();
          const rows = fleet(95, (row) => ({ deviceId: `d-${row}` }));
          const before = { upsert: 33, create: 0, update: 95, delete: 95 }[mode];
          await run(service, 'create', fleet(before));
          for (const [at, isAfter] of crashes) await crash(service, mode, rows, path, at, isAfter);
          const identity = { input: 'x', rows: rows.length, mode, host: 'memory' };
          const journal = await ImportJournal.open(path, identity);
          const doneBefore = journal.done;
          const summary = await run(service, mode, rows, { journal });
          assert.deepEqual([summary.failed, summary.skipped], [0, doneBefore]);
          assert.equal(journal.done, 95);
          if (mode === 'delete') assert.equal(service.all.size, 0);
          else assertHolds(service, rows);
          const outcomes = { created: 0, updated: 0, unchanged: 0, deleted: 0 };
          for (let row = 0; row < 95; row += 1) outcomes[journal.state(row) as keyof typeof outcomes] += 1;
          if (mode === 'create') assert.equal(outcomes.created, 95);
          if (mode === 'update') assert.equal(outcomes.updated, 95);
          if (mode === 'delete') assert.equal(outcomes.deleted, 95);
          if (mode === 'upsert') assert.deepEqual([outcomes.created, outcomes.updated], [62, 33]);
          await journal.close();

          service.log.length = 0;
          const again = await ImportJournal.open(path, identity);
          assert.deepEqual(counts(await run(service, mode, rows, { journal: again })), { skipped: 95 });
          assert.equal(service.log.length, 0, 'a finished import sends nothing');
          await again.close();
        },
      ),
      { numRuns: 25 },
    );
  });

  it('tries failed rows again, and no others', async () => {
    const service = new MemoryService();
    const path = join(dir, 'failed');
    const identity = { input: 'x', rows: 30, mode: 'upsert', host: 'memory' };
    const rows = [...fleet(29), fakeEnrollment(99, { registrationId: 'device-0500' })];
    await run(service, 'create', [fakeEnrollment(1, { registrationId: 'device-0500' })]);
    const journal = await ImportJournal.open(path, identity);
    assert.deepEqual(counts(await run(service, 'upsert', rows, { journal })), { created: 29, failed: 1 });
    await journal.close();
    await service.delete('device-0500');
    service.log.length = 0;
    const again = await ImportJournal.open(path, identity);
    assert.deepEqual(counts(await run(service, 'upsert', rows, { journal: again })), {
      created: 1,
      skipped: 29,
    });
    assert.deepEqual(service.log, [{ operation: 'bulk create', ids: ['device-0500'] }]);
    await again.close();
  });

  it('keeps in mind what nobody could find out: the next run counts it rightly', async () => {
    for (const [mode, outcome] of [
      ['create', 'created'],
      ['upsert', 'created'],
      ['update', 'updated'],
    ] as const) {
      const path = join(dir, `doubt-${mode}`);
      const identity = { input: 'x', rows: 3, mode, host: 'memory' };
      const service = new MemoryService();
      const rows = fleet(3, (number) => ({ deviceId: `d-${number}` }));
      if (mode === 'update') await run(service, 'create', fleet(3));
      let looked = 0;
      service.intercept = ({ operation, ids }) => {
        if (operation !== 'find' || ids[0] !== 'device-0002') return;
        looked += 1;
        // An update is compared first.
        if (mode !== 'update' || looked > 1) throw strange();
      };
      failOnce(service, 'interceptAnswer', cut);
      const journal = await ImportJournal.open(path, identity);
      const summary = await run(service, mode, rows, { journal });
      assert.deepEqual(counts(summary), { [outcome]: 2, failed: 1 });
      assert.equal(
        summary.failures[0]?.message,
        'was sent, and what became of it cannot be looked up: it is not valid JSON',
      );
      await journal.close();
      assertHolds(service, rows);

      service.intercept = () => undefined;
      const again = await ImportJournal.open(path, identity);
      assert.equal(again.doubt(1), mode === 'update' ? 'update' : 'create');
      assert.deepEqual(counts(await run(service, mode, rows, { journal: again })), {
        [outcome]: 1,
        skipped: 2,
      });
      await again.close();
    }
  });

  it('whose journal fails sends nothing more', async () => {
    const service = new MemoryService();
    const journal = ImportJournal.inMemory(500);
    const full = new IotdmError('usage.output-unwritable', 'the journal cannot be written (ENOSPC)');
    journal.beforeSending = () => (service.requests >= 7 ? Promise.reject(full) : Promise.resolve());
    await assert.rejects(run(service, 'upsert', fleet(500), { journal }), { message: full.message });
    assert.ok(service.requests <= 7 + 4, `${service.requests} requests`);
  });
});
