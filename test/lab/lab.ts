/** Real parts for tests: a software TPM, tpm2-tools beside it, and the built iotdm in a child process. */
import { execFileSync, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { RecoveryFiles } from '../../src/slot/recovery-files.ts';
import type { SlotAccess } from '../../src/slot/slots.ts';
import type { EmulatorOptions } from '../../src/emulator/emulator.ts';
import { openTransport } from '../../src/tpm/open.ts';
import { startSimulator, stopSimulator } from '../../src/tpm/simulator.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import type { TpmOptions } from '../../src/tpm/tss.ts';

/** A test, or a suite's `after`. */
export interface Lifetime {
  after(cleanUp: () => Promise<void> | void): void;
}

/** The lifetime of a whole test file, for parts that its tests share: what `before` starts, `after` ends. */
export function lifetimeOfFile(): Lifetime {
  const cleanUps: (() => Promise<void> | void)[] = [];
  after(async () => {
    for (const cleanUp of cleanUps.reverse()) await cleanUp();
  });
  return {
    after: (cleanUp) => {
      cleanUps.push(cleanUp);
    },
  };
}

const COMMAND_TIMEOUT_MS = 20_000;

/** A directory that goes with the test. */
export async function scratchDirectory(lifetime: Lifetime): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'iotdm-lab-'));
  lifetime.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export interface SoftwareTpm {
  readonly tcti: string;
  readonly dir: string;
  /** A connection of its own; swtpm serves one at a time, so it is closed before anything else uses the TPM. */
  use<T>(task: (tpm: Tpm) => Promise<T>, options?: TpmOptions): Promise<T>;
  transport(): Promise<TpmTransport>;
  /** What functions that change a slot want; records of changes under way are in a directory beside the TPM. */
  access(tpm: Tpm): SlotAccess;
  /** Runs one of tpm2-tools and returns what it prints. */
  tool(program: string, ...args: string[]): string;
  /** Handles of a kind, as tpm2_getcap prints them. */
  handles(kind: 'persistent' | 'transient' | 'nv-index' | 'loaded-session'): string;
}

/** A fresh swtpm; `blank` has no EK and no certificate. */
export async function softwareTpm(lifetime: Lifetime, { blank = false } = {}): Promise<SoftwareTpm> {
  const dir = await mkdtemp(join(tmpdir(), 'iotdm-tpm-'));
  const { tcti } = await startSimulator({ dir, blank });
  if (tcti === null) throw new Error('swtpm did not start');
  lifetime.after(async () => {
    await stopSimulator(dir);
    await rm(dir, { recursive: true, force: true });
  });
  const transport = (): Promise<TpmTransport> => openTransport(parseTcti(tcti), COMMAND_TIMEOUT_MS);
  const tool = (program: string, ...args: string[]): string =>
    execFileSync(program, args, {
      env: { ...process.env, TPM2TOOLS_TCTI: tcti },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  return {
    tcti,
    dir,
    transport,
    access: (tpm) => ({ tpm, recovery: new RecoveryFiles(join(dir, 'recovery')) }),
    tool,
    use: async (task, options) => {
      const tpm = new Tpm(await transport(), options);
      try {
        return await task(tpm);
      } finally {
        await tpm.close();
      }
    },
    handles: (kind) => tool('tpm2_getcap', `handles-${kind}`),
  };
}

export interface EmulatedService {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  /** `127.0.0.1:PORT` of the API at which devices register. */
  readonly deviceHost: string;
  readonly idScope: string;
  /** `127.0.0.1:PORT` of all hubs. */
  readonly hubHost: string;
  /** Name of the hub that devices are assigned to whose enrollments name none. */
  readonly hub: string;
  readonly dir: string;
  readonly connectionStringFile: string;
  readonly ca: string;
  /** The shared options that lead a command to it. */
  readonly options: readonly string[];
  /** `METHOD PATH` of every request answered so far. */
  readonly requests: readonly string[];
}

/** What makes it misbehave, and who watches its answers. */
export type EmulatorKnobs = Omit<EmulatorOptions, 'dir' | 'port'>;

/** A fresh provisioning service on loopback. It lives in this process: nothing may block while it is in use. */
export async function emulator(lifetime: Lifetime, knobs: EmulatorKnobs = {}): Promise<EmulatedService> {
  const dir = await mkdtemp(join(tmpdir(), 'iotdm-dps-'));
  // Loaded on demand: most tests need no service, and its certificates come with a large library.
  const { startEmulator } = await import('../../src/emulator/emulator.ts');
  const requests: string[] = [];
  const running = await startEmulator({
    ...knobs,
    dir,
    onRequest: (answered) => {
      requests.push(`${answered.method} ${answered.path}`);
      knobs.onRequest?.(answered);
    },
  });
  lifetime.after(async () => {
    await running.close();
    await rm(dir, { recursive: true, force: true });
  });
  const { host, deviceHost, idScope, hubHost, hub, connectionStringFile, ca } = running.info;
  const options = ['--dps-connection-string-file', connectionStringFile, '--ca', ca];
  return { host, deviceHost, idScope, hubHost, hub, dir, connectionStringFile, ca, options, requests };
}

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** All of standard input; null leaves it open. */
  readonly stdin?: string | Buffer | null;
  readonly cwd?: string;
  /** Arguments for Node.js itself. */
  readonly nodeArgs?: readonly string[];
}

export interface RunningIotdm {
  readonly pid: number;
  readonly stdin: Writable;
  /** Settles when it has ended; its code is -1 when a signal ended it. */
  readonly outcome: Promise<Outcome>;
  /** Resolves once its standard error holds the text. */
  says(text: string): Promise<void>;
  /** The same for a text that it says so many times. */
  saysTimes(text: string, times: number): Promise<void>;
  kill(signal: NodeJS.Signals): void;
}

export const executable = fileURLToPath(new URL('../../dist/iotdm.js', import.meta.url));

/** A command that has not ended by then hangs, also on a machine that is busy with other things. */
export const HANG_MS = 120_000;

/** Of this test file: another one's emulator may come to have the port of one of this file's. */
const stateHome = join(process.env['XDG_STATE_HOME'] ?? tmpdir(), String(process.pid));

/** Runs the built iotdm as a user would. */
export function iotdm(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return startIotdm(args, options).outcome;
}

/** The same for a test that deals with it while it runs. */
export function startIotdm(args: readonly string[], options: RunOptions = {}): RunningIotdm {
  const child = spawn(process.execPath, [...(options.nodeArgs ?? []), executable, ...args], {
    env: { ...process.env, XDG_STATE_HOME: stateHome, ...options.env },
    cwd: options.cwd ?? tmpdir(),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  const heard = new EventEmitter();
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    heard.emit('more');
  });
  child.stdin.on('error', () => undefined);
  if (options.stdin !== null) child.stdin.end(options.stdin ?? '');
  const outcome = new Promise<Outcome>((resolve, reject) => {
    const hanging = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`iotdm ${args.join(' ')} hangs; it said: ${stderr}`));
    }, HANG_MS);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(hanging);
      heard.emit('more');
      resolve({ code: code ?? -1, stdout, stderr });
    });
  });
  const saysTimes = async (text: string, times: number): Promise<void> => {
    while (stderr.split(text).length <= times) {
      if (child.exitCode !== null) throw new Error(`iotdm has ended without saying "${text}": ${stderr}`);
      await once(heard, 'more');
    }
  };
  return {
    pid: child.pid ?? 0,
    stdin: child.stdin,
    outcome,
    says: (text) => saysTimes(text, 1),
    saysTimes,
    kill: (signal) => child.kill(signal),
  };
}
