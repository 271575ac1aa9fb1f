/**
 * `npm run bench`: what iotdm costs, beside named programs that do the same or the least of it, in the same run on the
 * same machine. Whole processes, medians of several rounds. `npm run bench -- start-up` runs one part.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { arch, cpus, platform, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startSimulator, stopSimulator } from '../src/tpm/simulator.ts';
import { writeCertificateRows, writeKeyRows, writeVerifiableRows } from './inputs.ts';
import { measureOnline } from './online.ts';
import { measure, type Measurement, type Program, type Rounds } from './measure.ts';

const path = (name: string): string => fileURLToPath(new URL(`../${name}`, import.meta.url));
const executable = path('dist/iotdm.js');
const node = (name: string, ...args: string[]): Program => ({ name, command: 'node', args });

const short: Rounds = { warmUp: 2, counted: 15 };
const long: Rounds = { warmUp: 1, counted: 5 };
const longest: Rounds = { warmUp: 1, counted: 3 };

const KEY_ROWS = 1_000_000;
/** What memory is compared with, to tell how it grows with each row. */
const FEW_KEY_ROWS = 10_000;
const CERTIFICATE_ROWS = 10_000;
const VERIFIED_ROWS = 100_000;
const ONLINE_ROWS = 100_000;

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    interrupt.abort();
  });
}

/** Each part measures iotdm first and its peers after it. */
const parts: Readonly<Record<string, (dir: string) => Promise<void>>> = {
  'start-up': async () => {
    const programs = [
      node('iotdm --version', executable, '--version'),
      node('node -e 0', '-e', '0'),
      node('the same, not bundled (tsx)', '--import', 'tsx', path('bin/iotdm.ts'), '--version'),
    ];
    show('Start-up', await measure(programs, short, interrupt.signal));
  },

  'ek-read': async (dir) => {
    const { tcti } = await startSimulator({ dir: join(dir, 'tpm') });
    if (tcti === null) throw new Error('swtpm did not start');
    try {
      const environment = { TPM2TOOLS_TCTI: tcti, IOTDM_TPM: tcti };
      const programs = [
        { ...node('iotdm ek read', executable, 'ek', 'read'), environment },
        {
          name: 'tpm2_readpublic -c 0x81010001',
          command: 'tpm2_readpublic',
          args: ['-c', '0x81010001'],
          environment,
        },
      ];
      show('Reading the endorsement key of a software TPM', await measure(programs, short, interrupt.signal));
    } finally {
      await stopSimulator(join(dir, 'tpm'));
    }
  },

  'import-check': async (dir) => {
    const keys = join(dir, 'keys.csv');
    const few = join(dir, 'few-keys.csv');
    await writeKeyRows(keys, KEY_ROWS);
    await writeKeyRows(few, FEW_KEY_ROWS);
    const peakOfMany = await showImport('Checking an import: endorsement keys', keys, KEY_ROWS);
    const peakOfFew = await showImport('The same', few, FEW_KEY_ROWS);
    const growth = (peakOfMany - peakOfFew) / (KEY_ROWS - FEW_KEY_ROWS);
    console.log(`  from there on, iotdm's peak memory grows by ${growth.toFixed(0)} bytes a row`);
    await Promise.all([rm(keys), rm(few)]);
  },

  'import-certificates': async (dir) => {
    const certificates = join(dir, 'certificates.csv');
    await writeCertificateRows(certificates, CERTIFICATE_ROWS);
    await showImport("Checking an import: a vendor's EK certificates", certificates, CERTIFICATE_ROWS);
  },

  'import-verified': async (dir) => {
    const list = join(dir, 'delivery.csv');
    const roots = join(dir, 'vendors');
    await mkdir(roots);
    await writeVerifiableRows(list, roots, VERIFIED_ROWS);
    const check = [executable, 'enrollment', 'import', list, '--dry-run'];
    const programs = [
      node('the same with --roots', ...check, '--roots', roots),
      node('iotdm enrollment import --dry-run', ...check),
      node('csv-parse, the rows alone', path('bench/peers/csv-parse.mjs'), list),
    ];
    const title = `Verifying a vendor's EK certificates, ${VERIFIED_ROWS.toLocaleString('en')} rows`;
    show(title, await measure(programs, longest, interrupt.signal), VERIFIED_ROWS);
  },

  'import-online': async (dir) => {
    // A hundred thousand, unless BENCH_ROWS says otherwise.
    for (const line of await measureOnline(
      dir,
      Number(process.env['BENCH_ROWS'] ?? ONLINE_ROWS),
      interrupt.signal,
    )) {
      console.log(line);
    }
  },
};

/** @returns iotdm's peak memory in bytes */
async function showImport(title: string, file: string, rows: number): Promise<number> {
  const programs = [
    node('iotdm enrollment import --dry-run', executable, 'enrollment', 'import', file, '--dry-run'),
    node('csv-parse, the rows alone', path('bench/peers/csv-parse.mjs'), file),
  ];
  const measurements = await measure(programs, rows > 100_000 ? longest : long, interrupt.signal);
  show(`${title}, ${rows.toLocaleString('en')} rows`, measurements, rows);
  return measurements[0]?.peakBytes ?? Number.NaN;
}

function show(title: string, [own, ...peers]: readonly Measurement[], rows?: number): void {
  if (own === undefined) return;
  console.log(`\n${title}`);
  for (const measurement of [own, ...peers]) {
    const { name, elapsedMs, peakBytes } = measurement;
    const columns = [
      `  ${name.padEnd(34)}`,
      `${elapsedMs.toFixed(elapsedMs < 100 ? 1 : 0)} ms`.padStart(10),
      (peakBytes === null ? '' : `${(peakBytes / 2 ** 20).toFixed(0)} MiB`).padStart(9),
      ...(rows === undefined
        ? []
        : [`${Math.round(rows / (elapsedMs / 1000)).toLocaleString('en')} rows/s`.padStart(16)]),
      measurement === own ? '' : `   iotdm takes ${(own.elapsedMs / elapsedMs).toFixed(2)} times as long`,
    ];
    console.log(columns.join('').trimEnd());
  }
}

const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !(name in parts));
if (unknown !== undefined) {
  console.error(`there is no part "${unknown}"; there are: ${Object.keys(parts).join(', ')}`);
  process.exit(2);
}
const dir = await mkdtemp(join(tmpdir(), 'iotdm-bench-'));
try {
  const cores = cpus();
  console.log(
    `Node.js ${process.version}, ${platform()} ${arch()}, ${cores.length} × ${cores[0]?.model.trim() ?? 'unknown'}; ` +
      `medians of ${short.counted} rounds (imports: ${long.counted}, of a million rows ${longest.counted}), peak memory of the process`,
  );
  for (const [name, run] of Object.entries(parts)) {
    if (wanted.length === 0 || wanted.includes(name)) await run(dir);
  }
} finally {
  await rm(dir, { recursive: true, force: true });
}
