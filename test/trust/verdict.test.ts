import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { RsaPublicKey } from '../../src/trust/certificate.ts';
import { nobody, readTrustedCertificates, trustedCertificates } from '../../src/trust/roots.ts';
import { assessCertificate, type Assessment } from '../../src/trust/verdict.ts';
import type { X509Library } from '../../src/x509.ts';
import {
  EK_USAGE,
  ekExtensions,
  makeVendor,
  NOW,
  pem,
  rsaKey,
  tpmName,
  type CertificateOptions,
  type VendorOptions,
} from '../fakes/tpm-vendor.ts';
import { scratchDirectory } from '../lab/lab.ts';

const ek = rsaKey();
const key: RsaPublicKey = {
  modulus: Buffer.from(ek.export({ format: 'jwk' }).n ?? '', 'base64url'),
  exponent: 65537,
};
const root = await makeVendor('Root');
const middle = await root.issueVendor('Middle');
const good = await middle.issueEk(ek);

function judge(
  certificate: Buffer | null,
  trusted: readonly Buffer[] = [root.der, middle.der],
  now = NOW,
): Assessment {
  return assessCertificate({ certificate, key, trusted: trustedCertificates(trusted), now });
}

function assertUntrusted(certificate: Buffer, reason: RegExp, trusted?: readonly Buffer[], now?: Date): void {
  const assessment = judge(certificate, trusted, now);
  assert.equal(assessment.verdict, 'untrusted', assessment.reason);
  assert.match(assessment.reason, reason);
}

describe('a genuine certificate', () => {
  it('is found genuine, with its chain up to the root', () => {
    const assessment = judge(good);
    assert.equal(assessment.verdict, 'genuine', assessment.reason);
    assert.deepEqual(
      assessment.chain.map(({ subject }) => subject),
      ['', 'CN=Middle', 'CN=Root'],
    );
    assert.deepEqual(
      [assessment.manufacturer, assessment.model, assessment.version],
      ['IFX', 'SLB9670', 'id:0D0B'],
    );
    assert.equal(assessment.issuer, 'CN=Middle');
    assert.match(assessment.chain[0]?.sha256 ?? '', /^[0-9a-f]{64}$/);
  });

  it('may be issued by the root itself, and carry other names beside the TPM', async () => {
    assert.equal(judge(await root.issueEk(ek), [root.der]).verdict, 'genuine');
    const named = await root.issueEk(ek, { subject: 'CN=TPM 4711', serialNumber: '00ff' });
    assert.equal(judge(named, [root.der]).verdict, 'genuine');
  });

  it('is never found again with any one of its bytes changed', () => {
    const trusted = trustedCertificates([root.der, middle.der]);
    for (const mask of [0x01, 0xff]) {
      for (let at = 0; at < good.length; at += 1) {
        const certificate = Buffer.from(good);
        certificate[at] = (certificate[at] ?? 0) ^ mask;
        const { verdict } = assessCertificate({ certificate, key, trusted, now: NOW });
        assert.notEqual(verdict, 'genuine', `byte ${at} ^ ${mask}`);
      }
    }
  });

  it('is for one key only', async () => {
    const other = await middle.issueEk(rsaKey());
    assert.equal(judge(other).verdict, 'mismatched');
    const wrongExponent = { ...key, exponent: 3 };
    const trusted = trustedCertificates([root.der, middle.der]);
    const assessment = assessCertificate({ certificate: good, key: wrongExponent, trusted, now: NOW });
    assert.equal(assessment.verdict, 'mismatched');
  });

  it('is missed where there is none', () => {
    const { verdict, chain, issuer } = judge(null);
    assert.deepEqual([verdict, chain, issuer], ['no-certificate', [], null]);
  });
});

describe('roots', () => {
  it('must be given', () => {
    const assessment = assessCertificate({ certificate: good, key, trusted: nobody, now: NOW });
    assert.deepEqual(
      [assessment.verdict, assessment.reason],
      ['untrusted', 'no root certificates were given to trust'],
    );
    assertUntrusted(good, /none of the certificates .* is a root/, [middle.der]);
  });

  it('of another vendor do not help, nor one of the same name', async () => {
    const other = await makeVendor('Other');
    assertUntrusted(good, /its issuer "CN=Middle" is not among/, [other.der]);
    assertUntrusted(good, /the chain ends at "CN=Middle"/, [other.der, middle.der]);
    const impostor = await makeVendor('Root');
    assertUntrusted(good, /not that of its issuer|not the one that issued/, [impostor.der, middle.der]);
  });

  it('are not made of a certificate that says so itself', async () => {
    // Self-issued by name, signed by somebody else.
    const forged = await root.issueVendor('Root', { subject: 'CN=Root' });
    const below = await forged.issueEk(ek);
    assert.notEqual(judge(below, [forged.der]).verdict, 'genuine');
    const selfSigned = await makeVendor('Self', { extensions: ekExtensions });
    assertUntrusted(await selfSigned.issueEk(ek), /not|none/, [selfSigned.der]);
  });

  it('are found behind several certificates of one name', async () => {
    const otherMiddle = await (await makeVendor('Elsewhere')).issueVendor('Middle');
    for (const order of [
      [root.der, otherMiddle.der, middle.der],
      [root.der, middle.der, otherMiddle.der],
    ]) {
      assert.equal(judge(good, order).verdict, 'genuine');
    }
  });

  it('are read from files and directories, PEM and DER', async (t) => {
    const dir = await scratchDirectory(t);
    await mkdir(join(dir, 'vendor', 'intermediate'), { recursive: true });
    await writeFile(join(dir, 'vendor', 'root.cer'), root.der);
    await writeFile(join(dir, 'vendor', 'intermediate', 'middle.pem'), pem(middle.der));
    await writeFile(join(dir, 'vendor', 'key.pem'), 'a private key, say');
    await writeFile(join(dir, 'vendor', 'README'), 'not looked at');
    const bundle = join(dir, 'bundle');
    await writeFile(bundle, `# both\r\n${pem(root.der, middle.der).replaceAll('\n', '\r\n')}`);
    for (const paths of [
      [dir],
      [bundle],
      [join(dir, 'vendor', 'root.cer'), join(dir, 'vendor', 'intermediate'), bundle],
    ]) {
      const trusted = await readTrustedCertificates(paths);
      assert.equal(trusted.certificates.length, 2);
      const { verdict } = assessCertificate({ certificate: good, key, trusted, now: NOW });
      assert.equal(verdict, 'genuine');
    }
    assert.deepEqual((await readTrustedCertificates([dir])).passedOver, [
      { file: join(dir, 'vendor', 'key.pem'), reason: 'there is no PEM or DER certificate in it' },
    ]);
    await assert.rejects(readTrustedCertificates([join(dir, 'vendor', 'key.pem')]), {
      code: 'input.invalid',
      message: /key\.pem: there is no PEM or DER certificate in it/,
    });
    await assert.rejects(readTrustedCertificates([join(dir, 'nowhere')]), { code: 'input.unreadable' });
  });
});

describe('an EK certificate that is not in order', () => {
  const cases: [string, CertificateOptions, RegExp][] = [
    ['expired', { notAfter: new Date('2026-05-31T00:00:00Z') }, /expired on 2026-05-31/],
    ['not valid yet', { notBefore: new Date('2026-06-02T00:00:00Z') }, /not valid before 2026-06-02/],
    ['signed with SHA-1', { hash: 'SHA-1' }, /can be forged.*SHA-1/],
    [
      'with a critical extension that nobody knows',
      { more: (x509) => [new x509.Extension('1.2.3.4.5', true, Buffer.from('0500', 'hex'))] },
      /critical extension that is not understood: 1\.2\.3\.4\.5/,
    ],
    [
      'for TLS servers',
      { extensions: (x509) => withUsages(x509, ['1.3.6.1.5.5.7.3.1']) },
      /lacks the extended key usage 2\.23\.133\.8\.1/,
    ],
    ['for any usage at all', { extensions: (x509) => withUsages(x509, []) }, /lacks the extended key usage/],
    [
      'for signing',
      {
        extensions: (x509) => [
          tpmName(x509),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
          new x509.ExtendedKeyUsageExtension([EK_USAGE]),
        ],
      },
      /does not allow its key to encipher keys/,
    ],
    [
      'of an authority',
      {
        extensions: (x509) => [
          ...ekExtensions(x509).filter((one) => !(one instanceof x509.BasicConstraintsExtension)),
          new x509.BasicConstraintsExtension(true, undefined, true),
        ],
      },
      /that of an authority/,
    ],
    [
      'with an extension twice',
      { more: (x509) => [new x509.ExtendedKeyUsageExtension([EK_USAGE])] },
      /damaged/,
    ],
    [
      'with an alternative name that cannot be read',
      {
        extensions: (x509) => [
          ...ekExtensions(x509).slice(1),
          new x509.Extension('2.5.29.17', true, Buffer.from('0102', 'hex')),
        ],
      },
      /damaged/,
    ],
  ];
  for (const [what, options, reason] of cases) {
    it(`${what} is untrusted`, async () => {
      assertUntrusted(await middle.issueEk(ek, options), reason);
    });
  }

  it('is in order with a known extension more, critical or not', async () => {
    const certificate = await middle.issueEk(ek, {
      more: (x509) => [
        new x509.Extension('2.5.29.9', true, Buffer.from('3000', 'hex')),
        new x509.Extension('1.2.3.4.5', false, Buffer.from('0500', 'hex')),
      ],
    });
    assert.equal(judge(certificate).verdict, 'genuine');
  });
});

describe('an issuer that is not in order', () => {
  const cases: [string, VendorOptions, RegExp][] = [
    ['expired', { notAfter: new Date('2026-05-31T00:00:00Z') }, /"CN=Bad" expired on 2026-05-31/],
    ['signed with SHA-1', { hash: 'SHA-1' }, /the signature on "CN=Bad".*SHA-1/],
    [
      'no authority',
      { extensions: (x509) => [new x509.BasicConstraintsExtension(false, undefined, true)] },
      /"CN=Bad" is not a certificate authority/,
    ],
    ['without basic constraints', { extensions: () => [] }, /"CN=Bad" is not a certificate authority/],
    [
      'not allowed to sign certificates',
      {
        extensions: (x509) => [
          new x509.BasicConstraintsExtension(true, undefined, true),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.cRLSign, true),
        ],
      },
      /may not issue any/,
    ],
    [
      'for other certificates',
      {
        more: (x509) => [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth])],
      },
      /"CN=Bad" is not for EK certificates/,
    ],
    [
      'bound by name constraints',
      { more: (x509) => [new x509.Extension('2.5.29.30', true, Buffer.from('3000', 'hex'))] },
      /damaged|cannot be read|not understood|may not issue any/,
    ],
  ];
  for (const [what, options, reason] of cases) {
    it(`${what} makes the certificate untrusted`, async () => {
      const bad = await root.issueVendor('Bad', options);
      assertUntrusted(await bad.issueEk(ek), reason, [root.der, bad.der]);
    });
  }

  it('may allow only so many authorities below it', async () => {
    const strict = await makeVendor('Strict', { pathLength: 1 });
    const first = await strict.issueVendor('First');
    const second = await first.issueVendor('Second');
    const vendors = [strict.der, first.der, second.der];
    assert.equal(judge(await first.issueEk(ek), vendors).verdict, 'genuine');
    assertUntrusted(await second.issueEk(ek), /"CN=Strict" allows no more than 1 authorities/, vendors);
    const last = await root.issueVendor('Last', { pathLength: 0 });
    const below = await last.issueVendor('Below');
    assert.equal(judge(await last.issueEk(ek), [root.der, last.der]).verdict, 'genuine');
    assertUntrusted(await below.issueEk(ek), /"CN=Last" allows no more than 0/, [
      root.der,
      last.der,
      below.der,
    ]);
  });

  it('and a root that is out of date do not vouch for anything', () => {
    assertUntrusted(good, /"CN=Middle" expired|"CN=Root" expired/, undefined, new Date('2041-01-01'));
    assertUntrusted(good, /not valid before/, undefined, new Date('2019-01-01'));
  });

  it('may be a root whose own signature is old: it is trusted for having been given', async () => {
    const old = await makeVendor('Old', { hash: 'SHA-1' });
    assert.equal(judge(await old.issueEk(ek), [old.der]).verdict, 'genuine');
  });

  it('is not followed in circles, nor for ever', async () => {
    // Two authorities that certify each other, and no root anywhere near.
    const circle = await root.issueVendor('Circle');
    const chain = [circle.der];
    let last = circle;
    for (let level = 0; level < 10; level += 1) {
      last = await last.issueVendor(`Level ${level}`);
      chain.push(last.der);
    }
    assertUntrusted(await last.issueEk(ek), /longer than 8 certificates/, [root.der, ...chain]);
  });
});

function withUsages(x509: X509Library, usages: string[]): ReturnType<typeof ekExtensions> {
  const others = ekExtensions(x509).filter((one) => !(one instanceof x509.ExtendedKeyUsageExtension));
  return usages.length === 0 ? others : [...others, new x509.ExtendedKeyUsageExtension(usages)];
}
