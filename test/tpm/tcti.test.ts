import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';

describe('parseTcti', () => {
  const accepted: [string, object][] = [
    ['device:/dev/tpm0', { kind: 'device', path: '/dev/tpm0' }],
    ['device', { kind: 'device', path: '/dev/tpmrm0' }],
    ['swtpm:host=10.0.0.1,port=2400', { kind: 'swtpm-tcp', host: '10.0.0.1', port: 2400 }],
    ['swtpm:port=2400', { kind: 'swtpm-tcp', host: '127.0.0.1', port: 2400 }],
    ['swtpm', { kind: 'swtpm-tcp', host: '127.0.0.1', port: 2321 }],
    ['swtpm:path=/run/a=b.sock', { kind: 'swtpm-unix', path: '/run/a=b.sock' }],
    ['mssim:host=10.0.0.1,port=2400', { kind: 'mssim', host: '10.0.0.1', port: 2400 }],
    ['mssim', { kind: 'mssim', host: '127.0.0.1', port: 2321 }],
    ['tbs', { kind: 'tbs' }],
    ['cmd:ssh dut tpm2_send', { kind: 'command', command: 'ssh dut tpm2_send' }],
    ['cmd:tpm2_send -T swtpm:port=1', { kind: 'command', command: 'tpm2_send -T swtpm:port=1' }],
    ['libtss2-tcti-device.so.0:/dev/tpmrm1', { kind: 'device', path: '/dev/tpmrm1' }],
  ];
  for (const [text, expected] of accepted) {
    it(`takes ${text}`, () => {
      assert.deepEqual(parseTcti(text), expected);
    });
  }

  for (const text of [
    '',
    'usb:1',
    'swtpm:port=0',
    'swtpm:port=65536',
    'swtpm:port=x',
    'swtpm:host=a,host=b',
    'mssim:port=65535',
    'mssim:path=/run/sim',
    'tbs:1',
  ]) {
    it(`refuses "${text}"`, () => {
      assert.throws(() => parseTcti(text), { code: 'usage.invalid' });
    });
  }

  it('refuses a path together with a port, and an empty command', () => {
    assert.throws(() => parseTcti('swtpm:path=/a,port=1'), { code: 'usage.invalid' });
    assert.throws(() => parseTcti('cmd: '), { code: 'usage.invalid' });
  });

  it('says that the access broker is not supported', () => {
    assert.throws(() => parseTcti('tabrmd:bus_type=session'), { code: 'usage.unsupported' });
  });

  it('throws nothing but IotdmError', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => `swtpm:${text}`),
          fc.string().map((text) => `mssim:${text}`),
        ),
        (text) => {
          try {
            parseTcti(text);
          } catch (error) {
            assert.ok(error instanceof IotdmError);
          }
        },
      ),
    );
  });
});
