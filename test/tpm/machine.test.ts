import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { listTpms, thisMachine, type SearchedMachine, type OfferedTpm } from '../../src/tpm/machine.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import { bareResponse, ScriptedTransport } from '../fakes/transports.ts';
import { iotdm, softwareTpm } from '../lab/lab.ts';

/** An answer to GetCapability: TPM_PT_MANUFACTURER is `IFX`. */
const infineon = Buffer.from(
  '8001 0000001b 00000000 00 00000006 00000001 00000105 49465800'.replaceAll(' ', ''),
  'hex',
);

/** A machine with these files; opening a TPM fails as told, and works where nothing is told. */
class FakeMachine implements SearchedMachine {
  readonly platform: string;
  readonly opened: string[] = [];
  readonly #files: Readonly<Record<string, string>>;
  readonly #failures: Readonly<Record<string, ErrorCode>>;

  constructor(
    files: Readonly<Record<string, string>>,
    failures: Readonly<Record<string, ErrorCode>> = {},
    platform = 'linux',
  ) {
    this.#files = files;
    this.#failures = failures;
    this.platform = platform;
  }

  names(directory: string): Promise<string[]> {
    const inside = Object.keys(this.#files).filter((file) => file.startsWith(`${directory}/`));
    return Promise.resolve([
      ...new Set(inside.map((file) => file.slice(directory.length + 1).split('/')[0] ?? '')),
    ]);
  }

  text(file: string): Promise<string | undefined> {
    return Promise.resolve(this.#files[file]);
  }

  open(tcti: string): Promise<TpmTransport> {
    this.opened.push(tcti);
    const failure = this.#failures[tcti];
    return failure === undefined
      ? Promise.resolve(new ScriptedTransport([infineon]))
      : Promise.reject(new IotdmError(failure, `refused: ${failure}`));
  }
}

const version = (chip: string, major: string): Record<string, string> => ({
  [`/sys/class/tpm/${chip}/tpm_version_major`]: `${major}\n`,
});

function outline(offered: readonly OfferedTpm[]): string[] {
  return offered.map(
    ({ tcti, source, description, error, withoutResourceManager }) =>
      `${tcti} (${source}): ${error?.code ?? description?.manufacturer ?? '?'}${withoutResourceManager ? ', bare' : ''}`,
  );
}

describe('the TPMs of a machine', () => {
  it('are its device nodes, the ones with a resource manager first', async () => {
    const machine = new FakeMachine({
      '/dev/tpm10': '',
      '/dev/tpm0': '',
      '/dev/tpmrm10': '',
      '/dev/tpmrm0': '',
      '/dev/tpmx': '',
      '/dev/null': '',
      ...version('tpm0', '2'),
      ...version('tpm10', '2'),
    });
    assert.deepEqual(outline(await listTpms(machine, [])), [
      'device:/dev/tpmrm0 (/dev): IFX',
      'device:/dev/tpmrm10 (/dev): IFX',
      'device:/dev/tpm0 (/dev): IFX',
      'device:/dev/tpm10 (/dev): IFX',
    ]);
  });

  it('may lack a resource manager', async () => {
    const machine = new FakeMachine({ '/dev/tpm0': '', ...version('tpm0', '2') });
    assert.deepEqual(outline(await listTpms(machine, [])), ['device:/dev/tpm0 (/dev): IFX, bare']);
  });

  it('that are not usable say why', async () => {
    const machine = new FakeMachine(
      {
        '/dev/tpm0': '',
        '/dev/tpmrm0': '',
        '/dev/tpm1': '',
        ...version('tpm0', '2'),
        ...version('tpm1', '1'),
      },
      { 'device:/dev/tpmrm0': 'tpm-unavailable.permission', 'device:/dev/tpm0': 'tpm-unavailable.busy' },
    );
    assert.deepEqual(outline(await listTpms(machine, [])), [
      'device:/dev/tpmrm0 (/dev): tpm-unavailable.permission',
      'device:/dev/tpm0 (/dev): tpm-unavailable.busy',
      'device:/dev/tpm1 (/dev): tpm-unavailable.not-tpm2',
    ]);
    // A TPM 1.2 is not sent anything.
    assert.deepEqual(machine.opened, ['device:/dev/tpmrm0', 'device:/dev/tpm0']);
  });

  it('may be in the kernel and not in the container', async () => {
    const machine = new FakeMachine({ ...version('tpm0', '2'), ...version('tpm1', '1') });
    const offered = await listTpms(machine, []);
    assert.deepEqual(outline(offered), [
      'device:/dev/tpmrm0 (/sys/class/tpm): tpm-unavailable.not-found',
      'device:/dev/tpm1 (/sys/class/tpm): tpm-unavailable.not-tpm2',
    ]);
    assert.deepEqual(offered[0]?.error?.details, { withoutNode: '/dev/tpmrm0' });
    assert.deepEqual(machine.opened, []);
  });

  it('include the ones that settings name, each once', async () => {
    const machine = new FakeMachine(
      { '/dev/tpmrm0': '', ...version('tpm0', '1') },
      { tabrmd: 'usage.unsupported' },
    );
    const named = [
      { tcti: 'tabrmd', source: 'TPM2TOOLS_TCTI' },
      { tcti: 'swtpm:port=2321', source: 'IOTDM_TPM' },
      { tcti: 'swtpm:port=2321', source: 'iotdm simulator' },
      { tcti: 'device:/dev/tpmrm0', source: 'setting' },
    ];
    assert.deepEqual(outline(await listTpms(machine, named)), [
      'tabrmd (TPM2TOOLS_TCTI): usage.unsupported',
      'swtpm:port=2321 (IOTDM_TPM): IFX',
      'device:/dev/tpmrm0 (setting): tpm-unavailable.not-tpm2',
    ]);
  });

  it('are behind tbs on Windows', async () => {
    const machine = new FakeMachine({ '/dev/tpm0': '' }, {}, 'win32');
    assert.deepEqual(outline(await listTpms(machine, [])), ['tbs (Windows TPM Base Services): IFX']);
  });

  it('may answer that they were not started', async () => {
    const machine = new FakeMachine({ '/dev/tpmrm0': '' });
    machine.open = () => Promise.resolve(new ScriptedTransport([bareResponse(0x100)]));
    assert.deepEqual(outline(await listTpms(machine, [])), [
      'device:/dev/tpmrm0 (/dev): tpm-unavailable.not-started',
    ]);
  });

  it('are looked for in the real file system without an error', async () => {
    const machine = thisMachine(1000);
    assert.deepEqual(await machine.names('/dev/no-such-directory'), []);
    assert.equal(await machine.text('/sys/class/tpm/no-such-chip'), undefined);
    await assert.rejects(machine.open('nonsense'), { code: 'usage.invalid' });
    await assert.rejects(machine.open('device:/dev/no-such-tpm'), { code: 'tpm-unavailable.not-found' });
  });
});

describe('tpm list', () => {
  it('shows what the environment names and a running simulator, and exits 0 also where none is usable', async (t) => {
    const cwd = await mkdtemp(join(tmpdir(), 'iotdm-lab-'));
    t.after(async () => {
      // It is found by what stands in its directory, so that goes last.
      await iotdm(['simulator', 'stop', '--dir', join(cwd, '.iotdm', 'simulator')]);
      await rm(cwd, { recursive: true, force: true });
    });
    const chip = await softwareTpm(t, { blank: true });
    const started = await iotdm(['simulator', 'start', '--blank', '--json'], { cwd });
    const { tcti } = JSON.parse(started.stdout) as { tcti: string };
    const env = { IOTDM_TPM: chip.tcti, TPM2TOOLS_TCTI: 'tabrmd' };
    const outcome = await iotdm(['tpm', 'list', '--json'], { cwd, env });
    assert.equal(outcome.code, 0, outcome.stderr);
    const listed = JSON.parse(outcome.stdout) as {
      tpm: string;
      usable: boolean;
      source: string;
      hint?: string;
    }[];
    assert.deepEqual(
      listed.slice(0, 3).map(({ tpm, usable, source }) => [tpm, usable, source]),
      [
        [chip.tcti, true, 'IOTDM_TPM'],
        ['tabrmd', false, 'TPM2TOOLS_TCTI'],
        [tcti, true, 'iotdm simulator'],
      ],
    );
    assert.match(listed[1]?.hint ?? '', /\/dev\/tpmrm0/);
    assert.deepEqual(Object.keys(listed[0] ?? {}), [
      'tpm',
      'usable',
      'source',
      'manufacturer',
      'vendorString',
      'firmware',
      'revision',
    ]);
    const text = await iotdm(['tpm', 'list'], { cwd, env });
    assert.match(text.stdout, /✖ tabrmd .*not supported.*\n\s+→ use device/);
  });
});
