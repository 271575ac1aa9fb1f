/** The certificates in a file's bytes, one by one, and in words what else is in it. */
import { beginsWithHeader, isPadding, splitCertificateArea } from '../certificate-bytes.ts';
import { derElement, derElements, derTag } from '../der.ts';
import { IotdmError } from '../errors.ts';

/** DER that may be a certificate; or, lower case and without a full stop, what stands there in place of one. */
export type FoundCertificate = { readonly der: Buffer } | { readonly problem: string };

/**
 * All that stands in a file: DER certificates one after the other, or all PEM blocks in their order; padding and line
 * ends behind a certificate are left out. Never empty.
 */
export function certificatesInFile(bytes: Buffer): FoundCertificate[] {
  if (bytes.length === 0) return [{ problem: 'it is empty' }];
  const text = textOf(bytes);
  const blocks = [...text.matchAll(PEM_BLOCK)];
  if (blocks.length > 0) {
    const found = blocks.map(([, label = '', body = '']) => certificateInPem(label, body));
    const begun = text.split('-----BEGIN ').length - 1;
    return begun > blocks.length ? [...found, { problem: 'PEM text that breaks off' }] : found;
  }
  if (bytes[0] === derTag.sequence || beginsWithHeader(bytes)) return certificatesInDer(bytes);
  if (text.includes('-----BEGIN ')) return [{ problem: 'it is PEM text that breaks off' }];
  return [{ problem: 'there is no PEM or DER certificate in it' }];
}

/**
 * The same where only certificates are wanted, and one at least.
 * @throws IotdmError `input.invalid` with what stands there in place of one
 */
export function certificatesIn(bytes: Buffer): Buffer[] {
  const found = certificatesInFile(bytes);
  const ders = found.flatMap((item) => ('der' in item ? [item.der] : []));
  const problem = found.find((item) => 'problem' in item)?.problem;
  if (ders.length === 0) throw new IotdmError('input.invalid', problem ?? 'there is no certificate in it');
  return ders;
}

/** Whether a file holds a certificate, whatever it is called. */
export function mayHoldCertificate(bytes: Buffer): boolean {
  return certificatesInFile(bytes).some((item) => 'der' in item);
}

const PEM_BLOCK = /-----BEGIN ([A-Z0-9 #]{1,40})-----([^-]*)-----END \1-----/g;

/** What openssl takes for a certificate; behind a trusted one stands what it is trusted for. */
const certificateLabels: readonly string[] = ['CERTIFICATE', 'X509 CERTIFICATE', 'TRUSTED CERTIFICATE'];

const otherLabels: Readonly<Record<string, string>> = {
  'X509 CRL': 'a list of revoked certificates, and revocation is not looked up',
  PKCS7: 'a PKCS#7 bundle: openssl pkcs7 -print_certs makes PEM certificates of it',
  CMS: 'a PKCS#7 bundle: openssl pkcs7 -print_certs makes PEM certificates of it',
  'CERTIFICATE REQUEST': 'a request for a certificate',
  'ATTRIBUTE CERTIFICATE': 'an attribute certificate, as platforms have it, which holds no key',
};

function certificateInPem(label: string, body: string): FoundCertificate {
  if (label.endsWith('PRIVATE KEY')) return { problem: 'a private key, which does not belong here' };
  if (!certificateLabels.includes(label)) {
    return { problem: otherLabels[label] ?? `PEM text of another kind (${label})` };
  }
  const base64 = body.replace(/\s+/g, '');
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64))
    return { problem: 'a PEM certificate with characters that are not base64' };
  const bytes = Buffer.from(base64, 'base64');
  if (label !== 'TRUSTED CERTIFICATE') return only(certificatesInDer(bytes));
  const { certificate } = splitCertificateArea(bytes) ?? {};
  return certificate === undefined ? { problem: 'a certificate that is cut off' } : { der: certificate };
}

function only([first, ...others]: readonly FoundCertificate[]): FoundCertificate {
  if (first === undefined || others.length > 0)
    return { problem: 'a PEM certificate with more bytes behind it' };
  return first;
}

function certificatesInDer(bytes: Buffer): FoundCertificate[] {
  const found: FoundCertificate[] = [];
  for (let rest = bytes; found.length === 0 || !isPadding(rest);) {
    const parts = splitCertificateArea(rest);
    if (parts === undefined) {
      found.push({
        problem:
          found.length === 0
            ? problemOfDer(rest)
            : `${rest.length} bytes behind the certificate that are no padding`,
      });
      break;
    }
    found.push(
      isCertificate(parts.certificate)
        ? { der: parts.certificate }
        : { problem: problemOfDer(parts.certificate) },
    );
    rest = parts.rest;
  }
  return found;
}

/** OBJECT IDENTIFIER 1.2.840.113549.1.7.2, signedData (RFC 5652). */
const SIGNED_DATA = Buffer.from('06092a864886f70d010702', 'hex');

/** Whether it has the three parts that certificates have in common with lists and attribute certificates. */
function isCertificate(der: Buffer): boolean {
  try {
    const [whole] = derElements(der);
    const tags = whole === undefined ? [] : derElements(der, whole.start, whole.end).map(({ tag }) => tag);
    return tags.join() === [derTag.sequence, derTag.sequence, derTag.bitString].join();
  } catch {
    return false;
  }
}

function problemOfDer(bytes: Buffer): string {
  if (bytes[0] !== derTag.sequence) return 'it is no DER';
  const whole = derElement(bytes);
  if (whole === undefined) return 'it begins like DER, but is damaged, or BER';
  if (whole.end > bytes.length) return `it is cut off: ${bytes.length} of ${whole.end} bytes`;
  if (bytes.subarray(whole.start, whole.start + SIGNED_DATA.length).equals(SIGNED_DATA)) {
    return 'a PKCS#7 bundle: openssl pkcs7 -inform der -print_certs makes PEM certificates of it';
  }
  return 'it is DER of something else than a certificate';
}

/** Text as PowerShell's `>` writes it is read, too. */
function textOf(bytes: Buffer): string {
  return bytes[0] === 0xff && bytes[1] === 0xfe ? bytes.toString('utf16le') : bytes.toString('latin1');
}
