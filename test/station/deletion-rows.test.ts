/** Files that say what is to be deleted: what of them is read, and what is refused. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  checkEnrollmentInput,
  describeFault,
  readPlacedDeletions,
  type InputOptions,
  type InputSource,
} from '../../src/station/enrollment-input.ts';
import type { DeletionTarget } from '../../src/station/enrollment-rows.ts';
import { chunked } from '../fakes/chunked-source.ts';
import {
  syntheticEndorsementKey,
  vectorEndorsementKey,
  vectorRegistrationId,
} from '../fakes/endorsement-keys.ts';

const key = vectorEndorsementKey;
const other = syntheticEndorsementKey(1);
const byKey = (endorsementKey: string) => ({ type: 'tpm', tpm: { endorsementKey } });

const compared: InputOptions = { deletion: 'compared' };
const idsOnly: InputOptions = { deletion: 'ids-only' };

function source(name: string, text: string): InputSource {
  return { name, open: () => chunked(text, 1000) };
}

/** What is to be deleted. */
async function read(name: string, text: string, options: InputOptions): Promise<readonly DeletionTarget[]> {
  const input = source(name, text);
  const { faults, seal } = await checkEnrollmentInput([input], options);
  assert.deepEqual(faults, []);
  const targets: DeletionTarget[] = [];
  for await (const batch of readPlacedDeletions([input], options, seal)) {
    for (const { file, enrollment } of batch) {
      assert.equal(file, name);
      targets.push(enrollment);
    }
  }
  return targets;
}

/** The faults as `line:column: field: message`. */
async function faultsOf(name: string, text: string, options: InputOptions): Promise<readonly string[]> {
  const { faults } = await checkEnrollmentInput([source(name, text)], options);
  return faults.map((fault) => describeFault(fault).slice(name.length + 1));
}

const lines = (rows: readonly unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const csv = (text: string, options = compared) => read('rows.csv', text, options);
const ndjson = (rows: readonly unknown[], options = compared) => read('rows.ndjson', lines(rows), options);
const csvFaults = (text: string, options = compared) => faultsOf('rows.csv', text, options);
/** Without their columns. */
const ndjsonFaults = async (rows: readonly unknown[], options = compared) =>
  (await faultsOf('rows.ndjson', lines(rows), options)).map((fault) => fault.replace(/^(\d+):\d+: /, '$1: '));

describe('rows that are compared before they are deleted', () => {
  it('say the same in CSV, as members, in a manifest and as the service lists them', async () => {
    const target = { registrationId: vectorRegistrationId, attestation: byKey(key) };
    assert.deepEqual(await csv(`endorsementKey\n${key}\n`), [target]);
    assert.deepEqual(await csv(`registrationId,endorsementKey\nDel-1,${key}\n`), [
      { ...target, registrationId: 'del-1' },
    ]);
    assert.deepEqual(await ndjson([{ endorsementKey: key }]), [target]);
    assert.deepEqual(
      await ndjson([
        { schema: 1, registrationId: vectorRegistrationId, endorsementKey: key, serialNumber: 'S1' },
      ]),
      [target],
    );
    const listed = { registrationId: 'Press-1', attestation: byKey(key), etag: '"e1"' };
    assert.deepEqual(await ndjson([{ ...listed, attestation: { ...listed.attestation, x509: null } }]), [
      { ...listed, registrationId: 'press-1' },
    ]);
  });

  it('may hold whatever an import would refuse', async () => {
    // A TPM2B_PUBLIC of another kind of key.
    const strangeKey = Buffer.concat([Buffer.from([0, 4]), Buffer.from('abcd')]).toString('base64');
    const x509 = { clientCertificates: { primary: { info: { sha256Thumbprint: 'AA' } } } };
    const rows = [
      {
        registrationId: 'a',
        attestation: { ...byKey(key), unknown: 1 },
        deviceId: 'not a device id',
        initialTwin: { tags: { 'a.b': 1, $c: null }, properties: { desired: { ' ': 2 ** 80 } } },
        allocationPolicy: 'custom',
        iotHubs: 'none',
        reprovisionPolicy: 5,
        optionalDeviceInformation: [],
        somethingNew: {},
        etag: '"1"',
      },
      // The same key once more: that it stands twice is what is to be mended.
      { registrationId: 'b', deviceId: 'not a device id', attestation: byKey(key) },
      { registrationId: 'c', attestation: byKey(strangeKey) },
      { registrationId: 'd', attestation: { type: 'x509', x509, tpm: null, symmetricKey: null } },
      { registrationId: 'e', attestation: { type: 'symmetricKey', x509: null }, etag: '"2"' },
    ];
    const targets = [
      { registrationId: 'a', attestation: byKey(key), etag: '"1"' },
      { registrationId: 'b', attestation: byKey(key) },
      { registrationId: 'c', attestation: byKey(strangeKey) },
      { registrationId: 'd', attestation: { type: 'x509', x509 } },
      { registrationId: 'e', attestation: { type: 'symmetricKey' }, etag: '"2"' },
    ];
    assert.deepEqual(await ndjson(rows), targets);
    assert.deepEqual(await read('rows.json', JSON.stringify(rows, null, 2), compared), targets);
    assert.deepEqual(
      await csv(
        `registrationId,endorsementKey,tags.a$,colour,iotEdge,serialNumber,deviceId\n` +
          `a,${key},1,red,perhaps,S1,D1\nb,${key},2,blue,,S1,D1\n`,
      ),
      targets.slice(0, 2).map(({ registrationId, attestation }) => ({ registrationId, attestation })),
    );
  });

  it('that spreadsheets have been in are read where that is not looked at, and refused where it is', async () => {
    const target = { registrationId: 'a', attestation: byKey(key) };
    assert.deepEqual(
      await csv(`registrationId,endorsementKey,serialNumber,tags.v,,\na,${key},3.57E+14,#REF!,,\n`),
      [target],
    );
    const damaged = await csvFaults(`registrationId,endorsementKey\n3.57E+14,${key}\n`);
    assert.match(damaged[0] ?? '', /^2:1: registrationId: .*spreadsheet/);
    const quotes = await csvFaults(`registrationId,endorsementKey,tags.v\na,${key},5" x\n`);
    assert.match(quotes.join('\n'), /^2:429: tags.v: a quote stands inside a cell/);
    assert.match((await csvFaults(`registrationId,endorsementKey,\na,${key},x\n`))[0] ?? '', /has no name$/);
  });

  it('must say whose enrollment they mean, once', async () => {
    const first = async (text: string): Promise<string> => (await csvFaults(text))[0] ?? '';
    assert.equal(
      await first('registrationId\na\n'),
      '1: endorsementKey: the column endorsementKey is missing (or ekCertificate, or publicKey)',
    );
    const header = 'registrationId,endorsementKey';
    assert.equal(await first(`${header}\na,\n`), '2: endorsementKey: the endorsement key is missing');
    assert.match(await first(`${header}\na,${key.slice(0, 40)}\n`), /^2:3: endorsementKey: /);
    assert.deepEqual(await csvFaults(`${header}\na,${key}\nA,${other}\n`), [
      '3: registrationId: the registration id a stands in rows.csv:2 already',
    ]);
    assert.match(await first(`${header}\na b,${key}\n`), /^2:1: registrationId: /);
    assert.match(await first(`${header}\na,${key},b\n`), /3 cells, the header has 2/);
    assert.match(await first(`${header},ekCertificate\na,${key},${key}\n`), /ekCertificate: /);
    const kindIsMissing = 'attestation.type: the kind of attestation is missing: tpm, x509 or symmetricKey';
    assert.deepEqual(
      await ndjsonFaults([
        { registrationId: 'a', attestation: {} },
        { registrationId: 'b', attestation: { type: 'tpm', tpm: {} } },
        { attestation: { type: 'x509' } },
        { registrationId: 'c', attestation: { type: 'x509' }, etag: 7 },
        { registrationId: 'd', attestation: { type: '<b>' } },
        7,
      ]),
      [
        `1: ${kindIsMissing}`,
        '2: endorsementKey: the endorsement key is missing',
        '3: registrationId: the registration id is missing',
        '4: etag: a text in quotes is expected',
        `5: ${kindIsMissing}`,
        '6: a row is a JSON object, this is something else',
      ],
    );
  });
});

describe('files of registration ids alone', () => {
  const targets = [{ registrationId: 'a-1' }, { registrationId: 'b.2' }];

  it('are CSV, a plain list, NDJSON or JSON, of texts or of objects', async () => {
    for (const text of [
      'registrationId\nA-1\nb.2\n',
      'Registration Id\r\na-1\r\n\r\nb.2',
      'A-1\nb.2\n',
      '"a-1"\n"b.2"\n',
      '\ufeffregistration_id\na-1\nregistrationId\nb.2\n',
    ]) {
      assert.deepEqual(await csv(text, idsOnly), targets, text);
      assert.deepEqual(await read('<stdin>', text, idsOnly), targets, text);
    }
    assert.deepEqual(await ndjson(['A-1', 'b.2'], idsOnly), targets);
    assert.deepEqual(await ndjson([{ registrationId: 'a-1' }, { registration_id: 'B.2' }], idsOnly), targets);
    assert.deepEqual(await read('rows.json', '["a-1",\n"b.2"]', idsOnly), targets);
  });

  it('hold nothing else, unless that is to be left out', async () => {
    const problem = (name: string) =>
      `${name}: only registration ids are expected here, and nothing would be compared with "${name}"`;
    const table = `registrationId,endorsementKey,colour\na-1,${key},red\nb.2,${other},\n`;
    assert.deepEqual(await csvFaults(table, idsOnly), [
      `1:16: ${problem('endorsementKey')}`,
      `1:31: ${problem('colour')}`,
    ]);
    const objects = [
      { registrationId: 'a-1', etag: '"1"', tags: null },
      { registrationId: 'b.2', attestation: byKey(key) },
    ];
    assert.deepEqual(await ndjsonFaults(objects, idsOnly), [
      `1: ${problem('etag')}`,
      `2: ${problem('attestation')}`,
    ]);
    const lenient: InputOptions = { ...idsOnly, ignoreUnknownColumns: true };
    assert.deepEqual(await csv(table, lenient), targets);
    assert.deepEqual(await ndjson(objects, lenient), targets);
  });

  it('may have been in a spreadsheet', async () => {
    assert.deepEqual(await csv('registrationId,,\na-1,,\nb.2,,\n', idsOnly), targets);
    assert.match(
      (await csvFaults('a-1\n1.5E+10\n', idsOnly))[0] ?? '',
      /^2:1: registrationId: .*spreadsheet/,
    );
  });

  it('are refused where they are none', async () => {
    const faults = (text: string) => csvFaults(text, idsOnly);
    const isMissing = '1:1: registrationId: the column registrationId is missing';
    const mismatch = (name: string) =>
      `${name}: only registration ids are expected here, and nothing would be compared with "${name}"`;
    assert.deepEqual(await faults('endorsementKey\nx\n'), [isMissing, `1:1: ${mismatch('endorsementKey')}`]);
    assert.deepEqual(await faults('a-1,b-1\n'), [
      isMissing,
      `1:1: ${mismatch('a-1')}`,
      `1:5: ${mismatch('b-1')}`,
    ]);
    assert.deepEqual(await faults('a-1\nA-1\n'), [
      '2: registrationId: the registration id a-1 stands in rows.csv:1 already',
    ]);
    assert.deepEqual(await faults('a-1\nb-1,c-1\n'), ['2:5: the row has 2 cells, the header has 1']);
    const malformed =
      'a registration id is 1 to 128 lower-case letters, digits and - . _ : and begins and ends with a letter or digit';
    assert.deepEqual(await faults('a-1\nb 2\n'), [`2:1: registrationId: ${malformed}`]);
    assert.deepEqual(
      await ndjsonFaults([{}, { registrationId: 5 }, 7, null, { registrationId: 'A b' }], idsOnly),
      [
        '1: registrationId: the registration id is missing',
        '2: registrationId: a text in quotes is expected',
        '3: registrationId: a text in quotes is expected',
        '4: registrationId: the registration id is missing',
        `5: registrationId: ${malformed}`,
      ],
    );
  });
});
