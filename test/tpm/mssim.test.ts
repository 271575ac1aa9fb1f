import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { openTransport } from '../../src/tpm/open.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { mssimProxy } from '../fakes/mssim-proxy.ts';
import { iotdm, softwareTpm } from '../lab/lab.ts';

const run = promisify(execFile);

const portOf = (tcti: string): number => Number(/port=(\d+)/.exec(tcti)?.[1]);

describe("Microsoft's simulator protocol in front of a software TPM", () => {
  it('carries what tpm2-tools send, which proves the proxy, and then what iotdm sends', async (t) => {
    const swtpm = await softwareTpm(t);
    const proxy = await mssimProxy(t, portOf(swtpm.tcti));
    const random = await run('tpm2_getrandom', ['-T', proxy.tcti, '--hex', '8']);
    assert.match(random.stdout, /^[0-9a-f]{16}\s*$/);

    proxy.received.length = 0;
    proxy.commands.length = 0;
    const tpm = new Tpm(await openTransport(parseTcti(proxy.tcti), 20_000));
    const ek = await tpm.readEndorsementKey();
    await tpm.close();
    // On, non-volatile memory on, one command, and goodbye on both ports; no TPM2_Startup (0x144).
    assert.deepEqual(
      proxy.received.filter((entry) => entry.startsWith('platform')),
      ['platform 1', 'platform 11', 'platform 20'],
    );
    assert.deepEqual(
      proxy.received.filter((entry) => entry.startsWith('command')),
      ['command 8', 'command 20'],
    );
    assert.deepEqual(
      proxy.commands.map((command) => command.readUInt32BE(6)),
      [0x173],
    );
    assert.match(
      swtpm.tool('tpm2_readpublic', '-c', '0x81010001'),
      new RegExp(`name: ${ek.name.toString('hex')}`),
    );
  });

  it('serves the built command, from --tpm', async (t) => {
    const swtpm = await softwareTpm(t);
    const proxy = await mssimProxy(t, portOf(swtpm.tcti));
    const { code, stdout, stderr } = await iotdm(['ek', 'read', '--json', '--tpm', proxy.tcti]);
    assert.equal(code, 0, stderr);
    assert.match((JSON.parse(stdout) as { registrationId: string }).registrationId, /^[a-z2-7]{52}$/);
  });

  it('leaves a TPM that was not started alone and says so', async (t) => {
    const swtpm = await softwareTpm(t);
    swtpm.tool('tpm2_shutdown', '-c');
    const proxy = await mssimProxy(t, portOf(swtpm.tcti));
    // swtpm's control channel can initialize the TPM again without starting it.
    await run('swtpm_ioctl', ['--tcp', `127.0.0.1:${portOf(swtpm.tcti) + 1}`, '-i']);
    const { code, stderr } = await iotdm(['ek', 'read', '--json', '--tpm', proxy.tcti]);
    assert.equal(code, 3, stderr);
    assert.match(stderr, /"tpm-unavailable.not-started"/);
    assert.deepEqual(
      proxy.commands.map((command) => command.readUInt32BE(6)),
      [0x173],
    );
  });
});
