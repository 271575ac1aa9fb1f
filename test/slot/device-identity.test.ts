import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { formatUri, parseConnectionString, parseUri } from '../../src/slot/device-identity.ts';

const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
/** 253 characters, with which the longest URI has 511. */
const LONGEST_HOST = `${`${'a'.repeat(62)}.`.repeat(4)}b`;
const key = (bytes: number): string => Buffer.alloc(bytes, 7).toString('base64');

describe('parseConnectionString', () => {
  const accepted: [string, string][] = [
    [`HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=${KEY}`, 'h.azure-devices.net/d'],
    [`SharedAccessKey=${KEY};DeviceId=d;HostName=h.azure-devices.net`, 'h.azure-devices.net/d'],
    [`hostname=h;DEVICEID=d;sharedAccessKey=${KEY};`, 'h/d'],
    [` HostName = h ; DeviceId = d ; SharedAccessKey = ${KEY} \r\n`, 'h/d'],
    [`HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=${KEY}`, 'h/d/m'],
    [`HostName=h;DeviceId=a=b%20+c;SharedAccessKey=${KEY}`, 'h/a=b%20+c'],
    [`HostName=h;DeviceId=a;b;SharedAccessKey=${KEY}`, 'h/a;b'],
    [`HostName=h;DeviceId=d;SharedAccessKey=${key(16)}`, 'h/d'],
    [`HostName=h;DeviceId=d;SharedAccessKey=${key(64)}`, 'h/d'],
    [
      `HostName=${LONGEST_HOST};DeviceId=${'d'.repeat(128)};ModuleId=${'m'.repeat(128)};SharedAccessKey=${KEY}`,
      `${LONGEST_HOST}/${'d'.repeat(128)}/${'m'.repeat(128)}`,
    ],
  ];
  for (const [text, uri] of accepted) {
    it(`takes ${text.replace(KEY, 'KEY').trim()}`, () => {
      assert.equal(formatUri(parseConnectionString(text).identity), uri);
    });
  }

  const refused: [string, RegExp][] = [
    ['', /is empty/],
    ['hello', /has a field/],
    [`DeviceId=d;SharedAccessKey=${KEY}`, /has no HostName/],
    [`HostName=h;SharedAccessKey=${KEY}`, /has no DeviceId/],
    ['HostName=h;DeviceId=d', /has no SharedAccessKey/],
    [`HostName=h;HostName=i;DeviceId=d;SharedAccessKey=${KEY}`, /HostName twice/],
    [`HostName=h;DeviceId=;SharedAccessKey=${KEY}`, /empty DeviceId/],
    [`HostName=https://h;DeviceId=d;SharedAccessKey=${KEY}`, /not a host name/],
    [`HostName=h/x;DeviceId=d;SharedAccessKey=${KEY}`, /not a host name/],
    [`HostName=h;DeviceId=ä;SharedAccessKey=${KEY}`, /characters that IoT Hub does not allow/],
    [`HostName=h;DeviceId=a/b;SharedAccessKey=${KEY}`, /characters that IoT Hub does not allow/],
    [
      `HostName=h;DeviceId=${'d'.repeat(129)};SharedAccessKey=${KEY}`,
      /characters that IoT Hub does not allow/,
    ],
    ['HostName=h;DeviceId=d;SharedAccessKey=***', /not base64/],
    [`HostName=h;DeviceId=d;SharedAccessKey=${KEY.slice(0, -1)}`, /not base64/],
    [`HostName=h;DeviceId=d;SharedAccessKey=${key(15)}`, /of 15 bytes/],
    [`HostName=h;DeviceId=d;SharedAccessKey=${key(65)}`, /of 65 bytes/],
    [`HostName=h;SharedAccessKeyName=service;SharedAccessKey=${KEY}`, /is a service's, not a device's/],
    ['HostName=h;DeviceId=d;x509=true', /certificate/],
  ];
  for (const [text, problem] of refused) {
    it(`refuses what ${problem.source}`, () => {
      assert.throws(
        () => parseConnectionString(text),
        (error: unknown) =>
          error instanceof IotdmError && error.code === 'input.invalid' && problem.test(error.message),
      );
    });
  }

  it('shows its key in no error and no print-out', () => {
    const { key: secret } = parseConnectionString(`HostName=h;DeviceId=d;SharedAccessKey=${KEY}`);
    assert.equal(secret.bytes.toString('base64'), KEY);
    for (const shown of [
      String(secret),
      JSON.stringify({ secret }),
      inspect({ secret }, { depth: 9, showHidden: true }),
    ]) {
      assert.ok(!shown.includes(KEY) && !shown.includes(secret.bytes.toString('hex')), shown);
      assert.ok(shown.includes('[secret]'));
    }
    secret.wipe();
    assert.equal(secret.bytes.length, 0);
  });

  it('throws nothing but IotdmError, and never repeats a key', () => {
    const field = fc.oneof(
      fc.constantFrom('HostName', 'DeviceId', 'SharedAccessKey', 'ModuleId', 'SharedAccessKeyNam', KEY),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(field, fc.oneof(fc.constant(KEY), fc.string()))), (fields) => {
        try {
          parseConnectionString(fields.map(([name, value]) => `${name}=${value}`).join(';'));
        } catch (error) {
          assert.ok(error instanceof IotdmError);
          assert.ok(!error.message.includes(KEY.slice(0, 12)), error.message);
        }
      }),
    );
  });
});

describe('parseUri', () => {
  it('undoes formatUri', () => {
    for (const uri of ['h/d', 'h.azure-devices.net/d/m', "h/a-:.+%_#*?!(),=@;$'"]) {
      const identity = parseUri(Buffer.from(uri));
      assert.ok(identity);
      assert.equal(formatUri(identity), uri);
    }
  });

  it('takes nothing else for a URI', () => {
    for (const text of ['', 'h', 'h/', '/d', 'h/d/m/x', 'h/d\0', 'h//m', '\xff\xfe', 'h /d']) {
      assert.equal(parseUri(Buffer.from(text, 'latin1')), undefined, JSON.stringify(text));
    }
  });
});
