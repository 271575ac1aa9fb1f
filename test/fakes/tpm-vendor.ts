/** TPM vendors that do not exist: authorities of any shape, and the EK certificates that they issue, right and wrong. */
import { createPublicKey, generateKeyPairSync, sign, webcrypto, type KeyObject } from 'node:crypto';
import { loadX509, type X509Library } from '../../src/x509.ts';

type Extension = InstanceType<X509Library['Extension']>;

export interface CertificateOptions {
  readonly subject?: string;
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  /** Of the signature on this certificate. */
  readonly hash?: string;
  readonly serialNumber?: string;
  /** Replaces the usual extensions. */
  readonly extensions?: (x509: X509Library) => Extension[];
  /** Follows them. */
  readonly more?: (x509: X509Library) => Extension[];
}

export interface VendorOptions extends CertificateOptions {
  readonly pathLength?: number;
}

export interface Vendor {
  readonly name: string;
  readonly der: Buffer;
  readonly key: KeyObject;
  /** An authority below this one. */
  issueVendor(name: string, options?: VendorOptions): Promise<Vendor>;
  /** An EK certificate; `subject` is empty unless given. */
  issueEk(key: KeyObject, options?: CertificateOptions): Promise<Buffer>;
}

export const EK_USAGE = '2.23.133.8.1';

/** The moment at which these certificates are judged. */
export const NOW = new Date('2026-06-01T12:00:00Z');

const BEGIN = new Date('2020-01-01T00:00:00Z');
export const NO_EXPIRY = new Date('9999-12-31T23:59:59Z');

/** A self-signed root. */
export async function makeVendor(name: string, options: VendorOptions = {}): Promise<Vendor> {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return vendor(name, pair.publicKey, pair.privateKey, `CN=${name}`, pair.privateKey, options);
}

async function vendor(
  name: string,
  publicKey: KeyObject,
  key: KeyObject,
  issuer: string,
  signer: KeyObject,
  options: VendorOptions,
): Promise<Vendor> {
  const usual = (x509: X509Library): Extension[] => [
    new x509.BasicConstraintsExtension(true, options.pathLength, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
  ];
  const der = await certify(`CN=${name}`, publicKey, issuer, signer, { extensions: usual, ...options });
  return {
    name,
    der,
    key,
    issueVendor(below, more = {}) {
      const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      return vendor(below, pair.publicKey, pair.privateKey, `CN=${name}`, key, more);
    },
    issueEk: (ek, more = {}) =>
      certify('', ek, `CN=${name}`, key, { extensions: ekExtensions, notAfter: NO_EXPIRY, ...more }),
  };
}

/** As the TCG's profile asks for them: a critical subject alternative name in place of a subject. */
export function ekExtensions(x509: X509Library): Extension[] {
  return [
    tpmName(x509),
    new x509.BasicConstraintsExtension(false, undefined, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyEncipherment, true),
    new x509.ExtendedKeyUsageExtension([EK_USAGE]),
  ];
}

export function tpmName(
  x509: X509Library,
  value = '2.23.133.2.1=id:49465800, 2.23.133.2.2=SLB9670, 2.23.133.2.3=id:0D0B',
): Extension {
  return new x509.SubjectAlternativeNameExtension([{ type: 'dn', value }], true);
}

async function certify(
  subject: string,
  publicKey: KeyObject,
  issuer: string,
  signer: KeyObject,
  options: CertificateOptions,
): Promise<Buffer> {
  const x509 = await loadX509();
  const hash = options.hash ?? 'SHA-256';
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: options.serialNumber ?? '5eed01',
    subject: options.subject ?? subject,
    issuer,
    notBefore: options.notBefore ?? BEGIN,
    notAfter: options.notAfter ?? new Date('2040-01-01T00:00:00Z'),
    publicKey: await importPublic(publicKey),
    signingKey: await webcrypto.subtle.importKey(
      'pkcs8',
      signer.export({ type: 'pkcs8', format: 'der' }),
      { name: 'ECDSA', namedCurve: 'P-256' },
      true,
      ['sign'],
    ),
    signingAlgorithm: { name: 'ECDSA', hash },
    extensions: [...(options.extensions?.(x509) ?? []), ...(options.more?.(x509) ?? [])],
  });
  return Buffer.from(made.rawData);
}

function importPublic(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const der = key.export({ type: 'spki', format: 'der' });
  return key.asymmetricKeyType === 'rsa'
    ? webcrypto.subtle.importKey('spki', der, { name: 'RSA-OAEP', hash: 'SHA-256' }, true, ['encrypt'])
    : webcrypto.subtle.importKey('spki', der, { name: 'ECDSA', namedCurve: 'P-256' }, true, ['verify']);
}

/** The same certificate with bytes of its signed part replaced by as many others, and signed again. */
export function resigned(certificate: Buffer, from: Buffer, to: Buffer, signer: KeyObject): Buffer {
  const start = 4;
  const end = start + 4 + certificate.readUInt16BE(start + 2);
  const signed = Buffer.from(certificate.subarray(start, end));
  const at = signed.indexOf(from);
  if (at < 0 || from.length !== to.length) throw new RangeError('nothing to replace');
  to.copy(signed, at);
  const algorithm = certificate.subarray(end, end + 2 + (certificate[end + 1] ?? 0));
  const signature = Buffer.concat([Buffer.from([0]), sign('sha256', signed, signer)]);
  const body = Buffer.concat([signed, algorithm, Buffer.from([0x03, signature.length]), signature]);
  return Buffer.concat([Buffer.from([0x30, 0x82, body.length >> 8, body.length & 0xff]), body]);
}

/** An RSA 2048 key of which nobody has the private part any more. */
export function rsaKey(): KeyObject {
  return createPublicKey(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey);
}

export function pem(...ders: readonly Buffer[]): string {
  return ders
    .map((der) => {
      const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
      return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
    })
    .join('');
}
