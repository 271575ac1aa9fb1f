import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { CommandError, toFailure } from '../../commands/shared/failure.ts';
import { errorCodes, IotdmError } from '../../src/errors.ts';
import { syntheticEndorsementKey, vectorEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  startIotdm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';
import { errorLines, failing, shownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
const connectionString =
  'HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessKey=bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';

let chip: SoftwareTpm;
let service: EmulatedService;
let dir: string;

before(async () => {
  chip = await softwareTpm(lifetime);
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
});

function file(name: string, content: string | Buffer): string {
  const path = join(dir, name);
  writeFileSync(path, content, { mode: 0o600 });
  return path;
}

const noTpm = ['--tpm', 'swtpm:host=127.0.0.1,port=1'];

describe('wrong usage: exit code 2', () => {
  const lines: readonly [title: string, args: readonly string[], message: RegExp, hint: RegExp][] = [
    [
      'an unknown command',
      ['ekk', 'read'],
      /^unknown command 'ekk' \(did you mean ek\?\)$/,
      /^run: iotdm --help$/,
    ],
    [
      'an unknown verb',
      ['slot', 'shwo', '1'],
      /^unknown command 'shwo' \(did you mean show\?\)$/,
      /^run: iotdm slot --help$/,
    ],
    [
      'an unknown option',
      ['ek', 'read', '--jsn'],
      /^unknown option '--jsn' \(did you mean --json\?\)$/,
      /^run: iotdm ek read --help$/,
    ],
    [
      'a slot that is none',
      ['slot', 'show', '10'],
      /^"10" is not a slot: slots are numbered 0 to 9$/,
      /^run: iotdm slot show --help$/,
    ],
    ['no slot', ['slot', 'show'], /^missing required argument 'slot'$/, /^run: iotdm slot show --help$/],
    [
      'two slots',
      ['slot', 'show', '1', '2'],
      /^too many arguments for 'show': expected 1 argument but got 2$/,
      /^run: iotdm slot show --help$/,
    ],
    [
      'an option without its value',
      ['ek', 'read', '--out'],
      /^option '--out <file>' argument missing$/,
      /^run: iotdm ek read --help$/,
    ],
    [
      'a value that is none of the choices',
      ['ek', 'read', '--format', 'xml'],
      /'xml' is invalid: allowed choices are text, json, csv, tpm2b, pem$/,
      /^run: iotdm ek read --help$/,
    ],
    [
      'a port that is none',
      ['emulator', 'start', '--port', '0'],
      /'0' is invalid: expected 1 to 65535$/,
      /^run: iotdm emulator start --help$/,
    ],
    [
      'a mandatory option left out',
      ['enrollment', 'export', 'shift.ndjson'],
      /^required option '--format <format>' not specified$/,
      /^run: iotdm enrollment export --help$/,
    ],
    ['no manifest', ['harvest'], /^no manifest was named$/, /--manifest FILE.*iotdm.config.json/],
    [
      'a time limit that is none',
      ['ek', 'read', '--timeout', 'soon'],
      /^"soon" is not a time limit: expected seconds, such as 30$/,
      /^run: iotdm ek read --help$/,
    ],
    [
      'a TPM that is none',
      ['ek', 'read', '--tpm', 'tpm0'],
      /^"tpm0" does not name a TPM; did you mean device:\/dev\/tpm0\?$/,
      /^pass --tpm device:\/dev\/tpm0, or set IOTDM_TPM/,
    ],
    ...['--dps-connection-string', '--owner-auth', '--endorsement-auth', '--lockout-auth'].map(
      (flag): (typeof lines)[number] => [
        `a secret behind ${flag}`,
        [...(flag.includes('dps') ? ['enrollment', 'list'] : ['ek', 'read', ...noTpm]), flag, 'hush'],
        new RegExp(`^${flag} is not accepted; use ${flag}-file FILE or IOTDM_[A-Z_]+$`),
        /^every user of this machine can read a command line: /,
      ],
    ),
    ['a topic without help', ['help', 'bogus'], /^there is no help on "bogus"$/, /^run: iotdm --help$/],
    [
      'no credentials',
      ['enrollment', 'list'],
      /^no credentials for the Device Provisioning Service$/,
      /iotdm emulator start$/,
    ],
    [
      'no connection string',
      ['slot', 'write', '0'],
      /^no connection string was given$/,
      /--connection-string-file FILE/,
    ],
    ['something destructive without --yes', ['enrollment', 'delete', 'x', ...noTpm], /^no credentials/, /./],
  ];
  for (const [title, args, message, hint] of lines) {
    it(title, async () => {
      const shown = await failing(args, { cwd: dir });
      assert.equal(shown.exitCode, 2);
      assert.match(shown.code, /^usage\./);
      assert.match(shown.message, message);
      assert.match(shown.hint, hint);
    });
  }

  it('destroys nothing without --yes where nobody can be asked', async () => {
    await iotdm(['slot', 'write', '5', '--connection-string-file', '-', '--overwrite', '--tpm', chip.tcti], {
      stdin: connectionString,
    });
    const shown = await failing(['slot', 'clear', '5', '--tpm', chip.tcti]);
    assert.equal(shown.exitCode, 2);
    assert.equal(shown.code, 'usage.needs-confirmation');
    assert.match(shown.hint, /--yes/);
    assert.equal((await iotdm(['slot', 'clear', '5', '--yes', '--tpm', chip.tcti])).code, 0);
  });
});

describe('unusable input: exit code 2, nothing sent', () => {
  it('refuses a PNG that is named like a CSV', async () => {
    const png = file(
      'rows.csv',
      Buffer.from('89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489', 'hex'),
    );
    const seen = service.requests.length;
    const shown = await failing(['enrollment', 'import', png, ...service.options]);
    assert.equal(shown.exitCode, 2);
    assert.match(shown.code, /^input\./);
    assert.match(shown.message, /rows\.csv/);
    assert.equal(service.requests.length, seen);
  });

  it('refuses a file that is not there, and a directory', async () => {
    for (const [path, why] of [
      [join(dir, 'absent.csv'), /no such file/],
      [dir, /directory/],
    ] as const) {
      const shown = await failing(['enrollment', 'import', path, ...service.options]);
      assert.equal(shown.exitCode, 2);
      assert.equal(shown.code, 'input.unreadable');
      assert.match(shown.message, why);
    }
  });

  it('refuses a certificate authority that is none', async () => {
    const ca = file('ca.txt', 'hello');
    const shown = await failing([
      'enrollment',
      'list',
      '--dps-connection-string-file',
      service.connectionStringFile,
      '--ca',
      ca,
    ]);
    assert.equal(shown.exitCode, 2);
    assert.equal(shown.code, 'input.invalid');
    assert.match(shown.hint, /openssl x509/);
  });

  it('says that two things cannot both come from standard input', async () => {
    const rows = `endorsementKey\n${vectorEndorsementKey}\n`;
    for (const args of [
      ['enrollment', 'import', '-', '--dps-connection-string-file', '-', '--ca', service.ca],
      ['slot', 'write', '0', '--connection-string-file', '-', '--owner-auth-file', '-', '--tpm', chip.tcti],
      ['slot', 'sign', '0', '-', '--owner-auth-file', '-', '--tpm', chip.tcti],
    ]) {
      const shown = await failing(args, { stdin: args[0] === 'slot' ? connectionString : rows });
      assert.equal(shown.exitCode, 2, args.join(' '));
      assert.match(shown.message, /cannot both come from stdin$/, args.join(' '));
    }
  });

  it('names the row, the column and the reason', async () => {
    const rows = file('bad.csv', `registrationId,endorsementKey\nx,${vectorEndorsementKey}\ny,AToAAQ==\n`);
    const seen = service.requests.length;
    const shown = await failing(['enrollment', 'import', rows, ...service.options]);
    assert.equal(shown.exitCode, 2);
    assert.equal(shown.code, 'input.rows');
    assert.ok(shown.message.startsWith(`one fault in 2 rows: ${rows}:3:3: endorsementKey: `), shown.message);
    assert.equal(service.requests.length, seen);
  });
});

describe('no TPM: exit code 3', () => {
  for (const args of [
    ['ek', 'read'],
    ['srk', 'read'],
    ['slot', 'list'],
    ['slot', 'show', '0'],
    ['slot', 'token', '0'],
    ['slot', 'sign', '0', '-'],
    ['slot', 'clear', '0', '--yes'],
    ['slot', 'write', '0', '--connection-string-file', '-'],
    ['harvest', '--manifest', 'm.ndjson'],
    ['enrollment', 'create'],
  ]) {
    it(args.slice(0, 2).join(' '), async () => {
      const shown = await failing([...args, ...noTpm], { stdin: connectionString, cwd: dir });
      assert.equal(shown.exitCode, 3);
      assert.equal(shown.code, 'tpm-unavailable.connection');
      assert.equal(shown.message, 'cannot connect to a TPM at 127.0.0.1:1 (ECONNREFUSED)');
      assert.match(shown.hint, /iotdm simulator start/);
    });
  }

  it('gives up in time on a program that goes on by itself', async () => {
    // The shell stays, because there is more to do after sleep, and sleep outlives the shell that is ended.
    const shown = await failing(['ek', 'read', '--timeout', '0.2', '--tpm', 'cmd:sleep 60; true']);
    assert.equal(shown.exitCode, 3);
    assert.equal(shown.code, 'tpm-unavailable.timeout');
    assert.match(shown.hint, /--timeout/);
  });
});

describe('the TPM refuses: exit code 4', () => {
  it('does not write over a slot in use, nor act for an empty one, and says what to do in both cases', async () => {
    const tpm = ['--tpm', chip.tcti];
    const write = ['slot', 'write', '3', '--connection-string-file', '-', ...tpm];
    assert.equal((await iotdm(write, { stdin: connectionString })).code, 0);
    const full = await failing(write, { stdin: connectionString });
    assert.equal(full.exitCode, 4);
    assert.equal(full.code, 'tpm.slot-not-empty');
    assert.match(full.hint, /--overwrite/);
    assert.equal(full.details?.['slot'], 3);
    for (const args of [
      ['slot', 'token', '7'],
      ['slot', 'sign', '7', '-'],
    ]) {
      const empty = await failing([...args, ...tpm]);
      assert.equal(empty.exitCode, 4);
      assert.equal(empty.code, 'tpm.slot-empty');
      assert.equal(empty.hint, 'write it with: iotdm slot write 7 --connection-string-file FILE');
    }
  });

  it('asks for the authorization value that is missing or wrong', async (t) => {
    const locked = await softwareTpm(t, { blank: true });
    locked.tool('tpm2_changeauth', '-c', 'e', 'endorsement-secret');
    locked.tool('tpm2_changeauth', '-c', 'o', 'owner-secret');
    const tpm = ['--tpm', locked.tcti];
    for (const args of [
      ['ek', 'read'],
      ['srk', 'read'],
      ['ek', 'read', '--endorsement-auth-file', file('wrong', 'not it')],
    ]) {
      const shown = await failing([...args, ...tpm]);
      assert.equal(shown.exitCode, 4);
      assert.equal(shown.code, 'tpm.authorization');
      assert.match(shown.hint, /--owner-auth-file/);
    }
    const ok = await iotdm([
      'ek',
      'read',
      '--endorsement-auth-file',
      file('right', 'endorsement-secret\n'),
      ...tpm,
    ]);
    assert.equal(ok.code, 0, ok.stderr);
    assert.equal(locked.handles('transient') + locked.handles('loaded-session'), '');
  });
});

describe('the service refuses', () => {
  it('wrong key: exit code 5', async () => {
    const wrong = readFileSync(service.connectionStringFile, 'utf8').replace(
      /SharedAccessKey=.*/,
      'SharedAccessKey=bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=',
    );
    const credentials = ['--dps-connection-string-file', file('wrong-key', wrong), '--ca', service.ca];
    const rows = file('one.csv', `endorsementKey\n${vectorEndorsementKey}\n`);
    for (const args of [
      ['enrollment', 'list'],
      ['enrollment', 'show', 'x'],
      ['enrollment', 'delete', 'x', '--yes'],
      ['enrollment', 'create', '--endorsement-key', vectorEndorsementKey],
      ['enrollment', 'import', rows],
    ]) {
      const shown = await failing([...args, ...credentials]);
      assert.equal(shown.exitCode, 5, args.join(' '));
      assert.equal(shown.code, 'auth.refused');
      assert.match(shown.message, new RegExp(`^${service.host} refused the credentials`));
    }
  });

  it('conflict and absence: exit code 6', async () => {
    const create = [
      'enrollment',
      'create',
      '--registration-id',
      'there',
      '--endorsement-key',
      vectorEndorsementKey,
      ...service.options,
    ];
    assert.equal((await iotdm(create)).code, 0);
    const conflict = await failing(create);
    assert.equal(conflict.exitCode, 6);
    assert.equal(conflict.code, 'service.conflict');
    assert.match(conflict.hint, /iotdm enrollment show/);
    for (const args of [
      ['enrollment', 'show', 'absent'],
      ['enrollment', 'delete', 'absent', '--yes'],
      ['enrollment', 'delete', 'absent', '--dry-run'],
    ]) {
      const absent = await failing([...args, ...service.options]);
      assert.equal(absent.exitCode, 6);
      assert.equal(absent.code, 'service.not-found');
      assert.equal(absent.details?.['registrationId'], 'absent');
      assert.match(absent.message, /absent/, 'names what is not there');
    }
  });

  it('a batch that went through in part: exit code 8, with the whole result for scripts', async () => {
    const other = syntheticEndorsementKey(1);
    const rows = file(
      'partial.csv',
      `registrationId,endorsementKey\nheld,${other}\nfresh,${syntheticEndorsementKey(2)}\n`,
    );
    const holds = [
      'enrollment',
      'create',
      '--registration-id',
      'held',
      '--endorsement-key',
      syntheticEndorsementKey(3),
    ];
    assert.equal((await iotdm([...holds, ...service.options])).code, 0);
    const shown = await failing(['enrollment', 'import', rows, ...service.options]);
    assert.equal(shown.exitCode, 8);
    assert.equal(shown.code, 'partial.rows-failed');
    assert.equal(shown.message, '1 of 2 rows failed');
    assert.match(shown.text, /^line 2: held: holds another endorsement key$/m);
    assert.match(shown.text, /^ {2}→ look at it with: iotdm enrollment show held$/m);
    const result = JSON.parse(shown.result) as { failed: number; skipped: number; failures: unknown[] };
    assert.equal(result.failed, 1);
    assert.equal(result.skipped, 1, 'the second run leaves alone what the first has done');
    assert.deepEqual(result.failures, [
      { line: 2, registrationId: 'held', code: 'service.conflict', message: 'holds another endorsement key' },
    ]);
  });
});

describe('network: exit code 7', () => {
  it('a port where nothing listens', async () => {
    const nowhere = file(
      'nowhere',
      readFileSync(service.connectionStringFile, 'utf8').replace(/127\.0\.0\.1:\d+/, '127.0.0.1:1'),
    );
    const shown = await failing([
      'enrollment',
      'list',
      '--dps-connection-string-file',
      nowhere,
      '--ca',
      service.ca,
    ]);
    assert.equal(shown.exitCode, 7);
    assert.equal(shown.code, 'network.unreachable');
    assert.equal(shown.message, '127.0.0.1:1 cannot be reached: nothing listens there (ECONNREFUSED)');
  });

  it('an authority that is not trusted', async () => {
    const shown = await failing([
      'enrollment',
      'list',
      '--dps-connection-string-file',
      service.connectionStringFile,
    ]);
    assert.equal(shown.exitCode, 7);
    assert.equal(shown.code, 'network.tls');
    assert.match(shown.hint, /--ca FILE/);
  });

  it('a service that does not answer', async (t) => {
    const silent = await silentServer(t);
    const there = file(
      'silent',
      readFileSync(service.connectionStringFile, 'utf8').replace(
        /127\.0\.0\.1:\d+/,
        `127.0.0.1:${silent.port}`,
      ),
    );
    const shown = await failing([
      'enrollment',
      'list',
      '--timeout',
      '0.2',
      '--dps-connection-string-file',
      there,
    ]);
    assert.equal(shown.exitCode, 7);
    assert.equal(shown.code, 'network.timeout');
  });
});

describe('verification: exit code 9', () => {
  it('one chip under two serial numbers', async () => {
    const harvest = ['harvest', '--manifest', join(dir, 'shift.ndjson'), '--tpm', chip.tcti, '--serial'];
    const first = await iotdm([...harvest, 'SN-1']);
    assert.equal(first.code, 0, first.stderr);
    const before = readFileSync(join(dir, 'shift.ndjson'), 'utf8');
    const shown = await failing([...harvest, 'SN-2']);
    assert.equal(shown.exitCode, 9);
    assert.equal(shown.code, 'verify.identity-conflict');
    assert.match(shown.message, /shift\.ndjson:1/);
    assert.equal(shown.details?.['line'], 1);
    assert.equal(readFileSync(join(dir, 'shift.ndjson'), 'utf8'), before);
  });
});

describe('interruption: exit code 130', () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`${signal} while a TPM never answers`, async (t) => {
      const silent = await silentServer(t);
      for (const json of [[], ['--json']]) {
        const running = startIotdm([
          'ek',
          'read',
          ...json,
          '--tpm',
          `swtpm:host=127.0.0.1,port=${silent.port}`,
        ]);
        await silent.asked();
        running.kill(signal);
        checkInterrupted(await running.outcome, json.length > 0);
      }
    });
  }

  it('while a program at the end of a pipe never answers', async () => {
    const asked = join(dir, 'asked');
    const running = startIotdm(['ek', 'read', '-v', '--tpm', `cmd:echo asked > ${asked}; sleep 60; true`]);
    await running.says('TPM at');
    running.kill('SIGTERM');
    const { code } = await running.outcome;
    assert.equal(code, 130);
  });

  it('while the service never answers', async (t) => {
    const silent = await silentServer(t);
    const there = file(
      'silent-2',
      readFileSync(service.connectionStringFile, 'utf8').replace(
        /127\.0\.0\.1:\d+/,
        `127.0.0.1:${silent.port}`,
      ),
    );
    const running = startIotdm(['enrollment', 'list', '--dps-connection-string-file', there]);
    await silent.asked();
    running.kill('SIGINT');
    checkInterrupted(await running.outcome, false);
  });

  it('while nobody types', async () => {
    const running = startIotdm(['enrollment', 'import', '-', '-v', ...service.options], { stdin: null });
    running.stdin.write('registrationId');
    await running.says('reading standard input');
    running.kill('SIGTERM');
    checkInterrupted(await running.outcome, false);
  });

  it('finishes a slot that it has begun to write', async (t) => {
    // A TPM that answers each command late enough for the signal to fall between two of them.
    const fresh = await softwareTpm(t);
    const slow = await slowedDown(t, Number(/port=(\d+)/.exec(fresh.tcti)?.[1]));
    const write = ['slot', 'write', '1', '--connection-string-file', '-', '--overwrite', '-vv'];
    const first = await iotdm([...write, '--tpm', fresh.tcti], { stdin: connectionString });
    assert.equal(first.code, 0, first.stderr);
    const other = connectionString.replace('press-17', 'press-18');
    const running = startIotdm([...write, '--tpm', `swtpm:host=127.0.0.1,port=${slow.port}`], {
      stdin: other,
    });
    await running.says('NV_UndefineSpace ok');
    running.kill('SIGINT');
    const { code, stderr } = await running.outcome;
    assert.equal(code, 130, stderr);
    const shown = await iotdm(['slot', 'show', '1', '--json', '--tpm', fresh.tcti]);
    const { state, deviceId } = JSON.parse(shown.stdout) as { state: string; deviceId: string };
    assert.deepEqual({ state, deviceId }, { state: 'ready', deviceId: 'press-18' });
    assert.equal(fresh.handles('transient'), '');
  });
});

function checkInterrupted(outcome: Awaited<ReturnType<typeof iotdm>>, json: boolean): void {
  assert.equal(outcome.code, 130, outcome.stderr);
  assert.equal(outcome.stdout, '');
  if (json) assert.equal(shownFailure(outcome).code, 'interrupted.signal');
  else assert.match(errorLines(outcome.stderr)[0], /^interrupted/);
}

describe('what every error code has', () => {
  for (const code of errorCodes) {
    it(code, () => {
      const failure = toFailure(new IotdmError(code, 'a message'), 'iotdm slot write');
      assert.ok(failure.exitCode > 0);
      assert.doesNotMatch(failure.hint, /^[A-Z][a-z]|\.$|\. [A-Z]/);
      assert.ok(failure.hint.length > 10);
    });
  }

  it('does not let a secret out through details', () => {
    const failure = toFailure(
      new CommandError('usage.invalid', `no ${connectionString}`, 'a hint', { a: [{ b: connectionString }] }),
      'iotdm',
    );
    assert.doesNotMatch(JSON.stringify(failure), /bZD\+qa/);
  });
});

interface SilentServer {
  readonly port: number;
  /** Resolves when bytes have come in on a connection that no earlier call has spoken of. */
  asked(): Promise<void>;
}

/** Accepts connections, takes what comes, and never answers. */
async function silentServer(t: { after(cleanUp: () => void): void }): Promise<SilentServer> {
  const sockets = new Set<Socket>();
  let waiting: (() => void)[] = [];
  let askers = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('data', () => {
      const next = waiting.shift();
      if (next === undefined) askers += 1;
      else next();
    });
  });
  const port = await listening(server);
  t.after(() => {
    waiting = [];
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    port,
    asked: () =>
      new Promise((resolve) => {
        if (askers > 0) {
          askers -= 1;
          resolve();
        } else waiting.push(resolve);
      }),
  };
}

/** A TPM that takes 150 ms longer for each command. */
async function slowedDown(
  t: { after(cleanUp: () => void): void },
  target: number,
): Promise<{ readonly port: number }> {
  const { connect } = await import('node:net');
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const tpm = connect(target, '127.0.0.1');
    for (const socket of [client, tpm]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
    }
    client.on('data', (bytes) => {
      setTimeout(() => tpm.write(bytes), 150);
    });
    tpm.on('data', (bytes) => client.write(bytes));
    client.on('close', () => tpm.end());
    tpm.on('close', () => client.end());
  });
  const port = await listening(server);
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port };
}

async function listening(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}
