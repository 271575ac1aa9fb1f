import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { iotdm, scratchDirectory } from '../lab/lab.ts';

interface Status {
  readonly running: boolean;
  readonly pid: number | null;
  readonly dir: string;
  readonly tcti: string | null;
  readonly host: string | null;
  readonly connectionStringFile: string | null;
  readonly ca: string | null;
  readonly knobs: unknown;
}

type Part = 'simulator' | 'emulator';

const keys: Readonly<Record<Part, readonly string[]>> = {
  simulator: ['running', 'tcti', 'dir', 'pid'],
  emulator: [
    'running',
    'host',
    'deviceHost',
    'idScope',
    'connectionStringFile',
    'ca',
    'dir',
    'pid',
    'hubHost',
    'hub',
    'knobs',
  ],
};

/** A state directory whose process, whatever becomes of the test, does not outlive it. */
async function stateDirectory(t: TestContext, part: Part): Promise<string> {
  let dir = '';
  // Before the directory, by which it is found, goes.
  t.after(async () => {
    await iotdm([part, 'stop', '--dir', dir]);
  });
  dir = join(await scratchDirectory(t), 'state');
  return dir;
}

async function run(...args: string[]): Promise<Status> {
  const { code, stdout, stderr } = await iotdm([...args, '--json']);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Status;
}

function isRunning(pid: number | null): boolean {
  try {
    // Field 3 of /proc/PID/stat; nobody waits for an orphan that has ended in some containers.
    return !/^\d+ \(.*\) [ZX] /s.test(readFileSync(`/proc/${pid ?? 0}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Everything in a directory, with contents, as one text. */
function snapshot(dir: string): string {
  if (!existsSync(dir)) return 'absent';
  const files = readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort();
  return files
    .map((name) => {
      const path = join(dir, name);
      return statSync(path).isFile() ? `${name}: ${readFileSync(path, 'base64')}` : name;
    })
    .join('\n');
}

for (const part of ['simulator', 'emulator'] as const) {
  describe(`iotdm ${part}`, () => {
    it('starts once, says where, is the same after a restart, stops once and forgets when told to', async (t) => {
      const dir = await stateDirectory(t, part);
      const absent = await run(part, 'status', '--dir', dir);
      assert.equal(absent.running, false);
      assert.equal(existsSync(dir), false, 'status makes nothing');

      const text = await iotdm([part, 'start', '--dir', dir]);
      assert.equal(text.code, 0, text.stderr);
      assert.match(text.stdout.split('\n')[0] ?? '', /for rehearsal, never for production/);
      const first = await run(part, 'start', '--dir', dir);
      const status = await run(part, 'status', '--dir', dir);
      assert.deepEqual(first, status, 'started twice it runs once');
      assert.deepEqual(Object.keys(status), keys[part]);
      assert.equal(status.running, true);
      assert.equal(isRunning(status.pid), true);
      assert.equal(statSync(dir).mode & 0o777, 0o700);
      const identity = await identityOf(part, status);

      const ended = await iotdm([part, 'stop', '--dir', dir]);
      assert.match(ended.stdout, /has ended/);
      assert.equal(isRunning(status.pid), false, 'no process is left');
      const again = await iotdm([part, 'stop', '--dir', dir]);
      assert.equal(again.code, 0);
      assert.match(again.stdout, /No .* was running/);
      assert.equal((await run(part, 'status', '--dir', dir)).running, false);

      const restarted = await run(part, 'start', '--dir', dir);
      assert.equal(await identityOf(part, restarted), identity, 'the same after a restart');

      const wiped = await run(part, 'stop', '--wipe', '--dir', dir);
      assert.deepEqual({ ...wiped, dir: '' }, { running: false, stopped: true, wiped: true, dir: '' });
      assert.equal(isRunning(restarted.pid), false);
      assert.deepEqual(readdirSync(dir), [], 'nothing is left in its directory');
    });

    it('takes a killed process for what it is', async (t) => {
      const dir = await stateDirectory(t, part);
      const { pid } = await run(part, 'start', '--dir', dir);
      process.kill(pid ?? 0, 'SIGKILL');
      while (isRunning(pid)) await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal((await run(part, 'status', '--dir', dir)).running, false);
      const stopped = await iotdm([part, 'stop', '--dir', dir]);
      assert.match(stopped.stdout, /No .* was running/);
      const restarted = await run(part, 'start', '--dir', dir);
      assert.equal(restarted.running, true);
      assert.notEqual(restarted.pid, pid);
    });

    it('changes nothing on a dry run', async (t) => {
      const dir = await stateDirectory(t, part);
      assert.equal((await run(part, 'start', '--dry-run', '--dir', dir)).running, false);
      assert.equal(existsSync(dir), false);
      const started = await run(part, 'start', '--dir', dir);
      const before = snapshot(dir);
      const text = await iotdm([part, 'stop', '--wipe', '--dry-run', '--dir', dir]);
      assert.match(text.stdout, /^Would end the .*; would delete its state\.\n$/);
      assert.equal(snapshot(dir), before);
      assert.equal(isRunning(started.pid), true);
    });

    it('says why it cannot start on a port in use', async (t) => {
      const dir = await stateDirectory(t, part);
      const other = await stateDirectory(t, part);
      const { tcti, host } = await run(part, 'start', '--dir', dir);
      const port = /(\d+)$/.exec(tcti ?? host ?? '')?.[1] ?? '';
      const { code, stderr } = await iotdm([part, 'start', '--dir', other, '--port', port]);
      assert.equal(code, 2, stderr);
      assert.match(stderr, new RegExp(`^iotdm: error: port ${port} .*127\\.0\\.0\\.1`, 'm'));
      assert.match(stderr, /^iotdm: hint: ask for another port, or for none/m);
      assert.equal((await run(part, 'status', '--dir', other)).running, false);
    });
  });
}

describe('a process that has ended and that nobody waits for', () => {
  it('is not running', async (t) => {
    // The shell becomes a sleep that knows nothing of the child that the shell had. The child outlives the shell, which
    // would otherwise wait for it.
    const parent = spawn('sh', ['-c', 'sleep 0.3 & echo $!; exec sleep 60'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    t.after(() => parent.kill('SIGKILL'));
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const zombie = Number(line.toString());
    while (isRunning(zombie)) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.ok(existsSync(`/proc/${zombie}`), 'it is still listed');

    const dir = await scratchDirectory(t);
    writeFileSync(join(dir, 'lock'), JSON.stringify({ pid: zombie, started: null }));
    writeFileSync(
      join(dir, 'service-connection-string'),
      'HostName=127.0.0.1:1;SharedAccessKeyName=x;SharedAccessKey=x',
    );
    assert.equal((await run('emulator', 'status', '--dir', dir)).running, false);
    writeFileSync(join(dir, 'swtpm.pid'), `${zombie}\n`);
    writeFileSync(join(dir, 'simulator.json'), '{"port":1}');
    assert.equal((await run('simulator', 'status', '--dir', dir)).running, false);
  });
});

describe('iotdm emulator start with quota, latency and faults', () => {
  const knobs = ['--quota', '9/s', '--bulk-cost', 'request', '--latency', '0-1', '--assign-delay', '5'];
  const faults = ['--fault', '503,nth=1,retry-after=0', '--fault', 'stall,ms=1,rate=5%', '--fault-seed', '7'];

  it('says so while it runs, is asked for the same only, and is well-behaved the next time', async (t) => {
    const dir = await stateDirectory(t, 'emulator');
    const text = await iotdm(['emulator', 'start', '--dir', dir, ...knobs, ...faults]);
    assert.equal(text.code, 0, text.stderr);
    assert.match(text.stdout, /^Quota +9\/s, a bulk request counts once$/m);
    assert.match(text.stdout, /^Latency +0-1 ms$/m);
    assert.match(text.stdout, /^Assign delay +5 ms$/m);
    assert.match(text.stdout, /^Fault +503,retry-after=0,nth=1\nFault +stall,ms=1,rate=0\.05$/m);
    const status = await run('emulator', 'status', '--dir', dir);
    assert.deepEqual(status.knobs, {
      quota: '9/s',
      bulkCost: 'request',
      latency: '0-1',
      assignDelay: 5,
      faults: ['503,retry-after=0,nth=1', 'stall,ms=1,rate=0.05'],
      faultSeed: 7,
    });
    assert.deepEqual(await run('emulator', 'start', '--dir', dir), status);
    assert.deepEqual(await run('emulator', 'start', '--dir', dir, ...knobs, ...faults), status);
    const other = await iotdm(['emulator', 'start', '--dir', dir, '--quota', '10', '--json']);
    assert.equal(other.code, 2);
    assert.match(other.stderr, /"code":"usage.emulator-running"/);
    assert.match(other.stderr, /iotdm emulator stop/);

    // The first request is refused with 503, and the client tries again.
    const list = await iotdm([
      ...['enrollment', 'list', '--json', '--ca', status.ca ?? ''],
      ...['--dps-connection-string-file', status.connectionStringFile ?? ''],
    ]);
    assert.equal(list.code, 0, list.stderr);
    await run('emulator', 'stop', '--dir', dir);
    assert.equal((await run('emulator', 'start', '--dir', dir)).knobs, null);
  });

  it('refuses what it does not understand, before anything is started', async (t) => {
    const dir = await stateDirectory(t, 'emulator');
    for (const [args, message] of [
      [['--quota', 'many'], /the quota .*many.* is not a number/],
      [['--bulk-cost', 'ten'], /request, enrollment/],
      [['--latency', '9-5'], /the latency/],
      [['--assign-delay', 'x'], /the delay/],
      [['--fault', 'cut-befor'], /did you mean cut-before/],
      [['--fault', '503', '--fault-seed', 'x'], /the fault seed/],
      [['--device-port', '0'], /expected 1 to 65535/],
      [['--hub-port', 'x'], /expected 1 to 65535/],
    ] as const) {
      const { code, stderr } = await iotdm(['emulator', 'start', '--dir', dir, '--json', ...args]);
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
    }
    assert.equal(existsSync(dir), false);
  });
});

describe('iotdm emulator stop --wipe', () => {
  it('removes what killed processes have left of ours, and nothing else', async (t) => {
    const dir = await stateDirectory(t, 'emulator');
    await run('emulator', 'start', '--dir', dir);
    const ours = [
      'enrollments.ndjson.new',
      'devices.ndjson.new',
      `.ca-key.pem.${randomUUID()}`,
      `.service-connection-string.${randomUUID()}`,
      `.lock.${randomUUID()}`,
    ];
    const theirs = ['.gitignore', 'notes.txt', '.ca-key.pem.backup'];
    for (const name of [...ours, ...theirs]) writeFileSync(join(dir, name), 'x');
    await run('emulator', 'stop', '--wipe', '--dir', dir);
    assert.deepEqual(readdirSync(dir).sort(), theirs.sort());
  });
});

/** What makes it this TPM or this service: the registration id, or key and certificate. */
async function identityOf(part: Part, { tcti, connectionStringFile, ca }: Status): Promise<string> {
  if (part === 'emulator')
    return readFileSync(connectionStringFile ?? '', 'utf8') + readFileSync(ca ?? '', 'utf8');
  const { stdout, stderr } = await iotdm(['ek', 'read', '--json', '--tpm', tcti ?? '']);
  assert.notEqual(stdout, '', stderr);
  return (JSON.parse(stdout) as { registrationId: string }).registrationId;
}
