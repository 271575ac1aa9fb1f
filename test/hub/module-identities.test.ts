import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { IotdmError } from '../../src/errors.ts';
import { readOrCreateModule, type ModuleIdentity } from '../../src/hub/module-identities.ts';
import { answering, startLyingServer, type Answerer, type LyingServer } from '../fakes/lying-server.ts';

const key = Buffer.from('marked-key-of-the-module-AppB!!!');
const token = 'SharedAccessSignature sr=h%2Fdevices%2Fd&sig=bWFya2Vk&se=1';
const identity = {
  deviceId: 'Press-17',
  moduleId: 'App#B',
  authentication: { type: 'sas', symmetricKey: { primaryKey: key.toString('base64') } },
};
const found = answering(200, identity);
const made = answering(201, identity);
const missing = answering(
  404,
  { Message: 'ErrorCode:ModuleNotFound;' },
  { 'iothub-errorcode': 'ModuleNotFound' },
);

let server: LyingServer;
let waits: number[];

before(async () => {
  server = await startLyingServer();
});
beforeEach(() => {
  waits = [];
  server.requests.length = 0;
});
after(() => server.close());

function ask(signal?: AbortSignal): Promise<ModuleIdentity> {
  return readOrCreateModule(
    {
      hostname: '127.0.0.1',
      port: server.port,
      ca: server.ca,
      timeoutMs: 5000,
      userAgent: 'iotdm/test',
      ...(signal === undefined ? {} : { signal }),
      delay: (ms) => {
        waits.push(ms);
        return Promise.resolve();
      },
    },
    'Press-17',
    'App#B',
    token,
  );
}

async function failure(...answers: Answerer[]): Promise<IotdmError> {
  server.answer(...answers);
  try {
    await ask();
  } catch (error) {
    assert.ok(error instanceof IotdmError, inspect(error));
    assert.ok(!inspect(error, { depth: 9 }).includes('marked'), 'an error shows the key');
    assert.ok(!inspect(error, { depth: 9 }).includes(key.toString('base64')), 'an error shows the key');
    return error;
  }
  return assert.fail('did not fail');
}

const asked = (): string[] => server.requests.map(({ method }) => method);

describe('the identity of a module', () => {
  it('is read, in the name of the device', async () => {
    server.answer(found);
    const { key: read, created } = await ask();
    assert.deepEqual([read.bytes, created], [key, false]);
    assert.deepEqual(
      server.requests.map(({ method, path, headers }) => [method, path, headers['authorization']]),
      [['GET', '/devices/Press-17/modules/App%23B?api-version=2021-04-12', token]],
    );
  });

  it('is made where there is none, and read again where somebody else was faster', async () => {
    server.answer(missing, made);
    assert.deepEqual((await ask()).created, true);
    assert.deepEqual(JSON.parse(server.requests[1]?.body ?? ''), {
      deviceId: 'Press-17',
      moduleId: 'App#B',
      authentication: { type: 'sas' },
    });
    server.answer(missing, answering(409, {}), found);
    const { key: read, created } = await ask();
    assert.deepEqual([read.bytes, created], [key, false]);
  });

  it('is asked for again while the hub is busy, or the connection is cut', async () => {
    const cut: Answerer = (socket) => {
      socket.destroy();
    };
    server.answer(cut, answering(429, {}, { 'retry-after': '7' }), answering(503, {}), missing, cut, made);
    assert.deepEqual((await ask()).created, true);
    assert.deepEqual(asked(), ['GET', 'GET', 'GET', 'GET', 'PUT', 'PUT']);
    assert.deepEqual(waits, [500, 7000, 2000, 500]);
    assert.equal((await failure(cut)).code, 'network.unavailable');
    assert.equal((await failure(answering(429, {}))).code, 'network.throttled');
  });

  it('is refused where it is none', async () => {
    const changed = (changes: object): Answerer => answering(200, { ...identity, ...changes });
    const keyed = (primaryKey: unknown): Answerer =>
      changed({ authentication: { type: 'sas', symmetricKey: { primaryKey } } });
    for (const answer of [
      answering(200, ''),
      answering(200, '[]'),
      answering(200, 'marked'),
      changed({ deviceId: 'press-17' }),
      changed({ moduleId: undefined }),
      changed({ authentication: undefined }),
      changed({ authentication: null }),
      keyed(undefined),
      keyed(7),
      keyed('marked!'),
      keyed(Buffer.alloc(15).toString('base64')),
      keyed(Buffer.alloc(65).toString('base64')),
    ]) {
      assert.equal((await failure(answer)).code, 'service.unexpected-answer');
    }
    for (const answer of [
      answering(200, '<html>marked', { 'content-type': 'text/html' }),
      answering(302, '', { location: 'https://marked' }),
      answering(407, ''),
    ]) {
      assert.equal((await failure(answer)).code, 'network.proxy');
      assert.equal((await failure(missing, answer)).code, 'network.proxy');
    }
    const certificate = changed({ authentication: { type: 'selfSigned' } });
    assert.equal((await failure(certificate)).code, 'service.invalid');
  });

  it('is refused with the reason that the hub gives', async () => {
    const refusal = answering(401, { Message: 'no' }, { 'iothub-errorcode': 'IotHubUnauthorizedAccess' });
    const error = await failure(refusal);
    assert.deepEqual(
      [error.code, error.details?.['hubErrorCode']],
      ['auth.refused', 'IotHubUnauthorizedAccess'],
    );
    const early = answering(401, {}, { date: new Date(Date.now() + 86_400_000).toUTCString() });
    assert.match((await failure(early)).message, /the clock of this machine is 1 day behind the service's/);
    assert.equal((await failure(missing)).code, 'service.not-found');
    assert.deepEqual(asked().slice(-2), ['GET', 'PUT']);
    const interrupt = new AbortController();
    server.answer(() => {
      interrupt.abort();
    });
    await assert.rejects(ask(interrupt.signal), { code: 'interrupted.signal', effect: 'unknown' });
    await assert.rejects(ask(interrupt.signal), { code: 'interrupted.signal', effect: 'none' });
  });

  it('that could not be had has an error with its effect', async () => {
    const effect = async (...answers: Answerer[]): Promise<unknown> => (await failure(...answers)).effect;
    assert.equal(await effect((socket) => socket.destroy()), 'unknown');
    assert.equal(await effect(missing, (socket) => socket.end('HTTP/1.1 200 OK\r\n')), 'unknown');
    assert.equal(await effect(answering(401, {})), 'refused');
    assert.equal(await effect(answering(500, {})), 'unknown');
    assert.equal(await effect(answering(200, '[]')), 'unknown');
    const closed = await startLyingServer();
    await closed.close();
    const nobody = { hostname: '127.0.0.1', port: closed.port, ca: closed.ca };
    const stranger = { hostname: '127.0.0.1', port: server.port };
    for (const host of [nobody, stranger]) {
      await assert.rejects(
        readOrCreateModule({ ...host, timeoutMs: 5000, userAgent: 'iotdm/test' }, 'd', 'm', token),
        { effect: 'none' },
      );
    }
  });
});
