import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { lineHash, type HarvestedIdentity } from '../../src/records/manifest.ts';
import { harvested, manifestOf } from '../fakes/harvested.ts';
import { iotdm, scratchDirectory, softwareTpm } from '../lab/lab.ts';

/** A directory with manifests in it. */
async function folder(t: TestContext, files: Record<string, readonly HarvestedIdentity[]>): Promise<string> {
  const dir = await scratchDirectory(t);
  for (const [name, identities] of Object.entries(files)) {
    writeFileSync(join(dir, name), manifestOf(identities));
  }
  return dir;
}

const early = [harvested(1), harvested(3)];
const late = [harvested(2), harvested(3)];

describe('manifest verify', () => {
  it('takes what harvest has recorded of a chip with a certificate, and nothing that was changed', async (t) => {
    const chip = await softwareTpm(t);
    const cwd = await scratchDirectory(t);
    const recorded = await iotdm(['harvest', '--tpm', chip.tcti, '--manifest', 'a.ndjson', '--serial', 'A'], {
      cwd,
    });
    assert.equal(recorded.code, 0, recorded.stderr);
    const text = readFileSync(join(cwd, 'a.ndjson'), 'utf8');
    const { ekCertificate } = JSON.parse(text) as { ekCertificate: string };
    assert(Buffer.from(ekCertificate, 'base64').length > 500);
    const hash = lineHash(text.trimEnd());
    const right = await iotdm(['manifest', 'verify', 'a.ndjson'], { cwd });
    assert.deepEqual(right, {
      code: 0,
      stdout: `✔ The manifest is in order.\na.ndjson  1 record, last hash ${hash}\n`,
      stderr: '',
    });
    const other = harvested(9, { ekCertificate });
    writeFileSync(join(cwd, 'b.ndjson'), manifestOf([other]));
    const wrong = await iotdm(['manifest', 'verify', 'b.ndjson'], { cwd });
    assert.deepEqual(wrong, {
      code: 9,
      stdout: 'b.ndjson:1: ekCertificate: it is for another key than endorsementKey\n',
      stderr:
        'iotdm: error: one fault in b.ndjson (1 record)\n' +
        'iotdm: hint: if the chip has another key at 0x81010001 than its manufacturer certified, remove that with ' +
        'tpm2_evictcontrol where nothing uses it, and harvest the device into a new manifest\n',
    });
  });

  it('reports all files as one JSON document, also when it fails', async (t) => {
    const cwd = await folder(t, { early, late, wrong: [harvested(4, { serialNumber: 'SN-1' })] });
    const args = ['manifest', 'verify', 'early', 'late', '--json'];
    const right = await iotdm(args, { cwd });
    assert.equal(right.code, 0);
    const { manifests, ...rest } = JSON.parse(right.stdout) as { manifests: { file: string }[] };
    assert.deepEqual(rest, {
      ok: true,
      files: 2,
      records: 4,
      repeated: 1,
      faults: [],
      faultCount: 0,
      warnings: [],
    });
    assert.deepEqual(
      manifests.map(({ file }) => file),
      ['early', 'late'],
    );
    const wrong = await iotdm([...args, 'wrong'], { cwd });
    assert.equal(wrong.code, 9);
    const faults = [
      { file: 'wrong', line: 1, problem: 'the serial number "SN-1" is recorded with another TPM in early:1' },
    ];
    const result = JSON.parse(wrong.stdout) as Record<string, unknown>;
    assert.deepEqual([result['ok'], result['faults'], result['faultCount']], [false, faults, 1]);
    const { error } = JSON.parse(wrong.stderr) as { error: Record<string, unknown> };
    assert.equal(error['code'], 'verify.manifest');
    assert.deepEqual(error['details'], { files: 3, records: 5, faultCount: 1, faults });
    assert.match(String(error['hint']), /^check the labels of these devices/);
  });

  it('warns of a torn last line, which the next harvest mends', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const cwd = await folder(t, { early });
    writeFileSync(join(cwd, 'early'), manifestOf(early).slice(0, -100));
    const torn = await iotdm(['manifest', 'verify', 'early'], { cwd });
    assert.equal(torn.code, 0);
    assert.match(torn.stderr, /^iotdm: warning: early:2: the last line is cut short/);
    await iotdm(['harvest', '--tpm', chip.tcti, '--manifest', 'early', '--serial', 'new'], { cwd });
    const mended = await iotdm(['manifest', 'verify', '-'], { cwd, stdin: readFileSync(join(cwd, 'early')) });
    assert.deepEqual([mended.code, mended.stderr], [0, '']);
    assert.match(mended.stdout, /^<stdin> {2}2 records, last hash [0-9a-f]{64}$/m);
  });

  it('knows what never was a manifest', async (t) => {
    const cwd = await folder(t, { early });
    writeFileSync(join(cwd, 'a.csv'), 'serialNumber,deviceId\nSN-1,pump\n');
    const { code, stderr } = await iotdm(['manifest', 'verify', 'early', 'a.csv'], { cwd });
    assert.equal(code, 9);
    assert.match(stderr, /^iotdm: hint: name a manifest of harvest: a\.csv is none; /m);
  });

  it('says what it cannot read', async (t) => {
    const cwd = await folder(t, { early });
    const { code, stderr } = await iotdm(['manifest', 'verify', 'early', 'none'], { cwd });
    assert.equal(code, 2);
    assert.match(stderr, /^iotdm: error: cannot read none: there is no such file\n/);
  });
});

describe('manifest merge', () => {
  it('writes one manifest that verifies, for the owner only, and never over another file unasked', async (t) => {
    const cwd = await folder(t, { early, late });
    const args = ['manifest', 'merge', 'early', 'late', '--out', 'day.ndjson'];
    const dry = await iotdm([...args, '--dry-run', '--json'], { cwd });
    assert.deepEqual(JSON.parse(dry.stdout), {
      files: 2,
      records: 3,
      repeated: 1,
      out: 'day.ndjson',
      lastHash: null,
      dryRun: true,
    });
    assert.throws(() => statSync(join(cwd, 'day.ndjson')), { code: 'ENOENT' });

    const merged = await iotdm([...args, '--json'], { cwd });
    assert.equal(merged.code, 0, merged.stderr);
    const text = readFileSync(join(cwd, 'day.ndjson'), 'utf8');
    assert.equal(text, manifestOf([1, 2, 3].map((number) => harvested(number))));
    assert.deepEqual(JSON.parse(merged.stdout), {
      files: 2,
      records: 3,
      repeated: 1,
      lastHash: lineHash(text.trimEnd().split('\n').at(-1) ?? ''),
      out: 'day.ndjson',
    });
    assert.equal(statSync(join(cwd, 'day.ndjson')).mode & 0o777, 0o600);
    assert.equal((await iotdm(['manifest', 'verify', 'day.ndjson'], { cwd })).code, 0);

    const again = await iotdm(args, { cwd });
    assert.deepEqual([again.code, again.stdout], [2, '']);
    assert.match(again.stderr, /day\.ndjson exists already\n.*--overwrite/);
    assert.equal((await iotdm([...args, '--overwrite'], { cwd })).code, 0);
    assert.equal(readFileSync(join(cwd, 'day.ndjson'), 'utf8'), text);
  });

  it('writes nothing when files disagree or are broken, and names every fault', async (t) => {
    const cwd = await folder(t, { early, other: [harvested(2, { serialNumber: 'SN-1' })] });
    writeFileSync(join(cwd, 'broken'), manifestOf(late).replace('EOL-3', 'EOL-4'));
    for (const [file, fault] of [
      ['other', /^other:1: the serial number "SN-1" is recorded with another TPM in early:1$/m],
      ['broken', /^broken:2: previous is not the hash of line 1/m],
    ] as const) {
      const { code, stdout, stderr } = await iotdm(['manifest', 'merge', 'early', file, '--out', 'day'], {
        cwd,
      });
      assert.deepEqual([code, stdout], [9, '']);
      assert.match(stderr, fault);
      assert.throws(() => statSync(join(cwd, 'day')), { code: 'ENOENT' });
    }
    for (const args of [
      ['early', '--out', 'early', '--overwrite'],
      ['early', '-', '--out', 'day'],
    ]) {
      assert.equal((await iotdm(['manifest', 'merge', ...args], { cwd })).code, 2);
    }
    assert.equal(readFileSync(join(cwd, 'early'), 'utf8'), manifestOf(early));
  });
});
