/**
 * What `enrollment list` writes, `enrollment import` brings back: enrollments of every shape go into the service past
 * iotdm, are listed, deleted and imported, and are read from the service past iotdm again.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { emulator, iotdm, lifetimeOfFile, type EmulatedService, type Outcome } from '../lab/lab.ts';
import { serviceCaller, type ServiceCall } from '../lab/service-caller.ts';
import { failing } from './failing.ts';

const lifetime = lifetimeOfFile();
const dir = mkdtempSync(join(tmpdir(), 'iotdm-round-trip-'));
let service: EmulatedService;
let call: ServiceCall;

before(async () => {
  service = await emulator(lifetime);
  call = serviceCaller(service);
});
after(() => {
  rmSync(dir, { recursive: true });
});

type Shape = Readonly<Record<string, unknown>> & { readonly registrationId: string };

/** All that is stored, but what only the service sets. */
async function stored(): Promise<Map<string, object>> {
  const all = (await call('POST', '/enrollments/query', { query: 'SELECT * FROM enrollments' })) as Shape[];
  const ofTheService = new Set(['etag', 'createdDateTimeUtc', 'lastUpdatedDateTimeUtc']);
  return new Map(
    all.map((enrollment) => {
      const written = Object.entries(enrollment).filter(([name]) => !ofTheService.has(name));
      return [enrollment.registrationId, Object.fromEntries(written)];
    }),
  );
}

const run = (...args: string[]): Promise<Outcome> =>
  iotdm(['enrollment', ...args, ...service.options, '--yes']);
async function ran(...args: string[]): Promise<Outcome> {
  const outcome = await run(...args);
  assert.equal(outcome.code, 0, outcome.stderr);
  return outcome;
}

const storageRootKey = Buffer.concat([Buffer.from([0, 20]), Buffer.alloc(20, 7)]).toString('base64');
const webhook = {
  webhookUrl: 'https://f.azurewebsites.net/api/x?code=AAAAbbbb&b=1',
  apiVersion: '2021-10-01',
};
const hubs = ['hub1.azure-devices.net', 'Hub2.azure-devices.net'];

/** What an enrollment may have, each with what goes with it. */
const parts: readonly (readonly object[])[] = [
  [
    {},
    { iotHubHostName: 'hub1.azure-devices.net' },
    { allocationPolicy: 'static', iotHubHostName: 'hub1.azure-devices.net' },
    { allocationPolicy: 'static', iotHubs: ['hub1.azure-devices.net'] },
    { allocationPolicy: 'hashed', iotHubs: hubs },
    { allocationPolicy: 'geoLatency', iotHubs: hubs },
    { allocationPolicy: 'custom', iotHubs: hubs, customAllocationDefinition: webhook },
    { allocationPolicy: 'custom', customAllocationDefinition: webhook },
  ],
  [
    {},
    { initialTwin: {} },
    { initialTwin: { tags: {}, properties: {} } },
    { initialTwin: { tags: { site: 'north', line: { no: 4.5, empty: {} } } } },
    { initialTwin: { properties: { desired: { interval: 30, list: [1, null, { a: [] }], on: false } } } },
    { initialTwin: { tags: { 'ü\u2028"': '=1+1', version: '1.10' }, properties: { desired: {} } } },
  ],
  [{}, { optionalDeviceInformation: { batch: 7 } }, { optionalDeviceInformation: {} }],
  [{}, { capabilities: { iotEdge: true } }],
  [{}, { provisioningStatus: 'disabled' }],
  [
    {},
    { reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: true } },
    { reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false } },
  ],
  [{}, { namespaceName: 'line-4', certificateAuthorityName: 'Plant', certificatePolicyName: '1-Year' }],
];

/** Each part in turn with every other way of the parts before it. */
function shapes(count: number): Shape[] {
  return Array.from({ length: count }, (_, number) => {
    const chosen = parts.map((ways, index) => ways[(number * (index + 1) + (number >> 3)) % ways.length]);
    const tpm = { endorsementKey: syntheticEndorsementKey(number) };
    return Object.assign(
      {
        registrationId: number % 3 === 0 ? `Press-${number}-ABC` : `press-${number}`,
        ...(number % 4 === 1 ? { deviceId: `Press(${number})$x'` } : {}),
        attestation: { type: 'tpm', tpm: number % 5 === 0 ? { ...tpm, storageRootKey } : tpm },
      },
      ...chosen,
    ) as Shape;
  });
}

async function putPastIotdm(enrollments: readonly object[]): Promise<void> {
  for (let at = 0; at < enrollments.length; at += 10) {
    const some = enrollments.slice(at, at + 10);
    const result = await call('POST', '/enrollments', { mode: 'create', enrollments: some });
    assert.deepEqual(result, { isSuccessful: true, errors: [] });
  }
}

describe('enrollments of every shape', () => {
  it('come back from a list as they were, and stay so', async () => {
    await putPastIotdm(shapes(120));
    const before = await stored();
    assert.equal(before.size, 120);
    const file = join(dir, 'all.json');
    writeFileSync(file, (await ran('list', '--attestation', 'tpm', '--json')).stdout);
    const untouched = JSON.parse((await ran('import', file, '--no-journal', '--json')).stdout) as object;
    assert.deepEqual({ ...untouched, ...counts(0, 120) }, untouched, 'what was listed is unchanged');

    await ran('import', file, '--mode', 'delete', '--no-journal');
    assert.equal((await stored()).size, 0);
    const created = JSON.parse((await ran('import', file, '--no-journal', '--json')).stdout) as object;
    assert.deepEqual({ ...created, ...counts(120, 0) }, created);
    assert.deepEqual(await stored(), before);
    const again = JSON.parse((await ran('import', file, '--no-journal', '--json')).stdout) as object;
    assert.deepEqual({ ...again, ...counts(0, 120) }, again);
    assert.deepEqual(await stored(), before);

    // One by one.
    const shown = join(dir, 'one.json');
    const one = 'Press-3-ABC';
    writeFileSync(shown, (await ran('show', one, '--json')).stdout);
    await ran(
      'delete',
      one,
      '--if-match',
      String((JSON.parse(readFileSync(shown, 'utf8')) as Shape)['etag']),
    );
    await ran('import', shown, '--no-journal');
    assert.deepEqual((await stored()).get(one), before.get(one));
  });

  it('are refused with their place where one cannot come back, before anything is sent', async () => {
    const key = syntheticEndorsementKey(900);
    const row = {
      registrationId: 'r1',
      attestation: { type: 'tpm', tpm: { endorsementKey: key, secret: 'x' } },
    };
    const file = join(dir, 'refused.json');
    writeFileSync(file, `[\n${JSON.stringify(row)}\n]\n`);
    const sent = service.requests.length;
    const { code, message } = await failing(['enrollment', 'import', file, ...service.options]);
    assert.equal(code, 'input.rows');
    assert.match(
      message,
      /refused\.json:2:\d+: attestation\.tpm\.secret: unknown member "attestation\.tpm\.secret"$/,
    );
    assert.equal(service.requests.length, sent);
    const left = await ran('import', file, '--no-journal', '--ignore-unknown-columns');
    assert.match(left.stderr, /warning: left out, as they mean nothing to iotdm: attestation\.tpm\.secret\n/);
    await ran('delete', 'r1');
  });
});

describe('what the Azure CLI writes', () => {
  const attestation = (number: number): object => ({
    type: 'tpm',
    tpm: { endorsementKey: syntheticEndorsementKey(number), storageRootKey: null },
    x509: null,
    symmetricKey: null,
  });

  it('comes in as it is meant, and changes nothing the second and third time', async () => {
    const collection = (additionalProperties: object | null): object => ({
      additionalProperties,
      count: null,
      metadata: null,
      version: null,
    });
    const rows = [
      {
        registrationId: 'az-1',
        attestation: attestation(801),
        customAllocationDefinition: null,
        iotHubs: null,
      },
      {
        registrationId: 'az-2',
        attestation: attestation(802),
        initialTwin: { tags: collection({ site: 'north' }) },
      },
      {
        registrationId: 'az-3',
        attestation: attestation(803),
        initialTwin: { tags: { site: 'north', old: null }, properties: { desired: collection(null) } },
        optionalDeviceInformation: collection({ batch: 7 }),
      },
      {
        registrationId: 'az-4',
        attestation: attestation(804),
        allocationPolicy: 'custom',
        iotHubs: hubs,
        customAllocationDefinition: webhook,
      },
    ];
    const file = join(dir, 'az.json');
    writeFileSync(file, JSON.stringify(rows));
    for (const [created, unchanged] of [
      [4, 0],
      [0, 4],
      [0, 4],
    ] as const) {
      const result = JSON.parse((await ran('import', file, '--no-journal', '--json')).stdout) as object;
      assert.deepEqual({ ...result, ...counts(created, unchanged) }, result);
    }
    const all = await stored();
    const member = (id: string, name: string): unknown => (all.get(id) as Shape)[name];
    assert.deepEqual(member('az-2', 'initialTwin'), { tags: { site: 'north' } });
    assert.deepEqual(member('az-3', 'initialTwin'), { tags: { site: 'north' }, properties: { desired: {} } });
    assert.deepEqual(member('az-3', 'optionalDeviceInformation'), { batch: 7 });
    assert.deepEqual(member('az-4', 'customAllocationDefinition'), webhook);
  });
});

function counts(created: number, unchanged: number): object {
  return { created, updated: 0, unchanged, failed: 0 };
}
