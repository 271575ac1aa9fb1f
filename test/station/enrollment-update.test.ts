import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Enrollment } from '../../src/dps/enrollment.ts';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { planUpdate, type EnrollmentUpdate } from '../../src/station/enrollment-update.ts';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { MemoryService } from '../fakes/memory-service.ts';

function enrollment(registrationId: string, key: number, more: Partial<Enrollment> = {}): Enrollment {
  return {
    registrationId,
    attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(key) } },
    ...more,
  };
}

const derivedId = (key: number): string =>
  registrationIdOf(Buffer.from(syntheticEndorsementKey(key), 'base64'));

function update(values: Enrollment, more: Partial<EnrollmentUpdate> = {}): EnrollmentUpdate {
  return { values, namesKey: false, replaceKey: false, ...more };
}

const refused = (code: ErrorCode) => (error: unknown) => {
  assert.ok(error instanceof IotdmError, String(error));
  assert.equal(error.code, code);
  return true;
};

describe('planUpdate', () => {
  it('writes nothing, and plans to write what the service holds but for what is named', async () => {
    const service = new MemoryService();
    const stored = await service.create(
      enrollment('a', 1, {
        deviceId: 'pump',
        capabilities: { iotEdge: true },
        initialTwin: { tags: { site: 'Linz', line: { a: 1, b: 2 } }, properties: { desired: { x: 1 } } },
      }),
    );
    const values = enrollment('ignored', 2, {
      initialTwin: { tags: { site: null, line: { b: null, c: 3 } } },
    });
    const planned = await planUpdate(service, 'a', update(values));
    assert.equal(planned.unchanged, false);
    assert.equal(planned.enrollment.etag, stored.etag);
    assert.deepEqual(planned.enrollment, {
      ...enrollment('a', 1),
      deviceId: 'pump',
      capabilities: { iotEdge: true },
      provisioningStatus: 'enabled',
      etag: stored.etag,
      initialTwin: { tags: { line: { a: 1, c: 3 } }, properties: { desired: { x: 1 } } },
    });
    assert.deepEqual(await service.find('a'), stored);
    const same = await planUpdate(service, 'a', update(enrollment('a', 1, { deviceId: 'pump' })));
    assert.equal(same.unchanged, true);
  });

  it('does not lose what somebody else changes between reading and writing', async () => {
    const service = new MemoryService();
    const stored = await service.create(enrollment('a', 1));
    const { enrollment: planned } = await planUpdate(
      service,
      'a',
      update(enrollment('a', 1, { deviceId: 'x' })),
    );
    await service.replace(enrollment('a', 1, { deviceId: 'y' }), stored.etag);
    await assert.rejects(service.replace(planned, stored.etag), refused('service.changed-meanwhile'));
    await assert.rejects(
      planUpdate(service, 'a', update(enrollment('a', 1), { ifMatch: stored.etag })),
      refused('service.changed-meanwhile'),
    );
  });

  it('replaces the endorsement key only when told, and never with one that is enrolled elsewhere', async () => {
    const service = new MemoryService();
    await service.create(enrollment(derivedId(1), 1, { deviceId: 'pump' }));
    await service.create(enrollment(derivedId(3), 3));
    const id = derivedId(1);
    const otherKey = update(enrollment(id, 2), { namesKey: true });
    await assert.rejects(planUpdate(service, id, otherKey), refused('service.key-differs'));
    const sameKey = await planUpdate(service, id, update(enrollment(id, 1), { namesKey: true }));
    assert.equal(sameKey.unchanged, true);
    const planned = await planUpdate(service, id, { ...otherKey, replaceKey: true });
    assert.deepEqual(planned.enrollment.attestation, enrollment(id, 2).attestation);
    assert.equal(planned.enrollment.deviceId, 'pump');
    assert.equal(planned.expectedId, derivedId(2), 'the new TPM will not ask for the id of the old one');
    await assert.rejects(
      planUpdate(service, id, update(enrollment(id, 3), { namesKey: true, replaceKey: true })),
      refused('service.conflict'),
    );
  });

  it('refuses what is not there', async () => {
    await assert.rejects(
      planUpdate(new MemoryService(), 'a', update(enrollment('a', 1))),
      refused('service.not-found'),
    );
  });

  it('leaves alone what is not enrolled by a TPM: its keys would be lost', async () => {
    const service = new MemoryService();
    const stored = await service.create(enrollment('a', 1));
    service.find = () => Promise.resolve({ ...stored, attestation: { type: 'symmetricKey' } });
    const named = update(enrollment('a', 1), { namesKey: true, replaceKey: true });
    await assert.rejects(planUpdate(service, 'a', named), refused('service.not-tpm'));
  });
});
