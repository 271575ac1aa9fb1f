/* What a person at a terminal sees: `script` of util-linux gives iotdm a pseudo-terminal. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  executable,
  HANG_MS,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';

const lifetime = lifetimeOfFile();
const key = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
const connectionString = `HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessKey=${key}`;
const ESCAPE = '\u001b';
const COLOR = `${ESCAPE}[3`;

let chip: SoftwareTpm;
let service: EmulatedService;
let dir: string;

before(async () => {
  chip = await softwareTpm(lifetime);
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
});

interface Screen {
  readonly code: number;
  /** All that was written to the terminal, line ends as a terminal wants them. */
  readonly shown: string;
}

const withoutCi = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== 'CI'));

/** In front of the command it goes into a pipe whose reader ends at once; the exit code stays iotdm's. */
const intoClosedPipe = 'into a closed pipe';

/** Runs iotdm at a terminal of this width; `keys` are typed once it shows `prompt`. */
function atTerminal(
  args: readonly string[],
  typing?: { readonly prompt: string; readonly keys: string },
  environment: Readonly<Record<string, string>> = {},
  columns = 120,
): Promise<Screen> {
  const isPiped = args[0] === intoClosedPipe;
  const words = [process.execPath, executable, ...(isPiped ? args.slice(1) : args)];
  const iotdmCommand = words.map((word) => `'${word}'`).join(' ');
  const piped = `bash -c "${iotdmCommand} | :; exit \\\${PIPESTATUS[0]}"`;
  const command = `stty cols ${columns} rows ${columns === 0 ? 0 : 30}; exec ${isPiped ? piped : iotdmCommand}`;
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    cwd: dir,
    // Where CI is set, the spinner takes even a terminal for a log.
    env: { ...withoutCi, TERM: 'xterm-256color', ...environment },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let shown = '';
  let typed = false;
  return new Promise((resolve, reject) => {
    const hanging = setTimeout(() => {
      // The terminal goes, and iotdm with it.
      child.kill('SIGTERM');
      reject(new Error(`iotdm ${args.join(' ')} hangs; it shows: ${JSON.stringify(shown)}`));
    }, HANG_MS);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      shown += text;
      if (typing === undefined || typed || !shown.includes(typing.prompt)) return;
      typed = true;
      child.stdin.write(typing.keys);
    });
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(hanging);
      child.stdin.destroy();
      resolve({ code: code ?? -1, shown });
    });
  });
}

async function fill(slot: string): Promise<void> {
  const args = ['slot', 'write', slot, '--overwrite', '--connection-string-file', '-', '--tpm', chip.tcti];
  const { code, stderr } = await iotdm(args, { stdin: connectionString });
  assert.equal(code, 0, stderr);
}

async function stateOf(slot: string): Promise<string> {
  const { stdout } = await iotdm(['slot', 'show', slot, '--json', '--tpm', chip.tcti]);
  return (JSON.parse(stdout) as { state: string }).state;
}

describe('the question of slot clear', () => {
  const clear = (keys: string, ...more: string[]): Promise<Screen> =>
    atTerminal(['slot', 'clear', '2', '--tpm', chip.tcti, ...more], { prompt: '[y/N]', keys });

  it('destroys the slot on y and on nothing else', async () => {
    await fill('2');
    for (const [keys, code, message] of [
      ['n\r', 2, 'not confirmed, nothing was changed'],
      ['\r', 2, 'not confirmed, nothing was changed'],
      ['\u0003', 130, 'interrupted'],
      ['\u0004', 130, 'interrupted'],
    ] as const) {
      const screen = await clear(keys);
      assert.equal(screen.code, code, screen.shown);
      assert.match(
        screen.shown,
        /Destroy the identity plant\.azure-devices\.net\/press-17 in slot 2 for good\? \[y\/N\]/,
      );
      assert.ok(
        screen.shown.includes(`\r\niotdm: ${ESCAPE}[31merror${ESCAPE}[39m: ${message}\r\n`),
        JSON.stringify(screen.shown),
      );
      assert.equal(await stateOf('2'), 'ready');
    }
    const screen = await clear('y\r');
    assert.equal(screen.code, 0);
    assert.match(screen.shown, /Slot 2 is empty now/);
    assert.equal(await stateOf('2'), 'empty');
  });

  it('is not asked with --yes', async () => {
    await fill('2');
    const screen = await clear('', '--yes');
    assert.equal(screen.code, 0);
    assert.equal(screen.shown.includes('[y/N]'), false);
  });
});

describe('a result that nobody reads, of a command that a person watches', () => {
  it('changes neither what is asked, drawn and done, nor the exit code', async () => {
    await fill('5');
    const clear = (keys: string): Promise<Screen> =>
      atTerminal([intoClosedPipe, 'slot', 'clear', '5', '--tpm', chip.tcti], { prompt: '[y/N]', keys });
    assert.equal((await clear('n\r')).code, 2);
    assert.equal(await stateOf('5'), 'ready');
    const cleared = await clear('y\r');
    assert.equal(cleared.code, 0, cleared.shown);
    assert.equal(await stateOf('5'), 'empty');
    const check = await atTerminal([intoClosedPipe, 'tpm', 'check', '--tpm', chip.tcti]);
    assert.equal(check.code, 0, check.shown);
    assert.match(check.shown, /Checking the TPM/);
  });
});

describe('a secret that is typed', () => {
  it('is used and not shown', async () => {
    const args = ['slot', 'write', '3', '--connection-string-file', '-', '--tpm', chip.tcti];
    const screen = await atTerminal(args, { prompt: '(not shown): ', keys: `${connectionString}\r` });
    assert.equal(screen.code, 0, screen.shown);
    assert.equal(await stateOf('3'), 'ready');
    for (const part of ['HostName', 'SharedAccess', key.slice(0, 6), key.slice(-8)]) {
      assert.equal(screen.shown.includes(part), false, part);
    }
  });

  it('is not shown when it is wrong, nor when it is abandoned', async () => {
    const args = ['slot', 'write', '4', '--connection-string-file', '-', '--tpm', chip.tcti];
    const wrong = await atTerminal(args, { prompt: '(not shown): ', keys: `${key}\r` });
    assert.equal(wrong.code, 2);
    const abandoned = await atTerminal(args, { prompt: '(not shown): ', keys: `${key}\u0003` });
    assert.equal(abandoned.code, 130);
    for (const { shown } of [wrong, abandoned]) assert.equal(shown.includes(key.slice(0, 6)), false);
    assert.equal(await stateOf('4'), 'empty');
  });
});

describe('the progress of an import', () => {
  /** No import has the keys of another one: they would be conflicts. */
  let keys = 0;
  const importing = async (name: string, more: readonly string[], env = {}, count = 40): Promise<Screen> => {
    const rows = Array.from(
      { length: count },
      (_, number) => `${name}-${number},${syntheticEndorsementKey(keys + number)}\n`,
    );
    keys += count;
    writeFileSync(join(dir, `${name}.csv`), `registrationId,endorsementKey\n${rows.join('')}`);
    const args = ['enrollment', 'import', `${name}.csv`, '--rate', 'unlimited', ...service.options, ...more];
    return atTerminal(args, undefined, env);
  };

  it('is a bar that grows and goes, and gives the cursor back', async () => {
    // Enough requests, one after the other, for the bar to be drawn while they are under way.
    const { code, shown } = await importing('bar', ['--concurrency', '1'], {}, 6000);
    assert.equal(code, 0, shown);
    assert.match(shown, /█+.*░+.* [1-9]\d*\/6000/);
    assert.ok(shown.lastIndexOf('[?25h') > shown.lastIndexOf('[?25l'), 'the cursor is shown again');
    const after = shown.slice(shown.lastIndexOf('/6000'));
    assert.match(after, /6000 rows done/);
    assert.ok(
      after.includes(`${ESCAPE}[2K`) || after.includes(`${ESCAPE}[1G`) || after.includes(`${ESCAPE}[0K`),
      'the bar is removed',
    );
  });

  it('is not there with -q, and has no colour with --no-color and NO_COLOR', async () => {
    const quiet = await importing('quiet', ['-q']);
    assert.equal(quiet.shown.includes('█'), false);
    const plain = await importing('plain', ['--no-color']);
    assert.equal(plain.code, 0);
    assert.equal(plain.shown.includes(COLOR), false, JSON.stringify(plain.shown.slice(0, 300)));
    const variable = await importing('variable', [], { NO_COLOR: '1' });
    assert.equal(variable.shown.includes(COLOR), false);
  });
});

describe('a terminal that does not know its width, such as a serial console', () => {
  it('has no spinner, and all the rest', async () => {
    const { code, shown } = await atTerminal(['ek', 'read', '--tpm', chip.tcti], undefined, {}, 0);
    assert.equal(code, 0);
    assert.match(shown, /^Registration id {2}[a-z2-7]{52}\r\n/);
  });
});

describe('colours', () => {
  it('are there at a terminal and gone with --no-color, NO_COLOR and "color": false', async () => {
    const failingCommand = ['slot', 'show', '11'];
    assert.ok((await atTerminal(failingCommand)).shown.includes(`${COLOR}1merror`));
    assert.equal((await atTerminal([...failingCommand, '--no-color'])).shown.includes(ESCAPE), false);
    assert.equal(
      (await atTerminal(failingCommand, undefined, { NO_COLOR: '1' })).shown.includes(ESCAPE),
      false,
    );
    assert.ok((await atTerminal(failingCommand, undefined, { NO_COLOR: '' })).shown.includes(COLOR));
    writeFileSync(join(dir, 'plain.json'), '{"color": false}');
    assert.equal(
      (await atTerminal([...failingCommand, '--config', 'plain.json'])).shown.includes(ESCAPE),
      false,
    );
  });

  it('do not stand in JSON', async () => {
    const { shown } = await atTerminal(['slot', 'show', '0', '--json', '--tpm', chip.tcti]);
    assert.equal((JSON.parse(shown) as { state: string }).state, 'empty');
  });
});

describe('binary output', () => {
  it('is not written to a terminal', async () => {
    const { code, shown } = await atTerminal(['ek', 'read', '--format', 'tpm2b', '--tpm', chip.tcti]);
    assert.equal(code, 2);
    assert.match(shown, /not writing binary data to a terminal: give --out FILE or redirect stdout/);
  });
});
