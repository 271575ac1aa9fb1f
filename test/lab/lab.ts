/** Real parts for tests: a software TPM, tpm2-tools beside it, and the built iotdm in a child process. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
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

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const executable = fileURLToPath(new URL('../../dist/iotdm.js', import.meta.url));

/** Runs the built iotdm as a user would. */
export function iotdm(
  args: readonly string[],
  options: { env?: Record<string, string>; stdin?: string | Buffer; cwd?: string } = {},
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [executable, ...args], {
      env: { ...process.env, ...options.env },
      cwd: options.cwd ?? tmpdir(),
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.stdin ?? '');
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ code: code ?? -1, stdout, stderr });
    });
  });
}
