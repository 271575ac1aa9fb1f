import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { openAzureService } from '../../src/dps/azure-service.ts';
import { BearerToken, PROVISIONING_SCOPE, type AccessToken } from '../../src/dps/bearer-token.ts';
import { otherCloudOfScope } from '../../src/dps/clouds.ts';
import { refuseForeignHost } from '../../src/dps/entra.ts';
import { DEFAULT_DEVICE_HOST } from '../../src/dps/registration.ts';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { answering, startLyingServer, type LyingServer } from '../fakes/lying-server.ts';

const { signal } = new AbortController();
const HOUR_MS = 3_600_000;

/** Hands out `token-1`, `token-2`, …, each good for an hour. */
class FakeCredential {
  now = 0;
  readonly asked: (string | string[])[] = [];
  failure: Error | undefined;

  async getToken(scope: string | string[]): Promise<AccessToken | null> {
    this.asked.push(scope);
    await new Promise((resolve) => setImmediate(resolve));
    if (this.failure !== undefined) throw this.failure;
    return { token: `token-${this.asked.length}`, expiresOnTimestamp: this.now + HOUR_MS };
  }
}

function refused(code: ErrorCode, message = /./) {
  return (error: unknown) => {
    assert.ok(error instanceof IotdmError, inspect(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

describe('BearerToken', () => {
  it('is asked for once by all who need it, and again before it expires', async () => {
    const credential = new FakeCredential();
    const token = new BearerToken(credential, () => credential.now);
    const all = await Promise.all(Array.from({ length: 5 }, () => token.authorization(signal)));
    assert.deepEqual(new Set(all), new Set(['Bearer token-1']));
    credential.now = HOUR_MS - 6 * 60_000;
    assert.equal(await token.authorization(signal), 'Bearer token-1');
    credential.now = HOUR_MS - 4 * 60_000;
    assert.equal(await token.authorization(signal), 'Bearer token-2');
    assert.deepEqual(credential.asked, [PROVISIONING_SCOPE, PROVISIONING_SCOPE]);
    token.forget();
    assert.equal(await token.authorization(signal), 'Bearer token-3');
  });

  it('is used while it is good, also when it cannot be renewed', async () => {
    const credential = new FakeCredential();
    const token = new BearerToken(credential, () => credential.now);
    await token.authorization(signal);
    credential.failure = new Error('AADSTS700082: the refresh token has expired');
    credential.now = HOUR_MS - 1;
    assert.equal(await token.authorization(signal), 'Bearer token-1');
    credential.now = HOUR_MS;
    await assert.rejects(token.authorization(signal), refused('auth.no-token', /: it said AADSTS700082$/));
    credential.failure = undefined;
    assert.equal(await token.authorization(signal), 'Bearer token-4');
  });

  it('says in one line that there is none', async () => {
    const credential = new FakeCredential();
    credential.failure = new Error(
      'ChainedTokenCredential authentication failed.\nCredentialUnavailableError: …',
    );
    const message =
      /^no token from Microsoft Entra ID: no identity is logged in on this machine, or it cannot be reached$/;
    await assert.rejects(
      new BearerToken(credential).authorization(signal),
      refused('auth.no-token', message),
    );
    const none = new BearerToken({ getToken: () => Promise.resolve(null) });
    await assert.rejects(none.authorization(signal), refused('auth.no-token'));
  });
});

describe('a service reached by token', () => {
  let server: LyingServer;
  before(async () => {
    server = await startLyingServer();
  });
  after(() => server.close());

  it('gets the token that is good at the moment, and a new one after it has refused one', async () => {
    const credential = new FakeCredential();
    const service = openAzureService({
      credentials: { host: server.host, token: new BearerToken(credential, () => credential.now) },
      ca: server.ca,
      userAgent: 'iotdm/test',
      delay: () => Promise.resolve(),
    });
    try {
      const stored = { ...fakeEnrollment(1), etag: '"e1"' };
      server.answer(answering(200, stored));
      await service.find('device-0001');
      credential.now = HOUR_MS;
      await service.find('device-0001');
      server.answer(answering(401, {}), answering(200, stored));
      await assert.rejects(service.find('device-0001'), (error: unknown) => {
        refused('auth.refused')(error);
        assert.equal((error as IotdmError).details?.['credentials'], 'entra');
        return true;
      });
      await service.find('device-0001');
      assert.deepEqual(
        server.requests.map(({ headers }) => headers['authorization']),
        ['Bearer token-1', 'Bearer token-2', 'Bearer token-2', 'Bearer token-3'],
      );
      credential.failure = new Error('no');
      credential.now = 9 * HOUR_MS;
      const sent = server.requests.length;
      await assert.rejects(service.find('device-0001'), refused('auth.no-token'));
      assert.equal(server.requests.length, sent, 'nothing is sent without one');
    } finally {
      service.close();
    }
  });
});

describe('refuseForeignHost', () => {
  it('lets tokens go to provisioning services and to this machine only', () => {
    for (const host of [
      'plant.azure-devices-provisioning.net',
      'plant.azure-devices-provisioning.cn',
      'Plant-7.Azure-Devices-Provisioning.US:443',
      '127.0.0.1:8443',
      'localhost:1',
      '[::1]:443',
    ])
      refuseForeignHost(host);
    for (const host of [
      'azure-devices-provisioning.cn',
      'plant.azure-devices-provisioning.cn.example',
      'plant.azure-devices-provisioning.de',
      'plant.evil-azure-devices-provisioning.us',
      'azure-devices-provisioning.net.example',
      'evil.example',
      'a.b.azure-devices-provisioning.net',
      'plant-azure-devices-provisioning.net',
      '10.0.0.1',
    ]) {
      assert.throws(() => {
        refuseForeignHost(host);
      }, refused('usage.invalid'));
    }
  });
});

describe('the cloud of an ID scope', () => {
  it('is told from that of the host, where both tell one', () => {
    const other = (scope: string, host: string): string | undefined => otherCloudOfScope(scope, host)?.suffix;
    const [net, cn, us] = ['net', 'cn', 'us'].map((end) => `global.azure-devices-provisioning.${end}`);
    assert.equal(other('0cn0000990D', net ?? ''), 'azure-devices-provisioning.cn');
    assert.equal(other('0US000278B1', net ?? ''), 'azure-devices-provisioning.us');
    assert.equal(other('0ne000A1B2C', cn ?? ''), 'azure-devices-provisioning.net');
    for (const [scope, host] of [
      ['0ne000A1B2C', net],
      ['0cn0000990D', cn],
      ['0us000278B1', us],
      ['0cn0000990D', '127.0.0.1'],
      ['0xx0000990D', net],
    ] as const) {
      assert.equal(other(scope, host ?? ''), undefined, scope);
    }
    assert.equal(DEFAULT_DEVICE_HOST, net);
  });
});
