import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { before, beforeEach, describe, it } from 'node:test';
import { startLyingServer, type Answerer, type LyingServer } from '../../fakes/lying-server.ts';
import { iotdm, lifetimeOfFile, scratchDirectory, softwareTpm, type SoftwareTpm } from '../../lab/lab.ts';
import { parseConnectionString } from '../../../src/slot/device-identity.ts';
import { clearSlot, writeSlot } from '../../../src/slot/slots.ts';

const KEY = Buffer.alloc(32, 7);

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let hub: LyingServer;
let dir: string;

function connectionString(deviceId: string, { moduleId = '', key = KEY } = {}): string {
  const module = moduleId === '' ? '' : `;ModuleId=${moduleId}`;
  return `HostName=plant.azure-devices.net;DeviceId=${deviceId}${module};SharedAccessKey=${key.toString('base64')}`;
}

before(async () => {
  chip = await softwareTpm(lifetime);
  dir = await scratchDirectory(lifetime);
  hub = await startLyingServer();
  lifetime.after(() => hub.close());
  writeFileSync(join(dir, 'ca.pem'), hub.ca);
  await chip.use(async (tpm) => {
    await writeSlot(chip.access(tpm), 1, parseConnectionString(connectionString('press%17')));
    await writeSlot(
      chip.access(tpm),
      2,
      parseConnectionString(connectionString('press', { moduleId: 'axis' })),
    );
  });
});

beforeEach(() => {
  hub.requests.length = 0;
});

interface Report {
  readonly ok: boolean;
  readonly checks: readonly { readonly id: string; readonly status: string; readonly message: string }[];
}

async function verify(
  args: readonly string[],
  options: Parameters<typeof iotdm>[1] = {},
): Promise<{ code: number; error: string; report: Report; statuses: string }> {
  const { code, stdout, stderr } = await iotdm(
    ['slot', 'verify', ...args, '--json', '--tpm', chip.tcti],
    options,
  );
  const report = JSON.parse(stdout) as Report;
  const error = stderr === '' ? '' : (JSON.parse(stderr) as { error: { code: string } }).error.code;
  return { code, error, report, statuses: report.checks.map(({ status }) => status).join(' ') };
}

const atHub = (): string[] => ['--hub', '--hub-host', hub.host, '--ca', join(dir, 'ca.pem')];

function saying(head: string, body = ''): Answerer {
  return (socket: TLSSocket) => {
    socket.end(`HTTP/1.1 ${head}\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
  };
}

describe('slot verify', () => {
  it('proves what can be proved without the secret, and more with it', async () => {
    const without = await verify(['1']);
    assert.deepEqual([without.code, without.report.ok], [0, true]);
    assert.equal(without.statuses, 'pass pass pass skip skip');
    const right = await verify(['1', '--connection-string-file', '-'], {
      stdin: connectionString('press%17'),
    });
    assert.equal(right.statuses, 'pass pass pass pass skip');
    for (const wrong of [
      connectionString('press-18'),
      connectionString('press%17', { key: Buffer.alloc(32, 8) }),
    ]) {
      const found = await verify(['1'], { env: { IOTDM_CONNECTION_STRING: wrong } });
      assert.deepEqual([found.code, found.error, found.report.ok], [9, 'verify.slot', false]);
      assert.equal(found.statuses, 'pass pass pass fail skip');
    }
  });

  it('of a slot that is not ready says why, and asks nobody', async () => {
    const empty = await verify(['5', ...atHub()]);
    assert.deepEqual([empty.code, empty.error], [4, 'tpm.slot-empty']);
    assert.equal(empty.statuses, 'fail pass skip skip skip');
    assert.equal(hub.requests.length, 0);
    const shown = await iotdm(['slot', 'verify', '5', '--tpm', chip.tcti]);
    assert.match(
      shown.stdout,
      /✖ parts +slot 5 is empty\n +→ write it with: iotdm slot write 5[^]*✖ Slot 5 is not proved/,
    );
  });
});

describe('slot verify --hub', () => {
  it('shows that the hub takes a token that the TPM has just signed', async () => {
    for (const [slot, path, resource] of [
      ['1', '/devices/press%2517/messages/devicebound', 'plant.azure-devices.net/devices/press%17'],
      [
        '2',
        '/devices/press/modules/axis/messages/devicebound',
        'plant.azure-devices.net/devices/press/modules/axis',
      ],
    ] as const) {
      hub.requests.length = 0;
      hub.answer(saying('204 No Content'));
      const { code, statuses } = await verify([slot, ...atHub()]);
      assert.deepEqual([code, statuses], [0, 'pass pass pass skip pass']);
      const [request, ...more] = hub.requests;
      assert.equal(more.length, 0);
      assert.deepEqual([request?.method, request?.path], ['GET', `${path}?api-version=2021-04-12`]);
      const [, sr = '', sig = '', se = ''] =
        /^SharedAccessSignature sr=(.*)&sig=(.*)&se=(\d+)$/.exec(request?.headers['authorization'] ?? '') ??
        [];
      assert.equal(decodeURIComponent(sr), resource);
      const signature = createHmac('sha256', KEY).update(`${sr}\n${se}`).digest('base64');
      assert.equal(decodeURIComponent(sig), signature);
      assert.ok(Number(se) > Date.now() / 1000 && Number(se) < Date.now() / 1000 + 400);
    }
  });

  it('gives back a message that was waiting', async () => {
    hub.answer(saying('200 OK\r\nETag: "a/b"', 'turn left'), saying('204 No Content'));
    const { code, report } = await verify(['1', ...atHub()]);
    assert.equal(code, 0);
    assert.match(report.checks.at(-1)?.message ?? '', /a message was waiting, and was given back/);
    assert.deepEqual(
      hub.requests.map(({ method, path }) => `${method} ${path}`),
      [
        'GET /devices/press%2517/messages/devicebound?api-version=2021-04-12',
        'POST /devices/press%2517/messages/devicebound/a%2Fb/abandon?api-version=2021-04-12',
      ],
    );
  });

  it('tells a refusal from trouble, by exit code', async () => {
    const answers: [head: string, code: number, error: string][] = [
      ['401 Unauthorized\r\niothub-errorcode: IotHubUnauthorizedAccess', 5, 'auth.refused'],
      ['403 Forbidden', 5, 'auth.refused'],
      ['403 Forbidden\r\niothub-errorcode: IotHubQuotaExceeded', 7, 'network.throttled'],
      ['404 Not Found\r\niothub-errorcode: DeviceNotFound', 6, 'service.not-found'],
      ['429 Too Many Requests', 7, 'network.throttled'],
      ['503 Service Unavailable', 7, 'network.unavailable'],
      ['302 Found\r\nLocation: https://login.example', 7, 'network.proxy'],
      ['403 Forbidden\r\nContent-Type: text/html', 7, 'network.proxy'],
      ['200 OK\r\nETag: "1"\r\nContent-Type: text/html', 7, 'network.proxy'],
      ['200 OK', 6, 'service.unexpected-answer'],
      ['201 Created', 6, 'service.unexpected-answer'],
    ];
    for (const [head, code, error] of answers) {
      hub.answer(saying(head));
      const found = await verify(['1', ...atHub()]);
      assert.deepEqual([found.code, found.error], [code, error], head);
      assert.equal(found.statuses, 'pass pass pass skip fail', head);
    }
    hub.answer((socket) => {
      socket.end('garbage\r\n\r\n');
    });
    assert.equal((await verify(['1', ...atHub()])).error, 'service.unexpected-answer');
    hub.answer((socket) => {
      socket.destroy();
    });
    assert.equal((await verify(['1', ...atHub()])).error, 'network.unavailable');
    hub.answer(() => undefined);
    assert.equal((await verify(['1', ...atHub(), '--timeout', '1'])).error, 'network.timeout');
    hub.answer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      socket.end(Buffer.alloc(3_000_000));
    });
    assert.equal((await verify(['1', ...atHub()])).error, 'service.unexpected-answer');
  });

  it('talks to nobody whose certificate is not trusted, and shows no token', async () => {
    hub.answer(saying('204 No Content'));
    const untrusted = await verify(['1', '--hub', '--hub-host', hub.host]);
    assert.deepEqual([untrusted.code, untrusted.error], [7, 'network.tls']);
    assert.equal(hub.requests.length, 0);
    const traced = await iotdm(['slot', 'verify', '1', ...atHub(), '-vv', '--tpm', chip.tcti]);
    assert.equal(traced.code, 0, traced.stderr);
    assert.match(traced.stderr, /http: GET \/devices\/press%2517\/messages\/devicebound\S* 204/);
    assert.doesNotMatch(traced.stdout + traced.stderr, /sig=|SharedAccessSignature/);
    for (const host of ['https://plant.azure-devices.net', 'a b', ':1', 'host:0']) {
      const { code, stderr } = await iotdm(['slot', 'verify', '1', '--hub-host', host, '--tpm', chip.tcti]);
      assert.equal(code, 2, host);
      assert.match(stderr, /the host of the hub does not have the form/);
    }
  });

  it('goes where the URI says when nobody says otherwise', async () => {
    await chip.use(async (tpm) => {
      const credentials = parseConnectionString(
        `HostName=hub.invalid;DeviceId=d;SharedAccessKey=${KEY.toString('base64')}`,
      );
      await writeSlot(chip.access(tpm), 6, credentials);
    });
    const { code, report } = await verify(['6', '--hub']);
    assert.equal(code, 7);
    assert.match(report.checks.at(-1)?.message ?? '', /^hub\.invalid cannot be reached/);
    await chip.use((tpm) => clearSlot(chip.access(tpm), 6));
  });
});
