import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { resolveSettings } from '../../commands/shared/settings.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';
import { shownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let service: EmulatedService;
let dir: string;

before(async () => {
  chip = await softwareTpm(lifetime);
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
});

const nowhere = 'swtpm:host=127.0.0.1,port=1';

/** A working directory with this settings file in it. */
function workplace(name: string, settings: object | string): string {
  const path = join(dir, name);
  mkdirSync(path);
  writeFileSync(
    join(path, 'iotdm.config.json'),
    typeof settings === 'string' ? settings : JSON.stringify(settings),
  );
  return path;
}

describe('which TPM', () => {
  it('flag, then IOTDM_TPM, then TPM2TOOLS_TCTI, then the settings file', async () => {
    const good = workplace('good', { tpm: chip.tcti });
    const bad = workplace('bad', { tpm: nowhere });
    const table: readonly [cwd: string, env: Record<string, string>, flags: string[], code: number][] = [
      [good, {}, [], 0],
      [bad, {}, [], 3],
      [bad, { TPM2TOOLS_TCTI: chip.tcti }, [], 0],
      [good, { TPM2TOOLS_TCTI: nowhere }, [], 3],
      [bad, { TPM2TOOLS_TCTI: nowhere, IOTDM_TPM: chip.tcti }, [], 0],
      [good, { TPM2TOOLS_TCTI: chip.tcti, IOTDM_TPM: nowhere }, [], 3],
      [bad, { IOTDM_TPM: nowhere }, ['--tpm', chip.tcti], 0],
      [good, { IOTDM_TPM: chip.tcti }, ['--tpm', nowhere], 3],
      [good, { IOTDM_TPM: '' }, [], 0],
    ];
    for (const [cwd, env, flags, expected] of table) {
      const { code, stderr } = await iotdm(['ek', 'read', ...flags], { cwd, env });
      assert.equal(code, expected, `${cwd} ${JSON.stringify(env)} ${flags.join(' ')}: ${stderr}`);
    }
  });

  it('takes shared options before the command as well', async () => {
    assert.equal((await iotdm(['--tpm', chip.tcti, 'ek', 'read'], { cwd: dir })).code, 0);
    assert.equal((await iotdm(['ek', '--tpm', chip.tcti, 'read', '--json'], { cwd: dir })).code, 0);
  });
});

describe('which service', () => {
  it('environment before settings file, also for what is a secret', async () => {
    const wrong = readFileSync(service.connectionStringFile, 'utf8').replace(
      /Key=[^;]*$/,
      'Key=AAAAAAAAAAAAAAAAAAAAAA==',
    );
    const wrongFile = join(dir, 'wrong-service');
    writeFileSync(wrongFile, wrong, { mode: 0o600 });
    const right = readFileSync(service.connectionStringFile, 'utf8');
    const ofFile = workplace('service', { dpsConnectionStringFile: wrongFile, ca: service.ca });
    const list = ['enrollment', 'list'];
    assert.equal((await iotdm(list, { cwd: ofFile })).code, 5);
    assert.equal((await iotdm(list, { cwd: ofFile, env: { IOTDM_DPS_CONNECTION_STRING: right } })).code, 0);
    const flag = ['--dps-connection-string-file', service.connectionStringFile];
    assert.equal(
      (await iotdm([...list, ...flag], { cwd: ofFile, env: { IOTDM_DPS_CONNECTION_STRING: wrong } })).code,
      0,
    );
    assert.equal((await iotdm([...list, ...flag], { cwd: ofFile, env: { IOTDM_CA: '/absent' } })).code, 2);
    assert.equal((await iotdm([...list, ...flag], { cwd: dir, env: { IOTDM_CA: service.ca } })).code, 0);
  });
});

describe('the settings file', () => {
  it('is the one that --config names, in place of the one in the working directory', async () => {
    const cwd = workplace('here', { tpm: nowhere });
    const elsewhere = join(dir, 'other.json');
    writeFileSync(elsewhere, `\uFEFF${JSON.stringify({ tpm: chip.tcti })}`);
    assert.equal((await iotdm(['ek', 'read', '--config', elsewhere], { cwd })).code, 0);
    const absent = await iotdm(['ek', 'read', '--config', join(dir, 'absent.json')], { cwd });
    assert.equal(absent.code, 2);
    assert.match(absent.stderr, /cannot read the settings file .*absent\.json \(ENOENT\)/);
  });

  const refused: readonly [string, object | string, RegExp][] = [
    ['an unknown key', { tmp: 'device:/dev/tpm0' }, /has an unknown setting "tmp"; did you mean "tpm"\?/],
    ['a flag as key', { 'dps-connection-string-file': 'x' }, /did you mean "dpsConnectionStringFile"\?/],
    [
      'a key that resembles none',
      { colour: true, zebra: 1 },
      /unknown setting "colour"; did you mean "color"\?/,
    ],
    ['a value of the wrong type', { timeout: '30' }, /the setting "timeout" in .* must be a number/],
    ['a time limit that is none', { timeout: -1 }, /"-1" is not a time limit/],
    ['text that is no JSON', '{', /is not JSON/],
    ['JSON that is no object', '[]', /does not hold a JSON object/],
    ['itself in itself', { config: 'x' }, /unknown setting "config"/],
  ];
  for (const [title, settings, message] of refused) {
    it(`refuses ${title}`, async () => {
      const cwd = workplace(title, settings);
      const { code, stderr } = await iotdm(['slot', 'list', '--tpm', nowhere], { cwd });
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
    });
  }

  it('decides how errors are shown, too', async () => {
    const cwd = workplace('json', { json: true, tpm: nowhere });
    const outcome = await iotdm(['ek', 'read'], { cwd });
    assert.equal(shownFailure(outcome).code, 'tpm-unavailable.connection');
  });

  it('takes every shared option by its long name in camelCase', () => {
    const file = join(dir, 'all.json');
    const all = {
      tpm: 'a',
      ownerAuthFile: 'b',
      endorsementAuthFile: 'c',
      dps: 'd',
      dpsConnectionStringFile: 'e',
      ca: 'f',
      timeout: 7,
      yes: true,
      dryRun: true,
      json: true,
      quiet: true,
      verbose: 2,
      color: false,
    };
    writeFileSync(file, JSON.stringify(all));
    const settings = resolveSettings({ config: file }, {});
    for (const [key, value] of Object.entries(all))
      assert.deepEqual(settings[key as keyof typeof settings], value, key);
  });
});

describe('IOTDM_JSON', () => {
  it('gives way to a format that is asked for', async () => {
    const env = { IOTDM_JSON: '1' };
    const given = await iotdm(['ek', 'read', '--tpm', chip.tcti, '--format', 'pem'], { env });
    assert.match(given.stdout, /^-----BEGIN PUBLIC KEY-----/);
    const none = await iotdm(['ek', 'read', '--tpm', chip.tcti], { env });
    assert.match(none.stdout, /^\{/);
  });

  it('is --json', async () => {
    const env = { IOTDM_JSON: '1' };
    const ok = await iotdm(['slot', 'show', '0', '--tpm', chip.tcti], { env, cwd: dir });
    assert.equal((JSON.parse(ok.stdout) as { state: string }).state, 'empty');
    const usage = await iotdm(['slot', 'show', '99'], { env, cwd: dir });
    assert.equal(shownFailure(usage).code, 'usage.invalid');
    const text = await iotdm(['slot', 'show', '0', '--tpm', chip.tcti], {
      env: { IOTDM_JSON: '0' },
      cwd: dir,
    });
    assert.match(text.stdout, /^Slot/);
    const odd = await iotdm(['slot', 'show', '0', '--tpm', chip.tcti], {
      env: { IOTDM_JSON: 'maybe' },
      cwd: dir,
    });
    assert.equal(odd.code, 2);
    assert.match(odd.stderr, /IOTDM_JSON is "maybe", expected 1 or 0/);
  });
});

describe('how much is said', () => {
  const read = (...more: string[]): Promise<{ stdout: string; stderr: string }> =>
    iotdm(['ek', 'read', '--persist', '--tpm', chip.tcti, ...more], { cwd: dir });

  it('-q keeps to results and errors, -v names the TPM and its commands, -vv traces each', async () => {
    const plain = await read();
    const quiet = await read('-q');
    const verbose = await read('-v');
    const traced = await read('-vv');
    assert.equal(plain.stderr, 'iotdm: the EK stands at 0x81010001\n');
    assert.equal(quiet.stderr, '');
    assert.match(verbose.stderr, /^iotdm: TPM at 127\.0\.0\.1:\d+$/m);
    assert.match(verbose.stderr, /^iotdm: 1 TPM commands?: ReadPublic$/m);
    assert.doesNotMatch(verbose.stderr, /ok/);
    assert.match(traced.stderr, /^iotdm: tpm: ReadPublic ok [\d.]+ ms$/m);
    for (const { stdout } of [quiet, verbose, traced]) assert.equal(stdout, plain.stdout);
  });

  it('has no colour where no terminal is', async () => {
    const { stdout, stderr } = await iotdm(['slot', 'list', '--all', '--tpm', nowhere], { cwd: dir });
    assert.ok(!(stdout + stderr).includes('\u001b'));
  });
});
