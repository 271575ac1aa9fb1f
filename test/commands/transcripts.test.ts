/* Runs fixtures/transcripts, whose README.md says what their lines mean. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { delimiter, join } from 'node:path';
import { before, describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { installCommand } from '../lab/command.ts';
import { emulator, lifetimeOfFile, scratchDirectory, softwareTpm, type Outcome } from '../lab/lab.ts';

const folder = fileURLToPath(new URL('../../fixtures/transcripts/', import.meta.url));

interface Step {
  readonly typed: string;
  readonly stdout: string[];
  readonly stderr: string[];
  code: number;
}

interface Transcript {
  readonly parts: readonly string[];
  readonly steps: readonly Step[];
}

function parse(text: string): Transcript {
  const parts: string[] = [];
  const steps: Step[] = [];
  let stream: string[] = [];
  for (const line of text.trimEnd().split('\n')) {
    const rest = line.slice(2);
    const step = steps.at(-1);
    if (line.startsWith('# ')) continue;
    else if (line.startsWith('% ')) parts.push(rest);
    else if (line.startsWith('$ ')) steps.push({ typed: rest, stdout: [], stderr: [], code: 0 });
    else if (step === undefined) throw new Error(`a line before the first command: ${line}`);
    else if (line.startsWith('= ')) step.code = Number(rest);
    else if (line === '...') stream.push('...');
    else {
      stream = line.startsWith('! ') ? step.stderr : step.stdout;
      assert.match(line, /^[|!] /, `not a line of a transcript: ${line}`);
      stream.push(rest);
    }
  }
  return { parts, steps };
}

/** The expected lines as a pattern for the whole of a stream. */
function pattern(lines: readonly string[], dir: string): RegExp {
  const placeholders: Readonly<Record<string, string>> = {
    base64: '[A-Za-z0-9+/]+={0,2}',
    hex: '[0-9a-f]+',
    id: '[a-z2-7]{52}',
    number: '[0-9.]+',
    host: '127\\.0\\.0\\.1:[0-9]+',
    time: '[0-9T:.Z-]+',
    etag: '"[A-Za-z0-9+/=]+"',
    dir: dir.replace(/[^\w/]/g, '\\$&'),
  };
  const source = lines.map((line) => {
    if (line === '...') return '(?:.*\\n)*';
    const quoted = line.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    return `${quoted.replace(/<(\w+)>/g, (all, name: string) => placeholders[name] ?? all)}\\n`;
  });
  return new RegExp(`^${source.join('')}$`);
}

const lifetime = lifetimeOfFile();
let bin: string;

before(async () => {
  bin = installCommand(await scratchDirectory(lifetime));
});

async function environmentOf(t: TestContext, parts: readonly string[]): Promise<Record<string, string>> {
  const environment: Record<string, string> = {
    PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`,
    HOME: process.env['HOME'] ?? '',
    TMPDIR: process.env['TMPDIR'] ?? '/tmp',
    XDG_STATE_HOME: process.env['XDG_STATE_HOME'] ?? '/tmp',
    LC_ALL: 'C.UTF-8',
  };
  for (const part of parts) {
    if (part === 'tpm' || part === 'blank-tpm') {
      environment['IOTDM_TPM'] = (await softwareTpm(t, { blank: part === 'blank-tpm' })).tcti;
    } else if (part === 'silent-tpm') {
      environment['IOTDM_TPM'] = `swtpm:host=127.0.0.1,port=${await silentPort(t)}`;
    } else if (part === 'service') {
      const { ca, connectionStringFile } = await emulator(t);
      environment['IOTDM_CA'] = ca;
      environment['IOTDM_DPS_CONNECTION_STRING'] = readFileSync(connectionStringFile, 'utf8');
    } else throw new Error(`no such part: ${part}`);
  }
  return environment;
}

async function silentPort(t: TestContext): Promise<number> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined).resume();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

function type(typed: string, cwd: string, env: Record<string, string>): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn('sh', ['-c', typed], { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const shown = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => (shown[name] += text));
    }
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ code: code ?? -1, ...shown });
    });
  });
}

describe('transcripts', () => {
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.txt'))) {
    it(name, async (t) => {
      const { parts, steps } = parse(readFileSync(join(folder, name), 'utf8'));
      const dir = realpathSync(await scratchDirectory(t));
      const env = await environmentOf(t, parts);
      for (const { typed, stdout, stderr, code } of steps) {
        const seen = await type(typed, dir, env);
        assert.match(seen.stderr, pattern(stderr, dir), typed);
        assert.match(seen.stdout, pattern(stdout, dir), typed);
        assert.equal(seen.code, code, typed);
      }
    });
  }
});
