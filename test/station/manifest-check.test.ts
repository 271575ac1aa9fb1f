import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createPublicKey, X509Certificate } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { checkManifests, type ManifestCheck } from '../../src/station/manifest-check.ts';
import { EK_PUBLIC_PREFIX } from '../../src/tpm/endorsement-key.ts';
import { chunked } from '../fakes/chunked-source.ts';
import { forOaep } from '../fakes/ek-certificates.ts';
import { harvested, identityOf, manifestOf } from '../fakes/harvested.ts';

function check(...files: (string | Buffer)[]): Promise<ManifestCheck> {
  return checkManifests(
    files.map((content, index) => ({
      name: `m${index + 1}`,
      open: () => chunked(Buffer.from(content), 1000),
    })),
  );
}

/** `file:line: problem` of each fault. */
async function faultsOf(...files: (string | Buffer)[]): Promise<string[]> {
  const { faults, faultCount, ok } = await check(...files);
  assert.equal(ok, faultCount === 0);
  return faults.map(({ file, line, problem }) => `${file}:${line}: ${problem}`);
}

const three = manifestOf([1, 2, 3].map((number) => harvested(number)));
const linesOf = (text: string): string[] => text.split('\n').slice(0, -1);

describe('the chain of a manifest', () => {
  it('is in order as it was written, and so is an empty one', async () => {
    const result = await check(three, '');
    assert.deepEqual([result.ok, result.records, result.repeated], [true, 3, 0]);
    assert.deepEqual(
      result.manifests.map(({ file, records }) => [file, records]),
      [
        ['m1', 3],
        ['m2', 0],
      ],
    );
    assert.deepEqual(result.warnings, [{ file: 'm2', line: 1, problem: 'the file holds no record' }]);
  });

  it('shows a line that was changed, removed, added or moved', async () => {
    const [one = '', two = '', last = ''] = linesOf(three);
    const broken = (line: number): string =>
      `m1:${line}: previous is not the hash of line ${line - 1}: it was changed, or lines were added or removed here`;
    assert.deepEqual(await faultsOf(three.replace('"SN-2"', '"SN-9"')), [broken(3)]);
    assert.deepEqual(await faultsOf(`${one}\n${last}\n`), [broken(2)]);
    assert.deepEqual(await faultsOf(`${two}\n${last}\n`), [
      'm1:1: previous is not null: lines are missing before the first one',
    ]);
    assert.deepEqual(await faultsOf(`${one}\n${last}\n${two}\n`), [broken(2), broken(3)]);
    assert.deepEqual(await faultsOf(`${one}\n${one}\n${two}\n`), [broken(2)]);
  });

  it('is broken by every change of a single character before the last line', async () => {
    const end = three.lastIndexOf('\n', three.length - 2);
    await fc.assert(
      fc.asyncProperty(fc.nat(end), fc.string({ minLength: 1, maxLength: 1 }), async (at, character) => {
        const changed = three.slice(0, at) + character + three.slice(at + 1);
        assert.equal((await check(changed)).ok, changed === three);
      }),
      { numRuns: 300 },
    );
  });

  it('reports a line that is no record once, and goes on behind it', async () => {
    const [one = '', two = '', last = ''] = linesOf(three);
    const why: [string | Buffer, string][] = [
      ['', 'it is not JSON'],
      ['{"schema":1,', 'it is not JSON'],
      ['[]', 'it is not a JSON object'],
      [two.replace('"ekName"', '"name"'), 'ekName is missing or of another type'],
      ['x'.repeat(3_000_000), 'it is longer than 1048576 bytes'],
      [Buffer.from([0x22, 0xff, 0x22]), 'it holds bytes that are not UTF-8'],
    ];
    for (const [line, reason] of why) {
      const text = Buffer.concat([Buffer.from(`${one}\n`), Buffer.from(line), Buffer.from(`\n${last}\n`)]);
      const [first, second, ...rest] = await faultsOf(text);
      assert.equal(first, `m1:2: this line is not a manifest record: ${reason}`);
      assert.match(second ?? '', /^m1:3: previous is not the hash of line 2/);
      assert.deepEqual(rest, []);
    }
    assert.deepEqual(await faultsOf('{"schema":2}\n'), [
      'm1:1: this line is not a manifest record of schema 1',
    ]);
  });

  it('lists the first hundred faults and counts the rest', async () => {
    const { faults, faultCount, records } = await check('nothing\n'.repeat(250));
    assert.deepEqual([faults.length, faultCount, records], [100, 250, 0]);
  });

  it('is not judged by a last line that a power loss has torn', async () => {
    const size = Buffer.byteLength(three);
    const before = three.lastIndexOf('\n', three.length - 2) + 1;
    for (const end of [before + 1, before + 30, size - 2]) {
      const { ok, records, warnings } = await check(three.slice(0, end));
      assert.deepEqual([ok, records, warnings.length, warnings[0]?.line], [true, 2, 1, 3]);
      assert.match(warnings[0]?.problem ?? '', /^the last line is cut short.*the next harvest mends it/);
    }
    const zeros = await check(Buffer.concat([Buffer.from(three), Buffer.alloc(4096)]));
    assert.deepEqual([zeros.ok, zeros.records, zeros.warnings[0]?.line], [true, 3, 4]);
    const unterminated = await check(three.trimEnd());
    assert.deepEqual([unterminated.ok, unterminated.records], [true, 3]);
    assert.match(unterminated.warnings[0]?.problem ?? '', /^the line feed of the last line is missing/);
    assert.deepEqual(await faultsOf(`${three}half a letter`), [
      'm1:4: this line is not a manifest record: it is not JSON',
    ]);
  });

  it('says once that a program has converted the line ends', async () => {
    assert.deepEqual(await faultsOf(three.replaceAll('\n', '\r\n')), [
      'm1:1: the line ends with CR LF: the file was changed by a program that converts line ends',
    ]);
  });
});

describe('a record of a manifest', () => {
  it('is held to its endorsement key', async () => {
    const other = harvested(7);
    const alien = Buffer.from(other.endorsementKey, 'base64');
    alien.writeUInt8(0x02, 1);
    assert.deepEqual(await faultsOf(manifestOf([harvested(1, { registrationId: other.registrationId })])), [
      'm1:1: registrationId is not the one that follows from endorsementKey',
    ]);
    assert.deepEqual(await faultsOf(manifestOf([harvested(1, { ekName: other.ekName })])), [
      'm1:1: ekName is not the name of endorsementKey',
    ]);
    assert.match(
      (await faultsOf(manifestOf([harvested(1, { endorsementKey: alien.toString('base64') })]))).join(),
      /^m1:1: endorsementKey: the bytes have the length of an endorsement key but not the TCG template/,
    );
    for (const text of ['', 'AToA', `${other.endorsementKey}\n`, other.endorsementKey.slice(0, -1)]) {
      assert.match(
        (await faultsOf(manifestOf([harvested(1, { endorsementKey: text })]))).join(),
        /^m1:1: endorsementKey: [^,]*$|TPM2B_PUBLIC of 316 bytes/,
      );
    }
    for (const time of ['', 'yesterday', '2024-13-01T00:00:00Z', '2024-05-01T06:00:00+02:00']) {
      assert.deepEqual(await faultsOf(manifestOf([harvested(1, { harvestedAt: time })])), [
        'm1:1: harvestedAt is not a time in ISO 8601, UTC',
      ]);
    }
  });

  it('is held to its certificate, as far as that can be read', async () => {
    const [mine, theirs] = [certificate(), certificate()];
    const key = createPublicKey(new X509Certificate(mine).publicKey.export({ type: 'spki', format: 'pem' }));
    const modulus = Buffer.from(key.export({ format: 'jwk' }).n ?? '', 'base64url');
    const identity = identityOf(Buffer.concat([EK_PUBLIC_PREFIX, modulus]).toString('base64'), 1);
    const faultsWith = (der: Buffer): Promise<string[]> =>
      faultsOf(manifestOf([{ ...identity, ekCertificate: der.toString('base64') }]));
    assert.deepEqual(await faultsWith(mine), []);
    assert.deepEqual(await faultsWith(theirs), [
      'm1:1: ekCertificate: it is for another key than endorsementKey',
    ]);
    // What the harvest has seen and said is no change of the manifest.
    const said = { ...identity, ekCertificate: theirs.toString('base64'), ekVerdict: 'mismatched' };
    assert.deepEqual(await faultsOf(manifestOf([said])), []);
    const unreadable = 'm1:1: ekCertificate: it cannot be read, or is for another key than endorsementKey';
    assert.deepEqual(await faultsWith(Buffer.from('no certificate')), [unreadable]);
    // Infineon's older chips: the same key, named as one for RSAES-OAEP.
    assert.deepEqual(await faultsWith(forOaep(mine)), []);
    assert.deepEqual(await faultsWith(forOaep(theirs)), [
      'm1:1: ekCertificate: it is for another key than endorsementKey',
    ]);
    assert.deepEqual(await faultsOf(manifestOf([{ ...identity, ekCertificate: '???' }])), [
      'm1:1: ekCertificate: it is not base64',
    ]);
  });
});

describe('one chip and one serial number', () => {
  it('belong together within a file and across files', async () => {
    const chip = harvested(1);
    const { faults, conflictCount, faultCount } = await check(
      manifestOf([chip, harvested(2), { ...harvested(3), serialNumber: 'SN-2' }]),
      manifestOf([harvested(4), { ...chip, serialNumber: null }, { ...chip, serialNumber: 'SN-4' }]),
    );
    assert.deepEqual(
      faults.map(({ file, line, problem }) => `${file}:${line}: ${problem}`),
      [
        'm1:3: the serial number "SN-2" is recorded with another TPM in m1:2',
        'm2:2: this TPM, here with no serial number, is recorded otherwise in m1:1',
        'm2:3: this TPM, here with the serial number "SN-4", is recorded otherwise in m1:1',
        'm2:3: the serial number "SN-4" is recorded with another TPM in m2:1',
      ],
    );
    assert.deepEqual([conflictCount, faultCount], [4, 4]);
  });

  it('may be recorded together more than once, and chips without a serial number are as many as there are', async () => {
    const nameless = [5, 6].map((number) => harvested(number, { serialNumber: null }));
    const { ok, repeated, records } = await check(three, three, manifestOf(nameless));
    assert.deepEqual([ok, repeated, records], [true, 3, 8]);
  });
});

/** A certificate for a key that is thrown away, DER. */
function certificate(): Buffer {
  return execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', '/dev/null'],
      ...['-subj', '/CN=endorsement key', '-outform', 'der'],
    ],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
}
