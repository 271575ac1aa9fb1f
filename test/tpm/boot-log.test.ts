import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { bootLogSize } from '../../src/tpm/boot-log.ts';

/** A machine with one log, in pieces; whatever else is asked for is not there. */
function machine(path: string, pieces: readonly number[]): (file: string) => AsyncIterable<Buffer> {
  return async function* (file) {
    await Promise.resolve();
    if (file !== path) throw Object.assign(new Error('no such file'), { code: 'ENOENT' });
    for (const length of pieces) yield Buffer.alloc(length);
  };
}

const log = '/sys/kernel/security/tpm1/binary_bios_measurements';

describe('the size of the boot log', () => {
  it('is counted, as the kernel says 0 of it', async () => {
    assert.equal(await bootLogSize('/dev/tpmrm1', machine(log, [4096, 77])), 4173);
    assert.equal(await bootLogSize('/dev/tpm1', machine(log, [])), 0);
  });

  it('is 0 where the log is missing or may not be read, and for a TPM that is not the machine’s', async () => {
    assert.equal(await bootLogSize('/dev/tpmrm0', machine(log, [1])), 0);
    for (const name of ['127.0.0.1:2321', '/dev/tpmrm', '/home/x/dev/tpm1', '/dev/tpm1/../tpm0']) {
      assert.equal(await bootLogSize(name, machine(log, [1])), 0, name);
    }
    const forbidden = (): AsyncIterable<Buffer> => {
      throw Object.assign(new Error('permission denied'), { code: 'EACCES' });
    };
    assert.equal(await bootLogSize('/dev/tpmrm0', forbidden), 0);
  });

  it('is 0 for a file without an end', async () => {
    const endless = machine(log, Array<number>(70).fill(1024 * 1024));
    assert.equal(await bootLogSize('/dev/tpmrm1', endless), 0);
  });

  it('does not hide a bug', async () => {
    const broken = (): AsyncIterable<Buffer> => {
      throw new TypeError('a bug');
    };
    await assert.rejects(bootLogSize('/dev/tpmrm1', broken), TypeError);
  });
});
