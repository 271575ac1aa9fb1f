import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Enrollment, StoredEnrollment, TwinObject } from '../../src/dps/enrollment.ts';
import { holdsSameKey, mergeEnrollment } from '../../src/station/enrollment-merge.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';

const hub = fc.constantFrom('a.azure-devices.net', 'b.azure-devices.net');
const twin = fc.dictionary(
  fc.constantFrom('a', 'b', 'c', '__proto__', 'constructor'),
  fc.jsonValue({ maxDepth: 3 }),
) as fc.Arbitrary<TwinObject>;
const members = fc.record(
  {
    deviceId: fc.constantFrom('one', 'two'),
    capabilities: fc.record({ iotEdge: fc.boolean() }),
    iotHubHostName: hub,
    iotHubs: fc.array(hub, { minLength: 1 }),
    provisioningStatus: fc.constantFrom('enabled' as const, 'disabled' as const),
    initialTwin: fc.record(
      { tags: twin, properties: fc.record({ desired: twin }, { requiredKeys: [] }) },
      { requiredKeys: [] },
    ),
    optionalDeviceInformation: twin,
  },
  { requiredKeys: [] },
) as fc.Arbitrary<Partial<Enrollment>>;

function stored(more: Partial<Enrollment>): StoredEnrollment {
  return {
    ...fakeEnrollment(1),
    ...more,
    etag: '"1"',
    lastUpdatedDateTimeUtc: '2026-01-02T03:04:05Z',
    registrationState: { status: 'assigned' },
  };
}

describe('merging a row into an enrollment', () => {
  it('done twice changes nothing the second time', () => {
    fc.assert(
      fc.property(members, members, (before, named) => {
        const row = fakeEnrollment(1, named);
        const once = mergeEnrollment(stored(before), row);
        const written = { ...once.enrollment, etag: '"2"' } as StoredEnrollment;
        assert.equal(mergeEnrollment(written, row).unchanged, true);
        assert.deepEqual(Object.keys(Object.prototype), []);
      }),
    );
  });

  it('keeps every member that the row does not name, and the etag that was read', () => {
    fc.assert(
      fc.property(members, (before) => {
        const { enrollment, unchanged } = mergeEnrollment(stored(before), fakeEnrollment(1));
        assert.equal(unchanged, true);
        assert.deepEqual(enrollment, { ...fakeEnrollment(1), ...before, etag: '"1"' });
      }),
    );
  });

  it('replaces what the row names', () => {
    const before = stored({ deviceId: 'old', iotHubs: ['a.azure-devices.net'] });
    const { enrollment, unchanged } = mergeEnrollment(
      before,
      fakeEnrollment(1, { deviceId: 'new', iotHubHostName: 'b.azure-devices.net' }),
    );
    assert.equal(unchanged, false);
    assert.deepEqual(enrollment, {
      ...fakeEnrollment(1),
      deviceId: 'new',
      iotHubHostName: 'b.azure-devices.net',
      etag: '"1"',
    });
  });

  it('is only for the same endorsement key', () => {
    assert.equal(holdsSameKey(stored({}), fakeEnrollment(1)), true);
    assert.equal(holdsSameKey(stored({}), fakeEnrollment(2)), false);
    assert.equal(holdsSameKey({ ...stored({}), attestation: { type: 'x509' } }, fakeEnrollment(1)), false);
  });
});
