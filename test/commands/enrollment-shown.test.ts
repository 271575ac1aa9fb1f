/** Every enrollment is shown as it is: hubs, webhooks, certificates, registrations; and so are groups. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { main } from '../../commands/main.ts';
import { certified, type Certified } from '../fakes/device-certificates.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { emulator, lifetimeOfFile, type EmulatedService, type Outcome } from '../lab/lab.ts';
import { serviceCaller, type ServiceCall } from '../lab/service-caller.ts';

const lifetime = lifetimeOfFile();
const dir = mkdtempSync(join(tmpdir(), 'iotdm-shown-'));
let service: EmulatedService;
let call: ServiceCall;
let device: Certified;

before(async () => {
  service = await emulator(lifetime);
  call = serviceCaller(service);
  device = await certified('press-x');
});
after(() => {
  rmSync(dir, { recursive: true });
});

/** In this process, which knows no terminal and no environment. */
async function iotdm(args: readonly string[], stdin = ''): Promise<Outcome> {
  const collected = (): { stream: PassThrough; text: () => string } => {
    const stream = new PassThrough();
    let text = '';
    stream.on('data', (bytes: Buffer) => (text += bytes.toString('utf8')));
    return { stream, text: () => text };
  };
  const [stdout, stderr] = [collected(), collected()];
  const input = new PassThrough();
  input.end(stdin);
  const code = await main(args, {
    stdin: input,
    stdout: stdout.stream,
    stderr: stderr.stream,
    environment: { IOTDM_STATE_DIR: dir },
    signal: new AbortController().signal,
    clock: () => new Date(),
    tool: 'iotdm/0.0.0',
    self: [],
  });
  return { code, stdout: stdout.text(), stderr: stderr.text() };
}

const run = (...args: string[]): Promise<Outcome> => iotdm(['enrollment', ...args, ...service.options]);
async function ran(...args: string[]): Promise<Outcome> {
  const outcome = await run(...args);
  assert.equal(outcome.code, 0, outcome.stderr);
  return outcome;
}
async function refused(message: RegExp, ...args: string[]): Promise<void> {
  const { code, stderr, stdout } = await run(...args);
  assert.deepEqual([code, stdout], [2, ''], stderr);
  assert.match(stderr, message);
}
const create = (id: string, key: number, ...more: string[]): Promise<Outcome> =>
  ran('create', '--registration-id', id, '--endorsement-key', syntheticEndorsementKey(key), ...more);
const stored = async (id: string): Promise<Readonly<Record<string, unknown>>> =>
  (await call('GET', `/enrollments/${id}`)) as Readonly<Record<string, unknown>>;

const url = 'https://f.azurewebsites.net/api/x?code=MARKED-KEY&clientId=MARKED-TOO';
const hubs = ['east.azure-devices.net', 'west.azure-devices.net'];

describe('several hubs and a webhook', () => {
  it('are given, shown and taken away; the key in the address is in JSON only', async () => {
    const file = join(dir, 'webhook.txt');
    writeFileSync(file, `${url}\n`, { mode: 0o600 });
    const custom = ['--allocation-policy', 'custom', '--webhook-api-version', '2021-10-01'];
    const dry = await ran(
      'create',
      '--endorsement-key',
      syntheticEndorsementKey(1),
      ...custom,
      '--iot-hubs',
      ...hubs,
      '--webhook-url-file',
      file,
      '--dry-run',
    );
    assert.match(
      dry.stdout,
      /"webhookUrl": "https:\/\/f\.azurewebsites\.net\/api\/x\?code=\*\*\*&clientId=\*\*\*"/,
    );
    const created = await create(
      'hook',
      1,
      ...custom,
      '--iot-hubs',
      ...hubs,
      '--webhook-url-file',
      file,
      '-vv',
    );
    assert.match(created.stderr, /http: PUT /);
    assert.doesNotMatch(created.stderr + created.stdout, /MARKED/);
    const { stdout } = await ran('show', 'hook');
    assert.match(stdout, /^IoT hubs +east\.azure-devices\.net, west\.azure-devices\.net$/m);
    assert.match(stdout, /^Webhook +https:\/\/f\.azurewebsites\.net\/api\/x\?code=\*\*\*&clientId=\*\*\*$/m);
    assert.match(stdout, /^Webhook API +2021-10-01$/m);
    const webhook = { webhookUrl: url, apiVersion: '2021-10-01' };
    assert.deepEqual((await stored('hook')).customAllocationDefinition, webhook);
    const json = JSON.parse((await ran('show', 'hook', '--json')).stdout) as typeof webhook & object;
    assert.deepEqual({ ...json, customAllocationDefinition: webhook, iotHubs: hubs }, json);

    const onArgv = await ran('update', 'hook', '--webhook-url', url.replace('x?', 'y?'));
    assert.match(onArgv.stderr, /^iotdm: warning: a webhook with its key on the command line can be read/);
    assert.doesNotMatch(onArgv.stdout + onArgv.stderr, /MARKED/);
    assert.deepEqual((await stored('hook')).customAllocationDefinition, {
      ...webhook,
      webhookUrl: url.replace('x?', 'y?'),
    });
    const update = await ran('update', 'hook', '--allocation-policy', 'hashed', '--dry-run');
    assert.doesNotMatch(update.stdout, /webhook/i);
    await ran('update', 'hook', '--allocation-policy', 'geoLatency', '--iot-hubs', `${hubs.join(',')} c.net`);
    const { customAllocationDefinition, iotHubs } = await stored('hook');
    assert.deepEqual([customAllocationDefinition, iotHubs], [undefined, [...hubs, 'c.net']]);
  });

  it('are refused where they could not work with what is there', async () => {
    await create('plain', 2, '--iot-hub-host-name', 'east.azure-devices.net');
    const sent = service.requests.length;
    await refused(
      /--allocation-policy: custom allocation needs its webhook/,
      'create',
      '--endorsement-key',
      syntheticEndorsementKey(3),
      '--allocation-policy',
      'custom',
    );
    await refused(
      /--iot-hubs: iotHubs needs an allocationPolicy/,
      'create',
      '--endorsement-key',
      syntheticEndorsementKey(3),
      '--iot-hubs',
      ...hubs,
    );
    await refused(
      /exclude each other/,
      'update',
      'plain',
      '--webhook-url',
      'https://x/',
      '--webhook-url-file',
      'y',
    );
    assert.equal(service.requests.length, sent);
    await refused(
      /allocationPolicy: custom allocation needs its webhook/,
      'update',
      'plain',
      '--allocation-policy',
      'custom',
    );
    await refused(
      /webhookUrl: a webhook is asked with the allocationPolicy custom only/,
      'update',
      'plain',
      '--webhook-url',
      'https://x/',
      '--webhook-api-version',
      '2021-10-01',
    );
    await refused(
      /static allocation takes one hub/,
      'update',
      'plain',
      '--allocation-policy',
      'static',
      '--iot-hubs',
      ...hubs,
    );
    await ran('update', 'plain', '--allocation-policy', 'static');
    const { allocationPolicy, iotHubHostName } = await stored('plain');
    assert.deepEqual([allocationPolicy, iotHubHostName], ['static', 'east.azure-devices.net']);
  });

  it('goes with who issues certificates', async () => {
    await create(
      'issued',
      4,
      '--namespace-name',
      'line-4',
      '--certificate-authority-name',
      'Plant',
      '--certificate-policy-name',
      'aYear',
    );
    const { stdout } = await ran('show', 'issued');
    assert.match(stdout, /^Namespace +line-4\nIssuer +Plant\nIssuing policy +aYear$/m);
    await refused(
      /--namespace-name: the name of a namespace/,
      'update',
      'issued',
      '--namespace-name',
      'Line 4',
    );
  });
});

describe('a registration id of its own', () => {
  it('is said to be written in lower case, and leaves the device id as it was', async () => {
    const { stderr } = await create('Press-ABC', 5);
    assert.equal(stderr, 'iotdm: the registration id is written in lower case: press-abc\n');
    assert.equal((await stored('press-abc')).deviceId, 'Press-ABC');
    const csv = join(dir, 'upper.csv');
    writeFileSync(
      csv,
      `registrationId,endorsementKey\nPRESS-6,${syntheticEndorsementKey(6)}\nPress-7,${syntheticEndorsementKey(7)}\n`,
    );
    const imported = await ran('import', csv, '--no-journal');
    assert.match(
      imported.stderr,
      /^iotdm: the registration id PRESS-6 \(.*upper\.csv:2\), and 1 other: written in lower case; the device id, where it is that too, is not$/m,
    );
    assert.equal(imported.stderr.match(/lower case/g)?.length, 1);
    assert.equal((await stored('press-6')).deviceId, 'PRESS-6');
  });
});

describe('an ETag', () => {
  it('names the same version with and without its quotation marks', async () => {
    await create('tagged', 8);
    const bare = async (): Promise<string> => String((await stored('tagged')).etag).replaceAll('"', '');
    await ran('update', 'tagged', '--tag', 'a=1', '--if-match', await bare());
    await ran('update', 'tagged', '--tag', 'a=2', '--if-match', `"${await bare()}"`);
    await ran('update', 'tagged', '--tag', 'a=3', '--if-match', '*');
    await ran('delete', 'tagged', '--if-match', await bare(), '--dry-run');
    const stale = await run('delete', 'tagged', '--if-match', 'AAAA', '--yes');
    assert.equal(stale.code, 6, stale.stderr);
    await ran('delete', 'tagged', '--if-match', await bare(), '--yes');
  });
});

describe('enrollments of other kinds', () => {
  const symmetricKey = {
    primaryKey: Buffer.alloc(32, 1).toString('base64'),
    secondaryKey: Buffer.alloc(32, 2).toString('base64'),
  };

  it('are listed by kind, and shown with their certificates and without their keys', async () => {
    await create('kind-tpm', 9);
    const put = (registrationId: string, attestation: object): Promise<unknown> =>
      call('PUT', `/enrollments/${registrationId}`, { registrationId, attestation });
    await put('kind-key', { type: 'symmetricKey', symmetricKey });
    const x509 = { clientCertificates: { primary: { certificate: device.cert } } };
    await put('kind-x509', { type: 'x509', x509 });
    const listed = (await ran('list', '--id-prefix', 'kind-')).stdout;
    assert.match(listed, /^Registration id +Status +Attestation +Device id$/m);
    assert.match(listed, /^kind-key +enabled +symmetricKey +\(the registration id\)$/m);
    for (const [type, id] of [
      ['tpm', 'kind-tpm'],
      ['x509', 'kind-x509'],
      ['symmetricKey', 'kind-key'],
    ] as const) {
      const { stdout } = await ran('list', '--id-prefix', 'kind-', '--attestation', type, '--ndjson');
      assert.deepEqual(
        stdout
          .trimEnd()
          .split('\n')
          .map((line) => (JSON.parse(line) as { registrationId: string }).registrationId),
        [id],
      );
      assert.doesNotMatch(stdout, new RegExp(symmetricKey.primaryKey));
    }
    assert.equal(
      (await ran('list', '--attestation', 'none')).stdout,
      'No individual enrollment is like that.\n',
    );
    const shown = (await ran('show', 'kind-x509')).stdout;
    assert.match(shown, /^Certificate \(primary\) +.*CN=press-x/m);
    assert.match(shown, /^ {2}SHA-256 thumbprint +[0-9a-fA-F]{64}$/m);
    assert.match(shown, /^ {2}valid +\d{4}-.* to \d{4}-/m);
    const key = await ran('show', 'kind-key', '--json');
    assert.doesNotMatch(key.stdout, /primaryKey/);
  });

  it('in groups are read, and nothing else', async () => {
    assert.equal((await ran('group', 'list')).stdout, 'There are no enrollment groups.\n');
    const put = (enrollmentGroupId: string, more: object): Promise<unknown> =>
      call('PUT', `/enrollmentGroups/${enrollmentGroupId}`, { enrollmentGroupId, ...more });
    await put('Line-3', {
      attestation: { type: 'symmetricKey', symmetricKey },
      allocationPolicy: 'geoLatency',
      iotHubs: hubs,
      initialTwin: { tags: { hall: 'north' } },
    });
    const authority = await certified('Plant CA', { ca: true });
    await put('line-4', {
      attestation: {
        type: 'x509',
        x509: { signingCertificates: { primary: { certificate: authority.cert } } },
      },
    });
    const { stdout } = await ran('group', 'list');
    assert.match(
      stdout,
      /^Status +Attestation +Group\nenabled +symmetricKey +Line-3\nenabled +x509 +line-4\n$/,
    );
    const groups = JSON.parse((await ran('group', 'list', '--json')).stdout) as { attestation: object }[];
    assert.deepEqual(groups[0]?.attestation, { type: 'symmetricKey' });
    const shown = (await ran('group', 'show', 'LINE-3')).stdout;
    assert.match(shown, /^Group +Line-3\nStatus +enabled\nAttestation +symmetricKey$/m);
    assert.match(shown, /^Tags +\{"hall":"north"\}$/m);
    assert.match(
      (await ran('group', 'show', 'line-4')).stdout,
      /^Signing certificate \(primary\) +.*CN=Plant CA/m,
    );
    const missing = await run('group', 'show', 'line-5');
    assert.equal(missing.code, 6);
    assert.match(missing.stderr, /error: .* has no enrollment group line-5\n/);
  });
});

describe('an option that takes one value', () => {
  it('is refused when it is given twice, everywhere and in each of its forms', async () => {
    const cases: [args: string[], flag: string][] = [
      [['enrollment', 'create', '--device-id', 'a', '--device-id', 'a'], '--device-id'],
      [['enrollment', 'list', '--hub=a', '--hub', 'b'], '--hub'],
      [['--tpm', 'tbs', 'ek', 'read', '--tpm=tbs'], '--tpm'],
      [['slot', 'show', '1', '--timeout', '3', '--timeout', '3'], '--timeout'],
      [['slot', 'clear', '1', '--wait', '--wait', '5'], '--wait'],
      [['enrollment', 'import', 'x.csv', '--mode', 'create', '--mode', 'delete'], '--mode'],
      [['limpet', '--tpm', 'tbs', '--tpm', 'tbs', '-GTI'], '--tpm'],
    ];
    for (const [args, flag] of cases) {
      const { code, stderr } = await iotdm(args);
      assert.equal(code, 2, args.join(' '));
      assert.match(stderr, new RegExp(`^iotdm: error: ${flag} is given twice\niotdm: hint: .+\n$`));
    }
  });

  it('is not confused with one that gathers values, a switch, or what is not an option', async () => {
    const unreachable = ['--dps-connection-string-file', join(dir, 'none')];
    for (const args of [
      ['enrollment', 'update', 'x', '--tag', 'a=1', '--tag', 'b=2', ...unreachable],
      [
        'enrollment',
        'update',
        'x',
        '--allocation-policy',
        'hashed',
        '--iot-hubs',
        'a',
        '--iot-hubs',
        'b',
        'c',
        ...unreachable,
      ],
      ['enrollment', 'list', '--ndjson', '--ndjson', '-v', '-v', ...unreachable],
    ]) {
      const { stderr } = await iotdm(args);
      assert.match(stderr, /^iotdm: error: cannot read /m, args.join(' '));
    }
    const { stderr } = await iotdm(['limpet', '1', '-SUR', '--tpm', '--tpm']);
    assert.doesNotMatch(stderr, /given twice/);
  });
});
