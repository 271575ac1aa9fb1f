import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { StoredEnrollment } from '../../../src/dps/enrollment.ts';
import type { SlotView } from '../../../src/slot/slots.ts';
import { claim, type ClaimFacts } from '../../../src/station/provision/claim.ts';
import type { RegistrationRecord } from '../../../src/station/registration-records.ts';

const view: SlotView = {
  slot: 0,
  state: 'ready',
  uri: 'hub.net/press-1',
  hostName: 'hub.net',
  deviceId: 'press-1',
  moduleId: null,
  keyName: '00'.repeat(34),
  remark: null,
  interrupted: null,
};

const record: RegistrationRecord = {
  slot: 0,
  keyName: view.keyName ?? '',
  registrationId: 'reg',
  isDerivedId: true,
  isSuperseded: false,
  idScope: '0ne1',
  deviceHost: 'dps',
  deviceId: 'press-1',
  assignedHub: 'hub.net',
  substatus: null,
  registeredAt: '2026-01-01T00:00:00Z',
};

function stored(more: object): StoredEnrollment {
  return { registrationId: 'reg', attestation: { type: 'tpm' }, etag: '"1"', ...more };
}

const assigned = { registrationState: { status: 'assigned', assignedHub: 'HUB.net', deviceId: 'press-1' } };

function claimed(facts: Partial<ClaimFacts>): string {
  const base: ClaimFacts = {
    view,
    registrationId: 'reg',
    idScope: '0ne1',
    deviceId: undefined,
    record: undefined,
    stored: undefined,
    overwrite: false,
  };
  try {
    return claim({ ...base, ...facts });
  } catch (error) {
    return (error as { code: string }).code;
  }
}

describe('whose identity a slot holds', () => {
  const table: readonly (readonly [what: string, facts: Partial<ClaimFacts>, expected: string])[] = [
    ['the service says so', { stored: stored(assigned) }, 'ours'],
    ['a record says so', { record }, 'ours'],
    [
      'a record of this key, of another registration',
      { record: { ...record, registrationId: 'x' } },
      'tpm.slot-not-empty',
    ],
    ['a record of another service', { record: { ...record, idScope: '0ne2' } }, 'tpm.slot-not-empty'],
    ['a record of another identity', { record: { ...record, deviceId: 'x' } }, 'tpm.slot-not-empty'],
    ['a record, but another id is asked for', { record, deviceId: 'press-2' }, 'tpm.slot-not-empty'],
    [
      'a record, but another id is enrolled',
      { record, stored: stored({ deviceId: 'press-2' }) },
      'tpm.slot-not-empty',
    ],
    [
      'the service has assigned another',
      { stored: stored({ registrationState: { ...assigned.registrationState, deviceId: 'x' } }) },
      'tpm.slot-not-empty',
    ],
    [
      'the service has assigned none yet',
      { stored: stored({ registrationState: { status: 'unassigned' } }) },
      'tpm.slot-not-empty',
    ],
    ['nobody is asked, and the name fits', { deviceId: 'press-1' }, 'named'],
    [
      'the service knows nothing of it, and the name fits',
      { deviceId: 'press-1', stored: null },
      'tpm.slot-not-empty',
    ],
    ['nobody is asked, and no name fits', {}, 'tpm.slot-not-empty'],
    ['the same, and it may be replaced', { overwrite: true }, 'replace'],
    ['it is a module', { view: { ...view, moduleId: 'AppB' }, record }, 'tpm.slot-not-empty'],
    ['it is empty', { view: { ...view, state: 'empty', uri: null } }, 'empty'],
    ['it is incomplete', { view: { ...view, state: 'incomplete' }, record }, 'tpm.slot-incomplete'],
    [
      'it is incomplete, and may be replaced',
      { view: { ...view, state: 'incomplete' }, overwrite: true },
      'replace',
    ],
    [
      'it is foreign, and identities may be replaced',
      { view: { ...view, state: 'foreign' }, overwrite: true },
      'tpm.slot-foreign',
    ],
  ];
  for (const [what, facts, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.equal(claimed(facts), expected);
    });
  }
});
