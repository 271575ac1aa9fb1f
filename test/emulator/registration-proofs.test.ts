/** Registration without a TPM: by symmetric key and by client certificate, alone and in groups, and what the hub makes of it. */

import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent } from 'node:https';
import { after, before, describe, it } from 'node:test';
import { certified, type Certified } from '../fakes/device-certificates.ts';
import { remove, startRig, temporaryDirectory, type Answer, type CallOptions, type Rig } from './rig.ts';
import { deviceAnswer, SoftwareDevice, token, type RegistrationState } from './software-device.ts';

let dir = '';
let rig: Rig;
let ca = '';
const agents: Agent[] = [];

before(async () => {
  dir = await temporaryDirectory();
  rig = await startRig({ dir });
  ca = await readFile(rig.emulator.info.ca, 'utf8');
});

after(async () => {
  for (const agent of agents) agent.destroy();
  await rig.close();
  await remove(dir);
});

interface Proof {
  /** Base64. */
  readonly key?: string;
  readonly agent?: Agent;
}

interface Result extends RegistrationState {
  readonly symmetricKey?: { readonly enrollmentGroupId?: string };
  readonly x509?: {
    readonly enrollmentGroupId?: string;
    readonly certificateInfo: { readonly sha256Thumbprint: string };
    readonly signingCertificateInfo?: { readonly sha256Thumbprint: string };
  };
}

const key = (): string => randomBytes(32).toString('base64');
const derived = (groupKey: string, id: string): string =>
  createHmac('sha256', Buffer.from(groupKey, 'base64')).update(id).digest('base64');

/** Its TLS sessions are resumed where the server lets it, as those of Node.js's own agent are. */
function agentWith(shown: Certified, ...intermediates: readonly Certified[]): Agent {
  const cert = [shown, ...intermediates].map((one) => one.cert).join('');
  const agent = new Agent({ ca, cert, key: shown.key });
  agents.push(agent);
  return agent;
}

const path = (id: string): string => `/${rig.emulator.info.idScope}/registrations/${id}`;
function call(
  method: string,
  at: string,
  id: string,
  { key: signing, agent }: Proof,
  options: CallOptions = {},
) {
  const resource = `${rig.emulator.info.idScope}/registrations/${id}`;
  const authorization =
    signing === undefined ? null : token(resource, Buffer.from(signing, 'base64'), '&skn=registration');
  return rig.callAt(rig.emulator.info.deviceHost, method, at, {
    query: 'api-version=2019-03-31',
    authorization,
    ...(agent === undefined ? {} : { agent }),
    ...options,
  });
}
const put = (id: string, proof: Proof, body: object = {}): Promise<Answer> =>
  call('PUT', `${path(id)}/register`, id, proof, { body: { registrationId: id, ...body } });
const poll = (id: string, operationId: string, proof: Proof): Promise<Answer> =>
  call('GET', `${path(id)}/operations/${operationId}`, id, proof);

async function register(id: string, proof: Proof, body: object = {}): Promise<Result> {
  const accepted = await put(id, proof, body);
  assert.equal(accepted.status, 202, accepted.text);
  assert.equal(deviceAnswer(accepted).status, 'assigning');
  const done = await poll(id, deviceAnswer(accepted).operationId, proof);
  assert.equal(done.status, 200, done.text);
  return deviceAnswer(done).registrationState;
}

async function enroll(registrationId: string, attestation: object, more: object = {}): Promise<void> {
  const body = { registrationId, attestation, ...more };
  const answer = await rig.call('PUT', `/enrollments/${registrationId}`, {
    body,
    headers: { 'if-match': '*' },
  });
  assert.equal(answer.status, 200, answer.text);
}

async function enrollGroup(enrollmentGroupId: string, attestation: object, more: object = {}): Promise<void> {
  const body = { enrollmentGroupId, attestation, ...more };
  const at = `/enrollmentGroups/${enrollmentGroupId}`;
  const answer = await rig.call('PUT', at, { body, headers: { 'if-match': '*' } });
  assert.equal(answer.status, 200, answer.text);
}

const symmetric = (primaryKey: string, secondaryKey = key()): object => ({
  type: 'symmetricKey',
  symmetricKey: { primaryKey, secondaryKey },
});
const client = (primary: Certified, secondary?: Certified): object => ({
  type: 'x509',
  x509: {
    clientCertificates: {
      primary: { certificate: primary.cert },
      ...(secondary === undefined ? {} : { secondary: { certificate: secondary.cert } }),
    },
  },
});
const signing = (primary: Certified): object => ({
  type: 'x509',
  x509: { signingCertificates: { primary: { certificate: primary.cert } } },
});

/** The device's twin, or the status by which the hub refuses it. */
async function twin(hub: string, deviceId: string, { key: signingKey, agent }: Proof): Promise<unknown> {
  const answer = await rig.callAt(rig.emulator.info.hubHost, 'GET', `/twins/${deviceId}`, {
    query: 'api-version=2021-04-12',
    authorization:
      signingKey === undefined
        ? null
        : token(encodeURIComponent(`${hub}/devices/${deviceId}`), Buffer.from(signingKey, 'base64')),
    ...(agent === undefined ? {} : { agent }),
  });
  if (answer.status !== 200) return answer.status;
  const { authenticationType, tags } = answer.json as unknown as Readonly<Record<string, unknown>>;
  return { authenticationType, tags };
}

function refused(answer: Answer, errorCode: number, message: RegExp): void {
  assert.equal(answer.json.errorCode, errorCode, answer.text);
  assert.equal(answer.status, Math.trunc(errorCode / 1000));
  assert.match(answer.json.message, message);
}

describe('a device with a symmetric key', () => {
  it('registers with either key of its enrollment, and the hub takes both', async () => {
    const [primary, secondary] = [key(), key()];
    const initialTwin = { tags: { line: 3 } };
    await enroll('Sym-1', symmetric(primary, secondary), { deviceId: 'press-1', initialTwin });
    for (const [own, substatus] of [
      [primary, 'initialAssignment'],
      [secondary, 'reprovisionedToInitialAssignment'],
    ] as const) {
      const state = await register('sym-1', { key: own });
      assert.deepEqual(
        [state.registrationId, state.deviceId, state.assignedHub, state.status, state.substatus],
        ['Sym-1', 'press-1', rig.emulator.info.hub, 'assigned', substatus],
      );
      assert.deepEqual([state.symmetricKey, state.tpm, state.x509], [{}, undefined, undefined]);
      assert.deepEqual(await twin(state.assignedHub, 'press-1', { key: own }), {
        authenticationType: 'sas',
        tags: { line: 3 },
      });
    }
    const shown = await rig.call('GET', '/registrations/sym-1');
    assert.equal((shown.json as unknown as RegistrationState).status, 'assigned');
    assert.ok(!shown.text.includes(primary));
    const asked = await call('POST', path('sym-1'), 'sym-1', { key: primary }, { body: {} });
    assert.equal((asked.json as unknown as Result).deviceId, 'press-1');
    assert.equal(await twin(rig.emulator.info.hub, 'press-1', { key: key() }), 401);
  });

  it('is refused with any other key, and with none', async () => {
    const own = key();
    await enroll('sym-2', symmetric(own));
    const { operationId } = deviceAnswer(await put('sym-2', { key: own }));
    for (const answer of [
      await put('sym-2', { key: key() }),
      await put('sym-2', { key: '' }),
      await put('nobody', { key: own }),
      await poll('sym-2', operationId, { key: key() }),
      await call('POST', path('sym-2'), 'sym-2', { key: key() }, { body: {} }),
    ]) {
      refused(answer, 401002, /not signed with a key that was given to this device/);
    }
    refused(await put('sym-2', {}), 401002, /no Authorization header/);
    refused(await poll('sym-2', operationId, {}), 401002, /no Authorization header/);
    refused(await poll('sym-2', `${operationId}x`, { key: own }), 404202, /no such operation/);
    const authorization = token(path('sym-1').slice(1), Buffer.from(own, 'base64'), '&skn=registration');
    const elsewhere = { authorization, body: {} };
    refused(
      await call('PUT', `${path('sym-2')}/register`, 'sym-2', {}, elsewhere),
      401002,
      /another resource/,
    );
    // The operation is also his who has the key that came after.
    const next = key();
    await enroll('sym-2', symmetric(next));
    refused(await poll('sym-2', operationId, { key: own }), 401002, /not signed with a key/);
    assert.equal((await poll('sym-2', operationId, { key: next })).status, 200);
    // What it proved itself by is no attestation of a TPM.
    const tpm = new SoftwareDevice(rig, 'sym-2');
    refused(await tpm.put(), 401002, /no Authorization header/);
    await enroll('sym-2', { type: 'none' });
    refused(await put('sym-2', { key: next }), 401002, /not signed with a key/);
    refused(await put('sym-2', {}), 401002, /no attestation by which a device could register/);
  });

  it('of a group registers with the key that follows from its id', async () => {
    const [primary, secondary] = [key(), key()];
    await enrollGroup('Line-3', symmetric(primary, secondary), { iotHubs: ['plant.azure-devices.net'] });
    const state = await register('g-1', { key: derived(primary, 'g-1') });
    assert.deepEqual(
      [state.deviceId, state.assignedHub, state.symmetricKey],
      ['g-1', 'plant.azure-devices.net', { enrollmentGroupId: 'Line-3' }],
    );
    for (const groupKey of [primary, secondary]) {
      const known = await twin('plant.azure-devices.net', 'g-1', { key: derived(groupKey, 'g-1') });
      assert.notEqual(known, 401);
    }
    await register('g-2', { key: derived(secondary, 'g-2') });
    // The id has no case; the key that follows from it has.
    for (const [id, from] of [
      ['G-3', 'G-3'],
      ['G-3', 'g-3'],
      ['g-3', 'g-3'],
    ] as const) {
      const { registrationId, deviceId, substatus } = await register(id, { key: derived(primary, from) });
      const outcome = id === from && id === 'G-3' ? 'initialAssignment' : 'reprovisionedToInitialAssignment';
      assert.deepEqual([registrationId, deviceId, substatus], ['G-3', 'G-3', outcome]);
    }
    refused(await put('g-2', { key: derived(primary, 'g-1') }), 401002, /not signed/);
    refused(await put('g-2', { key: primary }), 401002, /not signed/);

    // An enrollment of its own goes before the group, also to keep a device out.
    await enroll('g-4', symmetric(key()), { provisioningStatus: 'disabled' });
    refused(await put('g-4', { key: derived(primary, 'g-4') }), 401002, /not signed/);
    await enrollGroup('Line-3', symmetric(primary, secondary), { provisioningStatus: 'disabled' });
    assert.equal((await register('g-1', { key: derived(primary, 'g-1') })).status, 'disabled');

    const query = (headers: Record<string, string> = {}, body: object = { query: '*' }): Promise<Answer> =>
      rig.call('POST', '/registrations/line-3/query', { headers, body });
    const ids = (answer: Answer): string[] => answer.items.map((item) => item.registrationId);
    const first = await query({ 'x-ms-max-item-count': '2' });
    assert.deepEqual(ids(first), ['g-1', 'g-2']);
    assert.equal(first.headers['x-ms-item-type'], 'deviceRegistration');
    const rest = await query({ 'x-ms-continuation': String(first.headers['x-ms-continuation']) });
    assert.deepEqual([ids(rest), rest.headers['x-ms-continuation']], [['G-3'], undefined]);
    const bare = await rig.call('POST', '/registrations/line-3/query');
    assert.deepEqual(bare.items, (await query({}, { query: 'SELECT * FROM registrations' })).items);
    refused(
      await query({}, { query: "SELECT * FROM registrations WHERE status = 'assigned'" }),
      501001,
      /not emulated/,
    );
  });

  it('is known after a restart, and its registration goes with the group', async () => {
    const groupKey = key();
    await enrollGroup('kept', symmetric(groupKey));
    const own = { key: derived(groupKey, 'kept-1') };
    const { operationId } = deviceAnswer(await put('kept-1', own));
    const before = (await rig.call('GET', '/registrations/kept-1')).text;
    await rig.close();
    rig = await startRig({ dir });
    assert.equal((await rig.call('GET', '/registrations/kept-1')).text, before);
    assert.equal((await poll('kept-1', operationId, own)).status, 200);
    assert.notEqual(await twin(rig.emulator.info.hub, 'kept-1', own), 401);
    const all = await rig.call('POST', '/registrations/kept/query', { body: { query: '*' } });
    assert.equal(all.items.length, 1);

    assert.equal((await rig.call('DELETE', '/enrollmentGroups/kept')).status, 204);
    refused(await rig.call('GET', '/registrations/kept-1'), 404202, /no device has registered/);
    refused(await put('kept-1', own), 401002, /not signed/);
    assert.notEqual(await twin(rig.emulator.info.hub, 'kept-1', own), 401, 'its hub still knows it');
  });
});

describe('a device with a certificate', () => {
  it('registers with one that is enrolled, and the hub knows it by that', async () => {
    const [first, second] = await Promise.all([certified('x509-1'), certified('X509-1')]);
    await enroll('x509-1', client(first, second), { deviceId: 'press-2' });
    for (const own of [first, second]) {
      const agent = agentWith(own);
      // Each request on a connection of its own: a session that is resumed must not lose the certificate.
      const state = await register('x509-1', { agent });
      assert.deepEqual([state.deviceId, state.status, state.tpm], ['press-2', 'assigned', undefined]);
      assert.equal(state.x509?.certificateInfo.sha256Thumbprint, own.sha256Thumbprint);
      assert.equal(state.x509.enrollmentGroupId, undefined);
      const known = { authenticationType: 'selfSigned', tags: {} };
      assert.deepEqual(await twin(state.assignedHub, 'press-2', { agent }), known);
      assert.equal(await twin(state.assignedHub, 'press-1', { agent }), 401);
      assert.equal(await twin(state.assignedHub, 'press-2', { key: key() }), 401);
      const events = await rig.callAt(rig.emulator.info.hubHost, 'POST', '/devices/press-2/messages/events', {
        query: 'api-version=2021-04-12',
        authorization: null,
        agent,
        raw: '{}',
      });
      assert.equal(events.status, 204);
      const module = await rig.callAt(rig.emulator.info.hubHost, 'PUT', '/devices/press-2/modules/m1', {
        query: 'api-version=2021-04-12',
        authorization: null,
        agent,
        body: { moduleId: 'm1' },
        headers: { 'if-match': '*' },
      });
      assert.ok([200, 201].includes(module.status), module.text);
    }
    assert.equal(await twin('', 'press-2', { agent: agentWith(first) }), 401, 'the last one counts');
  });

  it('is refused with any other, and with none', async () => {
    const yesterday = new Date(Date.now() - 86_400_000);
    const [own, other, stranger, expired] = await Promise.all([
      certified('x509-2'),
      certified('x509-2'),
      certified('x509-3'),
      certified('x509-4', { from: new Date(0), to: yesterday }),
    ]);
    await enroll('x509-2', client(own));
    await enroll('x509-3', client(own));
    await enroll('x509-4', client(expired));
    await enroll('x509-5', { type: 'x509', x509: { caReferences: { primary: 'root' } } });
    refused(await put('x509-2', { agent: agentWith(other) }), 401002, /not the one that is enrolled/);
    refused(
      await put('x509-2', { agent: agentWith(stranger) }),
      401002,
      /common name \(CN\).* is not the regist/,
    );
    refused(await put('x509-3', { agent: agentWith(own) }), 401002, /common name/);
    refused(await put('x509-3', { agent: agentWith(stranger) }), 401002, /not the one that is enrolled/);
    refused(await put('x509-4', { agent: agentWith(expired) }), 401002, /has expired/);
    refused(await put('x509-2', {}), 401002, /no Authorization header and no client certificate/);
    refused(await put('x509-2', { agent: agentWith(own), key: key() }), 401002, /not signed with a key/);
    const referenced = agentWith(await certified('x509-5'));
    refused(await put('x509-5', { agent: referenced }), 501001, /caReferences/);
    const { operationId } = deviceAnswer(await put('x509-2', { agent: agentWith(own) }));
    refused(await poll('x509-2', operationId, { agent: agentWith(other) }), 401002, /not the one/);
    refused(await poll('x509-2', operationId, {}), 401002, /no Authorization/);
    // A certificate says nothing about a device with a TPM, and does not hinder it.
    const tpm = new SoftwareDevice(rig, 'with-tpm');
    await tpm.enroll();
    const agent = agentWith(own);
    const challenge = await tpm.put({ agent });
    assert.deepEqual([challenge.status, 'authenticationKey' in challenge.json], [401, true]);
  });

  it('of a group registers when its certificate leads to the group’s, of several to the nearest', async () => {
    const root = await certified('root', { ca: true });
    const factory = await certified('factory', { ca: true, issuer: root });
    const line = await certified('line', { ca: true, issuer: factory });
    const own = await certified('leaf-1', { issuer: line });
    await enrollGroup('roots', signing(root));
    const whole = agentWith(own, line, factory);
    const byRoot = await register('leaf-1', { agent: whole });
    assert.deepEqual(
      [
        byRoot.deviceId,
        byRoot.x509?.enrollmentGroupId,
        byRoot.x509?.signingCertificateInfo?.sha256Thumbprint,
      ],
      ['leaf-1', 'roots', root.sha256Thumbprint],
    );
    assert.deepEqual(await twin(byRoot.assignedHub, 'leaf-1', { agent: whole }), {
      authenticationType: 'selfSigned',
      tags: {},
    });
    const incomplete = /leads to the certificate of no enrollment group/;
    refused(await put('leaf-1', { agent: agentWith(own, line) }), 401002, incomplete);
    refused(await put('leaf-1', { agent: agentWith(own) }), 401002, incomplete);
    await enrollGroup('lines', signing(line));
    assert.equal((await register('leaf-1', { agent: whole })).x509?.enrollmentGroupId, 'lines');
    assert.equal((await register('leaf-1', { agent: agentWith(own) })).x509?.enrollmentGroupId, 'lines');

    const yesterday = new Date(Date.now() - 86_400_000);
    const [leaf, impostor, past] = await Promise.all([
      certified('leaf-2', { issuer: own }),
      // With the name of the line's authority, and a key of its own.
      certified('line', { ca: true }),
      certified('past', { ca: true, issuer: root, from: new Date(0), to: yesterday }),
    ]);
    const [forged, late] = await Promise.all([
      certified('leaf-2', { issuer: impostor }),
      certified('leaf-2', { issuer: past }),
    ]);
    refused(await put('leaf-2', { agent: agentWith(leaf, own, line) }), 401002, incomplete);
    refused(await put('leaf-2', { agent: agentWith(forged, line, factory) }), 401002, incomplete);
    refused(await put('leaf-2', { agent: agentWith(late, past) }), 401002, incomplete);
    refused(await put('leaf-2', { agent: whole }), 401002, /common name/);
    await enrollGroup('uploaded', { type: 'x509', x509: { caReferences: { primary: 'root' } } });
    refused(await put('leaf-2', { agent: agentWith(forged) }), 501001, /caReferences/);
    const all = await rig.call('POST', '/registrations/lines/query', { body: { query: 'SELECT *' } });
    assert.deepEqual(
      all.items.map((item) => item.registrationId),
      ['leaf-1'],
    );
  });
});

describe('faults', () => {
  it('strike registrations of all kinds, and the quota counts them', async () => {
    await rig.close();
    rig = await startRig({
      dir,
      quota: { operations: 2, per: 'minute' },
      faults: [{ kind: 'assign-fail', nth: { from: 1, to: 1 } }],
    });
    try {
      const own = await certified('faulty');
      await enroll('faulty', client(own));
      const proof = { agent: agentWith(own) };
      const state = await register('faulty', proof);
      assert.equal(state.status, 'failed');
      assert.equal((await register('faulty', proof)).status, 'assigned');
      assert.equal((await put('faulty', proof)).status, 429);
    } finally {
      await rig.close();
      rig = await startRig({ dir });
    }
  });
});
