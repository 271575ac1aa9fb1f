import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, createHmac, generateKeyPairSync } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { execFile } from 'node:child_process';
import { IotdmError } from '../../src/errors.ts';
import { openBundle } from '../../src/station/bundle.ts';
import { collect } from '../fakes/chunked-source.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  type EmulatedService,
  type Outcome,
} from '../lab/lab.ts';
import { failing, type ShownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
let service: EmulatedService;
let dir: string;

const COUNT = 23;

before(async () => {
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
  const rows = Array.from({ length: COUNT }, (_, number) =>
    JSON.stringify({
      endorsementKey: syntheticEndorsementKey(number),
      deviceId: `pump-${number}`,
      serialNumber: `SN-${number}`,
      'tags.site': 'Zürich, "Süd"',
    }),
  );
  writeFileSync(join(dir, 'shift.ndjson'), `${rows.join('\n')}\n`);
  for (const name of ['station', 'other']) {
    openssl('genpkey', '-algorithm', 'ed25519', '-out', `${name}.key`);
    openssl('pkey', '-in', `${name}.key`, '-pubout', '-out', `${name}.pub`);
    chmodSync(join(dir, `${name}.key`), 0o600);
  }
});

function openssl(...args: string[]): string {
  return execFileSync('openssl', args, { cwd: dir, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function run(...args: string[]): Promise<Outcome> {
  return iotdm(['enrollment', ...args], { cwd: dir });
}

async function made(out: string, ...more: string[]): Promise<string> {
  const { code, stderr } = await run('export', 'shift.ndjson', '--format', 'bundle', '--out', out, ...more);
  assert.equal(code, 0, stderr);
  return out;
}

/** A signed bundle that somebody has laid hands on. */
async function tampered(name: string, change: (path: string) => void): Promise<string> {
  if (!readdirSync(dir).includes('signed')) await made('signed', '--sign-key', 'station.key');
  cpSync(join(dir, 'signed'), join(dir, name), { recursive: true });
  change(join(dir, name));
  return name;
}

/** Why a bundle is refused, without a command around it. */
async function problemOf(bundle: string): Promise<string> {
  try {
    await openBundle(join(dir, bundle));
  } catch (error) {
    assert.ok(error instanceof IotdmError && error.code === 'verify.bundle', String(error));
    return error.message;
  }
  return 'nothing is wrong';
}

async function refused(exitCode: number, ...args: string[]): Promise<ShownFailure> {
  const sent = service.requests.length;
  const shown = await failing(['enrollment', 'import', ...args, ...service.options], { cwd: dir });
  assert.equal(shown.exitCode, exitCode, shown.message);
  assert.equal(service.requests.length, sent, 'nothing was sent');
  return shown;
}

describe('a bundle', () => {
  it('is made for its owner only, and openssl can check what the station has signed', async () => {
    await made('line-1', '--sign-key', 'station.key');
    const path = join(dir, 'line-1');
    assert.equal(statSync(path).mode & 0o777, 0o700);
    const names = readdirSync(path).sort();
    assert.deepEqual(names, ['bundle.json', 'bundle.json.sig', 'enrollments.ndjson']);
    for (const name of names) assert.equal(statSync(join(path, name)).mode & 0o777, 0o600);
    const list = JSON.parse(readFileSync(join(path, 'bundle.json'), 'utf8')) as Record<string, unknown>;
    const sha256 = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');
    const enrollments = join(path, 'enrollments.ndjson');
    assert.equal(list['enrollments'], COUNT);
    assert.deepEqual(list['files'], [
      { name: 'enrollments.ndjson', bytes: statSync(enrollments).size, sha256: sha256(enrollments) },
    ]);
    assert.deepEqual(list['sources'], [{ name: 'shift.ndjson', sha256: sha256(join(dir, 'shift.ndjson')) }]);
    const signed = ['-rawin', '-in', 'line-1/bundle.json', '-sigfile', 'line-1/bundle.json.sig'];
    openssl('pkeyutl', '-verify', '-pubin', '-inkey', 'station.pub', ...signed);
    assert.throws(() => openssl('pkeyutl', '-verify', '-pubin', '-inkey', 'other.pub', ...signed));
  });

  it('is not written over, unless that is wanted and it is one', async () => {
    await made('again');
    const before = readFileSync(join(dir, 'again', 'bundle.json'), 'utf8');
    const args = ['enrollment', 'export', 'shift.ndjson', '--format', 'bundle', '--out', 'again'];
    assert.equal((await failing(args, { cwd: dir })).code, 'usage.output-exists');
    assert.equal(readFileSync(join(dir, 'again', 'bundle.json'), 'utf8'), before);
    await made('again', '--overwrite', '--sign-key', 'station.key');
    assert.equal(readdirSync(join(dir, 'again')).length, 3);
    await made('again', '--overwrite');
    assert.equal(readdirSync(join(dir, 'again')).length, 2, 'nothing of the old one is left');
    writeFileSync(join(dir, 'again', 'thesis.txt'), 'mine');
    const foreign = await failing([...args, '--overwrite'], { cwd: dir });
    assert.match(foreign.message, /^again holds what this does not write: thesis\.txt$/);
    mkdirSync(join(dir, 'empty'));
    await made('empty');
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.startsWith('.')),
      [],
      'no draft is left',
    );
  });

  it('is imported as it was made, and says what was checked', async () => {
    await made('crossed', '--sign-key', 'station.key');
    const keyId = createHash('sha256')
      .update(
        execFileSync('openssl', ['pkey', '-pubin', '-in', 'station.pub', '-outform', 'der'], { cwd: dir }),
      )
      .digest('hex');
    const first = await run('import', 'crossed', '--verify-key', 'station.pub', '--json', ...service.options);
    assert.equal(first.code, 0, first.stderr);
    assert.equal(first.stderr, `iotdm: crossed is as the station ${keyId} has signed it\n`);
    assert.equal((JSON.parse(first.stdout) as { created: number }).created, COUNT);
    const direct = await run('import', 'shift.ndjson', '--json', ...service.options);
    assert.equal(
      (JSON.parse(direct.stdout) as { unchanged: number }).unchanged,
      COUNT,
      'the same enrollments',
    );
    const unchecked = await run('import', 'crossed', '--dry-run');
    assert.equal(
      unchecked.stderr,
      'iotdm: warning: the signature of crossed was not checked, only its checksums: pass --verify-key FILE\n',
    );
    await made('plain');
    const unsigned = await run('import', 'plain', '--dry-run');
    assert.equal(unsigned.code, 0);
    assert.equal(unsigned.stderr, 'iotdm: warning: plain is not signed: only its checksums were checked\n');
    const both = await refused(2, 'crossed', 'plain');
    assert.match(both.text, /serialNumber|registrationId/, 'serial numbers and ids go along');
  });
});

describe('a bundle that is not as it was made', () => {
  const cases: [name: string, change: (path: string) => void, message: RegExp][] = [
    [
      'truncated',
      (path) => {
        truncateSync(join(path, 'enrollments.ndjson'), 1000);
      },
      /enrollments\.ndjson is cut short$/,
    ],
    [
      'longer',
      (path) => {
        appendFileSync(join(path, 'enrollments.ndjson'), '\n');
      },
      /is longer than its list says$/,
    ],
    [
      'changed',
      (path) => {
        const file = join(path, 'enrollments.ndjson');
        writeFileSync(file, readFileSync(file, 'utf8').replace('pump-1"', 'pump-x"'));
      },
      /enrollments\.ndjson was changed$/,
    ],
    [
      'missing',
      (path) => {
        rmSync(join(path, 'enrollments.ndjson'));
      },
      /enrollments\.ndjson is missing$/,
    ],
    [
      'extra',
      (path) => {
        writeFileSync(join(path, 'run.sh'), '');
      },
      /"run\.sh" is not in its list$/,
    ],
    [
      'hidden',
      (path) => {
        mkdirSync(join(path, '.git'));
      },
      /"\.git" is not in its list$/,
    ],
    [
      'linked',
      (path) => {
        renameSync(join(path, 'enrollments.ndjson'), `${path}.moved`);
        symlinkSync(`${path}.moved`, join(path, 'enrollments.ndjson'));
      },
      /enrollments\.ndjson is no plain file$/,
    ],
    [
      'piped',
      (path) => {
        rmSync(join(path, 'enrollments.ndjson'));
        execFileSync('mkfifo', [join(path, 'enrollments.ndjson')]);
      },
      /enrollments\.ndjson is no plain file$/,
    ],
    [
      'not-json',
      (path) => {
        writeFileSync(join(path, 'bundle.json'), '{');
      },
      /bundle\.json is not JSON$/,
    ],
    [
      'linked-list',
      (path) => {
        renameSync(join(path, 'bundle.json'), `${path}.list`);
        symlinkSync(`${path}.list`, join(path, 'bundle.json'));
      },
      /bundle\.json is no plain file$/,
    ],
    [
      'empty-list',
      (path) => {
        writeFileSync(join(path, 'bundle.json'), 'null');
      },
      /is not the list of a bundle$/,
    ],
  ];
  for (const [name, change, message] of cases) {
    it(name, async () => {
      assert.match(await problemOf(await tampered(name, change)), message);
    });
  }

  it('ends the command with exit code 9, before anything is sent', async () => {
    const cut = await tampered('cut', (path) => {
      truncateSync(join(path, 'enrollments.ndjson'), 1000);
    });
    const shown = await refused(9, cut);
    assert.equal(shown.code, 'verify.bundle');
    assert.match(shown.message, /^the bundle cut is not as it was made: enrollments\.ndjson is cut short$/);
  });

  it('is noticed also where it is changed after it was checked', async () => {
    const path = join(dir, await tampered('late', () => undefined));
    const { sources } = await openBundle(path);
    appendFileSync(join(path, 'enrollments.ndjson'), '\n');
    await assert.rejects(collect(sources[0]?.open() ?? []), { code: 'verify.bundle' });
  });

  it('leads nowhere else, and never to a file twice', async () => {
    const outside = join(dir, 'outside.ndjson');
    writeFileSync(outside, '{}\n');
    const names = [
      '../outside.ndjson',
      outside,
      '..',
      'a/b',
      'bundle.json.sig',
      '.hidden',
      'x\\y',
      'a\0b',
      '',
    ];
    for (const [index, name] of names.entries()) {
      const bundle = await tampered(`traversal-${index}`, (path) => {
        const sha256 = createHash('sha256').update(readFileSync(outside)).digest('hex');
        const files = [{ name, bytes: 3, sha256 }];
        const list = JSON.parse(readFileSync(join(path, 'bundle.json'), 'utf8')) as object;
        writeFileSync(join(path, 'bundle.json'), JSON.stringify({ ...list, files }));
      });
      assert.match(await problemOf(bundle), /does not say what files there are$/);
    }
    const twice = await tampered('twice', (path) => {
      const list = JSON.parse(readFileSync(join(path, 'bundle.json'), 'utf8')) as {
        files: { name: string }[];
      };
      const [file] = list.files;
      linkSync(join(path, 'enrollments.ndjson'), join(path, 'Enrollments.ndjson'));
      const files = [file, { ...file, name: 'Enrollments.ndjson' }];
      writeFileSync(join(path, 'bundle.json'), JSON.stringify({ ...list, files }));
    });
    assert.match(await problemOf(twice), /names a file twice$/);
  });
});

describe('--verify-key', () => {
  const verified = (...args: string[]): Promise<ShownFailure> =>
    refused(9, ...args, '--verify-key', 'station.pub');

  it('takes what that station has signed, and nothing else', async () => {
    await made('of-other', '--sign-key', 'other.key');
    await made('of-nobody');
    const cases: [bundle: string, message: RegExp][] = [
      ['of-other', /is not of the given key, or its list was changed$/],
      ['of-nobody', /^the bundle of-nobody is not signed$/],
      ['shift.ndjson', /^shift\.ndjson is no bundle, and cannot be signed$/],
      [
        await tampered('cut-signature', (path) => {
          truncateSync(join(path, 'bundle.json.sig'), 63);
        }),
        /not of the given key/,
      ],
      [
        await tampered('changed-list', (path) => {
          appendFileSync(join(path, 'bundle.json'), ' ');
        }),
        /its list was changed$/,
      ],
      [
        await tampered('no-signature', (path) => {
          rmSync(join(path, 'bundle.json.sig'));
        }),
        /is not signed$/,
      ],
    ];
    for (const [bundle, message] of cases) {
      const shown = await verified(bundle);
      assert.equal(shown.code, 'verify.signature');
      assert.match(shown.message, message);
    }
    const changed = await tampered('signed-and-changed', (path) => {
      truncateSync(join(path, 'enrollments.ndjson'), 10);
    });
    assert.equal((await verified(changed)).code, 'verify.bundle');
  });

  it('wants the public half', async () => {
    const shown = await refused(2, 'shift.ndjson', '--verify-key', 'station.key');
    assert.equal(shown.code, 'input.private-key');
    assert.equal(
      (await refused(2, 'shift.ndjson', '--verify-key', 'shift.ndjson')).code,
      'input.station-key',
    );
  });
});

describe('--sign-key', () => {
  it('says what to do with a key that cannot sign, and shows nothing of it', async () => {
    openssl('pkey', '-in', 'station.key', '-aes256', '-passout', 'pass:x', '-out', 'encrypted.key');
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
    writeFileSync(join(dir, 'rsa.key'), rsa.export({ type: 'pkcs8', format: 'pem' }));
    const whole = readFileSync(join(dir, 'station.key'), 'utf8');
    writeFileSync(join(dir, 'cut.key'), whole.replace(/\n.{10}/, '\n'));
    const cases: [file: string, message: RegExp, hint: RegExp][] = [
      ['encrypted.key', /is encrypted with a passphrase/, /openssl pkey -in FILE -out station\.key/],
      ['rsa.key', /^a station key is an Ed25519 key, this is rsa$/, /openssl genpkey -algorithm ed25519/],
      ['station.pub', /cannot sign: it is a public key$/, /--verify-key/],
      ['cut.key', /it is damaged/, /openssl genpkey/],
    ];
    for (const [file, message, hint] of cases) {
      chmodSync(join(dir, file), 0o600);
      const shown = await failing(
        [
          'enrollment',
          'export',
          'shift.ndjson',
          '--format',
          'bundle',
          '--out',
          'no',
          '--sign-key',
          file,
          '-vv',
        ],
        { cwd: dir },
      );
      assert.equal(shown.code, 'input.station-key');
      assert.match(shown.message, message);
      assert.match(shown.hint, hint);
      const body = readFileSync(join(dir, file), 'utf8').split('\n')[1] ?? '';
      assert.ok(!shown.text.includes(body), 'nothing of the key is shown');
    }
    assert.ok(!readdirSync(dir).includes('no'));
  });

  it('warns of a key that others can read', async () => {
    cpSync(join(dir, 'station.key'), join(dir, 'open.key'));
    chmodSync(join(dir, 'open.key'), 0o644);
    const { stderr } = await run(
      'export',
      'shift.ndjson',
      '--format',
      'bundle',
      '--out',
      'warned',
      '--sign-key',
      'open.key',
    );
    assert.match(
      stderr,
      /^iotdm: warning: other users of this machine can read open\.key: chmod 600 open\.key$/m,
    );
  });
});

describe('bodies of bulk requests', () => {
  it('can be posted as they are', async () => {
    const { code, stderr } = await run('export', 'shift.ndjson', '--format', 'dps-bulk', '--out', 'bulk');
    assert.equal(code, 0, stderr);
    const other = await emulator(lifetime);
    const text = readFileSync(other.connectionStringFile, 'utf8');
    const part = (name: string): string => new RegExp(`${name}=([^;\\s]+)`).exec(text)?.[1] ?? '';
    const resource = encodeURIComponent(part('HostName'));
    const expiry = Math.ceil(Date.now() / 1000) + 600;
    const signature = createHmac('sha256', Buffer.from(part('SharedAccessKey'), 'base64'))
      .update(`${resource}\n${expiry}`)
      .digest('base64');
    const token = `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&skn=${part('SharedAccessKeyName')}&se=${expiry}`;
    const names = readdirSync(join(dir, 'bulk')).sort();
    assert.deepEqual(names, ['bulk-000001.json', 'bulk-000002.json', 'bulk-000003.json']);
    for (const name of names) {
      const { stdout } = await promisify(execFile)('curl', [
        ...['--silent', '--show-error', '--fail-with-body', '--noproxy', '*', '--cacert', other.ca],
        ...['--header', `Authorization: ${token}`, '--header', 'Content-Type: application/json'],
        ...['--data-binary', `@${join(dir, 'bulk', name)}`],
        `https://${other.host}/enrollments?api-version=2021-10-01`,
      ]);
      assert.deepEqual(JSON.parse(stdout), { isSuccessful: true, errors: [] });
    }
    const again = await run('import', 'shift.ndjson', '--no-journal', '--json', ...other.options);
    assert.equal(again.code, 0, again.stderr);
    assert.equal((JSON.parse(again.stdout) as { unchanged: number }).unchanged, COUNT);
  });
});
