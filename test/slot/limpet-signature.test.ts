import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { formatLimpetSignature, limpetResource } from '../../src/slot/limpet-signature.ts';

describe("Limpet's shared access signature", () => {
  it('shows the resource as it is, and the signature encoded in lower-case hex', () => {
    const device = { hostName: 'plant.azure-devices.net', deviceId: 'a+b#1', moduleId: null };
    assert.equal(limpetResource(device), 'plant.azure-devices.net/devices/a+b#1');
    const resource = limpetResource({ ...device, moduleId: 'm' });
    assert.equal(resource, 'plant.azure-devices.net/devices/a+b#1/modules/m');
    assert.equal(
      formatLimpetSignature('r', 1893456000, Buffer.from('fbff', 'hex')),
      'SharedAccessSignature sr=r&sig=%2b%2f8%3d&se=1893456000',
    );
  });
});
