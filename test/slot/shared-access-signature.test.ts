import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import common from 'azure-iot-common';
import type { DeviceIdentity } from '../../src/slot/device-identity.ts';
import { encodedResource, formatSignature, signedText } from '../../src/slot/shared-access-signature.ts';

const key = Buffer.from('bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=', 'base64');
const EXPIRY = 1893456000;

/** Azure's types want an error even where there is none. */
const noError = null as unknown as Error;

/** What Azure's own SDK makes of the same identity and key. */
function azureSignature({ hostName, deviceId, moduleId }: DeviceIdentity): Promise<string> {
  return new Promise((resolve, reject) => {
    common.SharedAccessSignature.createWithSigningFunction(
      { host: hostName, deviceId, ...(moduleId === null ? {} : { moduleId }) },
      EXPIRY,
      (text: Buffer, done: (error: Error, signature: Buffer) => void) => {
        done(noError, createHmac('sha256', key).update(text).digest());
      },
      (error, signature) => {
        if (signature === undefined) reject(error);
        else resolve(signature.toString());
      },
    );
  });
}

describe('a shared access signature', () => {
  const identities: DeviceIdentity[] = [
    { hostName: 'plant.azure-devices.net', deviceId: 'press-17', moduleId: null },
    { hostName: 'plant.azure-devices.net', deviceId: 'press-17', moduleId: 'vision' },
    { hostName: 'plant.azure-devices.net', deviceId: 'a b'.replace(' ', '+'), moduleId: null },
    { hostName: 'plant.azure-devices.net', deviceId: "50%_#*?!(),=@;$'", moduleId: "m:.!'()*" },
  ];
  for (const identity of identities) {
    it(`of ${identity.deviceId} is the one that Azure's SDK makes`, async () => {
      const resource = encodedResource(identity);
      const hmac = createHmac('sha256', key).update(signedText(resource, EXPIRY)).digest();
      assert.equal(formatSignature(resource, EXPIRY, hmac), await azureSignature(identity));
    });
  }
});
