/** Each knob as a plain HTTPS client sees it. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:tls';
import { afterEach, describe, it } from 'node:test';
import type { EmulatorOptions } from '../../src/emulator/emulator.ts';
import type { AnsweredRequest } from '../../src/emulator/router.ts';
import { parseFault } from '../../src/emulator/fault-spec.ts';
import { emulatorStatus } from '../../src/emulator/status.ts';
import {
  enrollment,
  remove,
  startRig,
  temporaryDirectory,
  tokenFor,
  type Answer,
  type CallOptions,
  type Rig,
} from './rig.ts';

let rig: Rig;
let dir = '';

async function start(options: Omit<EmulatorOptions, 'dir'>): Promise<void> {
  dir = await temporaryDirectory();
  rig = await startRig({ dir, ...options });
}

/** Also says what was done on purpose, as the emulator reports it. */
async function startWithFaults(...specs: readonly string[]): Promise<AnsweredRequest[]> {
  const seen: AnsweredRequest[] = [];
  await start({ faults: specs.map(parseFault), faultSeed: 1, onRequest: (entry) => seen.push(entry) });
  return seen;
}

afterEach(async () => {
  await rig.close();
  await remove(dir);
});

const get = (id: string): Promise<Answer> => rig.call('GET', `/enrollments/${id}`);
const put = (id: string, options: CallOptions = {}): Promise<Answer> =>
  rig.call('PUT', `/enrollments/${id}`, { body: enrollment(id), ...options });
const bulk = (mode: string, ...ids: string[]): Promise<Answer> =>
  rig.call('POST', '/enrollments', { body: { mode, enrollments: ids.map((id) => enrollment(id)) } });

const isCut = async (answer: Promise<Answer>): Promise<void> => {
  await assert.rejects(answer, (error: NodeJS.ErrnoException) => {
    assert.match(`${error.code ?? ''} ${error.message}`, /ECONNRESET|socket hang up|aborted/);
    return true;
  });
};

/** What stands on the wire before the connection ends or nothing more comes for the time being. */
async function wire(
  method: string,
  path: string,
  enough: (text: string) => boolean,
  times = 1,
): Promise<string> {
  const ca = await readFile(rig.emulator.info.ca);
  const socket = connect({ host: '127.0.0.1', port: rig.emulator.info.port, ca });
  let text = '';
  return new Promise((resolve, reject) => {
    const done = (): void => {
      socket.destroy();
      resolve(text);
    };
    socket.on('error', reject);
    socket.on('close', done);
    socket.on('data', (bytes: Buffer) => {
      text += bytes.toString('utf8');
      if (enough(text)) done();
    });
    const request =
      `${method} ${path}?api-version=2021-10-01 HTTP/1.1\r\nhost: x\r\n` +
      `authorization: ${tokenFor(rig.connectionString)}\r\n\r\n`;
    socket.write(request.repeat(times));
  });
}

describe('the quota', () => {
  it('is exact, says when to come back, and is the same for all operations', async () => {
    let now = new Date();
    await start({ quota: { operations: 5, per: 'minute' }, clock: () => now });
    const statuses = [
      await rig.call('PUT', '/enrollments/d1', { body: enrollment('d1') }),
      await rig.call('GET', '/enrollments/d1'),
      await rig.call('GET', '/enrollments/nobody'),
      await rig.call('POST', '/enrollments/query', { body: { query: 'SELECT * FROM enrollments' } }),
      await rig.call('POST', '/enrollments', { raw: '{' }),
    ].map(({ status }) => status);
    assert.deepEqual(statuses, [200, 200, 404, 200, 400]);
    now = new Date(now.getTime() + 2_500);
    const refused = await rig.call('GET', '/enrollments/d1');
    assert.equal(refused.status, 429);
    assert.equal(refused.headers['retry-after'], '10');
    assert.equal(refused.headers['x-ms-error-code'], '429001');
    assert.equal(refused.json.errorCode, 429001);
    // Who may not do it at all is told so, and uses nothing up.
    assert.equal((await rig.call('GET', '/enrollments/d1', { authorization: null })).status, 401);
    now = new Date(now.getTime() + 57_500);
    assert.equal((await rig.call('GET', '/enrollments/d1', { authorization: null })).status, 401);
    const after = await Promise.all(Array.from({ length: 12 }, () => rig.call('GET', '/enrollments/d1')));
    assert.equal(after.filter(({ status }) => status === 200).length, 5);
    assert.equal(after.filter(({ status }) => status === 429).length, 7);
  });

  it('counts a bulk request by its enrollments, and refuses it as a whole', async () => {
    const now = new Date();
    await start({ quota: { operations: 12, per: 'second' }, clock: () => now });
    const ten = Array.from({ length: 10 }, (_, index) => `d${index}`);
    assert.equal((await bulk('create', ...ten)).json.isSuccessful, true);
    assert.equal((await bulk('create', 'd10', 'd11', 'd12')).status, 429);
    assert.equal((await bulk('create', 'd10', 'd11')).json.isSuccessful, true);
    assert.equal((await get('d12')).status, 429);
  });

  it('counts a bulk request once when told so', async () => {
    const now = new Date();
    await start({ quota: { operations: 2, per: 'second' }, bulkCost: 'request', clock: () => now });
    const ten = Array.from({ length: 10 }, (_, index) => `d${index}`);
    assert.equal((await bulk('create', ...ten)).json.isSuccessful, true);
    assert.equal((await bulk('delete', ...ten)).json.isSuccessful, true);
    assert.equal((await bulk('create', 'd1')).status, 429);
  });
});

describe('latency', () => {
  it('holds answers back, refusals too', async () => {
    await start({ latency: { minMs: 60, maxMs: 80 } });
    const startedAt = performance.now();
    const answers = await Promise.all([get('d1'), get('d2'), rig.call('GET', '/nothing')]);
    const elapsed = performance.now() - startedAt;
    assert.deepEqual(
      answers.map(({ status }) => status),
      [404, 404, 501],
    );
    assert.ok(elapsed >= 59, String(elapsed));
  });

  it('answers a request that comes before the answer to the one before it is through', async () => {
    await start({ latency: { minMs: 5, maxMs: 10 } });
    const count = (text: string): number => text.split('HTTP/1.1 404').length - 1;
    const text = await Promise.race([
      wire('GET', '/enrollments/nobody', (soFar) => count(soFar) === 3, 3),
      new Promise<string>((resolve) => setTimeout(resolve, 5000, 'no more came')),
    ]);
    assert.equal(count(text), 3, text);
  });
});

describe('a fault', () => {
  it('refuses, with and without saying when to come back, and with no effect unless told so', async () => {
    const seen = await startWithFaults(
      '429,nth=1',
      '429,nth=2,retry-after=7',
      '500,nth=3',
      '503,nth=4,applied=yes,retry-after=0',
    );
    const headers: unknown[] = [];
    for (let number = 1; number <= 3; number += 1) {
      const answer = await put('d1');
      headers.push([answer.status, answer.headers['retry-after'], answer.json.errorCode]);
      assert.equal(answer.headers['x-ms-error-code'], String(answer.json.errorCode));
    }
    assert.deepEqual(headers, [
      [429, undefined, 429001],
      [429, '7', 429001],
      [500, undefined, 500001],
    ]);
    const applied = await put('d1');
    assert.deepEqual([applied.status, applied.headers['retry-after']], [503, '0']);
    assert.equal((await get('d1')).status, 200, 'only now it is there');
    assert.equal((await put('d1')).status, 409);
    assert.deepEqual(
      seen.map(({ fault }) => fault),
      [
        '429,nth=1',
        '429,retry-after=7,nth=2',
        '500,nth=3',
        '503,retry-after=0,applied=yes,nth=4',
        undefined,
        undefined,
      ],
    );
  });

  it('strikes only what is authorized', async () => {
    await startWithFaults('500,nth=1');
    assert.equal((await rig.call('GET', '/enrollments/d1', { authorization: null })).status, 401);
    assert.equal((await rig.call('GET', '/enrollments/d1', { query: '' })).status, 400);
    assert.equal((await get('d1')).status, 500);
    assert.equal((await get('d1')).status, 404);
  });

  it('cuts the connection before the request is processed', async () => {
    await startWithFaults('cut-before,method=PUT');
    await isCut(put('d1'));
    assert.equal((await get('d1')).status, 404);
  });

  it('cuts the connection after the request is processed', async () => {
    await startWithFaults('cut-after,method=PUT');
    await isCut(put('d1'));
    assert.equal((await get('d1')).status, 200);
  });

  it('cuts the connection in the middle of the answer', async () => {
    await startWithFaults('cut-midway,path=/enrollments/d1');
    await isCut(put('d1'));
    const text = await wire('GET', '/enrollments/d1', () => false);
    const [head = '', body = ''] = text.split('\r\n\r\n');
    assert.match(head, /^HTTP\/1\.1 200 /);
    assert.ok(body.startsWith('{"registrationId":"d1"'));
    assert.equal(body.length, Number(/content-length: ([0-9]+)/i.exec(head)?.[1]) >> 1);
    await isCut(rig.call('DELETE', '/enrollments/d1'));
    assert.equal((await get('d2')).status, 404);
  });

  it('answers late', async () => {
    await startWithFaults('stall,ms=80,nth=1', 'stall,nth=2');
    const startedAt = performance.now();
    assert.equal((await get('d1')).status, 404);
    assert.ok(performance.now() - startedAt >= 79);
    const never = get('d1');
    assert.equal((await get('d1')).status, 404, 'the next is not held up');
    await Promise.all([isCut(never), rig.emulator.close()]);
  });

  it('stops in the middle of an answer', async () => {
    await startWithFaults('stall-midway,ms=80,nth=2', 'stall-midway,nth=3');
    assert.equal((await put('d1')).status, 200);
    const startedAt = performance.now();
    const late = await get('d1');
    assert.ok(performance.now() - startedAt >= 79);
    assert.equal(late.json.registrationId, 'd1');
    const text = await wire('GET', '/enrollments/d1', (sofar) => sofar.includes('"registrationId":"d1"'));
    assert.ok(!text.endsWith('}'), text);
  });

  it('truncates the JSON document and announces the length that is sent', async () => {
    await startWithFaults('truncate');
    const answer = await put('d1');
    assert.equal(answer.status, 200);
    assert.equal(Number(answer.headers['content-length']), Buffer.byteLength(answer.text));
    assert.throws(() => JSON.parse(answer.text) as unknown, SyntaxError);
    assert.equal((await rig.call('DELETE', '/enrollments/d1')).status, 204);
  });

  it('blames enrollments that were not sent', async () => {
    await startWithFaults('unknown-ids');
    const { status, json } = await bulk('create', 'd1');
    assert.deepEqual([status, json.isSuccessful], [200, false]);
    assert.deepEqual(
      json.errors.map(({ registrationId }) => registrationId),
      ['nobody-sent-this-1', 'nobody-sent-this-2'],
    );
    const again = await bulk('create', 'd1');
    assert.equal(again.json.errors[0]?.registrationId, 'd1');
    assert.equal(again.json.errors.length, 3);
    assert.equal((await bulk('nonsense', 'd1')).status, 400);
  });

  it('lets another writer come first', async () => {
    await startWithFaults(
      'etag-race,nth=2,method=PUT',
      'etag-race,method=POST,nth=2',
      'etag-race,method=DELETE',
    );
    const { etag } = (await put('d1')).json;
    const stale = await put('d1', { headers: { 'if-match': etag } });
    assert.equal(stale.status, 412);
    const changed = (await get('d1')).json as unknown as Record<string, unknown>;
    assert.deepEqual(changed['optionalDeviceInformation'], { anotherWriter: 1 });
    assert.notEqual(changed['etag'], etag);
    const created = await bulk('create', 'd2');
    assert.equal(created.json.isSuccessful, true);
    const before = (await get('d2')).json.etag;
    const update = { mode: 'updateIfMatchETag', enrollments: [{ ...enrollment('d2'), etag: before }] };
    const raced = await rig.call('POST', '/enrollments', { body: update });
    assert.equal(raced.json.errors[0]?.errorCode, 412201);
    const removed = await rig.call('DELETE', '/enrollments/d1', {
      headers: { 'if-match': String(changed['etag']) },
    });
    assert.equal(removed.status, 412);
    assert.equal((await rig.call('DELETE', '/enrollments/nobody')).status, 404);
  });

  it('strikes enrollment groups as it does enrollments', async () => {
    await startWithFaults('etag-race,method=PUT,nth=2', 'unknown-ids,path=/enrollmentGroups');
    const attestation = { type: 'symmetricKey' };
    const putGroup = (headers: Record<string, string>): Promise<Answer> =>
      rig.call('PUT', '/enrollmentGroups/g1', { body: { enrollmentGroupId: 'g1', attestation }, headers });
    const { etag } = (await putGroup({})).json;
    assert.equal((await putGroup({ 'if-match': etag })).status, 412);
    const changed = (await rig.call('GET', '/enrollmentGroups/g1')).json as unknown as Record<
      string,
      unknown
    >;
    assert.deepEqual(changed['initialTwin'], { tags: { anotherWriter: 1 } });
    const body = { mode: 'create', enrollmentGroups: [{ enrollmentGroupId: 'g2', attestation }] };
    const { errors } = (await rig.call('POST', '/enrollmentGroups', { body })).json;
    assert.deepEqual(
      errors.map((error) => (error as unknown as Record<string, unknown>)['enrollmentGroupId']),
      ['nobody-sent-this-1', 'nobody-sent-this-2'],
    );
  });
});

describe('knobs', () => {
  it('are reported while it runs, and do not outlast it', async () => {
    await start({
      quota: { operations: 9, per: 'second' },
      latency: { minMs: 0, maxMs: 1 },
      faults: [parseFault('503,rate=50%')],
    });
    const { knobs } = emulatorStatus(dir);
    assert.equal(knobs?.quota, '9/s');
    assert.equal(knobs.latency, '0-1');
    assert.deepEqual(knobs.faults, ['503,rate=0.5']);
    assert.ok(Number.isSafeInteger(knobs.faultSeed));
    assert.deepEqual(rig.emulator.info.knobs, knobs);
    await rig.close();
    assert.equal(emulatorStatus(dir).knobs, null);
    rig = await startRig({ dir });
    assert.deepEqual([emulatorStatus(dir).running, emulatorStatus(dir).knobs], [true, null]);
    assert.equal(rig.emulator.info.knobs, null);
    assert.equal((await get('d1')).status, 404);
  });
});
