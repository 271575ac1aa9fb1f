import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { appendRecord, parseManifestLine } from '../../src/records/manifest.ts';
import { checkManifests } from '../../src/station/manifest-check.ts';
import { harvested } from '../fakes/harvested.ts';

let directory: string;
let program: string;
before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'iotdm-crash-'));
  program = join(directory, 'station.mjs');
  // Fifty processes are started here: as one file each starts in a fraction of the time.
  await build({
    entryPoints: [fileURLToPath(new URL('crashing-station.ts', import.meta.url))],
    outfile: program,
    bundle: true,
    format: 'esm',
    platform: 'node',
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
    logLevel: 'warning',
  });
});
after(() => {
  rmSync(directory, { recursive: true });
});

/** Appends records `first`, `first` + 1, … once it is told to go, and prints the number of each that is recorded. */
function station(manifest: string, first: number, count: number, staleMs: number): ChildProcess {
  return spawn(process.execPath, [program, manifest, String(first), String(count), String(staleMs)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
}

function go(child: ChildProcess): void {
  child.stdin?.on('error', () => undefined);
  child.stdin?.end('go');
}

async function reports(child: ChildProcess, onReport: () => void = () => undefined): Promise<number[]> {
  const reported: number[] = [];
  assert(child.stdout);
  for await (const line of createInterface(child.stdout)) {
    reported.push(Number(line));
    onReport();
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return reported;
}

async function verify(manifest: string): Promise<void> {
  const { faults, warnings, repeated } = await checkManifests([
    { name: manifest, open: () => createReadStream(manifest) },
  ]);
  assert.deepEqual([faults, warnings, repeated], [[], [], 0]);
}

function serialsIn(manifest: string): (string | null | undefined)[] {
  const text = readFileSync(manifest, 'utf8');
  assert(text.endsWith('\n'));
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => parseManifestLine(line)?.serialNumber);
}

async function leftLocks(): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name.includes('.lock'));
}

describe('a manifest under load', () => {
  it('takes five hundred records from each of two processes at once', async () => {
    const manifest = join(directory, 'two.ndjson');
    const pair = [0, 500].map((first) => station(manifest, first, 500, 5000));
    const all = pair.map((child) => reports(child));
    for (const child of pair) go(child);
    const reported = (await Promise.all(all)).flat();
    assert.deepEqual(
      pair.map(({ exitCode }) => exitCode),
      [0, 0],
    );
    assert.equal(reported.length, 1000);
    assert.deepEqual(
      serialsIn(manifest).toSorted(),
      Array.from({ length: 1000 }, (_, number) => `SN-${number}`).toSorted(),
    );
    await verify(manifest);
    assert.deepEqual(await leftLocks(), []);
  });

  it('loses nothing that was reported when its writer is killed fifty times', async () => {
    const manifest = join(directory, 'killed.ndjson');
    const kept = new Set<number>();
    const per = 1_000_000;
    // One lives at a time, so that whatever lock there is when it begins is a dead one's.
    const staleMs = 30;
    let next = station(manifest, 0, per, staleMs);
    for (let round = 0; round < 50; round += 1) {
      const victim = next;
      next = station(manifest, (round + 1) * per, round === 49 ? 1 : per, staleMs);
      // Some die in the middle of an append, some before their first, some while they wait for the lock of a dead one.
      const wanted = Math.floor(Math.random() * 5);
      const pause = Math.random() * 6;
      const kill = (): void => {
        setTimeout(() => victim.kill('SIGKILL'), pause);
      };
      let count = 0;
      const reported = reports(victim, () => {
        count += 1;
        if (count === wanted) kill();
      });
      go(victim);
      if (wanted === 0) kill();
      for (const number of await reported) kept.add(number);
    }
    go(next);
    assert.deepEqual(await reports(next), [50 * per]);
    kept.add(50 * per);
    const serials = new Set(serialsIn(manifest));
    assert.deepEqual(
      [...kept].filter((number) => !serials.has(`SN-${number}`)),
      [],
    );
    // A record may be on disk before its writer could say so, one for each that was killed.
    assert(serials.size <= kept.size + 50);
    await verify(manifest);
  });

  it('loses nothing that was reported when a station is stopped, taken for dead, and wakes up', async () => {
    const manifest = join(directory, 'stopped.ndjson');
    const sleeper = station(manifest, 0, 1_000_000, 5000);
    const kept = new Set<number>();
    let count = 0;
    const reported = reports(sleeper, () => {
      count += 1;
    });
    go(sleeper);
    try {
      for (let round = 0; round < 15; round += 1) {
        const before = count;
        while (count === before) await delay(1);
        await delay(Math.random() * 4);
        sleeper.kill('SIGSTOP');
        const number = 2_000_000 + round;
        await appendRecord(manifest, harvested(number), { staleMs: 40 });
        kept.add(number);
        sleeper.kill('SIGCONT');
      }
    } finally {
      sleeper.kill('SIGKILL');
    }
    for (const number of await reported) kept.add(number);
    // What was killed last may have left half a line, and its lock.
    await appendRecord(manifest, harvested(3_000_000), { staleMs: 40 });
    const serials = new Set(serialsIn(manifest));
    assert.deepEqual(
      [...kept].filter((number) => !serials.has(`SN-${number}`)),
      [],
    );
    await verify(manifest);
  });
});
