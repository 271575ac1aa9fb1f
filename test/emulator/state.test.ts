/** What the emulator keeps in its state directory, and what it makes of a directory that is not as it left it. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { startEmulator, type EmulatorInfo } from '../../src/emulator/emulator.ts';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { emulatorStatus } from '../../src/emulator/status.ts';
import { SoftwareDevice, softwareChip, token, type Registered } from './software-device.ts';
import {
  callerOf,
  enrollment,
  remove,
  startRig,
  temporaryDirectory,
  type AnswerBody,
  type Caller,
  type Rig,
} from './rig.ts';

const year = 365 * 24 * 60 * 60 * 1000;

describe('the state directory', () => {
  let dir: string;
  let parent: string;

  beforeEach(async () => {
    parent = await temporaryDirectory();
    dir = join(parent, 'deep', 'state');
  });

  afterEach(async () => {
    await remove(parent);
  });

  const withRig = async <T>(task: (rig: Rig) => Promise<T>, options = {}): Promise<T> => {
    const rig = await startRig({ dir, ...options });
    try {
      return await task(rig);
    } finally {
      await rig.close();
    }
  };
  const create = async (rig: Caller, id: string): Promise<string> =>
    (await rig.call('PUT', `/enrollments/${id}`, { body: enrollment(id) })).json.etag;
  const idsOf = async (rig: Rig): Promise<string[]> =>
    (
      await rig.call('POST', '/enrollments/query', { body: { query: 'SELECT * FROM enrollments' } })
    ).items.map((item) => item.registrationId);
  const refusal = async (code: ErrorCode, message: RegExp): Promise<void> => {
    await assert.rejects(startEmulator({ dir }), (error) => {
      assert.ok(error instanceof IotdmError, String(error));
      assert.equal(error.code, code);
      assert.match(error.message, message);
      return true;
    });
  };
  const log = (): string => join(dir, 'enrollments.ndjson');

  it('holds secrets for its owner only', async () => {
    await withRig(async (rig) => {
      await create(rig, 'd1');
      assert.match(
        rig.connectionString,
        /^HostName=127\.0\.0\.1:[0-9]+;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=[A-Za-z0-9+/]{43}=$/,
      );
      assert.ok(rig.connectionString.includes(rig.emulator.info.host));
    });
    assert.equal((await stat(dir)).mode & 0o777, 0o700);
    const modes: Record<string, number> = {};
    for (const name of await readdir(dir)) modes[name] = (await stat(join(dir, name))).mode & 0o777;
    for (const [name, mode] of Object.entries(modes)) {
      assert.equal(mode & 0o077, ['ca.pem', 'server.pem'].includes(name) ? mode & 0o044 : 0, name);
    }
    assert.deepEqual(Object.keys(modes).sort(), [
      'ca-key.pem',
      'ca.pem',
      'devices.ndjson',
      'emulator.json',
      'enrollment-groups.ndjson',
      'enrollments.ndjson',
      'server-key.pem',
      'server.pem',
      'service-connection-string',
    ]);
  });

  it('makes the same service of the same directory', async () => {
    const before = await withRig(async (rig) => {
      await create(rig, 'd1');
      await create(rig, 'd2');
      await rig.call('DELETE', '/enrollments/d2');
      const { text } = await rig.call('GET', '/enrollments/d1');
      return { info: rig.emulator.info, text, secret: rig.connectionString };
    });
    const ca = await readFile(before.info.ca, 'utf8');
    await withRig(async (rig) => {
      assert.deepEqual(rig.emulator.info, before.info);
      assert.equal(rig.connectionString, before.secret);
      assert.equal(await readFile(rig.emulator.info.ca, 'utf8'), ca);
      assert.equal((await rig.call('GET', '/enrollments/d1')).text, before.text);
      assert.deepEqual(await idsOf(rig), ['d1']);
    });
  });

  it('never gives an ETag twice', async () => {
    const etags: string[] = [];
    for (let start = 0; start < 3; start += 1) {
      await withRig(async (rig) => {
        etags.push(await create(rig, 'd1'), await create(rig, 'd2'));
        await rig.call('DELETE', '/enrollments/d1');
        await rig.call('DELETE', '/enrollments/d2');
      });
    }
    assert.equal(new Set(etags).size, 6);
  });

  it('takes another port when its own is taken, and says so in the connection string', async () => {
    const { info, secret } = await withRig((rig) =>
      Promise.resolve({ info: rig.emulator.info, secret: rig.connectionString }),
    );
    const other = createServer();
    await listen(other, info.port);
    try {
      await withRig(async (rig) => {
        assert.notEqual(rig.emulator.info.port, info.port);
        assert.equal(rig.connectionString, secret.replace(info.host, rig.emulator.info.host));
        assert.equal((await rig.call('GET', '/enrollments/d1')).status, 404);
      });
      const wanted = { dir, port: info.port };
      await assert.rejects(
        startEmulator(wanted),
        (error) => error instanceof IotdmError && error.code === 'usage.port-unavailable',
      );
    } finally {
      other.close();
    }
    assert.equal(
      await withRig((rig) => Promise.resolve(rig.emulator.info.port), { port: info.port }),
      info.port,
    );
  });

  it('is for one emulator at a time', async () => {
    await withRig(() => refusal('input.locked', new RegExp(`process ${process.pid}`)));
    await withRig(() => Promise.resolve());
  });

  it('survives kill -9 with all that was answered', async () => {
    const program = fileURLToPath(new URL('run-emulator.ts', import.meta.url));
    const child = spawn(process.execPath, ['--import', 'tsx', program, dir], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let etag = '';
    try {
      const [line] = (await once(child.stdout, 'data')) as [Buffer];
      const caller = await callerOf(JSON.parse(line.toString('utf8')) as EmulatorInfo);
      etag = await create(caller, 'd1');
      caller.agent.destroy();
      await refusal('input.locked', new RegExp(`process ${String(child.pid)}`));
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    await withRig(async (rig) => {
      assert.equal((await rig.call('GET', '/enrollments/d1')).json.etag, etag);
      assert.notEqual(await create(rig, 'd2'), etag);
    });
  });

  it('is not held by the lock of a process that has ended, or of another with its number', async () => {
    await withRig(() => Promise.resolve());
    const child = spawn(process.execPath, ['-e', '0'], { stdio: 'ignore' });
    await once(child, 'exit');
    for (const lock of [
      `{"pid":${String(child.pid)},"started":null}`,
      ...(process.platform === 'linux' ? [`{"pid":${process.pid},"started":"boot:1"}`] : []),
      '',
      'garbage',
    ]) {
      await writeFile(join(dir, 'lock'), lock);
      await withRig(() => Promise.resolve());
    }
  });

  it('drops the line that was being written when the process was killed', async () => {
    await withRig(async (rig) => {
      await create(rig, 'd1');
    });
    await appendFile(log(), '{"put":{"registrationId":"d2"');
    await withRig(async (rig) => {
      assert.deepEqual(await idsOf(rig), ['d1']);
      await create(rig, 'd3');
    });
    await withRig(async (rig) => {
      assert.deepEqual(await idsOf(rig), ['d1', 'd3']);
    });
  });

  it('keeps what a device was answered over kill -9, and drops what it was not', async () => {
    const program = fileURLToPath(new URL('run-emulator.ts', import.meta.url));
    const child = spawn(process.execPath, ['--import', 'tsx', program, dir], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const chip = softwareChip();
    const exchange = async (info: EmulatorInfo): Promise<Registered> => {
      const caller = await callerOf(info);
      const device = new SoftwareDevice({ ...caller, emulator: { info } }, 'd1', chip);
      try {
        await device.enroll();
        return await device.register();
      } finally {
        caller.agent.destroy();
      }
    };
    let registered: Registered;
    try {
      const [line] = (await once(child.stdout, 'data')) as [Buffer];
      registered = await exchange(JSON.parse(line.toString('utf8')) as EmulatorInfo);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    await appendFile(join(dir, 'devices.ndjson'), '{"set":{"registration/d1":{"kind":"regis');
    const accepts = async (rig: Rig): Promise<number> => {
      const { assignedHub } = registered.state;
      const answer = await rig.callAt(rig.emulator.info.hubHost, 'GET', '/devices/d1/messages/devicebound', {
        query: 'api-version=2021-04-12',
        authorization: token(encodeURIComponent(`${assignedHub}/devices/d1`), registered.key),
      });
      return answer.status;
    };
    await withRig(async (rig) => {
      assert.equal(await accepts(rig), 204);
      const device = new SoftwareDevice(rig, 'd1', chip);
      assert.equal((await device.poll(registered.operationId, registered.authorization)).status, 200);
    });
    // A crash between the two logs: the enrollment is gone, and so is what became of its device.
    await appendFile(log(), '{"delete":"d1"}\n');
    await withRig(() => Promise.resolve());
    await withRig(async (rig) => {
      await create(rig, 'd1');
      assert.equal((await rig.call('GET', '/registrations/d1')).status, 404);
      assert.equal(await accepts(rig), 204, 'the identity on the hub is not the enrollment’s');
    });
  });

  it('of an earlier version, without devices and groups, is taken over', async () => {
    const info = await withRig(async (rig) => {
      await create(rig, 'd1');
      return rig.emulator.info;
    });
    await rm(join(dir, 'devices.ndjson'));
    await rm(join(dir, 'enrollment-groups.ndjson'));
    const earlier = { port: info.port, created: '2026-01-01T00:00:00.000Z' };
    await writeFile(join(dir, 'emulator.json'), JSON.stringify(earlier));
    const after = await withRig((rig) => Promise.resolve(rig.emulator.info));
    assert.equal(after.host, info.host);
    assert.match(after.idScope, /^0ne[0-9A-F]{8}$/);
    const status = await withRig((rig) => Promise.resolve({ ...emulatorStatus(dir), rig }));
    const { deviceHost, idScope, hubHost, hub } = status.rig.emulator.info;
    assert.deepEqual(
      [status.deviceHost, status.idScope, status.hubHost, status.hub],
      [deviceHost, idScope, hubHost, hub],
    );
    assert.equal(idScope, after.idScope);
    assert.deepEqual(await withRig(idsOf), ['d1']);
  });

  it('of an earlier version, with enrollments and devices of TPMs only, is taken over line by line', async () => {
    const chip = softwareChip();
    const session = Buffer.alloc(32, 1);
    const deviceKey = Buffer.alloc(32, 2);
    const date = '2026-01-01T00:00:00.000Z';
    const enrolled = {
      registrationId: 'D1',
      attestation: { type: 'tpm', tpm: { endorsementKey: chip.endorsementKey } },
      capabilities: { iotEdge: false },
      // What the emulator has taken once, and would not take now.
      initialTwin: { tags: { 'a.b': 1 } },
      provisioningStatus: 'enabled',
      reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true },
      allocationPolicy: 'hashed',
      etag: '"AAAAAQAAAAE="',
      createdDateTimeUtc: date,
      lastUpdatedDateTimeUtc: date,
    };
    const registration = {
      kind: 'registration',
      registrationId: 'D1',
      createdDateTimeUtc: date,
      lastUpdatedDateTimeUtc: date,
      etag: '"AAAA"',
      operationId: '4.op',
      sessionKey: session.toString('base64'),
      doneAt: 0,
      outcome: 'assigned',
      assignment: {
        assignedHub: 'iotdm-hub.localhost',
        deviceId: 'D1',
        substatus: 'initialAssignment',
        authenticationKey: 'AAAA',
      },
    };
    const identity = {
      kind: 'device',
      hub: 'iotdm-hub.localhost',
      deviceId: 'D1',
      primaryKey: deviceKey.toString('base64'),
      secondaryKey: deviceKey.toString('base64'),
      generationId: '1',
      etag: '"BBBB"',
      createdDateTimeUtc: date,
      iotEdge: false,
      twin: { tags: {}, desired: {} },
    };
    const set = { 'registration/d1': registration, 'identity/iotdm-hub.localhost/D1': identity };
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await writeFile(log(), `{"start":1,"schema":1}\n${JSON.stringify({ put: enrolled })}\n`);
    await writeFile(join(dir, 'devices.ndjson'), `{"schema":1}\n${JSON.stringify({ set })}\n`);
    await withRig(async (rig) => {
      const { registrationState, ...shown } = (await rig.call('GET', '/enrollments/d1'))
        .json as AnswerBody & {
        registrationState?: { status: string };
      };
      assert.deepEqual(shown, enrolled);
      assert.equal(registrationState?.status, 'assigned');
      const device = new SoftwareDevice(rig, 'd1', chip);
      assert.equal((await device.poll('4.op', device.tokenFor(session))).status, 200);
      const answer = await rig.callAt(rig.emulator.info.hubHost, 'GET', '/devices/D1/messages/devicebound', {
        query: 'api-version=2021-04-12',
        authorization: token(encodeURIComponent('iotdm-hub.localhost/devices/D1'), deviceKey),
      });
      assert.equal(answer.status, 204);
      assert.equal((await device.register()).state.deviceId, 'D1');
    });
  });

  it('is refused when a file in it is damaged, and the file is named', async () => {
    await withRig(async (rig) => {
      await create(rig, 'd1');
    });
    const damage: Readonly<Record<string, readonly string[]>> = {
      'enrollments.ndjson': ['{"put":\n', '{"put":{}}\n', '{"start":1,"schema":2}\n', 'null\n', '\n'],
      'enrollment-groups.ndjson': [
        '{"put":{"registrationId":"d1","etag":"","createdDateTimeUtc":""}}\n',
        '\n',
      ],
      'devices.ndjson': [
        '\n',
        'null\n',
        '{"schema":2}\n',
        '{"schema":1}\n{"set":{"registration/d1":{}}}\n',
        '{"schema":1}\n{"set":{"x":{"kind":"registration"}}}\n',
        '{"schema":1}\n{"set":null}\n',
        '{"schema":1}\n{"delete":[1]}\n',
      ],
      'emulator.json': [
        '',
        '{"port":0,"created":""}',
        'null',
        '{"port":1,"created":"","hubPort":"x"}',
        '{"port":1,"created":"","idScope":"../.."}',
      ],
      'service-connection-string': ['', 'HostName=x;SharedAccessKeyName=y;SharedAccessKey=z'],
      'ca.pem': ['', 'x'],
      'ca-key.pem': ['', 'x'],
      'server.pem': ['x'],
      'server-key.pem': ['x'],
    };
    for (const [name, texts] of Object.entries(damage)) {
      const good = await readFile(join(dir, name));
      for (const text of texts) {
        await writeFile(join(dir, name), text);
        await refusal('input.invalid', new RegExp(`/${name.replaceAll('.', '\\.')}`));
      }
      await writeFile(join(dir, name), good);
    }
    const foreign = await temporaryDirectory();
    await (await startEmulator({ dir: foreign })).close();
    const ours = await readFile(join(dir, 'ca-key.pem'));
    await writeFile(join(dir, 'ca-key.pem'), await readFile(join(foreign, 'ca-key.pem')));
    await remove(foreign);
    await refusal('input.invalid', /ca-key\.pem is not the key of .*ca\.pem/);
    await rm(join(dir, 'ca-key.pem'));
    await refusal('input.invalid', /ca-key\.pem is missing/);
    await writeFile(join(dir, 'ca-key.pem'), ours);
    await withRig(async (rig) => {
      assert.deepEqual(await idsOf(rig), ['d1']);
    });
  });

  it('is refused when it cannot be used at all', async () => {
    await withRig(() => Promise.resolve());
    for (const name of ['enrollments.ndjson', 'enrollment-groups.ndjson', 'devices.ndjson']) {
      await rm(join(dir, name));
      await mkdir(join(dir, name));
      await refusal('input.unreadable', new RegExp(name.replace('.', '\\.')));
      await rm(join(dir, name), { recursive: true });
    }
    await remove(dir);
    await writeFile(dir, '');
    await refusal('usage.output-unwritable', /state directory/);
  });

  it('is cleared of what no longer counts', async () => {
    await withRig(async (rig) => {
      for (let round = 0; round < 20; round += 1) {
        await create(rig, 'd1');
        await rig.call('DELETE', '/enrollments/d1');
      }
      await create(rig, 'd2');
    });
    assert.equal((await readFile(log(), 'utf8')).split('\n').length, 43);
    const etag = await withRig(async (rig) => {
      assert.deepEqual(await idsOf(rig), ['d2']);
      return create(rig, 'd1');
    });
    assert.equal((await readFile(log(), 'utf8')).split('\n').length, 5);
    for (const name of ['enrollments.ndjson', 'devices.ndjson']) {
      assert.equal((await stat(join(dir, name))).mode & 0o777, 0o600);
    }
    await withRig(async (rig) => {
      assert.equal((await rig.call('GET', '/enrollments/d1')).json.etag, etag);
    });
  });

  it('has a new server certificate when the old one expires, from the same authority', async () => {
    const files = async (): Promise<string[]> =>
      Promise.all(['ca.pem', 'server.pem'].map((name) => readFile(join(dir, name), 'utf8')));
    await withRig(() => Promise.resolve());
    const [ca, server = ''] = await files();
    const renewBy = Date.parse(new X509Certificate(server).validTo) - 7 * 24 * 60 * 60 * 1000;
    await withRig(() => Promise.resolve(), { clock: () => new Date(renewBy - 1000) });
    assert.deepEqual(await files(), [ca, server]);
    await withRig(() => Promise.resolve(), { clock: () => new Date(renewBy) });
    const [caAfter, serverAfter = ''] = await files();
    assert.equal(caAfter, ca);
    assert.notEqual(serverAfter, server);
    const renewed = new X509Certificate(serverAfter);
    assert.ok(Date.parse(renewed.validTo) > renewBy + year);
    assert.ok(renewed.checkIssued(new X509Certificate(ca ?? '')));
    await rm(join(dir, 'server-key.pem'));
    await withRig(async (rig) => {
      assert.equal((await rig.call('GET', '/enrollments/d1')).status, 404);
    });
  });
});

describe('the server', () => {
  let dir: string;
  let rig: Rig;

  beforeEach(async () => {
    dir = await temporaryDirectory();
    rig = await startRig({ dir });
  });

  afterEach(async () => {
    await rig.close();
    await remove(dir);
  });

  it('has a certificate for 127.0.0.1, ::1 and localhost, and an authority that may only issue', async () => {
    const ca = new X509Certificate(await readFile(join(dir, 'ca.pem')));
    const server = new X509Certificate(await readFile(join(dir, 'server.pem')));
    assert.equal(ca.ca, true);
    assert.equal(server.ca, false);
    assert.equal(server.checkIP('127.0.0.1'), '127.0.0.1');
    assert.equal(server.checkIP('::1'), '::1');
    assert.equal(server.checkHost('localhost'), 'localhost');
    assert.equal(server.checkHost('iotdm-hub.localhost'), 'iotdm-hub.localhost');
    assert.equal(server.checkIP('127.0.0.2'), undefined);
    assert.deepEqual(server.keyUsage, ['1.3.6.1.5.5.7.3.1']);
    assert.ok(server.verify(ca.publicKey));
    assert.ok(Date.parse(server.validFrom) < Date.now());
  });

  it('listens on loopback only', async () => {
    const others = Object.values(networkInterfaces())
      .flatMap((addresses) => addresses ?? [])
      .filter((address) => !address.internal && address.family === 'IPv4');
    for (const { address } of [...others, { address: '127.0.0.2' }]) {
      const socket = connect({ host: address, port: rig.emulator.info.port });
      const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
      assert.equal(error.code, 'ECONNREFUSED', address);
    }
  });

  it('speaks TLS 1.2 and newer', async () => {
    const ca = await readFile(join(dir, 'ca.pem'));
    const { port } = rig.emulator.info;
    const socket = connectTls({ host: '127.0.0.1', port, ca, maxVersion: 'TLSv1.2' });
    await once(socket, 'secureConnect');
    assert.equal(socket.getProtocol(), 'TLSv1.2');
    socket.destroy();
    const old = connectTls({
      host: '127.0.0.1',
      port,
      ca,
      minVersion: 'TLSv1.1',
      maxVersion: 'TLSv1.1',
      ciphers: 'DEFAULT@SECLEVEL=0',
    });
    await once(old, 'error');
  });

  it('goes on after callers that hang up in the middle of a request', async () => {
    const ca = await readFile(join(dir, 'ca.pem'));
    const { port } = rig.emulator.info;
    for (const text of [
      'PUT /enrollments/d1?api-version=2021-10-01 HTTP/1.1\r\nContent-Le',
      'nonsense\r\n\r\n',
    ]) {
      const socket = connectTls({ host: '127.0.0.1', port, ca });
      await once(socket, 'secureConnect');
      socket.write(text);
      socket.destroy();
      await once(socket, 'close');
    }
    assert.equal((await rig.call('GET', '/enrollments/d1')).status, 404);
  });

  it('closes although connections are open, once', async () => {
    const idle = connect({ host: '127.0.0.1', port: rig.emulator.info.port });
    idle.on('error', () => undefined);
    await once(idle, 'connect');
    await rig.call('GET', '/enrollments/d1');
    await Promise.all([rig.emulator.close(), rig.emulator.close()]);
    await rig.emulator.close();
    await assert.rejects(rig.call('GET', '/enrollments/d1'));
    idle.destroy();
  });
});

async function listen(server: Server, port: number): Promise<void> {
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  assert.equal((server.address() as AddressInfo).port, port);
}
