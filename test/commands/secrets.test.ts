/*
 * No secret leaves through argv, output or files. Each secret is a random key; what comes out of every command, well and
 * badly used, is searched for any twelve characters in a row of its base64, base64url and hexadecimal forms.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { before, describe, it } from 'node:test';
import { send } from '../../src/hub/hub-request.ts';
import { enroll, hubOptions } from '../fakes/enrolled-chip.ts';
import { vectorEndorsementKey } from '../fakes/endorsement-keys.ts';
import { answering, startLyingServer } from '../fakes/lying-server.ts';
import { gateTpm } from '../fakes/tpm-gate.ts';
import {
  emulator,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  startIotdm,
  type EmulatedService,
  type Outcome,
  type RunOptions,
  type SoftwareTpm,
} from '../lab/lab.ts';

const WINDOW = 12;

const deviceKey = randomBytes(32);
const deviceString = `HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessKey=${deviceKey.toString('base64')}`;
const foreignKey = randomBytes(32);
const ownerAuth = randomBytes(15).toString('hex');
const endorsementAuth = randomBytes(15).toString('hex');

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let lockedChip: SoftwareTpm;
let service: EmulatedService;
let dir: string;
let serviceString: string;
/** All windows of all forms of all secrets. */
const windows = new Set<string>();

before(async () => {
  chip = await softwareTpm(lifetime);
  lockedChip = await softwareTpm(lifetime, { blank: true });
  lockedChip.tool('tpm2_changeauth', '-c', 'o', ownerAuth);
  lockedChip.tool('tpm2_changeauth', '-c', 'e', endorsementAuth);
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
  lifetime.after(checkFiles);
  serviceString = readFileSync(service.connectionStringFile, 'utf8');
  const serviceKey = Buffer.from(/SharedAccessKey=(.*)$/.exec(serviceString)?.[1] ?? '', 'base64');
  for (const key of [
    deviceKey,
    foreignKey,
    serviceKey,
    Buffer.from(ownerAuth),
    Buffer.from(endorsementAuth),
  ]) {
    for (const form of ['base64', 'base64url', 'hex'] as const) remember(key.toString(form));
  }
  for (const text of [ownerAuth, endorsementAuth]) remember(text);
});

function remember(text: string): void {
  for (let at = 0; at + WINDOW <= text.length; at += 1) windows.add(text.slice(at, at + WINDOW));
}

function leaks(text: string): string | undefined {
  for (let at = 0; at + WINDOW <= text.length; at += 1) {
    if (windows.has(text.slice(at, at + WINDOW))) return text.slice(Math.max(0, at - 60), at) + '<here>';
  }
  return undefined;
}

const seenCommandLines = new Set<string>();

/** Runs a command in a directory of its own that is also its TMPDIR and HOME, and searches everything. */
async function run(
  args: readonly string[],
  { argvIsClean = true, ...options }: RunOptions & { argvIsClean?: boolean } = {},
): Promise<Outcome> {
  // What stands behind `limpet` is Limpet's.
  const loud = args[0] === 'limpet' ? ['-vv', ...args] : [...args, '-vv'];
  const running = startIotdm(loud, {
    cwd: dir,
    ...options,
    env: { HOME: dir, TMPDIR: dir, XDG_STATE_HOME: join(dir, 'state'), ...options.env },
  });
  const sampling = setInterval(() => {
    if (existsSync(`/proc/${running.pid}/cmdline`)) {
      seenCommandLines.add(readFileSync(`/proc/${running.pid}/cmdline`, 'utf8'));
    }
  }, 20);
  try {
    const outcome = await running.outcome;
    const shown = args.map((arg) => (leaks(arg) === undefined ? arg : '[secret]')).join(' ');
    for (const [stream, text] of Object.entries({ stdout: outcome.stdout, stderr: outcome.stderr })) {
      assert.equal(leaks(text), undefined, `${stream} of iotdm ${shown}`);
    }
    if (argvIsClean)
      for (const line of seenCommandLines) assert.equal(leaks(line), undefined, `argv of ${shown}`);
    return outcome;
  } finally {
    clearInterval(sampling);
    seenCommandLines.clear();
  }
}

function secretFile(name: string, content: string, mode = 0o600): string {
  const path = join(dir, 'secrets', name);
  mkdirSync(join(dir, 'secrets'), { recursive: true });
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

/** Looks through whatever the commands have made; what the test itself put there is not theirs. */
function checkFiles(): void {
  for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' })) {
    const path = join(dir, name);
    if (name.startsWith('secrets') || !statSync(path).isFile()) continue;
    assert.equal(leaks(readFileSync(path, 'latin1')), undefined, `file ${relative(dir, path)}`);
  }
}

describe('the connection string of a device', () => {
  it('by stdin, file and environment', async () => {
    const tpm = ['--tpm', chip.tcti];
    const write = ['slot', 'write', '0', '--overwrite', ...tpm];
    const byStdin = await run([...write, '--connection-string-file', '-'], { stdin: deviceString });
    assert.equal(byStdin.code, 0, byStdin.stderr);
    const byFile = await run([
      ...write,
      '--json',
      '--connection-string-file',
      secretFile('device', `${deviceString}\n`),
    ]);
    assert.equal(byFile.code, 0, byFile.stderr);
    const byEnvironment = await run(write, { env: { IOTDM_CONNECTION_STRING: deviceString } });
    assert.equal(byEnvironment.code, 0, byEnvironment.stderr);
    const dryRun = await run([...write, '--dry-run'], { env: { IOTDM_CONNECTION_STRING: deviceString } });
    assert.equal(dryRun.code, 0, dryRun.stderr);
    const readable = await run([
      ...write,
      '--connection-string-file',
      secretFile('open', deviceString, 0o644),
    ]);
    assert.match(readable.stderr, /iotdm: warning: other users of this machine can read .*chmod 600/);
  });

  it('is not shown by any command on its slot', async () => {
    writeFileSync(join(dir, 'challenge'), 'challenge');
    for (const args of [
      ['slot', 'list', '--all'],
      ['slot', 'show', '0'],
      ['slot', 'show', '0', '--json'],
      ['slot', 'token', '0', '--json'],
      ['slot', 'sign', '0', 'challenge'],
      ['slot', 'verify', '0'],
      ['slot', 'verify', '0', '--hub', '--hub-host', '127.0.0.1:1'],
      ['slot', 'uri', 'read', '0'],
      ['slot', 'device-id', '0'],
      ['slot', 'repair', '0'],
      ['slot', 'uri', 'write', '0', 'h/d', '--overwrite'],
      ['slot', 'uri', 'clear', '0', '--yes'],
      ['slot', 'key', 'clear', '0', '--dry-run'],
      ['slot', 'clear', '0', '--dry-run'],
      ['slot', 'clear', '0'],
      ['srk', 'read'],
      ['ek', 'read', '--out', 'ek.txt', '--overwrite'],
      ['tpm', 'info'],
      ['tpm', 'check'],
      ['harvest', '--manifest', 'm.ndjson', '--serial', 'SN'],
    ]) {
      await run([...args, '--tpm', chip.tcti], { env: { IOTDM_CONNECTION_STRING: deviceString } });
    }
  });

  it('and its key alone leave nothing behind, not even where they are interrupted', async () => {
    const key = deviceKey.toString('base64');
    const write = ['slot', 'key', 'write', '2', '--overwrite', '--tpm', chip.tcti];
    for (const [given, options] of [
      [['--key-file', '-'], { stdin: key }],
      [['--key-file', secretFile('key', key)], {}],
      [[], { env: { IOTDM_SLOT_KEY: key } }],
    ] as const) {
      const outcome = await run([...write, ...given], options);
      assert.equal(outcome.code, 0, outcome.stderr);
    }
    for (const [args, stdin] of [
      [['slot', 'write', '2', '--overwrite', '--connection-string-file', '-'], deviceString],
      [write.slice(0, 5).concat('--key-file', '-'), key],
    ] as const) {
      const gate = await gateTpm(chip.tcti, (_, code) => (code === 0x120 ? 'drop' : 'pass'));
      const outcome = await run([...args, '--tpm', gate.tcti, '--timeout', '1'], { stdin });
      await gate.close();
      assert.equal(outcome.code, 4, outcome.stderr);
      assert.ok(readdirSync(join(dir, 'state', 'iotdm')).some((name) => name.startsWith('recovery')));
      checkFiles();
      const repaired = await run(['slot', 'repair', '2', '--tpm', chip.tcti]);
      assert.equal(repaired.code, 0, repaired.stderr);
    }
  });

  it('given on the command line is refused and not repeated', async () => {
    const key = deviceKey.toString('base64');
    for (const args of [
      ['slot', 'key', 'write', '0', '--key', key],
      ['slot', 'key', 'write', '0', `--key=${key}`],
      ['slot', 'key', 'write', '0', key],
      ['slot', 'key', 'write', '0', '--key-file', key],
      ['slot', 'uri', 'write', '0', deviceString],
      ['slot', 'uri', 'write', '0', key],
      ['slot', 'verify', '0', '--connection-string', deviceString],
      ['slot', 'verify', '0', '--hub-host', deviceString],
      ['slot', 'token', '0', '--expires-at', deviceString],
      ['slot', 'clear', '0', '--yes', `--wait=${deviceString}`],
      ['slot', 'write', '0', '--connection-string', deviceString],
      ['slot', 'write', '0', `--connection-string=${deviceString}`],
      ['slot', 'write', '0', `--connectionstring=${deviceString}`],
      ['slot', 'write', '0', `--connection-string-fil=${deviceString}`],
      ['slot', 'write', '0', `--cs=${key}`],
      ['slot', 'write', '0', '--connection-string-file', deviceString],
      ['slot', 'write', '0', '--connection-string-file', key],
      ['slot', 'write', '0', '--connection-string-file', deviceKey.toString('hex')],
      ['slot', 'write', '0', '--connection-string-file', deviceKey.toString('base64url')],
      ['slot', 'write', '0', deviceString],
      ['slot', 'write', '0', key],
      ['slot', 'write', deviceString],
      ['slot', 'write', key],
      ['slot', 'show', key],
      ['slot', deviceString],
      ['slot', key],
      [deviceString],
      [key],
      ['help', deviceString],
      ['ek', 'read', '--format', deviceString],
      ['ek', 'read', '--tpm', deviceString],
      ['ek', 'read', '--timeout', deviceString],
      ['ek', 'read', '--config', deviceString],
      ['slot', 'token', '0', '--ttl', deviceString],
      ['enrollment', 'show', deviceString],
      ['enrollment', 'import', deviceString],
      ['ek', 'convert', deviceString],
      ['enrollment', 'list', '--dps', deviceString],
      ['enrollment', 'list', '--dps-connection-string', deviceString],
      ['enrollment', 'list', `--dps-connection-string=${deviceString}`],
      ['enrollment', 'list', '--dps-connection-string-file', deviceString],
    ]) {
      for (const form of [[], ['--json']]) {
        const outcome = await run([...args, ...form], {
          argvIsClean: false,
          env: { IOTDM_DPS_CONNECTION_STRING: serviceString },
        });
        assert.equal(outcome.code, 2, outcome.stderr);
      }
    }
    const hinted = await run(['slot', 'write', '0', '--connection-string', deviceString], {
      argvIsClean: false,
    });
    assert.match(hinted.stderr, /--connection-string-file FILE or IOTDM_CONNECTION_STRING/);
  });

  it('damaged is refused and not repeated', async () => {
    const key = deviceKey.toString('base64');
    for (const damaged of [
      key,
      `${key};DeviceId=x`,
      deviceString.replace('SharedAccessKey=', 'SharedAccesKey='),
      deviceString.replace('SharedAccessKey=', ''),
      deviceString.replaceAll(';', ','),
      deviceString.replace('=', ''),
      `${deviceString};${key}`,
      deviceString.slice(0, -3),
      `${deviceString}=`,
      deviceString.replace('press-17', `press 17 ${key}`),
      deviceString.replace('plant', key),
      `"${deviceString}`,
      serviceString,
      Buffer.from(deviceString, 'utf16le'),
      '',
    ]) {
      const outcome = await run(
        ['slot', 'write', '0', '--overwrite', '--connection-string-file', '-', '--tpm', chip.tcti],
        { stdin: damaged },
      );
      assert.equal(outcome.code, 2, outcome.stderr);
    }
  });

  it('is not shown when the TPM or the file system fails', async () => {
    const write = ['slot', 'write', '1', '--connection-string-file', '-', '--overwrite'];
    const failures: readonly (readonly string[])[] = [
      ['--tpm', 'swtpm:host=127.0.0.1,port=1'],
      ['--tpm', 'cmd:cat'],
      ['--tpm', 'cmd:exit 3'],
      ['--tpm', 'cmd:head -c 64 >/dev/null; printf garbage; sleep 0.2', '--timeout', '1'],
      ['--tpm', lockedChip.tcti],
      ['--tpm', lockedChip.tcti, '--owner-auth-file', '/absent'],
    ];
    for (const more of failures) {
      const outcome = await run([...write, ...more], { stdin: deviceString });
      assert.ok([2, 3, 4].includes(outcome.code), outcome.stderr);
    }
  });
});

describe("secrets in Limpet's arguments", () => {
  const key = deviceKey.toString('base64');
  const limpet = (...words: string[]): Promise<Outcome> =>
    run(['limpet', '--tpm', chip.tcti, ...words], { argvIsClean: false });

  it('are taken, as Limpet takes them, with one warning', async () => {
    for (const words of [
      ['4', '-PCS', deviceString],
      ['5', '-CHK', key],
    ]) {
      const { code, stderr } = await limpet(...words);
      assert.equal(code, 0, stderr);
      assert.equal(stderr.match(/^iotdm: warning: /gm)?.length, 1, stderr);
      assert.match(stderr, /^iotdm: warning: .*iotdm slot (key )?write [45] --[a-z-]+-file FILE/m);
      assert.equal((await limpet(...words)).code, 4);
    }
    for (const words of [['-LLD'], ['4', '-RUR'], ['4', '-RID'], ['4', '-DLD'], ['5', '-EHK']]) {
      const { code, stderr } = await limpet(...words);
      assert.equal(code, 0, stderr);
    }
  });

  it('are not repeated wherever they stand by mistake', async () => {
    const forms = [deviceString, deviceKey.toString('hex')];
    for (const secret of forms) {
      for (const words of [
        [secret],
        [`-${secret}`],
        ['6', secret],
        ['6', `-${secret}`],
        ['6', '-PCS', secret, secret],
        ['6', '-PCS', `${secret};DeviceId=x`],
        ['6', '-CHK', `${secret}x`],
        ['6', '-AST', secret],
        ['6', '-RID', secret],
        ['-IAT', secret],
        ['-GTI', secret],
        ['-azuredps', '-enrollmentinfo', secret],
        ['-azuredps', '-register', '0', secret, secret],
        ['-PFX', 'file', secret],
      ]) {
        const { code, stderr } = await limpet(...words);
        assert.equal(code, 2, stderr);
      }
    }
  });
});

describe('the connection string of the service', () => {
  const files = (): string[] => [
    '--dps-connection-string-file',
    secretFile('service', serviceString),
    '--ca',
    service.ca,
  ];

  it('in every command that uses it, with success', async () => {
    writeFileSync(join(dir, 'rows.csv'), `registrationId,endorsementKey\none,${vectorEndorsementKey}\n`);
    const commands = [
      ['enrollment', 'import', 'rows.csv'],
      ['enrollment', 'import', 'rows.csv', '--dry-run'],
      ['enrollment', 'list', '--json'],
      ['enrollment', 'show', 'one'],
      ['enrollment', 'export', 'rows.csv', '--format', 'az'],
      ['enrollment', 'delete', 'one', '--yes'],
      ['enrollment', 'create', '--registration-id', 'two', '--endorsement-key', vectorEndorsementKey],
    ];
    for (const args of commands) {
      const outcome = await run([...args, ...files()]);
      assert.equal(outcome.code, 0, outcome.stderr);
    }
    const env = { IOTDM_DPS_CONNECTION_STRING: serviceString, IOTDM_CA: service.ca };
    assert.equal((await run(['enrollment', 'list'], { env })).code, 0);
    const byStdin = await run(
      ['enrollment', 'list', '--dps-connection-string-file', '-', '--ca', service.ca],
      { stdin: serviceString },
    );
    assert.equal(byStdin.code, 0);
    assert.match(byStdin.stderr, /http: POST \/enrollments\/query/, 'requests are traced');
  });

  it('when the service refuses, lies or repeats what it was sent', async (t) => {
    const lying = await startLyingServer();
    t.after(() => lying.close());
    writeFileSync(join(dir, 'lying-ca.pem'), lying.ca);
    const there = serviceString.replace(/127\.0\.0\.1:\d+/, lying.host);
    const args = ['enrollment', 'list', '--ca', 'lying-ca.pem', '--dps-connection-string-file', '-'];
    const echo =
      (status: number, type: string): Parameters<typeof lying.answer>[0] =>
      (socket, request) => {
        const message = `you sent ${request.headers['authorization'] ?? ''} and ${there}`;
        const body =
          type === 'application/json' ? { errorCode: 400000, message, trackingId: message } : message;
        answering(status, body, { 'content-type': type })(socket, request);
      };
    for (const answerer of [
      echo(401, 'application/json'),
      echo(400, 'application/json'),
      echo(404, 'text/html'),
      echo(200, 'text/plain'),
      echo(500, 'application/json'),
    ]) {
      lying.answer(answerer);
      for (const form of [[], ['--json']]) {
        const outcome = await run([...args, ...form], { stdin: there });
        assert.ok([5, 6, 7].includes(outcome.code), outcome.stderr);
        assert.doesNotMatch(outcome.stdout + outcome.stderr, /sig=(?!\[secret\])/);
      }
    }
    const refused = await run(
      ['enrollment', 'list', '--ca', service.ca, '--dps-connection-string-file', '-'],
      {
        stdin: serviceString.replace(/Key=[^=]*=*$/, `Key=${foreignKey.toString('base64')}`),
      },
    );
    assert.equal(refused.code, 5);
    assert.equal(
      (await run(['enrollment', 'list', '--dps-connection-string-file', '-'], { stdin: serviceString })).code,
      7,
    );
  });

  it('damaged or of another kind is refused and not repeated', async () => {
    for (const damaged of [
      deviceString,
      serviceString.replaceAll(';', ','),
      serviceString.replace('SharedAccessKey=', 'Key='),
      serviceString.slice(0, -2),
      `${serviceString};x=${foreignKey.toString('base64')}`,
    ]) {
      const outcome = await run(
        ['enrollment', 'list', '--ca', service.ca, '--dps-connection-string-file', '-'],
        { stdin: damaged },
      );
      assert.equal(outcome.code, 2, outcome.stderr);
    }
  });

  it('in the settings file, where only the name of its file belongs', async () => {
    const config = secretFile('config.json', JSON.stringify({ dpsConnectionStringFile: serviceString }));
    assert.equal((await run(['enrollment', 'list', '--config', config])).code, 2);
    const named = secretFile('named.json', JSON.stringify({ dpsConnectionString: serviceString }));
    assert.equal((await run(['enrollment', 'list', '--config', named])).code, 2);
    const broken = secretFile('broken.json', `{"dpsConnectionStringFile": "${serviceString}`);
    assert.equal((await run(['enrollment', 'list', '--config', broken])).code, 2);
  });

  it('in the files of the emulator, of which only its credentials hold the key', async () => {
    const state = join(dir, 'secrets', 'emulator');
    const outcome = await run(['emulator', 'start', '--dir', state]);
    try {
      assert.equal(outcome.code, 0, outcome.stderr);
      const own = readFileSync(join(state, 'service-connection-string'), 'utf8');
      assert.equal(statSync(join(state, 'service-connection-string')).mode & 0o777, 0o600);
      remember(/SharedAccessKey=(.*)$/.exec(own)?.[1] ?? '');
      const list = await run(
        ['enrollment', 'list', '--dps-connection-string-file', '-', '--ca', join(state, 'ca.pem')],
        { stdin: own },
      );
      assert.equal(list.code, 0, list.stderr);
      for (const name of readdirSync(state).filter((file) => file !== 'service-connection-string')) {
        assert.equal(leaks(readFileSync(join(state, name), 'latin1')), undefined, name);
      }
      await run(['emulator', 'status', '--dir', state]);
      await run(['emulator', 'status', '--json', '--dir', state]);
    } finally {
      await run(['emulator', 'stop', '--dir', state]);
    }
  });
});

describe('the keys that DPS and the hub give', () => {
  it('are not shown when they are taken over, written and refused', async () => {
    await enroll(chip, service);
    const base = ['--tpm', chip.tcti, '--ca', service.ca];
    const hub = ['--hub-host', service.hubHost];
    const common = [...base, ...hub];
    const nowhere = ['--hub-host', '127.0.0.1:1'];
    const place = ['--id-scope', service.idScope, '--device-host', service.deviceHost];
    const first = await run(['device', 'register', ...common, ...place, '--overwrite', '--json']);
    assert.equal(first.code, 0, first.stderr);
    const token = await run(['slot', 'token', '0', '--tpm', chip.tcti, '--json']);
    const { sharedAccessSignature } = JSON.parse(token.stdout) as { sharedAccessSignature: string };
    const { deviceId } = JSON.parse(first.stdout) as { deviceId: string };
    const moduleKey = randomBytes(32);
    const keys = { primaryKey: moduleKey.toString('base64'), secondaryKey: moduleKey.toString('base64') };
    const made = await send(hubOptions(service), {
      method: 'PUT',
      resource: `/devices/${deviceId}/modules/Marked`,
      token: sharedAccessSignature,
      json: { deviceId, moduleId: 'Marked', authentication: { type: 'sas', symmetricKey: keys } },
    });
    assert.equal(made.status, 201);
    for (const form of ['base64', 'base64url', 'hex'] as const) remember(moduleKey.toString(form));
    // Every key that the emulator has given.
    for (const [, key = ''] of readFileSync(join(service.dir, 'devices.ndjson'), 'utf8').matchAll(
      /"(?:primaryKey|secondaryKey|sessionKey)":"([^"]+)"/g,
    )) {
      for (const form of ['base64', 'base64url', 'hex'] as const)
        remember(Buffer.from(key, 'base64').toString(form));
    }
    const whole = ['provision', ...base, ...place, ...service.options.slice(0, 2)];
    const line = [...whole, '--manifest', 'line.ndjson'];
    for (const [args, code] of [
      [['device', 'register', ...common, ...place], 0],
      [['device', 'register', ...common, ...place, '--registration-id', 'unknown', '--slot', '9'], 6],
      [['module', 'provision', ...common, '--module', 'Marked=8'], 0],
      [['module', 'provision', ...common, '--module', 'Marked=8', '--json'], 0],
      [['module', 'provision', ...common, '--module', 'Other=0', '--json'], 2],
      [['module', 'provision', ...base, '--module', 'Marked=9', ...nowhere], 7],
      [['slot', 'show', '8', '--tpm', chip.tcti], 0],
      [[...line, ...hub, '--module', 'Marked=8', '--json'], 0],
      [[...line, ...hub, '--module', 'Other=7'], 0],
      [[...line, '--module', 'Marked=8', ...nowhere], 7],
    ] as const) {
      const outcome = await run(args);
      assert.equal(outcome.code, code, `${args.join(' ')}: ${outcome.stderr}`);
    }
    const config = secretFile(
      'agent.json',
      JSON.stringify({ debugConnectionString: deviceString, dpsUri: 7 }),
    );
    assert.equal((await run(['module', 'provision', ...common, '--agent-config', config])).code, 2);
  });
});

describe('authorization values', () => {
  it('by file and environment, right and wrong', async () => {
    const tpm = ['--tpm', lockedChip.tcti];
    const owner = secretFile('owner', ownerAuth);
    const endorsement = secretFile('endorsement', `${endorsementAuth}\n`);
    for (const [args, code] of [
      [['ek', 'read', '--endorsement-auth-file', endorsement], 0],
      [['srk', 'read', '--owner-auth-file', owner], 0],
      [['ek', 'read', '--endorsement-auth-file', owner], 4],
      [['srk', 'read', '--owner-auth-file', endorsement], 4],
      [['tpm', 'check', '--owner-auth-file', owner, '--endorsement-auth-file', endorsement], undefined],
      [['slot', 'write', '2', '--owner-auth-file', owner, '--connection-string-file', '-'], 0],
      [['slot', 'clear', '2', '--yes', '--owner-auth-file', owner], 0],
    ] as const) {
      const outcome = await run([...args, ...tpm], { stdin: deviceString });
      if (code !== undefined) assert.equal(outcome.code, code, `${args.join(' ')}: ${outcome.stderr}`);
    }
    const env = { IOTDM_OWNER_AUTH: ownerAuth, IOTDM_ENDORSEMENT_AUTH: endorsementAuth };
    assert.equal((await run(['srk', 'read', ...tpm], { env })).code, 0);
    assert.equal((await run(['ek', 'read', ...tpm], { env })).code, 0);
  });

  it('given where the name of its file is expected are not repeated', async () => {
    for (const args of [
      ['srk', 'read', '--owner-auth-file', ownerAuth],
      ['ek', 'read', '--endorsement-auth-file', endorsementAuth],
      ['srk', 'read', `--owner-auth=${ownerAuth}`],
      ['srk', 'read', '--owner-auth', ownerAuth],
    ]) {
      const outcome = await run([...args, '--tpm', lockedChip.tcti], { argvIsClean: false });
      assert.equal(outcome.code, 2, outcome.stderr);
    }
  });
});
