/**
 * The main job on a fresh software TPM and a fresh emulator, each step with the command a user would type. Everything
 * is under one temporary directory, and that goes at the end.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { installCommand } from './command.ts';

const dir = mkdtempSync(join(tmpdir(), 'iotdm-demo-'));
const environment: Record<string, string> = {
  ...(process.env as Record<string, string>),
  PATH: `${installCommand(dir)}${delimiter}${process.env['PATH'] ?? ''}`,
  FORCE_COLOR: '0',
};
for (const name of Object.keys(environment)) {
  if (/^(IOTDM_|TPM2TOOLS_)/.test(name)) Reflect.deleteProperty(environment, name);
}
const proved: string[] = [];
const color = process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === '';
const paint = (code: number, text: string): string => (color ? `\u001b[${code}m${text}\u001b[0m` : text);

function title(text: string): void {
  console.log(`\n${paint(1, text)}`);
}

/** Shows a command as it would be typed, runs it in a shell, shows what it prints and returns its stdout. */
function type(command: string): string {
  console.log(paint(36, `$ ${command}`));
  const run = spawnSync('sh', ['-c', command], { cwd: dir, env: environment, encoding: 'utf8' });
  process.stdout.write(abridged(run.stdout + run.stderr));
  if (run.status !== 0) throw new Error(`"${command}" ended with status ${run.status ?? 'unknown'}`);
  return run.stdout;
}

/** Keys of hundreds of characters are cut for the reader. */
function abridged(text: string): string {
  return text.replace(/[A-Za-z0-9+/]{90,}={0,2}/g, (key) => `${key.slice(0, 24)}…(${key.length} characters)`);
}

function quietly(program: string, ...args: string[]): string {
  return execFileSync(program, args, {
    cwd: dir,
    env: environment,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** A claim of the closing list is made only when it was checked here. */
function prove(claim: string, holds: boolean): void {
  if (!holds) throw new Error(`not proved: ${claim}`);
  proved.push(claim);
}

function json(text: string): Record<string, unknown> {
  return JSON.parse(text) as Record<string, unknown>;
}

function demo(): void {
  console.log('A rehearsal on a software TPM and a provisioning service on loopback, never for production.');

  title('1. A software TPM and a provisioning service');
  type('iotdm simulator start --dir tpm');
  type('iotdm emulator start --dir dps');
  const tpm = json(quietly('iotdm', 'simulator', 'status', '--dir', 'tpm', '--json'))['tcti'] as string;
  Object.assign(environment, {
    IOTDM_TPM: tpm,
    TPM2TOOLS_TCTI: tpm,
    IOTDM_CA: join(dir, 'dps', 'ca.pem'),
  });
  console.log(paint(36, `$ export IOTDM_TPM=${tpm} IOTDM_CA=dps/ca.pem`));
  const credentials = '--dps-connection-string-file dps/service-connection-string';

  title('2. Read the endorsement key');
  type('iotdm ek read');
  const key = json(quietly('iotdm', 'ek', 'read', '--json'));
  const id = key['registrationId'] as string;
  quietly('tpm2_readpublic', '-c', '0x81010001', '-f', 'tss', '-o', 'ek.tpm2b');
  prove(
    'the endorsement key that iotdm reads is, byte for byte, what tpm2_readpublic reads',
    readFileSync(join(dir, 'ek.tpm2b'), 'base64') === key['endorsementKey'],
  );

  title('3. Harvest the device into a manifest, at the end of the line');
  type('iotdm harvest --manifest shift.ndjson --serial SN-0001 --device-id press-17 --station EOL-3');
  const again = json(
    quietly('iotdm', 'harvest', '--manifest', 'shift.ndjson', '--serial', 'SN-0001', '--json'),
  );
  prove('a device that is harvested twice stands in the manifest once', again['repeated'] === true);

  title('4. Enroll it online');
  type(`iotdm enrollment import shift.ndjson ${credentials}`);
  type(`iotdm enrollment list ${credentials}`);
  const stored = json(quietly('sh', '-c', `iotdm enrollment show ${id} ${credentials} --json`)) as {
    deviceId?: string;
    attestation?: { tpm?: { endorsementKey?: string } };
  };
  prove(
    'the service holds this endorsement key under its registration id, for device press-17',
    stored.attestation?.tpm?.endorsementKey === key['endorsementKey'] && stored.deviceId === 'press-17',
  );

  title('5. Or offline: a file for whoever may reach the service');
  type('iotdm enrollment export shift.ndjson --format dps-json --out enrollments.json');
  const exported = JSON.parse(readFileSync(join(dir, 'enrollments.json'), 'utf8')) as {
    registrationId: string;
  }[];
  prove(
    'the exported file enrolls the same device',
    exported.length === 1 && exported[0]?.registrationId === id,
  );

  title('6. Write its identity into slot 3');
  const secret = randomBytes(32);
  const connectionString = `HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessKey=${secret.toString('base64')}`;
  writeFileSync(join(dir, 'device.txt'), connectionString, { mode: 0o600 });
  type('iotdm slot write 3 --connection-string-file device.txt');
  type('iotdm slot list');
  writeFileSync(join(dir, 'challenge'), 'a challenge');
  quietly('tpm2_hmac', '-c', '0x81000103', '-o', 'answer', 'challenge');
  prove(
    'the TPM signs with the key from the connection string, as tpm2_hmac and Node.js agree',
    readFileSync(join(dir, 'answer'), 'hex') ===
      createHmac('sha256', secret).update('a challenge').digest('hex'),
  );
  prove(
    'the name stands where Limpet and Azure’s SDKs look for it',
    quietly('tpm2_nvread', '0x1400103') === 'plant.azure-devices.net/press-17',
  );

  title('7. Issue a token, signed inside the TPM');
  const token = type('iotdm slot token 3');
  const [, resource = '', signature = '', expiry = ''] = /sr=([^&]+)&sig=([^&]+)&se=(\d+)/.exec(token) ?? [];
  prove(
    'the token verifies against the key of the device',
    decodeURIComponent(signature) ===
      createHmac('sha256', secret).update(`${resource}\n${expiry}`).digest('base64'),
  );
  prove('nothing was left loaded in the TPM', quietly('tpm2_getcap', 'handles-transient') === '');
}

// Ctrl-C ends the command under way, and with it the demo; what it started is still cleaned up.
process.on('SIGINT', () => undefined);
let failure: unknown;
try {
  demo();
} catch (error) {
  failure = error;
} finally {
  title('8. Clean up');
  for (const command of ['iotdm simulator stop --dir tpm --wipe', 'iotdm emulator stop --dir dps --wipe']) {
    try {
      type(command);
    } catch (error) {
      failure ??= error;
    }
  }
  rmSync(dir, { recursive: true, force: true });
}
if (failure === undefined) {
  title('Proved in this run:');
  for (const claim of proved) console.log(`  ${paint(32, '✔')} ${claim}`);
} else {
  console.error(`\ndemo: error: ${failure instanceof Error ? failure.message : 'unknown'}`);
  process.exitCode = 1;
}
