/** What every ProvisioningService does: the one in memory, and Azure's client against the emulator over TLS. */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, beforeEach, describe, it } from 'node:test';
import { openAzureService } from '../../src/dps/azure-service.ts';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import { parseServiceConnectionString } from '../../src/dps/service-connection-string.ts';
import type { ProvisioningService } from '../../src/dps/service.ts';
import { startEmulator } from '../../src/emulator/emulator.ts';
import { IotdmError } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';
import { checkEnrollmentInput, readPlacedDeletions } from '../../src/station/enrollment-input.ts';
import { deleteEnrollments, importEnrollments, type ImportSummary } from '../../src/station/import.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService } from '../fakes/memory-service.ts';

interface Subject {
  readonly service: ProvisioningService;
  close(): Promise<void>;
}

const subjects: Readonly<Record<string, () => Promise<Subject>>> = {
  memory: () => Promise.resolve({ service: new MemoryService(), close: () => Promise.resolve() }),
  emulator: async () => {
    const dir = await mkdtemp(join(tmpdir(), 'iotdm-dps-'));
    const emulator = await startEmulator({ dir });
    const { host, connectionStringFile, ca } = emulator.info;
    const service = openAzureService({
      credentials: parseServiceConnectionString(await readFile(connectionStringFile, 'utf8')),
      host,
      ca: await readFile(ca, 'utf8'),
      userAgent: 'iotdm/test',
      delay: () => Promise.resolve(),
    });
    return {
      service,
      async close() {
        service.close();
        await emulator.close();
        await rm(dir, { recursive: true });
      },
    };
  },
};

const full: Enrollment = fakeEnrollment(1, {
  deviceId: 'Device-One',
  capabilities: { iotEdge: true },
  iotHubs: ['hub.azure-devices.net'],
  allocationPolicy: 'static',
  provisioningStatus: 'disabled',
  reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false },
  initialTwin: {
    tags: { line: { number: 4, shifts: ['early', 'late'] }, ümlaut: '✓' },
    properties: { desired: { interval: 5, on: true } },
  },
});

/** The members that were written, as they come back. */
function written(stored: StoredEnrollment, enrollment: Enrollment): Partial<StoredEnrollment> {
  const names = Object.keys(enrollment) as (keyof Enrollment)[];
  return Object.fromEntries(names.map((name) => [name, stored[name]]));
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    return error.code;
  }
  return 'success';
}

async function all(
  service: ProvisioningService,
  pageSize?: number,
): Promise<(readonly StoredEnrollment[])[]> {
  const pages: (readonly StoredEnrollment[])[] = [];
  for await (const page of service.list(pageSize === undefined ? {} : { pageSize })) pages.push(page);
  return pages;
}

async function* rows(count: number) {
  for (let seed = 1; seed <= count; seed += 1) {
    await Promise.resolve();
    yield [{ line: seed + 1, enrollment: fakeEnrollment(seed, { deviceId: `Device-${seed}` }) }];
  }
}

for (const [name, open] of Object.entries(subjects)) {
  describe(`the provisioning service in ${name}`, () => {
    let subject: Subject;
    let service: ProvisioningService;
    before(async () => {
      subject = await open();
      ({ service } = subject);
    });
    beforeEach(async () => {
      for (const page of await all(service)) {
        for (const { registrationId } of page) await service.delete(registrationId);
      }
    });
    after(() => subject.close());

    it('keeps what is created, and creates nothing twice', async () => {
      const stored = await service.create(full);
      assert.deepEqual(written(stored, full), full);
      assert.deepEqual(await service.find(full.registrationId), stored);
      assert.deepEqual(await service.find(full.registrationId.toUpperCase()), stored);
      assert.equal(await codeOf(service.create(full)), 'service.conflict');
      assert.equal(await codeOf(service.create({ ...full, etag: stored.etag })), 'service.conflict');
    });

    it('replaces only the version that was seen, or any', async () => {
      const first = await service.create(full);
      const smaller = fakeEnrollment(1, { deviceId: 'two' });
      const second = await service.replace(smaller, first.etag);
      assert.notEqual(second.etag, first.etag);
      assert.deepEqual(written(second, smaller), smaller);
      assert.equal(second.initialTwin?.tags?.['line'], undefined);
      assert.equal(await codeOf(service.replace(full, first.etag)), 'service.changed-meanwhile');
      assert.equal((await service.replace(full, '*')).deviceId, 'Device-One');
    });

    it('deletes, once, and only the version that was seen', async () => {
      const { etag } = await service.create(full);
      assert.equal(await codeOf(service.delete(full.registrationId, '"other"')), 'service.changed-meanwhile');
      await service.delete(full.registrationId, etag);
      assert.equal(await service.find(full.registrationId), undefined);
      assert.equal(await codeOf(service.delete(full.registrationId)), 'service.not-found');
    });

    it('does ten at a time and names what failed', async () => {
      const ten = Array.from({ length: 10 }, (_, index) => fakeEnrollment(index + 1));
      assert.deepEqual(await service.bulk('create', ten.slice(0, 9)), { isSuccessful: true, errors: [] });
      const created = await service.bulk('create', ten.slice(8));
      assert.equal(created.isSuccessful, false);
      assert.deepEqual(
        created.errors.map(({ registrationId, errorCode }) => [registrationId, Math.trunc(errorCode / 1000)]),
        [['device-0009', 409]],
      );

      const stored = await service.find('device-0001');
      assert.ok(stored);
      const changed = { ...ten[0], deviceId: 'changed' } as Enrollment;
      const changes = await service.bulk('updateIfMatchETag', [
        { ...changed, etag: stored.etag },
        { ...fakeEnrollment(2), etag: '"stale"' },
        { ...fakeEnrollment(77), etag: '"absent"' },
      ]);
      assert.deepEqual(
        changes.errors.map(({ registrationId, errorCode }) => [registrationId, Math.trunc(errorCode / 1000)]),
        [
          ['device-0002', 412],
          ['device-0077', 404],
        ],
      );
      assert.equal((await service.find('device-0001'))?.deviceId, 'changed');

      const deleted = await service.bulk('delete', [...ten.slice(0, 3), fakeEnrollment(77)]);
      assert.deepEqual(
        deleted.errors.map(({ registrationId, errorCode }) => [registrationId, Math.trunc(errorCode / 1000)]),
        [['device-0077', 404]],
      );
      assert.equal((await all(service)).flat().length, 7);
    });

    it('takes a thousand rows in a hundred requests and lists them in one', async () => {
      const summary = await importEnrollments({
        rows: () => rows(1000),
        total: 1000,
        service,
        mode: 'upsert',
      });
      assert.equal(summary.created, 1000);
      assert.equal(summary.requests, 100);

      const before = service.requests;
      const pages = await all(service);
      assert.equal(service.requests - before, 1);
      const listed = pages.flat().sort((a, b) => a.registrationId.localeCompare(b.registrationId));
      const expected: Enrollment[] = [];
      for await (const some of rows(1000)) expected.push(...some.map(({ enrollment }) => enrollment));
      assert.deepEqual(
        listed.map((stored, index) => written(stored, expected[index] ?? full)),
        expected,
      );

      assert.deepEqual(
        (await all(service, 300)).map(({ length }) => length),
        [300, 300, 300, 100],
      );
    });

    it('is left as it is by the same import again', async () => {
      await importEnrollments({ rows: () => rows(25), total: 25, service, mode: 'upsert' });
      const before = await all(service);
      const again = await importEnrollments({ rows: () => rows(25), total: 25, service, mode: 'upsert' });
      assert.deepEqual([again.created, again.updated, again.unchanged], [0, 0, 25]);
      assert.deepEqual(await all(service), before);
      const full = await deleteEnrollments({ rows: () => rows(25), total: 25, service });
      assert.equal(full.deleted, 25);
    });

    it('deletes what it lists of whatever kind, and nothing that only has the same id', async () => {
      await service.create(fakeEnrollment(1));
      const attestation = { type: 'symmetricKey' } as unknown as Enrollment['attestation'];
      await service.create({ registrationId: 'by-key', attestation });
      const listed = (await all(service)).flat();
      const deletion = async (enrollments: readonly object[]): Promise<ImportSummary> => {
        const open = () => Readable.from([Buffer.from(JSON.stringify(enrollments))]) as AsyncIterable<Buffer>;
        const sources = [{ name: 'listed.json', open }];
        const options = { deletion: 'compared' } as const;
        const { seal, faults } = await checkEnrollmentInput(sources, options);
        assert.deepEqual(faults, []);
        const rows = () => readPlacedDeletions(sources, options, seal);
        return deleteEnrollments({ rows, total: enrollments.length, service });
      };
      const ids = listed.map(({ registrationId }) => registrationId);
      const swapped = listed.map((row, index) => ({ ...row, registrationId: ids[1 - index] }));
      const wrong = await deletion(swapped);
      assert.deepEqual([wrong.deleted, wrong.failed], [0, 2]);
      const right = await deletion(listed);
      assert.deepEqual([right.deleted, right.failed], [2, 0]);
      assert.deepEqual((await all(service)).flat(), []);
    });

    it('never exchanges the endorsement key of a registration id', async () => {
      const before = await service.create(fakeEnrollment(1));
      async function* thief() {
        await Promise.resolve();
        yield [{ line: 2, enrollment: { ...fakeEnrollment(2), registrationId: 'device-0001' } }];
      }
      for (const mode of ['upsert', 'update'] as const) {
        const summary = await importEnrollments({ rows: thief, total: 1, service, mode });
        assert.equal(summary.failures[0]?.message, 'holds another endorsement key');
      }
      assert.deepEqual(await service.find('device-0001'), before);
    });
  });
}

describe('the emulator', () => {
  it('counts as many requests as the client, and refuses another key', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'iotdm-dps-'));
    const emulator = await startEmulator({ dir });
    const ca = await readFile(emulator.info.ca, 'utf8');
    const credentials = parseServiceConnectionString(
      await readFile(emulator.info.connectionStringFile, 'utf8'),
    );
    const service = openAzureService({ credentials, ca, userAgent: 'iotdm/test' });
    const impostor = openAzureService({
      credentials: { ...credentials, key: Secret.fromBytes(Buffer.alloc(32)) },
      ca,
      userAgent: 'iotdm/test',
    });
    try {
      await importEnrollments({ rows: () => rows(45), total: 45, service, mode: 'upsert' });
      assert.deepEqual([service.requests, emulator.requests], [5, 5]);
      assert.equal(await codeOf(impostor.find('device-0001')), 'auth.refused');
      assert.equal(
        await codeOf(deleteEnrollments({ rows: () => rows(5), total: 5, service: impostor })),
        'auth.refused',
      );
      assert.ok(await service.find('device-0001'));
    } finally {
      service.close();
      impostor.close();
      await emulator.close();
      await rm(dir, { recursive: true });
    }
  });
});
