import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, beforeEach, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { registerWithDps, type RegistrationOptions } from '../../src/dps/azure-registration.ts';
import type { AttestingTpm, Registered, RegistrationEvent } from '../../src/dps/registration.ts';
import { IotdmError } from '../../src/errors.ts';
import { answering, startLyingServer, type Answerer, type LyingServer } from '../fakes/lying-server.ts';

const sessionKey = Buffer.from('marked-key-of-the-registration!!');
const deviceKey = Buffer.from('marked-key-of-the-device-itself!');
const id = 'press-17';
const now = Date.UTC(2026, 0, 2, 3, 4, 5);

/** "Opens" what was "encrypted" by turning it round. */
const tpm: AttestingTpm<Buffer> = {
  endorsementKey: Buffer.from('endorsement key'),
  storageRootKey: Buffer.from('storage root key'),
  takeOver: (blob) => Promise.resolve(Buffer.from(blob).reverse()),
  sign: (key, data) => Promise.resolve(createHmac('sha256', key).update(data).digest()),
};
const encrypted = (key: Buffer): string => Buffer.from(key).reverse().toString('base64');

const challenge = answering(
  401,
  {
    authenticationKey: encrypted(sessionKey),
    keyName: 'registration',
    message: 'Authorization required',
    trackingId: 't',
  },
  { date: new Date(now).toUTCString() },
);
const assigning = answering(202, { operationId: '5.op-1', status: 'assigning' }, { 'retry-after': '3' });
const state = {
  registrationId: id,
  assignedHub: 'plant.azure-devices.net',
  deviceId: 'Press-17',
  status: 'assigned',
  substatus: 'initialAssignment',
  tpm: { authenticationKey: encrypted(deviceKey) },
};
const assigned = answering(200, { operationId: '5.op-1', status: 'assigned', registrationState: state });

let server: LyingServer;
let events: RegistrationEvent[];
let waits: number[];

before(async () => {
  server = await startLyingServer();
});
beforeEach(() => {
  events = [];
  waits = [];
  server.requests.length = 0;
});
after(() => server.close());

function register(options: Partial<RegistrationOptions<Buffer>> = {}): Promise<Registered<Buffer>> {
  return registerWithDps({
    tpm,
    host: server.host,
    idScope: '0ne00ABCDEF',
    registrationId: id,
    ca: server.ca,
    clock: () => now,
    random: () => 1,
    delay: (ms) => {
      waits.push(ms);
      return Promise.resolve();
    },
    onEvent: (event) => events.push(event),
    ...options,
  });
}

async function failure(options?: Partial<RegistrationOptions<Buffer>>): Promise<IotdmError> {
  try {
    await register(options);
  } catch (error) {
    assert.ok(error instanceof IotdmError, inspect(error));
    assert.match(error.message, /^[^A-Z].*[^.]$/s);
    assert.ok(!inspect(error, { depth: 9 }).includes('marked'), 'an error shows a key');
    return error;
  }
  return assert.fail('did not fail');
}

async function codeAfter(...answers: Answerer[]): Promise<string> {
  server.answer(...answers);
  return (await failure()).code;
}

describe('registering with DPS', () => {
  it('follows the protocol, and gives what DPS assigned with the key as the TPM took it over', async () => {
    server.answer(challenge, assigning, assigning, assigned);
    assert.deepEqual(await register({ payload: { site: 'Ulm' } }), {
      registrationId: id,
      deviceId: 'Press-17',
      assignedHub: 'plant.azure-devices.net',
      status: 'assigned',
      substatus: 'initialAssignment',
      payload: null,
      key: deviceKey,
    });
    const path = `/0ne00ABCDEF/registrations/${id}`;
    const query = '?api-version=2019-03-31';
    assert.deepEqual(
      server.requests.map(({ method, path: asked }) => `${method} ${asked}`),
      [
        `PUT ${path}/register${query}`,
        `PUT ${path}/register${query}`,
        `GET ${path}/operations/5.op-1${query}`,
        `GET ${path}/operations/5.op-1${query}`,
      ],
    );
    assert.deepEqual(JSON.parse(server.requests[1]?.body ?? ''), {
      registrationId: id,
      tpm: {
        endorsementKey: tpm.endorsementKey.toString('base64'),
        storageRootKey: tpm.storageRootKey.toString('base64'),
      },
      payload: { site: 'Ulm' },
    });
    assert.deepEqual(
      server.requests.map(({ headers }) => headers['authorization'] !== undefined),
      [false, true, true, true],
    );
    const [, resource = '', signature = '', expiry = ''] =
      /^SharedAccessSignature sr=(.*)&sig=(.*)&se=([0-9]+)&skn=registration$/.exec(
        server.requests[1]?.headers['authorization'] ?? '',
      ) ?? [];
    assert.equal(decodeURIComponent(resource), `0ne00ABCDEF/registrations/${id}`);
    assert.equal(
      decodeURIComponent(signature),
      createHmac('sha256', sessionKey).update(`${resource}\n${expiry}`).digest('base64'),
    );
    assert.deepEqual(waits, [3000, 3000]);
    assert.deepEqual(
      events.map(({ kind }) => kind),
      ['challenged', 'assigning', 'assigning', 'assigned'],
    );
  });

  it('is repeated while the service throttles or is not there, after the time that it asks for', async () => {
    const throttled = answering(429, { errorCode: 429001, message: 'slow down' }, { 'retry-after': '7' });
    const unavailable = answering(503, { errorCode: 503001, message: 'later' });
    server.answer(throttled, challenge, unavailable, assigning, throttled, assigned);
    assert.equal((await register()).deviceId, 'Press-17');
    assert.deepEqual(waits, [7000, 500, 3000, 7000]);
  });

  it('is not asked after without a pause, also where the service asks for none', async () => {
    const restless = answering(202, { operationId: '5.op-1', status: 'assigning' }, { 'retry-after': '0' });
    const throttled = answering(429, { errorCode: 429001, message: 'slow down' }, { 'retry-after': '0' });
    server.answer(throttled, challenge, ...Array.from({ length: 7 }, () => restless), assigned);
    assert.equal((await register()).deviceId, 'Press-17');
    const [refused = 0, ...polls] = waits;
    assert.ok(refused > 0);
    assert.deepEqual(polls, [0, 100, 200, 400, 800, 1600, 2000]);
  });

  it('begins anew where the connection is cut after the challenge was answered, for an answer counts once', async () => {
    const cut: Answerer = (socket) => {
      socket.destroy();
    };
    server.answer(cut, challenge, cut, challenge, assigning, cut, assigned);
    assert.equal((await register()).deviceId, 'Press-17');
    assert.deepEqual(
      server.requests.map(
        ({ method, headers }) => `${method} ${headers['authorization'] === undefined ? '' : 'signed'}`,
      ),
      ['PUT ', 'PUT ', 'PUT signed', 'PUT ', 'PUT signed', 'GET signed', 'GET signed'],
    );
    server.requests.length = 0;
    server.answer(challenge, cut, challenge, cut, challenge, cut, challenge, assigned);
    assert.equal((await failure()).code, 'network.unavailable');
    assert.equal(server.requests.length, 6);
  });

  it("outlasts the patience of Azure's state machine", async () => {
    const slow: Answerer = (socket, request) => {
      setTimeout(() => {
        assigning(socket, request);
      }, 100);
    };
    server.answer(challenge, slow, assigned);
    const delay = (ms: number): Promise<unknown> => new Promise((resolve) => setTimeout(resolve, ms / 20));
    assert.equal((await register({ sliceMs: 10, delay })).deviceId, 'Press-17');
    assert.equal(server.requests.length, 3);
  });

  it('ends when the service stays away, and when the deadline has passed', async () => {
    const unavailable = answering(503, { errorCode: 503001, message: 'later' });
    assert.equal(await codeAfter(challenge, unavailable), 'network.unavailable');
    assert.equal(server.requests.length, 6);

    server.answer(challenge, assigning);
    const late = await failure({ deadlineMs: 50, delay: waitForEnd });
    assert.deepEqual([late.code, late.details?.['deadlineSeconds']], ['network.timeout', 0.05]);

    // What it was waiting for says more than the time.
    server.answer(answering(429, { errorCode: 429001, message: 'slow down' }));
    // Long enough for the first answer to come on a busy machine: after it there is nothing but waiting.
    assert.equal((await failure({ deadlineMs: 1000, delay: waitForEnd })).code, 'network.throttled');
    server.answer(() => undefined);
    assert.equal((await failure({ deadlineMs: 50 })).code, 'network.timeout');
  });

  it('ends at once when it is interrupted: in a request, and in a wait', async () => {
    for (const [answer, delay] of [
      [() => undefined, undefined],
      [assigning, waitForEnd],
    ] as const) {
      const interrupt = new AbortController();
      server.answer(challenge, (socket, request) => {
        answer(socket, request);
        setImmediate(() => {
          interrupt.abort();
        });
      });
      const error = await failure({ signal: interrupt.signal, ...(delay === undefined ? {} : { delay }) });
      assert.equal(error.code, 'interrupted.signal');
    }
    assert.equal((await failure({ signal: AbortSignal.abort() })).code, 'interrupted.signal');
  });
});

/** A wait that only an end ends. */
function waitForEnd(_ms: number, signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => {
      reject(new Error('aborted'));
    });
  });
}

describe('a registration that is refused', () => {
  it('says what the service said', async () => {
    const refusal = (status: number, errorCode: number) =>
      answering(status, { errorCode, message: 'No.', trackingId: 't' });
    server.answer(refusal(404, 404201));
    const unknown = await failure();
    assert.deepEqual(
      [unknown.code, unknown.details?.['errorCode'], unknown.details?.['registrationId']],
      ['service.not-found', 404201, id],
    );
    assert.equal(await codeAfter(refusal(400, 400004)), 'service.invalid');
    assert.equal(await codeAfter(refusal(401, 401002)), 'auth.refused');
    assert.equal(await codeAfter(challenge, refusal(401, 401002)), 'auth.refused');
    assert.equal(await codeAfter(challenge, assigning, refusal(404, 404204)), 'service.not-found');
  });

  it('because of the clock says so', async () => {
    const refusal = answering(
      401,
      { errorCode: 401002, message: 'Unauthorized' },
      { date: new Date(now + 25 * 3_600_000).toUTCString() },
    );
    server.answer(challenge, refusal);
    const error = await failure();
    assert.equal(error.code, 'auth.clock');
    assert.match(error.message, /1 day 1 hour behind the service's/);
    assert.equal(error.details?.['clockOffsetSeconds'], -25 * 3600);
    const early = answering(
      401,
      { authenticationKey: encrypted(sessionKey) },
      { date: new Date(now - 3_600_000).toUTCString() },
    );
    server.answer(early, assigned);
    await register();
    assert.deepEqual(events[1] ?? events[0], { kind: 'clock-off', seconds: 3600 });
  });

  it('in its result says which', async () => {
    for (const status of ['failed', 'disabled', 'unassigned']) {
      server.answer(
        challenge,
        assigning,
        answering(200, {
          operationId: '5.op-1',
          status,
          registrationState: {
            registrationId: id,
            status,
            errorCode: 400207,
            errorMessage: 'Custom allocation failed.',
          },
        }),
      );
      const error = await failure();
      assert.deepEqual([error.code, error.details?.['status']], ['service.not-assigned', status]);
      assert.match(error.message, /\(400207\): Custom allocation failed$/);
    }
  });

  it('by the TPM says what the TPM said', async () => {
    server.answer(challenge);
    const refused = new IotdmError('verify.identity-key', 'the key is for another TPM');
    const error = await failure({ tpm: { ...tpm, takeOver: () => Promise.reject(refused) } });
    assert.equal(error.code, 'verify.identity-key');
    const gone = new IotdmError('tpm-unavailable.connection', 'the TPM is gone');
    assert.equal((await failure({ tpm: { ...tpm, sign: () => Promise.reject(gone) } })).code, gone.code);
  });
});

describe('an answer that is not as specified', () => {
  const blob = (authenticationKey: unknown) => answering(401, { authenticationKey });
  const result = (changed: Readonly<Record<string, unknown>>) =>
    answering(200, {
      operationId: '5.op-1',
      status: 'assigned',
      registrationState: { ...state, ...changed },
    });

  it('is refused in one way, and the process lives on', async () => {
    for (const answers of [
      [assigned],
      [blob('not base64!')],
      [blob('')],
      [blob(7)],
      [challenge, answering(200, '{"status":')],
      [challenge, answering(200, '')],
      [challenge, answering(200, '[]')],
      [challenge, answering(200, {})],
      [challenge, answering(200, { status: 7 })],
      [challenge, answering(200, { status: 'perhaps' })],
      [challenge, answering(202, { status: 'assigning' })],
      [challenge, answering(202, { status: 'assigning', operationId: '../../x' })],
      [challenge, answering(200, { status: 'assigned' })],
      [challenge, result({ tpm: undefined })],
      [challenge, result({ tpm: { authenticationKey: 'x' } })],
      [challenge, result({ deviceId: 'a/b' })],
      [challenge, result({ deviceId: undefined })],
      [challenge, result({ assignedHub: 'evil.example/x' })],
      [challenge, result({ assignedHub: '' })],
      [challenge, result({ registrationId: 'press-18' })],
    ]) {
      assert.equal(await codeAfter(...answers), 'service.unexpected-answer', inspect(server.requests.at(-1)));
    }
  });

  it("is a proxy's where it is a page, also in place of the challenge", async () => {
    const page = (status: number): Answerer => answering(status, '<html>', { 'content-type': 'text/html' });
    for (const answers of [
      [page(200)],
      [page(401)],
      [page(403)],
      [challenge, page(200)],
      [challenge, page(407)],
    ]) {
      assert.equal(await codeAfter(...answers), 'network.proxy', inspect(server.requests.at(-1)));
    }
    // What is in between may reach the service the next time.
    server.answer(page(502), challenge, page(504), assigned);
    assert.equal((await register()).deviceId, 'Press-17');
  });
});

describe('what is asked for', () => {
  it('is checked before anything is sent', async () => {
    assert.equal((await failure({ idScope: '../x' })).code, 'usage.invalid');
    assert.equal((await failure({ registrationId: 'a/b' })).code, 'usage.invalid');
    assert.equal((await failure({ host: 'https://x' })).code, 'usage.invalid');
    assert.equal(server.requests.length, 0);
  });
});
