import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Enrollment } from '../../src/dps/enrollment.ts';
import { Governor } from '../../src/dps/governor.ts';
import { IotdmError } from '../../src/errors.ts';
import type { EnrollmentRow } from '../../src/station/enrollment-input.ts';
import {
  deleteEnrollments,
  importEnrollments,
  type ImportMode,
  type ImportOptions,
  type ImportProgress,
  type ImportSummary,
} from '../../src/station/import.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService, refusal } from '../fakes/memory-service.ts';

async function* rowsOf(enrollments: Iterable<Enrollment>): AsyncGenerator<readonly EnrollmentRow[]> {
  let line = 2;
  for (const enrollment of enrollments) {
    await Promise.resolve();
    yield [{ line: line++, enrollment }];
  }
}

function seeds(count: number, from = 1): Enrollment[] {
  return Array.from({ length: count }, (_, index) => fakeEnrollment(from + index));
}

async function run(
  service: MemoryService,
  mode: ImportMode,
  enrollments: readonly Enrollment[],
  more: Partial<ImportOptions> = {},
): Promise<ImportSummary> {
  const rows = () => rowsOf(enrollments);
  const options = { rows, total: enrollments.length, service, ...inNoTime(), ...more };
  return mode === 'delete' ? deleteEnrollments(options) : importEnrollments({ ...options, mode });
}

/** A governor whose waits take no time, and by whose clock they do. */
function inNoTime(ratePerMinute = Infinity): Pick<ImportOptions, 'governor'> {
  let now = 0;
  const delay = async (ms: number, signal: AbortSignal) => {
    await new Promise((resolve) => setImmediate(resolve));
    signal.throwIfAborted();
    now += ms;
  };
  return { governor: new Governor({ ratePerMinute, clock: () => now, delay, random: () => 0.5 }) };
}

/** The counts that are not zero. */
function counts(summary: ImportSummary): Record<string, number> {
  const { total, created, updated, unchanged, deleted, failed, skipped } = summary;
  return Object.fromEntries(
    Object.entries({ total, created, updated, unchanged, deleted, failed, skipped }).filter(([, n]) => n > 0),
  );
}

async function failure(promise: Promise<unknown>): Promise<IotdmError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof IotdmError);
    return error;
  }
  return assert.fail('did not fail');
}

describe('an import into an empty service', () => {
  it('costs one request for ten rows', async () => {
    const service = new MemoryService();
    const summary = await run(service, 'upsert', seeds(1000));
    assert.deepEqual(counts(summary), { total: 1000, created: 1000 });
    assert.equal(summary.requests, 100);
    assert.equal(summary.throttled, 0);
    assert.equal(summary.journal, null);
    assert.deepEqual(summary.failures, []);
    assert.ok(Number.isInteger(summary.elapsedMs));
    assert.deepEqual(Object.keys(summary), [
      'total',
      'created',
      'updated',
      'unchanged',
      'deleted',
      'failed',
      'skipped',
      'requests',
      'throttled',
      'elapsedMs',
      'journal',
      'failures',
    ]);
  });

  it('of nothing costs nothing', async () => {
    assert.deepEqual(counts(await run(new MemoryService(), 'upsert', [])), {});
  });

  it('holds no more batches at a time than concurrency allows', async () => {
    const service = new MemoryService();
    let underWay = 0;
    let most = 0;
    let read = 0;
    let settled = 0;
    let mostRowsInMemory = 0;
    const fleet = seeds(300);
    service.intercept = async () => {
      underWay += 1;
      most = Math.max(most, underWay);
      await new Promise((resolve) => setImmediate(resolve));
      underWay -= 1;
    };
    function* counted(): Iterable<Enrollment> {
      for (const enrollment of fleet) {
        read += 1;
        mostRowsInMemory = Math.max(mostRowsInMemory, read - settled);
        yield enrollment;
      }
    }
    await run(service, 'create', fleet, {
      rows: () => rowsOf(counted()),
      concurrency: 3,
      onProgress: ({ done }) => (settled = done),
    });
    assert.equal(most, 3);
    // Those of the requests under way, of the one that is made ready, and a last one that waits.
    assert.ok(mostRowsInMemory <= 10 * (3 + 1) + 10, `${mostRowsInMemory} rows`);
  });

  it('tells how far it is', async () => {
    const progress: ImportProgress[] = [];
    await run(new MemoryService(), 'upsert', seeds(25), { onProgress: (now) => progress.push(now) });
    assert.deepEqual(
      progress.map(({ done }) => done),
      Array.from({ length: 25 }, (_, index) => index + 1),
    );
    assert.deepEqual(progress.at(-1), { done: 25, total: 25, failed: 0, skipped: 0, throttled: 0 });
  });
});

describe('upsert', () => {
  it('leaves alone what is equal already', async () => {
    const service = new MemoryService();
    await run(service, 'upsert', seeds(10));
    const before = await service.find('device-0001');
    const summary = await run(service, 'upsert', seeds(20));
    assert.deepEqual(counts(summary), { total: 20, created: 10, unchanged: 10 });
    assert.equal(summary.requests, 2 + 1, 'all enrollments were read at once');
    assert.deepEqual(await service.find('device-0001'), before);
  });

  it('merges a row with what the service holds', async () => {
    const service = new MemoryService();
    const stored = await service.create(
      fakeEnrollment(1, {
        deviceId: 'kept',
        iotHubs: ['kept.azure-devices.net'],
        provisioningStatus: 'disabled',
        initialTwin: {
          tags: { line: { number: 4, shift: 'early' }, list: [1, 2], gone: true },
          properties: { desired: { interval: 5 } },
        },
      }),
    );
    const row = fakeEnrollment(1, {
      registrationId: 'device-0001',
      provisioningStatus: 'enabled',
      capabilities: { iotEdge: true },
      initialTwin: { tags: { line: { shift: 'late' }, list: [3], gone: null, fresh: 'x' } },
    });
    const summary = await run(service, 'upsert', [row]);
    assert.deepEqual(counts(summary), { total: 1, updated: 1 });
    assert.deepEqual(
      service.log.slice(1).map(({ operation }) => operation),
      ['bulk create', 'find', 'bulk updateIfMatchETag'],
    );
    const after = await service.find('device-0001');
    assert.deepEqual(after, {
      ...stored,
      etag: after?.etag,
      provisioningStatus: 'enabled',
      capabilities: { iotEdge: true },
      initialTwin: {
        tags: { line: { number: 4, shift: 'late' }, list: [3], fresh: 'x' },
        properties: { desired: { interval: 5 } },
      },
    });
    assert.deepEqual(counts(await run(service, 'upsert', [row])), { total: 1, unchanged: 1 });
  });

  it('takes iotHubHostName and iotHubs for the same fact', async () => {
    const service = new MemoryService();
    const hub = (name: string) => fakeEnrollment(1, { iotHubHostName: name });
    await service.create(fakeEnrollment(1, { iotHubs: ['a.azure-devices.net'] }));
    assert.deepEqual(counts(await run(service, 'upsert', [hub('a.azure-devices.net')])), {
      total: 1,
      unchanged: 1,
    });
    assert.deepEqual(counts(await run(service, 'upsert', [hub('b.azure-devices.net')])), {
      total: 1,
      updated: 1,
    });
    const after = await service.find('device-0001');
    assert.equal(after?.iotHubHostName, 'b.azure-devices.net');
    assert.equal(after.iotHubs, undefined);
  });

  it('keeps members of an enrollment that iotdm does not know', async () => {
    const service = new MemoryService();
    const custom = { customAllocationDefinition: { webhookUrl: 'https://example.net', apiVersion: 'v' } };
    await service.create({ ...fakeEnrollment(1), ...custom });
    await run(service, 'upsert', [fakeEnrollment(1, { deviceId: 'new' })]);
    const after = await service.find('device-0001');
    assert.deepEqual(
      (after as unknown as typeof custom).customAllocationDefinition,
      custom.customAllocationDefinition,
    );
    assert.equal(after?.deviceId, 'new');
  });

  it('does not let twins reach a prototype', async () => {
    const service = new MemoryService();
    await service.create(fakeEnrollment(1));
    const tags = JSON.parse('{"__proto__":{"polluted":true}}') as Record<string, string>;
    await run(service, 'upsert', [fakeEnrollment(1, { initialTwin: { tags } })]);
    assert.equal(({} as { polluted?: unknown }).polluted, undefined);
  });

  for (const mode of ['upsert', 'update'] as const) {
    it(`never writes over another endorsement key (${mode})`, async () => {
      const service = new MemoryService();
      await run(service, 'create', seeds(3));
      const before = await service.find('device-0002');
      const thief = fakeEnrollment(99, { registrationId: 'Device-0002', deviceId: 'thief' });
      const summary = await run(service, mode, [fakeEnrollment(1), thief, fakeEnrollment(3)]);
      assert.deepEqual(counts(summary), { total: 3, unchanged: 2, failed: 1 });
      assert.deepEqual(summary.failures, [
        {
          line: 3,
          registrationId: 'Device-0002',
          code: 'service.conflict',
          message: 'holds another endorsement key',
        },
      ]);
      assert.deepEqual(await service.find('device-0002'), before);
    });

    it(`never turns another kind of enrollment into one for a TPM (${mode})`, async () => {
      const service = new MemoryService();
      await service.create({
        registrationId: 'device-0001',
        attestation: { type: 'x509' },
      } as unknown as Enrollment);
      const summary = await run(service, mode, seeds(1));
      assert.equal(summary.failures[0]?.code, 'service.conflict');
      assert.match(summary.failures[0].message, /x509 attestation, not with a TPM/);
    });
  }

  it('finds two devices with one id in the same file', async () => {
    const service = new MemoryService();
    const summary = await run(service, 'upsert', [
      fakeEnrollment(1),
      fakeEnrollment(1, { registrationId: 'DEVICE-0001', deviceId: 'again' }),
      fakeEnrollment(2),
      fakeEnrollment(9, { registrationId: 'device-0001' }),
    ]);
    assert.deepEqual(counts(summary), { total: 4, created: 2, updated: 1, failed: 1 });
    assert.deepEqual(
      summary.failures.map(({ line, message }) => [line, message]),
      [[5, 'holds another endorsement key']],
    );
    const after = await service.find('device-0001');
    assert.equal(after?.attestation.tpm?.endorsementKey, syntheticEndorsementKey(1));
  });

  it('does not write over a version that it has not seen', async () => {
    const service = new MemoryService();
    await run(service, 'create', seeds(2));
    let interfered = false;
    service.intercept = async ({ operation }) => {
      if (operation !== 'bulk updateIfMatchETag' || interfered) return;
      interfered = true;
      await service.replace(fakeEnrollment(1, { deviceId: 'somebody-elses' }), '*');
    };
    const summary = await run(service, 'upsert', [
      fakeEnrollment(1, { deviceId: 'mine' }),
      fakeEnrollment(2, { deviceId: 'mine-too' }),
    ]);
    assert.deepEqual(counts(summary), { total: 2, updated: 1, failed: 1 });
    assert.equal(summary.failures[0]?.code, 'service.changed-meanwhile');
    assert.equal((await service.find('device-0001'))?.deviceId, 'somebody-elses');
  });

  it('reports a conflict that nobody can find', async () => {
    const service = new MemoryService();
    await service.create(fakeEnrollment(1));
    service.intercept = async ({ operation }) => {
      if (operation === 'find') {
        service.intercept = () => undefined;
        await service.delete('device-0001');
      }
    };
    const summary = await run(service, 'upsert', seeds(1));
    assert.deepEqual(counts(summary), { total: 1, failed: 1 });
    assert.match(summary.failures[0]?.message ?? '', /\(409001\): enrollment already exists/);
  });
});

describe('the other modes', () => {
  it('create: what is there already is a failure, even when it is equal', async () => {
    const service = new MemoryService();
    await run(service, 'create', seeds(2));
    const summary = await run(service, 'create', seeds(4));
    assert.deepEqual(counts(summary), { total: 4, created: 2, failed: 2 });
    assert.deepEqual(new Set(summary.failures.map(({ code }) => code)), new Set(['service.conflict']));
    assert.equal(summary.requests, 1);
  });

  it('update: what is absent is a failure', async () => {
    const service = new MemoryService();
    await run(service, 'create', seeds(2));
    const rows = seeds(3).map((enrollment) => ({
      ...enrollment,
      deviceId: `new-${enrollment.registrationId}`,
    }));
    const summary = await run(service, 'update', rows);
    assert.deepEqual(counts(summary), { total: 3, updated: 2, failed: 1 });
    assert.deepEqual(summary.failures, [
      { line: 4, registrationId: 'device-0003', code: 'service.not-found', message: 'is not enrolled' },
    ]);
  });

  it('delete: what is absent is skipped', async () => {
    const service = new MemoryService();
    await run(service, 'create', seeds(12));
    const summary = await run(service, 'delete', seeds(20, 3));
    assert.deepEqual(counts(summary), { total: 20, deleted: 10, skipped: 10 });
    assert.equal(summary.requests, 1 + 10, 'a page, and each in the version that it shows');
    assert.ok(await service.find('device-0002'));
    assert.equal(await service.find('device-0003'), undefined);
  });
});

describe('faults', () => {
  /** Refuses a bulk request as a whole when it holds one of these. */
  const refusing = (service: MemoryService, ...bad: string[]) => {
    service.intercept = ({ operation, ids }) => {
      if (operation.startsWith('bulk') && ids.some((id) => bad.includes(id))) {
        throw refusal(400201, 'endorsement key is invalid');
      }
    };
  };

  it('of one row do not stop the others of its request', async () => {
    const service = new MemoryService();
    refusing(service, 'device-0007', 'device-0008');
    const summary = await run(service, 'upsert', seeds(10));
    assert.deepEqual(counts(summary), { total: 10, created: 8, failed: 2 });
    assert.deepEqual(
      summary.failures.map(({ registrationId, code, message }) => [registrationId, code, message]),
      [
        ['device-0007', 'service.invalid', 'endorsement key is invalid'],
        ['device-0008', 'service.invalid', 'endorsement key is invalid'],
      ],
    );
    assert.ok(summary.requests <= 9, `${summary.requests} requests`);
  });

  it('of all rows are counted, and a hundred listed', async () => {
    const service = new MemoryService();
    await run(service, 'create', seeds(150));
    const summary = await run(service, 'create', seeds(150));
    assert.equal(summary.failed, 150);
    assert.equal(summary.failures.length, 100);
  });

  it('of a look-up are those of its row, unless every other would suffer too', async () => {
    const service = new MemoryService();
    await run(service, 'create', seeds(3));
    service.intercept = ({ operation, ids }) => {
      if (operation === 'find' && ids[0] === 'device-0002') {
        throw new IotdmError('service.unexpected-answer', 'etag is not a text');
      }
    };
    const summary = await run(service, 'upsert', seeds(3));
    assert.deepEqual(counts(summary), { total: 3, unchanged: 2, failed: 1 });
    assert.equal(summary.failures[0]?.code, 'service.unexpected-answer');

    service.intercept = ({ operation }) => {
      if (operation === 'find') throw refusal(500001, 'down');
    };
    const error = await failure(run(service, 'upsert', seeds(3)));
    assert.equal(error.code, 'network.unavailable');
    assert.match(error.message, /^down; nothing got through for 6\d\d s$/);
  });

  it('that end everything are thrown with the counts so far, when what is under way has settled', async () => {
    const service = new MemoryService();
    const fleet = seeds(1000);
    let batches = 0;
    let read = 0;
    service.intercept = async () => {
      batches += 1;
      if (batches === 3) throw refusal(401002, 'no');
      for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    };
    function* counted(): Iterable<Enrollment> {
      for (const enrollment of fleet) {
        read += 1;
        yield enrollment;
      }
    }
    const error = await failure(run(service, 'upsert', fleet, { rows: () => rowsOf(counted()) }));
    assert.equal(error.code, 'auth.refused');
    assert.equal(error.message, 'no');
    const { created, total, failed, requests, errorCode: shown } = error.details ?? {};
    assert.equal(shown, 401002);
    assert.equal(failed, 0);
    assert.equal(total, 1000);
    assert.ok(Number(created) >= 20 && Number(created) % 10 === 0);
    assert.equal(Number(requests) * 10, Number(created) + 10);
    assert.ok(read < 70);
    let held = 0;
    service.intercept = () => undefined;
    for await (const page of service.list()) held += page.length;
    assert.equal(held, created);
  });

  it('of an unusable bulk answer end the import', async () => {
    const service = new MemoryService();
    service.intercept = () => {
      throw new IotdmError('service.unexpected-answer', 'a page', { details: { status: 200 } });
    };
    assert.equal((await failure(run(service, 'upsert', seeds(10)))).code, 'service.unexpected-answer');
    assert.equal(service.requests, 1);
    service.intercept = () => {
      throw new IotdmError('service.unexpected-answer', 'it is not valid JSON');
    };
    const error = await failure(run(service, 'upsert', seeds(10)));
    assert.equal(error.code, 'service.unexpected-answer');
    assert.equal(error.details?.['failed'], 0);
    assert.ok(service.log.length <= 20, `${service.log.length} requests`);
  });

  it('of the input end it too', async () => {
    const service = new MemoryService();
    const unreadable = new IotdmError('input.unreadable', 'gone');
    async function* rows(): AsyncGenerator<readonly EnrollmentRow[]> {
      yield* rowsOf(seeds(15));
      throw unreadable;
    }
    const error = await failure(importEnrollments({ rows, total: 20, service, mode: 'upsert' }));
    assert.equal(error.code, 'input.unreadable');
    assert.deepEqual([error.details?.['total'], error.details?.['created']], [20, 10]);
  });

  it('like an interruption let what is under way finish', async () => {
    const service = new MemoryService();
    const stop = new AbortController();
    service.intercept = () => {
      if (service.requests >= 4) stop.abort();
    };
    const error = await failure(run(service, 'upsert', seeds(1000), { signal: stop.signal }));
    assert.equal(error.code, 'interrupted.signal');
    assert.equal(Number(error.details?.['created']), service.requests * 10);
    assert.ok(service.requests < 10);
  });

  it('before the first row cost no request', async () => {
    const service = new MemoryService();
    const error = await failure(run(service, 'upsert', seeds(5), { signal: AbortSignal.abort() }));
    assert.equal(error.code, 'interrupted.signal');
    assert.equal(service.requests, 0);
  });
});
