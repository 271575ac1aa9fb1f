/* A slot that is written with an identity of the emulator's hub, and proved there. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { remove, startRig, temporaryDirectory, type Rig } from '../../emulator/rig.ts';
import { SoftwareDevice, token } from '../../emulator/software-device.ts';
import { iotdm, lifetimeOfFile, softwareTpm, type SoftwareTpm } from '../../lab/lab.ts';

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let rig: Rig;
let dir: string;

before(async () => {
  [chip, dir] = await Promise.all([softwareTpm(lifetime), temporaryDirectory()]);
  rig = await startRig({ dir });
});

after(async () => {
  await rig.close();
  await remove(dir);
});

async function write(slot: string, connectionString: string): Promise<void> {
  const args = ['slot', 'write', slot, '--overwrite', '--connection-string-file', '-', '-q'];
  const { code, stderr } = await iotdm(args, { env: { IOTDM_TPM: chip.tcti }, stdin: connectionString });
  assert.equal(code, 0, stderr);
}

async function verified(slot: string): Promise<{ readonly code: number; readonly text: string }> {
  const { hubHost, ca } = rig.emulator.info;
  const env = { IOTDM_TPM: chip.tcti, IOTDM_CA: ca };
  const { code, stdout, stderr } = await iotdm(['slot', 'verify', slot, '--hub', '--hub-host', hubHost], {
    env,
  });
  return { code, text: stdout + stderr };
}

describe('slot verify --hub at the emulator', () => {
  it('shows that a device and its module are let in, and nobody else', async () => {
    const device = new SoftwareDevice(rig, 'press-17');
    await device.enroll();
    const { state, key } = await device.register();
    const { assignedHub: hub, deviceId } = state;
    await write('0', `HostName=${hub};DeviceId=${deviceId};SharedAccessKey=${key.toString('base64')}`);
    const accepted = await verified('0');
    assert.equal(accepted.code, 0, accepted.text);
    assert.match(accepted.text, /✔ hub +the hub takes the token that the TPM signed/);

    const path = `/devices/${deviceId}/modules/axis`;
    const made = await rig.callAt(rig.emulator.info.hubHost, 'PUT', path, {
      query: 'api-version=2021-04-12',
      authorization: token(encodeURIComponent(`${hub}/devices/${deviceId}`), key),
      body: { deviceId, moduleId: 'axis' },
    });
    assert.equal(made.status, 201, made.text);
    const { primaryKey } = (
      made.json as unknown as { authentication: { symmetricKey: { primaryKey: string } } }
    ).authentication.symmetricKey;
    const module = `HostName=${hub};DeviceId=${deviceId};ModuleId=axis;SharedAccessKey=`;
    await write('1', module + primaryKey);
    assert.equal((await verified('1')).code, 0);

    // Its device's key does not open a module's door, nor another key the device's.
    await write('1', module + key.toString('base64'));
    await write('0', `HostName=${hub};DeviceId=${deviceId};SharedAccessKey=${primaryKey}`);
    for (const slot of ['0', '1']) {
      const refused = await verified(slot);
      assert.equal(refused.code, 5, refused.text);
      assert.match(refused.text, /✖ hub +.* refused the token \(401 IotHubUnauthorizedAccess\)/);
      assert.match(refused.text, /iotdm: hint: the hub does not know the device/);
    }
  });
});
