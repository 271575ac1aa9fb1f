/** Enrollment groups, and enrollments that are not for a TPM: what the service API keeps of them, and what it shows. */

import assert from 'node:assert/strict';
import { randomBytes, X509Certificate } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { certified, type Certified } from '../fakes/device-certificates.ts';
import { enrollment, remove, startRig, temporaryDirectory, type Answer, type Rig } from './rig.ts';

type Json = Readonly<Record<string, unknown>>;

let dir = '';
let rig: Rig;
let authority: Certified;
let other: Certified;

before(async () => {
  dir = await temporaryDirectory();
  rig = await startRig({ dir });
  [authority, other] = await Promise.all([certified('Plant CA', { ca: true }), certified('other')]);
});

after(async () => {
  await rig.close();
  await remove(dir);
});

const put = (path: string, body: object, ifMatch?: string): Promise<Answer> =>
  rig.call('PUT', path, { body, headers: ifMatch === undefined ? {} : { 'if-match': ifMatch } });
const putEnrollment = (registrationId: string, attestation: object, more: object = {}): Promise<Answer> =>
  put(`/enrollments/${registrationId}`, { registrationId, attestation, ...more }, '*');
const putGroup = (enrollmentGroupId: string, attestation: object, more: object = {}): Promise<Answer> =>
  put(`/enrollmentGroups/${enrollmentGroupId}`, { enrollmentGroupId, attestation, ...more });
const get = (path: string): Promise<Answer> => rig.call('GET', path);
const mechanism = async (path: string): Promise<unknown> =>
  (await rig.call('POST', `${path}/attestationmechanism`)).json;
const json = (answer: Answer): Json => answer.json as unknown as Json;
const bulk = (mode: string, ...items: object[]): Promise<Answer> =>
  rig.call('POST', '/enrollmentGroups', { body: { mode, enrollmentGroups: items } });

const base64 = (bytes: number): string => randomBytes(bytes).toString('base64');
const keys = (): { primaryKey: string; secondaryKey: string } => ({
  primaryKey: base64(36),
  secondaryKey: base64(36),
});
const symmetric = (): object => ({ type: 'symmetricKey', symmetricKey: keys() });
const signing = (certificate: string): object => ({
  type: 'x509',
  x509: { signingCertificates: { primary: { certificate } } },
});

function refused(answer: Answer, errorCode: number, message = /./): void {
  assert.equal(answer.json.errorCode, errorCode, answer.text);
  assert.equal(answer.status, Math.trunc(errorCode / 1000));
  assert.match(answer.json.message, message);
  assert.match(answer.json.message, /^[^\n]+[^.\n]$/);
}

describe('an enrollment group', () => {
  it('is created, read, listed, updated and deleted, in the version that is meant', async () => {
    const attestation = { type: 'symmetricKey', symmetricKey: keys() };
    const sent = {
      enrollmentGroupId: 'Line-3',
      attestation,
      capabilities: { iotEdge: true },
      initialTwin: { tags: { hall: 'Süd' }, properties: { desired: { interval: 30 } } },
      provisioningStatus: 'enabled',
      reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: true },
      allocationPolicy: 'geoLatency',
      iotHubs: ['plant.azure-devices.net'],
    };
    const created = await put('/enrollmentGroups/line-3', sent);
    assert.equal(created.status, 200, created.text);
    const { etag, createdDateTimeUtc, lastUpdatedDateTimeUtc, ...content } = created.json;
    // The keys may have been made just now: this answer shows them, no later one does.
    assert.deepEqual(content, sent);
    assert.match(etag, /^"[A-Za-z0-9+/]+={0,2}"$/);
    assert.equal(lastUpdatedDateTimeUtc, createdDateTimeUtc);

    const shown = { ...created.json, attestation: { type: 'symmetricKey' } };
    assert.deepEqual((await get('/enrollmentGroups/LINE-3')).json, shown);
    const listed = await rig.call('POST', '/enrollmentGroups/query', { body: { query: '*' } });
    assert.deepEqual(listed.items, [shown]);
    assert.equal(listed.headers['x-ms-item-type'], 'enrollmentGroup');
    assert.deepEqual(await mechanism('/enrollmentGroups/Line-3'), attestation);
    // As Azure's client for Node.js writes the path.
    assert.deepEqual(await mechanism('/enrollmentgroups/Line-3'), attestation);

    refused(await put('/enrollmentGroups/line-3', sent), 409202);
    refused(await put('/enrollmentGroups/line-3', sent, '"AAAA"'), 412201, /enrollment group Line-3$/);
    const disabled = { ...sent, provisioningStatus: 'disabled' };
    const updated = await put('/enrollmentGroups/line-3', disabled, etag.slice(1, -1));
    assert.deepEqual([updated.status, json(updated)['provisioningStatus']], [200, 'disabled']);
    const gone = (ifMatch: string): Promise<Answer> =>
      rig.call('DELETE', '/enrollmentGroups/line-3', { headers: { 'if-match': ifMatch } });
    refused(await gone(etag), 412201);
    assert.equal((await gone(updated.json.etag.slice(1, -1))).status, 204);
    for (const answer of [
      await get('/enrollmentGroups/line-3'),
      await gone('*'),
      await rig.call('POST', '/enrollmentGroups/line-3/attestationmechanism'),
      await rig.call('POST', '/registrations/line-3/query', { body: { query: '*' } }),
    ]) {
      refused(answer, 404203, /enrollment group line-3 does not exist/);
    }
  });

  it('is written and deleted ten at a time, each for itself', async () => {
    const group = (id: string, more: object = {}): object => ({
      enrollmentGroupId: id,
      attestation: symmetric(),
      ...more,
    });
    const created = await bulk('create', group('g1'), group('G2'), group('g3'));
    assert.deepEqual(json(created), { isSuccessful: true, errors: [] });
    const { etag } = (await get('/enrollmentGroups/g1')).json;
    const mixed = await bulk(
      'updateIfMatchETag',
      group('g1', { etag }),
      group('g2', { etag }),
      group('g4', { etag }),
      { enrollmentGroupId: 'g3', attestation: enrollment('d1').attestation },
    );
    assert.equal(mixed.json.isSuccessful, false);
    assert.deepEqual(
      (json(mixed)['errors'] as Json[]).map((error) => [error['enrollmentGroupId'], error['errorCode']]),
      [
        ['g2', 412201],
        ['g4', 404203],
        ['g3', 400002],
      ],
    );
    refused(await bulk('create', group('g5'), group('G5')), 400001, /same enrollmentGroupId twice/);
    refused(
      await bulk('create', group('g5'), { registrationId: 'd1' }),
      400002,
      /enrollmentGroupId is missing/,
    );
    assert.deepEqual(json(await bulk('delete', group('g1'), group('g2'))), {
      isSuccessful: true,
      errors: [],
    });

    const ids = (answer: Answer): unknown[] =>
      answer.items.map((item) => (item as unknown as Json)['enrollmentGroupId']);
    await bulk('create', ...['b', 'a', 'c'].map((id) => group(id)));
    const page = (token?: string): Promise<Answer> =>
      rig.call('POST', '/enrollmentGroups/query', {
        body: { query: 'SELECT * FROM enrollmentGroups' },
        headers: {
          'x-ms-max-item-count': '2',
          ...(token === undefined ? {} : { 'x-ms-continuation': token }),
        },
      });
    const first = await page();
    assert.deepEqual(ids(first), ['a', 'b']);
    const second = await page(String(first.headers['x-ms-continuation']));
    assert.deepEqual([ids(second), second.headers['x-ms-continuation']], [['c', 'g3'], undefined]);
    const query = (text: string): Promise<Answer> =>
      rig.call('POST', '/enrollmentGroups/query', { body: { query: text } });
    refused(await query('SELECT * FROM enrollments'), 400001);
    refused(await query('SELECT enrollmentGroupId FROM enrollmentGroups'), 501001);
  });

  it('is refused with the name of the member that is wrong', async () => {
    const cases: readonly (readonly [object, RegExp])[] = [
      [{ attestation: enrollment('d1').attestation }, /^attestation\.type is not one of x509, symmetricKey$/],
      [{ attestation: { type: 'none' } }, /^attestation\.type/],
      [{ attestation: undefined }, /^attestation is missing/],
      [{ attestation: { type: 'x509' } }, /^attestation\.x509 is missing/],
      [{ attestation: { type: 'x509', x509: {} } }, /needs either signingCertificates or caReferences/],
      [
        { attestation: { type: 'x509', x509: { clientCertificates: {} } } },
        /clientCertificates is not for this/,
      ],
      [{ attestation: signing('') }, /signingCertificates\.primary\.certificate is missing/],
      [{ attestation: signing('AAAA') }, /primary\.certificate is not an X\.509 certificate/],
      [{ attestation: signing(authority.cert.slice(0, 200)) }, /is not an X\.509 certificate/],
      [{ attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: base64(32) } } }, /one key only/],
      [
        {
          attestation: {
            type: 'symmetricKey',
            symmetricKey: { primaryKey: base64(15), secondaryKey: base64(32) },
          },
        },
        /primaryKey is not base64 of 16 to 64 bytes/,
      ],
      [
        { attestation: { ...symmetric(), x509: { caReferences: { primary: 'ca' } } } },
        /attestation\.x509 does not go with attestation\.type symmetricKey/,
      ],
      [{ enrollmentGroupId: 'a b' }, /^enrollmentGroupId is not valid/],
      [{ allocationPolicy: 'random' }, /^allocationPolicy/],
    ];
    for (const [change, message] of cases) {
      const body = { enrollmentGroupId: 'bad', attestation: symmetric(), ...change };
      refused(await put('/enrollmentGroups/bad', body), 400002, message);
    }
    refused(await put('/enrollmentGroups/bad', { enrollmentGroupId: 'g', attestation: symmetric() }), 400001);
    refused(await get('/enrollmentGroups/bad'), 404203);
  });
});

describe('an enrollment without TPM', () => {
  it('with symmetric keys shows them when it is written and when they are asked for, and never else', async () => {
    const path = '/enrollments/sym-1';
    const made = (await putEnrollment('sym-1', { type: 'symmetricKey' })).json;
    const { symmetricKey } = made.attestation as unknown as { symmetricKey: ReturnType<typeof keys> };
    for (const key of [symmetricKey.primaryKey, symmetricKey.secondaryKey]) {
      assert.equal(Buffer.from(key, 'base64').length, 64);
    }
    assert.deepEqual((await get(path)).json.attestation, { type: 'symmetricKey' });
    const listed = await rig.call('POST', '/enrollments/query', { body: { query: '*' } });
    assert.ok(!listed.text.includes(symmetricKey.primaryKey));
    assert.deepEqual(await mechanism(path), made.attestation);

    // What was read can be written back, and changes no key.
    const read = (await get(path)).json;
    const kept = await put(path, { ...read, provisioningStatus: 'disabled' }, read.etag);
    assert.deepEqual(kept.json.attestation, made.attestation);
    const empty = { type: 'symmetricKey', symmetricKey: { primaryKey: '', secondaryKey: null } };
    assert.deepEqual((await putEnrollment('sym-1', empty)).json.attestation, made.attestation);
    const changed = { type: 'symmetricKey', symmetricKey: keys() };
    assert.deepEqual((await putEnrollment('sym-1', changed)).json.attestation, changed);
    assert.deepEqual(await mechanism(path), changed);
    // Another kind of attestation takes the keys away.
    await putEnrollment('sym-1', { type: 'none' });
    assert.deepEqual((await get(path)).json.attestation, { type: 'none' });
    const anew = (await putEnrollment('sym-1', { type: 'symmetricKey' })).json.attestation;
    assert.notDeepEqual(anew, changed);
  });

  it('with certificates shows what they say, and not them', async () => {
    const path = '/enrollments/x509-1';
    const client = (primary: object, more: object = {}): object => ({
      type: 'x509',
      x509: { clientCertificates: { primary, ...more } },
    });
    const info = (certificate: Certified): object => {
      const { fingerprint, serialNumber, validFrom, validTo } = new X509Certificate(certificate.cert);
      const name = `CN=${certificate.name}, O=Plant`;
      return {
        subjectName: name,
        sha1Thumbprint: fingerprint.replaceAll(':', ''),
        sha256Thumbprint: certificate.sha256Thumbprint,
        issuerName: name,
        notBeforeUtc: new Date(validFrom).toISOString(),
        notAfterUtc: new Date(validTo).toISOString(),
        serialNumber,
        version: 3,
      };
    };
    const shown = client({ info: info(authority) }, { secondary: { info: info(other) } });
    const der = new X509Certificate(other.cert).raw.toString('base64');
    const base64OfPem = Buffer.from(authority.cert).toString('base64');
    for (const [primary, secondary] of [
      [authority.cert, other.cert],
      [base64OfPem, der],
    ]) {
      const written = await putEnrollment(
        'x509-1',
        client({ certificate: primary }, { secondary: { certificate: secondary } }),
      );
      assert.deepEqual(written.json.attestation, shown, written.text);
      assert.deepEqual((await get(path)).json.attestation, shown);
      assert.deepEqual(await mechanism(path), shown);
    }
    // What was read can be written back; the second may become the first, or go.
    const read = (await get(path)).json;
    assert.deepEqual((await put(path, read, read.etag)).json.attestation, shown);
    const second = client({ info: info(other) });
    assert.deepEqual((await putEnrollment('x509-1', second)).json.attestation, second);
    const unknown = await putEnrollment('x509-1', client({ info: info(authority) }));
    refused(unknown, 400002, /primary\.certificate is missing/);
    const references = { type: 'x509', x509: { caReferences: { primary: 'root-2031' } } };
    assert.deepEqual((await putEnrollment('x509-1', references)).json.attestation, references);
    refused(
      await putEnrollment('x509-2', signing(authority.cert)),
      400002,
      /signingCertificates is not for this/,
    );
  });

  it('is kept over a restart, in files for their owner only', async () => {
    const written = (await putEnrollment('kept', symmetric())).json;
    const group = (await putGroup('kept-group', signing(authority.cert))).json;
    await rig.close();
    rig = await startRig({ dir });
    assert.deepEqual(await mechanism('/enrollments/kept'), written.attestation);
    assert.deepEqual((await get('/enrollmentGroups/kept-group')).json, group);
    const read = (await get('/enrollmentGroups/kept-group')).json;
    assert.equal((await put('/enrollmentGroups/kept-group', read, read.etag)).status, 200);
    for (const name of await readdir(dir)) {
      const text = await readFile(join(dir, name), 'utf8');
      if (/primaryKey|PRIVATE KEY|SharedAccessKey/.test(text)) {
        assert.equal((await stat(join(dir, name))).mode & 0o777, 0o600, name);
      }
    }
  });
});

describe('members of an enrollment', () => {
  it('of api-version 2026-11-01 are kept and returned, also by others', async () => {
    const more = {
      namespaceName: 'plant-3',
      certificateAuthorityName: 'Root-2031',
      certificatePolicyName: 'a-b',
    };
    const query = 'api-version=2026-11-01';
    const body = enrollment('new-1', more);
    const written = await rig.call('PUT', '/enrollments/new-1', { body, query });
    for (const answer of [
      written,
      await get('/enrollments/new-1'),
      await rig.call('GET', '/enrollments/new-1', { query }),
    ]) {
      const { namespaceName, certificateAuthorityName, certificatePolicyName } = json(answer);
      assert.deepEqual({ namespaceName, certificateAuthorityName, certificatePolicyName }, more);
    }
    const group = await putGroup('new-group', symmetric(), more);
    assert.equal(json(group)['namespaceName'], 'plant-3');
    for (const [name, value] of [
      ['namespaceName', 'Plant'],
      ['namespaceName', 'p-'],
      ['namespaceName', 'ab'],
      ['certificateAuthorityName', '-ab'],
      ['certificatePolicyName', 'a_b'],
      ['certificatePolicyName', 7],
    ] as const) {
      const answer = await put('/enrollments/new-2', enrollment('new-2', { [name]: value }));
      refused(answer, 400002, new RegExp(`^${name} is not valid`));
    }
  });

  it('in the initial twin are refused where the hub would refuse them', async () => {
    const nested = (levels: number): object =>
      Array.from({ length: levels }).reduce<object>((inner) => ({ a: inner }), { b: 1 });
    const cases: readonly (readonly [object, RegExp | undefined])[] = [
      [{ tags: { 'a.b': 1 } }, /^the key "a\.b" in initialTwin\.tags has a character/],
      [{ tags: { $x: 1 } }, /the key "\$x"/],
      [{ tags: { a: { 'b c': 1 } } }, /the key "b c" in initialTwin\.tags\.a/],
      [{ tags: { a: [{ 'tab\t': 1 }] } }, /the key "tab\\t" in initialTwin\.tags\.a\[0\]/],
      [{ tags: { 'a\u0085': 1 } }, /has a character/],
      [{ tags: { '': 1 } }, /initialTwin\.tags has an empty key/],
      [{ tags: { ['ä'.repeat(513)]: 1 } }, /a key of more than 1024 bytes/],
      [{ tags: { ['ä'.repeat(512)]: 1 } }, undefined],
      [{ properties: { desired: { a: 4503599627370496 } } }, /desired\.a is an integer beyond/],
      [{ properties: { desired: { a: -4503599627370497 } } }, /desired\.a is an integer beyond/],
      [
        { properties: { desired: { a: 4503599627370495, b: -4503599627370496, c: 0.1, d: null } } },
        undefined,
      ],
      [{ tags: { a: 'ä'.repeat(2049) } }, /initialTwin\.tags\.a is a text of more than 4096 bytes/],
      [{ tags: { a: 'ä'.repeat(2048) } }, undefined],
      [{ tags: nested(11) }, /nested more than 10 levels deep/],
      [{ tags: nested(10) }, undefined],
      [
        { tags: Object.fromEntries(['a', 'b', 'c'].map((key) => [key, 'x'.repeat(4000)])) },
        /more than the 8192/,
      ],
      [
        {
          properties: {
            desired: Object.fromEntries('abcdefgh'.split('').map((key) => [key, 'x'.repeat(4096)])),
          },
        },
        /initialTwin\.properties\.desired has 32776 bytes, which is more than the 32768/,
      ],
      [
        {
          properties: {
            desired: Object.fromEntries('abcdefgh'.split('').map((key) => [key, 'x'.repeat(4095)])),
          },
        },
        undefined,
      ],
    ];
    for (const [initialTwin, message] of cases) {
      const body = enrollment('twin-1', { initialTwin });
      const answer = await put('/enrollments/twin-1', body, '*');
      if (message === undefined) assert.equal(answer.status, 200, answer.text);
      else refused(answer, 400002, message);
    }
    refused(
      await putGroup('twin-group', symmetric(), { initialTwin: { tags: { 'a b': 1 } } }),
      400002,
      /"a b"/,
    );
    const sent = [enrollment('twin-2'), enrollment('twin-3', { initialTwin: { tags: { 'a.b': 1 } } })];
    const result = await rig.call('POST', '/enrollments', { body: { mode: 'create', enrollments: sent } });
    assert.deepEqual(
      result.json.errors.map(({ registrationId, errorCode }) => [registrationId, errorCode]),
      [['twin-3', 400002]],
    );
  });
});
