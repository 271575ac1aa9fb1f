/**
 * An X.509 certificate in its parts (RFC 5280, section 4.1), as bytes and without a judgement. It takes what TPM vendors
 * have issued: serial numbers with leading zeros that DER does not allow, and default values that DER leaves out.
 */
import { X509Certificate } from 'node:crypto';
import { derElement, derElements, derObjectIdentifier, derTag, type DerElement } from './der.ts';

export interface CertificateExtension {
  readonly critical: boolean;
  /** DER of what the extension holds. */
  readonly value: Buffer;
}

/** Big-endian modulus without leading zeros. */
export interface RsaPublicKey {
  readonly modulus: Buffer;
  readonly exponent: number;
}

export interface CertificateParts {
  /** The part that is signed, with its head. */
  readonly signed: Buffer;
  /** AlgorithmIdentifier of the signature. */
  readonly algorithm: Buffer;
  readonly signature: Buffer;
  /** The contents of the INTEGER. */
  readonly serialNumber: Buffer;
  /** Name. */
  readonly issuer: Buffer;
  /** Name. */
  readonly subject: Buffer;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** SubjectPublicKeyInfo. */
  readonly keyInfo: Buffer;
  /** By their object identifiers, in their order. */
  readonly extensions: ReadonlyMap<string, CertificateExtension>;
}

/** Context-specific tags in a TBSCertificate: version and extensions; the unique ids between them are of no use. */
const VERSION = 0xa0;
const EXTENSIONS = 0xa3;

/**
 * Takes a certificate apart.
 * @param der one certificate, and nothing behind it
 * @throws TypeError, RangeError saying in words what is wrong with it
 */
export function certificateParts(der: Buffer): CertificateParts {
  const whole = only(derElements(der), derTag.sequence, 'it is no sequence, or more than one');
  const parts = derElements(der, whole.start, whole.end);
  // No signature covers these lengths, and BER could write them in several ways.
  for (const { head, start, end } of [whole, ...parts]) {
    if (headLength(end - start) !== start - head) throw new TypeError('it is BER, not DER');
  }
  const [signed, algorithm, signature, ...rest] = parts;
  if (signed?.tag !== derTag.sequence || algorithm?.tag !== derTag.sequence || rest.length > 0) {
    throw new TypeError('it has not the three parts of a certificate');
  }
  const fields = derElements(der, signed.start, signed.end);
  const [serialNumber, innerAlgorithm, issuer, validity, subject, keyInfo, ...optional] =
    fields[0]?.tag === VERSION ? fields.slice(1) : fields;
  if (
    serialNumber?.tag !== derTag.integer ||
    issuer?.tag !== derTag.sequence ||
    subject?.tag !== derTag.sequence ||
    validity?.tag !== derTag.sequence ||
    keyInfo?.tag !== derTag.sequence ||
    innerAlgorithm === undefined
  ) {
    throw new TypeError('it lacks a field that every certificate has');
  }
  const written = bytesOf(der, algorithm);
  if (!bytesOf(der, innerAlgorithm).equals(written)) {
    throw new TypeError('it names two algorithms for its one signature');
  }
  const dates = derElements(der, validity.start, validity.end);
  return {
    signed: bytesOf(der, signed),
    algorithm: written,
    signature: bitsOf(der, signature),
    serialNumber: contentOf(der, serialNumber),
    issuer: bytesOf(der, issuer),
    subject: bytesOf(der, subject),
    notBefore: dateOf(der, dates[0]),
    notAfter: dateOf(der, dates[1]),
    keyInfo: bytesOf(der, keyInfo),
    extensions: extensionsOf(
      der,
      optional.find(({ tag }) => tag === EXTENSIONS),
    ),
  };
}

/**
 * OpenSSL's view of a certificate. It refuses serial numbers with zeros before them, as several certificates of
 * STMicroelectronics have; it is then shown the same certificate without them, of which only the signature is another's.
 * @throws whatever OpenSSL does where it is no certificate
 */
export function opensslView(der: Buffer): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    const mended = withMinimalSerialNumber(der);
    if (mended === undefined) throw cause;
    return new X509Certificate(mended);
  }
}

/** Undefined where nothing is to be mended, or where it is no certificate. */
function withMinimalSerialNumber(der: Buffer): Buffer | undefined {
  try {
    const whole = only(derElements(der), derTag.sequence, '');
    const [signed, ...others] = derElements(der, whole.start, whole.end);
    if (signed === undefined) return undefined;
    const fields = derElements(der, signed.start, signed.end);
    const at = fields[0]?.tag === VERSION ? 1 : 0;
    const field = fields[at];
    if (field?.tag !== derTag.integer) return undefined;
    const content = contentOf(der, field);
    let zeros = 0;
    while (zeros < content.length - 1 && content[zeros] === 0 && (content[zeros + 1] ?? 0) < 0x80) zeros += 1;
    if (zeros === 0) return undefined;
    const serialNumber = encoded(derTag.integer, content.subarray(zeros));
    const inner = fields.map((one, index) => (index === at ? serialNumber : bytesOf(der, one)));
    const body = encoded(derTag.sequence, Buffer.concat(inner));
    return encoded(derTag.sequence, Buffer.concat([body, ...others.map((one) => bytesOf(der, one))]));
  } catch {
    return undefined;
  }
}

/** The bytes of an element with its head. */
export function bytesOf(der: Buffer, { head, end }: DerElement): Buffer {
  return der.subarray(head, end);
}

/** What an element holds. */
export function contentOf(der: Buffer, { start, end }: DerElement): Buffer {
  return der.subarray(start, end);
}

/** The whole bytes of a BIT STRING. @throws TypeError where it is none, or ends within a byte */
export function bitsOf(der: Buffer, element: DerElement | undefined): Buffer {
  if (element?.tag !== derTag.bitString || der[element.start] !== 0 || element.end === element.start) {
    throw new TypeError('a string of bits cannot be read');
  }
  return der.subarray(element.start + 1, element.end);
}

function only(elements: readonly DerElement[], tag: number, problem: string): DerElement {
  const [element, ...others] = elements;
  if (element?.tag !== tag || others.length > 0) throw new TypeError(problem);
  return element;
}

function headLength(length: number): number {
  if (length < 0x80) return 2;
  return length < 0x100 ? 3 : length < 0x10000 ? 4 : 5;
}

function encoded(tag: number, content: Buffer): Buffer {
  const { length } = content;
  const digits = headLength(length) - 2;
  const head = Buffer.from([tag, digits === 0 ? length : 0x80 | digits, 0, 0, 0]).subarray(0, 2 + digits);
  if (digits > 0) head.writeUIntBE(length, 2, digits);
  return Buffer.concat([head, content]);
}

/** RFC 5280, 4.1.2.5: both in UTC, with seconds; years of two digits lie between 1950 and 2049. */
function dateOf(der: Buffer, element: DerElement | undefined): Date {
  const text = element === undefined ? '' : contentOf(der, element).toString('latin1');
  const isShort = element?.tag === derTag.utcTime;
  const pattern = isShort
    ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/
    : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/;
  const [, year = '', month = '', day = '', hour = '', minute = '', second = ''] = pattern.exec(text) ?? [];
  const century = isShort ? (Number(year) < 50 ? '20' : '19') : '';
  const written = `${century}${year}-${month}-${day}T${hour}:${minute}:${second}.000Z`;
  const date = new Date(written);
  const isKnown = isShort || element?.tag === derTag.generalizedTime;
  if (!isKnown || Number.isNaN(date.getTime()) || date.toISOString() !== written) {
    throw new TypeError('a date cannot be read');
  }
  return date;
}

function extensionsOf(der: Buffer, holder: DerElement | undefined): Map<string, CertificateExtension> {
  const found = new Map<string, CertificateExtension>();
  if (holder === undefined) return found;
  const list = only(
    derElements(der, holder.start, holder.end),
    derTag.sequence,
    'its extensions cannot be read',
  );
  for (const extension of derElements(der, list.start, list.end)) {
    const [oid, ...others] = derElements(der, extension.start, extension.end);
    const flag = others.length === 2 ? others[0] : undefined;
    const value = others.at(-1);
    const isFlag = flag === undefined || (flag.tag === derTag.boolean && flag.end === flag.start + 1);
    if (oid?.tag !== derTag.oid || value?.tag !== derTag.octetString || others.length > 2 || !isFlag) {
      throw new TypeError('an extension cannot be read');
    }
    const name = derObjectIdentifier(contentOf(der, oid));
    if (found.has(name)) throw new TypeError(`the extension ${name} stands there twice`);
    found.set(name, { critical: flag !== undefined && der[flag.start] !== 0, value: contentOf(der, value) });
  }
  return found;
}

/** The element that fills the bytes. @throws TypeError where they are of another kind, RangeError */
export function wholeElement(der: Buffer, tag: number): DerElement {
  const element = derElement(der);
  if (element?.tag !== tag || element.end !== der.length) throw new TypeError('an element cannot be read');
  return element;
}

/** 1.2.840.113549.1.1.1 and 1.2.840.113549.1.1.7 (RFC 8017, A.1 and A.2.1). */
const RSA_ENCRYPTION = '1.2.840.113549.1.1.1';
const RSAES_OAEP = '1.2.840.113549.1.1.7';

/** No RSA key that anybody uses has a larger exponent. */
const MAX_EXPONENT_BYTES = 6;

/**
 * The RSA key in a SubjectPublicKeyInfo, whether its algorithm is rsaEncryption or, as in some EK certificates,
 * id-RSAES-OAEP, with which OpenSSL would not read the key.
 * @returns undefined for a key of another kind
 * @throws TypeError, RangeError where it cannot be read
 */
export function rsaPublicKey(info: Buffer): RsaPublicKey | undefined {
  const whole = wholeElement(info, derTag.sequence);
  const [algorithm, bits] = derElements(info, whole.start, whole.end);
  if (algorithm === undefined) throw new TypeError('the public key cannot be read');
  const [oid] = derElements(info, algorithm.start, algorithm.end);
  const name = oid === undefined ? '' : derObjectIdentifier(contentOf(info, oid));
  if (name !== RSA_ENCRYPTION && name !== RSAES_OAEP) return undefined;
  const key = bitsOf(info, bits);
  const { start, end } = wholeElement(key, derTag.sequence);
  const [modulus, exponent, ...others] = derElements(key, start, end);
  const digits = exponent && unsigned(contentOf(key, exponent));
  if (
    modulus?.tag !== derTag.integer ||
    exponent?.tag !== derTag.integer ||
    others.length > 0 ||
    digits === undefined ||
    digits.length === 0 ||
    digits.length > MAX_EXPONENT_BYTES
  ) {
    throw new TypeError('the RSA key cannot be read');
  }
  return { modulus: unsigned(contentOf(key, modulus)), exponent: digits.readUIntBE(0, digits.length) };
}

/** An INTEGER that is not negative, without leading zeros. */
function unsigned(content: Buffer): Buffer {
  if (((content[0] ?? 0x80) & 0x80) !== 0) throw new TypeError('a number is negative');
  const first = content.findIndex((byte) => byte !== 0);
  return first < 0 ? Buffer.alloc(0) : content.subarray(first);
}
