/** Enrollments in the service's own form: what `enrollment list`, the Azure CLI and SDKs write, comes in as it is. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import {
  checkEnrollmentInput,
  describeFault,
  readCheckedRows,
  type InputOptions,
  type InputSource,
} from '../../src/station/enrollment-input.ts';
import { enrollmentToCreate, mergeEnrollment } from '../../src/station/enrollment-merge.ts';
import { namedValues } from '../../src/station/enrollment-rows.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';

const tpm = { endorsementKey: syntheticEndorsementKey(1) };
const attestation = { type: 'tpm', tpm };

function ndjson(...rows: unknown[]): InputSource {
  const text = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  return { name: 'rows', format: 'ndjson', open: () => chunked(text, 1000) };
}

async function enrollmentOf(row: object, options?: InputOptions): Promise<Enrollment> {
  const [read] = await collect(
    readCheckedRows([ndjson({ registrationId: 'd1', attestation, ...row })], options),
  );
  assert(read);
  return read.enrollment;
}

async function faultOf(row: object, options?: InputOptions): Promise<string> {
  const source = ndjson({ registrationId: 'd1', attestation, ...row });
  const { faults } = await checkEnrollmentInput([source], options);
  assert.equal(faults.length, 1, JSON.stringify(faults));
  return faults.map((fault) => describeFault(fault).replace(/^rows:1:\d+: /, '')).join();
}

const webhook = { webhookUrl: 'https://f.azurewebsites.net/api/x?code=AAAA', apiVersion: '2021-10-01' };
const storageRootKey = Buffer.concat([Buffer.from([0, 10]), Buffer.alloc(10, 7)]).toString('base64');

describe('an enrollment as the service shows it', () => {
  it('is read with every member that can be written', async () => {
    const whole = {
      registrationId: 'Press-ABC',
      deviceId: 'press',
      attestation: { type: 'tpm', tpm: { ...tpm, storageRootKey } },
      capabilities: { iotEdge: true },
      iotHubs: ['a.azure-devices.net', 'B.azure-devices.net'],
      allocationPolicy: 'custom',
      customAllocationDefinition: webhook,
      initialTwin: { tags: { a: {} }, properties: { desired: { b: [null, 1] } } },
      provisioningStatus: 'disabled',
      reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: true },
      optionalDeviceInformation: { batch: 7 },
      namespaceName: 'line-4',
      certificateAuthorityName: 'Plant',
      certificatePolicyName: 'aYear',
      etag: '"AAAA"',
    };
    const shown = {
      ...whole,
      createdDateTimeUtc: '2026-01-02T03:04:05Z',
      lastUpdatedDateTimeUtc: '2026-01-02T03:04:05Z',
      registrationState: { status: 'assigned', anything: { at: 'all' } },
    };
    assert.deepEqual(await enrollmentOf(shown), whole);
  });

  it('keeps what is there and empty', async () => {
    for (const row of [
      { initialTwin: {} },
      { initialTwin: { tags: {} } },
      { initialTwin: { properties: {} } },
      { initialTwin: { tags: {}, properties: { desired: {} } } },
      { iotHubs: [] },
      { optionalDeviceInformation: {} },
    ]) {
      const { registrationId, attestation: kept, ...rest } = await enrollmentOf(row);
      assert.deepEqual([registrationId, kept, rest], ['d1', attestation, row]);
    }
  });

  it('has members that are null as if they were not there, at every depth', async () => {
    const plain = await enrollmentOf({});
    const nulls = {
      deviceId: null,
      attestation: { type: 'tpm', tpm: { ...tpm, storageRootKey: null }, x509: null, symmetricKey: null },
      customAllocationDefinition: null,
      optionalDeviceInformation: null,
      capabilities: { iotEdge: null },
      reprovisionPolicy: { updateHubAssignment: null, migrateDeviceData: null },
      iotHubs: null,
      etag: null,
      anythingElse: null,
      additionalProperties: {},
    };
    assert.deepEqual(await enrollmentOf(nulls), plain);
    const twin = { initialTwin: { tags: null, properties: { additionalProperties: null, desired: null } } };
    assert.deepEqual(enrollmentToCreate(await enrollmentOf(twin)).initialTwin, { properties: {} });
    const webhookOfNulls = { customAllocationDefinition: { webhookUrl: null, apiVersion: null } };
    assert.deepEqual(await enrollmentOf(webhookOfNulls), plain);
  });

  it("is unwrapped where the Azure CLI's TwinCollection is around tags, and refused where that is not whole", async () => {
    const wrapped = (additionalProperties: unknown, more = {}): object => ({
      additionalProperties,
      count: null,
      metadata: null,
      version: null,
      ...more,
    });
    const site = { site: 'north', version: 2 };
    const row = {
      initialTwin: { tags: wrapped(site), properties: { desired: wrapped(null) } },
      optionalDeviceInformation: wrapped({ batch: 7 }, { count: 1, version: 3, metadata: {} }),
    };
    const { initialTwin, optionalDeviceInformation } = await enrollmentOf(row);
    assert.deepEqual(initialTwin, { tags: site, properties: { desired: {} } });
    assert.deepEqual(optionalDeviceInformation, { batch: 7 });

    for (const tags of [
      { additionalProperties: site },
      wrapped(site, { color: 'red' }),
      wrapped(site, { count: 'two' }),
      wrapped(site, { metadata: 'x' }),
    ]) {
      assert.match(await faultOf({ initialTwin: { tags } }), /^tags: this is the Azure CLI's TwinCollection/);
      assert.match(
        await faultOf({ optionalDeviceInformation: tags }),
        /^optionalDeviceInformation: this is the Azure CLI's/,
      );
    }
    const deep = await faultOf({ initialTwin: { tags: wrapped({ 'a b': 1 }) } });
    assert.match(deep, /^tags\.a b: a key in a twin has/);
    // No wrapper, but data that has the names of its members.
    const data = { count: 1, version: 2, additionalProperties: 'none' };
    assert.deepEqual((await enrollmentOf({ initialTwin: { tags: data } })).initialTwin, { tags: data });
  });

  it('is refused with a member that means nothing here, wherever it stands', async () => {
    const cases: [object, string][] = [
      [{ colour: 'red' }, 'colour'],
      [{ attestation: { ...attestation, colour: 'red' } }, 'attestation.colour'],
      [{ attestation: { type: 'tpm', tpm: { ...tpm, colour: 'red' } } }, 'attestation.tpm.colour'],
      [{ capabilities: { iotEdge: true, colour: 'red' } }, 'capabilities.colour'],
      [
        { reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true, colour: 1 } },
        'reprovisionPolicy.colour',
      ],
      [{ initialTwin: { colour: {} } }, 'initialTwin.colour'],
      [{ initialTwin: { properties: { reported: {} } } }, 'initialTwin.properties.reported'],
      [
        { allocationPolicy: 'custom', customAllocationDefinition: { ...webhook, colour: false } },
        'customAllocationDefinition.colour',
      ],
      [
        { capabilities: { iotEdge: true, additionalProperties: { a: 1 } } },
        'capabilities.additionalProperties',
      ],
    ];
    for (const [row, name] of cases) {
      assert.equal(await faultOf(row), `${name}: unknown member "${name}"`);
      const source = ndjson({ registrationId: 'd1', attestation, ...row });
      const { faultCount, ignored } = await checkEnrollmentInput([source], { ignoreUnknownColumns: true });
      assert.equal(faultCount, 0);
      assert.deepEqual([...ignored], [[name, 1]]);
    }
    for (const [row, name] of [
      [{ capabilities: true }, 'capabilities'],
      [{ attestation: 'tpm', endorsementKey: 'x' }, 'attestation'],
      [{ initialTwin: { properties: [] } }, 'initialTwin.properties'],
      [{ customAllocationDefinition: 'https://x' }, 'customAllocationDefinition'],
    ] as [object, string][]) {
      const { faults } = await checkEnrollmentInput([ndjson({ registrationId: 'd1', attestation, ...row })]);
      const said = faults.map(({ field, message }) => `${String(field)}: ${message}`);
      assert(said.includes(`${name}: a JSON object is expected`), said.join());
    }
    assert.match(
      await faultOf({ attestation: { ...attestation, symmetricKey: { primaryKey: 'AAAA' } } }),
      /^attestation\.symmetricKey: only tpm can be enrolled here$/,
    );
  });

  it('goes with the webhook that its allocation asks, and says nothing of what the address holds', async () => {
    const cases: [object, RegExp][] = [
      [
        { allocationPolicy: 'custom' },
        /^allocationPolicy: custom allocation needs its webhook in webhookUrl$/,
      ],
      [
        { customAllocationDefinition: webhook },
        /^webhookUrl: a webhook is asked with the allocationPolicy custom only$/,
      ],
      [
        { allocationPolicy: 'hashed', customAllocationDefinition: webhook },
        /^webhookUrl: a webhook is asked with the/,
      ],
      [
        { allocationPolicy: 'custom', customAllocationDefinition: { webhookUrl: webhook.webhookUrl } },
        /^webhookUrl: a webhook needs its webhookApiVersion, such as 2021-10-01$/,
      ],
      [
        { allocationPolicy: 'hashed', customAllocationDefinition: { apiVersion: '2021-10-01' } },
        /^webhookApiVersion: webhookApiVersion needs the webhook/,
      ],
      [
        {
          allocationPolicy: 'custom',
          customAllocationDefinition: { ...webhook, webhookUrl: 'http://f/x?code=MARKED' },
        },
        /^webhookUrl: the address of a webhook has the form https:\/\/host\/path$/,
      ],
    ];
    for (const [row, message] of cases) {
      const { faults } = await checkEnrollmentInput([ndjson({ registrationId: 'd1', attestation, ...row })]);
      const [first] = faults;
      assert(first);
      assert.match(`${String(first.field)}: ${first.message}`, message);
      assert.doesNotMatch(JSON.stringify(faults), /MARKED/);
    }
    assert.match(await faultOf({ namespaceName: 'Line 4' }), /^namespaceName: the name of a namespace is/);
    assert.match(await faultOf({ certificatePolicyName: '-a' }), /^certificatePolicyName: the name of a/);
    const shortKey = { type: 'tpm', tpm: { ...tpm, storageRootKey: 'AAAA' } };
    assert.match(await faultOf({ attestation: shortKey }), /^storageRootKey: base64 of a TPM2B_PUBLIC/);
  });

  it('may have its etag with quotes or without, and not with one of them', async () => {
    for (const etag of ['AAA=', '"AAA="']) assert.equal((await enrollmentOf({ etag })).etag, '"AAA="');
    for (const etag of ['"AAA=', 'AAA="', 'A"A']) {
      assert.match(await faultOf({ etag }), /^etag: an etag is printable ASCII/);
    }
  });
});

describe('the case of a registration id', () => {
  const csv = (text: string): InputSource => ({
    name: 'rows.csv',
    open: () => chunked(`registrationId,endorsementKey,deviceId\n${text}`, 1000),
  });

  it('stays in the form of the service, where it is the device id too', async () => {
    assert.equal((await enrollmentOf({ registrationId: 'Press-ABC' })).registrationId, 'Press-ABC');
    const twice = ndjson(
      { registrationId: 'Press-ABC', attestation },
      {
        registrationId: 'press-abc',
        attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(2) } },
      },
    );
    const { faults } = await checkEnrollmentInput([twice]);
    assert.match(faults[0]?.message ?? '', /^the registration id press-abc stands in rows:1 already$/);
  });

  it('is that of the device id where a column is lower-cased, and nothing else changes for it', async () => {
    const [row] = await collect(readCheckedRows([csv(`Press-ABC,${tpm.endorsementKey},\n`)]));
    assert(row);
    assert.deepEqual([row.enrollment.registrationId, row.enrollment.deviceId], ['press-abc', 'Press-ABC']);
    const stored = { registrationId: 'press-abc', attestation, etag: '"1"' } as StoredEnrollment;
    assert.equal(mergeEnrollment(stored, namedValues(row)).unchanged, true, 'the device stays what it is');
    const named = csv(`Press-ABC,${tpm.endorsementKey},Press-ABC\n`);
    const [other] = await collect(readCheckedRows([named]));
    assert(other);
    assert.equal(mergeEnrollment(stored, namedValues(other)).unchanged, false);
    const asWritten = { ...stored, registrationId: 'Press-ABC' };
    assert.equal(mergeEnrollment(asWritten, namedValues(other)).unchanged, true);
  });

  it('is told of where it is lower-cased', async () => {
    const text = ['Press-ABC', 'press-2', 'PRESS-3']
      .map((id, index) => `${id},${syntheticEndorsementKey(index)},\n`)
      .join('');
    const { lowerCased } = await checkEnrollmentInput([csv(text)]);
    assert.deepEqual(lowerCased, { count: 2, first: 'Press-ABC', place: 'rows.csv:2' });
  });

  it('means nothing where the id is the one that follows from the key', async () => {
    const [derived] = await collect(readCheckedRows([csv(`,${tpm.endorsementKey},\n`)]));
    const id = derived?.enrollment.registrationId ?? '';
    const source = csv(`${id.toUpperCase()},${tpm.endorsementKey},\n`);
    const [row] = await collect(readCheckedRows([source]));
    assert.deepEqual(row?.enrollment, derived?.enrollment);
    assert.equal((await checkEnrollmentInput([source])).lowerCased, undefined);
  });
});

describe('several hubs and a webhook in columns', () => {
  it('are read, separated by blanks, commas or semicolons', async () => {
    const text =
      'endorsementKey,IoT Hubs,allocation policy,webhook_url,webhookApiVersion,namespaceName\n' +
      `${tpm.endorsementKey},"a.azure-devices.net; b.azure-devices.net,c",custom,${webhook.webhookUrl},2021-10-01,line-4\n`;
    const [row] = await collect(readCheckedRows([{ name: 'r.csv', open: () => chunked(text, 1000) }]));
    const { iotHubs, customAllocationDefinition, namespaceName } = row?.enrollment ?? {};
    assert.deepEqual(iotHubs, ['a.azure-devices.net', 'b.azure-devices.net', 'c']);
    assert.deepEqual([customAllocationDefinition, namespaceName], [webhook, 'line-4']);
    const flat = { endorsementKey: tpm.endorsementKey, allocationPolicy: 'hashed', iotHubs: ['a', 'b'] };
    const [json] = await collect(readCheckedRows([ndjson(flat)]));
    assert.deepEqual(json?.enrollment.iotHubs, ['a', 'b']);
    const none = { endorsementKey: tpm.endorsementKey, allocationPolicy: 'hashed', iotHubs: ' ; ' };
    assert.match(
      (await checkEnrollmentInput([ndjson(none)])).faults[0]?.message ?? '',
      /^host names are exp/,
    );
  });
});

describe('a row that was created', () => {
  const value = fc.letrec((tie) => ({
    twin: fc.dictionary(
      fc.constantFrom('a', 'b', 'c'),
      fc.oneof({ maxDepth: 3 }, fc.constant(null), fc.integer(), fc.array(fc.constant(null)), tie('twin')),
      { noNullPrototype: true },
    ),
  })).twin as fc.Arbitrary<NonNullable<Enrollment['optionalDeviceInformation']>>;

  it('is unchanged ever after, whatever in it is null', () => {
    fc.assert(
      fc.property(value, value, value, (tags, desired, optionalDeviceInformation) => {
        const row = {
          registrationId: 'd1',
          attestation,
          initialTwin: { tags, properties: { desired } },
          optionalDeviceInformation,
        } as Enrollment;
        const stored = { ...enrollmentToCreate(row), etag: '"1"' } as StoredEnrollment;
        assert.equal(mergeEnrollment(stored, row).unchanged, true);
      }),
    );
  });

  it('is unchanged in a service that keeps nothing empty', () => {
    const row = { registrationId: 'd1', attestation, initialTwin: { tags: { old: null } } } as Enrollment;
    const stored = { registrationId: 'd1', attestation, etag: '"1"' } as StoredEnrollment;
    assert.equal(mergeEnrollment(stored, row).unchanged, true);
    assert.equal(mergeEnrollment(stored, { ...row, optionalDeviceInformation: {} }).unchanged, true);
  });
});

describe('merging', () => {
  const stored = {
    registrationId: 'd1',
    attestation: { type: 'tpm', tpm: { ...tpm, storageRootKey, unknown: 1 }, unknown: 2 },
    allocationPolicy: 'custom',
    customAllocationDefinition: webhook,
    capabilities: { iotEdge: false, unknown: 3 },
    reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true, unknown: 4 },
    unknown: 5,
    etag: '"1"',
  } as unknown as StoredEnrollment;
  const named = (more: Partial<Enrollment>): Enrollment =>
    ({ registrationId: 'd1', attestation, ...more }) as Enrollment;

  it('keeps what iotdm does not know, inside of what is named too', () => {
    const { enrollment } = mergeEnrollment(
      stored,
      named({
        capabilities: { iotEdge: true },
        reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: false },
        attestation: { type: 'tpm', tpm: { ...tpm, storageRootKey: 'AAAA' } },
      }),
    );
    assert.deepEqual(enrollment, {
      ...stored,
      capabilities: { iotEdge: true, unknown: 3 },
      reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: false, unknown: 4 },
      attestation: { type: 'tpm', tpm: { ...tpm, storageRootKey: 'AAAA', unknown: 1 }, unknown: 2 },
    });
  });

  it('takes the webhook away with its policy only, and changes the one of its two members that is named', () => {
    const hashed = mergeEnrollment(stored, named({ allocationPolicy: 'hashed' })).enrollment;
    assert.equal(hashed.customAllocationDefinition, undefined);
    const other = named({ customAllocationDefinition: { webhookUrl: 'https://other/x' } });
    assert.deepEqual(mergeEnrollment(stored, other).enrollment.customAllocationDefinition, {
      webhookUrl: 'https://other/x',
      apiVersion: '2021-10-01',
    });
    assert.equal(mergeEnrollment(stored, named({ allocationPolicy: 'custom' })).unchanged, true);
  });

  it('does not take an empty list of hubs for a wish to have none', () => {
    const before = { ...stored, iotHubs: ['a.azure-devices.net'] };
    assert.equal(mergeEnrollment(before, named({ iotHubs: [] })).unchanged, true);
  });
});
