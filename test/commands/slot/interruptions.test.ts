/* The real process is killed while it writes, two of them meet on one TPM, and the state directory is not as it should be. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { existsSync, readdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { defaultStateDirectory } from '../../../commands/shared/state-location.ts';
import { takeProcessLock, type ProcessLock } from '../../../src/process-lock.ts';
import { keyHandle } from '../../../src/slot/layout.ts';
import { parseTcti } from '../../../src/tpm/tcti.ts';
import { holdTpm, lockName } from '../../../src/tpm/tpm-lock.ts';
import { gateTpm } from '../../fakes/tpm-gate.ts';
import { CommandCode, dyingAt } from '../../fakes/transports.ts';
import {
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  startIotdm,
  type RunOptions,
  type SoftwareTpm,
} from '../../lab/lab.ts';
import { parseConnectionString } from '../../../src/slot/device-identity.ts';
import { RecoveryFiles } from '../../../src/slot/recovery-files.ts';
import { writeSlot } from '../../../src/slot/slots.ts';
import { Tpm } from '../../../src/tpm/tpm.ts';
import { failing } from '../failing.ts';

const OLD_KEY = Buffer.alloc(32, 1);
const NEW_KEY = Buffer.alloc(32, 2);

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;

before(async () => {
  chip = await softwareTpm(lifetime);
});

function connectionString(deviceId: string, key: Buffer): string {
  return `HostName=plant.azure-devices.net;DeviceId=${deviceId};SharedAccessKey=${key.toString('base64')}`;
}

interface Shown {
  readonly state: string;
  readonly deviceId: string | null;
  readonly remark: string | null;
  readonly interrupted: string | null;
  readonly outcome?: string;
}

interface ShownError {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly details?: Readonly<Record<string, unknown>>;
}

async function json(args: readonly string[], options: RunOptions = {}): Promise<Shown> {
  const { code, stdout, stderr } = await iotdm([...args, '--json'], options);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return JSON.parse(stdout) as Shown;
}

const isWindows = process.platform === 'win32';

describe('iotdm killed while it writes a slot', { skip: isWindows }, () => {
  it('leaves a slot that tells the truth and is repaired without the secret', async (t) => {
    const state = await scratchDirectory(t);
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
    const write = ['slot', 'write', '2', '--connection-string-file', '-', '--overwrite'];
    // An overwrite takes 16 commands, of which these are the most delicate, and any three.
    const moments = [9, 10, 12, ...Array.from({ length: 3 }, () => Math.floor(Math.random() * 16))];
    for (const [index, moment] of moments.entries()) {
      for (const answered of index < 3 ? [false, true] : [index % 2 === 0]) {
        const why = `killed at command ${moment}, ${answered ? 'after' : 'before'} the TPM has done it`;
        await chip.use(async (tpm) => {
          const access = { tpm, recovery: new RecoveryFiles(state) };
          const credentials = parseConnectionString(connectionString('old', OLD_KEY));
          await writeSlot(access, 2, credentials, { overwrite: true });
        });
        const kill = (): void => {
          running.kill('SIGKILL');
        };
        const gate = await gateTpm(
          chip.tcti,
          (number) => {
            if (number < moment || (answered && number === moment)) return 'pass';
            kill();
            return 'drop';
          },
          (number) => {
            if (number >= moment) kill();
          },
        );
        const running = startIotdm(write, {
          env: { ...env, IOTDM_TPM: gate.tcti },
          stdin: connectionString('new', NEW_KEY),
        });
        const { code } = await running.outcome;
        await gate.close();
        assert.equal(code, -1, why);

        const shown = await json(['slot', 'show', '2'], { env });
        if (shown.state === 'ready') {
          const key = shown.deviceId === 'old' ? OLD_KEY : NEW_KEY;
          await signsWith(key, why);
        } else {
          assert.deepEqual([shown.state, shown.interrupted], ['incomplete', 'write'], why);
        }
        const repaired = await json(['slot', 'repair', '2'], { env });
        assert.equal(repaired.state, 'ready', why);
        assert.equal(repaired.outcome, shown.interrupted === null ? 'nothing' : 'finished', why);
        const isNew = repaired.outcome === 'finished' || shown.deviceId === 'new';
        assert.equal(repaired.deviceId, isNew ? 'new' : 'old', why);
        await signsWith(isNew ? NEW_KEY : OLD_KEY, why);
        assert.equal(chip.handles('transient'), '', why);
        assert.deepEqual(
          readdirSync(state).filter((name) => name.startsWith('recovery')),
          [],
          why,
        );
      }
    }
  });
});

async function signsWith(key: Buffer, why: string): Promise<void> {
  const hmac = await chip.use((tpm) => tpm.hmac(keyHandle(2), Buffer.from('x')));
  assert.ok(hmac.equals(createHmac('sha256', key).update('x').digest()), why);
}

describe('a write that was interrupted', () => {
  it('is named by show, list, check and every error about the slot, each with the way on', async (t) => {
    const state = await scratchDirectory(t);
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
    const tpm = new Tpm(dyingAt(await chip.transport(), CommandCode.NV_Write));
    const access = { tpm, recovery: new RecoveryFiles(state) };
    const credentials = parseConnectionString(connectionString('press-18', NEW_KEY));
    await assert.rejects(writeSlot(access, 7, credentials));
    await tpm.close();
    const shown = await iotdm(['slot', 'show', '7'], { env });
    assert.match(
      shown.stdout,
      /^State +incomplete: it has a key but no URI|^State +incomplete: .*; writing plant\.azure-devices\.net\/press-18 was interrupted$/m,
    );
    assert.match(shown.stdout, /^Next +iotdm slot repair 7$/m);
    assert.match(
      (await iotdm(['slot', 'list'], { env })).stdout,
      /^7 .*was interrupted\) → iotdm slot repair 7$/m,
    );
    assert.match(
      (await iotdm(['tpm', 'check'], { env })).stdout,
      /slot 7: .* was interrupted[^]*iotdm slot repair N/,
    );
    const write = ['slot', 'write', '7', '--connection-string-file', '-'];
    for (const args of [
      ['slot', 'token', '7'],
      ['slot', 'uri', 'read', '7'],
      ['slot', 'uri', 'write', '7', 'h/d', '--overwrite'],
      write,
    ]) {
      const stdin = args === write ? connectionString('d', OLD_KEY) : '';
      const failed = await failing(args, { env, stdin });
      assert.equal(failed.code, 'tpm.slot-incomplete', args.join(' '));
      assert.match(failed.hint, /iotdm slot repair 7; or take it back: iotdm slot repair 7 --undo$/);
    }
    const planned = await iotdm(['slot', 'repair', '7', '--dry-run'], { env });
    assert.equal(planned.stdout, 'Would finish the change to slot 7.\n');
    const undone = await iotdm(['slot', 'repair', '7', '--undo'], { env });
    assert.match(undone.stdout, /✔ The change to slot 7 is taken back. It is empty.\n/);
    assert.equal((await json(['slot', 'show', '7'], { env })).state, 'empty');
  });

  it('is forgotten when the TPM is cleared', async (t) => {
    const state = await scratchDirectory(t);
    const other = await softwareTpm(t, { blank: true });
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: other.tcti };
    const tpm = new Tpm(dyingAt(await other.transport(), CommandCode.NV_Write));
    const access = { tpm, recovery: new RecoveryFiles(state) };
    await assert.rejects(writeSlot(access, 7, parseConnectionString(connectionString('d', NEW_KEY))));
    await tpm.close();
    const records = (): string[] => readdirSync(state).filter((name) => name.startsWith('recovery'));
    assert.equal(records().length, 1);
    assert.equal((await iotdm(['tpm', 'clear', '--yes'], { env })).code, 0);
    assert.deepEqual(records(), []);
  });
});

describe('two iotdm on one TPM', () => {
  const hold = (dir: string, command = 'iotdm slot write'): Promise<ProcessLock> =>
    holdTpm({ dir, tcti: parseTcti(chip.tcti), waitMs: 0, command, since: new Date(0) });

  it('do not both change it: the second is told who is at it', async (t) => {
    const state = await scratchDirectory(t);
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
    const lock = await hold(state);
    t.after(() => {
      lock.release();
    });
    for (const args of [
      ['slot', 'write', '1', '--connection-string-file', '-'],
      ['slot', 'clear', '1', '--yes'],
      ['slot', 'repair', '1'],
      ['slot', 'uri', 'write', '1', 'h/d'],
      ['slot', 'uri', 'clear', '1', '--yes'],
      ['slot', 'key', 'write', '1', '--key-file', '-'],
      ['slot', 'key', 'clear', '1', '--yes'],
      ['tpm', 'clear', '--yes'],
      ['ek', 'read', '--persist'],
    ]) {
      const stdin = args[1] === 'key' ? NEW_KEY.toString('base64') : connectionString('d', NEW_KEY);
      const { code: exitCode, stderr } = await iotdm([...args, '--json'], { env, stdin });
      assert.equal(exitCode, 3, args.join(' '));
      const { code, message, hint, details } = (JSON.parse(stderr) as { error: ShownError }).error;
      assert.equal(code, 'tpm-unavailable.busy');
      assert.equal(
        message,
        `another iotdm is changing this TPM (iotdm slot write, process ${process.pid}, since 1970-01-01T00:00:00.000Z)`,
      );
      assert.match(hint, /--wait/);
      assert.equal(details?.['pid'], process.pid);
    }
    // What only reads goes on, and so does what only says what it would do.
    for (const args of [
      ['slot', 'show', '1'],
      ['slot', 'list'],
      ['ek', 'read'],
      ['slot', 'clear', '1', '--dry-run'],
    ]) {
      assert.equal((await iotdm(args, { env })).code, 0, args.join(' '));
    }
  });

  it('wait for one another with --wait', async (t) => {
    const state = await scratchDirectory(t);
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
    const lock = await hold(state);
    const running = startIotdm(['slot', 'clear', '1', '--yes', '--wait'], { env });
    await running.says(`waiting for another iotdm to release the TPM (process ${process.pid})`);
    lock.release();
    const { code, stderr } = await running.outcome;
    assert.equal(code, 0, stderr);
    assert.deepEqual(readdirSync(state), []);

    const again = await hold(state);
    const interrupted = startIotdm(['slot', 'clear', '1', '--yes', '--wait=300'], { env });
    await interrupted.says('waiting for another iotdm');
    interrupted.kill('SIGINT');
    assert.equal((await interrupted.outcome).code, 130);
    const short = await iotdm(['slot', 'clear', '1', '--yes', '--wait', '0.2'], { env });
    assert.equal(short.code, 3);
    again.release();
    for (const wrong of ['soon', '-1']) {
      assert.equal((await iotdm(['slot', 'clear', '1', '--yes', `--wait=${wrong}`], { env })).code, 2);
    }
  });

  it('take over what a dead one has left, and believe nothing else that stands there', async (t) => {
    const state = await scratchDirectory(t);
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
    const file = join(state, `${lockName(parseTcti(chip.tcti), process.platform)}.lock`);
    for (const content of [
      '',
      'garbage',
      '{"pid":"1"}',
      '{"pid":-1}',
      '{"pid":4194304}',
      `{"pid":${process.pid},"started":"another boot:1"}`,
    ]) {
      writeFileSync(file, content);
      const { code, stderr } = await iotdm(['slot', 'clear', '1', '--yes'], { env });
      assert.equal(code, 0, `${content}: ${stderr}`);
      assert.equal(existsSync(file), false);
    }
    // Of a process on another machine nothing can be known: the file is named, for whoever knows.
    writeFileSync(file, '{"pid":1,"machine":"another-machine","command":"iotdm slot write"}');
    const elsewhere = await failing(['slot', 'clear', '1', '--yes'], { env });
    assert.equal(
      elsewhere.message,
      'another iotdm is changing this TPM (iotdm slot write, process 1 on another-machine)',
    );
    assert.ok(elsewhere.hint.endsWith(`remove ${file}`));
    rmSync(file);
    // Nothing of what another process wrote is shown but what iotdm itself writes.
    const taken = takeProcessLock(state, file.slice(state.length + 1), {
      command: 'iotdm; rm -rf /',
      since: '\u001b[31mnow',
    });
    assert.ok('release' in taken);
    const { message } = await failing(['slot', 'clear', '1', '--yes'], { env });
    assert.equal(message, `another iotdm is changing this TPM (process ${process.pid})`);
    taken.release();
  });

  it('have one lock for one TPM, however it is named', async (t) => {
    const dir = await scratchDirectory(t);
    const name = (text: string | undefined, platform: NodeJS.Platform = 'linux'): string =>
      lockName(text === undefined ? undefined : parseTcti(text), platform);
    assert.equal(name(undefined), name('device:/dev/tpm0'));
    assert.equal(name('device:/dev/tpmrm0'), name('device:/dev/tpm0'));
    assert.notEqual(name('device:/dev/tpmrm1'), name('device:/dev/tpm0'));
    assert.equal(name('device:/dev/tpmrm1'), name('device:/dev/tpm1'));
    assert.equal(name(undefined, 'win32'), name('tbs'));
    assert.equal(name('swtpm:host=localhost,port=2321'), name('mssim:port=2321'));
    assert.notEqual(name('swtpm:port=2321'), name('swtpm:port=2323'));
    assert.notEqual(name('cmd:ssh a tpm2_send'), name('cmd:ssh b tpm2_send'));
    if (isWindows) return;
    writeFileSync(join(dir, 'socket'), '');
    symlinkSync(join(dir, 'socket'), join(dir, 'link'));
    assert.equal(name(`swtpm:path=${join(dir, 'link')}`), name(`swtpm:path=${join(dir, 'socket')}`));
    for (const text of ['cmd:ssh secret@host tpm2_send', 'device:/dev/tpmrm0']) {
      assert.match(name(text), /^tpm-[0-9a-z]+$/);
    }
  });
});

describe('the state directory', () => {
  it('is where the platform keeps state', () => {
    const linux = (environment: Record<string, string>): string =>
      defaultStateDirectory(environment, 'linux');
    assert.equal(linux({ HOME: '/home/o' }), '/home/o/.local/state/iotdm');
    assert.equal(linux({ HOME: '/home/o', XDG_STATE_HOME: '/var/o' }), '/var/o/iotdm');
    assert.equal(linux({ HOME: '/home/o', XDG_STATE_HOME: 'relative' }), '/home/o/.local/state/iotdm');
    assert.equal(
      defaultStateDirectory({ HOME: '/Users/o' }, 'darwin'),
      '/Users/o/Library/Application Support/iotdm',
    );
    const windows = defaultStateDirectory({ LOCALAPPDATA: '/c/local' }, 'win32');
    assert.match(windows, /^\/c\/local.iotdm$/);
  });

  it('is made for its owner, by flag, environment or settings file', { skip: isWindows }, async (t) => {
    const dir = await scratchDirectory(t);
    const clear = ['slot', 'clear', '1', '--yes', '--tpm', chip.tcti];
    writeFileSync(join(dir, 'iotdm.config.json'), JSON.stringify({ stateDir: join(dir, 'by-file') }));
    const runs: [string, string[], Record<string, string>][] = [
      ['by-flag', ['--state-dir', join(dir, 'by-flag')], { IOTDM_STATE_DIR: join(dir, 'unused') }],
      ['by-environment', [], { IOTDM_STATE_DIR: join(dir, 'deep', 'by-environment') }],
      ['by-file', [], {}],
    ];
    for (const [name, flags, env] of runs) {
      const { code, stderr } = await iotdm([...clear, ...flags], { env, cwd: dir });
      assert.equal(code, 0, stderr);
      const made = name === 'by-environment' ? join(dir, 'deep', name) : join(dir, name);
      assert.equal(statSync(made).mode & 0o777, 0o700, name);
    }
    assert.equal(existsSync(join(dir, 'unused')), false);
  });

  it('that cannot be written stops what changes a TPM, says so, and stops nothing else', async (t) => {
    const dir = await scratchDirectory(t);
    writeFileSync(join(dir, 'file'), '');
    const before = [chip.handles('persistent'), chip.handles('nv-index')];
    for (const state of [join(dir, 'file'), join(dir, 'file', 'below'), '/proc/iotdm']) {
      const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
      const write = ['slot', 'write', '5', '--connection-string-file', '-', '--overwrite'];
      const shown = await failing(write, { env, stdin: connectionString('d', NEW_KEY) });
      assert.deepEqual([shown.exitCode, shown.code], [2, 'usage.output-unwritable']);
      assert.match(shown.message, /state directory .* cannot be (?:made|written)/);
      assert.match(shown.hint, /--state-dir DIR \(or IOTDM_STATE_DIR\)/);
      for (const args of [
        ['slot', 'show', '5'],
        ['slot', 'list'],
        ['tpm', 'check'],
        ['slot', 'verify', '5'],
      ]) {
        const { code } = await iotdm(args, { env });
        assert.equal(code, args[1] === 'verify' ? 4 : 0, args.join(' '));
      }
    }
    assert.deepEqual([chip.handles('persistent'), chip.handles('nv-index')], before);
  });

  it('loses the drafts of processes that are gone, and nothing else', async (t) => {
    const state = await scratchDirectory(t);
    const uuid = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa';
    const longAgo = new Date(Date.now() - 3_600_000);
    const put = (name: string, when?: Date): void => {
      writeFileSync(join(state, name), '');
      if (when !== undefined) utimesSync(join(state, name), when, when);
    };
    const ours = [`.recovery-3-000bff.${uuid}`, `.tpm-0.lock.${uuid}`];
    const others = [`.other.${uuid}`, 'recovery-3-000bff', '.recovery-3-000bff.txt'];
    for (const name of [...ours, ...others]) put(name, longAgo);
    put(`.recovery-4-000bff.${uuid}`);
    const env = { IOTDM_STATE_DIR: state, IOTDM_TPM: chip.tcti };
    assert.equal((await iotdm(['slot', 'clear', '1', '--yes'], { env })).code, 0);
    assert.deepEqual(readdirSync(state).sort(), [...others, `.recovery-4-000bff.${uuid}`].sort());
  });
});

it('a record that cannot be written stops a write before it begins', { skip: isWindows }, async (t) => {
  const state = await scratchDirectory(t);
  const recovery = new RecoveryFiles(join(state, 'below'));
  writeFileSync(join(state, 'below'), '');
  const before = [chip.handles('persistent'), chip.handles('nv-index')];
  await chip.use(async (tpm) => {
    const credentials = parseConnectionString(connectionString('d', NEW_KEY));
    await assert.rejects(writeSlot({ tpm, recovery }, 6, credentials), { code: 'usage.output-unwritable' });
  });
  assert.deepEqual([chip.handles('persistent'), chip.handles('nv-index')], before);
  assert.equal(chip.handles('transient'), '');
});
