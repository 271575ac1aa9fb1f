import assert from 'node:assert/strict';
import { createServer, type AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { openAzureService } from '../../src/dps/azure-service.ts';
import { isExemptFromProxy, parseProxy } from '../../src/dps/proxy.ts';
import type { ProvisioningService } from '../../src/dps/service.ts';
import { IotdmError } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';
import { makeAuthority } from '../fakes/certificates.ts';
import { startConnectProxy, type ConnectProxy } from '../fakes/connect-proxy.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { answering, startLyingServer, type LyingServer } from '../fakes/lying-server.ts';

const marked = 'marked-proxy-password';
const stored = { ...fakeEnrollment(1), etag: '"e1"' };

let server: LyingServer;
let proxy: ConnectProxy;
let service: ProvisioningService;

function open(url = `http://127.0.0.1:${proxy.port}`, more: { ca?: string; host?: string } = {}): void {
  service = openAzureService({
    credentials: { host: server.host, keyName: 'owner', key: Secret.fromText('key') },
    ca: server.ca,
    proxy: parseProxy(url),
    userAgent: 'iotdm/test',
    connectTimeoutMs: 1000,
    ...more,
  });
}

async function failure(): Promise<IotdmError> {
  try {
    await service.find('device-0001');
  } catch (error) {
    assert.ok(error instanceof IotdmError, inspect(error));
    assert.ok(!inspect(error, { depth: 9 }).includes(marked), 'an error shows the password');
    return error;
  }
  return assert.fail('did not fail');
}

beforeEach(async () => {
  server = await startLyingServer();
  server.answer(answering(200, stored));
  proxy = await startConnectProxy();
});
afterEach(async () => {
  service.close();
  await proxy.close();
  await server.close();
});

describe('a proxy', () => {
  it('tunnels, and does not see what goes through; its connections are kept', async () => {
    open(`http://tess:${marked}@127.0.0.1:${proxy.port}`);
    for (let time = 0; time < 3; time += 1) {
      assert.equal((await service.find('device-0001'))?.registrationId, stored.registrationId);
    }
    assert.deepEqual(proxy.tunnels, [server.host]);
    assert.deepEqual(proxy.authorizations, [`Basic ${Buffer.from(`tess:${marked}`).toString('base64')}`]);
    assert.equal(server.connections, 1);
    const seen = proxy.seen().toString('latin1');
    assert.ok(seen.length > 0);
    assert.doesNotMatch(seen, /SharedAccessSignature|enrollments|HTTP\/1\.1/);
    for (const { headers } of server.requests) assert.equal(headers['proxy-authorization'], undefined);
  });

  it('cannot answer in place of the service', async () => {
    open();
    const body = JSON.stringify(stored);
    const headers = `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    for (const status of ['404 Not Found', '201 Created', '204 No Content', '401 Unauthorized', '412 No']) {
      proxy.answer = `HTTP/1.1 ${status}\r\n${headers}`;
      const error = await failure();
      assert.equal(error.code, 'network.proxy', status);
      assert.match(
        error.message,
        /^the proxy 127\.0\.0\.1:\d+ refuses: it does not connect to 127\.0\.0\.1:\d+ \(\d+\)$/,
      );
    }
    // It says that there is a tunnel, and speaks HTTP in it.
    proxy.answer = `HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n${headers}`;
    assert.match((await failure()).code, /^network\./);
    assert.equal(server.requests.length, 0);
  });

  it('does not change for whom the certificate must be', async () => {
    const authority = makeAuthority('other');
    for (const names of [['localhost'], ['proxy.example'], ['127.0.0.2']]) {
      const other = await startLyingServer({ ...authority.issue(names), ca: authority.pem });
      other.answer(answering(200, stored));
      open(`http://127.0.0.1:${proxy.port}`, { ca: authority.pem, host: other.host });
      const { code, message } = await failure();
      assert.equal(code, 'network.tls');
      assert.match(message, /it was issued for another host/);
      assert.equal(other.requests.length, 0);
      service.close();
      await other.close();
    }
    open(`http://127.0.0.1:${proxy.port}`, { ca: authority.pem });
    assert.equal((await failure()).code, 'network.tls', 'an unknown authority');
  });

  it('that wants credentials is told apart', async () => {
    open();
    proxy.answer = 'HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n';
    const { code, message, details } = await failure();
    assert.equal(code, 'network.proxy');
    assert.match(message, /refuses: it wants other credentials, or any \(407\)$/);
    assert.equal(details?.['proxyStatus'], 407);
  });

  it('that is not there, says nothing or hangs up is named', async () => {
    const free = createServer();
    await new Promise<void>((resolve) => free.listen(0, '127.0.0.1', resolve));
    const { port } = free.address() as AddressInfo;
    await new Promise((resolve) => free.close(resolve));
    open(`http://tess:${marked}@127.0.0.1:${port}`);
    assert.match(
      (await failure()).message,
      /^the proxy 127\.0\.0\.1:\d+ cannot be used: .*\(ECONNREFUSED\)$/,
    );
    service.close();
    open();
    proxy.answer = '';
    assert.equal((await failure()).code, 'network.proxy');
    proxy.answer = null;
    assert.match((await failure()).message, /cannot be used: it did not answer within 1 s$/);
  });

  it('that is being waited for does not keep anybody', async () => {
    open();
    proxy.answer = null;
    const waiting = failure();
    while (proxy.tunnels.length === 0) await new Promise((resolve) => setImmediate(resolve));
    service.close();
    assert.equal((await waiting).code, 'interrupted.signal');
  });
});

describe('parseProxy', () => {
  it('reads what people write', () => {
    const parsed = (text: string): unknown[] => {
      const { url, name, credentials } = parseProxy(text);
      return [url.href, name, credentials?.username, credentials?.password.revealText()];
    };
    service.close();
    assert.deepEqual(parsed('http://proxy:3128'), ['http://proxy:3128/', 'proxy:3128', undefined, undefined]);
    assert.deepEqual(parsed('proxy.plant:3128/'), [
      'http://proxy.plant:3128/',
      'proxy.plant:3128',
      undefined,
      undefined,
    ]);
    assert.deepEqual(parsed('https://proxy'), ['https://proxy/', 'proxy:443', undefined, undefined]);
    assert.deepEqual(parsed('http://a%40b:p%3Aq@proxy'), ['http://proxy/', 'proxy:80', 'a@b', 'p:q']);
    assert.deepEqual(parsed('http://a:100%@proxy'), ['http://proxy/', 'proxy:80', 'a', '100%']);
    for (const text of [
      'socks5://proxy:1080',
      `http://tess:${marked}@`,
      'http://proxy/path',
      '',
      'http://[::1',
    ]) {
      assert.throws(
        () => parseProxy(text),
        (error: unknown) =>
          error instanceof IotdmError && error.code === 'usage.invalid' && !error.message.includes(marked),
      );
    }
  });
});

describe('isExemptFromProxy', () => {
  it('knows hosts, their subdomains and ports', () => {
    service.close();
    const cases: [noProxy: string, host: string, port: number, exempt: boolean][] = [
      ['', 'a.example', 443, false],
      ['*', 'a.example', 443, true],
      ['example', 'a.example', 443, true],
      ['.example', 'a.EXAMPLE', 443, true],
      ['*.example', 'a.example', 443, true],
      ['xample', 'a.example', 443, false],
      ['other, a.example:8443', 'a.example', 8443, true],
      ['a.example:8443', 'a.example', 443, false],
      ['127.0.0.1 localhost', '127.0.0.1', 443, true],
      ['[::1]:443', '::1', 443, true],
      ['::1', '::1', 443, true],
      [',', 'a.example', 443, false],
    ];
    for (const [noProxy, hostname, port, exempt] of cases) {
      assert.equal(isExemptFromProxy(noProxy, { hostname, port }), exempt, `${noProxy} ${hostname}`);
    }
  });
});
