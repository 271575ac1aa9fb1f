import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Enrollment, TwinObject, TwinValue } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import {
  bulkBodies,
  exportEnrollments,
  type ExportFormat,
  type ExportRow,
} from '../../src/station/enrollment-export.ts';
import { readCheckedRows, type InputOptions } from '../../src/station/enrollment-input.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';
import {
  syntheticEndorsementKey,
  vectorEndorsementKey,
  vectorRegistrationId,
} from '../fakes/endorsement-keys.ts';

async function* each<T>(items: readonly T[]): AsyncGenerator<T, void> {
  await Promise.resolve();
  yield* items;
}

async function exported(format: ExportFormat, rows: readonly ExportRow[]): Promise<string> {
  return (await collect(exportEnrollments(format, () => each(rows)))).join('');
}

/** The rows as the reader gives them back, without their lines. */
async function readBack(name: string, text: string, options: InputOptions = {}): Promise<ExportRow[]> {
  const rows = await collect(readCheckedRows([{ name, open: () => chunked(text, 500) }], options));
  return rows.map(({ enrollment, serialNumber }) => ({
    enrollment,
    ...(serialNumber === undefined ? {} : { serialNumber }),
  }));
}

const minimal: Enrollment = {
  registrationId: vectorRegistrationId,
  attestation: { type: 'tpm', tpm: { endorsementKey: vectorEndorsementKey } },
};

/** Of a TPM2B_PUBLIC no more is looked at than its size. */
const storageRootKey = Buffer.concat([Buffer.from([0, 10]), Buffer.alloc(10, 7)]).toString('base64');
const webhook = { webhookUrl: 'https://f.azurewebsites.net/api/x?code=AAAA', apiVersion: '2021-10-01' };

const letters = (alphabet: string, maxLength: number) =>
  fc.string({ unit: fc.constantFrom(...Array.from(alphabet)), minLength: 1, maxLength });
const twinKey = fc
  .string({ unit: 'binary', minLength: 1, maxLength: 6 })
  .map((key) => key.replaceAll(/[\p{Cc}\p{Cs}.$ ]/gu, ''))
  .filter((key) => key !== '' && key !== '__proto__');
const twinText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 10 }).map((text) => text.replaceAll(/\p{Cs}/gu, '')),
  fc.constantFrom(
    'true',
    'null',
    '5',
    '-0',
    '007',
    '1e5',
    '"x"',
    '{}',
    '[1]',
    ' ',
    '',
    '9007199254740993',
    'a"b,c\r\n',
  ),
);
const twinNumber = fc.oneof(
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e15, max: 1e15 }).map((value) => value + 0),
);
const { value: twinValue } = fc.letrec<{ value: TwinValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3, depthSize: 'small' },
    twinText,
    twinNumber,
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(twinKey, tie('value'), { maxKeys: 3, noNullPrototype: true }),
  ),
}));
const twin: fc.Arbitrary<TwinObject> = fc.dictionary(twinKey, twinValue, {
  minKeys: 1,
  maxKeys: 3,
  noNullPrototype: true,
});
const hub = fc.constantFrom('a.azure-devices.net', 'b.azure-devices.net');
/** Import refuses those that a spreadsheet takes for formulas. */
const deviceId = letters("aZ09-:.+%_#*?!(),=@;$'", 12).filter((id) => !/^[=+\-@]/.test(id));

const plain = <T>(model: { [Key in keyof T]: fc.Arbitrary<T[Key]> }) =>
  fc.record(model, { noNullPrototype: true });

/** What can be said in the columns of CSV. */
const row: fc.Arbitrary<ExportRow> = fc
  .record(
    {
      deviceId,
      capabilities: plain({ iotEdge: fc.boolean() }),
      iotHubHostName: hub,
      iotHubs: fc.array(hub, { minLength: 1, maxLength: 3 }),
      allocationPolicy: fc.constantFrom('hashed', 'geoLatency', 'static', 'custom'),
      initialTwin: fc.oneof(
        plain({ tags: twin }),
        plain({ properties: plain({ desired: twin }) }),
        plain({ tags: twin, properties: plain({ desired: twin }) }),
      ),
      provisioningStatus: fc.constantFrom('enabled', 'disabled'),
      reprovisionPolicy: fc.constantFrom(
        { updateHubAssignment: true, migrateDeviceData: true },
        { updateHubAssignment: true, migrateDeviceData: false },
        { updateHubAssignment: false, migrateDeviceData: false },
      ),
      serialNumber: letters('A"0, \'=ü🙂', 8).filter((text) => !/^(?:$|[=])/.test(text)),
      registrationId: letters('az09', 12),
      namespaceName: fc.constant('line-4'),
      certificateAuthorityName: fc.constant('Plant'),
      certificatePolicyName: fc.constant('aYear'),
      key: fc.nat(50),
      storageRootKey: fc.constant(storageRootKey),
    },
    { requiredKeys: ['registrationId', 'key'], noNullPrototype: true },
  )
  .map(({ serialNumber, key, storageRootKey: srk, iotHubs, ...members }) => ({
    enrollment: {
      ...members,
      ...allocationOf(members.allocationPolicy, iotHubs),
      attestation: {
        type: 'tpm',
        tpm: {
          endorsementKey: syntheticEndorsementKey(key),
          ...(srk === undefined ? {} : { storageRootKey: srk }),
        },
      },
    },
    ...(serialNumber === undefined ? {} : { serialNumber }),
  }));

function allocationOf(
  policy: string | undefined,
  iotHubs: readonly string[] | undefined,
): Pick<Enrollment, 'iotHubHostName' | 'iotHubs' | 'customAllocationDefinition'> {
  if (policy === undefined) return {};
  if (policy === 'static') return { iotHubHostName: 'a.azure-devices.net' };
  const hubs = iotHubs === undefined ? {} : { iotHubs };
  return policy === 'custom' ? { ...hubs, customAllocationDefinition: webhook } : hubs;
}
const rows = fc.array(row, { minLength: 1, maxLength: 6 });

function refused(message: RegExp) {
  return (error: unknown) => {
    assert(error instanceof IotdmError, String(error));
    assert.equal(error.code, 'usage.unsupported');
    assert.match(error.message, message);
    return true;
  };
}

describe('dps-json', () => {
  it('is an array of enrollments', async () => {
    assert.equal(await exported('dps-json', []), '[]\n');
    const text = await exported('dps-json', [
      { enrollment: minimal },
      { enrollment: minimal, serialNumber: 'S' },
    ]);
    assert.deepEqual(JSON.parse(text), [minimal, minimal]);
  });

  it('reads back as equal enrollments', async () => {
    await fc.assert(
      fc.asyncProperty(rows, async (items) => {
        const enrollments = items.map(({ enrollment }) => ({ enrollment }));
        assert.deepEqual(await readBack('out.json', await exported('dps-json', items)), enrollments);
      }),
    );
  });
});

describe('dps-bulk', () => {
  it('is request bodies of ten, without ETags', async () => {
    const items = Array.from({ length: 23 }, () => ({ enrollment: { ...minimal, etag: '"1"' } }));
    const bodies = await collect(bulkBodies(each(items)));
    assert.deepEqual(
      bodies.map((body) => [body.mode, body.enrollments.length]),
      [
        ['create', 10],
        ['create', 10],
        ['create', 3],
      ],
    );
    assert.deepEqual(bodies[2]?.enrollments[0], minimal);
    const nulls = { ...minimal, initialTwin: { tags: { site: 'north', old: null } } };
    const [created] = await collect(bulkBodies(each([{ enrollment: nulls }])));
    assert.deepEqual(created?.enrollments, [{ ...minimal, initialTwin: { tags: { site: 'north' } } }]);
    const lines = (await exported('dps-bulk', items)).trimEnd().split('\n');
    assert.deepEqual(
      lines.map((line) => JSON.parse(line) as unknown),
      bodies,
    );
  });
});

describe('csv', () => {
  it('has the columns that are used, each twin value in its own', async () => {
    const enrollment: Enrollment = {
      ...minimal,
      deviceId: 'pump-1',
      initialTwin: {
        tags: { site: 'Linz, 2', line: { number: -4, code: '4' }, none: {}, note: '=HYPERLINK("x")' },
      },
    };
    assert.equal(
      await exported('csv', [{ enrollment, serialNumber: '0001' }, { enrollment: minimal }]),
      `registrationId,endorsementKey,deviceId,serialNumber,tags.site,tags.line.number,tags.line.code,tags.none,tags.note\n` +
        `${vectorRegistrationId},${vectorEndorsementKey},pump-1,0001,"Linz, 2","-4","""4""","{}","""=HYPERLINK(\\""x\\"")"""\n` +
        `${vectorRegistrationId},${vectorEndorsementKey},,,,,,,\n`,
    );
  });

  it('reads back as equal rows', async () => {
    await fc.assert(
      fc.asyncProperty(rows, async (items) => {
        // Any text may be an id here, and be one that a spreadsheet might have made.
        assert.deepEqual(await readBack('out.csv', await exported('csv', items), { asText: true }), items);
      }),
      { numRuns: 500 },
    );
  });

  it('reads back tags that look like the errors of a spreadsheet', async () => {
    const tags = { ref: '#REF!', narrow: '####', na: '#N/A', err: 'Err:502' };
    const items = [{ enrollment: { ...minimal, initialTwin: { tags } } }];
    assert.deepEqual(await readBack('out.csv', await exported('csv', items)), items);
  });

  it('refuses what it has no column for', async () => {
    const more: [Partial<Enrollment>, RegExp][] = [
      [
        { optionalDeviceInformation: { a: 1 } },
        /^csv cannot say optionalDeviceInformation, as y5wi.* has it: use dps-json$/,
      ],
      [{ reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: true } }, /reprovision policy/],
    ];
    for (const [members, message] of more) {
      await assert.rejects(exported('csv', [{ enrollment: { ...minimal, ...members } }]), refused(message));
    }
  });
});

describe('az', () => {
  it('is one call a row, with every value quoted', async () => {
    const enrollment: Enrollment = {
      ...minimal,
      deviceId: "it's-$(id)",
      capabilities: { iotEdge: true },
      iotHubHostName: 'a.azure-devices.net',
      provisioningStatus: 'disabled',
      reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false },
      initialTwin: { tags: { site: "Linz 'Halle' 2" }, properties: { desired: { on: true } } },
    };
    const script = await exported('az', [{ enrollment }]);
    assert.deepEqual(runScript(script), [
      [
        ...['iot', 'dps', 'enrollment', 'create', '--dps-name', 'my dps', '--resource-group', 'my group'],
        `--enrollment-id=${vectorRegistrationId}`,
        '--attestation-type=tpm',
        `--endorsement-key=${vectorEndorsementKey}`,
        "--device-id=it's-$(id)",
        '--edge-enabled=true',
        '--provisioning-status=disabled',
        '--iot-hub-host-name=a.azure-devices.net',
        '--reprovision-policy=reprovisionandresetdata',
        `--initial-twin-tags={"site":"Linz 'Halle' 2"}`,
        '--initial-twin-properties={"on":true}',
      ],
    ]);
  });

  it('names the hub as the CLI wants it beside an allocation policy', async () => {
    const script = await exported('az', [
      { enrollment: { ...minimal, allocationPolicy: 'static', iotHubHostName: 'a.azure-devices.net' } },
      {
        enrollment: {
          ...minimal,
          allocationPolicy: 'hashed',
          iotHubs: ['a.azure-devices.net', 'b.azure-devices.net'],
        },
      },
    ]);
    assert.deepEqual(
      runScript(script).map((words) => words.slice(-2)),
      [
        ['--allocation-policy=static', '--iot-hubs=a.azure-devices.net'],
        ['--allocation-policy=hashed', '--iot-hubs=a.azure-devices.net b.azure-devices.net'],
      ],
    );
  });

  it('does not run without the names of service and resource group', async () => {
    const script = await exported('az', []);
    const run = spawnSync('sh', ['-s'], {
      input: script,
      env: { PATH: process.env.PATH, DPS_NAME: 'x' },
      encoding: 'utf8',
    });
    assert.notEqual(run.status, 0);
    assert.match(run.stderr, /RESOURCE_GROUP: set it to the resource group/);
  });

  it('refuses what the CLI cannot be told', async () => {
    await assert.rejects(
      exported('az', [{ enrollment: { ...minimal, deviceId: '@/etc/passwd' } }]),
      refused(/^az cannot say a value that begins with @ \(--device-id\)/),
    );
    await assert.rejects(
      exported('az', [{ enrollment: { ...minimal, allocationPolicy: 'custom' } }]),
      refused(/custom allocation/),
    );
    const attestation = { type: 'tpm', tpm: { ...minimal.attestation.tpm, storageRootKey } } as const;
    await assert.rejects(
      exported('az', [{ enrollment: { ...minimal, attestation } }]),
      refused(/storageRoot/),
    );
  });

  it('hands every value through the shell unchanged', async () => {
    const sayable = rows.map((items) =>
      items.filter(
        ({ enrollment: { deviceId: id, attestation } }) =>
          id?.startsWith('@') !== true && attestation.tpm.storageRootKey === undefined,
      ),
    );
    await fc.assert(
      fc.asyncProperty(sayable, async (items) => {
        const calls = runScript(await exported('az', items));
        assert.equal(calls.length, items.length);
        for (const [index, { enrollment }] of items.entries()) {
          const words = calls[index] ?? [];
          const told = (flag: string) =>
            words.find((word) => word.startsWith(`${flag}=`))?.slice(flag.length + 1);
          assert.equal(told('--enrollment-id'), enrollment.registrationId);
          assert.equal(told('--endorsement-key'), enrollment.attestation.tpm.endorsementKey);
          assert.equal(told('--device-id'), enrollment.deviceId);
          assert.equal(told('--webhook-url'), enrollment.customAllocationDefinition?.webhookUrl);
          assert.equal(told('--api-version'), enrollment.customAllocationDefinition?.apiVersion);
          assert.equal(told('--adr-namespace'), enrollment.namespaceName);
          const tags = told('--initial-twin-tags');
          assert.deepEqual(tags === undefined ? undefined : JSON.parse(tags), enrollment.initialTwin?.tags);
        }
      }),
      { numRuns: 20 },
    );
  });
});

/** Runs the script with an `az` that only writes down its arguments; one array for each call. */
function runScript(script: string): string[][] {
  const directory = mkdtempSync(join(tmpdir(), 'iotdm-az-'));
  try {
    const log = join(directory, 'calls');
    writeFileSync(log, '');
    writeFileSync(
      join(directory, 'az'),
      `#!/bin/sh\nprintf '%s\\0' "$@" >> '${log}'\nprintf '\\0' >> '${log}'\n`,
    );
    chmodSync(join(directory, 'az'), 0o755);
    execFileSync('sh', ['-s'], {
      input: script,
      env: { PATH: `${directory}:${process.env.PATH ?? ''}`, DPS_NAME: 'my dps', RESOURCE_GROUP: 'my group' },
    });
    return readFileSync(log, 'utf8')
      .split('\0\0')
      .slice(0, -1)
      .map((call) => call.split('\0'));
  } finally {
    rmSync(directory, { recursive: true });
  }
}
