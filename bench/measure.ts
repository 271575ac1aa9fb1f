/** Times whole processes from their start to their end, as a script that calls them sees it. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface Program {
  readonly name: string;
  /** `node` for the Node.js that runs this. */
  readonly command: string;
  readonly args: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

export interface Measurement {
  readonly name: string;
  /** Median, in milliseconds. */
  readonly elapsedMs: number;
  /** Median, in bytes; null for programs other than Node.js. */
  readonly peakBytes: number | null;
}

export interface Rounds {
  /** Not counted: they fill the caches of disk and kernel. */
  readonly warmUp: number;
  readonly counted: number;
}

const MEMORY_RUNS = 3;

/** A program that takes longer hangs. */
const TIME_LIMIT_MS = 120_000;

const reportUsage = fileURLToPath(new URL('report-usage.mjs', import.meta.url));

/** Runs the programs in turn, so that a change of the machine's speed meets all of them. */
export async function measure(
  programs: readonly Program[],
  { warmUp, counted }: Rounds,
  signal: AbortSignal,
): Promise<Measurement[]> {
  const times = programs.map((): number[] => []);
  for (let round = 0; round < warmUp + counted; round += 1) {
    for (const [index, program] of programs.entries()) {
      const { elapsedMs } = await runOnce(program, signal);
      if (round >= warmUp) times[index]?.push(elapsedMs);
    }
  }
  const measurements: Measurement[] = [];
  for (const [index, program] of programs.entries()) {
    measurements.push({
      name: program.name,
      elapsedMs: median(times[index] ?? []),
      peakBytes: await peakMemory(program, signal),
    });
  }
  return measurements;
}

/** Of runs of their own, as reporting it costs start-up time. */
async function peakMemory(program: Program, signal: AbortSignal): Promise<number | null> {
  if (program.command !== 'node') return null;
  const peaks: number[] = [];
  for (let run = 0; run < MEMORY_RUNS; run += 1) {
    const { usage } = await runOnce({ ...program, args: ['--import', reportUsage, ...program.args] }, signal);
    peaks.push(Number(usage) * 1024);
  }
  return median(peaks);
}

function runOnce(
  { name, command, args, environment }: Program,
  signal: AbortSignal,
): Promise<{ elapsedMs: number; usage: string }> {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const child = spawn(command === 'node' ? process.execPath : command, args, {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      timeout: TIME_LIMIT_MS,
      killSignal: 'SIGKILL',
      signal,
    });
    let errors = '';
    let usage = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (errors += text));
    child.stdio[3]?.on('data', (text: Buffer) => (usage += text.toString()));
    child.on('error', reject);
    child.on('close', (code) => {
      const elapsedMs = performance.now() - startedAt;
      if (code === null) reject(new Error(`${name} was ended after ${(elapsedMs / 1000).toFixed(0)} s`));
      else if (code !== 0) reject(new Error(`${name} ended with ${code}: ${errors}`));
      else resolve({ elapsedMs, usage });
    });
  });
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
