import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it, type TestContext } from 'node:test';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  softwareTpm,
  type EmulatedService,
  type Outcome,
  type SoftwareTpm,
} from '../lab/lab.ts';
import { contentsOf, workplace, type Workplace } from '../lab/workplace.ts';

const lifetime = lifetimeOfFile();
let service: EmulatedService;

before(async () => {
  service = await emulator(lifetime);
});

interface Provisioned {
  readonly registrationId: string;
  readonly deviceId: string;
  readonly assignedHub: string;
  readonly slot: number;
  readonly ekVerified: boolean | null;
  readonly steps: readonly { readonly step: string; readonly status: string; readonly elapsedMs: number }[];
  readonly passed: boolean;
}

function resultOf({ stdout, stderr }: Outcome): Provisioned {
  assert.notEqual(stdout, '', stderr);
  return JSON.parse(stdout) as Provisioned;
}

function errorOf({ stderr }: Outcome): { code: string; message: string; hint: string; details?: object } {
  const last = stderr.trim().split('\n').at(-1) ?? '';
  return (JSON.parse(last) as { error: { code: string; message: string; hint: string } }).error;
}

function statusOf(result: Provisioned): Record<string, string> {
  return Object.fromEntries(result.steps.map(({ step, status }) => [step, status]));
}

function view(chip: SoftwareTpm, place: Workplace, slot: number): Promise<Outcome> {
  return iotdm(['slot', 'verify', String(slot), '--hub', '--tpm', chip.tcti, '--json'], { cwd: place.dir });
}

function assertNothingLoaded(chip: SoftwareTpm): void {
  assert.equal(chip.handles('transient'), '');
  assert.equal(chip.handles('loaded-session'), '');
}

async function scene(
  t: TestContext,
  settings: Readonly<Record<string, unknown>> = {},
  options: { blank?: boolean } = {},
): Promise<{ chip: SoftwareTpm; place: Workplace }> {
  const chip = await softwareTpm(t, options);
  return { chip, place: await workplace(t, service, chip.tcti, settings) };
}

describe('a device from a bare TPM to its hub', () => {
  it('in one command, and again in no time', async (t) => {
    const { chip, place } = await scene(t, { modules: { AppB: 2 }, station: 'EOL-3' });
    const args = ['--serial', 'SN-1', '--device-id', 'press-1', '--lot', 'L7', '--tag', 'board=c', '--json'];
    const first = await place.provision(args);
    assert.equal(first.code, 0, first.stderr);
    const result = resultOf(first);
    assert.deepEqual(Object.keys(result).slice(0, 6), [
      'registrationId',
      'deviceId',
      'assignedHub',
      'slot',
      'ekVerified',
      'steps',
    ]);
    assert.deepEqual(statusOf(result), {
      check: 'unchanged',
      harvest: 'done',
      enroll: 'done',
      register: 'done',
      modules: 'done',
      prove: 'done',
      record: 'done',
    });
    for (const step of result.steps) {
      assert.deepEqual(Object.keys(step), ['step', 'status', 'elapsedMs']);
      assert.ok(Number.isInteger(step.elapsedMs));
    }
    assert.deepEqual(
      [result.deviceId, result.assignedHub, result.slot, result.ekVerified, result.passed],
      ['press-1', service.hub, 0, null, true],
    );
    assertNothingLoaded(chip);

    // What is written down agrees, holds no secret, and is nobody else's to read.
    const [harvested] = place.lines(place.manifest);
    assert.deepEqual(
      [harvested?.['serialNumber'], harvested?.['deviceId'], harvested?.['station'], harvested?.['lot']],
      ['SN-1', 'press-1', 'EOL-3', 'L7'],
    );
    const [recorded] = place.lines(place.record);
    assert.equal(statSync(place.record).mode & 0o777, 0o600);
    assert.deepEqual(
      [recorded?.['result'], recorded?.['serialNumber'], recorded?.['deviceId'], recorded?.['proved']],
      ['pass', 'SN-1', 'press-1', true],
    );
    assert.equal(recorded?.['registrationId'], harvested?.['registrationId']);
    for (const slot of [0, 2]) assert.equal((await view(chip, place, slot)).code, 0);

    const contents = await chip.use(contentsOf);
    const [manifest, record] = [readFileSync(place.manifest), readFileSync(place.record)];
    const requestsBefore = service.requests.length;
    const again = await place.provision([...args, '-v']);
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(statusOf(resultOf(again)), {
      check: 'unchanged',
      harvest: 'unchanged',
      enroll: 'unchanged',
      register: 'unchanged',
      modules: 'unchanged',
      prove: 'done',
      record: 'unchanged',
    });
    assert.equal(await chip.use(contentsOf), contents);
    assert.deepEqual([readFileSync(place.manifest), readFileSync(place.record)], [manifest, record]);
    // One look at the enrollment, one at the module, and the hub's word on both identities.
    const requests = service.requests.slice(requestsBefore);
    assert.deepEqual(
      requests.map((request) => request.split(' ')[0]),
      ['GET', 'GET', 'GET', 'GET'],
      requests.join('\n'),
    );
    const commands = [...again.stderr.matchAll(/ ([0-9]+) TPM commands/g)].map(([, number]) =>
      Number(number),
    );
    const total = commands.reduce((sum, number) => sum + number, 0);
    assert.ok(total <= 55, `${total} TPM commands: ${again.stderr}`);
  });

  it('takes up where the service has it otherwise: the hub has the last word', async (t) => {
    const { chip, place } = await scene(t);
    assert.equal((await place.provision(['--serial', 'SN-1'])).code, 0);
    // Registered from elsewhere meanwhile, or cut off after DPS had answered: the hub has another key now.
    const elsewhere = await workplace(t, service, chip.tcti, { slot: 5 });
    const other = await elsewhere.provision(['--serial', 'SN-1']);
    assert.equal(other.code, 0, other.stderr);
    assert.equal((await view(chip, place, 0)).code, 5);
    const outcome = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.equal(statusOf(resultOf(outcome))['register'], 'done');
    assert.equal((await view(chip, place, 0)).code, 0);
  });

  it('knows its device without any record of this station', async (t) => {
    const { chip, place } = await scene(t);
    assert.equal((await place.provision(['--serial', 'SN-1', '--device-id', 'press-9'])).code, 0);
    const contents = await chip.use(contentsOf);
    const fresh = await workplace(t, service, chip.tcti);
    for (const more of [[], ['--device-id', 'press-9']]) {
      const outcome = await fresh.provision(['--serial', 'SN-1', '--json', ...more]);
      assert.equal(outcome.code, 0, outcome.stderr);
      assert.equal(statusOf(resultOf(outcome))['register'], 'unchanged');
      assert.equal(resultOf(outcome).deviceId, 'press-9');
    }
    assert.equal(await chip.use(contentsOf), contents);
  });
});

describe('which TPMs it copes with', () => {
  it('owner and endorsement authorization that are set', async (t) => {
    const { chip, place } = await scene(t, { modules: { AppB: 2 } });
    chip.tool('tpm2_changeauth', '-c', 'o', 'owner-secret');
    chip.tool('tpm2_changeauth', '-c', 'e', 'endorsement-secret');
    const without = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(without.code, 4, without.stderr);
    assert.match(errorOf(without).hint, /--owner-auth-file/);
    assert.deepEqual(statusOf(resultOf(without)), { check: 'failed', record: 'done' });
    assertNothingLoaded(chip);
    const env = { IOTDM_OWNER_AUTH: 'owner-secret', IOTDM_ENDORSEMENT_AUTH: 'endorsement-secret' };
    const outcome = await place.provision(['--serial', 'SN-1', '--json', '-vv'], { env });
    assert.equal(outcome.code, 0, outcome.stderr);
    const written = [outcome.stdout, outcome.stderr, readFileSync(place.record, 'utf8')].join('\n');
    assert.doesNotMatch(written, /owner-secret|endorsement-secret/);
    assertNothingLoaded(chip);
  });

  it('a blank one: the keys are made, and kept', async (t) => {
    const { chip, place } = await scene(t, {}, { blank: true });
    const dry = await place.provision(['--serial', 'SN-1', '--json', '--dry-run']);
    assert.equal(dry.code, 0, dry.stderr);
    assert.deepEqual(place.lines(place.manifest), []);
    assert.equal(chip.handles('persistent'), '');
    const outcome = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.match(chip.handles('persistent'), /0x81000001\n.*0x81000100\n.*0x81010001/s);
    assertNothingLoaded(chip);
  });

  it('a storage root key of another template, and none that is no storage key', async (t) => {
    const { chip, place } = await scene(t);
    const primary = (attributes: string): void => {
      chip.tool(
        'tpm2_createprimary',
        '-C',
        'o',
        '-G',
        'rsa2048',
        '-c',
        place.path('primary.ctx'),
        '-a',
        attributes,
      );
      chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', place.path('primary.ctx'), '0x81000001');
      chip.tool('tpm2_flushcontext', '-t');
    };
    primary('sign|userwithauth|fixedtpm|fixedparent|sensitivedataorigin');
    const refused = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(refused.code, 4);
    assert.equal(errorOf(refused).code, 'tpm.parent-unsuitable');
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', '0x81000001');
    primary('restricted|decrypt|userwithauth|fixedtpm|fixedparent|sensitivedataorigin');
    const outcome = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
    assertNothingLoaded(chip);
  });

  it('a slot with a foreign object or another identity: refused before anything is enrolled', async (t) => {
    const { chip, place } = await scene(t);
    chip.tool('tpm2_nvdefine', '0x1400100', '-C', 'o', '-s', '8', '-a', 'ownerwrite|ownerread');
    const foreign = await place.provision(['--serial', 'SN-1', '--json', '--skip', 'check', '--overwrite']);
    assert.equal(foreign.code, 4);
    assert.equal(errorOf(foreign).code, 'tpm.slot-foreign');
    const failed = resultOf(foreign);
    assert.equal(statusOf(failed)['enroll'], 'failed');
    assert.equal((await find(place, failed.registrationId)).code, 6);
    chip.tool('tpm2_nvundefine', '-C', 'o', '0x1400100');

    const string =
      'HostName=plant.azure-devices.net;DeviceId=old;SharedAccessKey=c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0';
    const file = place.path('old.txt');
    writeFileSync(file, string, { mode: 0o600 });
    const write = ['slot', 'write', '0', '--connection-string-file', file];
    assert.equal((await iotdm(write, { cwd: place.dir })).code, 0);
    const contents = await chip.use(contentsOf);
    const occupied = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(occupied.code, 4);
    assert.equal(errorOf(occupied).code, 'tpm.slot-not-empty');
    assert.match(errorOf(occupied).hint, /--overwrite/);
    assert.equal(await chip.use(contentsOf), contents);
    assert.equal((await find(place, failed.registrationId)).code, 6);
    const replaced = await place.provision(['--serial', 'SN-1', '--json', '--overwrite']);
    assert.equal(replaced.code, 0, replaced.stderr);
    assert.equal((await view(chip, place, 0)).code, 0);
  });
});

function find(place: Workplace, id: string): Promise<Outcome> {
  return iotdm(['enrollment', 'show', id, '--json'], { cwd: place.dir });
}

describe('what a line must not let through', () => {
  it('an EK that is not genuine, where it must be', async (t) => {
    const { chip, place } = await scene(t, { verify: 'require' });
    const untrusted = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(untrusted.code, 9);
    assert.equal(errorOf(untrusted).code, 'verify.ek');
    assert.deepEqual(place.lines(place.manifest), []);
    const { registrationId } = resultOf(untrusted);
    assert.match(registrationId, /^[a-z2-7]{52}$/);
    assert.equal((await find(place, registrationId)).code, 6);
    const warned = await place.provision([
      '--serial',
      'SN-1',
      '--json',
      '--verify',
      'warn',
      '--skip',
      'enroll,register,modules,prove',
    ]);
    assert.equal(warned.code, 0, warned.stderr);
    assert.equal(resultOf(warned).ekVerified, false);
    assert.equal((await place.provision(['--serial', 'SN-1', '--skip', 'harvest'])).code, 2);

    const ekRoots = join(chip.dir, 'ca');
    const genuine = await workplace(t, service, chip.tcti, { verify: 'require', ekRoots });
    const outcome = await genuine.provision(['--serial', 'SN-1', '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.equal(resultOf(outcome).ekVerified, true);
    assert.equal(genuine.lines(genuine.manifest)[0]?.['ekVerdict'], 'genuine');
  });

  it('an enrollment with the key of another TPM, and a serial number with another chip', async (t) => {
    const { place } = await scene(t);
    const other = await scene(t);
    assert.equal(
      (await other.place.provision(['--serial', 'SN-1', '--registration-id', 'press-77'])).code,
      0,
    );
    const taken = await place.provision(['--serial', 'SN-2', '--registration-id', 'press-77', '--json']);
    assert.equal(taken.code, 6);
    assert.equal(errorOf(taken).code, 'service.conflict');
    assert.match(errorOf(taken).message, /another TPM/);
    assert.match(errorOf(taken).hint, /iotdm enrollment show press-77/);
    // The record of the harvest precedes the enrollment, and stays.
    assert.equal(place.lines(place.manifest).length, 1);

    other.place.configure({ manifest: place.manifest });
    const swapped = await other.place.provision(['--serial', 'SN-2', '--json']);
    assert.equal(swapped.code, 9);
    assert.equal(errorOf(swapped).code, 'verify.identity-conflict');
    assert.match(errorOf(swapped).message, /SN-2/);
  });

  it('a command line or settings that cannot be meant', async (t) => {
    const place = await workplace(t, service, 'swtpm:host=127.0.0.1,port=1');
    const table: readonly (readonly [args: readonly string[], why: RegExp])[] = [
      [['--skip', 'everything'], /no step/],
      [['--module', 'AppB=0'], /slot 0 is the device's/],
      [['--module', 'AppB'], /no module with a slot/],
      [['--budget', '-1'], /budget/],
      [['--slot', '10'], /not a slot/],
      [['--serial', 'a\u001bb'], /printable/],
      [['--serial', ''], /printable/],
      [['--loop', '--serial', 'SN-1'], /--loop/],
      [['--loop', '--device-id', 'x'], /--loop/],
      [['--targets', 'x.csv', '--serial', 'SN-1'], /--targets|--serial/],
      [['--device-id', 'a/b'], /--device-id/],
    ];
    for (const [args, why] of table) {
      const { code, stderr } = await place.provision(args);
      assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, why);
    }
    place.configure({ modules: { AppB: 'two' } });
    assert.match((await place.provision([])).stderr, /"modules" .*must be an object/);
    place.configure({ modules: undefined, manifest: undefined });
    assert.match((await place.provision([])).stderr, /no manifest was named/);
    place.configure({ manifest: 'm.ndjson', idScope: undefined });
    assert.match((await place.provision([])).stderr, /no ID scope/);
    place.configure({ idScope: '0ne1', dpsConnectionStringFile: undefined });
    assert.match((await place.provision([])).stderr, /no credentials/);
    // Nothing was touched: not even the TPM that is not there.
    assert.deepEqual(place.lines(place.record), []);
  });
});

describe('steps that are left out', () => {
  it('enrolled offline: no credentials of the service are needed', async (t) => {
    const { chip, place } = await scene(t);
    const credentials = { dpsConnectionStringFile: service.connectionStringFile };
    assert.equal(
      (await place.provision(['--serial', 'SN-1', '--skip', 'register,modules', '--skip', 'prove'])).code,
      0,
    );
    place.configure({ dpsConnectionStringFile: undefined });
    for (const expected of ['done', 'unchanged']) {
      const outcome = await place.provision(['--serial', 'SN-1', '--skip', 'enroll', '--json']);
      assert.equal(outcome.code, 0, outcome.stderr);
      assert.equal(statusOf(resultOf(outcome))['register'], expected);
      assert.equal(statusOf(resultOf(outcome))['enroll'], 'skipped');
    }
    assertNothingLoaded(chip);
    place.configure(credentials);
  });
});

describe('what people see', () => {
  it('a line a step, and PASS or FAIL with what to do', async (t) => {
    const { place } = await scene(t);
    const passed = await place.provision(['--serial', 'SN-1']);
    assert.equal(passed.code, 0, passed.stderr);
    assert.match(
      passed.stdout,
      /^✔ check +[0-9.]+ s {2}fit for DPS.*\n✔ harvest .*\n✔ enroll .*\n✔ register/,
    );
    assert.match(passed.stdout, /\n– modules +no module was asked for\n/);
    assert.match(passed.stdout, /\nPASS\nSerial number +SN-1\n/);
    assert.equal(passed.stderr, '');
    place.configure({ deviceHost: '127.0.0.1:1' });
    const failed = await place.provision([
      '--serial',
      'SN-1',
      '--overwrite',
      '--skip',
      'prove',
      '--device-id',
      'other',
    ]);
    assert.equal(failed.code, 7, failed.stderr);
    assert.match(failed.stdout, /\n✘ register +[0-9.]+ s {2}failed\n✔ record .*\nFAIL\n/);
    assert.match(failed.stderr, /^iotdm: error: .*\niotdm: hint: .*\n$/);
  });

  it('a budget that is used up: what is left is said, and done the next time', async (t) => {
    const slow = await emulator(t, { latency: { minMs: 700, maxMs: 700 } });
    const chip = await softwareTpm(t);
    const place = await workplace(t, slow, chip.tcti);
    const outcome = await place.provision(['--serial', 'SN-1', '--budget', '1.2', '--json']);
    assert.equal(outcome.code, 7, outcome.stderr);
    const error = errorOf(outcome);
    assert.equal(error.code, 'network.budget');
    assert.match(error.message, /left to do: .*register, modules, prove|left to do: .*prove/);
    assert.match(error.hint, /again/);
    assertNothingLoaded(chip);
    const again = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(again.code, 0, again.stderr);
  });
});
