/**
 * An import that is killed again and again, at random moments, and run again each time: nothing is lost, and every row
 * is told of once. `FULL_SCALE=1` takes 5,000 rows and 30 kills.
 */
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  startIotdm,
  type EmulatedService,
} from '../lab/lab.ts';

const lifetime = lifetimeOfFile();
const isFullScale = process.env['FULL_SCALE'] === '1';
const ROWS = isFullScale ? 5000 : 1500;
const KILLS = isFullScale ? 30 : 6;
const modes = isFullScale ? (['upsert', 'create', 'delete'] as const) : (['upsert', 'delete'] as const);

const answers = new EventEmitter();
let service: EmulatedService;
let dir: string;

before(async () => {
  service = await emulator(lifetime, { onRequest: () => answers.emit('answer') });
  dir = await scratchDirectory(lifetime);
});

function id(number: number): string {
  return `press-${String(number).padStart(5, '0')}`;
}

function writeRows(name: string, count: number): void {
  const rows = Array.from(
    { length: count },
    (_, number) => `${id(number)},${syntheticEndorsementKey(number)},d-${number}\n`,
  );
  writeFileSync(join(dir, name), `registrationId,endorsementKey,deviceId\n${rows.join('')}`);
}

interface Summary {
  readonly total: number;
  readonly created: number;
  readonly deleted: number;
  readonly unchanged: number;
  readonly skipped: number;
  readonly failed: number;
  readonly requests: number;
  readonly journal: string | null;
}

/** Registration ids and outcomes of a report, in order. */
function reported(name: string): (readonly [string, string])[] {
  const [header, ...lines] = readFileSync(join(dir, name), 'utf8').trimEnd().split(/\r?\n/);
  assert.equal(header, 'file,line,registrationId,outcome,code,message,wayOut');
  return lines.map((line) => {
    const [, , registrationId = '', outcome = ''] = line.split(',');
    return [registrationId, outcome] as const;
  });
}

/** Kills it with its so manieth answer, or a moment later. */
async function killed(args: readonly string[], answer: number): Promise<boolean> {
  const running = startIotdm(args, { cwd: dir });
  let left = answer;
  const ended = running.outcome.then(() => true);
  while (left > 0) {
    const isOver = await Promise.race([ended, once(answers, 'answer').then(() => false)]);
    if (isOver) break;
    left -= 1;
  }
  if (Math.random() < 0.5) await wait(Math.random() * 20);
  running.kill('SIGKILL');
  return (await running.outcome).code === -1;
}

for (const mode of modes) {
  describe(`an import (${mode}) that is killed ${KILLS} times`, () => {
    it('does all of it once', async () => {
      writeRows('fleet.csv', ROWS);
      const args = ['enrollment', 'import', 'fleet.csv', '--mode', mode, '--yes', '--rate', 'unlimited'];
      const all = [
        ...args,
        '--report',
        `${mode}.csv`,
        '--journal',
        `${mode}.journal`,
        '--json',
        ...service.options,
      ];
      if (mode === 'create') {
        const emptied = await iotdm(
          [
            ...args.slice(0, 3),
            '--mode',
            'delete',
            '--yes',
            '--rate',
            '0',
            '--no-journal',
            ...service.options,
          ],
          { cwd: dir },
        );
        assert.equal(emptied.code, 0, emptied.stderr);
      }
      const share = Math.floor(ROWS / 10 / (KILLS + 2));
      let kills = 0;
      for (let kill = 0; kill < KILLS; kill += 1) {
        const at = Math.floor(Math.random() * 2 * share);
        if (await killed(all, at)) kills += 1;
      }
      const done = await iotdm(all, { cwd: dir });
      assert.equal(done.code, 0, done.stderr);
      const summary = JSON.parse(done.stdout) as Summary;
      assert.ok(kills > KILLS / 2, `${kills} were killed`);
      assert.equal(summary.created + summary.deleted + summary.skipped, ROWS, done.stdout);

      const listed = await iotdm(['enrollment', 'list', '--json', ...service.options]);
      const stored = JSON.parse(listed.stdout) as {
        registrationId: string;
        deviceId: string;
        attestation: { tpm: { endorsementKey: string } };
      }[];
      assert.deepEqual(
        stored.map(({ registrationId, deviceId, attestation }) => [
          registrationId,
          deviceId,
          attestation.tpm.endorsementKey,
        ]),
        mode === 'delete'
          ? []
          : Array.from({ length: ROWS }, (_, number) => [
              id(number),
              `d-${number}`,
              syntheticEndorsementKey(number),
            ]),
      );
      assert.deepEqual(
        reported(`${mode}.csv`),
        Array.from({ length: ROWS }, (_, number) => [id(number), mode === 'delete' ? 'deleted' : 'created']),
      );
      for (const name of [`${mode}.csv`, `${mode}.journal`]) {
        assert.equal(statSync(join(dir, name)).mode & 0o777, 0o600, name);
      }

      const sentBefore = service.requests.length;
      const again = JSON.parse((await iotdm(all, { cwd: dir })).stdout) as Summary;
      assert.deepEqual([again.skipped, again.requests], [ROWS, 0]);
      assert.equal(service.requests.length, sentBefore, 'nothing was sent');
      assert.deepEqual(
        readdirSync(dir).filter((name) => name.endsWith('.part') || name.endsWith('.lock')),
        [],
        'nothing lies about',
      );
    });
  });
}
