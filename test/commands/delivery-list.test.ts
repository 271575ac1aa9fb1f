import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { makeVendor, pem, rsaKey } from '../fakes/tpm-vendor.ts';
import { iotdm, lifetimeOfFile, scratchDirectory, type Outcome } from '../lab/lab.ts';

describe("a vendor's delivery list", () => {
  const lifetime = lifetimeOfFile();
  let cwd: string;
  const run = (...args: string[]): Promise<Outcome> => iotdm(['enrollment', ...args], { cwd });

  before(async () => {
    cwd = await scratchDirectory(lifetime);
    const root = await makeVendor('Root');
    const middle = await root.issueVendor('Middle');
    const certificates = await Promise.all([1, 2, 3].map(() => middle.issueEk(rsaKey())));
    const stranger = await (await makeVendor('Stranger')).issueEk(rsaKey());
    await mkdir(join(cwd, 'vendor'));
    await writeFile(join(cwd, 'vendor', 'root.crt'), Buffer.concat([root.der, Buffer.from('\n')]));
    await writeFile(join(cwd, 'vendor', 'middle.pem'), pem(middle.der));
    const row = (der: Buffer, index: number): string => `SN-${index},${der.toString('base64')}\n`;
    await writeFile(join(cwd, 'good.csv'), `serialNumber,ekCertificate\n${certificates.map(row).join('')}`);
    const mixed = [...certificates.slice(0, 2), stranger];
    await writeFile(join(cwd, 'mixed.csv'), `serialNumber,ekCertificate\n${mixed.map(row).join('')}`);
    await writeFile(
      join(cwd, 'broken.csv'),
      `serialNumber,ekCertificate\n${mixed.map(row).join('')}SN-9,AAAA\n`,
    );
  });

  it('is proved by import before anything is sent, and the result says what was', async () => {
    const text = await run('import', 'good.csv', '--roots', 'vendor', '--dry-run');
    assert.deepEqual([text.code, text.stderr], [0, '']);
    assert.match(text.stdout, /^EK certificates: 3 verified; no device was asked\.$/m);
    const json = await run('import', 'good.csv', '--roots', 'vendor', '--dry-run', '--json');
    assert.deepEqual(JSON.parse(json.stdout), {
      total: 3,
      dryRun: true,
      verification: { policy: 'require', verified: 3, notVerified: 0, reasons: [] },
    });
  });

  it('with a certificate that is not verified ends with exit code 9, with another fault with 2', async () => {
    const unverified = await run('import', 'mixed.csv', '--roots', 'vendor', '--json');
    assert.equal(unverified.code, 9);
    const { error } = JSON.parse(unverified.stderr) as {
      error: { code: string; details: { faults: { code: string; line: number; column: number }[] } };
    };
    assert.equal(error.code, 'verify.rows');
    assert.deepEqual(
      error.details.faults.map(({ code, line, column }) => [code, line, column]),
      [['verify.ek', 4, 6]],
    );
    const faulty = await run('import', 'broken.csv', '--verify', 'require', '--roots', 'vendor');
    assert.equal(faulty.code, 2);
    assert.match(
      faulty.stderr,
      /^broken\.csv:4:6: ekCertificate: the EK certificate is not verified: its issuer/m,
    );
    assert.match(faulty.stderr, /^broken\.csv:5:6: ekCertificate: /m);
  });

  it('is only warned of, or not looked at, where that is wanted', async () => {
    const warned = await run('import', 'mixed.csv', '--roots', 'vendor', '--verify', 'warn', '--dry-run');
    assert.equal(warned.code, 0);
    assert.match(warned.stdout, /^EK certificates: 2 verified, 1 not \(chain 1\); no device was asked\.$/m);
    assert.match(warned.stderr, /^iotdm: warning: 1 of 3 rows have no verified EK certificate \(chain 1\)$/m);
    assert.match(
      warned.stderr,
      /^iotdm: warning: mixed\.csv:4:6: ekCertificate: the EK certificate is not verified: /m,
    );
    const off = await run(
      'import',
      'mixed.csv',
      '--roots',
      'vendor',
      '--verify',
      'off',
      '--dry-run',
      '--json',
    );
    assert.deepEqual(JSON.parse(off.stdout), { total: 3, dryRun: true });
  });

  it('is proved by export as well, which then writes nothing that is not verified', async () => {
    const refused = await run(
      'export',
      'mixed.csv',
      '--format',
      'dps-json',
      '--out',
      'out.json',
      '--roots',
      'vendor',
    );
    assert.equal(refused.code, 9);
    assert.ok(!existsSync(join(cwd, 'out.json')));
    const written = await run(
      'export',
      'good.csv',
      '--format',
      'dps-json',
      '--out',
      'out.json',
      '--roots',
      'vendor',
    );
    assert.deepEqual([written.code, written.stderr], [0, '']);
    assert.match(written.stdout, /^EK certificates: 3 verified; no device was asked\.$/m);
  });

  it('is not held against nobody, nor when it is to be deleted', async () => {
    const nobody = await run('import', 'good.csv', '--verify', 'require', '--dry-run');
    assert.equal(nobody.code, 2);
    assert.match(nobody.stderr, /--verify without certificates to trust/);
    const deleted = await run('import', 'good.csv', '--mode', 'delete', '--verify', 'warn', '--dry-run');
    assert.equal(deleted.code, 2);
  });
});
