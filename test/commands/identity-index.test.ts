/** That no device id and no key is given to two enrollments, as people and scripts see it. */
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { toFailure } from '../../commands/shared/failure.ts';
import { IotdmError } from '../../src/errors.ts';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  type EmulatedService,
  type Outcome,
} from '../lab/lab.ts';

const file = lifetimeOfFile();
let service: EmulatedService;
let dir: string;

before(async () => {
  service = await emulator(file);
  dir = await scratchDirectory(file);
});

const key = syntheticEndorsementKey;
const idOf = (number: number): string => registrationIdOf(Buffer.from(key(number), 'base64'));

/** At a station with a state directory of this name. */
function at(station: string, ...args: readonly string[]): Promise<Outcome> {
  return iotdm([...args, ...service.options, '--state-dir', join(dir, station), '--json'], { cwd: dir });
}

function csv(name: string, rows: readonly (readonly [number, string])[]): string {
  const path = join(dir, name);
  const lines = rows.map(([number, deviceId]) => `${key(number)},${deviceId}\n`);
  writeFileSync(path, `endorsementKey,deviceId\n${lines.join('')}`);
  return path;
}

interface Shown {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;
}

function errorOf({ stderr }: Outcome): Shown {
  const line = stderr.split('\n').find((text) => text.startsWith('{"error"')) ?? '';
  return (JSON.parse(line) as { readonly error: Shown }).error;
}

function resultOf({ stdout }: Outcome): Record<string, unknown> {
  return JSON.parse(stdout) as Record<string, unknown>;
}

describe('one identity for one device', () => {
  it('import, create and update refuse what another enrollment has, dry runs too, and --no-index says so', async () => {
    const first = await at(
      'a',
      'enrollment',
      'import',
      csv('first.csv', [
        [1, 'press-1'],
        [2, 'press-2'],
      ]),
    );
    assert.equal(first.code, 0, first.stderr);
    assert.equal(resultOf(first)['identityCompared'], true);
    const sent = service.requests.length;

    const second = csv('second.csv', [
      [11, 'press-1'],
      [12, 'press-12'],
    ]);
    const planned = await at('a', 'enrollment', 'import', second, '--dry-run');
    assert.equal(planned.code, 0, planned.stderr);
    const { rows, identityCompared } = resultOf(planned) as {
      readonly rows: readonly Readonly<Record<string, unknown>>[];
      readonly identityCompared: boolean;
    };
    assert.deepEqual(
      rows.map(({ action, message }) => [action, message]),
      [
        ['conflict', `would have the device id "press-1" of the enrollment ${idOf(1)}`],
        ['create', undefined],
      ],
    );
    assert.equal(identityCompared, true);

    const imported = await at('a', 'enrollment', 'import', second, '--report', join(dir, 'report.csv'));
    assert.equal(imported.code, 8);
    assert.deepEqual(resultOf(imported)['failures'], [
      {
        line: 2,
        registrationId: idOf(11),
        code: 'service.conflict',
        message: `would have the device id "press-1" of the enrollment ${idOf(1)}`,
      },
    ]);
    assert.ok(!service.requests.slice(sent).some((request) => request.startsWith('POST /enrollments/query')));

    const values = ['--endorsement-key', key(13), '--device-id', 'press-2'];
    for (const dryRun of [['--dry-run'], []]) {
      const created = await at('a', 'enrollment', 'create', ...values, ...dryRun);
      assert.equal(created.code, 6);
      const { code, message, hint, details } = errorOf(created);
      assert.equal(code, 'service.conflict');
      assert.equal(message, `${idOf(13)} would have the device id "press-2" of the enrollment ${idOf(2)}`);
      assert.match(
        hint,
        new RegExp(`iotdm enrollment show ${idOf(2)}; .*iotdm enrollment delete ${idOf(2)}$`),
      );
      assert.deepEqual(details, {
        registrationId: idOf(13),
        otherRegistrationId: idOf(2),
        shared: ['deviceId'],
        deviceId: 'press-2',
      });
      const updated = await at('a', 'enrollment', 'update', idOf(12), '--device-id', 'press-2', ...dryRun);
      assert.equal(updated.code, 6);
      assert.equal(
        errorOf(updated).message,
        `${idOf(12)} would have the device id "press-2" of the enrollment ${idOf(2)}`,
      );
    }
    const twice = await at(
      'a',
      'enrollment',
      'create',
      '--registration-id',
      'again',
      '--endorsement-key',
      key(1),
    );
    assert.equal(errorOf(twice).message, `again would have the endorsement key of the enrollment ${idOf(1)}`);

    // Without the comparison, which the result says; what was written so is known all the same.
    const forced = await at('a', 'enrollment', 'create', ...values, '--no-index');
    assert.equal(forced.code, 0, forced.stderr);
    assert.equal(resultOf(forced)['identityCompared'], false);
    const text = await iotdm(
      ['enrollment', 'update', idOf(13), '--device-id', 'press-13', '--no-index', ...service.options],
      { cwd: dir, env: { IOTDM_STATE_DIR: join(dir, 'a') } },
    );
    assert.match(text.stdout, /^Device ids and keys were not compared with those of the other enrollments/m);
    const known = await at(
      'a',
      'enrollment',
      'create',
      '--endorsement-key',
      key(14),
      '--device-id',
      'press-13',
    );
    assert.equal(errorOf(known).details['otherRegistrationId'], idOf(13));

    // What is deleted is free, and what changes no identity compares nothing.
    assert.equal((await at('a', 'enrollment', 'delete', idOf(13), '--yes')).code, 0);
    const free = await at(
      'a',
      'enrollment',
      'create',
      '--endorsement-key',
      key(14),
      '--device-id',
      'press-13',
    );
    assert.equal(free.code, 0, free.stderr);
    assert.equal('identityCompared' in resultOf(free), false);
    const tagged = await at('a', 'enrollment', 'update', idOf(14), '--tag', 'site=north');
    assert.equal(resultOf(tagged)['identityCompared'], null);
  });

  it('a device costs one request, and two machines see each other when --index-age is over', async () => {
    const enroll = (station: string, number: number, deviceId: string, ...more: readonly string[]) =>
      at(station, 'enrollment', 'create', '--endorsement-key', key(number), '--device-id', deviceId, ...more);
    const requestsOf = async (task: Promise<Outcome>): Promise<[number, string[]]> => {
      const from = service.requests.length;
      const { code } = await task;
      return [
        code,
        service.requests
          .slice(from)
          .map((request) => request.split('?')[0]?.replace(/[^/]{52}$/, 'ID') ?? ''),
      ];
    };
    assert.deepEqual(await requestsOf(enroll('b', 21, 'b-1')), [
      0,
      ['POST /enrollments/query', 'PUT /enrollments/ID'],
    ]);
    assert.deepEqual(await requestsOf(enroll('b', 22, 'b-2')), [0, ['PUT /enrollments/ID']]);
    // The other machine reads the list once, and then knows only what it does itself.
    assert.deepEqual(await requestsOf(enroll('c', 31, 'b-1')), [
      6,
      ['POST /enrollments/query', 'GET /enrollments/ID'],
    ]);
    assert.deepEqual(await requestsOf(enroll('b', 23, 'b-3')), [0, ['PUT /enrollments/ID']]);
    assert.deepEqual(await requestsOf(enroll('c', 33, 'b-3')), [0, ['PUT /enrollments/ID']]);
    assert.deepEqual(await requestsOf(enroll('c', 34, 'b-3', '--index-age', '0')), [
      6,
      ['POST /enrollments/query', 'GET /enrollments/ID'],
    ]);
  });

  it('two processes with one state directory: one of them gets the device id', async () => {
    const outcomes = await Promise.all(
      [41, 42, 43].map((number) =>
        at('d', 'enrollment', 'create', '--endorsement-key', key(number), '--device-id', 'd-1'),
      ),
    );
    assert.deepEqual(
      outcomes.map(({ code }) => code).sort(),
      [0, 6, 6],
      outcomes.map(({ stderr }) => stderr).join(),
    );
    assert.equal(readdirSync(join(dir, 'd')).length, 1);
  });

  it('an age that is none is a usage error, in the settings file too', async () => {
    const wrong = await at('a', 'enrollment', 'create', '--endorsement-key', key(1), '--index-age', 'soon');
    assert.deepEqual([wrong.code, errorOf(wrong).code], [2, 'usage.invalid']);
    const config = join(dir, 'line.json');
    writeFileSync(config, JSON.stringify({ indexAge: '31d' }));
    assert.equal((await at('a', 'enrollment', 'list', '--config', config)).code, 2);
    writeFileSync(config, JSON.stringify({ index: false, indexAge: '8h' }));
    const left = await at('e', 'enrollment', 'create', '--endorsement-key', key(51), '--config', config);
    assert.equal(resultOf(left)['identityCompared'], false);
  });

  it('a list that cannot be read comes with the way to do without it', () => {
    const refused = new IotdmError('auth.refused', 'no', { details: { index: true } });
    assert.match(
      toFailure(refused, 'iotdm provision').hint,
      /; where they may not be listed, --no-index leaves/,
    );
    assert.doesNotMatch(
      toFailure(new IotdmError('auth.refused', 'no'), 'iotdm provision').hint,
      /--no-index/,
    );
  });
});
