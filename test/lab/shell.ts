/**
 * `npm run lab`: a shell in which a software TPM and the emulator run and iotdm's environment is set, to try a thing by
 * hand as a technician would. What it made goes when it is left.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { installCommand } from './command.ts';

const dir = mkdtempSync(join(tmpdir(), 'iotdm-shell-'));
const bin = installCommand(dir);
const iotdm = (...args: string[]): string =>
  execFileSync(join(bin, 'iotdm'), args, { cwd: dir, encoding: 'utf8' });

// The shell handles Ctrl-C itself; the lab must live to clean up after it.
process.on('SIGINT', () => undefined);
try {
  const tpm = JSON.parse(iotdm('simulator', 'start', '--json')) as { tcti: string };
  const dps = JSON.parse(iotdm('emulator', 'start', '--json')) as {
    connectionStringFile: string;
    ca: string;
    deviceHost: string;
    idScope: string;
    hubHost: string;
  };
  const { connectionStringFile: dpsConnectionStringFile, ca, idScope, deviceHost, hubHost } = dps;
  const settings = {
    tpm: tpm.tcti,
    dpsConnectionStringFile,
    ca,
    idScope,
    deviceHost,
    hubHost,
    manifest: 'shift.ndjson',
    stateDir: 'state',
  };
  console.log(`A software TPM and a DPS emulator run until you leave this shell (exit, or Ctrl-D).

  iotdm ek read
  iotdm provision --serial SN-0001
  iotdm slot list --all

tpm2-tools reach the same TPM. The settings are in ${join(dir, 'iotdm.config.json')}.
`);
  writeFileSync(join(dir, 'iotdm.config.json'), `${JSON.stringify(settings, null, 2)}\n`);
  spawnSync(process.env['SHELL'] ?? '/bin/sh', [], {
    cwd: dir,
    stdio: 'inherit',
    env: {
      ...process.env,
      PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`,
      TPM2TOOLS_TCTI: tpm.tcti,
      IOTDM_TPM: tpm.tcti,
      IOTDM_STATE_DIR: join(dir, 'state'),
      IOTDM_DEVICE_HOST: dps.deviceHost,
      IOTDM_ID_SCOPE: dps.idScope,
    },
  });
} finally {
  iotdm('simulator', 'stop', '--wipe');
  iotdm('emulator', 'stop', '--wipe');
  rmSync(dir, { recursive: true, force: true });
}
