/* The hint follows the cause: real connections, and what a user would be told of them. */
import assert from 'node:assert/strict';
import { createServer, type AddressInfo } from 'node:net';
import { after, describe, it } from 'node:test';
import { explain } from '../../commands/catalogue/explain.ts';
import { reasonEntries } from '../../commands/catalogue/reasons.ts';
import { toFailure, type Failure } from '../../commands/shared/failure.ts';
import { registerWithDps } from '../../src/dps/azure-registration.ts';
import { openAzureService } from '../../src/dps/azure-service.ts';
import { TunnelAgent } from '../../src/dps/proxy-agent.ts';
import { parseProxy } from '../../src/dps/proxy.ts';
import { because, errorCodes, errorReasons, IotdmError } from '../../src/errors.ts';
import { connectionError } from '../../src/http-errors.ts';
import { lookForMessage } from '../../src/hub/device-hub.ts';
import { Secret } from '../../src/secret.ts';
import { secureContextWith } from '../../src/trusted-certificates.ts';
import { makeAuthority } from '../fakes/certificates.ts';
import { startConnectProxy } from '../fakes/connect-proxy.ts';
import { answering, startLyingServer, type LyingServer } from '../fakes/lying-server.ts';

const authority = makeAuthority('a known authority');
const day = 86_400_000;
const ends: (() => unknown)[] = [];
after(async () => {
  for (const end of ends) await end();
});

interface Asked {
  readonly host: string;
  readonly port: number;
  readonly proxy?: string;
}

/** What a user is told by each who speaks to a service, when it is asked there. */
const clients: Readonly<Record<'dps' | 'device' | 'hub', (asked: Asked) => Promise<Failure>>> = {
  dps: async ({ host, proxy }) => {
    const service = openAzureService({
      credentials: { host, keyName: 'owner', key: Secret.fromText('key') },
      ca: authority.pem,
      userAgent: 'iotdm/test',
      connectTimeoutMs: 2000,
      ...(proxy === undefined ? {} : { proxy: parseProxy(proxy) }),
    });
    return told(
      'iotdm enrollment show',
      service.find('press-17').finally(() => {
        service.close();
      }),
    );
  },
  device: ({ host, proxy }) =>
    told(
      'iotdm device register',
      registerWithDps({
        tpm: {
          endorsementKey: Buffer.from('ek'),
          storageRootKey: Buffer.from('srk'),
          takeOver: () => Promise.resolve(null),
          sign: () => Promise.resolve(Buffer.alloc(32)),
        },
        host,
        idScope: '0ne00ABCDEF',
        registrationId: 'press-17',
        ca: authority.pem,
        connectTimeoutMs: 2000,
        ...(proxy === undefined ? {} : { proxy: parseProxy(proxy) }),
      }),
    ),
  hub: ({ port, proxy }) => {
    const secureContext = secureContextWith(authority.pem);
    const tunnel = { keepAlive: false, maxSockets: 1, timeout: 5000, connectTimeoutMs: 2000, secureContext };
    const named = proxy === undefined ? undefined : parseProxy(proxy);
    return told(
      'iotdm slot verify',
      lookForMessage(
        {
          hostname: '127.0.0.1',
          port,
          ca: authority.pem,
          timeoutMs: 5000,
          userAgent: 'iotdm/test',
          ...(named === undefined
            ? {}
            : { agent: new TunnelAgent({ ...tunnel, proxy: named }), proxy: named.name }),
        },
        { deviceId: 'press-17', moduleId: null },
        'SharedAccessSignature sr=x&sig=eA%3D%3D&se=1',
      ),
    );
  },
};

async function told(command: string, work: Promise<unknown>): Promise<Failure> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    return toFailure(error, command);
  }
  return assert.fail('did not fail');
}

async function server(identity: { cert: string; key: string }): Promise<LyingServer> {
  const started = await startLyingServer({ ...identity, ca: authority.pem });
  ends.push(() => started.close());
  return started;
}

const settings = { dps: /--dps/, device: /--device-host/, hub: /--hub-host/ } as const;

describe('a certificate that is refused', () => {
  const here = ['127.0.0.1'];
  const unknown = makeAuthority('a stranger');
  const alone = makeAuthority('127.0.0.1');
  for (const [title, identity, message, hint, namesSetting] of [
    [
      'for another host',
      () => authority.issue(['plant.example', 'line.example']),
      /it was issued for another host \(plant\.example, line\.example\)/,
      /names the host as its certificate does.*getent hosts 127\.0\.0\.1$/,
      true,
    ],
    [
      'that has expired',
      () => authority.issue(here, { from: new Date(Date.now() - 2 * day), to: new Date(Date.now() - day) }),
      /it has expired, or this machine's clock is wrong/,
      /^compare the clock .* timedatectl .*; if it is right, whoever runs 127\.0\.0\.1:\d+ has to renew/,
      false,
    ],
    [
      'that is not valid yet',
      () => authority.issue(here, { from: new Date(Date.now() + day), to: new Date(Date.now() + 2 * day) }),
      /it is not valid yet, or this machine's clock is wrong/,
      /^compare the clock .* timedatectl .*: it is probably behind/,
      false,
    ],
    [
      'of an unknown authority',
      () => unknown.issue(here),
      /it comes from an unknown certificate authority/,
      /give its certificate authority with --ca FILE/,
      false,
    ],
    [
      'that is self-signed',
      () => ({ cert: alone.pem, key: alone.key }),
      /it is self-signed/,
      /no service of Azure's has such/,
      true,
    ],
  ] as const) {
    it(title, async () => {
      const { host, port } = await server(identity());
      for (const client of ['dps', 'device', 'hub'] as const) {
        const failure = await clients[client]({ host, port });
        assert.deepEqual([failure.code, failure.exitCode], ['network.tls', 7], client);
        assert.match(failure.message, message);
        assert.match(failure.hint, hint);
        if (namesSetting) assert.match(failure.hint, settings[client], client);
        assert.doesNotMatch(failure.hint, /undefined|\bnull\b/);
      }
    });
  }

  it('of the proxy itself is told as such', async () => {
    for (const [identity, message, hint] of [
      [
        authority.issue(['other.example']),
        /its certificate is refused: it was issued for another host/,
        /--proxy/,
      ],
      [
        unknown.issue(here),
        /its certificate is refused: it comes from an unknown/,
        /authority of the proxy with --ca/,
      ],
    ] as const) {
      const { host, port } = await server(identity);
      const target = { host: '127.0.0.1:1', port: 1, proxy: `https://127.0.0.1:${port}` };
      for (const client of ['dps', 'device', 'hub'] as const) {
        const failure = await clients[client](target);
        assert.deepEqual([failure.code, failure.exitCode], ['network.proxy', 7], client);
        assert.match(failure.message, new RegExp(`^the proxy ${host} cannot be used: `));
        assert.match(failure.message, message);
        assert.match(failure.hint, hint);
      }
    }
  });
});

describe('something else than the service answers', () => {
  it('without TLS, where nothing listens, and where nobody answers', async () => {
    const plain = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    });
    await new Promise<void>((ready) => plain.listen(0, '127.0.0.1', ready));
    ends.push(() => plain.close());
    const { port } = plain.address() as AddressInfo;
    for (const client of ['dps', 'device', 'hub'] as const) {
      const failure = await clients[client]({ host: `127.0.0.1:${port}`, port });
      assert.equal(failure.code, 'network.tls', client);
      assert.match(failure.hint, /^what listens there does not speak TLS: check the port/);
      assert.match(failure.hint, settings[client]);
      const nothing = await clients[client]({ host: '127.0.0.1:1', port: 1 });
      assert.equal(nothing.code, 'network.unreachable', client);
      assert.match(nothing.hint, /^check host and port in/);
      assert.match(nothing.hint, settings[client]);
    }
  });

  it('a proxy, with its page', async () => {
    const inspecting = await server(authority.issue(['127.0.0.1']));
    const tunnel = await startConnectProxy();
    ends.push(() => tunnel.close());
    const at = { host: inspecting.host, port: inspecting.port };
    for (const [status, hint] of [
      [200, /let 127\.0\.0\.1:\d+ through unchanged; if there is none, check that/],
      [403, /let 127\.0\.0\.1:\d+ through unchanged/],
      [407, /^set HTTPS_PROXY=http:\/\/USER:PASSWORD@HOST:PORT/],
      [502, /could not reach 127\.0\.0\.1:\d+: run the same command again later/],
      [302, /log in there with a browser/],
    ] as const) {
      const page = { 'content-type': 'text/html', location: 'https://portal.example' };
      inspecting.answer(answering(status, '<html>Blocked</html>', page));
      for (const client of status === 502 ? (['dps'] as const) : (['dps', 'device', 'hub'] as const)) {
        const direct = await clients[client](at);
        assert.deepEqual([direct.code, direct.exitCode], ['network.proxy', 7], `${client} ${status}`);
        assert.match(
          direct.message,
          /^a proxy between here and .* \(its certificate comes from "a known authority"\)/,
        );
        assert.match(direct.hint, hint);
        const through = await clients[client]({ ...at, proxy: `http://127.0.0.1:${tunnel.port}` });
        assert.deepEqual([through.code, through.exitCode], ['network.proxy', 7], `${client} ${status}`);
        assert.match(through.message, new RegExp(`^the proxy 127.0.0.1:${tunnel.port} \\(`));
        assert.match(through.hint, hint);
      }
    }
  });

  it('a proxy, in place of a tunnel', async () => {
    const tunnel = await startConnectProxy();
    ends.push(() => tunnel.close());
    const asked = { host: '127.0.0.1:1', port: 1, proxy: `http://127.0.0.1:${tunnel.port}` };
    for (const [answer, message, hint] of [
      ['HTTP/1.1 407 Authentication Required\r\n\r\n', /wants other credentials/, /^set HTTPS_PROXY=/],
      [
        'HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n<html>',
        /does not connect to/,
        /NO_PROXY=127/,
      ],
      ['HTTP/1.1 502 Bad Gateway\r\n\r\n', /does not connect to/, /have whoever runs the proxy/],
    ] as const) {
      tunnel.answer = answer;
      for (const client of ['dps', 'device', 'hub'] as const) {
        const failure = await clients[client](asked);
        assert.deepEqual([failure.code, failure.exitCode], ['network.proxy', 7], client);
        assert.match(failure.message, new RegExp(`^the proxy 127.0.0.1:${tunnel.port} refuses: `));
        assert.match(failure.message, message);
        assert.match(failure.hint, hint);
      }
    }
  });

  it('a proxy, inside of a tunnel', async () => {
    const page = 'HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n<html>Blocked</html>';
    const yes = 'HTTP/1.1 200 OK\r\n\r\n';
    for (const [answers, code, hint] of [
      [
        [yes, page],
        'network.tls',
        /^have whoever runs the proxy 127\.0\.0\.1:\d+ let 127\.0\.0\.1:1 through/,
      ],
      [[`${yes}${page}`], 'network.unavailable', /./],
    ] as const) {
      const lying = createServer((socket) => {
        const left = [...answers];
        socket.on('error', () => undefined);
        socket.on('data', () => {
          const next = left.shift() ?? '';
          if (left.length === 0) socket.end(next);
          else socket.write(next);
        });
      });
      await new Promise<void>((ready) => lying.listen(0, '127.0.0.1', ready));
      ends.push(() => lying.close());
      const name = `127.0.0.1:${(lying.address() as AddressInfo).port}`;
      for (const client of ['dps', 'hub'] as const) {
        const failure = await clients[client]({ host: '127.0.0.1:1', port: 1, proxy: `http://${name}` });
        assert.deepEqual([failure.code, failure.exitCode], [code, 7], failure.message);
        assert.match(failure.message, new RegExp(`through the proxy ${name}$`));
        assert.match(failure.hint, hint);
      }
    }
  });
});

describe('what a number of the service is about', () => {
  it('decides on the hint, not the number alone', async () => {
    const dps = await server(authority.issue(['127.0.0.1']));
    for (const [message, hint] of [
      [
        'Endorsement key is invalid, or does not match the Enrollment.',
        /^compare iotdm ek read on the device with/,
      ],
      ['Registration ID is invalid', /registration id/],
      [
        'Unsupported API version 2019-03-31.',
        /does not have the version of the API .* nothing is wrong with the device/,
      ],
      ['It is not valid', /^mend what the service names/],
    ] as const) {
      dps.answer(answering(400, { errorCode: 400004, message }));
      for (const client of ['dps', 'device'] as const) {
        const failure = await clients[client](dps);
        assert.equal(failure.code, 'service.invalid');
        assert.match(failure.hint, hint, `${client}: ${message}`);
      }
    }
    assert.equal(explain('400004').filter(({ kind }) => kind === 'dps').length, 4);
  });
});

describe('every cause', () => {
  it('that Node.js may name for a certificate or a connection is known', () => {
    for (const code of x509Codes) {
      const error = connectionError('dps.example', Object.assign(new Error('x'), { code }));
      assert.equal(error.code, 'network.tls', code);
      assert.ok(!toFailure(error, 'iotdm enrollment list').hint.includes('please report'), code);
    }
  });

  it('has a hint that is fit to be shown, under the codes that it is for', () => {
    for (const reason of errorReasons) {
      for (const code of reasonEntries[reason].codes) {
        assert.ok(errorCodes.includes(code));
        for (const details of [
          because(reason),
          because(reason, { host: 'h.example:8443', proxy: 'p.example:3128' }),
        ]) {
          const { hint } = toFailure(new IotdmError(code, 'x', { details }), 'iotdm enrollment list');
          assert.match(hint, /^(?:[a-z]|TLS|NO_PROXY)/, hint);
          assert.doesNotMatch(hint, /undefined|\bnull\b|\.$|\n/, hint);
        }
      }
    }
    const other = new IotdmError('service.conflict', 'x', { details: because('quota') });
    assert.match(toFailure(other, 'iotdm enrollment list').hint, /^look at what there is/);
  });
});

/** Node.js 20, doc/api/tls, "X509 certificate error codes". */
const x509Codes = [
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_CRL',
  'UNABLE_TO_DECRYPT_CERT_SIGNATURE',
  'UNABLE_TO_DECRYPT_CRL_SIGNATURE',
  'UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY',
  'CERT_SIGNATURE_FAILURE',
  'CRL_SIGNATURE_FAILURE',
  'CERT_NOT_YET_VALID',
  'CERT_HAS_EXPIRED',
  'CRL_NOT_YET_VALID',
  'CRL_HAS_EXPIRED',
  'ERROR_IN_CERT_NOT_BEFORE_FIELD',
  'ERROR_IN_CERT_NOT_AFTER_FIELD',
  'ERROR_IN_CRL_LAST_UPDATE_FIELD',
  'ERROR_IN_CRL_NEXT_UPDATE_FIELD',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'CERT_CHAIN_TOO_LONG',
  'CERT_REVOKED',
  'INVALID_CA',
  'PATH_LENGTH_EXCEEDED',
  'INVALID_PURPOSE',
  'CERT_UNTRUSTED',
  'CERT_REJECTED',
  'HOSTNAME_MISMATCH',
  'UNSPECIFIED',
  'ERR_TLS_CERT_ALTNAME_INVALID',
];
