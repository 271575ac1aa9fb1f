import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import securityTpm from 'azure-iot-security-tpm';
import { parseConnectionString } from '../../src/slot/device-identity.ts';
import { writeSlot } from '../../src/slot/slots.ts';
import { azureTpm, promised } from '../lab/azure-tpm.ts';
import { softwareTpm } from '../lab/lab.ts';

const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';

describe("Azure's own security client", () => {
  it('finds our endorsement key, and signs with the identity that we wrote into slot 0', async (t) => {
    const chip = await softwareTpm(t);
    const ours = await chip.use(async (tpm) => {
      const credentials = parseConnectionString(
        `HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=${KEY}`,
      );
      await writeSlot(chip.access(tpm), 0, credentials);
      return tpm.readEndorsementKey();
    });
    const transport = await chip.transport();
    t.after(() => transport.close());
    const client = new securityTpm.TpmSecurityClient(undefined, azureTpm(transport));
    const endorsementKey = await promised<Buffer>((done) => {
      client.getEndorsementKey(done);
    });
    assert.deepEqual(endorsementKey, ours.publicArea);
    for (const data of [Buffer.from('a challenge'), Buffer.alloc(5000, 7)]) {
      const signature = await promised<Buffer>((done) => {
        client.signWithIdentity(data, done);
      });
      assert.deepEqual(signature, createHmac('sha256', Buffer.from(KEY, 'base64')).update(data).digest());
    }
  });
});
