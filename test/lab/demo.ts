/**
 * The whole line on a fresh software TPM and a fresh emulator, each step with the command a user would type. Everything
 * is under one temporary directory, and that goes at the end.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
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
environment.IOTDM_STATE_DIR = join(dir, 'state');
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

/** As a device asks its hub for itself, with nothing of iotdm between: the status of the answer. */
function askHub(hubHost: string, path: string, token: string): Promise<number> {
  const [hostname = '', port = ''] = hubHost.split(':');
  return new Promise((resolve, reject) => {
    const ca = readFileSync(join(dir, 'dps', 'ca.pem'));
    const options = { hostname, port, path, ca, headers: { Authorization: token } };
    get({ ...options, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    }).on('error', reject);
  });
}

async function demo(): Promise<void> {
  console.log('A rehearsal on a software TPM and a provisioning service on loopback, never for production.');

  title('1. A software TPM and a provisioning service');
  type('iotdm simulator start --dir tpm');
  type('iotdm emulator start --dir dps');
  const tpm = json(quietly('iotdm', 'simulator', 'status', '--dir', 'tpm', '--json'))['tcti'] as string;
  const service = json(quietly('iotdm', 'emulator', 'status', '--dir', 'dps', '--json'));
  environment['TPM2TOOLS_TCTI'] = tpm;

  title('2. What is the same for every device of the line');
  const settings = {
    tpm,
    dpsConnectionStringFile: 'dps/service-connection-string',
    idScope: service['idScope'],
    deviceHost: service['deviceHost'],
    hubHost: service['hubHost'],
    ca: 'dps/ca.pem',
    manifest: 'shift.ndjson',
    station: 'EOL-3',
    verify: 'require',
    ekRoots: 'tpm/ca',
    modules: { AppB: 2 },
    stateDir: 'state',
  };
  writeFileSync(join(dir, 'iotdm.config.json'), `${JSON.stringify(settings, null, 2)}\n`);
  type('cat iotdm.config.json');

  title('3. One device, the whole line');
  type('iotdm provision --serial SN-0001 --device-id press-17');
  const again = json(
    quietly('iotdm', 'provision', '--serial', 'SN-0001', '--device-id', 'press-17', '--json'),
  );
  const { registrationId: id, assignedHub: hub } = again as { registrationId: string; assignedHub: string };
  const changed = (again['steps'] as { step: string; status: string }[]).filter(
    ({ step, status }) => status !== 'unchanged' && step !== 'prove',
  );
  prove(
    'the same command again changes nothing and passes',
    again['passed'] === true && changed.length === 0,
  );
  prove('the EK was verified: its certificate leads to a trusted root', again['ekVerified'] === true);

  title('4. What the TPM holds now');
  type('iotdm slot list');
  prove(
    'the names stand where Limpet and Azure’s SDKs look for them',
    quietly('tpm2_nvread', '0x1400100') === `${hub}/press-17` &&
      quietly('tpm2_nvread', '0x1400102') === `${hub}/press-17/AppB`,
  );
  quietly('tpm2_readpublic', '-c', '0x81010001', '-f', 'tss', '-o', 'ek.tpm2b');
  const stored = json(quietly('iotdm', 'enrollment', 'show', id, '--json')) as {
    deviceId?: string;
    attestation?: { tpm?: { endorsementKey?: string } };
  };
  prove(
    'the service has enrolled, byte for byte, the endorsement key that tpm2_readpublic reads',
    stored.attestation?.tpm?.endorsementKey === readFileSync(join(dir, 'ek.tpm2b'), 'base64') &&
      stored.deviceId === 'press-17',
  );

  title('5. A token of the module in slot 2, signed inside the TPM');
  const token = type('iotdm slot token 2');
  const signature = /SharedAccessSignature=(SharedAccessSignature .*)/.exec(token)?.[1] ?? '';
  const twin = '/twins/press-17/modules/AppB?api-version=2021-04-12';
  const hubHost = service['hubHost'] as string;
  prove('the hub takes the token of the module', (await askHub(hubHost, twin, signature)) === 200);
  const forged = signature.replace(/sig=./, (start) => `sig=${start.endsWith('A') ? 'B' : 'A'}`);
  prove('and does not take it with one character changed', (await askHub(hubHost, twin, forged)) === 401);

  title('6. Or in two parts: a line without the service, and whoever may reach it');
  type('iotdm enrollment export shift.ndjson --format dps-json --out enrollments.json');
  type('iotdm enrollment import shift.ndjson');
  const exported = JSON.parse(readFileSync(join(dir, 'enrollments.json'), 'utf8')) as {
    registrationId: string;
  }[];
  prove(
    'the exported file enrolls the same device',
    exported.length === 1 && exported[0]?.registrationId === id,
  );
  prove(
    'nothing was left loaded in the TPM',
    quietly('tpm2_getcap', 'handles-transient') === '' &&
      quietly('tpm2_getcap', 'handles-loaded-session') === '',
  );
}

// Ctrl-C ends the command under way, and with it the demo; what it started is still cleaned up.
process.on('SIGINT', () => undefined);
let failure: unknown;
try {
  await demo();
} catch (error) {
  failure = error;
} finally {
  title('7. Clean up');
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
