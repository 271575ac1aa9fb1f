import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  executable,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  type EmulatedService,
  type Outcome,
} from '../lab/lab.ts';
import { failing } from './failing.ts';

const lifetime = lifetimeOfFile();
const ROWS = 1000;

interface Summary {
  readonly total: number;
  readonly created: number;
  readonly unchanged: number;
  readonly updated: number;
  readonly deleted: number;
  readonly failed: number;
  readonly skipped: number;
  readonly requests: number;
}

interface Enrolled {
  readonly registrationId: string;
  readonly deviceId?: string;
  readonly attestation: { readonly tpm: { readonly endorsementKey: string } };
  readonly initialTwin?: object;
  readonly capabilities?: object;
  readonly iotHubHostName?: string;
  readonly provisioningStatus?: string;
  readonly allocationPolicy?: string;
  readonly reprovisionPolicy?: object;
}

let service: EmulatedService;
let dir: string;
let fleet: readonly Enrolled[];

before(async () => {
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
  fleet = Array.from({ length: ROWS }, (_, number) => ({
    registrationId: `press-${String(number).padStart(4, '0')}`,
    deviceId: `Press;${number}'s`,
    attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(number) } },
    capabilities: { iotEdge: number % 2 === 1 },
    iotHubHostName: `plant-${number % 3}.azure-devices.net`,
    initialTwin: {
      tags: { site: `north, "${number}"`, line: { number } },
      properties: { desired: { interval: number } },
    },
    provisioningStatus: number % 5 === 0 ? 'disabled' : 'enabled',
    allocationPolicy: 'static',
    reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: number % 2 === 0 },
  }));
  writeFileSync(join(dir, 'fleet.csv'), csv());
});

/** The fleet as a spreadsheet would write it; a row can be spoilt. */
function csv(badRow = -1): string {
  const header =
    'Registration ID,Endorsement Key,device_id,IoT-Edge,iotHubHostName,tags.site,tags.line.number,desired.interval,provisioningStatus,allocationPolicy,reprovision';
  const rows = fleet.map((_, number) => {
    const id = `PRESS-${String(number).padStart(4, '0')}`;
    const edge = number === badRow ? 'perhaps' : String(number % 2 === 1);
    const status = number % 5 === 0 ? 'disabled' : 'enabled';
    const reprovision = number % 2 === 0 ? 'migrate' : 'reset';
    return `${id},${syntheticEndorsementKey(number)},Press;${number}'s,${edge},plant-${number % 3}.azure-devices.net,"north, ""${number}""",${number},${number},${status},static,${reprovision}`;
  });
  return `\uFEFF${[header, ...rows].join('\r\n')}\r\n`;
}

async function importing(file: string, more: readonly string[] = [], stdin = ''): Promise<Summary> {
  const { code, stdout, stderr } = await iotdm(
    ['enrollment', 'import', file, '--json', '--rate', '0', '--no-journal', ...service.options, ...more],
    { cwd: dir, stdin },
  );
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Summary;
}

async function listed(): Promise<Enrolled[]> {
  const { code, stdout, stderr } = await iotdm(['enrollment', 'list', '--json', ...service.options]);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Enrolled[];
}

/** Without what the service adds. */
function asWritten(stored: Enrolled): Enrolled {
  const { etag, createdDateTimeUtc, lastUpdatedDateTimeUtc, ...rest } = stored as Enrolled &
    Record<string, unknown>;
  assert.ok(etag !== undefined && createdDateTimeUtc !== undefined && lastUpdatedDateTimeUtc !== undefined);
  return rest;
}

async function emptyService(): Promise<void> {
  const all = await listed();
  if (all.length === 0) return;
  writeFileSync(join(dir, 'all.json'), JSON.stringify(all));
  const { deleted } = await importing('all.json', ['--mode', 'delete', '--yes']);
  assert.equal(deleted, all.length);
  assert.deepEqual(await listed(), []);
}

describe('a thousand rows', () => {
  it('with one bad row: all of it is refused with the place of the fault, and nothing is sent', async () => {
    writeFileSync(join(dir, 'bad.csv'), csv(499));
    const shown = await failing(['enrollment', 'import', 'bad.csv', ...service.options], { cwd: dir });
    assert.equal(shown.exitCode, 2);
    assert.match(
      shown.message,
      /^one fault in 1000 rows: bad\.csv:501:\d+: iotEdge: true or false is expected, not "perhaps"$/,
    );
    const [fault] = shown.details?.['faults'] as { line: number; column: number; field: string }[];
    assert.equal(fault?.line, 501);
    const line = csv(499).split('\r\n')[500] ?? '';
    assert.equal(line.slice(fault.column - 1, fault.column + 6), 'perhaps');
    assert.deepEqual(service.requests, []);
  });

  it('a dry run checks them and sends nothing', async () => {
    const { code, stdout } = await iotdm(['enrollment', 'import', 'fleet.csv', '--dry-run'], { cwd: dir });
    assert.equal(code, 0);
    assert.match(stdout, /^1000 rows .*nothing was sent\.\n$/);
    assert.deepEqual(service.requests, []);
  });

  it('go in with a hundred requests and come out equal, field by field', async () => {
    const summary = await importing('fleet.csv');
    const { total, created, failed, requests } = summary;
    assert.deepEqual({ total, created, failed }, { total: ROWS, created: ROWS, failed: 0 });
    for (const name of [
      'updated',
      'unchanged',
      'deleted',
      'skipped',
      'throttled',
      'elapsedMs',
      'journal',
      'failures',
    ]) {
      assert.ok(Object.hasOwn(summary, name), name);
    }
    assert.ok(requests <= 101, String(requests));
    assert.equal(service.requests.length, requests, 'what it says it has sent is what came in');
    assert.deepEqual((await listed()).map(asWritten), fleet);
  });

  it('again: all unchanged', async () => {
    const before = await listed();
    const { total, unchanged, updated, created } = await importing('fleet.csv');
    assert.deepEqual(
      { total, unchanged, updated, created },
      { total: ROWS, unchanged: ROWS, updated: 0, created: 0 },
    );
    assert.deepEqual(await listed(), before, 'not even an ETag is new');
  });

  it('a list whose reader goes away is no failure', async () => {
    const child = spawn(
      'bash',
      [
        '-c',
        'set -o pipefail; "$0" "$@" | head -c 100',
        process.execPath,
        executable,
        'enrollment',
        'list',
        '--json',
        ...service.options,
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    let shown = '';
    let said = '';
    child.stdout.on('data', (bytes: Buffer) => (shown += bytes.toString('utf8')));
    child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString('utf8')));
    const [code] = (await once(child, 'close')) as [number];
    assert.deepEqual({ code, said, length: shown.length }, { code: 0, said: '', length: 100 });
  });

  it('are exported for others in four formats', async () => {
    const files = { 'dps-json': 'out.json', csv: 'out.csv', az: 'out.sh', 'dps-bulk': 'bulk' };
    for (const [format, out] of Object.entries(files)) {
      const args = ['enrollment', 'export', 'fleet.csv', '--format', format, '--out', out];
      const dry = await iotdm([...args, '--dry-run'], { cwd: dir });
      assert.equal(dry.stdout, `Would write 1000 enrollments to ${out}.\n`);
      assert.equal(readdirSync(dir).includes(out), false);
      const done = await iotdm(args, { cwd: dir });
      assert.equal(done.code, 0, done.stderr);
      const again = await iotdm(args, { cwd: dir });
      assert.equal(again.code, 2);
      assert.match(again.stderr, /exists already/);
    }
    for (const name of ['out.json', 'out.csv', 'out.sh'])
      assert.equal(statSync(join(dir, name)).mode & 0o777, 0o600);
    assert.deepEqual(JSON.parse(readFileSync(join(dir, 'out.json'), 'utf8')), fleet);
    const bodies = readdirSync(join(dir, 'bulk')).sort();
    assert.equal(bodies.length, 100);
    const first = JSON.parse(readFileSync(join(dir, 'bulk', bodies[0] ?? ''), 'utf8')) as {
      enrollments: Enrolled[];
      mode: string;
    };
    assert.equal(first.mode, 'create');
    assert.deepEqual(first.enrollments, fleet.slice(0, 10));
    for (const name of ['out.json', 'out.csv']) {
      assert.equal((await importing(name)).unchanged, ROWS, `${name} is the same fleet`);
    }
  });
});

describe('the script for the Azure CLI', () => {
  it('is sh, and calls az with each value as one word', async () => {
    const few = fleet.slice(0, 3).map((enrollment, index) => ({
      ...enrollment,
      registrationId: `az-${index}`,
      initialTwin: { tags: { note: `$(touch ${join(dir, 'pwned')}) \`x\` 'y' "z" \\ ;&|\u00e9` } },
    }));
    writeFileSync(join(dir, 'few.json'), JSON.stringify(few));
    const made = await iotdm(['enrollment', 'export', 'few.json', '--format', 'az', '--out', 'few.sh'], {
      cwd: dir,
    });
    assert.equal(made.code, 0, made.stderr);
    execFileSync('sh', ['-n', join(dir, 'few.sh')]);
    writeFileSync(
      join(dir, 'az'),
      `#!/bin/sh\nfor word do printf '%s\\0' "$word"; done >> "$AZ_LOG"\nprintf '\\n\\0' >> "$AZ_LOG"\n`,
    );
    chmodSync(join(dir, 'az'), 0o755);
    const log = join(dir, 'az.log');
    const env = {
      ...process.env,
      PATH: `${dir}${delimiter}${process.env['PATH'] ?? ''}`,
      AZ_LOG: log,
      DPS_NAME: 'my dps',
      RESOURCE_GROUP: 'my group',
    };
    execFileSync('sh', [join(dir, 'few.sh')], { env });
    assert.equal(readdirSync(dir).includes('pwned'), false);
    const calls = readFileSync(log, 'utf8')
      .split('\n\0')
      .filter((call) => call !== '')
      .map((call) => call.split('\0').slice(0, -1));
    assert.equal(calls.length, 3);
    for (const [index, call] of calls.entries()) {
      assert.deepEqual(call.slice(0, 9), [
        'iot',
        'dps',
        'enrollment',
        'create',
        '--dps-name',
        'my dps',
        '--resource-group',
        'my group',
        `--enrollment-id=az-${index}`,
      ]);
      const option = (name: string): string | undefined =>
        call.find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1);
      assert.equal(option('--endorsement-key'), few[index]?.attestation.tpm.endorsementKey);
      assert.equal(option('--device-id'), few[index]?.deviceId);
      assert.deepEqual(JSON.parse(option('--initial-twin-tags') ?? ''), few[index]?.initialTwin.tags);
    }
    assert.throws(
      () =>
        execFileSync('sh', [join(dir, 'few.sh')], { env: { PATH: env.PATH, AZ_LOG: log }, stdio: 'ignore' }),
      'needs the names',
    );
  });
});

describe('other input', () => {
  const sample = (name: string): string =>
    fileURLToPath(new URL(`../../fixtures/enrollments/${name}`, import.meta.url));

  it('by standard input, from a manifest, and from Limpet', async () => {
    await emptyService();
    const rows = `registrationId,endorsementKey\nby-stdin,${syntheticEndorsementKey(5000)}\n`;
    assert.equal((await importing('-', [], rows)).created, 1);
    assert.equal(
      (
        await importing(
          '-',
          ['--format', 'ndjson'],
          JSON.stringify({ endorsementKey: syntheticEndorsementKey(5001) }),
        )
      ).created,
      1,
    );
    const manifest = fileURLToPath(new URL('../../fixtures/manifest.ndjson', import.meta.url));
    const lines = readFileSync(manifest, 'utf8').trim().split('\n').length;
    assert.equal((await importing(manifest)).created, lines);
    await emptyService();
    for (const name of ['limpet.csv', 'limpet.json', 'limpet-concatenated.csv', 'limpet-concatenated.json']) {
      assert.ok((await importing(sample(name))).created > 0, name);
      await emptyService();
    }
    const kept = readdirSync(process.env['TMPDIR'] ?? '/tmp').filter((name) =>
      name.startsWith('iotdm-stdin-'),
    );
    assert.deepEqual(kept, [], 'no copy of standard input stays');
  });

  it('keeps to its modes', async () => {
    await emptyService();
    writeFileSync(
      join(dir, 'two.csv'),
      `registrationId,endorsementKey,deviceId\nm-1,${syntheticEndorsementKey(6001)},a\nm-2,${syntheticEndorsementKey(6002)},b\n`,
    );
    const mode = (name: string, ...more: string[]): Promise<Outcome> =>
      iotdm(
        [
          'enrollment',
          'import',
          'two.csv',
          '--mode',
          name,
          '--json',
          '--no-journal',
          ...service.options,
          ...more,
        ],
        { cwd: dir },
      );
    assert.equal((await mode('update')).code, 8, 'nothing to update');
    assert.equal((await mode('create')).code, 0);
    assert.equal((await mode('create')).code, 8, 'there already');
    assert.equal((JSON.parse((await mode('update')).stdout) as Summary).unchanged, 2);
    const asked = await mode('delete');
    assert.equal(asked.code, 2);
    assert.match(asked.stderr, /needs-confirmation/);
    assert.equal((await listed()).length, 2);
    assert.equal((JSON.parse((await mode('delete', '--yes')).stdout) as Summary).deleted, 2);
    assert.equal((JSON.parse((await mode('delete', '--yes')).stdout) as Summary).skipped, 2);
  });
});
