/*
 * Runs the tests: `npm test` for all of them, `npm test -- slot` for the files whose path contains "slot".
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../', import.meta.url));
const wanted = process.argv.slice(2);

const files = readdirSync(join(root, 'test'), { recursive: true })
  .map((file) => relative(root, join(root, 'test', String(file))))
  .filter((file) => file.endsWith('.test.ts'))
  .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)))
  .sort();
if (files.length === 0) {
  console.error(`no test file matches ${wanted.join(' ')}`);
  process.exit(1);
}

// Everything that the tests leave behind is under one directory, and that goes with them.
const scratch = mkdtempSync(join(tmpdir(), 'iotdm-test-'));
const environment = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) =>
      !/^(IOTDM_|TPM2TOOLS_|AZURE_|HTTPS?_PROXY$|NO_PROXY$|ALL_PROXY$|NO_COLOR|FORCE_COLOR|NODE_OPTIONS)/i.test(
        name,
      ),
  ),
);
// Ctrl-C reaches the tests as well; what they leave behind is still looked for here.
process.on('SIGINT', () => undefined);
const run = spawnSync(
  process.execPath,
  ['--import', 'tsx', '--test', ...concurrency(), '--test-reporter=spec', ...files],
  {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...environment, TMPDIR: scratch, XDG_STATE_HOME: join(scratch, 'state') },
  },
);
const left = endBackgroundProcesses();
rmSync(scratch, { recursive: true, force: true });
if (left.length > 0)
  console.error(`the tests left processes behind, which are ended now:\n${left.join('\n')}`);
process.exit(left.length > 0 && run.status === 0 ? 1 : (run.status ?? 1));

/** Most tests wait for other processes: on two cores, two files at once take little longer than one. */
function concurrency() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  // The option came with Node.js 20.10.
  return major > 20 || minor >= 10 ? [`--test-concurrency=${Math.max(2, availableParallelism() - 1)}`] : [];
}

/** Ends software TPMs and emulators whose state is in the scratch directory, and returns their command lines. */
function endBackgroundProcesses() {
  if (process.platform !== 'linux') return [];
  const ended = [];
  for (const pid of readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
    try {
      const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      if (Number(pid) === process.pid || !commandLine.includes(`${scratch}/`)) continue;
      process.kill(Number(pid), 'SIGTERM');
      ended.push(commandLine);
    } catch {
      // It has ended meanwhile, or is somebody else's.
    }
  }
  return ended;
}
