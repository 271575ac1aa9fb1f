import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { emulator, iotdm, lifetimeOfFile, type EmulatedService, type Outcome } from '../lab/lab.ts';
import { failing, type ShownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
let service: EmulatedService;

interface Stored {
  readonly registrationId: string;
  readonly deviceId?: string;
  readonly etag: string;
  readonly attestation: { readonly tpm: { readonly endorsementKey: string } };
  readonly initialTwin?: { readonly tags?: object };
  readonly provisioningStatus?: string;
}

before(async () => {
  service = await emulator(lifetime);
});

const run = (...args: string[]): Promise<Outcome> => iotdm(['enrollment', ...args, ...service.options]);
const refused = (...args: string[]): Promise<ShownFailure> =>
  failing(['enrollment', ...args, ...service.options]);

async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await run(...args, '--json');
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

const create = (id: string, key: number, ...more: string[]): Promise<Stored> =>
  json('create', '--registration-id', id, '--endorsement-key', syntheticEndorsementKey(key), ...more);
const shown = (id: string): Promise<Stored> => json('show', id);

describe('iotdm enrollment update', () => {
  it('touches only what is named', async () => {
    const before = await create(
      'touch',
      1,
      '--device-id',
      'press',
      '--tag',
      'site=Linz',
      '--tag',
      'line.old=1',
    );
    const { changed, enrollment } = await json<{ changed: boolean; enrollment: Stored }>(
      ...['update', 'TOUCH', '--tag', 'line.old=null', '--tag', 'line.new=2'],
      ...['--provisioning-status', 'disabled'],
    );
    assert.equal(changed, true);
    assert.deepEqual(enrollment.initialTwin, { tags: { site: 'Linz', line: { new: 2 } } });
    assert.deepEqual([enrollment.deviceId, enrollment.provisioningStatus], ['press', 'disabled']);
    assert.deepEqual(enrollment.attestation, before.attestation);
    assert.deepEqual(await shown('touch'), enrollment);
    const again = await json<{ changed: boolean }>('update', 'touch', '--tag', 'line.new=2');
    assert.equal(again.changed, false);
    assert.equal((await shown('touch')).etag, enrollment.etag, 'nothing was written');
    const dry = await run('update', 'touch', '--device-id', 'other', '--dry-run');
    assert.match(dry.stdout, /^Would write:\n\{\n[^]*"deviceId": "other"/);
    assert.equal((await shown('touch')).deviceId, 'press');
  });

  it('keeps the endorsement key unless it is forced', async () => {
    await create('keep', 2);
    const other = syntheticEndorsementKey(20);
    const { code, exitCode, hint } = await refused('update', 'keep', '--endorsement-key', other);
    assert.deepEqual([code, exitCode], ['service.key-differs', 6]);
    assert.match(hint, /--force/);
    assert.equal((await shown('keep')).attestation.tpm.endorsementKey, syntheticEndorsementKey(2));
    const forced = await run('update', 'keep', '--endorsement-key', other, '--force');
    assert.equal(forced.code, 0, forced.stderr);
    assert.equal((await shown('keep')).attestation.tpm.endorsementKey, other);
  });

  it('refuses what makes no sense before the service is asked', async () => {
    const sent = service.requests.length;
    const cases: [args: string[], message: RegExp][] = [
      [[], /^nothing to change is named$/],
      [['--force', '--device-id', 'x'], /^--force needs the new --endorsement-key$/],
      [
        ['--device-id', 'a b', '--iot-edge', 'maybe'],
        /^--device-id: .*; --iot-edge: true or false is expected/,
      ],
      [['--tag', 'a=1', '--tag', 'a=2'], /^--tag a: it is given twice$/],
      [['--endorsement-key', 'AAAA'], /^--endorsement-key: /],
    ];
    for (const [args, message] of cases) {
      const { exitCode, message: said } = await refused('update', 'nobody', ...args);
      assert.equal(exitCode, 2);
      assert.match(said, message);
    }
    assert.equal(service.requests.length, sent);
    assert.equal((await refused('update', 'nobody', '--device-id', 'x')).code, 'service.not-found');
  });

  it('is guarded by an ETag', async () => {
    const { etag } = await create('guarded', 3);
    const updated = await run('update', 'guarded', '--device-id', 'a', '--if-match', etag);
    assert.equal(updated.code, 0, updated.stderr);
    const stale = await refused('update', 'guarded', '--device-id', 'b', '--if-match', etag);
    assert.equal(stale.code, 'service.changed-meanwhile');
    assert.equal(
      (await refused('delete', 'guarded', '--if-match', etag, '--yes')).code,
      'service.changed-meanwhile',
    );
    assert.equal(
      (await refused('delete', 'guarded', '--if-match', etag, '--dry-run')).code,
      'service.changed-meanwhile',
    );
    assert.equal((await shown('guarded')).deviceId, 'a');
    const now = (await shown('guarded')).etag;
    assert.equal((await run('delete', 'guarded', '--if-match', now, '--yes')).code, 0);
  });
});

describe('iotdm enrollment list', () => {
  it('leaves out what does not match, as JSON, NDJSON and text', async () => {
    await create('list-1', 11, '--iot-hub-host-name', 'a.azure-devices.net');
    await create(
      'list-2',
      12,
      '--iot-hub-host-name',
      'b.azure-devices.net',
      '--provisioning-status',
      'disabled',
    );
    await create('list-3', 13);
    const ids = async (...filter: string[]): Promise<string[]> =>
      (await json<Stored[]>('list', '--id-prefix', 'list-', ...filter)).map(
        ({ registrationId }) => registrationId,
      );
    assert.deepEqual(await ids(), ['list-1', 'list-2', 'list-3']);
    assert.deepEqual(await ids('--status', 'disabled'), ['list-2']);
    assert.deepEqual(await ids('--hub', 'A.azure-devices.net'), ['list-1']);
    assert.deepEqual(await ids('--hub', 'c.azure-devices.net'), []);
    const { stdout } = await run('list', '--id-prefix', 'LIST-', '--ndjson');
    const lines = stdout.trimEnd().split('\n');
    assert.deepEqual(
      lines.map((line) => (JSON.parse(line) as Stored).registrationId),
      ['list-1', 'list-2', 'list-3'],
    );
    assert.equal((await run('list', '--id-prefix', 'zzz', '--ndjson')).stdout, '');
    assert.equal(
      (await run('list', '--id-prefix', 'zzz')).stdout,
      'No individual enrollment is like that.\n',
    );
    assert.match(
      (await run('list', '--status', 'disabled')).stdout,
      /^Registration id .*\nlist-2 +disabled /m,
    );
    assert.equal((await refused('list', '--status', 'lost')).exitCode, 2);
  });
});
