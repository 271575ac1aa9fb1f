import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import {
  checkEnrollmentInput,
  describeFault,
  fileInput,
  readCheckedRows,
  readEnrollmentRows,
  readPlacedRows,
  type EnrollmentRow,
  type InputFormat,
  type InputOptions,
  type InputSource,
} from '../../src/station/enrollment-input.ts';
import { rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';
import {
  syntheticEndorsementKey,
  vectorEndorsementKey,
  vectorRegistrationId,
} from '../fakes/endorsement-keys.ts';
import { makeEkCertificate } from '../fakes/ek-certificates.ts';

const key = vectorEndorsementKey;
const otherKey = syntheticEndorsementKey(1);

function source(name: string, text: string | Buffer, format?: InputFormat): InputSource {
  return { name, open: () => chunked(text, 1000), ...(format === undefined ? {} : { format }) };
}

function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url));
}

function fixture(name: string): InputSource {
  return fileInput(fixturePath(name));
}

async function rowsOf(input: InputSource, options?: InputOptions): Promise<EnrollmentRow[]> {
  return collect(readCheckedRows([input], options));
}

/** The faults of a source, as `line:column field: message`. */
async function faultsOf(input: InputSource, options?: InputOptions): Promise<string[]> {
  const { faults, faultCount } = await checkEnrollmentInput([input], options);
  assert.equal(faultCount, faults.length);
  return faults.map((fault) => describeFault(fault).slice(input.name.length + 1));
}

const csv = (text: string) => source('rows.csv', text);
const ndjson = (...rows: unknown[]) =>
  source('rows.ndjson', rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
const rejects = (run: Promise<unknown>, message: RegExp) =>
  assert.rejects(run, (error: unknown) => {
    assert(error instanceof IotdmError, String(error));
    assert.equal(error.code, 'input.invalid');
    assert.match(error.message, message);
    return true;
  });

const minimal = {
  registrationId: vectorRegistrationId,
  attestation: { type: 'tpm', tpm: { endorsementKey: key } },
} as const;

describe('readEnrollmentRows', () => {
  it('reads what Limpet writes, one file or several in one', async () => {
    for (const kind of ['csv', 'json']) {
      const one = await rowsOf(fixture(`enrollments/limpet.${kind}`));
      assert.deepEqual(
        one.map((row) => row.enrollment),
        [minimal],
      );
      const three = await rowsOf(fixture(`enrollments/limpet-concatenated.${kind}`));
      assert.deepEqual(
        three.map((row) => row.line),
        kind === 'csv' ? [2, 4, 6] : [1, 2, 3],
      );
      assert.deepEqual(three[0]?.enrollment, minimal);
    }
  });

  it('reads every column, under names as people write them', async () => {
    const rows = await rowsOf(fixture('enrollments/fleet.csv'));
    assert.deepEqual(rows, [
      {
        line: 2,
        serialNumber: 'SN-0001',
        enrollment: {
          ...minimal,
          deviceId: 'pump-001',
          capabilities: { iotEdge: false },
          allocationPolicy: 'hashed',
          initialTwin: {
            tags: { site: 'Linz', line: { number: 4 } },
            properties: { desired: { interval: 60, label: '5' } },
          },
          provisioningStatus: 'enabled',
          reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true },
        },
      },
      {
        line: 3,
        serialNumber: '0002',
        enrollment: {
          registrationId: 'pump-002',
          deviceId: 'pump-002',
          attestation: { type: 'tpm', tpm: { endorsementKey: otherKey } },
          capabilities: { iotEdge: true },
          iotHubHostName: 'factory.azure-devices.net',
          allocationPolicy: 'static',
          initialTwin: {
            tags: { site: 'Linz, Halle 2', line: { number: 4 } },
            properties: { desired: { interval: 0.5, label: 'pump "two"' } },
          },
          provisioningStatus: 'disabled',
          reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: false },
        },
      },
      {
        line: 4,
        enrollment: {
          registrationId: 'pump-003',
          attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(2) } },
        },
      },
    ]);
  });

  it('reads a manifest: its tags are labels of the harvest', async () => {
    const rows = await rowsOf(fixture('manifest.ndjson'));
    assert.equal(rows.length, 3);
    assert.deepEqual(rows[0], {
      line: 1,
      serialNumber: 'SN-0001',
      enrollment: { ...minimal, deviceId: 'pump-001' },
    });
  });

  it('reads enrollments in the shape of the service, without what the service adds', async () => {
    const enrollment = {
      ...minimal,
      deviceId: 'pump-001',
      capabilities: { iotEdge: true },
      iotHubs: ['a.azure-devices.net', 'b.azure-devices.net'],
      allocationPolicy: 'geoLatency',
      initialTwin: { tags: { a: [1, { b: null }] }, properties: { desired: { c: {} } } },
      provisioningStatus: 'enabled',
      reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: true },
      optionalDeviceInformation: { x: 1 },
      etag: '"1"',
    };
    const stored = {
      ...enrollment,
      attestation: { type: 'tpm', tpm: { endorsementKey: key, storageRootKey: null } },
      registrationState: { status: 'assigned' },
      createdDateTimeUtc: '2024-01-01T00:00:00Z',
      iotHubHostName: null,
    };
    const text = JSON.stringify([stored], undefined, 2);
    assert.deepEqual(await rowsOf(source('list.json', text)), [{ line: 2, enrollment }]);
  });

  it('reads columns as members, with tags and desired as objects or paths', async () => {
    const [row] = await rowsOf(
      ndjson({
        'Endorsement Key': key,
        serialNumber: 12,
        iotEdge: true,
        tags: { site: 'Linz', line: { a: 1 } },
        'tags.line.b': '5',
        'desired.on': false,
        deviceId: null,
        reprovision: 'reprovisionandresetdata',
      }),
    );
    assert.deepEqual(row, {
      line: 1,
      serialNumber: '12',
      enrollment: {
        ...minimal,
        capabilities: { iotEdge: true },
        initialTwin: {
          tags: { site: 'Linz', line: { a: 1, b: '5' } },
          properties: { desired: { on: false } },
        },
        reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false },
      },
    });
  });

  it("reads a TPM vendor's delivery lists: certificates or public keys in place of the endorsement key", async () => {
    const keys = [key, otherKey, syntheticEndorsementKey(2)];
    for (const name of ['vendor-certificates.csv', 'vendor-keys.csv', 'vendor-keys.ndjson']) {
      const rows = await rowsOf(fixture(`enrollments/${name}`));
      assert.deepEqual(
        rows.map((row) => row.enrollment.attestation.tpm.endorsementKey),
        keys,
        name,
      );
      assert.deepEqual(
        rows.map((row) => row.serialNumber),
        ['TPM-7001', 'TPM-7002', 'TPM-7003'],
      );
      assert.equal(rows[0]?.enrollment.registrationId, vectorRegistrationId);
    }
  });

  it('finds the header again in concatenated delivery lists', async () => {
    const text = readFileSync(fixturePath('enrollments/vendor-certificates.csv'), 'utf8');
    const both = `${text}serialNumber,endorsementKey\nSN-9,${syntheticEndorsementKey(9)}\n`;
    assert.equal((await rowsOf(csv(both))).length, 4);
  });

  it('reads what `ek convert --json` prints', async () => {
    const report = {
      endorsementKey: key,
      registrationId: vectorRegistrationId,
      hexRegistrationId: '00',
      input: 'public key (PEM)',
    };
    const text = JSON.stringify(report, undefined, 2);
    assert.deepEqual(await rowsOf(source('<stdin>', text)), [{ line: 1, enrollment: minimal }]);
  });

  it('reads what `ek read --json` prints', async () => {
    const report = {
      registrationId: vectorRegistrationId,
      endorsementKey: key,
      name: '000b',
      algorithm: 'rsa2048',
    };
    const text = JSON.stringify({ ...report, persistent: true, handle: '0x81010001' }, undefined, 2);
    assert.deepEqual(await rowsOf(source('<stdin>', text)), [{ line: 1, enrollment: minimal }]);
  });

  it('takes the format it is told', async () => {
    const text = `{"endorsementKey":"${key}"}\n{"endorsementKey":\n"${otherKey}"}`;
    assert.equal((await rowsOf(source('rows.ndjson', text, 'json'))).length, 2);
    await rejects(rowsOf(source('rows.json', text, 'ndjson')), /^rows\.json:2:19: the JSON breaks off here$/);
  });

  it('passes over blank rows, and takes another header in the middle', async () => {
    const rows = await rowsOf(
      csv(`endorsementKey,deviceId\n${key},a\n,\n\nDevice ID, Endorsement Key\nb,${otherKey}\n`),
    );
    assert.deepEqual(
      rows.map((row) => [row.line, row.enrollment.deviceId]),
      [
        [2, 'a'],
        [6, 'b'],
      ],
    );
  });

  it('refuses files without rows', async () => {
    for (const input of [csv(''), csv('\ufeff\n'), source('a.json', '[]'), source('b', '')]) {
      await rejects(collect(readEnrollmentRows(input)), new RegExp(`^${input.name} holds no rows$`));
    }
    const header = csv('\nendorsementKey\n,\n');
    await rejects(
      collect(readEnrollmentRows(header)),
      /^rows\.csv:2:1: this names the columns, and no row follows it$/,
    );
  });

  it('says that a file is not there, with or without a format', async () => {
    for (const format of [undefined, 'csv'] as const) {
      const run = collect(readEnrollmentRows(fileInput('/nowhere/rows.csv', format)));
      await assert.rejects(run, {
        code: 'input.unreadable',
        message: '/nowhere/rows.csv cannot be read: there is no such file',
      });
    }
  });

  it('says that an image is not CSV', async () => {
    const png = source('label.csv', Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex'));
    await rejects(rowsOf(png), /^label\.csv is not a CSV file: it looks like a PNG image$/);
  });
});

describe('headers', () => {
  it('refuses unknown and doubled columns, with the nearest name', async () => {
    assert.deepEqual(
      await faultsOf(fixture('enrollments/unknown-columns.csv')).then((all) => all.map(unnamed)),
      [
        '1:31: deviceIdd: unknown column "deviceIdd" (column 3); did you mean deviceId?',
        '1:41: tag.site: unknown column "tag.site" (column 4); did you mean tags.site?',
        '1:50: registrationId: the column registrationId stands here a second time (column 5)',
      ],
    );
    function unnamed(fault: string): string {
      return fault.replace(/^.*?unknown-columns\.csv:/, '');
    }
  });

  it('ignores unknown columns on demand, but not doubled ones', async () => {
    const options = { ignoreUnknownColumns: true };
    const [row] = await rowsOf(csv(`endorsementKey,colour,tags\n${key},red,x\n`), options);
    assert.deepEqual(row?.enrollment, minimal);
    assert.deepEqual(await faultsOf(csv(`endorsementKey,x,endorsement_key\n${key},,\n`), options), [
      '1:18: endorsementKey: the column endorsementKey stands here a second time (column 3)',
    ]);
    assert.deepEqual(await rowsOf(ndjson({ endorsementKey: key, colour: 'red' }), options), [
      { line: 1, enrollment: minimal },
    ]);
  });

  it('counts no rows behind a header that cannot be used', async () => {
    const check = await checkEnrollmentInput([csv('registrationId,deviceId\na,b\n')]);
    assert.equal(check.rows, 0);
    assert.deepEqual(check.faults.map(describeFault), [
      'rows.csv:1: endorsementKey: the column endorsementKey is missing (or ekCertificate, or publicKey)',
    ]);
  });

  it('says what else a first line is', async () => {
    const cases: [text: string, fault: RegExp][] = [
      ['name;colour\n', /^1:1: the first line does not name the columns/],
      [`${vectorRegistrationId},${key}\n`, /^1:1: the first line does not name the columns/],
    ];
    for (const [text, fault] of cases) assert.match((await faultsOf(csv(text)))[0] ?? '', fault);
  });

  it('refuses keys that a twin cannot have', async () => {
    const deep = `tags.${'a.'.repeat(11)}b`;
    assert.deepEqual(
      await faultsOf(csv(`endorsementKey,tags.a b,desired.$x,tags.__proto__.y,${deep},tags.\n${key},,,,,\n`)),
      [
        '1:16: tags.a b: a key in a twin has no control characters, no space and no . or $',
        '1:25: desired.$x: a key in a twin has no control characters, no space and no . or $',
        '1:36: tags.__proto__.y: the key __proto__ is not taken',
        `1:53: ${deep}: a twin is at most 10 levels deep`,
        '1:82: tags.: a key in a twin is empty',
      ],
    );
  });
});

describe('faults', () => {
  it('lists all faults of a row with line and column, and duplicates with the earlier line', async () => {
    const check = await checkEnrollmentInput([fixture('enrollments/faulty.csv')]);
    assert.equal(check.rows, 6);
    assert.equal(check.faultCount, check.faults.length);
    const shown = check.faults.map((fault) => describeFault(fault).replaceAll(/\S*faulty\.csv:/g, ''));
    assert.deepEqual(shown, [
      '2:1: registrationId: a registration id is 1 to 128 lower-case letters, digits and - . _ : and begins and ends with a letter or digit',
      "2:432: deviceId: a device id is 1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
      '2:439: allocationPolicy: static allocation needs the hub in iotHubHostName',
      '2:446: iotEdge: true or false is expected, not "maybe"',
      '2:452: reprovision: migrate, reset or never is expected, not "sometimes"',
      '3:10: endorsementKey: an RSA 2048 endorsement key is a TPM2B_PUBLIC of 316 bytes, this has 4',
      '4:436: the row has 4 cells, the header has 7',
      '6: registrationId: the registration id pump-004 stands in 5 already',
      '7: endorsementKey: the same endorsement key under another registration id stands in 5 already',
    ]);
    assert.deepEqual(
      check.faults.map((fault) => fault.registrationId),
      [...Array.from({ length: 5 }, () => null), 'pump-002', null, 'pump-004', 'pump-005'],
    );
  });

  it('says what an endorsement key is instead', async () => {
    const bytes = Buffer.from(key, 'base64');
    const publicKey = rsaKeyObject(bytes.subarray(60));
    const { publicKey: ecKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
    const gives = 'iotdm ek convert FILE gives the value, or name the column';
    const cases: [text: string, message: RegExp][] = [
      [pem, new RegExp(`: this is a PEM public key, not a TPM2B_PUBLIC; ${gives} publicKey$`)],
      [
        publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
        /this is a DER public key \(base64\), not a TPM2B_PUBLIC; /,
      ],
      [
        makeEkCertificate(publicKey, 1).toString('base64'),
        new RegExp(`this is a DER EK certificate \\(base64\\), not a TPM2B_PUBLIC; ${gives} ekCertificate$`),
      ],
      [bytes.toString('hex'), /this is a TPM2B_PUBLIC \(hex\), not one in base64; /],
      [bytes.toString('base64url'), /this is a TPM2B_PUBLIC \(base64url\), not one in base64; /],
      [`${key.slice(0, 64)}\n${key.slice(64)}`, /expected, this has white space in it$/],
      [key.slice(0, -2), /expected, this is not padded$/],
      [bytes.subarray(2).toString('base64'), /this is a TPMT_PUBLIC \(base64\), not a TPM2B_PUBLIC; /],
      [bytes.subarray(60).toString('base64'), /this is a bare modulus \(base64\), not a TPM2B_PUBLIC; /],
      [
        ecKey.export({ type: 'spki', format: 'pem' }) as string,
        /this public key is an ECC key \(prime256v1\)/,
      ],
      ['-----BEGIN PUBLIC KEY-----\nMIIB', /expected, this is PEM text that is cut off or damaged$/],
      [key.slice(0, -3), /this looks like base64, but its base64 is cut off or damaged$/],
      ['nothing!', /expected, this is text that is neither PEM nor hexadecimal nor base64$/],
      [Buffer.from('3082012230', 'hex').toString('base64'), /a TPM2B_PUBLIC of 316 bytes, this has 5$/],
      ['-----BEGIN PRIVATE KEY-----', /this is a private key: it does not belong here/],
    ];
    for (const [text, message] of cases) {
      assert.match((await faultsOf(ndjson({ endorsementKey: text })))[0] ?? '', message);
    }
    assert.deepEqual(await faultsOf(csv('endorsementKey,deviceId\n,a\n')), [
      '2: endorsementKey: the endorsement key is missing',
    ]);
  });

  it('refuses keys in the wrong column, and keys that do not agree, naming both', async () => {
    const publicKey = rsaKeyObject(Buffer.from(key, 'base64').subarray(60));
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
    const certificate = makeEkCertificate(publicKey, 1).toString('base64');
    const rsa3072 = generateKeyPairSync('rsa', { modulusLength: 3072 }).publicKey;
    const cases: [row: object, fault: RegExp][] = [
      [{ ekCertificate: pem }, /^1:18: ekCertificate: this is a PEM public key: name the column publicKey$/],
      [
        { publicKey: certificate },
        /^1:14: publicKey: this is a DER EK certificate \(base64\): name the column ekCertificate$/,
      ],
      [
        { endorsementKey: otherKey, ekCertificate: certificate },
        /ekCertificate: ekCertificate and endorsementKey of this row hold different keys$/,
      ],
      [
        { publicKey: otherKey, ekCertificate: certificate },
        /publicKey: publicKey and ekCertificate of this row hold different keys$/,
      ],
      [
        { ekCertificate: makeEkCertificate(rsa3072, 1).toString('base64') },
        /ekCertificate: this certificate is for an RSA 3072 key/,
      ],
      [{ ekCertificate: 'none' }, /ekCertificate: an EK certificate is expected, this is base64 of 3 bytes/],
      [{ publicKey: 'none' }, /publicKey: a public key is expected, this is base64 of 3 bytes/],
      [{ publicKey: 'ä'.repeat(128) }, /publicKey: a public key is expected, /],
    ];
    for (const [row, fault] of cases) {
      const faults = await faultsOf(ndjson(row));
      assert.equal(faults.length, 1);
      assert.match(faults[0] ?? '', fault);
    }
    const agreeing = ndjson({ endorsementKey: key, ekCertificate: certificate, publicKey: pem });
    assert.deepEqual(await rowsOf(agreeing), [{ line: 1, enrollment: minimal }]);
  });

  it('takes the key of a manifest from endorsementKey, and refuses the certificate of another', async () => {
    const [line = ''] = readFileSync(fixturePath('manifest.ndjson'), 'utf8').split('\n');
    const record = JSON.parse(line) as object;
    const certificateOf = (text: string): string =>
      makeEkCertificate(rsaKeyObject(Buffer.from(text, 'base64').subarray(60)), 1).toString('base64');
    for (const ekCertificate of [certificateOf(key), 'AAAA', null]) {
      assert.equal((await rowsOf(ndjson({ ...record, ekCertificate }))).length, 1);
    }
    const rsa3072 = makeEkCertificate(generateKeyPairSync('rsa', { modulusLength: 3072 }).publicKey, 1);
    for (const ekCertificate of [certificateOf(otherKey), rsa3072.toString('base64')]) {
      assert.match(
        (await faultsOf(ndjson({ ...record, ekCertificate }))).join('\n'),
        /^1:\d+: ekCertificate: ekCertificate and endorsementKey of this row hold different keys$/,
      );
    }
    assert.deepEqual(
      await faultsOf(ndjson({ ...record, endorsementKey: null, ekCertificate: certificateOf(key) })),
      ['1: endorsementKey: the endorsement key is missing'],
    );
  });

  it('gives places in JSON', async () => {
    const text = `[
  {"registrationId": "a", "endorsementKey": "${key}",
   "deviceId": "a b", "tags": {"x": {"y z": 1}}, "deviceIdd": 1}, 5,
  {"attestation": {"type": "x509"}, "initialTwin": {"tags": 1}, "colour": "red", "etag": 1,
   "reprovisionPolicy": {"updateHubAssignment": true}, "iotHubs": ["https://x"]},
  {"schema": 2}
]`;
    assert.deepEqual(await faultsOf(source('rows.json', text)), [
      "3:16: deviceId: a device id is 1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
      '3:45: tags.x.y z: a key in a twin has no control characters, no space and no . or $',
      '3:63: deviceIdd: unknown column "deviceIdd"; did you mean deviceId?',
      '3:67: a row is a JSON object, this is something else',
      '4: endorsementKey: the endorsement key is missing',
      '4:28: attestation.type: only tpm can be enrolled here, not "x509"',
      '4:61: tags: a JSON object is expected',
      '4:75: colour: unknown member "colour"',
      '4:90: etag: a text in quotes is expected',
      '5:25: reprovisionPolicy: updateHubAssignment and migrateDeviceData, each true or false, are expected',
      '5:67: iotHubs: a host name has the form name.azure-devices.net, without https:// and without a port',
      '6: endorsementKey: the endorsement key is missing',
      '6:14: schema: this is a manifest of a schema other than 1',
    ]);
  });

  it('takes etags with and without quotes, and none that cannot be sent', async () => {
    const row = (etag: string) =>
      ndjson({ registrationId: 'one', attestation: { type: 'tpm', tpm: { endorsementKey: key } }, etag });
    for (const [given, taken] of [
      ['"abc="', '"abc="'],
      ['abc=', '"abc="'],
      ['W/"1"', 'W/"1"'],
      ['*', undefined],
    ] as const) {
      assert.equal((await rowsOf(row(given)))[0]?.enrollment.etag, taken, given);
    }
    for (const etag of ['', 'a b', 'a\r\nX: 1', 'ä', 'x'.repeat(257)]) {
      const faults = await faultsOf(row(etag));
      assert.equal(faults.length, 1, etag);
      assert.match(
        faults[0] ?? '',
        /etag: an etag is printable ASCII without spaces; leave it out where none is known$/,
      );
    }
  });

  it('refuses twins that IoT Hub refuses', async () => {
    const row = (twin: object) => ndjson({ endorsementKey: key, ...twin });
    assert.deepEqual(await faultsOf(row({ tags: { a: 2 ** 52 }, desired: { b: 'x'.repeat(4097) } })), [
      '1:458: tags.a: an integer in a twin lies between -4503599627370496 and 4503599627370495',
      '1:491: desired.b: a text in a twin has at most 4096 bytes',
    ]);
    const large = Object.fromEntries(
      Array.from({ length: 10 }, (_, index) => [`k${index}`, 'x'.repeat(900)]),
    );
    assert.deepEqual(await faultsOf(row({ tags: large })), [
      '1: tags: IoT Hub takes 8192 bytes of tags, these are 9020',
    ]);
    assert.deepEqual(await faultsOf(row({ desired: large })), []);
    const nested = (levels: number): object => (levels === 0 ? { property: 1 } : { x: nested(levels - 1) });
    assert.deepEqual(await faultsOf(row({ tags: nested(10) })), []);
    assert.match((await faultsOf(row({ tags: nested(11) })))[0] ?? '', /at most 10 levels deep/);
    assert.match(
      (await faultsOf(source('a.ndjson', `{"endorsementKey":"${key}","tags":{"__proto__":{"x":1}}}`)))[0] ??
        '',
      /tags\.__proto__: the key __proto__ is not taken/,
    );
    assert.deepEqual(await faultsOf(csv(`endorsementKey,tags.a,tags.a.b\n${key},1,2\n`)), [
      '2:428: tags.a.b: tags.a.b is given twice, or both as a value and as an object',
    ]);
  });

  it('is refused when its bytes are not those that were checked', async () => {
    let text = `registrationId,endorsementKey\none,${key}\n`;
    const edited: InputSource = { name: 'rows.csv', open: () => chunked(text, 1000) };
    const { seal } = await checkEnrollmentInput([edited]);
    const ids = async (): Promise<string[]> => {
      const rows = await collect(readPlacedRows([edited], {}, seal));
      return rows.flat().map(({ enrollment }) => enrollment.registrationId);
    };
    assert.deepEqual(await ids(), ['one']);
    // As many rows and bytes as before.
    text = text.replace('one', 'two');
    await assert.rejects(ids(), {
      code: 'input.changed',
      message: 'rows.csv has changed since it was checked',
    });
    await assert.rejects(collect(readCheckedRows([edited], {}, seal)), { code: 'input.changed' });
    // Longer, shorter, gone.
    for (const other of [`${text}two,${otherKey}\n`, text.slice(0, -3), '']) {
      text = other;
      await assert.rejects(ids(), { code: 'input.changed' }, other.slice(0, 40));
    }
  });

  it('gives out no row of what has changed, and all rows before it', async () => {
    const rows = (last: string): string =>
      Array.from(
        { length: 1000 },
        (_, at) => `row-${at === 999 ? last : at},${syntheticEndorsementKey(at)}\n`,
      ).join('');
    let text = `registrationId,endorsementKey\n${rows('a')}`;
    const edited: InputSource = { name: 'rows.csv', open: () => chunked(text, 50_000) };
    const { seal } = await checkEnrollmentInput([edited]);
    text = `registrationId,endorsementKey\n${rows('b')}`;
    const seen: string[] = [];
    await assert.rejects(
      async () => {
        for await (const some of readPlacedRows([edited], {}, seal))
          seen.push(...some.map(({ enrollment }) => enrollment.registrationId));
      },
      { code: 'input.changed' },
    );
    assert.ok(seen.length > 500 && seen.length < 1000, `${seen.length} rows`);
    assert.ok(!seen.includes('row-b'));
  });

  it('finds duplicates across files, by id without regard to case, by key and by serial number', async () => {
    const check = await checkEnrollmentInput([
      ndjson({ registrationId: 'one', endorsementKey: key, serialNumber: 'S1' }),
      csv(
        `registrationId,endorsementKey,serialNumber\nONE,${otherKey},S2\ntwo,${key},S3\nthree,${syntheticEndorsementKey(3)},S1\n`,
      ),
    ]);
    assert.equal(check.rows, 4);
    assert.deepEqual(check.faults.map(describeFault), [
      'rows.csv:2: registrationId: the registration id one stands in rows.ndjson:1 already',
      'rows.csv:3: endorsementKey: the same endorsement key under another registration id stands in rows.ndjson:1 already',
      'rows.csv:4: serialNumber: the serial number "S1" stands in rows.ndjson:1 already',
    ]);
  });

  it('finds device ids that could come into one hub, and no others', async () => {
    const rows: readonly (readonly [string, string])[] = [
      ['X', 'a.azure-devices.net'],
      ['X', 'b.azure-devices.net'],
      ['x', 'a.azure-devices.net'],
      ['X', 'A.azure-devices.net'],
      ['X', ''],
      ['Y', ''],
      ['Y', 'c.azure-devices.net'],
      ['Z', 'c.azure-devices.net'],
      ['Z', ''],
    ];
    const lines = rows.map(([id, hub], index) => `${syntheticEndorsementKey(index)},${id},${hub}\n`);
    const check = await checkEnrollmentInput([
      csv(`endorsementKey,deviceId,iotHubHostName\n${lines.join('')}`),
    ]);
    assert.deepEqual(check.faults.map(describeFault), [
      'rows.csv:5: deviceId: the device id "X", with another endorsement key, stands in rows.csv:2 already',
      'rows.csv:6: deviceId: the device id "X", with another endorsement key, stands in rows.csv:2 already',
      'rows.csv:8: deviceId: the device id "Y", with another endorsement key, stands in rows.csv:7 already',
      'rows.csv:10: deviceId: the device id "Z", with another endorsement key, stands in rows.csv:9 already',
    ]);
  });

  it('lists the first hundred and counts the rest', async () => {
    const check = await checkEnrollmentInput([csv(`endorsementKey\n${'x\n'.repeat(250)}`)]);
    assert.deepEqual([check.rows, check.faultCount, check.faults.length], [250, 250, 100]);
  });

  it('shows no secrets', async () => {
    const connection = 'HostName=h;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0c2VjcmV0';
    const inputs = [csv(`endorsementKey,${connection}\n`), csv(`endorsementKey,iotEdge\nx,${connection}\n`)];
    for (const input of inputs) assert(!(await faultsOf(input)).join().includes('c2VjcmV0'));
  });

  it('throws nothing but IotdmError, whatever the file', async () => {
    const scrap = fc.constantFrom(
      ...[
        'endorsementKey',
        'registrationId',
        'tags.a',
        'tags',
        'desired.b.c',
        ',',
        '\n',
        '"',
        '{',
        '}',
        '[',
        ']',
        ':',
      ],
      ...[
        'true',
        '5',
        '""',
        '"attestation":',
        '"tags":',
        '"endorsementKey":',
        '"__proto__":',
        key,
        ' ',
        '\\',
      ],
    );
    const text = fc.array(scrap).map((scraps) => scraps.join(''));
    const row = fc.oneof(
      fc.jsonValue(),
      fc.record(
        {
          endorsementKey: fc.constantFrom(key, 'x', 1),
          tags: fc.jsonValue(),
          attestation: fc.jsonValue(),
          initialTwin: fc.jsonValue(),
          serialNumber: fc.jsonValue(),
          iotHubs: fc.jsonValue(),
          'desired.x': fc.jsonValue(),
        },
        { requiredKeys: [] },
      ),
    );
    const file = fc.oneof(
      text,
      fc.array(row).map((rows) => JSON.stringify(rows)),
    );
    await fc.assert(
      fc.asyncProperty(file, fc.constantFrom(undefined, 'csv', 'json', 'ndjson'), async (content, format) => {
        try {
          await checkEnrollmentInput([source('any', content, format)]);
        } catch (error) {
          assert(error instanceof IotdmError, String(error));
        }
      }),
      { numRuns: 1000 },
    );
  });
});
