/*
 * Runs the tests: `npm test` for all of them, `npm test -- slot` for the files whose path contains "slot".
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
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
    ([name]) => !/^(IOTDM_|TPM2TOOLS_|NO_COLOR|FORCE_COLOR|NODE_OPTIONS)/.test(name),
  ),
);
const run = spawnSync(process.execPath, ['--import', 'tsx', '--test', '--test-reporter=spec', ...files], {
  cwd: root,
  stdio: ['ignore', 'inherit', 'inherit'],
  env: { ...environment, TMPDIR: scratch },
});
rmSync(scratch, { recursive: true, force: true });
process.exit(run.status ?? 1);
