/** Registration of devices: the whole protocol with a TPM in software, and everything that must be refused. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { afterEach, before, beforeEach, describe, it } from 'node:test';
import { parseFault } from '../../src/emulator/fault-spec.ts';
import { remove, startRig, temporaryDirectory, type Answer, type Rig } from './rig.ts';
import {
  deviceAnswer,
  softwareChip,
  SoftwareDevice,
  token,
  unwrapKey,
  type RegistrationState,
  type SoftwareChip,
} from './software-device.ts';

let dir = '';
let rig: Rig;
let chips: readonly SoftwareChip[];
let device: SoftwareDevice;
let now: number | undefined;
const clock = (): Date => new Date(now ?? Date.now());

before(() => {
  // RSA keys are dear; devices of several tests may have the same.
  chips = [softwareChip(), softwareChip()];
});

beforeEach(async () => {
  now = undefined;
  dir = await temporaryDirectory();
  rig = await startRig({ dir, clock });
  device = new SoftwareDevice(rig, 'press-17', chips[0]);
});

afterEach(async () => {
  await rig.close();
  await remove(dir);
});

async function restart(options = {}): Promise<void> {
  await rig.close();
  rig = await startRig({ dir, clock, ...options });
  device = new SoftwareDevice(rig, device.id, device.chip);
}

function refused(answer: Answer, errorCode: number, message: RegExp): void {
  assert.equal(answer.json.errorCode, errorCode, answer.text);
  assert.equal(answer.status, Math.trunc(errorCode / 1000));
  assert.match(answer.json.message, message);
  assert.equal('authenticationKey' in answer.json, false);
}

const registrationOf = async (id: string): Promise<Answer> => rig.call('GET', `/registrations/${id}`);
const hubAccepts = async ({ assignedHub, deviceId }: RegistrationState, key: Buffer): Promise<number> => {
  const resource = encodeURIComponent(`${assignedHub}/devices/${deviceId}`);
  const { status } = await rig.callAt(
    rig.emulator.info.hubHost,
    'GET',
    `/devices/${encodeURIComponent(deviceId)}/messages/devicebound`,
    { query: 'api-version=2021-04-12', authorization: token(resource, key) },
  );
  return status;
};

describe('a registration', () => {
  it('is a challenge, an answer to it, and an assignment with the key of the device', async () => {
    await device.enroll({ deviceId: 'Press/17'.replace('/', '-'), optionalDeviceInformation: { line: 3 } });
    const challenge = await device.put();
    assert.equal(challenge.status, 401);
    assert.deepEqual(Object.keys(challenge.json), ['authenticationKey', 'keyName', 'message', 'trackingId']);
    assert.equal(deviceAnswer(challenge).keyName, 'registration');
    const sessionKey = unwrapKey(device.chip, deviceAnswer(challenge).authenticationKey);
    assert.ok(sessionKey);
    assert.equal(sessionKey.length, 32);
    const authorization = device.tokenFor(sessionKey);
    const accepted = await device.put({ authorization });
    assert.equal(accepted.status, 202);
    assert.equal(accepted.headers['retry-after'], '0');
    const { operationId, status } = deviceAnswer(accepted);
    assert.equal(status, 'assigning');
    assert.ok(accepted.headers.location?.endsWith(`${device.path}/operations/${operationId}`));

    const done = await device.poll(operationId, authorization);
    assert.equal(done.status, 200);
    const { registrationState: state, ...rest } = deviceAnswer(done);
    assert.deepEqual(rest, { operationId, status: 'assigned' });
    const { tpm, etag, createdDateTimeUtc, lastUpdatedDateTimeUtc, ...shown } = state;
    assert.deepEqual(shown, {
      registrationId: 'press-17',
      assignedHub: 'iotdm-hub.localhost',
      deviceId: 'Press-17',
      status: 'assigned',
      substatus: 'initialAssignment',
    });
    const key = unwrapKey(device.chip, tpm?.authenticationKey ?? '');
    assert.equal(key?.length, 32);
    assert.notDeepEqual(key, sessionKey);
    assert.equal(await hubAccepts(state, key), 204);
    assert.equal(await hubAccepts(state, sessionKey), 401);

    const seen = await registrationOf('PRESS-17');
    assert.deepEqual(seen.json, { ...shown, etag, createdDateTimeUtc, lastUpdatedDateTimeUtc });
    const enrolled = (await rig.call('GET', '/enrollments/press-17')).json as unknown as Record<
      string,
      unknown
    >;
    assert.deepEqual(enrolled['registrationState'], seen.json);
    const queried = await rig.call('POST', '/enrollments/query', {
      body: { query: 'SELECT * FROM enrollments' },
    });
    assert.deepEqual(queried.items[0], enrolled);
  });

  it('may be asked about, with the challenge and the answer of a registration', async () => {
    await device.enroll();
    const ask = (options = {}): Promise<Answer> =>
      device.call('POST', device.path, { body: device.body, ...options });
    const challenge = await ask();
    assert.equal(challenge.status, 401);
    const key = unwrapKey(device.chip, deviceAnswer(challenge).authenticationKey);
    assert.ok(key);
    const authorization = device.tokenFor(key);
    refused(await ask({ authorization }), 404202, /no device has registered/);
    const { state } = await device.register();
    const answer = await ask({ authorization });
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.json, state);
    refused(await ask({ authorization: device.tokenFor(randomBytes(32)) }), 401002, /not signed with a key/);
  });

  it('takes the time that it is told to take', async () => {
    await restart({ assignDelayMs: 2500 });
    await device.enroll();
    now = Date.now();
    const authorization = device.tokenFor(await device.challenged());
    const accepted = await device.put({ authorization });
    const { operationId } = deviceAnswer(accepted);
    assert.equal(accepted.headers['retry-after'], '3');
    now += 1000;
    const waiting = await device.poll(operationId, authorization);
    assert.equal(waiting.status, 202);
    assert.equal(waiting.headers['retry-after'], '2');
    assert.equal(deviceAnswer(waiting).status, 'assigning');
    assert.equal('registrationState' in waiting.json, false);
    const seen = (await registrationOf('press-17')).json as unknown as RegistrationState;
    assert.equal(seen.status, 'assigning');
    assert.equal('assignedHub' in seen, false);
    now += 1500;
    assert.equal((await device.poll(operationId, authorization)).status, 200);
  });

  it('is answered to all API versions of devices and no other', async () => {
    await device.enroll();
    for (const version of ['2018-11-01', '2019-03-31', '2021-10-01', '2026-11-01']) {
      assert.equal((await device.put({ query: `api-version=${version}` })).status, 401, version);
    }
    const query = 'api-version=2026-11-01';
    const wish = await device.put({ query, body: { ...device.body, csr: 'MIIB' } });
    refused(wish, 501001, /certificates are not issued by the emulator/);
    refused(await device.put({ query: 'api-version=2016-01-01' }), 400001, /not one that is supported/);
    refused(await device.put({ query: '' }), 400001, /missing/);
  });
});

describe('what is refused', () => {
  it('is who is not enrolled, or shows another endorsement key', async () => {
    refused(await device.put(), 404201, /does not exist/);
    await device.enroll();
    const impostor = new SoftwareDevice(rig, device.id, chips[1]);
    refused(await impostor.put(), 400004, /not the enrolled one/);
    const elsewhere = device.path.replace(/^\/0ne/, '/1ne');
    refused(await device.call('PUT', `${elsewhere}/register`, { body: device.body }), 404001, /ID scope/);
    refused(await device.put({ body: { ...device.body, registrationId: 'other' } }), 400001, /in the path/);
  });

  it('is a key that no TPM vouches for', async () => {
    await device.enroll();
    const good = Buffer.from(device.chip.storageRootKey, 'base64');
    const changed = (at: number, value: number): string => {
      const bytes = Buffer.from(good);
      bytes.writeUInt8(value, at);
      return bytes.toString('base64');
    };
    const bad: Readonly<Record<string, unknown>> = {
      absent: undefined,
      null: null,
      number: 5,
      empty: '',
      'no base64': 'A A',
      'cut off': good.subarray(0, -1).toString('base64'),
      'followed by more': Buffer.concat([good, Buffer.from([0])]).toString('base64'),
      'of another type': changed(3, 0x23),
      'of another name algorithm': changed(5, 0x04),
      'not restricted': changed(7, 0x02),
      'for signing': changed(7, 0x07),
      'not fixed to its TPM': changed(9, 0x70),
      'not made in its TPM': changed(9, 0x52),
      'of another cipher': changed(13, 0x26),
      'of another length': changed(20, 0x04),
      even: changed(good.length - 1, (good.at(-1) ?? 0) & 0xfe),
      short: changed(28, 0x7f),
      huge: 'A'.repeat(2_000_000),
    };
    for (const [name, storageRootKey] of Object.entries(bad)) {
      const tpm = { endorsementKey: device.chip.endorsementKey, storageRootKey };
      const answer = await device.put({ body: { registrationId: device.id, tpm } });
      assert.equal(answer.status, 400, `${name}: ${answer.text}`);
      assert.match(answer.json.message, /storageRootKey is not/, name);
    }
    // What was enrolled need not be a key of a TPM either.
    const short = Buffer.from('000a0001000b00030072', 'hex');
    const strange = Buffer.concat([short, Buffer.alloc(2)]).toString('base64');
    const body = { registrationId: 'odd', attestation: { type: 'tpm', tpm: { endorsementKey: strange } } };
    assert.equal((await rig.call('PUT', '/enrollments/odd', { body })).status, 200);
    const odd = new SoftwareDevice(rig, 'odd', { ...device.chip, endorsementKey: strange });
    refused(await odd.put(), 400004, /not one of an RSA 2048 TPM/);
  });

  it('is a body that is none', async () => {
    await device.enroll();
    for (const raw of ['', '{', 'null', '[]', '"x"', '{"tpm":[]}', '{"tpm":null}']) {
      const { status } = await device.put({ raw, headers: { 'content-type': 'application/json' } });
      assert.equal(status, 400, raw);
    }
    const { status } = await device.put({ raw: '{}', headers: { 'content-type': 'text/plain' } });
    assert.equal(status, 415);
    assert.equal((await device.put({ raw: Buffer.alloc(5 * 1024 * 1024, 32) })).status, 413);
    for (const payload of [5, 'x', []]) {
      assert.equal((await device.put({ body: { ...device.body, payload } })).status, 400);
    }
    const deep = JSON.parse('{"a":'.repeat(40) + '1' + '}'.repeat(40)) as unknown;
    assert.equal((await device.put({ body: { ...device.body, payload: deep } })).status, 400);
    for (const path of [`${device.path}/register`, '/enrollments/press-17', '/$iothub/websocket']) {
      const unknown = await device.call('GET', path);
      refused(
        unknown,
        501001,
        /^GET \S+ is not emulated: of DPS for devices there is registration over HTTPS, by TPM/,
      );
    }
  });

  it('is a token that is not signed with the key of the challenge, not for this device, or expired', async () => {
    await device.enroll();
    const other = new SoftwareDevice(rig, 'press-18', device.chip);
    await other.enroll();
    const key = await device.challenged();
    const otherKey = await other.challenged();
    const resource = encodeURIComponent(device.path.slice(1));
    const past = Math.floor(Date.now() / 1000) - 1;
    const tokens: readonly (readonly [string, RegExp])[] = [
      [device.tokenFor(randomBytes(32)), /not signed with a key that was given to this device/],
      [device.tokenFor(otherKey), /not signed with a key that was given to this device/],
      [other.tokenFor(key), /for another resource/],
      [device.tokenFor(key, past), /has expired/],
      [token(resource, key), /unknown policy/],
      [token(resource, key, '&skn=provisioningserviceowner'), /unknown policy/],
      [token(encodeURIComponent(rig.emulator.info.idScope), key, '&skn=registration'), /another resource/],
      ['Bearer x', /not a SharedAccessSignature/],
      ['SharedAccessSignature sr=x', /does not consist of/],
      [`${device.tokenFor(key)}&sr=x`, /does not consist of/],
      [device.tokenFor(key).replace(/se=\d+/, `se=${past + 999_999}`), /not signed with a key/],
    ];
    for (const [authorization, message] of tokens) {
      refused(await device.put({ authorization }), 401002, message);
    }
    assert.equal((await device.put({ authorization: device.tokenFor(key) })).status, 202);
  });

  it('is an answer that has been used, and a challenge that is long past', async () => {
    await device.enroll();
    const authorization = device.tokenFor(await device.challenged());
    assert.equal((await device.put({ authorization })).status, 202);
    refused(await device.put({ authorization }), 401002, /used already/);
    await restart();
    refused(await device.put({ authorization }), 401002, /used already/);
    const key = await device.challenged();
    now = Date.now() + 60 * 60 * 1000;
    const late = device.tokenFor(key, Math.ceil(now / 1000) + 60);
    refused(await device.put({ authorization: late }), 401002, /not signed with a key/);
  });

  it('is an answer with the storage root key of another chip', async () => {
    await device.enroll();
    const authorization = device.tokenFor(await device.challenged());
    const stolen = { ...device.chip, storageRootKey: chips[1]?.storageRootKey };
    const tpm = { endorsementKey: stolen.endorsementKey, storageRootKey: stolen.storageRootKey };
    refused(await device.put({ authorization, body: { tpm } }), 401002, /storage root key is not the one/);
    // And the challenge for such a pair opens in neither chip.
    const challenge = await device.put({ body: { tpm } });
    const blob = deviceAnswer(challenge).authenticationKey;
    for (const chip of chips) assert.equal(unwrapKey(chip, blob), undefined);
  });

  it('is the question about an operation by somebody else', async () => {
    await device.enroll();
    const { operationId, authorization } = await device.register();
    const other = new SoftwareDevice(rig, 'press-18', chips[1]);
    await other.enroll();
    const theirs = await other.register();
    refused(await other.poll(operationId, theirs.authorization), 404202, /no such operation/);
    refused(await device.poll(operationId, theirs.authorization), 401002, /another resource/);
    const { status } = await device.call('GET', `${device.path}/operations/${operationId}`);
    assert.equal(status, 401);
    assert.equal((await device.poll(operationId, authorization)).status, 200);
    // With a later challenge of its own neither: only the key of that registration.
    const open = device.tokenFor(await device.challenged());
    refused(await device.poll(operationId, open), 401002, /another registration/);
  });

  it('leaves the device its open challenge, however many are asked for', async () => {
    await device.enroll();
    const first = await device.challenged();
    for (let number = 0; number < 3; number += 1) await device.put();
    assert.equal((await device.put({ authorization: device.tokenFor(first) })).status, 202);
  });
});

describe('a device that registers again', () => {
  const first = 'east.azure-devices.net';
  const second = 'west.azure-devices.net';

  it('gets a new key, and the old one is refused', async () => {
    await device.enroll();
    const before = await device.register();
    const after = await device.register();
    assert.equal(after.state.substatus, 'reprovisionedToInitialAssignment');
    assert.equal(after.state.createdDateTimeUtc, before.state.createdDateTimeUtc);
    assert.notEqual(after.state.etag, before.state.etag);
    assert.notEqual(after.operationId, before.operationId);
    assert.equal(await hubAccepts(before.state, before.key), 401);
    assert.equal(await hubAccepts(after.state, after.key), 204);
  });

  it('moves to another hub, and out of the old one, when the enrollment says so', async () => {
    await device.enroll({ iotHubHostName: first });
    const before = await device.register();
    assert.equal(before.state.assignedHub, first);
    await device.enroll({ iotHubHostName: second });
    const after = await device.register();
    assert.deepEqual([after.state.assignedHub, after.state.substatus], [second, 'deviceDataMigrated']);
    assert.equal(await hubAccepts(after.state, after.key), 204);
    assert.equal(await hubAccepts(before.state, before.key), 401);
    const reset = { updateHubAssignment: true, migrateDeviceData: false };
    await device.enroll({ iotHubHostName: first, reprovisionPolicy: reset });
    assert.equal((await device.register()).state.substatus, 'deviceDataReset');
  });

  it('stays where it is when the reprovisioning policy says so', async () => {
    const reprovisionPolicy = { updateHubAssignment: false, migrateDeviceData: false };
    await device.enroll({ iotHubHostName: first, reprovisionPolicy });
    await device.register();
    await device.enroll({ iotHubHostName: second, reprovisionPolicy });
    const { state } = await device.register();
    assert.deepEqual([state.assignedHub, state.substatus], [first, 'reprovisionedToInitialAssignment']);
  });

  it('is new after an operator has deleted its registration, or its enrollment', async () => {
    await device.enroll();
    const { state } = await device.register();
    const remove = (etag: string): Promise<Answer> =>
      rig.call('DELETE', '/registrations/press-17', { headers: { 'if-match': etag } });
    assert.equal((await remove('"AAAA"')).status, 412);
    assert.equal((await remove(state.etag)).status, 204);
    assert.equal((await registrationOf('press-17')).status, 404);
    assert.equal((await remove('*')).status, 404);
    assert.equal((await device.register()).state.substatus, 'initialAssignment');
    assert.equal((await rig.call('DELETE', '/enrollments/press-17')).status, 204);
    assert.equal((await registrationOf('press-17')).status, 404);
    await device.enroll();
    assert.equal('registrationState' in (await rig.call('GET', '/enrollments/press-17')).json, false);
    await device.register();
    const enrollments = [
      {
        registrationId: device.id,
        attestation: { type: 'tpm', tpm: { endorsementKey: device.chip.endorsementKey } },
      },
    ];
    const { json } = await rig.call('POST', '/enrollments', { body: { mode: 'delete', enrollments } });
    assert.equal(json.isSuccessful, true);
    assert.equal((await registrationOf('press-17')).status, 404);
  });

  it('is disabled when its enrollment is, and has what it had when it is enabled again', async () => {
    await device.enroll();
    const before = await device.register();
    await device.enroll({ provisioningStatus: 'disabled' });
    const authorization = device.tokenFor(await device.challenged());
    const { operationId } = deviceAnswer(await device.put({ authorization }));
    const answer = await device.poll(operationId, authorization);
    assert.equal(answer.status, 200);
    const { status, registrationState } = deviceAnswer(answer);
    assert.deepEqual([status, registrationState.status], ['disabled', 'disabled']);
    assert.deepEqual(
      ['tpm', 'assignedHub'].filter((name) => name in registrationState),
      [],
    );
    assert.equal(await hubAccepts(before.state, before.key), 204);
    await device.enroll();
    assert.equal((await device.register()).state.substatus, 'reprovisionedToInitialAssignment');
  });
});

describe('the hub of a device', () => {
  it('is chosen among those of the enrollment, evenly and always the same', async () => {
    const iotHubs = ['a.azure-devices.net', 'B.azure-devices.net', 'c.azure-devices.net'];
    const assigned = new Map<string, number>();
    for (let number = 0; number < 18; number += 1) {
      const one = new SoftwareDevice(rig, `d${number}`, device.chip);
      await one.enroll({ iotHubs, allocationPolicy: 'hashed' });
      const { state } = await one.register();
      assigned.set(state.assignedHub, (assigned.get(state.assignedHub) ?? 0) + 1);
      if (number === 0) assert.equal((await one.register()).state.assignedHub, state.assignedHub);
    }
    assert.deepEqual(
      [...assigned.keys()].sort(),
      iotHubs.map((name) => name.toLowerCase()),
    );
    await device.enroll({ iotHubs, allocationPolicy: 'static' });
    assert.equal((await device.register()).state.assignedHub, 'a.azure-devices.net');
  });

  it('is that of a function for a custom allocation, which is given the payload and returns it', async () => {
    const payload = { model: 'x', nested: { n: 1 } };
    await device.enroll({
      allocationPolicy: 'custom',
      customAllocationDefinition: { webhookUrl: 'https://example.org/f', apiVersion: '2019-03-31' },
    });
    assert.deepEqual((await device.register({ payload })).state.payload, payload);
    await device.enroll();
    assert.equal('payload' in (await device.register({ payload })).state, false);
  });
});

describe('what a restart leaves', () => {
  it('is everything: an operation under way, the registration, the identity', async () => {
    await restart({ assignDelayMs: 5000 });
    await device.enroll();
    now = Date.now();
    const authorization = device.tokenFor(await device.challenged());
    const { operationId } = deviceAnswer(await device.put({ authorization }));
    const { info } = rig.emulator;
    await restart();
    const { deviceHost, idScope, hubHost, hub } = rig.emulator.info;
    assert.deepEqual(
      { deviceHost, idScope, hubHost, hub },
      { deviceHost: info.deviceHost, idScope: info.idScope, hubHost: info.hubHost, hub: info.hub },
    );
    assert.equal((await device.poll(operationId, authorization)).status, 202);
    now += 5000;
    const done = deviceAnswer(await device.poll(operationId, authorization)).registrationState;
    const key = unwrapKey(device.chip, done.tpm?.authenticationKey ?? '');
    assert.ok(key);
    assert.equal(await hubAccepts(done, key), 204);
    // Written anew when most of it no longer counts.
    for (let number = 0; number < 25; number += 1) await device.register();
    const last = await device.register();
    await restart();
    await restart();
    assert.equal(await hubAccepts(last.state, last.key), 204);
    assert.equal(await hubAccepts(done, key), 401);
  });
});

describe('knobs', () => {
  it('limit registrations, not challenges and questions, and apart from the operators', async () => {
    await restart({ quota: { operations: 2, per: 'minute' } });
    now = Date.now();
    await device.enroll();
    await device.register();
    const again = await device.register();
    const authorization = device.tokenFor(await device.challenged());
    const third = await device.put({ authorization });
    assert.equal(third.status, 429);
    assert.equal(third.headers['retry-after'], '30');
    assert.equal((await device.poll(again.operationId, again.authorization)).status, 200);
    assert.equal((await registrationOf(device.id)).status, 200);
    now += 60_000;
    assert.equal((await device.put({ authorization })).status, 202, 'the answer was not used up');
  });

  it('let an assignment fail, and leave the device what it had', async () => {
    await device.enroll();
    const before = await device.register();
    await restart({ faults: [parseFault('assign-fail')] });
    const authorization = device.tokenFor(await device.challenged());
    const { operationId } = deviceAnswer(await device.put({ authorization }));
    const answer = await device.poll(operationId, authorization);
    assert.equal(answer.status, 200);
    const { status, registrationState } = deviceAnswer(answer);
    const { errorCode, errorMessage, tpm } = registrationState as unknown as Record<string, unknown>;
    assert.deepEqual(
      [status, registrationState.status, errorCode, tpm],
      ['failed', 'failed', 500001, undefined],
    );
    assert.match(String(errorMessage), /told to fail/);
    assert.equal(await hubAccepts(before.state, before.key), 204);
    await restart();
    assert.equal((await device.register()).state.substatus, 'reprovisionedToInitialAssignment');
  });

  it('strike registrations like everything else', async () => {
    const faults = [
      '503,path=/*/registrations/*/register,nth=2,retry-after=1',
      'cut-after,method=GET,path=**/operations/*',
    ];
    await restart({ faults: faults.map(parseFault) });
    await device.enroll();
    const key = await device.challenged();
    const authorization = device.tokenFor(key);
    const answer = await device.put({ authorization });
    assert.deepEqual([answer.status, answer.headers['retry-after']], [503, '1']);
    const { operationId } = deviceAnswer(await device.put({ authorization }));
    await assert.rejects(device.poll(operationId, authorization));
    const hub = await rig.callAt(rig.emulator.info.hubHost, 'GET', '/devices/x/messages/devicebound');
    assert.equal(hub.status, 400);
  });
});
