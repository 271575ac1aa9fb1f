/**
 * A certificate as the checks of an EK need it: taken apart by @peculiar/x509, its signatures left to OpenSSL.
 *
 * Sources: RFC 5280; TCG EK Credential Profile for TPM Family 2.0, section 3.
 */
import { createHash, createPublicKey, X509Certificate, type KeyObject } from 'node:crypto';
import { IotdmError } from '../errors.ts';
import { loadX509, type X509Library } from '../x509.ts';

/** Big-endian modulus without leading zeros. */
export interface RsaPublicKey {
  readonly modulus: Buffer;
  readonly exponent: number;
}

export interface Certificate {
  readonly der: Buffer;
  /** As RFC 4514 writes it; often empty in an EK certificate. */
  readonly subject: string;
  readonly issuer: string;
  /** Lower-case hex. */
  readonly serialNumber: string;
  /** Of the DER, lower-case hex. */
  readonly sha256: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** Undefined where it is a signature that is still good today, otherwise its name. */
  readonly weakSignature: string | undefined;
  readonly basicConstraints: { readonly ca: boolean; readonly pathLength: number | undefined } | undefined;
  readonly keyUsage: { readonly keyEncipherment: boolean; readonly certificateSigning: boolean } | undefined;
  readonly extendedKeyUsage: readonly string[] | undefined;
  /** Object identifiers of critical extensions that nobody here understands. */
  readonly unknownCritical: readonly string[];
  /** What the TCG's attributes in the subject alternative name, or in the subject, say of the TPM. */
  readonly tpm: TpmAttributes;
  /** Undefined where the certificate is not for an RSA key. */
  readonly rsa: RsaPublicKey | undefined;
  /** For building chains: OpenSSL's own view of the same bytes. */
  readonly openssl: X509Certificate;
}

export interface TpmAttributes {
  /** Four letters of the TCG Vendor ID Registry, such as `IFX`; as it stands where it is no such id. */
  readonly manufacturer: string | null;
  readonly model: string | null;
  readonly version: string | null;
}

/** RFC 5280, 4.1.2.5: "no well-defined expiration date". */
const NO_EXPIRY = Date.UTC(9999, 11, 31, 23, 59, 59);

/** Extensions that are checked here, or ask for nothing when they are critical. */
const understood: readonly string[] = [
  '2.5.29.9', // subjectDirectoryAttributes: TPM specification and security assertions
  '2.5.29.14', // subjectKeyIdentifier
  '2.5.29.15', // keyUsage
  '2.5.29.17', // subjectAltName
  '2.5.29.18', // issuerAltName
  '2.5.29.19', // basicConstraints
  '2.5.29.32', // certificatePolicies: any policy is acceptable
  '2.5.29.35', // authorityKeyIdentifier
  '2.5.29.37', // extendedKeyUsage
];

/** TCG OID Registry: tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion. */
const TPM_MANUFACTURER = '2.23.133.2.1';
const TPM_MODEL = '2.23.133.2.2';
const TPM_VERSION = '2.23.133.2.3';

const goodHashes: readonly string[] = ['SHA-256', 'SHA-384', 'SHA-512'];

/**
 * Takes a certificate apart.
 * @param der exactly one certificate
 * @throws IotdmError `input.invalid` when it is not a certificate, or not in DER from its first byte to its last
 */
export async function parseCertificate(der: Buffer): Promise<Certificate> {
  const x509 = await loadX509();
  try {
    return takeApart(x509, der);
  } catch (cause) {
    if (cause instanceof IotdmError) throw cause;
    throw new IotdmError('input.invalid', 'the bytes are not an X.509 certificate', { cause });
  }
}

/** The end of a certificate's validity, null for 99991231235959Z. */
export function expiryOf({ notAfter }: Certificate): Date | null {
  return notAfter.getTime() === NO_EXPIRY ? null : notAfter;
}

/** What to call it in a message: its subject, or what else tells it from others. */
export function nameOf({ subject, serialNumber }: Certificate): string {
  return subject === '' ? `serial number ${serialNumber}` : `"${subject}"`;
}

function takeApart(x509: X509Library, der: Buffer): Certificate {
  const openssl = new X509Certificate(der);
  // OpenSSL writes what it understood: bytes that it overlooked, and BER that is not DER, are not a certificate here.
  if (!openssl.raw.equals(der)) throw new TypeError('not DER');
  const parsed = new x509.X509Certificate(der);
  // The library's list is an array with methods of its own; what is filtered from it should be a plain one.
  const extensions = [...parsed.extensions];
  if (new Set(extensions.map(({ type }) => type)).size !== extensions.length) {
    throw new TypeError('an extension stands there twice');
  }
  /** An extension that is there but cannot be read must not pass for one that is absent. */
  const extension = <T extends object>(oid: string, type: new (raw: ArrayBuffer) => T): T | undefined => {
    const found = extensions.find((candidate) => candidate.type === oid);
    if (found === undefined || found instanceof type) return found;
    throw new TypeError(`the extension ${oid} cannot be read`);
  };
  const constraints = extension('2.5.29.19', x509.BasicConstraintsExtension);
  const usages = extension('2.5.29.15', x509.KeyUsagesExtension)?.usages;
  const names = extension('2.5.29.17', x509.SubjectAlternativeNameExtension)?.names.items ?? [];
  const directoryNames = names
    .filter(({ type }) => type === 'dn')
    .map(({ rawData }) => new x509.Name(contentOf(Buffer.from(rawData))));
  const { notBefore, notAfter } = parsed;
  if (Number.isNaN(notBefore.getTime()) || Number.isNaN(notAfter.getTime())) {
    throw new TypeError('a date cannot be read');
  }
  return {
    der,
    subject: printable(parsed.subject),
    issuer: printable(parsed.issuer),
    serialNumber: openssl.serialNumber.toLowerCase(),
    sha256: createHash('sha256').update(der).digest('hex'),
    notBefore,
    notAfter,
    weakSignature: weakSignature(parsed.signatureAlgorithm),
    basicConstraints:
      constraints === undefined ? undefined : { ca: constraints.ca, pathLength: constraints.pathLength },
    keyUsage:
      usages === undefined
        ? undefined
        : {
            keyEncipherment: (usages & x509.KeyUsageFlags.keyEncipherment) !== 0,
            certificateSigning: (usages & x509.KeyUsageFlags.keyCertSign) !== 0,
          },
    extendedKeyUsage: extension('2.5.29.37', x509.ExtendedKeyUsageExtension)?.usages.map(String),
    unknownCritical: extensions
      .filter(({ critical, type }) => critical && !understood.includes(type))
      .map(({ type }) => type),
    tpm: tpmAttributes([...directoryNames, parsed.subjectName]),
    rsa: rsaPublicKey(Buffer.from(parsed.publicKey.rawData)),
    openssl,
  };
}

interface Named {
  getField(oid: string): string[];
}

function tpmAttributes(names: readonly Named[]): TpmAttributes {
  const first = (oid: string): string | null => {
    const value = names.flatMap((name) => name.getField(oid))[0];
    return value === undefined ? null : printable(value);
  };
  const manufacturer = first(TPM_MANUFACTURER);
  return {
    manufacturer: manufacturer === null ? null : vendorName(manufacturer),
    model: first(TPM_MODEL),
    version: first(TPM_VERSION),
  };
}

/** `id:49465800` is `IFX`, four letters as TPM_PT_MANUFACTURER has them (TCG Vendor ID Registry). */
export function vendorName(id: string): string {
  const [, hex] = /^id:([0-9a-f]{8})$/i.exec(id) ?? [];
  if (hex === undefined) return id;
  const letters = Buffer.from(hex, 'hex')
    .toString('latin1')
    .replace(/[\0 ]+$/, '');
  return /^[\x21-\x7e][\x20-\x7e]+$/.test(letters) ? letters : id;
}

/** @param algorithm as Web Crypto names it, or its object identifier where Web Crypto has no name for it */
function weakSignature(algorithm: object): string | undefined {
  const name = 'name' in algorithm ? String(algorithm.name) : 'unknown';
  const hash = 'hash' in algorithm ? (algorithm.hash as { name?: string } | null)?.name : undefined;
  if (hash === undefined) return name;
  return goodHashes.includes(hash) ? undefined : `${name} with ${hash}`;
}

/**
 * The RSA key in a SubjectPublicKeyInfo, whether its algorithm is rsaEncryption or, as in some EK certificates,
 * id-RSAES-OAEP, with which OpenSSL would not read the key.
 */
function rsaPublicKey(info: Buffer): RsaPublicKey | undefined {
  const [algorithm, bits] = itemsOf(contentOf(info));
  if (algorithm === undefined || bits === undefined) throw new TypeError('the public key cannot be read');
  const oid = itemsOf(contentOf(algorithm))[0]?.toString('hex');
  if (oid !== RSA_ENCRYPTION && oid !== RSAES_OAEP) return undefined;
  // The first byte of a bit string counts the bits that are left over: none.
  const key = createPublicKey({ key: contentOf(bits).subarray(1), format: 'der', type: 'pkcs1' });
  return rsaPublicKeyOf(key);
}

/** 1.2.840.113549.1.1.1 and 1.2.840.113549.1.1.7 (RFC 8017, A.1 and A.2.1), as DER. */
const RSA_ENCRYPTION = '06092a864886f70d010101';
const RSAES_OAEP = '06092a864886f70d010107';

function rsaPublicKeyOf(key: KeyObject): RsaPublicKey {
  const { n = '', e = '' } = key.export({ format: 'jwk' });
  return {
    modulus: Buffer.from(n, 'base64url'),
    exponent: Number(`0x${Buffer.from(e, 'base64url').toString('hex')}`),
  };
}

/** The value of the DER element at the beginning of the bytes. */
function contentOf(element: Buffer): Buffer {
  const { start, end } = bounds(element, 0);
  return element.subarray(start, end);
}

/** The DER elements that follow each other in the bytes. */
function itemsOf(content: Buffer): Buffer[] {
  const items: Buffer[] = [];
  for (let at = 0; at < content.length;) {
    const { end } = bounds(content, at);
    items.push(content.subarray(at, end));
    at = end;
  }
  return items;
}

function bounds(bytes: Buffer, at: number): { start: number; end: number } {
  const first = bytes.readUInt8(at + 1);
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f;
  if (lengthBytes > 3) throw new RangeError('a length cannot be read');
  const length = lengthBytes === 0 ? first : bytes.readUIntBE(at + 2, lengthBytes);
  const start = at + 2 + lengthBytes;
  if (start + length > bytes.length) throw new RangeError('an element is longer than what holds it');
  return { start, end: start + length };
}

/** Certificates come from anywhere, and terminals obey what they are shown. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\uFFFD');
}
