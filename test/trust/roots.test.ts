import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { certificatesIn, certificatesInFile } from '../../src/trust/certificate-file.ts';
import type { RsaPublicKey } from '../../src/trust/certificate.ts';
import { readTrustedCertificates, type PassedOver, type TrustedCertificates } from '../../src/trust/roots.ts';
import { assessCertificate } from '../../src/trust/verdict.ts';
import { parseStoredCertificate } from '../../src/tpm/ek-certificate.ts';
import { recognizeEndorsementKey } from '../../src/tpm/endorsement-key-forms.ts';
import { der, sequence, oid } from '../fakes/certificates.ts';
import { makeVendor, NOW, pem, resigned, rsaKey } from '../fakes/tpm-vendor.ts';
import type { X509Library } from '../../src/x509.ts';
import { scratchDirectory } from '../lab/lab.ts';

const ek = rsaKey();
const key: RsaPublicKey = {
  modulus: Buffer.from(ek.export({ format: 'jwk' }).n ?? '', 'base64url'),
  exponent: 65537,
};
const root = await makeVendor('Root');
const middle = await root.issueVendor('Middle');
const good = await middle.issueEk(ek);

/** What vendors' web servers, editors and NV memory leave behind a certificate. */
const endings: readonly [string, Buffer][] = [
  ['a line feed', Buffer.from('\n')],
  ['a line end of Windows', Buffer.from('\r\n')],
  ['several line ends', Buffer.from('\n\r\n\n')],
  ['zeros', Buffer.alloc(300)],
  ['ones', Buffer.alloc(7, 0xff)],
  ['spaces', Buffer.alloc(40, 0x20)],
  ['any byte over and over', Buffer.alloc(64, 0xa5)],
];

/** As STMicroelectronics numbers its intermediates: 00 00 01 in place of 01, which OpenSSL does not take. */
const serialNumber = Buffer.from('02035eed01', 'hex');
const zeros = Buffer.from('0203000001', 'hex');

function isGenuine(trusted: TrustedCertificates, certificate = good): boolean {
  return assessCertificate({ certificate, key, trusted, now: NOW }).verdict === 'genuine';
}

describe('certificates that others can read', () => {
  it('may have padding behind them, of any one byte, wherever they stand', async (t) => {
    const dir = await scratchDirectory(t);
    for (const [what, ending] of endings) {
      const [paddedRoot, paddedMiddle, paddedEk] = [root.der, middle.der, good].map((one) =>
        Buffer.concat([one, ending]),
      );
      assert.ok(paddedRoot && paddedMiddle && paddedEk);
      assert.ok(
        new X509Certificate(paddedMiddle).checkIssued(new X509Certificate(paddedRoot)),
        'OpenSSL reads it',
      );
      await writeFile(join(dir, 'root.crt'), paddedRoot);
      await writeFile(join(dir, 'middle.crt'), paddedMiddle);
      const trusted = await readTrustedCertificates([dir]);
      assert.deepEqual(trusted.passedOver, [], what);
      assert.ok(isGenuine(trusted), what);
      assert.deepEqual(certificatesIn(paddedEk), [good], what);
      assert.equal(parseStoredCertificate(paddedEk).kind, 'certificate', what);
      const inCell = recognizeEndorsementKey(Buffer.from(paddedEk.toString('base64')));
      assert.equal(inCell.kind, 'endorsement-key', what);
      assert.equal(recognizeEndorsementKey(paddedEk).kind, 'endorsement-key', what);
    }
  });

  it('may have anything but padding behind them no longer than it is said what', async (t) => {
    const dir = await scratchDirectory(t);
    const file = join(dir, 'root.crt');
    await writeFile(file, Buffer.concat([root.der, Buffer.from('tail')]));
    const trusted = await readTrustedCertificates([file, join(dir)]);
    assert.equal(trusted.certificates.length, 1);
    const reason = 'part 2 of 2: 4 bytes behind the certificate that are no padding';
    assert.deepEqual(trusted.passedOver[0], { file, reason });
  });

  it('may stand in one DER file one after the other', async (t) => {
    const file = join(await scratchDirectory(t), 'chain.der');
    await writeFile(file, Buffer.concat([middle.der, root.der, Buffer.from('\n')]));
    const trusted = await readTrustedCertificates([file]);
    assert.deepEqual(trusted.passedOver, []);
    assert.ok(isGenuine(trusted));
  });

  it('may have zeros before their serial number, as those of a vendor have whose chips are everywhere', async () => {
    const vendor = await root.issueVendor('A vendor of chips that are in very many machines everywhere');
    const issued = await vendor.issueEk(ek);
    const numbered = resigned(vendor.der, serialNumber, zeros, root.key);
    assert.throws(() => new X509Certificate(numbered), 'OpenSSL does not read it');
    const trusted = await trustedIn(pem(root.der, numbered));
    assert.ok(isGenuine(trusted, issued));
    assert.ok(isGenuine(trusted, resigned(issued, serialNumber, zeros, vendor.key)));
    const { chain } = assessCertificate({ certificate: issued, key, trusted, now: NOW });
    assert.deepEqual(
      chain.map(({ serialNumber: number }) => number),
      ['5eed01', '01', '5eed01'],
    );
    // The zeros are signed as they stand: without them, or with another number, it is forged.
    const forged = Buffer.from(numbered);
    forged[forged.indexOf(zeros) + 4] = 2;
    assert.ok(!isGenuine(await trustedIn(pem(root.der, forged)), issued));
    const ekWithZeros = resigned(issued, serialNumber, zeros, vendor.key);
    assert.equal(recognizeEndorsementKey(ekWithZeros).kind, 'endorsement-key');
    assert.equal(parseStoredCertificate(ekWithZeros).kind, 'certificate');
  });

  it('may be PEM under the names that openssl has for it, in the encoding of PowerShell too', async () => {
    const old = pem(middle.der).replaceAll('CERTIFICATE', 'X509 CERTIFICATE');
    const auxiliary = Buffer.concat([root.der, sequence(sequence(oid('2b06010505070301')))]);
    const withTrust = pem(auxiliary).replaceAll('CERTIFICATE', 'TRUSTED CERTIFICATE');
    assert.ok(isGenuine(await trustedIn(old + withTrust)));
    const wide = Buffer.concat([
      Buffer.from([0xff, 0xfe]),
      Buffer.from(pem(root.der, middle.der), 'utf16le'),
    ]);
    assert.equal(certificatesIn(wide).length, 2);
  });

  it('are found by an issuer whose name is written in another case, or with more spaces', async () => {
    const shouting = await makeVendor('vendor  of   chips', { subject: 'CN=VENDOR of chips' });
    const below = await shouting.issueEk(ek);
    assert.ok(isGenuine(await trustedIn(pem(shouting.der)), below));
  });

  it('are held against the identifier of the key that they name', async () => {
    const identified = (id: string) => ({
      more: (x509: X509Library) => [new x509.SubjectKeyIdentifierExtension(id)],
    });
    const vendor = await makeVendor('Named', identified('0102'));
    const naming = (id: string) =>
      vendor.issueEk(ek, { more: (x509) => [new x509.AuthorityKeyIdentifierExtension(id)] });
    const trusted = await trustedIn(pem(vendor.der));
    assert.ok(isGenuine(trusted, await naming('0102')));
    const other = assessCertificate({ certificate: await naming('0103'), key, trusted, now: NOW });
    assert.match(other.reason, /not the one that issued/);
  });

  it('are signed by a key of the kind that their signature names', async () => {
    for (const hash of ['SHA-384', 'SHA-512']) {
      assert.ok(isGenuine(await trustedIn(pem(root.der, middle.der)), await middle.issueEk(ek, { hash })));
    }
  });
});

describe('what is passed over', () => {
  it('is said with its reason, and costs no other certificate', async (t) => {
    const dir = await scratchDirectory(t);
    const write = async (name: string, content: string | Buffer): Promise<void> => {
      await mkdir(join(dir, name, '..'), { recursive: true });
      await writeFile(join(dir, name), content);
    };
    const bundle = `${pem(root.der)}${pem(Buffer.from('no certificate'))}${pem(middle.der)}`;
    await write('vendor/bundle.pem', bundle);
    await write('empty.crt', '');
    await write('cut.der', middle.der.subarray(0, 200));
    await write('broken.pem', pem(root.der).slice(0, 200));
    await write('damaged.pem', pem(middle.der).replace('MI', 'M*'));
    await write('revoked.pem', '-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n');
    await write('key.pem', '-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n');
    const oidOfSignedData = oid('2a864886f70d010702');
    await write('chain.cer', sequence(oidOfSignedData, der(0xa0, Buffer.alloc(300))));
    await symlink(join(dir, 'nowhere'), join(dir, 'gone.crt'));
    await mkdir(join(dir, 'folder.pem'));
    await symlink(join(dir, 'vendor'), join(dir, 'link.crt'));
    await write('README', 'the certificates of a vendor');
    await write('revoked.crl', Buffer.from('3000', 'hex'));
    await write('.git/config.pem~', pem(root.der));
    await write('renamed.pem.disabled', pem((await makeVendor('Disabled')).der));
    await write('copy-of-root', pem(root.der));

    const trusted = await readTrustedCertificates([dir]);
    assert.equal(trusted.certificates.length, 2);
    assert.ok(isGenuine(trusted));
    const reasons = Object.fromEntries(
      trusted.passedOver.map(({ file, reason }: PassedOver) => [file.slice(dir.length + 1), reason]),
    );
    assert.deepEqual(reasons, {
      'vendor/bundle.pem': 'part 2 of 3: it is no DER',
      'empty.crt': 'it is empty',
      'cut.der': `it is cut off: 200 of ${middle.der.length} bytes`,
      'broken.pem': 'it is PEM text that breaks off',
      'damaged.pem': 'a PEM certificate with characters that are not base64',
      'revoked.pem': 'a list of revoked certificates, and revocation is not looked up',
      'key.pem': 'a private key, which does not belong here',
      'chain.cer': 'a PKCS#7 bundle: openssl pkcs7 -inform der -print_certs makes PEM certificates of it',
      'gone.crt': 'there is no such file or directory',
      'link.crt': 'it is no file',
      'renamed.pem.disabled': 'its name is not that of a certificate: .pem, .crt, .cer or .der',
    });
  });

  it('is an error where a file was named and nothing in it can be used', async (t) => {
    const dir = await scratchDirectory(t);
    const file = join(dir, 'cut.der');
    await writeFile(file, middle.der.subarray(0, 200));
    await assert.rejects(readTrustedCertificates([file]), {
      code: 'input.invalid',
      message: `${file}: it is cut off: 200 of ${middle.der.length} bytes`,
    });
    await rename(file, join(dir, 'other'));
    await assert.rejects(readTrustedCertificates([file]), { code: 'input.unreadable' });
    await rm(join(dir, 'other'));
  });

  it('is a certificate that cannot be understood', async () => {
    const strange = await root.issueVendor('Strange', {
      extensions: (x509) => [new x509.Extension('2.5.29.19', true, Buffer.from('0102', 'hex'))],
    });
    const { certificates, passedOver } = await trustedIn(pem(root.der, strange.der));
    assert.equal(certificates.length, 1);
    assert.match(passedOver[0]?.reason ?? '', /^part 2 of 2: .*the extension 2\.5\.29\.19 cannot be read$/);
  });

  it('is told of a PEM certificate with bytes behind it, and of one that is no certificate', () => {
    const [behind] = certificatesInFile(Buffer.from(pem(Buffer.concat([root.der, Buffer.from('xyz')]))));
    assert.deepEqual(behind, { problem: 'a PEM certificate with more bytes behind it' });
    const list = sequence(sequence(der(0x30, Buffer.alloc(300))));
    assert.deepEqual(certificatesInFile(list), [
      { problem: 'it is DER of something else than a certificate' },
    ]);
  });
});

async function trustedIn(text: string): Promise<TrustedCertificates> {
  const dir = await mkdtemp(join(tmpdir(), 'iotdm-roots-'));
  try {
    await writeFile(join(dir, 'bundle.pem'), text);
    return await readTrustedCertificates([join(dir, 'bundle.pem')]);
  } finally {
    await rm(dir, { recursive: true });
  }
}
