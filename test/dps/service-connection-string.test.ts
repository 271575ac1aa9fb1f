import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { parseServiceConnectionString } from '../../src/dps/service-connection-string.ts';
import { IotdmError } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';

const key = Buffer.alloc(32, 7).toString('base64');
const host = 'line4.azure-devices-provisioning.net';

function refusal(text: string): IotdmError {
  try {
    parseServiceConnectionString(text);
  } catch (error) {
    assert.ok(error instanceof IotdmError);
    return error;
  }
  return assert.fail('was not refused');
}

describe('the connection string of a provisioning service', () => {
  it('is read whatever the order, the case and the white space', () => {
    for (const text of [
      `HostName=${host};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${key}`,
      `SharedAccessKey=${key};HostName=${host};SharedAccessKeyName=provisioningserviceowner;`,
      `\n hostname = ${host} ; SHAREDACCESSKEYNAME=provisioningserviceowner;sharedaccesskey=${key};\r\n`,
      `\uFEFFHostName=${host};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${key}`,
    ]) {
      const credentials = parseServiceConnectionString(text);
      assert.equal(credentials.host, host);
      assert.equal(credentials.keyName, 'provisioningserviceowner');
      assert.deepEqual(credentials.key.bytes, Buffer.alloc(32, 7));
    }
  });

  it('may come as a secret, and may name a port', () => {
    const text = `HostName=127.0.0.1:8443;SharedAccessKeyName=owner;SharedAccessKey=${key}`;
    assert.equal(parseServiceConnectionString(Secret.fromText(text)).host, '127.0.0.1:8443');
  });

  it("is told from a device's and from an IoT Hub's", () => {
    const device = refusal(`HostName=hub.azure-devices.net;DeviceId=d1;SharedAccessKey=${key}`);
    assert.equal(device.code, 'usage.invalid');
    assert.equal(device.message, "this is a device's connection string, not the service's");
    const hub = refusal(
      `HostName=h.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey=${key}`,
    );
    assert.match(hub.message, /an IoT Hub's connection string/);
  });

  it('is refused when a field is missing, doubled, unknown, empty or unusable', () => {
    const cases: readonly [string, RegExp][] = [
      ['', /is empty/],
      [' ;', /is empty|unknown part/],
      [key, /unknown part, number 1/],
      [`HostName=${host};SharedAccessKey=${key}`, /lacks SharedAccessKeyName/],
      [`HostName=${host};SharedAccessKeyName=o`, /lacks SharedAccessKey:/],
      [`SharedAccessKeyName=o;SharedAccessKey=${key}`, /lacks HostName/],
      [`HostName=${host};HostName=b;SharedAccessKeyName=o;SharedAccessKey=${key}`, /HostName twice/],
      [`HostName=${host};SharedAccessKeyName=o;SharedAccessKey=${key};x=1`, /unknown part, number 4/],
      [`HostName=${host};;SharedAccessKeyName=o;SharedAccessKey=${key}`, /unknown part, number 2/],
      [`HostName=;SharedAccessKeyName=o;SharedAccessKey=${key}`, /an empty HostName/],
      [
        `HostName=https://${host};SharedAccessKeyName=o;SharedAccessKey=${key}`,
        /host does not have the form/,
      ],
      [`HostName=${host}:0;SharedAccessKeyName=o;SharedAccessKey=${key}`, /host does not have the form/],
      [`HostName=${host};SharedAccessKeyName=o;SharedAccessKey=${key.slice(0, -2)}`, /not base64/],
      [`HostName=${host};SharedAccessKeyName=o;SharedAccessKey=${key} ${key}`, /not base64/],
    ];
    for (const [text, expected] of cases) {
      const error = refusal(text);
      assert.equal(error.code, 'usage.invalid');
      assert.match(error.message, expected);
      assert.ok(!error.message.includes(key));
    }
  });

  it('never causes another error, and never shows its key', () => {
    const secret = fc
      .uint8Array({ minLength: 16, maxLength: 48 })
      .map((bytes) => Buffer.from(bytes).toString('base64'));
    const field = fc.constantFrom(
      'HostName',
      'SharedAccessKeyName',
      'SharedAccessKey',
      'DeviceId',
      'x',
      '',
      '=',
    );
    const mangled = fc.tuple(
      secret,
      fc.array(fc.tuple(field, fc.constantFrom('=', '==', ';', ' = ', ''), fc.option(fc.string()))),
      fc.constantFrom(';', ';;', ' ; ', ''),
    );
    fc.assert(
      fc.property(mangled, ([marked, fields, separator]) => {
        const text = fields.map(([name, sign, value]) => `${name}${sign}${value ?? marked}`).join(separator);
        let shown: string;
        try {
          const credentials = parseServiceConnectionString(text);
          shown = `${String(credentials.key)} ${JSON.stringify(credentials.key)} ${inspect(credentials.key)}`;
        } catch (error) {
          assert.ok(error instanceof IotdmError, inspect(error));
          assert.equal(error.code, 'usage.invalid');
          shown = inspect(error) + JSON.stringify(error.details ?? {});
        }
        assert.ok(!shown.includes(marked));
      }),
      { numRuns: 2000 },
    );
  });

  it('survives any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        assert.equal(refusal(text).code, 'usage.invalid');
      }),
    );
  });
});
