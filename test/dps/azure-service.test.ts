import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { openAzureService, type AzureServiceOptions } from '../../src/dps/azure-service.ts';
import type { HttpTrace } from '../../src/dps/azure-http.ts';
import type { EnrollmentGroups, ProvisioningService } from '../../src/dps/service.ts';
import tls, { type TLSSocket } from 'node:tls';
import { syncBuiltinESMExports } from 'node:module';
import { refusalError } from '../../src/dps/service-errors.ts';
import { IotdmError } from '../../src/errors.ts';
import { proxyPage } from '../../src/intermediary.ts';
import { Secret } from '../../src/secret.ts';
import { makeAuthority } from '../fakes/certificates.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { answering, startLyingServer, type LyingServer } from '../fakes/lying-server.ts';

const now = Date.UTC(2026, 0, 2, 3, 4, 5);
const keyBytes = Buffer.from('marked-secret-key-0123456789abcd');

let server: LyingServer;
let opened: ProvisioningService[] = [];
let traces: HttpTrace[] = [];
let delays: number[] = [];

function open(options: Partial<AzureServiceOptions> = {}): ProvisioningService & EnrollmentGroups {
  const service = openAzureService({
    credentials: { host: server.host, keyName: 'owner', key: Secret.fromBytes(Buffer.from(keyBytes)) },
    ca: server.ca,
    userAgent: 'iotdm/test',
    onRequest: (trace) => traces.push(trace),
    clock: () => now,
    random: () => 1,
    delay: (ms) => {
      delays.push(ms);
      return Promise.resolve();
    },
    ...options,
  });
  opened.push(service);
  return service;
}

async function failure(promise: Promise<unknown>): Promise<IotdmError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof IotdmError, inspect(error));
    assert.ok(!inspect(error, { depth: 9 }).includes(keyBytes.toString()), 'an error shows the key');
    assert.ok(!inspect(error, { depth: 9 }).includes(keyBytes.toString('base64')), 'an error shows the key');
    assert.match(error.message, /^[^A-Z].*[^.]$/s);
    assert.doesNotMatch(error.message, /\p{C}/u);
    return error;
  }
  return assert.fail('did not fail');
}

const enrollment = fakeEnrollment(1);
const stored = { ...enrollment, etag: '"e1"', provisioningStatus: 'enabled' };

before(async () => {
  server = await startLyingServer();
});
beforeEach(() => {
  traces = [];
  delays = [];
  server.requests.length = 0;
});
afterEach(() => {
  for (const service of opened) service.close();
  opened = [];
});
after(() => server.close());

describe('requests to the service', () => {
  it('are made as the specification says', async () => {
    const service = open();
    server.answer(answering(200, stored));
    await service.create({ ...enrollment, etag: 'stale' });
    await service.replace(enrollment, '"e0"');
    await service.find('Device-0001');
    server.answer((socket) => socket.write('HTTP/1.1 204 No Content\r\n\r\n'));
    await service.delete('device-0001', '"e1"');
    await service.delete('device-0001');
    server.answer(answering(200, { isSuccessful: true, errors: [] }));
    await service.bulk('updateIfMatchETag', [{ ...enrollment, etag: '"e1"' }]);
    await service.bulk('create', [{ ...enrollment, etag: '"e1"' }]);

    const version = 'api-version=2026-11-01';
    assert.deepEqual(
      server.requests.map(({ method, path, headers }) => [method, path, headers['if-match']]),
      [
        ['PUT', `/enrollments/device-0001?${version}`, undefined],
        ['PUT', `/enrollments/device-0001?${version}`, '"e0"'],
        ['GET', `/enrollments/Device-0001?${version}`, undefined],
        ['DELETE', `/enrollments/device-0001?${version}`, '"e1"'],
        ['DELETE', `/enrollments/device-0001?${version}`, undefined],
        ['POST', `/enrollments/?${version}`, undefined],
        ['POST', `/enrollments/?${version}`, undefined],
      ],
    );
    const [created, , , , , changed, bulkCreated] = server.requests.map(({ body }) => body);
    assert.deepEqual(JSON.parse(created ?? ''), enrollment);
    assert.deepEqual(JSON.parse(changed ?? ''), {
      mode: 'updateIfMatchETag',
      enrollments: [{ ...enrollment, etag: '"e1"' }],
    });
    assert.deepEqual(JSON.parse(bulkCreated ?? ''), { mode: 'create', enrollments: [enrollment] });
    assert.equal(server.requests[0]?.headers['user-agent'], 'iotdm/test');
    assert.equal(server.requests[0].headers['host'], server.host);
    assert.equal(service.requests, 7);
    assert.equal(server.connections, 1, 'the connection is kept');
  });

  it('carry a token that is signed with the key and lasts an hour', async () => {
    server.answer(answering(404, ''));
    await open().find('x');
    const token = server.requests[0]?.headers['authorization'] ?? '';
    const match = /^SharedAccessSignature sr=(\S+)&sig=(\S+)&skn=owner&se=(\d+)$/.exec(token);
    assert.ok(match);
    const [, resource = '', signature = '', expiry = ''] = match;
    assert.equal(decodeURIComponent(resource), server.host);
    assert.equal(Number(expiry), now / 1000 + 3600);
    assert.equal(
      decodeURIComponent(signature),
      createHmac('sha256', keyBytes).update(`${resource}\n${expiry}`).digest('base64'),
    );
  });

  it('are traced once each, without secrets', async () => {
    server.answer(answering(429, {}, { 'retry-after': '1' }), answering(200, stored));
    const service = open();
    await service.find('device-0001');
    assert.deepEqual(
      traces.map(({ method, path, status, error }) => [method, path, status, error]),
      [
        ['GET', '/enrollments/device-0001?api-version=2026-11-01', 429, 'network.throttled'],
        ['GET', '/enrollments/device-0001?api-version=2026-11-01', 200, undefined],
      ],
    );
    assert.equal(traces[0]?.requestId, server.requests[0]?.headers['request-id']);
    assert.doesNotMatch(JSON.stringify(traces), /sig=|SharedAccess/);
    assert.deepEqual([service.requests, service.throttled], [2, 1]);
  });

  it('go to another host than the credentials’ when told so, and to ports', async () => {
    server.answer(answering(404, ''));
    const key = Secret.fromBytes(Buffer.from(keyBytes));
    const service = open({
      credentials: { host: 'line4.azure-devices-provisioning.net', keyName: 'owner', key },
      host: `localhost:${server.port}`,
    });
    assert.equal(await service.find('x'), undefined);
    assert.match(
      server.requests[0]?.headers['authorization'] ?? '',
      /sr=line4\.azure-devices-provisioning\.net&/,
    );
  });

  it('are not made with what cannot be sent', async () => {
    const service = open();
    assert.equal((await failure(service.find('../registrations'))).code, 'usage.invalid');
    assert.equal((await failure(service.delete('x', 'a\r\nb'))).code, 'usage.invalid');
    assert.equal((await failure(service.bulk('create', []))).code, 'internal.unexpected');
    const twice = [enrollment, { ...enrollment, registrationId: enrollment.registrationId.toUpperCase() }];
    assert.equal((await failure(service.bulk('create', twice))).code, 'internal.unexpected');
    assert.equal(server.requests.length, 0);
  });
});

describe('the api-version', () => {
  const spoken = (): (string | undefined)[] =>
    server.requests.map(({ path }) => /api-version=([0-9-]*)/.exec(path)?.[1]);
  const unknown = answering(400, {
    errorCode: 400004,
    message: 'Unsupported API version 2026-11-01.',
  });
  const gateway = answering(400, { Message: 'ErrorCode:ArgumentInvalid;Unknown api version; uri: /x' });
  const newer = { ...enrollment, namespaceName: 'line-4' };

  it('is the older one for a service that does not know the newer, which is asked once', async () => {
    for (const refusal of [unknown, gateway]) {
      server.requests.length = 0;
      const service = open({ attempts: 1 });
      server.answer(refusal, answering(200, stored));
      assert.equal((await service.find('device-0001'))?.etag, '"e1"');
      await service.create(enrollment);
      assert.deepEqual(spoken(), ['2026-11-01', '2021-10-01', '2021-10-01']);
      assert.deepEqual(delays, []);
      // There the members would be left out without a word.
      const refused = [service.create(newer), service.bulk('create', [newer])];
      for (const result of await Promise.all(refused.map(failure))) {
        assert.equal(result.code, 'service.invalid');
        assert.match(
          result.message,
          /does not know namespaceName: it does not speak API version 2026-11-01$/,
        );
      }
      assert.equal(server.requests.length, 3);
    }
  });

  it('stays the newer one where the service has answered in it, and for what only that can say', async () => {
    const service = open();
    server.answer(answering(404, ''), unknown);
    assert.equal(await service.find('x'), undefined);
    assert.equal((await failure(service.find('x'))).code, 'service.invalid');
    assert.deepEqual(spoken(), ['2026-11-01', '2026-11-01']);

    server.requests.length = 0;
    server.answer(unknown);
    assert.match((await failure(open().create(newer))).message, /does not know namespaceName/);
    // Both versions are refused: the second refusal is the answer, and nothing is settled.
    const other = open();
    assert.match((await failure(other.find('x'))).message, /Unsupported API version/);
    server.answer(answering(400, { message: 'customAllocationDefinition.apiVersion is not valid' }));
    await failure(other.find('x'));
    assert.deepEqual(spoken(), ['2026-11-01', '2026-11-01', '2021-10-01', '2026-11-01']);
  });
});

describe('groups', () => {
  const group = {
    enrollmentGroupId: 'Line-4',
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: 'MARKED' } },
    etag: '"g1"',
    iotHubs: ['a.azure-devices.net'],
    unknown: { kept: true },
  };

  it('are read in pages and one by one, without symmetric keys', async () => {
    const service = open();
    server.answer(answering(200, [group], { 'x-ms-continuation': 'next' }), answering(200, []));
    const read: object[] = [];
    for await (const page of service.listGroups()) read.push(...page);
    const shown = { ...group, attestation: { type: 'symmetricKey' } };
    assert.deepEqual(read, [shown]);
    server.answer(answering(200, group));
    assert.deepEqual(await service.findGroup('line-4'), shown);
    server.answer(answering(404, ''));
    assert.equal(await service.findGroup('line-5'), undefined);
    const version = 'api-version=2026-11-01';
    assert.deepEqual(
      server.requests.map(({ method, path }) => `${method} ${path}`),
      [
        `POST /enrollmentGroups/query?${version}`,
        `POST /enrollmentGroups/query?${version}`,
        `GET /enrollmentGroups/line-4?${version}`,
        `GET /enrollmentGroups/line-5?${version}`,
      ],
    );
    assert.equal((await failure(service.findGroup('../x'))).code, 'usage.invalid');
    server.answer(answering(200, group));
    assert.equal((await failure(service.findGroup('other'))).code, 'service.unexpected-answer');
  });
});

describe('answers of the service', () => {
  it('are built anew from what is specified', async () => {
    const hostile = `{"registrationId":"device-0001","etag":"\\"e1\\"","deviceId":null,"iotHubHostName":"",
      "__proto__":{"polluted":true},"unknown":1,
      "attestation":{"type":"tpm","tpm":{"endorsementKey":"AAAA"},"symmetricKey":{"primaryKey":"theirs"}},
      "customAllocationDefinition":{"webhookUrl":"https://example.net","apiVersion":"2021-10-01"},
      "initialTwin":{"tags":{"__proto__":{"polluted":true},"a":[1,{"b":null}]},"properties":{"desired":{}}}}`;
    server.answer(answering(200, hostile));
    const found = await open().find('device-0001');
    assert.ok(found);
    assert.deepEqual(Object.keys(found).sort(), [
      'attestation',
      'customAllocationDefinition',
      'etag',
      'initialTwin',
      'registrationId',
      'unknown',
    ]);
    assert.deepEqual(found.attestation, { type: 'tpm', tpm: { endorsementKey: 'AAAA' } });
    assert.equal(({} as { polluted?: unknown }).polluted, undefined);
    assert.equal((found.initialTwin?.tags as { polluted?: unknown }).polluted, undefined);
    assert.ok(Object.hasOwn(found.initialTwin?.tags ?? {}, '__proto__'));
  });

  it('are refused when they are of another shape', async () => {
    const service = open();
    const deep = JSON.parse('{"a":'.repeat(40) + '1' + '}'.repeat(40)) as unknown;
    for (const answer of [
      [],
      null,
      'text',
      {},
      { ...stored, registrationId: 'another' },
      { ...stored, registrationId: 7 },
      { ...stored, etag: undefined },
      { ...stored, etag: 'a\nb' },
      { ...stored, etag: 5 },
      { ...stored, attestation: { type: 'tpm' } },
      { ...stored, attestation: { type: 'tpm', tpm: { endorsementKey: {} } } },
      { ...stored, capabilities: { iotEdge: 'yes' } },
      { ...stored, provisioningStatus: 'maybe' },
      { ...stored, iotHubs: 'hub' },
      { ...stored, initialTwin: { tags: deep } },
    ]) {
      server.answer(answering(200, answer === 'text' ? '"text"' : answer));
      const error = await failure(service.find('device-0001'));
      assert.equal(error.code, 'service.unexpected-answer', JSON.stringify(answer));
    }
  });

  it('are refused when they are truncated JSON, empty or too large', async () => {
    const service = open();
    server.answer(answering(200, '{"registrationId":"dev'));
    assert.match((await failure(service.find('device-0001'))).message, /not valid JSON$/);

    server.answer(answering(200, ''));
    assert.equal((await failure(service.find('device-0001'))).code, 'service.unexpected-answer');

    server.answer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n');
      const chunk = Buffer.concat([
        Buffer.from('100000\r\n'),
        Buffer.alloc(1 << 20, 0x20),
        Buffer.from('\r\n'),
      ]);
      const more = () => {
        while (!socket.destroyed && socket.write(chunk));
      };
      socket.on('drain', more);
      more();
    });
    assert.match((await failure(service.find('device-0001'))).message, /larger than 16 MiB$/);
  });

  it('are those of a proxy where they are a page, of whatever status', async () => {
    const service = open();
    const page = '<html><body>Please log in</body></html>';
    const html = { 'content-type': 'text/html; charset=utf-8' };
    for (const [status, reason, effect] of [
      [200, 'proxy-page', 'unknown'],
      [403, 'proxy-page', 'unknown'],
      [404, 'proxy-page', 'unknown'],
      [302, 'proxy-login', 'unknown'],
      [511, 'proxy-login', 'refused'],
      [407, 'proxy-credentials', 'refused'],
      [502, 'proxy-gateway', 'unknown'],
    ] as const) {
      server.answer(answering(status, page, html));
      const error = await failure(service.find('device-0001'));
      assert.deepEqual([error.code, error.effect], ['network.proxy', effect], String(status));
      assert.equal(
        error.message,
        `a proxy between here and ${server.host} (its certificate comes from "lying authority") answered in place of ` +
          `${server.host}: status ${status} and content type text/html`,
      );
      assert.deepEqual([error.details?.['status'], error.details?.['reason']], [status, reason]);
      assert.ok(!inspect(error).includes('log in'));
    }
    server.answer(answering(403, page, { ...html, via: '1.1 squid01 (squid/5.7)' }));
    assert.match(
      (await failure(service.find('x'))).message,
      /it calls itself "1\.1 squid01 \(squid\/5\.7\)"/,
    );
    server.answer(answering(200, 'blocked', { 'content-type': 'text/plain' }));
    assert.equal((await failure(service.find('x'))).code, 'network.proxy');
    // Of a host that shows a certificate of the world's, nobody else speaks: it is the wrong one.
    const head = { status: 403, headers: { ...html, via: '1.1 varnish' } };
    assert.equal(proxyPage('dps.example', head, { proxy: 'p:1', authority: undefined }, ''), undefined);
    assert.match(
      refusalError('dps.example', {
        status: 403,
        contentType: 'text/html',
        errorCodeHeader: undefined,
        retryAfterMs: undefined,
        body: page,
      }).message,
      /not a provisioning service's: status 403/,
    );
  });

  it('tell the clock by their date, where they refuse a token that was dated here', async () => {
    const now = Date.UTC(2026, 0, 1);
    const service = open({ clock: () => now });
    const refusedAt = (ahead: number, message: string): Promise<IotdmError> => {
      const date = new Date(now + ahead * 1000).toUTCString();
      server.answer(answering(401, { errorCode: 401003, message }, { date }));
      return failure(service.find('device-0001'));
    };
    const late = await refusedAt(7500, 'The token has expired.');
    assert.equal(late.code, 'auth.clock');
    assert.equal(
      late.message,
      `${server.host} refused the token, and the clock of this machine is 2 hours 5 minutes behind the service's`,
    );
    assert.deepEqual(
      [late.details?.['clockOffsetSeconds'], late.details?.['errorCode'], late.details?.['registrationId']],
      [-7500, 401003, 'device-0001'],
    );
    assert.equal((await refusedAt(120, 'Expired')).code, 'auth.clock');
    assert.equal((await refusedAt(-86_400, 'Unauthorized')).code, 'auth.clock');
    assert.equal((await refusedAt(120, 'Unauthorized')).code, 'auth.refused');
    assert.equal((await refusedAt(30, 'Expired')).code, 'auth.refused');
    assert.equal((await refusedAt(-3600, 'Unauthorized')).code, 'auth.clock');
    server.answer(answering(401, { message: 'Expired' }));
    assert.equal((await failure(service.find('x'))).code, 'auth.refused', 'nothing tells the time');
  });

  it('say by their words what a number is about that the service gives for several things', async () => {
    const service = open();
    for (const [message, reason] of [
      ['Endorsement key is invalid, or does not match the Enrollment.', 'endorsement-key-refused'],
      ['Registration ID is invalid.', 'registration-id-refused'],
      ['Invalid registrationId', 'registration-id-refused'],
      ['Unsupported API version 2019-04-15.', 'api-version-refused'],
      ['The api-version query parameter is wrong', 'api-version-refused'],
      ['Device ID is invalid', 'device-id-refused'],
      ['The request is not valid', undefined],
    ] as const) {
      server.answer(answering(400, { errorCode: 400004, message }));
      assert.equal((await failure(service.find('x'))).details?.['reason'], reason, message);
    }
    server.answer(answering(403, { errorCode: 403000, message: 'IP address is not allowed' }));
    assert.equal((await failure(service.find('x'))).details?.['reason'], 'firewall');
  });

  it('become errors by their status, with what the service says', async () => {
    const service = open();
    const cases: readonly [number, string][] = [
      [400, 'service.invalid'],
      [401, 'auth.refused'],
      [403, 'auth.refused'],
      [404, 'service.not-found'],
      [409, 'service.conflict'],
      [412, 'service.changed-meanwhile'],
      [415, 'service.invalid'],
      [500, 'network.unavailable'],
      [504, 'network.unavailable'],
    ];
    for (const [status, code] of cases) {
      const errorCode = status * 1000 + 4;
      server.answer(
        answering(status, { errorCode, trackingId: 'track-1', message: 'It went wrong.', timestampUtc: 'x' }),
      );
      const error = await failure(service.delete('device-0001'));
      assert.equal(error.code, code);
      assert.match(error.message, new RegExp(`\\(${errorCode}\\): It went wrong$`));
      assert.deepEqual(error.details, {
        status,
        errorCode,
        trackingId: 'track-1',
        registrationId: 'device-0001',
      });
    }
    assert.deepEqual(delays, [], 'none of them is repeated');

    server.answer(answering(500, 'oops', { 'content-type': 'text/plain', 'x-ms-error-code': '500001' }));
    assert.equal((await failure(service.find('x'))).details?.['errorCode'], 500001);
    server.answer(answering(401, '', { 'content-length': '0' }));
    assert.equal((await failure(service.find('x'))).code, 'auth.refused');
  });

  it('are quoted within bounds and without secrets', async () => {
    const said = `\u001b[31mRed\u202e\nSharedAccessKey=c2VjcmV0c2VjcmV0 &sig=c2lnbmF0dXJl ${'long '.repeat(200)}`;
    server.answer(answering(400, { errorCode: 'no number', trackingId: ['x'], message: said }));
    const error = await failure(open().find('x'));
    assert.ok(error.message.length < 400);
    assert.match(error.message, /Red/);
    assert.doesNotMatch(error.message, /c2VjcmV0|c2lnbmF0|\n/);
    assert.deepEqual(error.details, { status: 400, registrationId: 'x' });
  });
});

describe('bulk answers', () => {
  it('name what failed, by the id that was sent', async () => {
    const failed = { registrationId: 'DEVICE-0001', errorCode: 409001, errorStatus: 'exists' };
    server.answer(answering(200, { isSuccessful: false, errors: [failed] }));
    assert.deepEqual(await open().bulk('create', [enrollment]), {
      isSuccessful: false,
      errors: [{ registrationId: 'device-0001', errorCode: 409001, errorStatus: 'exists' }],
    });
    server.answer(answering(200, { isSuccessful: true, errors: null }));
    assert.deepEqual(await open().bulk('create', [enrollment]), { isSuccessful: true, errors: [] });
  });

  it('are refused when they name strangers, contradict themselves or are malformed', async () => {
    const service = open();
    const failed = { registrationId: 'device-0001', errorCode: 409001, errorStatus: 'exists' };
    for (const answer of [
      { isSuccessful: false, errors: [{ ...failed, registrationId: 'stranger' }] },
      { isSuccessful: false, errors: [{ ...failed, registrationId: '__proto__' }] },
      { isSuccessful: false, errors: [{ ...failed, errorCode: '409001' }] },
      { isSuccessful: false, errors: [{ ...failed, errorStatus: null }] },
      { isSuccessful: false, errors: [null] },
      { isSuccessful: false, errors: {} },
      { isSuccessful: false, errors: [] },
      { isSuccessful: true, errors: [failed] },
      { isSuccessful: 'true', errors: [] },
      [],
    ]) {
      server.answer(answering(200, answer));
      const error = await failure(service.bulk('create', [enrollment]));
      assert.equal(error.code, 'service.unexpected-answer', JSON.stringify(answer));
    }
  });
});

describe('the effect of a call that fails', () => {
  it('is what its answer says', async () => {
    for (const [answer, code, effect] of [
      [answering(400, { errorCode: 400004 }), 'service.invalid', 'refused'],
      [answering(401, {}), 'auth.refused', 'refused'],
      [answering(409, {}), 'service.conflict', 'refused'],
      [answering(500, {}), 'network.unavailable', 'unknown'],
      [answering(504, {}), 'network.unavailable', 'unknown'],
      // Neither a page nor a broken answer is the service's word.
      [answering(403, '<html>', { 'content-type': 'text/html' }), 'network.proxy', 'unknown'],
      [answering(302, ''), 'service.unexpected-answer', 'unknown'],
      [answering(200, '{"a":'), 'service.unexpected-answer', 'unknown'],
      [answering(200, []), 'service.unexpected-answer', 'unknown'],
    ] as const) {
      server.answer(answer);
      const error = await failure(open().create(enrollment));
      assert.deepEqual([error.code, error.effect], [code, effect]);
    }
  });

  it('stays unknown once one of its requests may have been carried out', async () => {
    server.answer(answering(429, {}), answering(409, {}));
    assert.equal((await failure(open().create(enrollment))).effect, 'refused');
    // Whoever said 503 may have passed the request on, which then is in its own way.
    server.answer(answering(503, {}), answering(409, {}));
    const error = await failure(open().create(enrollment));
    assert.deepEqual([error.code, error.effect], ['service.conflict', 'unknown']);
    for (const [status, effect] of [
      [429, 'none'],
      [503, 'unknown'],
    ] as const) {
      server.answer(answering(status, {}));
      const service = open({
        delay: (_ms, signal) => {
          service.close();
          return Promise.reject(new Error(String(signal.reason)));
        },
      });
      const left = await failure(service.create(enrollment));
      assert.deepEqual([left.code, left.effect], ['interrupted.signal', effect], String(status));
    }
  });
});

describe('lists', () => {
  const page = (seeds: readonly number[], token?: string) =>
    answering(
      200,
      seeds.map((seed) => ({ ...fakeEnrollment(seed), etag: `"${seed}"` })),
      token === undefined ? {} : { 'x-ms-continuation': token },
    );

  async function ids(service: ProvisioningService, pageSize?: number): Promise<string[][]> {
    const pages: string[][] = [];
    for await (const items of service.list(pageSize === undefined ? {} : { pageSize })) {
      pages.push(items.map(({ registrationId }) => registrationId));
    }
    return pages;
  }

  it('are followed page by page, through a throttled one', async () => {
    server.answer(page([1, 2], 'next'), answering(429, {}), page([], 'last'), page([3], ''));
    assert.deepEqual(await ids(open(), 2), [['device-0001', 'device-0002'], [], ['device-0003']]);
    assert.deepEqual(
      server.requests.map(({ headers }) => [headers['x-ms-max-item-count'], headers['x-ms-continuation']]),
      [
        ['2', undefined],
        ['2', 'next'],
        ['2', 'next'],
        ['2', 'last'],
      ],
    );
  });

  it('end where they go round, or go on with nothing', async () => {
    server.answer(page([1], 'a'), page([2], 'b'), page([1], 'a'), page([2], 'b'));
    const round = await failure(ids(open()));
    assert.equal(round.code, 'service.unexpected-answer');
    assert.match(round.message, /comes back to the same page/);
    assert.equal(server.requests.length, 3);
    server.answer(...Array.from({ length: 110 }, (_, index) => page([], `t${index}`)));
    const endless = await failure(ids(open()));
    assert.match(endless.message, /a list without an end/);
  });

  it('take pages of a thousand when nothing else is said', async () => {
    server.answer(page([1]));
    await ids(open());
    assert.equal(server.requests[0]?.headers['x-ms-max-item-count'], '1000');
  });

  it('end when the service sends them in a circle or sends no list', async () => {
    server.answer(page([1], 'same'));
    assert.equal((await failure(ids(open()))).code, 'service.unexpected-answer');
    server.answer(answering(200, { value: [] }));
    assert.equal((await failure(ids(open()))).code, 'service.unexpected-answer');
  });
});

describe('throttling', () => {
  it('is waited out for as long as the service asks', async () => {
    const at = new Date(now + 7000).toUTCString();
    server.answer(
      answering(429, {}, { 'retry-after': '3' }),
      answering(503, {}, { 'retry-after': at }),
      answering(429, {}, { 'retry-after': '86400' }),
      answering(429, {}, { 'retry-after': 'soon' }),
      answering(200, stored),
    );
    const service = open();
    await service.find('device-0001');
    assert.deepEqual(delays, [3000, 7000, 60_000, 4000]);
    assert.deepEqual([service.requests, service.throttled], [5, 3]);
  });

  it('is waited out longer each time when the service does not ask, and not for ever', async () => {
    server.answer(answering(429, { errorCode: 429001, message: 'slow down' }));
    const error = await failure(open().find('x'));
    assert.equal(error.code, 'network.throttled');
    assert.deepEqual(delays, [500, 1000, 2000, 4000]);
    assert.equal(server.requests.length, 5);
    delays = [];
    assert.equal((await failure(open({ random: () => 0.5 }).find('x'))).code, 'network.throttled');
    assert.deepEqual(delays, [250, 500, 1000, 2000]);
  });
});

describe('connections', () => {
  it('that are cut are errors at once', async () => {
    const service = open();
    for (const answer of [
      '',
      'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n',
      'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"a":',
      'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\n',
    ]) {
      for (const cut of ['end', 'destroy'] as const) {
        server.answer((socket) => {
          socket.write(answer, () => socket[cut]());
        });
        const error = await failure(service.find('x'));
        assert.equal(error.code, 'network.unavailable', `${cut} after ${JSON.stringify(answer)}`);
        assert.equal(error.effect, 'unknown');
      }
    }
    assert.equal(traces.length, 8, 'one outcome for each request');
  });

  it('that answer something else than HTTP are errors', async () => {
    server.answer((socket) => socket.write('SSH-2.0-OpenSSH_9.6\r\n'));
    assert.equal((await failure(open().find('x'))).code, 'service.unexpected-answer');
  });

  it('that never answer run out of time', async () => {
    const service = open({ timeoutMs: 40 });
    for (const answer of ['', 'HTTP/1.1 200 OK\r\n', 'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{']) {
      server.answer((socket) => {
        if (answer !== '') socket.write(answer);
      });
      const error = await failure(service.find('x'));
      assert.deepEqual([error.code, error.effect], ['network.timeout', 'unknown']);
      assert.match(error.message, /within 0\.04 s$/);
    }
  });

  it('that never get as far as TLS run out of time earlier', async () => {
    const silent = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1');
    await new Promise((resolve) => silent.once('listening', resolve));
    const address = silent.address();
    assert.ok(typeof address === 'object' && address !== null);
    try {
      const service = open({ host: `127.0.0.1:${address.port}`, connectTimeoutMs: 40 });
      const error = await failure(service.find('x'));
      assert.deepEqual([error.code, error.effect], ['network.timeout', 'none']);
      assert.match(error.message, /secure connection within/);
    } finally {
      silent.close();
    }
  });

  it('to a closed port are errors', async () => {
    const closed = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => closed.once('listening', resolve));
    const address = closed.address();
    assert.ok(typeof address === 'object' && address !== null);
    await new Promise((resolve) => closed.close(resolve));
    const error = await failure(open({ host: `127.0.0.1:${address.port}` }).find('x'));
    assert.deepEqual([error.code, error.effect], ['network.unreachable', 'none']);
    assert.match(
      error.message,
      /^127\.0\.0\.1:\d+ cannot be reached: nothing listens there \(ECONNREFUSED\)$/,
    );
    assert.equal(traces[0]?.error, 'ECONNREFUSED');
  });

  it('to whoever cannot prove to be the host are refused', async () => {
    const authority = makeAuthority('another authority');
    const identities = {
      stranger: { ...makeAuthority('unknown').issue(['127.0.0.1']), ca: authority.pem },
      misnamed: { ...authority.issue(['127.0.0.2', 'example.net']), ca: authority.pem },
      expired: { ...authority.issue(['127.0.0.1'], { to: new Date(Date.now() - 1000) }), ca: authority.pem },
      early: { ...authority.issue(['127.0.0.1'], { from: new Date(Date.now() + 3.6e6) }), ca: authority.pem },
    };
    const reasons = {
      stranger: /unknown certificate authority/,
      misnamed: /issued for another host/,
      expired: /expired, or this machine's clock/,
      early: /not valid yet, or this machine's clock/,
    };
    for (const name of ['stranger', 'misnamed', 'expired', 'early'] as const) {
      const impostor = await startLyingServer(identities[name]);
      try {
        const error = await failure(open({ host: impostor.host, ca: impostor.ca }).find('x'));
        assert.deepEqual([error.code, error.effect], ['network.tls', 'none'], name);
        assert.match(error.message, reasons[name]);
        assert.ok(error.message.includes(impostor.host));
        assert.equal(impostor.requests.length, 0, 'nothing is sent');
      } finally {
        await impostor.close();
      }
    }
  });

  it('trust no certificate authority that is not one', () => {
    for (const ca of ['', 'text', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n']) {
      assert.throws(() => open({ ca }), { code: 'input.invalid' });
    }
    assert.throws(() => open({ host: 'https://example.net' }), { code: 'usage.invalid' });
  });

  it('fail when they are reset as soon as they are secure, and are made again', async (t) => {
    t.after(() => {
      server.greet = () => undefined;
    });
    server.answer(answering(404, ''));
    for (const end of [
      (socket: TLSSocket) => socket.destroy(),
      (_: TLSSocket, beneath: Socket | undefined) => beneath?.resetAndDestroy(),
      (socket: TLSSocket) => socket.end(),
    ]) {
      for (let round = 0; round < 10; round += 1) {
        const service = open({ maxSockets: 3 });
        server.greet = end;
        const calls = ['a', 'b', 'c', 'd', 'e'].map((id) => failure(service.find(id)));
        for (const { code } of await Promise.all(calls)) assert.equal(code, 'network.unavailable');
        server.greet = () => undefined;
        assert.equal(await service.find('f'), undefined);
      }
    }
  });

  it('fail when they end in the moment in which they become secure', async (t) => {
    const service = open({ maxSockets: 1, connectTimeoutMs: 50 });
    server.answer(answering(404, ''));
    const { connect } = tls;
    const ending = t.mock.method(tls, 'connect', (options: tls.ConnectionOptions) => {
      const socket = connect(options);
      return socket.once('secureConnect', () => socket.destroy());
    });
    syncBuiltinESMExports();
    t.after(() => {
      ending.mock.restore();
      syncBuiltinESMExports();
    });
    const calls = ['a', 'b'].map((id) => failure(service.find(id)));
    for (const { code } of await Promise.all(calls)) assert.match(code, /^network\.(?:unavailable|timeout)$/);
    ending.mock.restore();
    syncBuiltinESMExports();
    assert.equal(await service.find('d'), undefined);
  });

  it('share the connections that there may be, and none waits for one that hangs', async () => {
    const service = open({ maxSockets: 2, timeoutMs: 200 });
    const before = server.connections;
    server.answer(() => undefined, answering(404, ''));
    const hanging = failure(service.find('hangs'));
    const found = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((id) => service.find(id)));
    assert.deepEqual(
      found,
      Array.from({ length: 5 }, () => undefined),
    );
    assert.equal(server.connections - before, 2);
    assert.equal((await hanging).code, 'network.timeout');
    await Promise.all(['f', 'g'].map((id) => service.find(id)));
    assert.equal(server.connections - before, 3, 'what hung is made anew');
  });

  it('that cannot be made fail every call that waits for one, and nothing else', async () => {
    const closed = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => closed.once('listening', resolve));
    const address = closed.address();
    assert.ok(typeof address === 'object' && address !== null);
    await new Promise((resolve) => closed.close(resolve));
    // The test fails for an unhandled rejection as well, which would end the process.
    const service = open({ host: `127.0.0.1:${address.port}`, maxSockets: 2 });
    const calls = ['a', 'b', 'c', 'd'].map((id) => failure(service.find(id)));
    for (const { code } of await Promise.all(calls)) assert.equal(code, 'network.unreachable');
  });

  it('are made again after a certificate for another host', async () => {
    const authority = makeAuthority('another authority');
    const impostor = await startLyingServer({ ...authority.issue(['127.0.0.2']), ca: authority.pem });
    try {
      const service = open({ host: impostor.host, ca: impostor.ca, maxSockets: 1, connectTimeoutMs: 100 });
      for (let time = 0; time < 3; time += 1) {
        assert.equal((await failure(service.find('x'))).code, 'network.tls', `call ${time}`);
      }
      assert.equal(impostor.requests.length, 0, 'nothing is sent');
    } finally {
      await impostor.close();
    }
  });

  it('of which TLS fails later are errors at once', async (t) => {
    let below: Socket | undefined;
    server.greet = (_, beneath) => {
      below = beneath;
    };
    t.after(() => {
      server.greet = () => undefined;
    });
    // A fatal alert in the clear, where there must be nothing in the clear any more.
    server.answer(() => below?.write(Buffer.from('15030300020228', 'hex')), answering(404, ''));
    const service = open({ timeoutMs: 300 });
    const { code } = await failure(service.find('x'));
    assert.notEqual(code, 'network.timeout');
    assert.notEqual(code, 'network.unreachable');
    assert.equal(await service.find('y'), undefined);
  });

  it('that lose their route after the request has been sent leave its fate unknown', async (t) => {
    server.answer(() => undefined);
    const { connect } = tls;
    let client: TLSSocket | undefined;
    const watching = t.mock.method(tls, 'connect', (options: tls.ConnectionOptions) => {
      client = connect(options);
      return client;
    });
    syncBuiltinESMExports();
    t.after(() => {
      watching.mock.restore();
      syncBuiltinESMExports();
    });
    // What Linux reports of an established connection whose neighbour is gone when its retransmissions end.
    for (const code of ['EHOSTUNREACH', 'ENETUNREACH', 'ENETDOWN']) {
      const sent = server.requests.length;
      const call = failure(open().create(enrollment));
      while (server.requests.length === sent) await new Promise((resolve) => setImmediate(resolve));
      client?.destroy(Object.assign(new Error(code), { code, syscall: 'read' }));
      const { code: found, effect } = await call;
      assert.deepEqual([found, effect], ['network.unavailable', 'unknown'], code);
    }
  });

  it('that answer something else than HTTP do not get their words into an error', async () => {
    server.answer((socket, { headers }) => socket.write(`${headers['authorization'] ?? ''}\r\n\r\n`));
    const error = await failure(open().find('x'));
    assert.equal(error.code, 'service.unexpected-answer');
    assert.doesNotMatch(inspect(error, { depth: 9 }), /SharedAccessSignature|sig=/);
  });

  it('that are said to close are errors when they are cut midway', async () => {
    const head = 'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n';
    server.answer((socket) => socket.end(`${head}transfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\n`));
    assert.equal((await failure(open().find('x'))).code, 'network.unavailable');
  });

  it('with a status that there is not are refused', async () => {
    for (const status of ['099', '000']) {
      server.answer((socket) => socket.write(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\n\r\n`));
      assert.equal((await failure(open().find('x'))).code, 'service.unexpected-answer', status);
    }
  });

  it('end with close(), and with them every call under way', async () => {
    const service = open({ maxSockets: 1 });
    server.answer(() => undefined);
    const sent = server.requests.length;
    const calls = [failure(service.find('a')), failure(service.find('b'))];
    while (server.requests.length === sent) await new Promise((resolve) => setImmediate(resolve));
    service.close();
    const ended = [...(await Promise.all(calls)), await failure(service.find('c'))];
    assert.deepEqual(
      ended.map(({ code, effect }) => [code, effect]),
      // The first one was sent, the second waited for its connection, the third came too late.
      ['unknown', 'none', 'none'].map((effect) => ['interrupted.signal', effect]),
    );

    let waiting: () => void = () => undefined;
    const isWaiting = new Promise<void>((resolve) => (waiting = resolve));
    const throttled = open({
      delay: (_, signal) => {
        waiting();
        return new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            reject(new Error('aborted'));
          });
        });
      },
    });
    server.answer(answering(429, {}));
    const call = failure(throttled.find('a'));
    await isWaiting;
    throttled.close();
    assert.equal((await call).code, 'interrupted.signal');
  });
});
