/** The service API over TLS, spoken by hand: what the service answers to each kind of request, good and bad. */

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { enrollment, remove, startRig, temporaryDirectory, tokenFor, type Answer, type Rig } from './rig.ts';

const now = new Date('2031-05-06T07:08:09.000Z');
const fresh = (seconds = 3600): string => String(now.getTime() / 1000 + seconds);

describe('the service API', () => {
  let dir: string;
  let rig: Rig;
  const seen: unknown[] = [];

  beforeEach(async () => {
    dir = await temporaryDirectory();
    rig = await startRig({ dir, onRequest: (entry) => seen.push(entry) });
    seen.length = 0;
  });

  afterEach(async () => {
    await rig.close();
    await remove(dir);
  });

  const create = (id: string, more = {}): Promise<Answer> =>
    rig.call('PUT', `/enrollments/${id}`, { body: enrollment(id, more) });
  const bulk = (mode: string, ...enrollments: unknown[]): Promise<Answer> =>
    rig.call('POST', '/enrollments', { body: { mode, enrollments } });
  const list = (headers: Record<string, string> = {}): Promise<Answer> =>
    rig.call('POST', '/enrollments/query', { body: { query: 'SELECT * FROM enrollments' }, headers });

  describe('one enrollment', () => {
    it('is created, read, listed and deleted', async () => {
      const sent = enrollment('Device-1', {
        deviceId: "Press(4)#A'%",
        capabilities: { iotEdge: true },
        iotHubHostName: 'hub.azure-devices.net',
        iotHubs: ['hub.azure-devices.net', 'other-hub.azure-devices.net'],
        allocationPolicy: 'static',
        provisioningStatus: 'disabled',
        reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false },
        initialTwin: {
          tags: { hall: 'Süd', __proto__x: [1, null] },
          properties: { desired: { a: { b: 1.5 } } },
        },
        optionalDeviceInformation: { batch: 7 },
        customAllocationDefinition: { webhookUrl: 'https://example.net/f?x=1', apiVersion: '2021-10-01' },
        namespaceName: 'line-4',
        certificateAuthorityName: 'Plant',
        certificatePolicyName: 'a-Year',
      });
      const created = await rig.call('PUT', '/enrollments/device-1', { body: sent });
      assert.equal(created.status, 200);
      assert.equal(created.headers['content-type'], 'application/json; charset=utf-8');
      const { etag, createdDateTimeUtc, lastUpdatedDateTimeUtc, ...content } = created.json;
      assert.deepEqual(content, sent);
      assert.match(etag, /^"[A-Za-z0-9+/]+={0,2}"$/);
      assert.equal(new Date(createdDateTimeUtc).toISOString(), createdDateTimeUtc);
      assert.equal(lastUpdatedDateTimeUtc, createdDateTimeUtc);

      for (const id of ['Device-1', 'device-1', 'DEVICE%2D1']) {
        assert.equal((await rig.call('GET', `/enrollments/${id}`)).text, created.text);
      }
      const newer = await rig.call('GET', '/enrollments/Device-1', { query: 'api-version=2026-11-01' });
      assert.equal(newer.text, created.text);
      assert.deepEqual((await list()).items, [created.json]);

      const deleted = await rig.call('DELETE', '/enrollments/DEVICE-1');
      assert.equal(deleted.status, 204);
      assert.equal(deleted.text, '');
      refused(await rig.call('GET', '/enrollments/device-1'), 404, 404201);
      refused(await rig.call('DELETE', '/enrollments/device-1'), 404, 404201);
      assert.deepEqual((await list()).items, []);
    });

    it('gets the defaults of the service, and nothing from members that only the service sets', async () => {
      const created = await create('d1', {
        deviceId: null,
        etag: '"mine"',
        createdDateTimeUtc: '1999-01-01T00:00:00Z',
        registrationState: { status: 'assigned' },
        surprise: 1,
      });
      const { etag, createdDateTimeUtc, lastUpdatedDateTimeUtc, ...content } = created.json;
      assert.deepEqual(content, {
        ...enrollment('d1'),
        capabilities: { iotEdge: false },
        provisioningStatus: 'enabled',
        allocationPolicy: 'hashed',
        reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true },
      });
      assert.notEqual(etag, '"mine"');
      assert.equal(createdDateTimeUtc, lastUpdatedDateTimeUtc);
      assert.doesNotMatch(createdDateTimeUtc, /^1999/);
    });

    it('is written only over the version that If-Match names', async () => {
      const put = (ifMatch: string | undefined, id = 'd1'): Promise<Answer> =>
        rig.call('PUT', `/enrollments/${id}`, {
          body: enrollment(id),
          headers: ifMatch === undefined ? {} : { 'if-match': ifMatch },
        });
      const first: string = (await put(undefined)).json.etag;
      refused(await put(undefined), 409, 409201);

      const second: string = (await put(first)).json.etag;
      assert.notEqual(second, first);
      refused(await put(first), 412, 412201);
      refused(await put('garbage'), 412, 412201);
      assert.equal((await rig.call('GET', '/enrollments/d1')).json.etag, second);

      const third: string = (await put(second.slice(1, -1))).json.etag;
      assert.equal((await put('*')).status, 200);
      refused(await put(third), 412, 412201);

      refused(await put(third, 'd2'), 404, 404201);
      assert.equal((await put('*', 'd2')).status, 200);
    });

    it('is deleted only in the version that If-Match names', async () => {
      const remove = (ifMatch: string): Promise<Answer> =>
        rig.call('DELETE', '/enrollments/d1', { headers: { 'if-match': ifMatch } });
      refused(await remove('*'), 404, 404201);
      const { etag } = (await create('d1')).json;
      refused(await remove('"AAAA"'), 412, 412201);
      assert.equal((await remove(etag)).status, 204);
      refused(await remove(etag), 404, 404201);
      await create('d1');
      refused(await remove(etag), 412, 412201);
      assert.equal((await remove('*')).status, 204);
    });

    it('keeps the day and the spelling of its creation when it is updated', async () => {
      const created = (await create('Device-1', { deviceId: 'a' })).json;
      const updated = (
        await rig.call('PUT', '/enrollments/device-1', {
          body: enrollment('DEVICE-1', { deviceId: 'b' }),
          headers: { 'if-match': '*' },
        })
      ).json;
      assert.equal(updated.registrationId, 'Device-1');
      assert.equal(updated.deviceId, 'b');
      assert.equal(updated.createdDateTimeUtc, created.createdDateTimeUtc);
    });

    it('tells its attestation mechanism', async () => {
      const path = '/enrollments/d1/attestationmechanism';
      refused(await rig.call('POST', path), 404, 404201);
      const { attestation } = (await create('d1')).json;
      const told = await rig.call('POST', path);
      assert.equal(told.status, 200);
      assert.deepEqual(told.json, attestation);
    });

    it('has no registration before its device registers', async () => {
      await create('d1');
      refused(await rig.call('GET', '/registrations/d1'), 404, 404202);
      refused(await rig.call('DELETE', '/registrations/d1'), 404, 404202);
    });

    it('is refused with the name of the member that is wrong', async () => {
      const tpm = (endorsementKey: unknown, more = {}): object => ({
        attestation: { type: 'tpm', tpm: { endorsementKey, ...more } },
      });
      const { endorsementKey } = enrollment('d1').attestation.tpm;
      const wrongSize = Buffer.from(endorsementKey, 'base64').subarray(0, -1).toString('base64');
      const cases: [object, number, RegExp][] = [
        [{ registrationId: undefined }, 400002, /^registrationId is missing/],
        [{ registrationId: '-d1' }, 400002, /^registrationId/],
        [{ registrationId: 7 }, 400002, /^registrationId/],
        [{ registrationId: 'd2' }, 400001, /registrationId is not the one in the path/],
        [{ deviceId: 'white space' }, 400002, /^deviceId/],
        [{ deviceId: 'x'.repeat(129) }, 400002, /^deviceId/],
        [{ attestation: undefined }, 400002, /^attestation is missing/],
        [{ attestation: [] }, 400002, /^attestation is not/],
        [{ attestation: { type: 'pin' } }, 400002, /^attestation\.type is not one of tpm, x509/],
        [{ attestation: { type: 'tpm' } }, 400002, /^attestation\.tpm is missing/],
        [{ attestation: { ...enrollment('d1').attestation, symmetricKey: {} } }, 400002, /symmetricKey/],
        [tpm(undefined), 400004, /endorsementKey is missing/],
        [tpm(5), 400004, /endorsementKey is not base64/],
        [tpm(`${endorsementKey}\n`), 400004, /endorsementKey is not base64/],
        [tpm(wrongSize), 400004, /endorsementKey is not a TPM2B_PUBLIC/],
        [tpm('AAA='), 400004, /endorsementKey is not a TPM2B_PUBLIC/],
        [tpm(endorsementKey, { storageRootKey: wrongSize }), 400002, /storageRootKey/],
        [{ provisioningStatus: 'Enabled' }, 400002, /^provisioningStatus/],
        [{ allocationPolicy: 'random' }, 400002, /^allocationPolicy/],
        [{ iotHubHostName: 'https://hub' }, 400002, /^iotHubHostName/],
        [{ iotHubHostName: 'hub.' }, 400002, /^iotHubHostName/],
        [{ iotHubs: 'hub' }, 400002, /^iotHubs is not an array/],
        [{ iotHubs: ['hub', 'a b'] }, 400002, /^iotHubs\[1\]/],
        [{ reprovisionPolicy: { updateHubAssignment: true } }, 400002, /migrateDeviceData/],
        [
          { reprovisionPolicy: { updateHubAssignment: 'true', migrateDeviceData: true } },
          400002,
          /updateHub/,
        ],
        [{ namespaceName: 'Line-4' }, 400002, /^namespaceName/],
        [{ certificatePolicyName: 'ab' }, 400002, /^certificatePolicyName/],
        [{ capabilities: { iotEdge: 'false' } }, 400002, /^capabilities\.iotEdge/],
        [{ capabilities: true }, 400002, /^capabilities is not/],
        [{ initialTwin: { tags: [] } }, 400002, /^initialTwin\.tags/],
        [{ initialTwin: { properties: { desired: 'x' } } }, 400002, /^initialTwin\.properties\.desired/],
        [{ customAllocationDefinition: { webhookUrl: 'http://x' } }, 400002, /webhookUrl/],
      ];
      for (const [change, errorCode, message] of cases) {
        const answer = await create('d1', change);
        refused(answer, 400, errorCode);
        assert.match(answer.json.message, message);
      }
      refused(await rig.call('GET', '/enrollments/d1'), 404, 404201);
    });
  });

  describe('a bulk operation', () => {
    const etagOf = async (id: string): Promise<string> =>
      (await rig.call('GET', `/enrollments/${id}`)).json.etag;
    const succeeded = (answer: Answer): void => {
      assert.equal(answer.status, 200);
      assert.deepEqual(answer.json, { isSuccessful: true, errors: [] });
    };
    const failures = (answer: Answer): unknown[] => {
      assert.equal(answer.status, 200);
      assert.equal(answer.json.isSuccessful, false);
      return answer.json.errors.map((error) => {
        assert.deepEqual(Object.keys(error), ['registrationId', 'errorCode', 'errorStatus']);
        assert.notEqual(error.errorStatus, '');
        return [error.registrationId, error.errorCode];
      });
    };

    it('creates, updates and deletes up to ten', async () => {
      const ten = Array.from({ length: 10 }, (_, index) => enrollment(`d${index}`));
      succeeded(await bulk('create', ...ten));
      assert.equal((await list()).items.length, 10);
      succeeded(
        await bulk('update', ...ten.map((item) => ({ ...item, deviceId: `x-${item.registrationId}` }))),
      );
      assert.equal((await rig.call('GET', '/enrollments/d7')).json.deviceId, 'x-d7');
      succeeded(await bulk('updateIfMatchETag', { ...enrollment('d3'), etag: await etagOf('d3') }));
      succeeded(await bulk('delete', ...ten));
      assert.deepEqual((await list()).items, []);
    });

    it('does what it can and names what failed', async () => {
      await bulk('create', enrollment('d1'), enrollment('d2'));
      assert.deepEqual(failures(await bulk('create', enrollment('D1'), enrollment('d3'))), [['D1', 409201]]);
      assert.deepEqual(failures(await bulk('update', enrollment('d4'), enrollment('d3'))), [['d4', 404201]]);
      const etag = await etagOf('d1');
      assert.deepEqual(
        failures(
          await bulk(
            'updateIfMatchETag',
            { ...enrollment('d1', { deviceId: 'new' }), etag },
            enrollment('d2'),
            { ...enrollment('d3'), etag },
            { ...enrollment('d4'), etag },
            { registrationId: 'd5', attestation: { type: 'tpm', tpm: { endorsementKey: '!' } } },
          ),
        ),
        [
          ['d2', 412201],
          ['d3', 412201],
          ['d4', 404201],
          ['d5', 400004],
        ],
      );
      assert.equal((await rig.call('GET', '/enrollments/d1')).json.deviceId, 'new');
      assert.deepEqual(failures(await bulk('delete', enrollment('d9'), enrollment('d1'))), [['d9', 404201]]);
      refused(await rig.call('GET', '/enrollments/d1'), 404, 404201);
    });

    it('fails as a whole when it cannot be said which enrollment is meant', async () => {
      const eleven = Array.from({ length: 11 }, (_, index) => enrollment(`d${index}`));
      refused(await bulk('create', ...eleven), 400, 400001);
      refused(await bulk('create'), 400, 400001);
      refused(await bulk('create', enrollment('d1'), enrollment('d2'), enrollment('D1')), 400, 400001);
      refused(await bulk('create', enrollment('d1'), { registrationId: '' }), 400, 400002);
      refused(await bulk('create', enrollment('d1'), null), 400, 400002);
      refused(await bulk('updateIfMatchEtag', enrollment('d1')), 400, 400001);
      refused(await rig.call('POST', '/enrollments', { body: { mode: 'create' } }), 400, 400001);
      refused(await rig.call('POST', '/enrollments', { body: [] }), 400, 400002);
      assert.deepEqual((await list()).items, []);
    });
  });

  describe('a query', () => {
    const ids = (answer: Answer): string[] => answer.items.map((item) => item.registrationId);
    const page = (size: number, token?: unknown): Promise<Answer> =>
      list({
        'x-ms-max-item-count': String(size),
        ...(typeof token === 'string' ? { 'x-ms-continuation': token } : {}),
      });

    beforeEach(async () => {
      await bulk('create', ...['d5', 'D3', 'd1', 'd6', 'D2', 'd4'].map((id) => enrollment(id)));
    });

    it('gives pages in the order of the ids, and no token with the last', async () => {
      const first = await page(4);
      assert.deepEqual(ids(first), ['d1', 'D2', 'D3', 'd4']);
      assert.equal(first.headers['x-ms-item-type'], 'enrollment');
      assert.equal(first.headers['x-ms-max-item-count'], '4');
      const second = await page(4, first.headers['x-ms-continuation']);
      assert.deepEqual(ids(second), ['d5', 'd6']);
      assert.equal(second.headers['x-ms-continuation'], undefined);
    });

    it('needs no empty page when the last one is full', async () => {
      const first = await page(3);
      const second = await page(3, first.headers['x-ms-continuation']);
      assert.deepEqual(ids(second), ['d4', 'd5', 'd6']);
      assert.equal(second.headers['x-ms-continuation'], undefined);
      assert.equal((await page(6)).headers['x-ms-continuation'], undefined);
    });

    it('neither repeats nor leaves out others when enrollments come and go between pages', async () => {
      const first = await page(3);
      assert.deepEqual(ids(first), ['d1', 'D2', 'D3']);
      await bulk('create', enrollment('d0'), enrollment('d45'));
      await bulk('delete', enrollment('d3'), enrollment('d5'));
      await bulk('delete', enrollment('d6'));
      await create('d6');
      const second = await page(2, first.headers['x-ms-continuation']);
      assert.deepEqual(ids(second), ['d4', 'd45']);
      const third = await page(2, second.headers['x-ms-continuation']);
      assert.deepEqual(ids(third), ['d6']);
      assert.equal(third.headers['x-ms-continuation'], undefined);
    });

    it('has pages of 100 unless asked, and of 1000 at most', async () => {
      assert.equal((await list()).headers['x-ms-max-item-count'], '100');
      assert.equal((await page(5000)).headers['x-ms-max-item-count'], '1000');
      for (const size of [0, -1, 1.5, NaN]) refused(await page(size), 400, 400001);
    });

    it('understands one query, however it is written, and says so of others', async () => {
      const query = (text: unknown): Promise<Answer> =>
        rig.call('POST', '/enrollments/query', { body: { query: text } });
      for (const text of ['  select\t*  FROM Enrollments ; ', '*', ' * ', 'SELECT *', 'select *;']) {
        assert.equal(ids(await query(text)).length, 6, text);
      }
      for (const text of [
        'select * from devices',
        'SELECT',
        '**',
        'DROP TABLE enrollments',
        '',
        undefined,
        5,
      ]) {
        refused(await query(text), 400, 400001);
      }
      for (const text of ['SELECT id FROM enrollments', "SELECT * FROM enrollments WHERE deviceId = 'a'"]) {
        refused(await query(text), 501, 501001);
      }
      for (const token of ['%', 'ZDE', 'ZDE=', 'AAAA']) {
        const answer = await page(2, token);
        if (token === 'ZDE') assert.deepEqual(ids(answer), ['D2', 'D3']);
        else refused(answer, 400, 400001);
      }
    });
  });

  describe('a request', () => {
    it('for what is not emulated is answered so, by a sentence and never by "not found"', async () => {
      for (const [method, path] of [
        ['GET', '/'],
        ['GET', '/enrollment'],
        ['GET', '/enrollments'],
        ['GET', '/enrollments/a/b'],
        ['POST', '/enrollments//attestationmechanism'],
        ['GET', '/x/y/z'],
        ['PATCH', '/enrollments/d1'],
        ['OPTIONS', '/enrollments/d1'],
        ['GET', '/certificateAuthorities/ca'],
        ['GET', '/$iothub/websocket'],
      ] as const) {
        const answer = await rig.call(method, path, { authorization: null });
        refused(answer, 501, 501001);
        const message = `${method} ${path} is not emulated: of DPS for operators there are enrollments`;
        assert.ok(answer.json.message.startsWith(message), answer.json.message);
      }
      assert.ok(!(await rig.call('GET', `/${'x'.repeat(999)}`)).text.includes('xxx'));
    });

    it('needs a known api-version, and an id that is one', async () => {
      refused(await rig.call('GET', '/enrollments/%zz'), 400, 400001);
      refused(await rig.call('GET', '/enrollments/a%20b'), 400, 400002);
      for (const query of [
        '',
        'api-version=2018-09-01-preview',
        'api-version=',
        'api-version=2021-10-01&api-version=x',
      ]) {
        refused(await rig.call('GET', '/enrollments/d1', { query }), 400, 400001);
      }
      for (const query of ['2019-03-31', '2021-10-01', '2026-11-01'].map(
        (version) => `api-version=${version}`,
      )) {
        refused(await rig.call('GET', '/Enrollments/d1', { query }), 404, 404201);
      }
      assert.equal((await rig.call('POST', '/enrollments/', { body: { mode: 'x' } })).status, 400);
      assert.equal((await rig.call('PUT', '/enrollments/query', { body: enrollment('query') })).status, 200);
    });

    it('needs a body of JSON in UTF-8 that is not too large', async () => {
      const put = (raw: string | Buffer, contentType?: string): Promise<Answer> =>
        rig.call('PUT', '/enrollments/d1', {
          raw,
          ...(contentType === undefined ? {} : { headers: { 'content-type': contentType } }),
        });
      const good = JSON.stringify(enrollment('d1'));
      for (const contentType of ['text/plain', 'application/jsonx', 'application/json; charset=latin1', '']) {
        refused(await put(good, contentType), 415, 415001);
      }
      refused(await rig.call('PUT', '/enrollments/d1'), 415, 415001);
      for (const raw of ['', '{', good.slice(0, -1), `${good}x`, Buffer.from('{"a":"\xff"}', 'latin1')]) {
        refused(await put(raw), 400, 400001);
      }
      for (const raw of ['null', '[]', '"text"', '7']) refused(await put(raw), 400, 400002);
      refused(await put(`${'['.repeat(100_000)}${']'.repeat(100_000)}`), 400, 400001);
      refused(await put(`{"initialTwin":${'{"a":'.repeat(40)}1${'}'.repeat(41)}`), 400, 400001);
      refused(await put(' '.repeat(4 * 1024 * 1024 + 1)), 413, 413001);
      assert.equal((await put(good.padEnd(4 * 1024 * 1024), 'Application/JSON')).status, 200);
    });

    it('is refused in the shape of the service', async () => {
      const before = Date.now();
      const { headers, json } = await rig.call('GET', '/enrollments/nobody');
      assert.deepEqual(Object.keys(json), ['errorCode', 'trackingId', 'message', 'info', 'timestampUtc']);
      assert.match(json.trackingId, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
      assert.deepEqual(json.info, {});
      assert.ok(Date.parse(json.timestampUtc) >= before - 1);
      assert.equal(headers['content-type'], 'application/json; charset=utf-8');
      assert.equal(headers['x-ms-error-code'], '404201');
    });

    it('is counted and told, without its secrets', async () => {
      await rig.call('GET', '/enrollments/nobody');
      await create('d1');
      assert.equal(rig.emulator.requests, 2);
      assert.deepEqual(
        seen.map((entry) => ({ ...(entry as object), elapsedMs: 0 })),
        [
          { method: 'GET', path: '/enrollments/nobody', status: 404, elapsedMs: 0 },
          { method: 'PUT', path: '/enrollments/d1', status: 200, elapsedMs: 0 },
        ],
      );
    });
  });
});

describe('authorization', () => {
  let dir: string;
  let rig: Rig;

  before(async () => {
    dir = await temporaryDirectory();
    // The certificates are judged by this machine's clock, the tokens by the emulator's.
    let time = new Date();
    rig = await startRig({ dir, clock: () => time });
    time = now;
  });

  after(async () => {
    await rig.close();
    await remove(dir);
  });

  const call = (authorization: string | null): Promise<Answer> =>
    rig.call('GET', '/enrollments/nobody', { authorization });

  it('takes a token for this service, its parameters in any order and its resource encoded or not', async () => {
    const { host } = rig.emulator.info;
    const good = tokenFor(rig.connectionString, { se: fresh() });
    refused(await call(good), 404, 404201);
    refused(await call(tokenFor(rig.connectionString, { se: fresh(1), sr: host })), 404, 404201);
    const parameters = good.slice('SharedAccessSignature '.length).split('&');
    refused(await call(`SharedAccessSignature ${parameters.reverse().join('&')}`), 404, 404201);
  });

  it('refuses every other, and echoes nothing of it', async () => {
    const token = (parts: Parameters<typeof tokenFor>[1]): string =>
      tokenFor(rig.connectionString, { se: fresh(), ...parts });
    const good = token({});
    const cases: [string | null, RegExp][] = [
      [null, /no Authorization/],
      ['', /not a SharedAccessSignature|no Authorization/],
      ['Bearer abc', /not a SharedAccessSignature/],
      ['SharedAccessSignature', /not a SharedAccessSignature/],
      ['SharedAccessSignature garbage', /does not consist/],
      [`${good}&sr=x`, /does not consist/],
      [`${good}&more=x`, /does not consist/],
      [good.replace(/&skn=[^&]*/, ''), /does not consist/],
      [good.replace(/sig=[^&]*/, 'sig=%'), /\(sig\)/],
      [good.replace(/sig=[^&]*/, 'sig=AAAA'), /\(sig\)/],
      [good.replace(/se=[0-9]+/, `se=${fresh(7200)}`), /\(sig\)/],
      [token({ key: Buffer.alloc(32, 1).toString('base64') }), /\(sig\)/],
      [token({ sr: '127.0.0.2' }), /\(sr\)/],
      [token({ sr: 'other.azure-devices-provisioning.net' }), /\(sr\)/],
      [token({ skn: 'enrollmentread' }), /\(skn\)/],
      [token({ se: fresh(0) }), /expired/],
      [token({ se: '1e99' }), /whole seconds/],
    ];
    for (const [authorization, message] of cases) {
      const answer = await call(authorization);
      refused(answer, 401, 401002);
      assert.match(answer.json.message, message);
      const signature = /sig=([^&]+)/.exec(authorization ?? '')?.[1] ?? '';
      if (signature.length > 4) assert.ok(!answer.text.includes(signature));
    }
  });

  it('comes before the body is looked at', async () => {
    const answer = await rig.call('PUT', '/enrollments/d1', { raw: '{', authorization: 'x' });
    refused(answer, 401, 401002);
  });
});

function refused(answer: Answer, status: number, errorCode: number): void {
  assert.equal(answer.status, status, answer.text);
  assert.equal(answer.json.errorCode, errorCode, answer.text);
  assert.equal(answer.headers['x-ms-error-code'], String(errorCode));
  assert.match(answer.json.message, /^[^\n]+[^.\n]$/);
}
