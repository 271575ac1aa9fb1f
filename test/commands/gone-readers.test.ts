/* What is left of a command's exit code where nobody reads what it writes: real pipes of bash, whose other end is closed. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  executable,
  HANG_MS,
  lifetimeOfFile,
  scratchDirectory,
  type EmulatedService,
} from '../lab/lab.ts';
import { shownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
const enrolled = 1200;
let dir: string;
let service: EmulatedService;
/** The option for a TPM that answers every command with TPM_RC_INITIALIZE, as one does that was not started. */
let notStarted: string;

before(async () => {
  dir = await scratchDirectory(lifetime);
  service = await emulator(lifetime);
  const answer = join(dir, 'answer.mjs');
  writeFileSync(
    answer,
    `process.stdin.on('data', () => process.stdout.write('80010000000a00000100', 'hex'));`,
  );
  notStarted = `--tpm 'cmd:${process.execPath} ${answer}'`;
  const rows = Array.from({ length: enrolled }, (_, n) => `row-${n},${syntheticEndorsementKey(n)}`);
  writeFileSync(join(dir, 'rows.csv'), `registrationId,endorsementKey\n${rows.join('\n')}\n`);
});

/**
 * Runs a line of bash in which `iotdm` is the built one.
 * @returns the exit code of the first command of its (last) pipeline, and what is still read
 */
async function inBash(line: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const script = `iotdm() { '${process.execPath}' '${executable}' "$@"; }\n${line}\nexit "\${PIPESTATUS[0]}"`;
  const child = spawn('bash', ['-c', script], {
    cwd: dir,
    env: { ...process.env, XDG_STATE_HOME: join(dir, 'state') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve, reject) => {
    const hanging = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`${line} hangs; it said: ${stderr}`));
    }, HANG_MS);
    child.on('error', reject).on('close', (code) => {
      clearTimeout(hanging);
      resolve({ code: code ?? -1, stdout, stderr });
    });
  });
}

describe('where the reader has gone, the exit code is that of the result', () => {
  it('of a check of a TPM that was not started', async () => {
    const check = `iotdm tpm check ${notStarted}`;
    const asWritten = await inBash(`${check} 2>&1 | head -2`);
    assert.equal(asWritten.code, 3, asWritten.stdout);
    assert.match(asWritten.stdout, /^✔ reachable .*\n✔ permissions .*\n$/);
    // A reader that ends at once has gone before anything is written.
    for (const more of ['', ' --json -vv']) {
      assert.equal((await inBash(`${check}${more} 2>&1 | :`)).code, 3, more);
    }
    const readsErrors = await inBash(`${check} --json | :`);
    assert.equal(readsErrors.code, 3);
    assert.equal(shownFailure({ ...readsErrors, stdout: '' }).code, 'tpm-unavailable.not-started');
    const readsResult = await inBash(`iotdm tpm check ${notStarted} 2> >(:)`);
    assert.equal(readsResult.code, 3);
    assert.match(readsResult.stdout, /This TPM will not get through DPS/);
  });

  it('of results, help and wrong usage', async () => {
    for (const [line, code] of [
      ['iotdm explain 0x18b', 0],
      ['iotdm --help', 0],
      ['iotdm limpet -?', 0],
      ['iotdm ek raed', 2],
      ['iotdm enrollment list', 2],
    ] as const) {
      assert.equal((await inBash(`${line} 2>&1 | :`)).code, code, line);
    }
  });

  it('of work that goes on to its end, and of a list that nobody reads, which ends', async () => {
    const access = service.options.join(' ');
    const file = 'rows.csv --rate unlimited';
    assert.equal((await inBash(`iotdm enrollment import ${file} ${access} -vv 2>&1 | :`)).code, 0);
    const count = service.requests.length;
    const first = await inBash(`iotdm enrollment list --ndjson ${access} | head -1`);
    assert.equal(first.code, 0, first.stderr);
    assert.equal(first.stdout.split('\n').length, 2);
    // Two pages would be the whole list.
    assert.equal(service.requests.length - count, 1, 'not read to its end');
    const all = await inBash(`iotdm enrollment list --json ${access} > all.json; true`);
    assert.equal(all.stderr, '');
    assert.equal((JSON.parse(readFileSync(join(dir, 'all.json'), 'utf8')) as unknown[]).length, enrolled);
    const plan = await inBash(`iotdm enrollment import ${file} --dry-run ${access} 2>&1 | :`);
    assert.equal(plan.code, 0);
    const twice = await inBash(`iotdm enrollment import ${file} --restart --mode create ${access} 2>&1 | :`);
    assert.equal(twice.code, 8, 'rows that failed, of which nobody read');
  });
});

it('a result that there is no room for is a failure, in both forms', async () => {
  for (const more of ['', ' --json']) {
    const { code, stderr } = await inBash(`iotdm explain 0x18b${more} > /dev/full`);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /standard output cannot be written \(ENOSPC\)/);
    assert.match(stderr, /free space where the output goes/);
  }
});
