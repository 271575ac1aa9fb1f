import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  limpetSwitches,
  plannedSwitches,
  switchNames,
  type SwitchName,
} from '../../../commands/limpet/switches.ts';
import { limpetUsage } from '../../../commands/limpet/usage.ts';
import { runInProcess } from './in-process.ts';

const HEADER = '<?xml version="1.0" encoding="utf-8"?>\n';
const noTpm = ['--tpm', 'swtpm:host=127.0.0.1,port=1'];
const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';

/** What stands behind a switch so that nothing but the TPM is missing. */
const parameters: Readonly<Partial<Record<SwitchName, readonly string[]>>> = {
  IAT: ['7'],
  SUR: ['plant.azure-devices.net/press-17'],
  PCS: [`HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessKey=${KEY}`],
  CHK: [KEY],
  SHK: ['/dev/null'],
  register: ['0', 'global.azure-devices-provisioning.net', '0ne00000001'],
};

describe('a failure', () => {
  for (const name of switchNames) {
    const { words, scope, element } = limpetSwitches[name];
    // These two have no way to fail.
    if (name === 'VER' || name === 'LAT') continue;
    it(`of -${words.join(' -')} gives the empty element and the reason`, async () => {
      const { code, stdout, stderr } = await runInProcess([
        'limpet',
        ...noTpm,
        ...(scope === 'slot' ? ['3'] : []),
        ...words.map((word) => `-${word}`),
        ...(parameters[name] ?? []),
      ]);
      assert.equal(stdout, element === null ? '' : `${HEADER}<${element}/>\n`);
      assert.equal(code, name === 'IAT' ? 2 : 3, stderr);
      const lines = stderr.split('\n').filter((line) => !line.startsWith('iotdm: warning: '));
      assert.equal(lines.length, 3, stderr);
      assert.match(lines[0] ?? '', /^iotdm: error: [a-z-]/);
      assert.match(lines[1] ?? '', /^iotdm: hint: \S/);
      assert.doesNotMatch(stdout + stderr, /bZD|ptz9/i);
    });
  }

  it('is JSON on stderr where that is asked for, and XML stays what it is', async () => {
    for (const [args, environment] of [
      [['limpet', '--json', ...noTpm, '-ERK'], {}],
      [['limpet', ...noTpm, '-ERK'], { IOTDM_JSON: '1' }],
    ] as const) {
      const { code, stdout, stderr } = await runInProcess(args, environment);
      assert.equal(code, 3);
      assert.equal(stdout, `${HEADER}<ERKPub/>\n`);
      const { error } = JSON.parse(stderr) as { error: { code: string } };
      assert.equal(error.code, 'tpm-unavailable.connection');
    }
  });

  it('to understand the command line shows the usage', async () => {
    const { code, stdout, stderr } = await runInProcess(['limpet', ...noTpm, '-ERG']);
    assert.equal(code, 2);
    assert.equal(stdout, limpetUsage());
    assert.match(stderr, /^iotdm: error: there is no switch -erg \(did you mean -ERK\?\)\niotdm: hint: /);
  });

  it('to do what is not available yet says so', async () => {
    for (const name of plannedSwitches) {
      const { code, stdout, stderr } = await runInProcess(['limpet', ...noTpm, '0', `-${name}`, 'x']);
      assert.deepEqual([code, stdout], [2, '']);
      assert.match(stderr, new RegExp(`^iotdm: error: -${name} is not available yet\n`));
    }
  });

  it('is that of a dry run, which Limpet does not have, where something would be changed', async () => {
    for (const words of [['-FCT'], ['3', '-DLD'], ['-ERK', 'file'], ['-IAT', '1'], ['3', '-EHK']]) {
      const { code, stderr } = await runInProcess(['limpet', '--dry-run', ...noTpm, ...words]);
      assert.equal(code, 2);
      assert.match(stderr, /^iotdm: error: Limpet's commands have no dry run, and .* nothing was done\n/);
    }
    const { code } = await runInProcess(['limpet', '--dry-run', ...noTpm, '-ERK']);
    assert.equal(code, 3, 'reading is not refused');
  });
});

describe('the usage', () => {
  it('is printed without arguments, and on request', async () => {
    for (const words of [[], ['-?'], ['/help']]) {
      const outcome = await runInProcess(['limpet', ...words]);
      assert.deepEqual(outcome, { code: 0, stdout: limpetUsage(), stderr: '' });
    }
  });
});

describe('any command line', () => {
  it('ends with an exit code that is no bug', async () => {
    const known = [...switchNames.flatMap((name) => limpetSwitches[name].words), ...plannedSwitches];
    const word = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 20 }),
      // -IAT starts a program.
      fc.constantFrom(...known.filter((name) => name !== 'IAT').map((name) => `-${name}`)),
      fc.constantFrom('0', '9', '10', 'csv', '-json', '--tpm', '--json', '--', '-vv', '--quiet', KEY),
      fc.constantFrom('HostName=a.b;DeviceId=c;SharedAccessKey=', '/dev/null', '60', '-h', '--dry-run'),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(word, { maxLength: 6 }), async (words) => {
        fc.pre(!words.some((typed) => /^[-/]iat$/i.test(typed)));
        const { code, stdout, stderr } = await runInProcess(['limpet', ...words], {
          IOTDM_TPM: 'swtpm:host=127.0.0.1,port=1',
        });
        assert.ok([0, 2, 3].includes(code), `${code}: ${stderr}`);
        assert.doesNotMatch(stderr, /unexpected|internal/);
        if (code === 3) assert.match(stdout, /^(<\?xml .*\n<\w+\/>\n)?$/);
      }),
      { numRuns: 300 },
    );
  });
});
