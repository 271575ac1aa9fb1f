import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { appendFileSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { writeLine } from '../../src/records/identity-log.ts';
import { IdentityIndex, type IndexOptions } from '../../src/station/identity-index.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService, refusal } from '../fakes/memory-service.ts';

const HOUR_MS = 3_600_000;

interface Station {
  readonly dir: string;
  readonly index: IdentityIndex;
}

/** A station with a state directory of its own, or with that of another one. */
async function station(
  t: TestContext,
  service: MemoryService,
  options: Partial<IndexOptions> & { readonly dir?: string } = {},
): Promise<Station> {
  const dir = options.dir ?? (await scratch(t));
  const index = await IdentityIndex.open(
    {
      stateDirectory: dir,
      host: service.host,
      maxAgeMs: HOUR_MS,
      now: Date.now,
      signal: new AbortController().signal,
      ...options,
    },
    { pages: () => service.list({ pageSize: 100 }), find: (id) => service.find(id) },
  );
  t.after(() => index.close());
  await index.prepare();
  return { dir, index };
}

async function scratch(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'iotdm-index-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function enroll(
  service: MemoryService,
  index: IdentityIndex,
  enrollment: Enrollment,
): Promise<StoredEnrollment> {
  return index.guard('create', { enrollment }, () => service.create(enrollment));
}

async function change(
  service: MemoryService,
  index: IdentityIndex,
  id: string,
  changes: Partial<Enrollment>,
): Promise<StoredEnrollment> {
  const stored = service.all.get(id);
  assert.ok(stored);
  const enrollment = { ...stored, ...changes } as Enrollment;
  return index.guard('update', { enrollment, stored }, () => service.replace(enrollment, stored.etag));
}

async function conflict(promise: Promise<unknown>): Promise<IotdmError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    assert.equal(error.code, 'service.conflict');
    return error;
  }
  return assert.fail('it was written');
}

function operations(service: MemoryService): string[] {
  return service.log.map(({ operation }) => operation);
}

/** The files of the index, by name. */
function files(dir: string): string[] {
  return readdirSync(join(dir, 'identities-memory')).sort();
}

describe('a device id', () => {
  it('that another enrollment has is refused, and both are named', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    await enroll(service, index, fakeEnrollment(1, { deviceId: 'press-17' }));
    const error = await conflict(enroll(service, index, fakeEnrollment(2, { deviceId: 'press-17' })));
    assert.equal(
      error.message,
      'device-0002 would have the device id "press-17" of the enrollment device-0001',
    );
    assert.deepEqual(error.details, {
      registrationId: 'device-0002',
      otherRegistrationId: 'device-0001',
      shared: ['deviceId'],
      deviceId: 'press-17',
    });
    assert.deepEqual([...service.all.keys()], ['device-0001']);
    assert.deepEqual(operations(service), ['list', 'create', 'find'], 'a conflict costs one request');
  });

  const cases: readonly (readonly [string, Partial<Enrollment>, Partial<Enrollment>, boolean])[] = [
    [
      'in one hub',
      { iotHubHostName: 'A.azure-devices.net' },
      { iotHubs: ['a.azure-devices.net', 'b'] },
      true,
    ],
    ['in two hubs', { iotHubHostName: 'a.azure-devices.net' }, { iotHubs: ['b', 'c'] }, false],
    ['where the new one names no hub', { iotHubHostName: 'a' }, {}, true],
    ['where the old one names no hub', {}, { iotHubHostName: 'a' }, true],
    ['that differs in its case', { deviceId: 'X' }, { deviceId: 'x' }, false],
    [
      'that is the other registration id',
      { deviceId: 'device-0002' },
      { deviceId: undefined as never },
      true,
    ],
  ];
  for (const [name, first, second, isConflict] of cases) {
    it(`${name} is ${isConflict ? 'one device' : 'another device'}`, async (t) => {
      const service = new MemoryService();
      const one = await station(t, service);
      const wanted = { ...fakeEnrollment(2, { deviceId: 'X' }), ...second };
      await enroll(service, one.index, fakeEnrollment(1, { deviceId: 'X', ...first }));
      // From the log, and from the body.
      for (const { index } of [one, await station(t, service)]) {
        const found = await index.compare({ enrollment: wanted });
        assert.equal(found?.other, isConflict ? 'device-0001' : undefined);
      }
      // No look-up for what cannot be the same.
      if (!isConflict) assert.ok(!operations(service).includes('find'));
    });
  }

  it('belongs to enrollments of other kinds, and to devices as they were registered', async (t) => {
    const service = new MemoryService();
    const certificate = { ...fakeEnrollment(1, { deviceId: 'gate' }), attestation: { type: 'x509' } };
    await service.create(certificate as unknown as Enrollment);
    const registrationState = {
      status: 'assigned',
      deviceId: 'old-name',
      assignedHub: 'Hub.azure-devices.net',
    };
    await service.create({
      ...fakeEnrollment(2, { deviceId: 'new-name' }),
      registrationState,
    } as unknown as Enrollment);
    const { index } = await station(t, service);
    const other = async (deviceId: string, iotHubHostName?: string): Promise<string | undefined> => {
      const hub = iotHubHostName === undefined ? {} : { iotHubHostName };
      return (await index.compare({ enrollment: fakeEnrollment(3, { deviceId, ...hub }) }))?.other;
    };
    assert.equal(await other('gate'), 'device-0001');
    assert.equal(await other('new-name'), 'device-0002');
    assert.equal(await other('old-name'), 'device-0002');
    assert.equal(await other('old-name', 'hub.azure-devices.net'), 'device-0002');
    assert.equal(await other('old-name', 'other.azure-devices.net'), undefined);
  });
});

describe('an endorsement key', () => {
  it('is enrolled under one registration id', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    await enroll(service, index, fakeEnrollment(1));
    const error = await conflict(enroll(service, index, fakeEnrollment(1, { registrationId: 'another' })));
    assert.equal(error.message, 'another would have the endorsement key of the enrollment device-0001');
    const same = { registrationId: 'another', deviceId: 'device-0001' };
    const both = await conflict(enroll(service, index, fakeEnrollment(1, same)));
    assert.deepEqual(both.details?.['shared'], ['endorsementKey', 'deviceId']);
  });
});

describe('a change of an enrollment', () => {
  it('is refused for what it gives, and not for what it leaves as it is', async (t) => {
    const service = new MemoryService();
    // What another tool has made of it.
    await service.create(fakeEnrollment(1, { deviceId: 'twin' }));
    await service.create(fakeEnrollment(2, { deviceId: 'twin' }));
    await service.create(fakeEnrollment(3, { deviceId: 'third' }));
    const { index } = await station(t, service);
    await change(service, index, 'device-0002', { provisioningStatus: 'disabled' });
    await change(service, index, 'device-0002', { iotHubHostName: 'hub.azure-devices.net' });
    const error = await conflict(change(service, index, 'device-0003', { deviceId: 'twin' }));
    assert.match(
      error.message,
      /^device-0003 would have the device id "twin" of the enrollment device-000[12]$/,
    );
    const wider = { iotHubHostName: undefined as never, iotHubs: ['hub.azure-devices.net', 'second'] };
    await conflict(change(service, index, 'device-0002', wider));
  });

  it('frees what the enrollment had before, and a deletion does', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    await enroll(service, index, fakeEnrollment(1, { deviceId: 'a' }));
    await enroll(service, index, fakeEnrollment(2, { deviceId: 'b' }));
    await change(service, index, 'device-0001', { deviceId: 'c' });
    service.log.length = 0;
    await change(service, index, 'device-0002', { deviceId: 'a' });
    assert.deepEqual(operations(service), ['replace']);
    const { position } = index;
    await service.delete('device-0002');
    index.forget('DEVICE-0002', position);
    service.log.length = 0;
    await enroll(service, index, fakeEnrollment(3, { deviceId: 'a' }));
    assert.deepEqual(operations(service), ['create']);
  });

  it('two devices cannot exchange their ids; by way of a third id they can', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    await enroll(service, index, fakeEnrollment(1, { deviceId: 'a' }));
    await enroll(service, index, fakeEnrollment(2, { deviceId: 'b' }));
    await conflict(change(service, index, 'device-0001', { deviceId: 'b' }));
    await conflict(change(service, index, 'device-0002', { deviceId: 'a' }));
    await change(service, index, 'device-0001', { deviceId: 'spare' });
    await change(service, index, 'device-0002', { deviceId: 'a' });
    await change(service, index, 'device-0001', { deviceId: 'b' });
  });
});

describe('what the index says wrongly', () => {
  it('costs one request, once, and refuses nothing', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    await enroll(service, index, fakeEnrollment(1, { deviceId: 'press-17' }));
    await enroll(service, index, fakeEnrollment(2, { deviceId: 'press-18' }));
    // By another tool.
    await service.delete('device-0001');
    await service.replace(fakeEnrollment(2, { deviceId: 'moved' }), '*');
    service.log.length = 0;
    for (const [number, deviceId] of [
      [3, 'press-17'],
      [4, 'press-18'],
    ] as const) {
      const enrollment = fakeEnrollment(number, { deviceId });
      assert.equal(await index.compare({ enrollment }), undefined);
      await enroll(service, index, enrollment);
    }
    assert.deepEqual(operations(service), ['find', 'create', 'find', 'create']);
    await conflict(enroll(service, index, fakeEnrollment(5, { deviceId: 'moved' })));
  });

  it('after a refusal is nothing, and after an answer that was lost it is looked up', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    const attempt = (code: number) =>
      assert.rejects(
        index.guard('create', { enrollment: fakeEnrollment(1, { deviceId: 'x' }) }, () =>
          Promise.reject(refusal(code, 'no')),
        ),
      );
    await attempt(400004);
    service.log.length = 0;
    assert.equal(await index.compare({ enrollment: fakeEnrollment(2, { deviceId: 'x' }) }), undefined);
    assert.deepEqual(operations(service), []);
    await attempt(500001);
    assert.equal(await index.compare({ enrollment: fakeEnrollment(2, { deviceId: 'x' }) }), undefined);
    assert.deepEqual(operations(service), ['find']);
  });
});

describe('two machines, each with a state of its own', () => {
  it('see what the other has enrolled once their index is older than it may be', async (t) => {
    const service = new MemoryService();
    let now = Date.now();
    const clock = { now: () => now };
    const early = await station(t, service, clock);
    const late = await station(t, service, clock);
    await enroll(service, early.index, fakeEnrollment(1, { deviceId: 'press-17' }));
    now += HOUR_MS - 1;
    await late.index.prepare();
    // This is what remains possible, and what the help says of it.
    assert.equal(
      await late.index.compare({ enrollment: fakeEnrollment(2, { deviceId: 'press-17' }) }),
      undefined,
    );
    now += 1;
    await late.index.prepare();
    await conflict(enroll(service, late.index, fakeEnrollment(2, { deviceId: 'press-17' })));
    // A clock that was set back tells nothing of the age.
    service.log.length = 0;
    now -= 2 * HOUR_MS;
    assert.equal(await late.index.prepare(), true);
    assert.deepEqual(operations(service), ['list']);
  });

  it('a machine without an index reads the list first', async (t) => {
    const service = new MemoryService();
    const { index } = await station(t, service);
    await enroll(service, index, fakeEnrollment(1, { deviceId: 'press-17' }));
    const other = await station(t, service);
    await conflict(enroll(service, other.index, fakeEnrollment(2, { deviceId: 'press-17' })));
  });
});

describe('processes that share a state directory', () => {
  it('see what the others are about to write, and the first one wins', async (t) => {
    const service = new MemoryService();
    const { dir, index } = await station(t, service);
    const { index: other } = await station(t, service, { dir });
    let answer: () => void = () => undefined;
    const answered = new Promise<void>((resolve) => (answer = resolve));
    service.intercept = () => answered;
    const first = enroll(service, index, fakeEnrollment(1, { deviceId: 'press-17' }));
    while (service.log.length < 2) await new Promise((resolve) => setImmediate(resolve));
    const error = await conflict(enroll(service, other, fakeEnrollment(2, { deviceId: 'press-17' })));
    assert.equal(
      error.message,
      `device-0002 would have the device id "press-17" of the enrollment device-0001, which process ${process.pid} is just writing`,
    );
    answer();
    await first;
    await conflict(enroll(service, other, fakeEnrollment(2, { deviceId: 'press-17' })));
    assert.equal(service.all.size, 1);
  });

  it('claim the same at the same moment: one of them gets it', async (t) => {
    const service = new MemoryService();
    const dir = await scratch(t);
    const indexes: IdentityIndex[] = [];
    for (let number = 0; number < 4; number += 1) indexes.push((await station(t, service, { dir })).index);
    const wins: number[] = [];
    for (let round = 0; round < 20; round += 1) {
      const results = await Promise.allSettled(
        indexes.map((index, number) =>
          enroll(service, index, fakeEnrollment(round * 10 + number, { deviceId: `device-${round}` })),
        ),
      );
      wins.push(results.filter(({ status }) => status === 'fulfilled').length);
    }
    assert.deepEqual(
      wins,
      Array.from({ length: 20 }, () => 1),
    );
    assert.equal(new Set([...service.all.values()].map(({ deviceId }) => deviceId)).size, 20);
  });

  it('do so while one of them makes the index anew', async (t) => {
    const service = new MemoryService();
    for (let number = 1; number <= 250; number += 1) await service.create(fakeEnrollment(1000 + number));
    let now = Date.now();
    const clock = { now: () => now };
    const { dir, index } = await station(t, service, clock);
    const { index: reader } = await station(t, service, { ...clock, dir });
    let rounds = 0;
    for (const reading of [true, true, true, false]) {
      now += 2 * HOUR_MS;
      // Within the reading of the first, the second and the third page.
      let page = 0;
      service.intercept = async ({ operation }) => {
        if (operation !== 'list') return;
        page += 1;
        rounds += 1;
        await enroll(service, index, fakeEnrollment(rounds, { deviceId: `during-${rounds}` }));
      };
      const [isRead] = await Promise.all([reader.prepare(), reading ? undefined : index.prepare()]);
      assert.equal(isRead || !reading, true);
      service.intercept = () => undefined;
      for (let round = 1; round <= rounds; round += 1) {
        for (const each of [index, reader]) {
          const found = await each.compare({
            enrollment: fakeEnrollment(999, { deviceId: `during-${round}` }),
          });
          assert.equal(found?.other, `device-${String(round).padStart(4, '0')}`);
        }
        await conflict(enroll(service, reader, fakeEnrollment(999, { deviceId: `during-${round}` })));
      }
      assert.ok(page <= 4);
    }
    assert.equal(files(dir).length, 2, files(dir).join());
  });

  it('that was killed between its claim and its request stands in nobody’s way', async (t) => {
    const service = new MemoryService();
    const { dir, index } = await station(t, service);
    await claimAndDie(dir, 'press-17');
    service.log.length = 0;
    await enroll(service, index, fakeEnrollment(2, { deviceId: 'press-17' }));
    assert.deepEqual(
      operations(service),
      ['find', 'create'],
      'it is asked whether the request had got through',
    );
    await claimAndDie(dir, 'press-18');
    await service.create(fakeEnrollment(1, { deviceId: 'press-18' }));
    await conflict(enroll(service, index, fakeEnrollment(3, { deviceId: 'press-18' })));
  });
});

/** Another process announces that device-0001 gets this device id, and is killed before it sends anything. */
async function claimAndDie(dir: string, deviceId: string): Promise<void> {
  const script = fileURLToPath(new URL('claiming-station.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, dir, deviceId], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.stdout.once('data', () => child.kill('SIGKILL'));
    child.once('close', (...ended) => {
      resolve(ended);
    });
  });
  assert.deepEqual([code, signal], [null, 'SIGKILL']);
}

describe('the files of the index', () => {
  it('are their owner’s, and take less than 100 bytes an enrollment', async (t) => {
    const service = new MemoryService();
    for (let number = 1; number <= 500; number += 1)
      await service.create(fakeEnrollment(number, { deviceId: `press-${number}` }));
    const { dir, index } = await station(t, service);
    const folder = join(dir, 'identities-memory');
    let bytes = 0;
    for (const file of files(dir)) {
      const { size, mode } = statSync(join(folder, file));
      bytes += size;
      assert.equal(mode & 0o777, 0o600, file);
      assert.ok(
        !readFileSync(join(folder, file), 'latin1').includes(syntheticEndorsementKey(1).slice(20, 60)),
      );
    }
    assert.ok(bytes < 500 * 100, `${bytes} bytes`);
    assert.deepEqual(index.extent?.enrollments, 500);
    for (const number of [1, 77, 500]) {
      const found = await index.compare({
        enrollment: fakeEnrollment(5000, { deviceId: `press-${number}` }),
      });
      assert.equal(found?.other, `device-${String(number).padStart(4, '0')}`);
    }
    assert.equal(
      await index.compare({ enrollment: fakeEnrollment(5000, { deviceId: 'press-0' }) }),
      undefined,
    );
  });

  const damages: readonly (readonly [string, (file: string, name: string) => void])[] = [
    [
      'emptied',
      (file) => {
        truncateSync(file);
      },
    ],
    [
      'cut short',
      (file) => {
        truncateSync(file, Math.floor(statSync(file).size / 2));
      },
    ],
    [
      'made of something else',
      (file) => {
        writeFileSync(file, 'something else\n');
      },
    ],
    [
      'full of zeros',
      (file) => {
        writeFileSync(file, Buffer.alloc(statSync(file).size));
      },
    ],
    [
      'longer than it was',
      (file) => {
        appendFileSync(file, Buffer.from('\n{"torn":'));
        appendFileSync(file, '\n');
      },
    ],
    [
      'changed in one bit',
      (file) => {
        const bytes = readFileSync(file);
        const at = Math.floor(bytes.length / 2);
        bytes[at] = (bytes[at] ?? 0) ^ 1;
        writeFileSync(file, bytes);
      },
    ],
  ];
  for (const [name, damage] of damages) {
    for (const kind of ['base', 'log']) {
      it(`are made anew where the ${kind} is ${name}`, async (t) => {
        const service = new MemoryService();
        await service.create(fakeEnrollment(1, { deviceId: 'press-1' }));
        const { dir, index } = await station(t, service);
        await enroll(service, index, fakeEnrollment(2, { deviceId: 'press-2' }));
        await index.close();
        const file = files(dir).find((each) => each.startsWith(kind)) ?? '';
        damage(join(dir, 'identities-memory', file), file);
        const again = await station(t, service, { dir });
        for (const number of [1, 2]) {
          await conflict(enroll(service, again.index, fakeEnrollment(9, { deviceId: `press-${number}` })));
        }
        assert.equal(operations(service).filter((operation) => operation === 'list').length, 2);
      });
    }
  }
});

describe('a log that has become long', () => {
  it('is worked into the body by whoever comes next, without reading the list', async (t) => {
    const service = new MemoryService();
    const { dir, index } = await station(t, service);
    for (const number of [1, 2, 3, 4]) {
      await enroll(service, index, fakeEnrollment(number, { deviceId: `press-${number}` }));
    }
    await change(service, index, 'device-0002', { deviceId: 'moved' });
    const { position } = index;
    await service.delete('device-0003');
    index.forget('device-0003', position);
    await index.close();
    const before = files(dir);
    service.log.length = 0;
    const again = await station(t, service, { dir, longLogBytes: 500 });
    assert.deepEqual(operations(service), []);
    assert.notDeepEqual(files(dir), before);
    assert.equal(files(dir).length, 2);
    for (const deviceId of ['press-1', 'moved', 'press-4']) {
      await conflict(enroll(service, again.index, fakeEnrollment(9, { deviceId })));
    }
    service.log.length = 0;
    for (const deviceId of ['press-2', 'press-3']) {
      assert.equal(await again.index.compare({ enrollment: fakeEnrollment(9, { deviceId }) }), undefined);
    }
    assert.deepEqual(operations(service), [], 'what was given up is not even looked up');
  });

  it('or one of a run of the system that has ended is not relied on: nobody knows what it has lost', async (t) => {
    for (const longLogBytes of [1, 1_000_000]) {
      const service = new MemoryService();
      const { dir, index } = await station(t, service);
      await enroll(service, index, fakeEnrollment(1, { deviceId: 'press-1' }));
      await index.close();
      const log = join(dir, 'identities-memory', 'log-1');
      const [, ...lines] = readFileSync(log, 'utf8').split('\n');
      writeFileSync(log, writeLine({ type: 'log', number: 1, boot: 'another' }) + lines.join('\n'));
      service.log.length = 0;
      const again = await station(t, service, { dir, longLogBytes });
      assert.deepEqual(operations(service), ['list']);
      await conflict(enroll(service, again.index, fakeEnrollment(9, { deviceId: 'press-1' })));
    }
  });
});

describe('the list of enrollments', () => {
  it('that cannot be read ends it, and the index stays as it was', async (t) => {
    const service = new MemoryService();
    let now = Date.now();
    const { dir, index } = await station(t, service, { now: () => now });
    await enroll(service, index, fakeEnrollment(1, { deviceId: 'press-17' }));
    now += 2 * HOUR_MS;
    service.intercept = ({ operation }) => {
      if (operation === 'list') throw refusal(401002, 'not allowed');
    };
    await assert.rejects(index.prepare(), (error) => {
      assert.ok(error instanceof IotdmError);
      assert.equal(error.code, 'auth.refused');
      assert.equal(error.message, 'not allowed; all enrollments were to be read, to compare with');
      assert.equal(error.details?.['index'], true);
      return true;
    });
    service.intercept = () => undefined;
    const again = await station(t, service, { dir, now: () => now });
    await conflict(enroll(service, again.index, fakeEnrollment(2, { deviceId: 'press-17' })));
  });

  it('is read by one process, and the others wait for it', async (t) => {
    const service = new MemoryService();
    const dir = await scratch(t);
    const waits: number[] = [];
    const stations = await Promise.all(
      [1, 2, 3].map(() => station(t, service, { dir, onWait: (pid) => waits.push(pid) })),
    );
    assert.deepEqual(operations(service), ['list']);
    assert.equal(waits.length, 2);
    for (const { index } of stations) assert.ok(index.extent);
  });

  it('is read once more where many conflicts would each cost a request', async (t) => {
    const service = new MemoryService();
    for (let number = 1; number <= 70; number += 1)
      await service.create(fakeEnrollment(number, { deviceId: `press-${number}` }));
    let now = Date.now();
    const { index } = await station(t, service, { now: () => now, claimsAreDistinct: true });
    now += HOUR_MS / 2;
    await index.prepare({ expected: 70 });
    service.log.length = 0;
    for (let number = 1; number <= 70; number += 1) {
      await conflict(enroll(service, index, fakeEnrollment(1000 + number, { deviceId: `press-${number}` })));
    }
    assert.equal(operations(service).filter((operation) => operation === 'find').length, 10);
    assert.equal(operations(service).length, 11, 'and a page');
  });
});
