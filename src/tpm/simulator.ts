/**
 * A software TPM (swtpm) for rehearsal, kept in a state directory: started again on the same directory it is the same
 * TPM. Never for production: its secrets are plain files.
 */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { because, IotdmError, systemErrorCode } from '../errors.ts';

export interface SimulatorStatus {
  readonly running: boolean;
  /** The value for `--tpm`, or null while it does not run. */
  readonly tcti: string | null;
  readonly dir: string;
  readonly pid: number | null;
}

export interface SimulatorOptions {
  /** State directory, made with mode 0700. */
  readonly dir: string;
  /** A chip with nothing in it: no EK at its handle and no EK certificate. Only on first start. */
  readonly blank?: boolean;
  /** TCP port of the TPM; its control channel takes the next one. Without it the recorded or any free one. */
  readonly port?: number;
}

const runFile = promisify(execFile);

const READY_TIMEOUT_MS = 5000;
const STOP_TIMEOUT_MS = 5000;
const POLL_MS = 20;

/** Where distributions install the tool that signs EK certificates. */
const LOCAL_CA_TOOLS = [
  '/usr/bin/swtpm_localca',
  '/usr/local/bin/swtpm_localca',
  '/usr/share/swtpm/swtpm-localca',
  '/opt/homebrew/bin/swtpm_localca',
];

export interface SimulatorStarted extends SimulatorStatus {
  /** The TPM was made now; otherwise it was there before. */
  readonly manufactured: boolean;
  /** It was to get an EK and a certificate for it, and swtpm_setup, which makes them, is not installed. */
  readonly withoutCertificate: boolean;
}

/**
 * Makes the TPM if the directory holds none, starts it in the background and returns once it answers.
 * @throws IotdmError `tpm-unavailable.software-missing`, `tpm-unavailable.connection`
 */
export async function startSimulator(options: SimulatorOptions): Promise<SimulatorStarted> {
  const dir = resolve(options.dir);
  const before = await simulatorStatus(dir);
  if (before.running) return { ...before, manufactured: false, withoutCertificate: false };
  await mkdir(join(dir, 'state'), { recursive: true, mode: 0o700 });
  const manufactured = !existsSync(join(dir, 'state', 'tpm2-00.permall'));
  const withoutCertificate = manufactured && options.blank !== true && !(await manufacture(dir));
  const port = await choosePort(options.port ?? (await recordedPort(dir)), options.port !== undefined);
  await writeFile(join(dir, 'simulator.json'), `${JSON.stringify({ port })}\n`, { mode: 0o600 });
  await run('swtpm', [
    'socket',
    '--tpm2',
    ...['--tpmstate', `dir=${join(dir, 'state')},mode=0600`],
    ...['--server', `type=tcp,port=${port},bindaddr=127.0.0.1`],
    ...['--ctrl', `type=tcp,port=${port + 1},bindaddr=127.0.0.1`],
    ...['--flags', 'not-need-init,startup-clear'],
    ...['--pid', `file=${join(dir, 'swtpm.pid')}`],
    ...['--log', `file=${join(dir, 'swtpm.log')},level=1`],
    '--daemon',
  ]);
  await untilListening(port);
  return { ...(await simulatorStatus(dir)), manufactured, withoutCertificate };
}

export async function simulatorStatus(directory: string): Promise<SimulatorStatus> {
  const dir = resolve(directory);
  const pid = await recordedPid(dir);
  const port = await recordedPort(dir);
  if (pid === undefined || port === undefined || !isOurs(pid, dir)) {
    return { running: false, tcti: null, dir, pid: null };
  }
  return { running: true, tcti: `swtpm:host=127.0.0.1,port=${port}`, dir, pid };
}

/**
 * Ends the simulator and waits until it is gone; does nothing where none runs.
 * @param wipe also delete the state directory's TPM: every key in it is lost
 * @returns whether one was running
 */
export async function stopSimulator(directory: string, { wipe = false } = {}): Promise<boolean> {
  const dir = resolve(directory);
  const { running, pid } = await simulatorStatus(dir);
  if (pid !== null) {
    process.kill(pid, 'SIGTERM');
    await until(() => !isOurs(pid, dir), STOP_TIMEOUT_MS, `swtpm (process ${pid}) does not end`);
  }
  if (wipe) {
    for (const entry of ['state', 'ca', 'simulator.json', 'swtpm.pid', 'swtpm.log']) {
      await rm(join(dir, entry), { recursive: true, force: true });
    }
  }
  return running;
}

/**
 * Gives the TPM an EK with a certificate of a local CA, as a chip has from its manufacturer.
 * @returns false where the tools for that are not installed
 */
async function manufacture(dir: string): Promise<boolean> {
  const tool = LOCAL_CA_TOOLS.find((path) => existsSync(path));
  if (tool === undefined) return false;
  const ca = join(dir, 'ca');
  await mkdir(ca, { recursive: true, mode: 0o700 });
  const settings = {
    'localca.conf': [
      `statedir = ${ca}`,
      `signingkey = ${join(ca, 'signkey.pem')}`,
      `issuercert = ${join(ca, 'issuercert.pem')}`,
      `certserial = ${join(ca, 'certserial')}`,
    ],
    'localca.options': [
      '--platform-manufacturer rehearsal',
      '--platform-version 1.0',
      '--platform-model software-TPM',
    ],
    'setup.conf': [
      `create_certs_tool = ${tool}`,
      `create_certs_tool_config = ${join(ca, 'localca.conf')}`,
      `create_certs_tool_options = ${join(ca, 'localca.options')}`,
    ],
  };
  for (const [name, lines] of Object.entries(settings)) {
    await writeFile(join(ca, name), `${lines.join('\n')}\n`, { mode: 0o600 });
  }
  try {
    await run('swtpm_setup', [
      '--tpm2',
      ...['--tpmstate', join(dir, 'state')],
      ...['--config', join(ca, 'setup.conf')],
      ...['--logfile', join(dir, 'swtpm.log')],
      '--create-ek-cert',
      '--overwrite',
    ]);
    return true;
  } catch (error) {
    if (error instanceof IotdmError && error.code === 'tpm-unavailable.software-missing') return false;
    // A half-made TPM would look like a finished one to the next start.
    await rm(join(dir, 'state'), { recursive: true, force: true });
    throw error;
  }
}

async function run(program: string, args: readonly string[]): Promise<void> {
  try {
    await runFile(program, args);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') {
      throw new IotdmError('tpm-unavailable.software-missing', `${program} is not installed`, {
        cause: error,
      });
    }
    const output =
      error instanceof Error && 'stderr' in error ? String(error.stderr).trim().split('\n').at(-1) : '';
    throw new IotdmError('tpm-unavailable.connection', `${program} failed: ${output ?? ''}`, {
      cause: error,
      details: because('simulator-failed'),
    });
  }
}

/** The port asked for, if it and the next one are free; without a wish any free pair. */
async function choosePort(wanted: number | undefined, insist: boolean): Promise<number> {
  if (wanted !== undefined) {
    if ((await isFree(wanted)) && (await isFree(wanted + 1))) return wanted;
    if (insist) {
      throw new IotdmError(
        'usage.port-unavailable',
        `port ${wanted} or ${wanted + 1} on 127.0.0.1 is in use`,
      );
    }
  }
  for (;;) {
    const port = await freePort();
    if (port < 65535 && (await isFree(port + 1))) return port;
  }
}

function freePort(): Promise<number> {
  return new Promise((done, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => {
        done(typeof address === 'object' && address !== null ? address.port : 0);
      });
    });
  });
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once('error', () => {
      done(false);
    });
    server.listen(port, '127.0.0.1', () => {
      server.close(() => {
        done(true);
      });
    });
  });
}

async function untilListening(port: number): Promise<void> {
  await until(() => accepts(port), READY_TIMEOUT_MS, `swtpm does not answer on port ${port}`);
}

function accepts(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('error', () => {
      done(false);
    });
    socket.once('connect', () => {
      socket.once('close', () => {
        done(true);
      });
      socket.end();
      socket.resume();
    });
  });
}

async function until(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  failure: string,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline)
      throw new IotdmError('tpm-unavailable.connection', failure, { details: because('simulator-failed') });
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

async function recordedPid(dir: string): Promise<number | undefined> {
  const pid = Number((await readIfThere(join(dir, 'swtpm.pid')))?.trim());
  return Number.isInteger(pid) && pid > 1 ? pid : undefined;
}

async function recordedPort(dir: string): Promise<number | undefined> {
  const text = await readIfThere(join(dir, 'simulator.json'));
  if (text === undefined) return undefined;
  try {
    const { port } = JSON.parse(text) as { port?: unknown };
    return typeof port === 'number' ? port : undefined;
  } catch {
    return undefined;
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** A process number may have been given to somebody else since: only a swtpm with our state is ours. */
function isOurs(pid: number, dir: string): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  try {
    const [program, ...args] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    return program?.endsWith('swtpm') === true && args.includes(`dir=${join(dir, 'state')},mode=0600`);
  } catch {
    // No /proc outside Linux: the process is there, and its number stands in our own state directory.
    return process.platform !== 'linux';
  }
}
