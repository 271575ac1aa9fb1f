import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { makeAuthority } from '../fakes/certificates.ts';
import { startConnectProxy, type ConnectProxy } from '../fakes/connect-proxy.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { answering, startLyingServer } from '../fakes/lying-server.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  type EmulatedService,
  type Lifetime,
} from '../lab/lab.ts';
import { failing, shownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
const password = 'marked-proxy-password';
let service: EmulatedService;
let proxy: ConnectProxy;
let dir: string;

before(async () => {
  service = await emulator(lifetime);
  proxy = await startConnectProxy();
  lifetime.after(() => proxy.close());
  dir = await scratchDirectory(lifetime);
});

/** Nothing of the machine's own network may matter. */
const direct = { HTTPS_PROXY: '', https_proxy: '', NO_PROXY: '', no_proxy: '' };
const list = (): string[] => ['enrollment', 'list', ...service.options];

async function tunnelsOf(args: readonly string[], env: Record<string, string>): Promise<number> {
  const before = proxy.tunnels.length;
  const { code, stdout, stderr } = await iotdm(args, { env: { ...direct, ...env }, cwd: dir });
  assert.equal(code, 0, stderr);
  assert.ok(!`${stdout}${stderr}`.includes(password), 'the password is shown');
  return proxy.tunnels.length - before;
}

describe('an import', () => {
  it('has as many connections as requests under way, so that none of them waits for another', async () => {
    const distant = await emulator(lifetime, { latency: { minMs: 150, maxMs: 150 } });
    const rows = Array.from({ length: 500 }, (_, number) => {
      const { registrationId, attestation } = fakeEnrollment(number + 1);
      return `${registrationId},${attestation.tpm.endorsementKey}\n`;
    });
    writeFileSync(join(dir, 'many.csv'), `registrationId,endorsementKey\n${rows.join('')}`);
    const args = [
      'enrollment',
      'import',
      'many.csv',
      '--rate',
      'unlimited',
      '--proxy',
      `127.0.0.1:${proxy.port}`,
    ];
    assert.equal(await tunnelsOf([...args, '--concurrency', '24', ...distant.options], {}), 24);
  });
});

describe('a proxy', () => {
  it('is taken from the flag, the environment or the settings file, and not for hosts in NO_PROXY', async () => {
    const url = `http://127.0.0.1:${proxy.port}`;
    const withPassword = `http://tess:${password}@127.0.0.1:${proxy.port}`;
    assert.equal(await tunnelsOf(list(), {}), 0);
    assert.equal(await tunnelsOf([...list(), '--proxy', url], {}), 1);
    assert.equal(
      await tunnelsOf(list(), { HTTPS_PROXY: url }),
      0,
      'this machine itself is no matter of its proxy',
    );
    assert.equal(await tunnelsOf([...list(), '--proxy', url], { NO_PROXY: 'example.com,127.0.0.1' }), 0);
    assert.equal(await tunnelsOf([...list(), '--proxy', url], { no_proxy: '*' }), 0);
    writeFileSync(join(dir, 'settings.json'), JSON.stringify({ proxy: withPassword }));
    assert.equal(await tunnelsOf([...list(), '--config', 'settings.json'], {}), 1);
  });

  it('of the environment leads to the service, and its password is shown nowhere', async (t) => {
    const host = 'plant.azure-devices-provisioning.net';
    const authority = makeAuthority('plant');
    const server = await startLyingServer({ ...authority.issue([host]), ca: authority.pem });
    t.after(() => server.close());
    server.answer(answering(200, []));
    const routed = await startConnectProxy();
    t.after(() => routed.close());
    routed.route = server.host;
    writeFileSync(join(dir, 'plant.pem'), authority.pem);
    for (const name of ['HTTPS_PROXY', 'https_proxy']) {
      const env = {
        ...direct,
        DEBUG: '*',
        [name]: `http://tess:${password}@127.0.0.1:${routed.port}`,
        IOTDM_DPS_CONNECTION_STRING: `HostName=${host};SharedAccessKeyName=owner;SharedAccessKey=c2VjcmV0`,
      };
      const { code, stdout, stderr } = await iotdm(['enrollment', 'list', '-vv', '--ca', 'plant.pem'], {
        env,
        cwd: dir,
      });
      assert.equal(code, 0, stderr);
      assert.match(stderr, /^iotdm: through the proxy 127\.0\.0\.1:\d+$/m);
      const shown = Buffer.from(`tess:${password}`).toString('base64');
      assert.ok(!`${stdout}${stderr}`.includes(password) && !stderr.includes(shown), 'the password is shown');
      assert.deepEqual(
        [routed.tunnels.pop(), routed.authorizations.pop()],
        [`${host}:443`, `Basic ${shown}`],
      );
    }
  });

  it('with a password is no value for a flag', async () => {
    const args = [...list(), '--proxy', `http://tess:${password}@127.0.0.1:1`];
    const { code, text, hint } = await failing(args, { env: direct });
    assert.equal(code, 'usage.secret-in-argv');
    assert.match(hint, /HTTPS_PROXY/);
    assert.ok(!text.includes(password));
  });

  it('that cannot be used is named, with what to do', async (t) => {
    const refusing = await startConnectProxy();
    t.after(() => refusing.close());
    refusing.answer = 'HTTP/1.1 407 Authentication Required\r\n\r\n';
    const url = `http://tess:${password}@127.0.0.1:${refusing.port}`;
    writeFileSync(join(dir, 'refusing.json'), JSON.stringify({ proxy: url }));
    const args = [...list(), '--config', 'refusing.json'];
    const { exitCode, code, hint, text } = await failing(args, { env: direct, cwd: dir });
    assert.deepEqual([exitCode, code], [7, 'network.proxy']);
    assert.match(hint, /^set HTTPS_PROXY=http:\/\/USER:PASSWORD@HOST:PORT in the environment$/);
    assert.ok(!text.includes(password));
    const wrong = await failing([...list(), '--proxy', 'socks5://proxy'], { env: direct });
    assert.deepEqual([wrong.exitCode, wrong.code], [2, 'usage.invalid']);
  });
});

/** The endpoint at which Azure gives an app its managed identity, and what it was asked. */
async function managedIdentity(t: Lifetime): Promise<{ env: Record<string, string>; asked: URL[] }> {
  const asked: URL[] = [];
  const server = createServer((request: IncomingMessage, response) => {
    asked.push(new URL(request.url ?? '', 'http://localhost'));
    response.setHeader('content-type', 'application/json');
    const expiry = Math.floor(Date.now() / 1000) + 3600;
    response.end(
      JSON.stringify({
        access_token: 'marked-access-token',
        expires_on: String(expiry),
        resource: 'https://azure-devices-provisioning.net',
        token_type: 'Bearer',
      }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const env = {
    ...direct,
    IDENTITY_ENDPOINT: `http://127.0.0.1:${port}/token`,
    IDENTITY_HEADER: 'marked-identity-header',
    AZURE_TOKEN_CREDENTIALS: 'ManagedIdentityCredential',
  };
  return { env, asked };
}

describe('Microsoft Entra ID', () => {
  it('gives access where a host is named and no connection string', async (t) => {
    const server = await startLyingServer();
    t.after(() => server.close());
    writeFileSync(join(dir, 'lying.pem'), server.ca);
    server.answer(answering(200, [{ ...fakeEnrollment(1), etag: '"e1"' }]));
    const { env, asked } = await managedIdentity(t);
    const args = ['enrollment', 'list', '--dps', server.host, '--ca', 'lying.pem'];
    const { code, stdout, stderr } = await iotdm([...args, '--json', '-vv'], { env, cwd: dir });
    assert.equal(code, 0, stderr);
    assert.equal((JSON.parse(stdout) as unknown[]).length, 1);
    assert.equal(asked[0]?.searchParams.get('resource'), 'https://azure-devices-provisioning.net');
    assert.equal(server.requests[0]?.headers['authorization'], 'Bearer marked-access-token');
    assert.doesNotMatch(stderr, /marked-/);

    server.answer(answering(403, { errorCode: 403000, message: 'no role' }));
    const { exitCode, hint, text } = await failing(args, { env, cwd: dir });
    assert.equal(exitCode, 5);
    assert.match(hint, /"Device Provisioning Service Data Contributor"/);
    assert.doesNotMatch(text, /marked-/);
  });

  it('that gives no token ends with exit code 5 and says how to get one', async () => {
    const env = { ...direct, AZURE_TOKEN_CREDENTIALS: 'EnvironmentCredential' };
    const args = ['enrollment', 'list', '--dps', 'plant.azure-devices-provisioning.net'];
    const { exitCode, code, hint } = await failing(args, { env });
    assert.deepEqual([exitCode, code], [5, 'auth.no-token']);
    assert.match(hint, /az login.*--dps-connection-string-file/);
  });

  it('of the clouds of China and of the US government is asked there, and gives tokens for their hosts', async (t) => {
    const asked = await startConnectProxy();
    t.after(() => asked.close());
    asked.answer = 'HTTP/1.1 403 Forbidden\r\n\r\n';
    const identity = { AZURE_TENANT_ID: 'tenant', AZURE_CLIENT_ID: 'client', AZURE_CLIENT_SECRET: 'marked' };
    const env = { ...direct, ...identity, AZURE_TOKEN_CREDENTIALS: 'EnvironmentCredential' };
    const proxied = ['--proxy', `127.0.0.1:${asked.port}`, '--json'];
    const publicLogin = 'https://login.microsoftonline.com';
    for (const [suffix, more, authority, cloud] of [
      ['cn', {}, 'login.partner.microsoftonline.cn:443', 'AzureChinaCloud'],
      ['us', {}, 'login.microsoftonline.us:443', 'AzureUSGovernment'],
      ['us', { AZURE_AUTHORITY_HOST: publicLogin }, 'login.microsoftonline.com:443', 'AzureUSGovernment'],
      ['net', {}, 'login.microsoftonline.com:443', undefined],
    ] as const) {
      asked.tunnels.length = 0;
      const host = `plant.azure-devices-provisioning.${suffix}`;
      const outcome = await iotdm(['enrollment', 'list', '--dps', host, ...proxied], {
        env: { ...env, ...more },
      });
      const { code, hint } = shownFailure(outcome);
      assert.deepEqual([outcome.code, code], [5, 'auth.no-token'], outcome.stderr);
      assert.deepEqual([...new Set(asked.tunnels)], [authority]);
      assert.equal(/az cloud set --name (\w+)/.exec(hint)?.[1], cloud);
    }
  });

  it('gets no token for a host that is no provisioning service', async (t) => {
    const { env, asked } = await managedIdentity(t);
    const args = ['enrollment', 'list', '--dps', 'plant.example'];
    const { exitCode, message } = await failing(args, { env });
    assert.equal(exitCode, 2);
    assert.match(message, /not to plant\.example: give a connection string$/);
    assert.equal(asked.length, 0);
  });

  it('is not asked where a connection string is given, or nothing at all', async (t) => {
    const { env, asked } = await managedIdentity(t);
    const { code, stderr } = await iotdm([...list(), '--dps', service.host], { env });
    assert.equal(code, 0, stderr);
    const nothing = await failing(['enrollment', 'list'], { env });
    assert.equal(nothing.code, 'usage.no-credentials');
    assert.match(nothing.hint, /--dps HOST to use Microsoft Entra ID/);
    assert.equal(asked.length, 0);
  });
});
