import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { EK_PUBLIC_PREFIX, registrationIdOf } from '../../../src/tpm/endorsement-key.ts';
import { trustedCertificates } from '../../../src/trust/roots.ts';
import { CertificateJudge } from '../../../src/trust/verdict.ts';
import {
  ekExtensions,
  makeVendor,
  NOW,
  pem,
  rsaKey,
  tpmName,
  type CertificateOptions,
} from '../../fakes/tpm-vendor.ts';
import { iotdm, lifetimeOfFile, scratchDirectory, type Outcome } from '../../lab/lab.ts';

const root = await makeVendor('Root');
const middle = await root.issueVendor('Middle');
const ek = rsaKey();
const good = await middle.issueEk(ek);
const judge = new CertificateJudge(trustedCertificates([root.der, middle.der]), NOW);

describe('a certificate without its device', () => {
  it('is never genuine, and it is said what was checked', () => {
    const { verdict, reason, checked } = judge.judgeAlone(good);
    assert.equal(verdict, 'device-not-checked');
    assert.match(reason, /was not checked$/);
    assert.deepEqual(checked, ['key', 'names', 'usage', 'dates', 'chain']);
  });

  const faults: [string, CertificateOptions, RegExp, number][] = [
    [
      'without a model',
      { extensions: (x509) => named(x509, '2.23.133.2.1=id:49465800, 2.23.133.2.3=id:13') },
      /lacks model$/,
      1,
    ],
    [
      'whose names stand in the subject only',
      {
        subject: '2.23.133.2.1=id:49465800, 2.23.133.2.2=SLB, 2.23.133.2.3=id:13',
        extensions: (x509) => ekExtensions(x509).slice(1),
      },
      /lacks manufacturer, model, version$/,
      1,
    ],
    [
      'of a manufacturer in words',
      { extensions: (x509) => named(x509, '2.23.133.2.1=Infineon, 2.23.133.2.2=SLB, 2.23.133.2.3=id:13') },
      /no manufacturer by a TCG vendor id/,
      1,
    ],
    [
      'for another use',
      { extensions: (x509) => [tpmName(x509)] },
      /does not allow its key to encipher keys/,
      2,
    ],
    ['that has expired', { notAfter: new Date('2026-05-31T00:00:00Z') }, /expired on 2026-05-31/, 3],
    ['that is not valid yet', { notBefore: new Date('2026-06-02T00:00:00Z') }, /not valid before/, 3],
  ];
  for (const [what, options, reason, checked] of faults) {
    it(`${what} is untrusted`, async () => {
      const assessment = judge.judgeAlone(await middle.issueEk(ek, options));
      assert.equal(assessment.verdict, 'untrusted');
      assert.match(assessment.reason, reason);
      assert.equal(assessment.checked.length, checked);
    });
  }

  it('must be for a key that DPS takes', async () => {
    const { publicKey: large } = generateKeyPairSync('rsa', { modulusLength: 3072 });
    const { publicKey: odd } = generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 });
    const { publicKey: curve } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const reasonOf = async (key: typeof large): Promise<string> =>
      judge.judgeAlone(await middle.issueEk(key)).reason;
    assert.match(await reasonOf(large), /an RSA 3072 key, and DPS takes RSA 2048/);
    assert.match(await reasonOf(odd), /the exponent 3/);
    assert.match(await reasonOf(curve), /another kind than RSA/);
    assert.match(judge.judgeAlone(middle.der).reason, /that of an authority/);
    assert.match(judge.judgeAlone(Buffer.from('3000', 'hex')).reason, /is damaged/);
  });

  it('is held against each issuer anew, however often the issuer was seen', async () => {
    const forged = Buffer.from(good);
    const at = forged.length - 5;
    forged[at] = (forged[at] ?? 0) ^ 1;
    const stranger = await (await makeVendor('Stranger')).issueEk(ek);
    for (let round = 0; round < 3; round += 1) {
      assert.equal(judge.judgeAlone(good).verdict, 'device-not-checked');
      assert.match(
        judge.judgeAlone(forged).reason,
        /signature on the certificate .* is not that of its issuer/,
      );
      assert.match(judge.judgeAlone(stranger).reason, /its issuer "CN=Stranger" is not among/);
    }
  });
});

describe('iotdm ek verify without a TPM', () => {
  let dir: string;
  const lifetime = lifetimeOfFile();
  /** With these two, or what `--roots` among the arguments says. */
  const run = (...args: string[]): Promise<Outcome> => {
    const vendors = ['root.crt', 'middle.pem'].flatMap((name) => ['--roots', join(dir, 'roots', name)]);
    const roots = args.includes('--roots') ? [] : vendors;
    return iotdm(['ek', 'verify', ...roots, ...args], { env: { IOTDM_TPM: '', TPM2TOOLS_TCTI: '' } });
  };

  before(async () => {
    dir = await scratchDirectory(lifetime);
    await mkdir(join(dir, 'roots'));
    await writeFile(join(dir, 'roots', 'root.crt'), Buffer.concat([root.der, Buffer.from('\n')]));
    await writeFile(join(dir, 'roots', 'middle.pem'), pem(middle.der));
    for (let number = 1; number <= 12; number += 1)
      await writeFile(join(dir, 'roots', `bad-${number}.pem`), 'no');
    await writeFile(join(dir, 'good.pem'), pem(good));
    await writeFile(join(dir, 'chain.pem'), pem(middle.der, good));
    await writeFile(
      join(dir, 'old.der'),
      await middle.issueEk(rsaKey(), { notAfter: new Date('2021-01-01T00:00:00Z') }),
    );
    await writeFile(join(dir, 'text'), 'no certificate');
  });

  it('checks one certificate with --no-tpm, and lists what of the roots was passed over', async () => {
    const { code, stdout, stderr } = await run(
      ...['--no-tpm', '--roots', join(dir, 'roots'), '--cert', join(dir, 'good.pem'), '--json'],
    );
    assert.equal(code, 0, stderr);
    const { chain, passedOver, ...result } = JSON.parse(stdout) as {
      chain: unknown[];
      passedOver: { file: string; reason: string }[];
    };
    const endorsementKey = Buffer.concat([
      EK_PUBLIC_PREFIX,
      Buffer.from(ek.export({ format: 'jwk' }).n ?? '', 'base64url'),
    ]);
    assert.deepEqual(result, {
      verdict: 'device-not-checked',
      reason:
        'the certificate is in order and leads to a trusted root; whether a TPM has its key was not checked',
      manufacturer: 'IFX',
      model: 'SLB9670',
      version: 'id:0D0B',
      issuer: 'CN=Middle',
      serialNumber: '5eed01',
      checked: ['key', 'names', 'usage', 'dates', 'chain'],
      file: join(dir, 'good.pem'),
      endorsementKey: endorsementKey.toString('base64'),
      registrationId: registrationIdOf(endorsementKey),
      proved: null,
    });
    assert.equal(chain.length, 3);
    assert.equal(passedOver.length, 12);
    const warnings = stderr.trimEnd().split('\n');
    assert.equal(warnings.length, 11, 'no more lines than anybody reads');
    assert.match(
      warnings[0] ?? '',
      /^iotdm: warning: .*bad-1\.pem is passed over: there is no PEM or DER certificate in it$/,
    );
    assert.equal(warnings[10], 'iotdm: warning: 2 more of what --roots names are passed over: -v says which');
  });

  it('checks several, one for each file, and ends with exit code 9 where one is not in order', async () => {
    const files = ['good.pem', 'chain.pem'].map((name) => join(dir, name));
    const sound = await run('--cert', ...files, '-q');
    assert.deepEqual([sound.code, sound.stderr], [0, '']);
    assert.match(sound.stdout, /^2 of 2 certificates verified by themselves; no device was checked\.$/m);
    const faulty = await run(
      '--cert',
      ...files,
      join(dir, 'old.der'),
      '--cert',
      join(dir, 'text'),
      '--json',
      '-q',
    );
    assert.equal(faulty.code, 9);
    const result = JSON.parse(faulty.stdout) as {
      total: number;
      verified: number;
      certificates: { verdict: string }[];
    };
    assert.deepEqual([result.total, result.verified], [4, 2]);
    assert.deepEqual(
      result.certificates.map(({ verdict }) => verdict),
      ['device-not-checked', 'device-not-checked', 'untrusted', 'no-certificate'],
    );
    const { error } = JSON.parse(faulty.stderr) as { error: { code: string; message: string } };
    assert.equal(error.code, 'verify.ek');
    assert.match(
      error.message,
      /^2 of 4 certificates are not verified: .*old\.der is not verified \(untrusted\): .* expired/,
    );
    const warned = await run('--cert', ...files, join(dir, 'old.der'), '--policy', 'warn');
    assert.equal(warned.code, 0);
    assert.match(warned.stderr, /^iotdm: warning: .*old\.der is not verified \(untrusted\)/m);
  });

  it('does not take a single certificate for that of a TPM that is not there', async () => {
    const asked = await run('--cert', join(dir, 'good.pem'), '--tpm', 'swtpm:host=127.0.0.1,port=1');
    assert.deepEqual([asked.code, asked.stdout], [3, '']);
    if (!['/dev/tpm0', '/dev/tpmrm0'].some((path) => existsSync(path))) {
      const missed = await run('--cert', join(dir, 'good.pem'));
      assert.equal(missed.code, 3);
      assert.match(
        missed.stdout,
        /^✔ Certificate verified, device not checked: .*\nVerdict +device-not-checked\n/,
      );
      assert.match(missed.stderr, /^iotdm: error: .*; the certificate was checked by itself only$/m);
      assert.match(missed.stderr, /^iotdm: hint: .*--no-tpm/m);
    }
    for (const [args, message] of [
      [['--no-tpm'], /--no-tpm without a certificate/],
      [['--no-tpm', '--prove', '--cert', 'a'], /--prove asks a TPM/],
      [['--prove', '--cert', 'a', 'b'], /--prove asks a TPM/],
      [['--no-tpm', '--tpm', 'tbs', '--cert', 'a'], /exclude each other/],
    ] as const) {
      const { code, stderr } = await run(...args);
      assert.equal(code, 2);
      assert.match(stderr, message);
    }
  });
});

function named(x509: Parameters<typeof ekExtensions>[0], names: string): ReturnType<typeof ekExtensions> {
  return [tpmName(x509, names), ...ekExtensions(x509).slice(1)];
}
