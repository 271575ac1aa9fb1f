import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { trimCertificate } from '../../src/certificate-bytes.ts';
import { expiryOf, parseCertificate, vendorName } from '../../src/trust/certificate.ts';
import { certificatesIn } from '../../src/trust/certificate-file.ts';
import { trustedCertificates } from '../../src/trust/roots.ts';
import { assessCertificate } from '../../src/trust/verdict.ts';
import { makeVendor, NO_EXPIRY, NOW, resigned, rsaKey, tpmName } from '../fakes/tpm-vendor.ts';

const ek = rsaKey();
const vendor = await makeVendor('Vendor');
const certificate = await vendor.issueEk(ek);
const trusted = trustedCertificates([vendor.der]);
const someKey = { modulus: randomBytes(256), exponent: 65537 };

describe('an EK certificate in NV', () => {
  const der = Buffer.concat([Buffer.from('30820004', 'hex'), Buffer.from('01020304', 'hex')]);

  it('is found without padding and header', () => {
    assert.deepEqual(trimCertificate(der), der);
    assert.deepEqual(trimCertificate(Buffer.concat([der, Buffer.alloc(100)])), der);
    assert.deepEqual(trimCertificate(Buffer.concat([der, Buffer.alloc(100, 0xff)])), der);
    assert.deepEqual(trimCertificate(Buffer.concat([Buffer.from('1001000008', 'hex'), der])), der);
    assert.deepEqual(trimCertificate(Buffer.concat([Buffer.from('100100000a1002', 'hex'), der])), der);
  });

  it('is not found where there is none', () => {
    for (const area of ['', '00', '30', '3082', '308200', '30820005010203', 'ffffffffffff', '1001000008']) {
      assert.equal(trimCertificate(Buffer.from(area, 'hex')), undefined, area);
    }
  });
});

describe('parsing a certificate', () => {
  it('gives names, key and what the TCG has in the alternative name', () => {
    const parsed = parseCertificate(certificate);
    assert.deepEqual(parsed.tpm, { manufacturer: 'IFX', model: 'SLB9670', version: 'id:0D0B' });
    assert.equal(parsed.subject, '');
    assert.equal(parsed.issuer, 'CN=Vendor');
    assert.equal(parsed.serialNumber, '5eed01');
    const { n = '' } = ek.export({ format: 'jwk' });
    assert.deepEqual(parsed.rsa, { modulus: Buffer.from(n, 'base64url'), exponent: 65537 });
    assert.deepEqual(parsed.unknownCritical, []);
    assert.equal(parsed.notAfter.getTime(), NO_EXPIRY.getTime());
    assert.equal(expiryOf(parsed), null);
  });

  it('reads an RSA key that is said to be for OAEP', () => {
    const oaep = resigned(
      certificate,
      Buffer.from('06092a864886f70d010101', 'hex'),
      Buffer.from('06092a864886f70d010107', 'hex'),
      vendor.key,
    );
    assert.deepEqual(parseCertificate(oaep).rsa, parseCertificate(certificate).rsa);
    const { verdict } = assessCertificate({
      certificate: oaep,
      key: parseCertificate(certificate).rsa ?? assert.fail(),
      trusted,
      now: NOW,
    });
    assert.equal(verdict, 'genuine');
  });

  it('decodes vendor ids and leaves alone what is none', () => {
    assert.equal(vendorName('id:49465800'), 'IFX');
    assert.equal(vendorName('id:53544D20'), 'STM');
    assert.equal(vendorName('id:494E5443'), 'INTC');
    assert.equal(vendorName('id:00001014'), 'id:00001014');
    assert.equal(vendorName('id:1B5B324A'), 'id:1B5B324A');
    assert.equal(vendorName('Infineon'), 'Infineon');
  });

  it('takes what a terminal would obey out of the names', async () => {
    const hostile = await vendor.issueEk(ek, {
      subject: 'CN=\u001b[2Jgenuine\u202e',
      extensions: (x509) => [tpmName(x509, '2.23.133.2.2=a\u0007b')],
    });
    const { subject, tpm } = parseCertificate(hostile);
    assert.doesNotMatch(subject + (tpm.model ?? ''), /[\p{Cc}\p{Cf}]/u);
  });

  it('takes no certificate with bytes behind it, and none cut short', () => {
    assert.throws(() => parseCertificate(Buffer.concat([certificate, Buffer.alloc(1)])), {
      code: 'input.invalid',
    });
    assert.throws(() => parseCertificate(certificate.subarray(0, -1)), { code: 'input.invalid' });
    assert.throws(() => parseCertificate(Buffer.alloc(0)), { code: 'input.invalid' });
  });

  it('ends in a certificate or in an IotdmError for 10,000 random byte strings', () => {
    const anything = fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes));
    const sequence = anything.map((bytes) =>
      Buffer.concat([Buffer.from([0x30, 0x82, bytes.length >> 8, bytes.length & 0xff]), bytes]),
    );
    fc.assert(
      fc.property(fc.oneof(anything, sequence), (bytes) => {
        endsWell(bytes);
      }),
      { numRuns: 10_000 },
    );
  });

  it('does so as well for certificates with some bytes changed', () => {
    const damage = fc.array(fc.tuple(fc.nat(certificate.length - 1), fc.nat(255)), {
      minLength: 1,
      maxLength: 6,
    });
    fc.assert(
      fc.property(damage, (changes) => {
        const bytes = Buffer.from(certificate);
        for (const [at, value] of changes) bytes[at] = value;
        endsWell(bytes);
      }),
      { numRuns: 300 },
    );
  });

  function endsWell(bytes: Buffer): void {
    try {
      for (const der of certificatesIn(bytes)) parseCertificate(der);
      trustedCertificates([bytes]);
    } catch (error) {
      assert.ok(error instanceof IotdmError, String(error));
    }
    const { verdict } = assessCertificate({
      certificate: trimCertificate(bytes) ?? null,
      key: someKey,
      trusted,
      now: NOW,
    });
    assert.notEqual(verdict, 'genuine');
  }
});
