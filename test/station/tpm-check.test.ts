import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type * as TssModule from 'tss.js';
import { IotdmError } from '../../src/errors.ts';
import { URI_ATTRIBUTES } from '../../src/slot/layout.ts';
import type { SlotTpm } from '../../src/slot/slots.ts';
import { checkIds, checkTpm, type Check, type CheckReport } from '../../src/station/tpm-check.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { srkTemplate, type HierarchyAuth } from '../../src/tpm/tss.ts';
import { bareResponse, DyingTransport, ScriptedTransport } from '../fakes/transports.ts';
import { chipContents } from '../lab/chip-contents.ts';
import { iotdm, scratchDirectory, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

/** What a check may send: nothing here changes more than the transient slots, and those only for a moment. */
const harmless = [
  'GetCapability',
  'TestParms',
  'ReadPublic',
  'NV_ReadPublic',
  'NV_Read',
  'CreatePrimary',
  'StartAuthSession',
  'PolicySecret',
  'ActivateCredential',
  'FlushContext',
];

interface Examination {
  readonly report: CheckReport;
  readonly sent: readonly string[];
  /** The checks that did not pass, such as `warn srk`. */
  readonly remarkable: readonly string[];
  readonly of: (id: Check['id']) => Check;
}

/** Checks a chip and sees to it that this changed nothing. */
async function examine(chip: SoftwareTpm, auth: HierarchyAuth = {}): Promise<Examination> {
  const before = chipContents(chip);
  const [report, sent] = await chip.use(
    async (tpm) => [await checkTpm(() => Promise.resolve(tpm)), [...tpm.commandsSent]] as const,
    { auth },
  );
  assert.equal(chipContents(chip), before);
  assert.deepEqual(
    sent.filter((command) => !harmless.includes(command)),
    [],
  );
  assert.deepEqual(
    report.checks.map(({ id }) => id),
    [...checkIds],
  );
  return {
    report,
    sent,
    remarkable: report.checks
      .filter(({ status }) => status !== 'pass')
      .map(({ status, id }) => `${status} ${id}`),
    of: (id) => report.checks.find((check) => check.id === id) ?? assert.fail(id),
  };
}

/** Runs a command that needs what is broken, and sees to it that it fails cleanly. */
async function fails(
  chip: SoftwareTpm,
  args: readonly string[],
  expected: { exit: number; code: string; hint: RegExp; env?: Record<string, string>; stdin?: string },
): Promise<void> {
  const before = chipContents(chip);
  const { env = {}, stdin = '' } = expected;
  const outcome = await iotdm([...args, '--json'], { env: { IOTDM_TPM: chip.tcti, ...env }, stdin });
  assert.equal(outcome.code, expected.exit, outcome.stderr);
  const { error } = JSON.parse(outcome.stderr) as { error: { code: string; hint: string } };
  assert.equal(error.code, expected.code);
  assert.match(error.hint, expected.hint);
  assert.equal(outcome.stdout, '');
  assert.equal(chipContents(chip), before);
}

const connectionString =
  'HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
const slotWrite = ['slot', 'write', '0', '--connection-string-file', '-'];

function keepSrk(chip: SoftwareTpm): Promise<void> {
  return chip.use((tpm) => tpm.ensureStorageRootKey());
}

describe('checking a TPM', () => {
  it('passes one as it comes from the factory, with 21 commands of which one derives the SRK', async (t) => {
    const chip = await softwareTpm(t);
    const examined = await examine(chip);
    const { report, sent, remarkable } = examined;
    assert.equal(report.ok, true);
    assert.deepEqual(remarkable, ['warn srk']);
    assert.equal(sent.length, 21);
    assert.equal(sent.filter((command) => command === 'CreatePrimary').length, 1);
    assert.match(examined.of('ek-round-trip').message, /^the TPM opens/);
    await keepSrk(chip);
    const again = await examine(chip);
    assert.deepEqual(again.remarkable, []);
    assert.equal(again.sent.length, 19);
    assert.ok(!again.sent.includes('CreatePrimary'));
    assert.match(again.of('ek-origin').message, /the EK certificate names it/);
  });

  it('passes a blank one, whose key it derives', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const { report, sent, remarkable } = await examine(chip);
    assert.equal(report.ok, true);
    assert.deepEqual(remarkable, ['warn ek', 'warn ek-certificate', 'skip ek-origin', 'warn srk']);
    assert.equal(sent.filter((command) => command === 'CreatePrimary').length, 2);
    const kept = await iotdm(['ek', 'read', '--persist', '-q'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(kept.code, 0);
    const { of } = await examine(chip);
    assert.equal(of('ek').status, 'pass');
    assert.match(of('ek-origin').message, /template L-1 gives the same/);
  });

  it('names authorization values that are set, and tries the ones that are given', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    for (const [hierarchy, value] of [
      ['e', 'endorsed'],
      ['o', 'owned'],
      ['l', 'locked'],
    ] as const) {
      chip.tool('tpm2_changeauth', '-c', hierarchy, value);
    }
    const without = await examine(chip);
    assert.equal(without.report.ok, false);
    assert.equal(without.of('owner-auth').finding, 'auth-not-given');
    assert.equal(without.of('endorsement-auth').code, 'tpm.authorization');
    assert.match(without.of('lockout-auth').message, /is set/);
    assert.ok(!without.sent.includes('CreatePrimary'));

    const [owner, endorsement] = [Buffer.from('owned'), Buffer.from('endorsed')];
    const given = await examine(chip, { owner, endorsement });
    assert.equal(given.report.ok, true);
    const wrong = await examine(chip, { owner, endorsement: Buffer.from('wrong') });
    assert.equal(wrong.of('endorsement-auth').code, 'tpm.authorization');
    assert.equal(wrong.sent.filter((command) => command === 'CreatePrimary').length, 2);

    const hint = /--owner-auth-file/;
    await fails(chip, ['ek', 'read'], { exit: 4, code: 'tpm.authorization', hint });
    await fails(chip, slotWrite, { exit: 4, code: 'tpm.authorization', hint, stdin: connectionString });
  });

  it('does not send a value that the TPM would refuse', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const { of, sent } = await examine(chip, { endorsement: Buffer.from('needless') });
    assert.equal(of('endorsement-auth').finding, 'auth-not-set');
    assert.ok(!sent.includes('CreatePrimary'));
  });

  it('names a lockout, and what leads to one', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    chip.tool(
      'tpm2_nvdefine',
      '0x1800001',
      '-C',
      'o',
      '-s',
      '8',
      '-p',
      'guarded',
      '-a',
      'authread|authwrite',
    );
    const guess = (): void => {
      assert.throws(() => chip.tool('tpm2_nvread', '0x1800001', '-P', 'wrong'));
    };
    guess();
    const counted = await examine(chip);
    assert.equal(counted.report.ok, true);
    assert.equal(counted.of('lockout').finding, 'wrong-values-counted');
    guess();
    guess();
    const locked = await examine(chip);
    assert.equal(locked.report.ok, false);
    assert.equal(locked.of('lockout').code, 'tpm.lockout');
  });

  it('names transient slots and sessions that are used up', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    const load = (name: string): string =>
      chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, name));
    load('one');
    const left = await examine(chip);
    assert.equal(left.report.ok, true);
    assert.equal(left.of('transient').finding, 'transient-left');
    assert.match(left.of('transient').message, /0x80000000/);
    load('two');
    // Opening a credential and writing a slot take two at once.
    const tight = await examine(chip);
    assert.deepEqual([tight.report.ok, tight.of('transient').code], [false, 'tpm.transient-full']);
    await fails(chip, slotWrite, {
      exit: 4,
      code: 'tpm.transient-full',
      hint: /tpm2_flushcontext -t/,
      stdin: connectionString,
    });
    load('three');
    const full = await examine(chip);
    assert.equal(full.of('transient').code, 'tpm.transient-full');
    assert.ok(!full.sent.includes('CreatePrimary'));
    await fails(chip, ['ek', 'read'], { exit: 4, code: 'tpm.transient-full', hint: /tpm2_flushcontext -t/ });
    chip.tool('tpm2_flushcontext', '-t');

    await startSessions(chip, 1);
    assert.equal((await examine(chip)).of('sessions').finding, 'sessions-left');
    await startSessions(chip, 2);
    assert.equal((await examine(chip)).of('sessions').finding, 'sessions-full');
  });

  it('names a TPM that was not started', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const control = Number(/port=(\d+)/.exec(chip.tcti)?.[1]) + 1;
    execFileSync('swtpm_ioctl', ['--tcp', `127.0.0.1:${control}`, '-i']);
    const report = await chip.use((tpm) => checkTpm(() => Promise.resolve(tpm)));
    assert.deepEqual(
      report.checks.filter(({ status }) => status !== 'skip').map(({ id, status }) => `${status} ${id}`),
      ['pass reachable', 'pass permissions', 'pass tpm-2.0', 'fail started'],
    );
    const outcome = await iotdm(['tpm', 'check', '--json'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(outcome.code, 3);
    const needing = await iotdm(['ek', 'read'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(needing.code, 3);
    assert.match(needing.stderr, /hint: .*tpm2_startup -c/);
  });

  it('names NV memory that is full of the indexes of others', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await chip.use(async (tpm: Pick<SlotTpm, 'nvDefine'>) => {
      let index = 0x01800000;
      for (const size of [2048, 256, 8]) {
        await untilNoRoom(async () => {
          await tpm.nvDefine((index += 1), URI_ATTRIBUTES, size);
        });
      }
    });
    const { report, of } = await examine(chip);
    assert.equal(report.ok, true);
    assert.equal(of('room').finding, 'little-room');
    assert.match(of('room').message, /NV memory may be full: \d+ NV indexes of other programs/);
    await fails(chip, slotWrite, {
      exit: 4,
      code: 'tpm.no-room',
      hint: /make room/,
      stdin: connectionString,
    });
  });

  it('names a TPM that is full of persistent keys', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await keepSrk(chip);
    await chip.use((tpm) =>
      tpm.withPrimary('owner', srkTemplate(), async ({ handle }) => {
        let place = 0x81020000;
        await untilNoRoom(() => tpm.persist(handle, (place += 1)));
      }),
    );
    const { of } = await examine(chip);
    assert.equal(of('room').code, 'tpm.no-room');
    // Room for one key is not enough for an SRK and a slot.
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', '0x81000001');
    const { report, of: ofTight } = await examine(chip);
    assert.deepEqual([report.ok, ofTight('room').code], [false, 'tpm.no-room']);
    await fails(chip, slotWrite, {
      exit: 4,
      code: 'tpm.no-room',
      hint: /make room/,
      stdin: connectionString,
    });
  });

  it("names keys that are not a slot's, the SRK or the EK where these belong", async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    const place = (handle: string): void => {
      chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'ecc'), handle);
      chip.tool('tpm2_flushcontext', '-t');
    };
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, 'ecc'));
    chip.tool('tpm2_flushcontext', '-t');
    for (const handle of ['0x81000103', '0x81000100', '0x81000001', '0x81010001']) place(handle);
    const { of } = await examine(chip);
    assert.equal(of('slots').code, 'tpm.slot-foreign');
    assert.match(of('slots').message, /slot 0: .* slot 3: /);
    assert.equal(of('srk').code, 'tpm.parent-unsuitable');
    assert.equal(of('ek').code, 'tpm.ek-unsuitable');
    await fails(chip, slotWrite, {
      exit: 4,
      code: 'tpm.slot-foreign',
      hint: /--force/,
      stdin: connectionString,
    });
    await fails(chip, ['ek', 'read'], { exit: 4, code: 'tpm.ek-unsuitable', hint: /tpm2_evictcontrol/ });
    await fails(chip, ['srk', 'read'], { exit: 4, code: 'tpm.parent-unsuitable', hint: /tpm2_evictcontrol/ });
  });

  it('warns of a slot 3 that another program uses, and of an SRK of another template', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'rsa', '-c', join(dir, 'rsa'));
    for (const handle of ['0x81000103', '0x81000001']) {
      chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'rsa'), handle);
    }
    chip.tool('tpm2_flushcontext', '-t');
    const { report, remarkable, of } = await examine(chip);
    assert.equal(report.ok, true);
    assert.deepEqual(remarkable, ['warn srk', 'warn slots']);
    assert.equal(of('srk').finding, 'srk-unusual');
  });
});

/** What `ek read` says of the key when it is asked to. */
async function originOf(chip: SoftwareTpm): Promise<string> {
  const before = chipContents(chip);
  const { stdout, stderr } = await iotdm(['ek', 'read', '--origin', '--json', '--tpm', chip.tcti]);
  assert.equal(stderr, '');
  assert.equal(chipContents(chip), before);
  return (JSON.parse(stdout) as { origin: string }).origin;
}

describe('where an endorsement key comes from', () => {
  it('is an Azure SDK, when azure-iot-security-tpm made it', async (t) => {
    const chip = await softwareTpm(t);
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', '0x81010001');
    const { of: withoutKey } = await examine(chip);
    assert.match(withoutKey('ek-certificate').message, /is for the key that template L-1 gives/);
    assert.equal(await originOf(chip), 'manufacturer');
    await registerLikeAzure(chip);
    assert.equal(await originOf(chip), 'azure-sdk');
    const { report, of } = await examine(chip);
    assert.equal(report.ok, true);
    assert.equal(of('ek-certificate').finding, 'certificate-of-another-key');
    assert.equal(of('ek-origin').finding, 'ek-made-by-sdk');
    assert.equal(of('srk').status, 'pass');
  });

  it('is unknown, when neither template gives it', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const { ekTemplate } = await import('../../src/tpm/tss.ts');
    const template = ekTemplate();
    Object.assign(template.unique, { buffer: Buffer.alloc(256, 1) });
    await chip.use((tpm) =>
      tpm.withPrimary('endorsement', template, ({ handle }) => tpm.persist(handle, 0x81010001)),
    );
    const { report, of, sent } = await examine(chip);
    assert.equal(report.ok, true);
    assert.equal(of('ek-origin').finding, 'ek-foreign');
    assert.equal(await originOf(chip), 'foreign');
    assert.equal(sent.filter((command) => command === 'CreatePrimary').length, 3);
  });
});

describe('an EK certificate', () => {
  it('that is damaged fails with exit 9, and the result is on stdout', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    for (const [bytes, why] of [
      [Buffer.alloc(16, 0xee), /no certificate begins there/],
      [Buffer.from('308203f0aaaaaaaa', 'hex'), /cannot be read as a certificate/],
    ] as const) {
      writeFileSync(join(dir, 'damage'), bytes);
      chip.tool('tpm2_nvwrite', '0x1c00002', '-C', 'p', '-i', join(dir, 'damage'));
      const { of } = await examine(chip);
      assert.equal(of('ek-certificate').finding, 'certificate-damaged');
      assert.match(of('ek-certificate').message, why);
      // The key itself is none the worse.
      assert.match(of('ek-origin').message, /template L-1 gives the same/);
    }
    const outcome = await iotdm(['tpm', 'check', '--json'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(outcome.code, 9);
    const result = JSON.parse(outcome.stdout) as { ok: boolean; checks: { id: string; hint?: string }[] };
    assert.equal(result.ok, false);
    assert.deepEqual(Object.keys(result), ['ok', 'checks']);
    assert.deepEqual(Object.keys(result.checks.find(({ id }) => id === 'ek-certificate') ?? {}), [
      'id',
      'status',
      'message',
      'hint',
    ]);
    const { error } = JSON.parse(outcome.stderr) as { error: { code: string; details: object } };
    assert.equal(error.code, 'verify.ek-certificate');
    assert.deepEqual(error.details, { check: 'ek-certificate', failed: ['ek-certificate'] });
  });

  it('of another chip fails with exit 9; one that cannot be read without a guess is not read', async (t) => {
    const other = await softwareTpm(t);
    const chip = await softwareTpm(t, { blank: true });
    const file = join(await scratchDirectory(t), 'certificate');
    other.tool('tpm2_nvread', '0x1c00002', '-o', file);
    const size = String(readFileSync(file).length);
    const put = (attributes: string, ...more: string[]): void => {
      chip.tool('tpm2_nvdefine', '0x1c00002', '-C', 'o', '-s', size, '-a', attributes, ...more);
      chip.tool('tpm2_nvwrite', '0x1c00002', '-C', 'o', '-i', file);
    };
    // As a manufacturer would define it, and as somebody who did not think of guessing.
    for (const attributes of ['ownerwrite|ownerread|authread|no_da', 'ownerwrite|ownerread|authread']) {
      put(attributes);
      const { of } = await examine(chip);
      assert.equal(of('ek-certificate').finding, 'certificate-of-another-chip');
      assert.equal(of('ek-certificate').code, 'verify.ek-certificate');
      chip.tool('tpm2_nvundefine', '0x1c00002', '-C', 'o');
    }
    put('ownerwrite|authread', '-p', 'guarded');
    const { of, sent } = await examine(chip);
    assert.equal(of('ek-certificate').finding, 'certificate-closed');
    assert.ok(!sent.includes('NV_Read'));
    chip.tool('tpm2_nvundefine', '0x1c00002', '-C', 'o');
    chip.tool('tpm2_nvdefine', '0x1c00002', '-C', 'o', '-s', '8', '-a', 'ownerwrite|authread|no_da');
    assert.equal((await examine(chip)).of('ek-certificate').finding, 'certificate-damaged');
  });
});

describe('a TPM that cannot be checked', () => {
  const statuses = (report: CheckReport): string[] =>
    report.checks.filter(({ status }) => status !== 'skip').map(({ id, status }) => `${status} ${id}`);

  it('is unreachable, and everything else is skipped', async () => {
    const outcome = await iotdm(['tpm', 'check', '--json', '--tpm', 'swtpm:host=127.0.0.1,port=1']);
    assert.equal(outcome.code, 3);
    const { ok, checks } = JSON.parse(outcome.stdout) as { ok: boolean; checks: Check[] };
    assert.equal(ok, false);
    assert.deepEqual(statuses({ ok, checks }), ['fail reachable']);
    assert.equal(checks.length, checkIds.length);
  });

  it('may not be opened', async () => {
    const refused = new IotdmError('tpm-unavailable.permission', 'no permission to use /dev/tpmrm0');
    const report = await checkTpm(() => Promise.reject(refused));
    assert.deepEqual(statuses(report), ['fail permissions']);
    assert.equal(report.checks[1]?.code, 'tpm-unavailable.permission');
  });

  it('is a TPM 1.2, in failure mode, or silent', async () => {
    const cases: [number, string[]][] = [
      [0x01e, ['pass reachable', 'pass permissions', 'fail tpm-2.0']],
      [0x101, ['pass reachable', 'pass permissions', 'pass tpm-2.0', 'fail started']],
    ];
    for (const [response, expected] of cases) {
      const tpm = new Tpm(new ScriptedTransport([bareResponse(response)]));
      assert.deepEqual(statuses(await checkTpm(() => Promise.resolve(tpm))), expected);
    }
    const silent = new Tpm(new ScriptedTransport([]));
    assert.deepEqual(statuses(await checkTpm(() => Promise.resolve(silent))), [
      'fail reachable',
      'pass permissions',
    ]);
  });

  it('goes away in the middle: what is left is skipped', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    for (let lethal = 0; ; lethal += 1) {
      const tpm = new Tpm(new DyingTransport(await chip.transport(), lethal, 'before'));
      const report = await checkTpm(() => Promise.resolve(tpm));
      await tpm.close();
      if (report.ok) {
        assert.ok(lethal >= 15, 'all commands were tried');
        break;
      }
      const firstFailure = report.checks.findIndex(({ status }) => status === 'fail');
      assert.equal(report.checks[firstFailure]?.code, 'tpm-unavailable.connection', String(lethal));
      assert.equal(report.checks.filter(({ status }) => status === 'fail').length, 1);
      assert.equal(report.checks.at(-1)?.status, 'skip');
      // What a cut connection leaves behind would be found the next time.
      chip.tool('tpm2_flushcontext', '-t');
    }
  });

  it('stops when it is interrupted', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const interrupt = new AbortController();
    await assert.rejects(
      chip.use((tpm) => checkTpm(() => Promise.resolve(tpm)), {
        signal: interrupt.signal,
        onCommand: ({ command }) => {
          if (command === 'CreatePrimary') interrupt.abort();
        },
      }),
      { code: 'interrupted.signal' },
    );
    assert.equal(chip.handles('transient'), '');
  });
});

async function untilNoRoom(step: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      await step();
    } catch (error) {
      if (error instanceof IotdmError && error.code === 'tpm.no-room') return;
      throw error;
    }
  }
}

/** TPM2_StartAuthSession without salt and binding, for an HMAC session that nobody ends. */
async function startSessions(chip: SoftwareTpm, count: number): Promise<void> {
  const transport = await chip.transport();
  const command = Buffer.from(
    `80010000002b0000017640000007400000070010${'00'.repeat(16)}0000000010000b`,
    'hex',
  );
  for (let number = 0; number < count; number += 1) {
    const response = await transport.send(command);
    assert.equal(response.readUInt32BE(6), 0);
  }
  await transport.close();
}

interface SecurityClient {
  getEndorsementKey(done: (error: unknown, key: Buffer) => void): void;
}

/** Azure's own device SDK makes its keys in the chip, over our transport. */
async function registerLikeAzure(chip: SoftwareTpm): Promise<void> {
  const require = createRequire(import.meta.url);
  const { TpmSecurityClient } = require('azure-iot-security-tpm') as {
    TpmSecurityClient: new (registrationId: string, tpm: unknown) => SecurityClient;
  };
  const { Tpm: TssTpm } = require('tss.js') as typeof TssModule;
  const transport = await chip.transport();
  const tpm = new TssTpm(true);
  Object.assign(tpm, {
    device: {
      connect: (done: (error: null) => void) => setImmediate(done, null),
      dispatchCommand: (command: Buffer, done: (error: null, response: Buffer) => void) => {
        void transport.send(command).then((response) => {
          done(null, response);
        });
      },
      close: () => undefined,
    },
  });
  await new Promise<void>((resolve, reject) => {
    new TpmSecurityClient('device', tpm).getEndorsementKey((error) => {
      if (error == null) resolve();
      else reject(error instanceof Error ? error : new Error('the SDK failed'));
    });
  });
  await transport.close();
}
