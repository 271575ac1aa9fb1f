/**
 * Azure's own clients as witnesses, unmodified, for operators and for devices without a TPM: what they send is understood,
 * what is answered they understand. They know no port but that of HTTPS; where it cannot be had here, Node.js's own
 * agent, which they use, is told another.
 */

import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { globalAgent } from 'node:https';
import { createServer, type AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import common from 'azure-iot-common';
import provisioningDevice from 'azure-iot-provisioning-device';
import provisioningHttp from 'azure-iot-provisioning-device-http';
import provisioningService, { type ProvisioningServiceClient } from 'azure-iot-provisioning-service';
import { certified, type Certified } from '../fakes/device-certificates.ts';
import { promised } from '../lab/azure-tpm.ts';
import { enrollment, remove, startRig, temporaryDirectory, type AnswerBody, type Rig } from './rig.ts';

type Json = Readonly<Record<string, unknown>>;
type Callback = (error: unknown, result?: unknown) => void;

const trusted = globalAgent.options.ca;
const httpsPort = globalAgent as unknown as { defaultPort: number };
let dir: string;
let rig: Rig;
let client: ProvisioningServiceClient;

before(async () => {
  dir = await temporaryDirectory();
  const on = (port: number): Promise<Rig> => startRig({ dir, port, devicePort: port, hubPort: port });
  rig = await on(443).catch(async () => on(await freePort()));
  const { port } = rig.emulator.info;
  globalAgent.options.ca = await readFile(rig.emulator.info.ca, 'utf8');
  httpsPort.defaultPort = port;
  const [address = ''] = /127\.0\.0\.1(:[0-9]+)?/.exec(rig.connectionString) ?? [];
  assert.equal(address, port === 443 ? '127.0.0.1' : `127.0.0.1:${port}`);
  client = provisioningService.ProvisioningServiceClient.fromConnectionString(
    rig.connectionString.replace(address, '127.0.0.1'),
  );
});

after(async () => {
  globalAgent.destroy();
  globalAgent.options.ca = trusted;
  httpsPort.defaultPort = 443;
  await rig.close();
  await remove(dir);
});

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Its promises lose errors: with a callback it says everything. */
const asked = async (ask: (done: Callback) => void): Promise<AnswerBody> =>
  new Promise((resolve, reject) => {
    ask((error, result) => {
      if (error instanceof Error) reject(error);
      else resolve(result as AnswerBody);
    });
  });

async function pagesOf(query: { hasMoreResults: boolean; next(done: Callback): unknown }): Promise<Json[][]> {
  const pages: Json[][] = [];
  while (query.hasMoreResults) {
    const page = await asked((done) => {
      query.next(done);
    });
    pages.push(page as unknown as Json[]);
  }
  return pages;
}

describe("Azure's own client for operators", () => {
  const put = (body: object): Promise<AnswerBody> =>
    asked((done) => {
      client.createOrUpdateIndividualEnrollment(body as never, done);
    });

  it('creates, updates, reads and deletes an enrollment', async () => {
    const created = await put(enrollment('witness-1'));
    await assert.rejects(put(enrollment('witness-1')), { name: 'DeviceAlreadyExistsError' });
    const updated = await put({ ...created, deviceId: 'device' });
    assert.equal(updated.deviceId, 'device');
    await assert.rejects(put(created));
    const read = await asked((done) => {
      client.getIndividualEnrollment('witness-1', done);
    });
    assert.deepEqual(read, updated);
    const mechanism = await asked((done) => {
      client.getIndividualEnrollmentAttestationMechanism('witness-1', done);
    });
    assert.deepEqual(mechanism, updated.attestation);
    await asked((done) => {
      client.deleteIndividualEnrollment(updated as never, done);
    });
    await assert.rejects(
      asked((done) => {
        client.getIndividualEnrollment('witness-1', done);
      }),
    );
  });

  it('runs a bulk operation and lists what it made, page by page', async () => {
    const enrollments = Array.from({ length: 5 }, (_, index) => enrollment(`witness-${index}`));
    const result = await asked((done) => {
      client.runBulkEnrollmentOperation({ mode: 'create', enrollments } as never, done);
    });
    assert.equal(result.isSuccessful, true);
    for (const query of ['SELECT * FROM enrollments', '*', 'SELECT *']) {
      const pages = await pagesOf(client.createIndividualEnrollmentQuery({ query }, 2));
      assert.deepEqual(
        pages.map((page) => page.map((item) => item['registrationId'])),
        [['witness-0', 'witness-1'], ['witness-2', 'witness-3'], ['witness-4']],
      );
    }
  });

  it('creates, updates, reads, lists and deletes an enrollment group', async () => {
    const [one, other] = await Promise.all([
      certified('root', { ca: true }),
      certified('other', { ca: true }),
    ]);
    const group = {
      enrollmentGroupId: 'witness-group',
      attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificate: one.cert } } } },
    };
    const putGroup = (body: object): Promise<AnswerBody> =>
      asked((done) => {
        client.createOrUpdateEnrollmentGroup(body as never, done);
      });
    const created = await putGroup(group);
    assert.ok(!JSON.stringify(created).includes('BEGIN CERTIFICATE'));
    const updated = await putGroup({ ...created, provisioningStatus: 'disabled' });
    await assert.rejects(putGroup(created));
    assert.deepEqual(
      await asked((done) => {
        client.getEnrollmentGroup('witness-group', done);
      }),
      updated,
    );
    assert.deepEqual(
      await asked((done) => {
        client.getEnrollmentGroupAttestationMechanism('witness-group', done);
      }),
      updated.attestation,
    );
    assert.deepEqual(await pagesOf(client.createEnrollmentGroupQuery({ query: '*' }, 10) as never), [
      [updated],
    ]);
    const replaced = { signingCertificates: { primary: { certificate: other.cert } } };
    const last = await putGroup({ ...updated, attestation: { type: 'x509', x509: replaced } });
    assert.ok(JSON.stringify(last).includes(other.sha256Thumbprint));
    await asked((done) => {
      client.deleteEnrollmentGroup(last as never, done);
    });
    await assert.rejects(
      asked((done) => {
        client.getEnrollmentGroup('witness-group', done);
      }),
    );
  });
});

describe("Azure's own client for devices", () => {
  /** As its packages for each kind of security have it; what it can do tells the client which it is. */
  const keySecurity = (id: string, key: string): object => ({
    getRegistrationId: (done: Callback) => {
      done(null, id);
    },
    createSharedAccessSignature: (idScope: string, done: Callback) => {
      const expiry = Math.ceil(Date.now() / 1000) + 3600;
      const resource = `${idScope}/registrations/${id}`;
      done(null, common.SharedAccessSignature.create(resource, 'registration', key, expiry));
    },
  });
  const certificateSecurity = ({ name, cert, key }: Certified): object => ({
    getRegistrationId: () => name,
    getCertificate: (done: Callback) => {
      done(null, { cert, key });
    },
  });
  const register = async (security: object): Promise<Json> => {
    const device = provisioningDevice.ProvisioningDeviceClient.create(
      '127.0.0.1',
      rig.emulator.info.idScope,
      new provisioningHttp.Http(),
      security as never,
    );
    const result: unknown = await promised((done) => {
      device.register(done);
    });
    return result as Json;
  };

  it('registers by symmetric key and by certificate, of the device and of a group', async () => {
    const [root, own] = await Promise.all([certified('plant', { ca: true }), certified('own')]);
    const member = await certified('member', { issuer: root });
    const key = randomBytes(32).toString('base64');
    const symmetricKey = { primaryKey: key, secondaryKey: key };
    const derived = createHmac('sha256', Buffer.from(key, 'base64')).update('keyed-member').digest('base64');
    for (const registrationId of ['keyed', 'own']) {
      const attestation =
        registrationId === 'keyed'
          ? { type: 'symmetricKey', symmetricKey }
          : { type: 'x509', x509: { clientCertificates: { primary: { certificate: own.cert } } } };
      await asked((done) => {
        client.createOrUpdateIndividualEnrollment({ registrationId, attestation } as never, done);
      });
    }
    for (const enrollmentGroupId of ['keys', 'certificates']) {
      const attestation =
        enrollmentGroupId === 'keys'
          ? { type: 'symmetricKey', symmetricKey }
          : { type: 'x509', x509: { signingCertificates: { primary: { certificate: root.cert } } } };
      await asked((done) => {
        client.createOrUpdateEnrollmentGroup({ enrollmentGroupId, attestation } as never, done);
      });
    }
    for (const [security, deviceId] of [
      [keySecurity('keyed', key), 'keyed'],
      [keySecurity('keyed-member', derived), 'keyed-member'],
      [certificateSecurity(own), 'own'],
      [certificateSecurity(member), 'member'],
    ] as const) {
      const { status, assignedHub, deviceId: assigned } = await register(security);
      assert.deepEqual([status, assignedHub, assigned], ['assigned', rig.emulator.info.hub, deviceId]);
    }
    for (const [group, registrationId] of [
      ['keys', 'keyed-member'],
      ['certificates', 'member'],
    ] as const) {
      const query = client.createEnrollmentGroupDeviceRegistrationStateQuery({ query: '*' }, group, 10);
      const [states, ...more] = await pagesOf(query);
      assert.deepEqual(
        [states?.map((state) => [state['registrationId'], state['status']]), more],
        [[[registrationId, 'assigned']], []],
      );
    }
    await assert.rejects(register(keySecurity('keyed', derived)), { name: 'UnauthorizedError' });
    await assert.rejects(register(certificateSecurity(await certified('own'))), {
      name: 'UnauthorizedError',
    });
  });
});

describe('services that share a port', () => {
  it('are told apart by path, and the hub by its name as well', async () => {
    const { info } = rig.emulator;
    assert.deepEqual([info.deviceHost, info.hubHost], [info.host, info.host]);
    const about = async (path: string, host = '127.0.0.1'): Promise<string> => {
      const { status, text } = await rig.callAt(info.host, 'PATCH', path, { headers: { host } });
      assert.equal(status, 501);
      return /is not emulated: of (DPS for operators|DPS for devices|IoT Hub)/.exec(text)?.[1] ?? text;
    };
    for (const path of ['/enrollments/x', '/registrations/registrations/query', '/', '/x/y/z']) {
      assert.equal(await about(path), 'DPS for operators');
      assert.equal(await about(path, `${info.hub}:443`), 'IoT Hub');
    }
    assert.equal(await about(`/${info.idScope}/registrations/x/register`), 'DPS for devices');
    assert.equal(await about('/enrollmentGroups/registrations/attestationmechanism'), 'DPS for operators');
    assert.equal(await about('/devices/x'), 'IoT Hub');
  });

  it('share it again after a restart, and may part', async () => {
    const { port } = rig.emulator.info;
    await rig.close();
    rig = await startRig({ dir });
    const { info } = rig.emulator;
    assert.deepEqual([info.port, info.deviceHost, info.hubHost], [port, info.host, info.host]);
    const apart = await freePort();
    await rig.close();
    rig = await startRig({ dir, devicePort: apart });
    const { host, deviceHost, hubHost } = rig.emulator.info;
    assert.deepEqual([host, deviceHost, hubHost], [`127.0.0.1:${port}`, `127.0.0.1:${apart}`, host]);
  });
});
