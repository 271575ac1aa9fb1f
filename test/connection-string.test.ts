import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseServiceConnectionString } from '../src/dps/service-connection-string.ts';
import { IotdmError } from '../src/errors.ts';
import { redact, Secret } from '../src/secret.ts';
import { formatUri, parseConnectionString } from '../src/slot/device-identity.ts';

const bytes = Buffer.alloc(32, 0x5f);
const key = bytes.toString('base64');
const host = 'line4.azure-devices-provisioning.net';
const ofService = `HostName=${host};SharedAccessKeyName=owner;SharedAccessKey=${key}`;
const ofDevice = `HostName=hub.azure-devices.net;DeviceId=d-1;SharedAccessKey=${key}`;

/** A string as people, editors and programs pass it on. */
const wrappings: readonly ((text: string) => string)[] = [
  (text) => `"${text}"`,
  (text) => `'${text}'\n`,
  (text) => ` “${text}” `,
  (text) => `"'${text}'"\r\n`,
  (text) => `\ufeff"${text};"\r\n`,
  (text) => text.replaceAll(';', ' ;\r\n ').replaceAll(/=(?=[hdo])/g, ' = '),
  (text) => text.replace(key, `${key.slice(0, 20)}\n${key.slice(20)}`),
  (text) => text.replace(key, `"${key}"`),
  (text) => JSON.stringify({ connectionString: text }, null, 2),
];

function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof IotdmError);
    assert.ok(!error.message.includes(key) && !redact(error.message).includes('[secret]'), error.message);
    return error.message;
  }
  return assert.fail('was not refused');
}

describe('a connection string as it comes to hand', () => {
  it('is read, whatever stands around it', () => {
    for (const wrap of wrappings) {
      const service = parseServiceConnectionString(wrap(ofService));
      assert.deepEqual([service.host, service.keyName], [host, 'owner'], wrap(ofService));
      assert.deepEqual(service.key.bytes, bytes);
      const device = parseConnectionString(wrap(ofDevice));
      assert.equal(formatUri(device.identity), 'hub.azure-devices.net/d-1', wrap(ofDevice));
      assert.deepEqual(device.key.bytes, bytes);
    }
  });

  it('is told what a shell has done to it', () => {
    const cut = /ends after its HostName: without quotes around it, a shell takes its first ; for the end/;
    assert.match(
      refusal(() => parseServiceConnectionString(`HostName=${host}`)),
      cut,
    );
    assert.match(
      refusal(() => parseServiceConnectionString(`HostName=${host};\n`)),
      cut,
    );
    assert.match(
      refusal(() => parseConnectionString('hostname = hub.azure-devices.net')),
      cut,
    );
    const quote = /begins with a quote that does not end it/;
    assert.match(
      refusal(() => parseServiceConnectionString(`"${ofService}`)),
      quote,
    );
    assert.match(
      refusal(() => parseConnectionString(`'${ofDevice}`)),
      quote,
    );
    const unmarked = Buffer.from(ofService, 'utf16le').toString();
    assert.match(
      refusal(() => parseServiceConnectionString(unmarked)),
      /is in UTF-16 without a byte order mark/,
    );
  });

  it('is told which of its fields is misspelt', () => {
    const misspelt: [string, string, string][] = [
      ['HostName', 'HostNmae', 'HostName'],
      ['HostName', 'Host Name', 'HostName'],
      ['SharedAccessKey=', 'SharedAccesKey=', 'SharedAccessKey'],
    ];
    for (const [right, wrong, meant] of misspelt) {
      const expected = `has a field "${wrong.replace('=', '')}"; did you mean ${meant}?`;
      assert.ok(
        refusal(() => parseServiceConnectionString(ofService.replace(right, wrong))).endsWith(expected),
      );
      assert.ok(refusal(() => parseConnectionString(ofDevice.replace(right, wrong))).endsWith(expected));
    }
    const underscored = ofService.replace('SharedAccessKey=', 'shared_access_key=');
    assert.match(
      refusal(() => parseServiceConnectionString(underscored)),
      /did you mean SharedAccessKey\?$/,
    );
    const policy = ofService.replace('KeyName', 'KeyNmae');
    assert.match(
      refusal(() => parseServiceConnectionString(policy)),
      /did you mean SharedAccessKeyName\?$/,
    );
  });

  it('is called what it is where it is that of another service', () => {
    const sas = `SharedAccessKeyName=a;SharedAccessKey=${key}`;
    const strings: [string, RegExp, RegExp][] = [
      [`Endpoint=sb://x.servicebus.windows.net/;${sas}`, /an Event Hub or a Service Bus$/, /an Event Hub or/],
      [
        `DefaultEndpointsProtocol=https;AccountName=x;AccountKey=${key}`,
        /a storage account$/,
        /a storage account$/,
      ],
      [`"HostName=h.azure-devices.net;${sas}"`, /^this is an IoT Hub's/, /is a service's, not a device's/],
    ];
    for (const [text, forService, forDevice] of strings) {
      assert.match(
        refusal(() => parseServiceConnectionString(text)),
        forService,
      );
      assert.match(
        refusal(() => parseConnectionString(text)),
        forDevice,
      );
    }
    assert.match(
      refusal(() => parseServiceConnectionString(`'${ofDevice}'`)),
      /^this is a device's/,
    );
  });

  it('is shown in its form, where a message names it', () => {
    const message = refusal(() => parseServiceConnectionString(`HostName=${host};SharedAccessKeyName=o`));
    assert.equal(redact(message), message);
    assert.match(message, /SharedAccessKey=…$/);
    for (const value of [key, `…${key}`, 'KEY'])
      assert.equal(redact(`a;SharedAccessKey=${value};b`), 'a;SharedAccessKey=[secret];b');
  });
});

describe('a file that holds a secret', () => {
  const read = (content: Buffer): Buffer => Secret.fromFile(Buffer.from(content)).bytes;

  it('may be UTF-16 as PowerShell writes it, or begin with a byte order mark', () => {
    for (const text of [`${ofService}\r\n`, 'Größe “x”', 'x']) {
      const little = Buffer.from(`\ufeff${text}`, 'utf16le');
      assert.equal(read(little).toString(), text);
      assert.equal(read(Buffer.from(little).swap16()).toString(), text);
      assert.equal(read(Buffer.from(`\ufeff${text}`)).toString(), text);
      assert.equal(read(Buffer.from(text)).toString(), text);
    }
  });

  it('that is a key of bytes is taken as it is', () => {
    for (const hex of [
      '',
      'ff',
      'fffe',
      'fffe00',
      'fffe0000',
      'feffd800',
      'fffe4100ffff',
      'fffe41004200ac51',
    ])
      assert.equal(read(Buffer.from(hex, 'hex')).toString('hex'), hex);
  });

  it('leaves nothing of it in the bytes that were read', () => {
    const bytes = Buffer.from(`\ufeff${ofService}`, 'utf16le');
    Secret.fromFile(bytes);
    assert.ok(bytes.every((byte) => byte === 0));
  });
});
