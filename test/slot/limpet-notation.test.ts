import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  limpetName,
  limpetResource,
  limpetSignature,
  limpetUrlEncoding,
} from '../../src/slot/limpet-notation.ts';

describe("Limpet's URL encoding", () => {
  it('leaves letters, digits and !()*-._ and writes every other byte in lower-case hex', () => {
    assert.equal(limpetUrlEncoding('aZ09!()*-._'), 'aZ09!()*-._');
    assert.equal(limpetUrlEncoding("+/= ~'ä"), '%2b%2f%3d%20%7e%27%c3%a4');
  });

  it('decodes to what it was', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        const encoded = limpetUrlEncoding(text);
        assert.equal(decodeURIComponent(encoded), text);
        assert.match(encoded, /^([A-Za-z0-9!()*\-._]|%[0-9a-f]{2})*$/);
      }),
    );
  });

  it('is that of the names of TPM objects, after base64', () => {
    assert.equal(limpetName(Buffer.from('000bfbff', 'hex')), 'AAv7%2fw%3d%3d');
  });
});

describe("Limpet's shared access signature", () => {
  it('signs and shows the resource as it is', () => {
    const device = { hostName: 'plant.azure-devices.net', deviceId: 'a+b#1', moduleId: null };
    assert.equal(limpetResource(device), 'plant.azure-devices.net/devices/a+b#1');
    const resource = limpetResource({ ...device, moduleId: 'm' });
    assert.equal(resource, 'plant.azure-devices.net/devices/a+b#1/modules/m');
    assert.equal(
      limpetSignature('r', 1893456000, Buffer.from('fbff', 'hex')),
      'SharedAccessSignature sr=r&sig=%2b%2f8%3d&se=1893456000',
    );
  });
});
