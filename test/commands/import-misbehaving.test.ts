/** The built iotdm against an emulator that misbehaves over the wire: in the end the service holds what the file says. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { parseFault } from '../../src/emulator/fault-spec.ts';
import { parseQuota } from '../../src/emulator/quota.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { emulator, iotdm, scratchDirectory, type EmulatedService, type Lifetime } from '../lab/lab.ts';

const ROWS = 200;

interface Enrolled {
  readonly registrationId: string;
  readonly deviceId?: string;
}

interface Summary {
  readonly created: number;
  readonly updated: number;
  readonly failed: number;
  readonly throttled: number;
  readonly requests: number;
  readonly elapsedMs: number;
  readonly failures: readonly { readonly registrationId: string; readonly code: string }[];
}

interface Scene {
  readonly service: EmulatedService;
  readonly dir: string;
  readonly run: (...more: string[]) => Promise<Run>;
  readonly stored: () => Promise<readonly Enrolled[]>;
  /** Registration ids and outcomes of the report. */
  readonly report: () => readonly (readonly [string, string])[];
}

interface Run {
  readonly code: number;
  readonly stderr: string;
  readonly summary: Summary;
}

const id = (number: number): string => `press-${String(number).padStart(5, '0')}`;

async function scene(t: Lifetime, faults: readonly string[], rows = ROWS, quota?: string): Promise<Scene> {
  const dir = await scratchDirectory(t);
  const lines = Array.from(
    { length: rows },
    (_, number) => `${id(number)},${syntheticEndorsementKey(number)},d-${number}\n`,
  );
  writeFileSync(join(dir, 'fleet.csv'), `registrationId,endorsementKey,deviceId\n${lines.join('')}`);
  const service = await emulator(t, {
    faults: faults.map(parseFault),
    faultSeed: 1,
    ...(quota === undefined ? {} : { quota: parseQuota(quota) }),
  });
  return {
    service,
    dir,
    run: async (...more) => {
      const rate = more.includes('--rate') ? [] : ['--rate', '0'];
      const args = ['enrollment', 'import', 'fleet.csv', '--json', ...rate, '--report', 'report.csv'];
      const { code, stdout, stderr } = await iotdm([...args, ...service.options, ...more], { cwd: dir });
      return { code, stderr, summary: JSON.parse(stdout === '' ? '{}' : stdout) as Summary };
    },
    stored: async () => {
      const listed = await iotdm(['enrollment', 'list', '--json', ...service.options], { cwd: dir });
      assert.equal(listed.code, 0, listed.stderr);
      return JSON.parse(listed.stdout) as Enrolled[];
    },
    report: () =>
      readFileSync(join(dir, 'report.csv'), 'utf8')
        .trimEnd()
        .split(/\r?\n/)
        .slice(1)
        .map((line) => {
          const [, , registrationId = '', outcome = ''] = line.split(',');
          return [registrationId, outcome] as const;
        }),
  };
}

const fleet = Array.from({ length: ROWS }, (_, number) => [id(number), `d-${number}`]);

describe('an import from a service that misbehaves', () => {
  for (const fault of [
    '429,retry-after=1,nth=3-4',
    '429,every=4,times=5',
    '500,method=POST,every=4,times=5',
    '500,applied=yes,every=5,times=5',
    '503,applied=yes,every=7,times=4',
    '503,retry-after=1,nth=5',
    'cut-before,every=5,times=5',
    'cut-after,every=5,times=5',
    'cut-midway,every=5,times=5',
    'stall,ms=3000,nth=4',
    'stall-midway,nth=4',
    'truncate,every=5,times=5',
    'unknown-ids,every=3,times=5',
  ]) {
    it(`${fault}: all arrives`, async (t) => {
      const { run, stored, report } = await scene(t, [fault]);
      const { code, stderr, summary } = await run('--timeout', '1');
      assert.equal(code, 0, stderr);
      assert.equal(summary.created, ROWS);
      assert.deepEqual(
        (await stored()).map(({ registrationId, deviceId }) => [registrationId, deviceId]),
        fleet,
      );
      assert.deepEqual(
        report(),
        fleet.map(([registrationId]) => [registrationId, 'created']),
      );
      if (fault.startsWith('429')) assert.ok(summary.throttled > 0);
      assert.ok(summary.requests > ROWS / 10, 'something has gone wrong');
    });
  }

  it('another writer: what he changed is left to him, and told', async (t) => {
    const { run, stored, report, dir } = await scene(t, ['etag-race,nth=35']);
    assert.equal((await run()).code, 0);
    const changed = readFileSync(join(dir, 'fleet.csv'), 'utf8').replaceAll(',d-', ',e-');
    writeFileSync(join(dir, 'fleet.csv'), changed);
    const { code, summary } = await run('--restart');
    assert.equal(code, 8);
    assert.equal(summary.updated + summary.failed, ROWS);
    assert.equal(summary.failed, 10, 'those of one request');
    const lost = new Set(summary.failures.map(({ registrationId }) => registrationId));
    for (const { code: why } of summary.failures) assert.equal(why, 'service.changed-meanwhile');
    for (const { registrationId, deviceId = '' } of await stored()) {
      assert.equal(deviceId.startsWith('e-'), !lost.has(registrationId), registrationId);
    }
    assert.deepEqual(
      report()
        .filter(([, outcome]) => outcome === 'failed')
        .map(([registrationId]) => registrationId),
      [...lost].sort(),
    );
    assert.equal((await run()).summary.updated, 10, 'run again, the file is what counts');
    assert.equal(
      (await stored()).every(({ deviceId = '' }) => deviceId.startsWith('e-')),
      true,
    );
  });

  it('a service that is away for longer than it is waited for: exit code 7, and the next run goes on', async (t) => {
    const { run, stored, service } = await scene(t, ['503,nth=7-61']);
    const { code, stderr } = await run('--give-up-after', '1s');
    assert.equal(code, 7, stderr);
    const { error } = JSON.parse(stderr) as { error: { hint: string; details: Record<string, unknown> } };
    assert.equal(
      error.hint,
      'run the same command again later: it goes on where it stopped, by fleet.csv.journal',
    );
    assert.equal(error.details['created'], 50);
    let last = code;
    for (let round = 0; round < 20 && last === 7; round += 1)
      last = (await run('--give-up-after', '1s')).code;
    assert.equal(last, 0);
    assert.equal((await stored()).length, ROWS);
    assert.ok(service.requests.length > 0);
  });
});

describe('an import from a service with a quota', () => {
  it('takes within a tenth of the ideal time at its rate, without a single 429', async (t) => {
    const { run } = await scene(t, [], 600, '100/s');
    const { code, summary } = await run('--rate', '100/s');
    assert.equal(code, 0);
    // One of them reads what the service holds.
    assert.deepEqual([summary.created, summary.throttled, summary.requests], [600, 0, 60 + 1]);
    assert.ok(summary.elapsedMs < 6_600, `${summary.elapsedMs} ms`);
  });

  it('takes within a quarter of it ten times too fast', async (t) => {
    const { run } = await scene(t, [], 1000, '100/s');
    const { code, summary } = await run('--rate', '1000/s');
    assert.equal(code, 0);
    assert.equal(summary.created, 1000);
    assert.ok(summary.throttled > 0);
    assert.ok(summary.elapsedMs < 12_500, `${summary.elapsedMs} ms, ${summary.throttled} times throttled`);
  });
});
