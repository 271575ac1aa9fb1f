import assert from 'node:assert/strict';
import { join } from 'node:path';
import { it } from 'node:test';
import { enroll } from '../../fakes/enrolled-chip.ts';
import { emulator, iotdm, scratchDirectory, softwareTpm, type Outcome } from '../../lab/lab.ts';

it('limpet -azuredps -register fills an empty slot, and leaves every identity that is there', async (t) => {
  const [chip, service, dir] = await Promise.all([softwareTpm(t), emulator(t), scratchDirectory(t)]);
  const registrationId = await enroll(chip, service, { deviceId: 'Press-17' });
  const env = {
    IOTDM_TPM: chip.tcti,
    IOTDM_CA: service.ca,
    IOTDM_HUB_HOST: service.hubHost,
    IOTDM_STATE_DIR: join(dir, 'state'),
    // The words of the command line are what counts.
    IOTDM_ID_SCOPE: '0ne0FFFFFFF',
    IOTDM_DEVICE_HOST: '127.0.0.1:1',
  };
  const register = (slot: string): Promise<Outcome> =>
    iotdm(['limpet', '-AzureDps', '-Register', slot, service.deviceHost, service.idScope], { env });

  const done = await register('3');
  assert.equal(done.code, 0, done.stderr);
  assert.equal(
    done.stdout,
    '\r\nDevice registered\r\n\r\n' +
      `\tRegistration Id:\r\n\t${registrationId}\r\n\r\n` +
      `\tDevice Id:\r\n\tPress-17\r\n\r\n\tAssigned Hub:\r\n\t${service.hub}\r\n\r\n`,
  );
  assert.equal(chip.tool('tpm2_nvread', '0x1400103'), `${service.hub}/Press-17`);
  const keys = chip.handles('persistent');

  const again = await register('3');
  assert.deepEqual([again.code, again.stdout], [0, done.stdout]);

  const other = await iotdm(['limpet', '5', '-SUR', 'plant.azure-devices.net/press-18'], { env });
  assert.equal(other.code, 0, other.stderr);
  const refused = await register('5');
  assert.equal(refused.code, 4, refused.stderr);
  assert.equal(refused.stdout, '');
  assert.equal(chip.tool('tpm2_nvread', '0x1400105'), 'plant.azure-devices.net/press-18');
  assert.equal(chip.handles('persistent'), keys);
  assert.equal(chip.handles('transient'), '');
});
