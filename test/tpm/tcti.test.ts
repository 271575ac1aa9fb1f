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
    ['swtpm:host=[::1],port=2400', { kind: 'swtpm-tcp', host: '::1', port: 2400 }],
    ['swtpm:host=::1,port=2400', { kind: 'swtpm-tcp', host: '::1', port: 2400 }],
    ['mssim:host=[2001:db8::7],port=2400', { kind: 'mssim', host: '2001:db8::7', port: 2400 }],
    ['swtpm:host=[fe80::1%eth0]', { kind: 'swtpm-tcp', host: 'fe80::1%eth0', port: 2321 }],
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
    'swtpm:host=[::1',
    'swtpm:host=[localhost],port=2321',
    'mssim:host=[10.0.0.1],port=2321',
    'swtpm:host=[::1]:2321,port=1',
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

  const meant: [string, string][] = [
    ['/dev/tpm0', 'device:/dev/tpm0'],
    [' /dev/tpmrm1 ', 'device:/dev/tpmrm1'],
    ['tpm0', 'device:/dev/tpm0'],
    ['tpmrm0', 'device:/dev/tpmrm0'],
    ['TPMRM0', 'device:/dev/tpmrm0'],
    ['dev/tpm0', 'device:/dev/tpm0'],
    ['device:tpm0', 'device:/dev/tpm0'],
    ['device=/dev/tpm0', 'device:/dev/tpm0'],
    ['Device:/dev/tpm0', 'device:/dev/tpm0'],
    ['/dev/vtpmx', 'device:/dev/vtpmx'],
    ['/run/swtpm.sock', 'swtpm:path=/run/swtpm.sock'],
    ['unix:///run/swtpm.sock', 'swtpm:path=/run/swtpm.sock'],
    ['tcp:localhost:2321', 'swtpm:host=localhost,port=2321'],
    ['tcp://10.0.0.1:2321', 'swtpm:host=10.0.0.1,port=2321'],
    ['tcp:bench:2321', 'swtpm:host=bench,port=2321'],
    ['bench.plant.example:2321', 'swtpm:host=bench.plant.example,port=2321'],
    ['[::1]:2321', 'swtpm:host=[::1],port=2321'],
    ['swtpm:127.0.0.1:2321', 'swtpm:host=127.0.0.1,port=2321'],
    ['mssim:127.0.0.1:2321', 'mssim:host=127.0.0.1,port=2321'],
    ['swtpm:host=localhost:2321', 'swtpm:host=localhost,port=2321'],
    ['mssim:host=[::1]:2321', 'mssim:host=[::1],port=2321'],
    ['port=2321', 'swtpm:port=2321'],
    ['2321', 'swtpm:port=2321'],
    ['TBS', 'tbs'],
    ['ssh dut tpm2_send', 'cmd:ssh dut tpm2_send'],
    ['pcap:device:/dev/tpm0', 'device:/dev/tpm0'],
  ];
  for (const [text, notation] of meant) {
    it(`takes "${text}" for a mistaken ${notation}`, () => {
      assert.throws(
        () => parseTcti(text),
        (error: unknown) => {
          assert.ok(error instanceof IotdmError);
          assert.equal(error.code, 'usage.invalid');
          assert.equal(error.details?.['meant'], notation);
          assert.match(error.message, /does not name a TPM; did you mean /);
          assert.ok(error.message.includes(notation));
          return true;
        },
      );
      assert.doesNotThrow(() => parseTcti(notation));
    });
  }

  it('names the kernel where the broker was meant', () => {
    for (const text of ['abrmd', 'tabrmd', 'abrmd:bus_name=x', 'libtss2-tcti-tabrmd.so.0', 'tpm2-abrmd']) {
      assert.throws(() => parseTcti(text), {
        code: 'usage.unsupported',
        message: 'the TPM access broker (tabrmd) is not supported; did you mean device:/dev/tpmrm0?',
      });
    }
  });

  it('throws nothing but IotdmError', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => `swtpm:${text}`),
          fc.string().map((text) => `mssim:${text}`),
          fc.string().map((text) => `tcp:${text}:2321`),
          fc.string().map((text) => `swtpm:host=[${text}]`),
        ),
        (text) => {
          try {
            parseTcti(text);
          } catch (error) {
            assert.ok(error instanceof IotdmError);
            const suggested = error.details?.['meant'];
            if (typeof suggested === 'string') parseTcti(suggested);
          }
        },
      ),
    );
  });
});
