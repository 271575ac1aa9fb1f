/**
 * Azure's own client for devices as a witness, unchanged, on a software TPM: it registers, and the token that the TPM
 * then makes is accepted by the hub.
 */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { Agent } from 'node:https';
import { after, before, describe, it } from 'node:test';
import httpBase from 'azure-iot-http-base';
import provisioningDevice from 'azure-iot-provisioning-device';
import provisioningHttp from 'azure-iot-provisioning-device-http';
import securityTpm from 'azure-iot-security-tpm';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { azureTpm, promised } from '../lab/azure-tpm.ts';
import { lifetimeOfFile, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';
import { remove, startRig, temporaryDirectory, type Rig } from './rig.ts';

type SecurityClient = InstanceType<typeof securityTpm.TpmSecurityClient>;
interface Registered {
  readonly registrationState: {
    readonly status: string;
    readonly assignedHub: string;
    readonly deviceId: string;
  };
}

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let rig: Rig;
let dir = '';
let endorsementKey = '';
let registrationId = '';
let agent: Agent;

before(async () => {
  [chip, dir] = await Promise.all([softwareTpm(lifetime), temporaryDirectory()]);
  rig = await startRig({ dir, assignDelayMs: 10 });
  const ek = await chip.use((tpm) => tpm.readEndorsementKey());
  endorsementKey = ek.publicArea.toString('base64');
  registrationId = registrationIdOf(ek.publicArea);
  // Azure's client takes a host without a port; which port that is, the agent decides.
  const port = Number(rig.emulator.info.deviceHost.split(':')[1]);
  agent = Object.assign(new Agent({ ca: await readFile(rig.emulator.info.ca, 'utf8') }), {
    defaultPort: port,
  });
});

after(async () => {
  agent.destroy();
  await rig.close();
  await remove(dir);
});

async function enroll(more: Readonly<Record<string, unknown>> = {}): Promise<void> {
  const attestation = { type: 'tpm', tpm: { endorsementKey } };
  const body = { registrationId, attestation, ...more };
  const headers = { 'if-match': '*' };
  const { status, text } = await rig.call('PUT', `/enrollments/${registrationId}`, { body, headers });
  assert.equal(status, 200, text);
}

/** Registers with a security client of its own, as after a restart of the device. */
async function register(task: (result: Registered, client: SecurityClient) => Promise<void>): Promise<void> {
  const transport = await chip.transport();
  try {
    const client = new securityTpm.TpmSecurityClient(undefined, azureTpm(transport));
    const http = new httpBase.Http();
    http.setOptions({ http: { agent } });
    const device = provisioningDevice.ProvisioningDeviceClient.create(
      '127.0.0.1',
      rig.emulator.info.idScope,
      new provisioningHttp.Http(http),
      client,
    );
    // Its own type says otherwise than what it gives after attestation with a TPM.
    const result: unknown = await promised((done) => {
      device.register(done);
    });
    await task(result as Registered, client);
  } finally {
    await transport.close();
  }
}

/** What the hub says to a token that the TPM signs. */
async function hubAccepts(client: SecurityClient, hub: string, deviceId: string): Promise<number> {
  const sr = encodeURIComponent(`${hub}/devices/${deviceId}`);
  const se = Math.ceil(Date.now() / 1000) + 600;
  const signature = await promised<Buffer>((done) => {
    client.signWithIdentity(Buffer.from(`${sr}\n${se}`), done);
  });
  const sig = encodeURIComponent(signature.toString('base64'));
  const path = `/devices/${deviceId}/messages/events`;
  const { status } = await rig.callAt(rig.emulator.info.hubHost, 'POST', path, {
    query: 'api-version=2021-04-12',
    authorization: `SharedAccessSignature sr=${sr}&sig=${sig}&se=${se}`,
    raw: '{}',
  });
  return status;
}

describe("Azure's own device client", () => {
  it('registers, and again, each time with a key that the hub accepts', async () => {
    await enroll({ deviceId: 'press-17' });
    for (let time = 0; time < 2; time += 1) {
      await register(async (result, client) => {
        const { status, assignedHub, deviceId } = result.registrationState;
        assert.deepEqual([status, assignedHub, deviceId], ['assigned', rig.emulator.info.hub, 'press-17']);
        assert.equal(await hubAccepts(client, assignedHub, deviceId), 204);
        assert.equal(await hubAccepts(client, assignedHub, 'press-18'), 401);
      });
    }
    const { json } = await rig.call('GET', `/registrations/${registrationId}`);
    assert.equal((json as unknown as { status: string }).status, 'assigned');
  });

  it('is refused when it is not enrolled', async () => {
    await rig.call('DELETE', `/enrollments/${registrationId}`);
    await assert.rejects(
      register(() => Promise.resolve()),
      /unauthorized/i,
    );
  });
});
