/**
 * Importing into the emulator, whole processes from their start to their end, beside Azure's own SDK on the same rows.
 * Each run has an emulator of its own, empty and in a process of its own.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeEnrollmentRows } from './inputs.ts';

const path = (name: string): string => fileURLToPath(new URL(`../${name}`, import.meta.url));
const executable = path('dist/iotdm.js');
const peer = path('bench/peers/azure-sdk.mjs');

const ROUNDS = 5;
/** Enough of them for a rate: a hundred thousand calls one after the other would take minutes. */
const LOOP_ROWS = 5_000;
/** What an import may send beyond one request for ten rows. */
const MORE_REQUESTS = 0.01;

interface Service {
  readonly connectionStringFile: string;
  readonly ca: string;
}

interface Contender {
  readonly name: string;
  readonly rows: number;
  readonly args: (service: Service) => readonly string[];
  /** What iotdm has to reach, in rows a second as a multiple of this one's. */
  readonly target?: number;
}

/** The lines to print. Throws when an import sends more requests than it should. */
export async function measureOnline(dir: string, rows: number, signal: AbortSignal): Promise<string[]> {
  const file = join(dir, 'enrollments.csv');
  await writeEnrollmentRows(file, rows);
  const sdk = (mode: string, count: number) => (service: Service) => [
    peer,
    mode,
    String(count),
    service.connectionStringFile,
    service.ca,
    file,
  ];
  const contenders: readonly Contender[] = [
    {
      name: 'iotdm enrollment import --rate unlimited',
      rows,
      args: ({ connectionStringFile, ca }) => [
        ...[executable, 'enrollment', 'import', file, '--rate', 'unlimited', '--restart', '--json'],
        ...['--dps-connection-string-file', connectionStringFile, '--ca', ca],
      ],
    },
    { name: 'runBulkEnrollmentOperation, in sequence', rows, args: sdk('bulk', rows), target: 1.5 },
    {
      name: 'createOrUpdateIndividualEnrollment, in sequence',
      rows: Math.min(rows, LOOP_ROWS),
      args: sdk('loop', Math.min(rows, LOOP_ROWS)),
      target: 8,
    },
  ];
  const rates = contenders.map((): number[] => []);
  let requests = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [index, contender] of contenders.entries()) {
      const { elapsedMs, stdout } = await withEmulator(dir, signal, (service) =>
        run(contender.args(service), dir, signal),
      );
      rates[index]?.push(contender.rows / (elapsedMs / 1000));
      if (index === 0) requests = (JSON.parse(stdout) as { requests: number }).requests;
    }
  }
  const most = Math.ceil((rows / 10) * (1 + MORE_REQUESTS));
  if (requests > most) throw new Error(`the import sent ${requests} requests, more than ${most}`);
  const [own = Number.NaN, ...others] = rates.map(median);
  const shown = (count: number): string => Math.round(count).toLocaleString('en');
  return [
    `\nImporting ${shown(rows)} rows into the emulator, in ${shown(requests)} requests; medians of ${ROUNDS} rounds`,
    `  ${(contenders[0]?.name ?? '').padEnd(48)} ${`${shown(own)} rows/s`.padStart(14)}`,
    ...contenders.slice(1).map(({ name, rows: count, target = 0 }, index) => {
      const rate = others[index] ?? Number.NaN;
      const times = own / rate;
      return (
        `  ${name.padEnd(48)} ${`${shown(rate)} rows/s`.padStart(14)}   iotdm is ${times.toFixed(2)} times as fast` +
        ` (${times >= target ? 'at least' : 'LESS THAN'} ${target})${count < rows ? `; of ${shown(count)} rows` : ''}`
      );
    }),
  ];
}

async function withEmulator<T>(
  parent: string,
  signal: AbortSignal,
  task: (service: Service) => Promise<T>,
): Promise<T> {
  const dir = await mkdtemp(join(parent, 'emulator-'));
  const emulator = (verb: string): readonly string[] => [
    executable,
    'emulator',
    verb,
    '--dir',
    dir,
    '--json',
  ];
  try {
    const { stdout } = await run(emulator('start'), parent, signal);
    try {
      return await task(JSON.parse(stdout) as Service);
    } finally {
      await run(emulator('stop'), parent);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function run(
  args: readonly string[],
  cwd: string,
  signal?: AbortSignal,
): Promise<{ readonly elapsedMs: number; readonly stdout: string }> {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const child = spawn(process.execPath, args, {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(signal === undefined ? {} : { signal }),
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve({ elapsedMs: performance.now() - startedAt, stdout });
      else reject(new Error(`${args.slice(0, 4).join(' ')} ended with ${code}: ${stderr}`));
    });
  });
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
