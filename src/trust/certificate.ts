/**
 * A certificate as the checks of an EK need it. It is read here, a hundred thousand of them in seconds; its signature is
 * verified by OpenSSL.
 *
 * Sources: RFC 5280; TCG EK Credential Profile for TPM Family 2.0, section 3.
 */
import { createHash, createPublicKey, type KeyObject } from 'node:crypto';
import {
  certificateParts,
  contentOf,
  rsaPublicKey,
  wholeElement,
  type CertificateParts,
  type RsaPublicKey,
} from '../certificate-parts.ts';
import { derElements, derObjectIdentifier, derTag, type DerElement } from '../der.ts';
import { IotdmError } from '../errors.ts';
import { nameAttributes, nameKey, nameText } from './name.ts';
import { signatureOf, type Signature } from './signature.ts';

export type { RsaPublicKey } from '../certificate-parts.ts';

export interface Certificate {
  readonly der: Buffer;
  /** As RFC 4514 writes it; often empty in an EK certificate. */
  readonly subject: string;
  readonly issuer: string;
  /** The same for names that are the same, however they are written. */
  readonly subjectKey: string;
  readonly issuerKey: string;
  /** The same for certificates that any one issuer may have issued, as far as names and identifiers of keys tell. */
  readonly issuedBy: string;
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
  /** The same as they stand in the subject alternative name, undefined where they do not. */
  readonly tpmNames: TpmNames;
  /** Undefined where the certificate is not for an RSA key. */
  readonly rsa: RsaPublicKey | undefined;
  /** The key that it is for, undefined where OpenSSL does not know its kind. */
  readonly publicKey: KeyObject | undefined;
  /** Whether names, identifiers of keys and the issuer's own usage let that one be its issuer. */
  mayBeIssuedBy(issuer: Certificate): boolean;
  /** Whether the signature on this certificate is that of the key. */
  isSignedBy(key: KeyObject): boolean;
  /** What another certificate may call this one by. */
  readonly identity: KeyIdentity;
}

/** Undefined members where the certificate does not say. */
export interface KeyIdentity {
  readonly keyIdentifier: Buffer | undefined;
  /** Of its issuer. */
  readonly issuerKey: string | undefined;
  readonly serialNumber: string | undefined;
}

export interface TpmNames {
  readonly manufacturer: string | undefined;
  readonly model: string | undefined;
  readonly version: string | undefined;
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

/**
 * Takes a certificate apart.
 * @param der exactly one certificate
 * @throws IotdmError `input.invalid` when it is not a certificate, or not in DER from its first byte to its last
 */
export function parseCertificate(der: Buffer): Certificate {
  try {
    return new ParsedCertificate(der);
  } catch (cause) {
    const why = cause instanceof TypeError || cause instanceof RangeError ? `: ${cause.message}` : '';
    throw new IotdmError('input.invalid', `the bytes are not an X.509 certificate${why}`, { cause });
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

/** What a judgement does not need, such as how names are written, is made when somebody asks for it. */
class ParsedCertificate implements Certificate {
  readonly der: Buffer;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly basicConstraints: Certificate['basicConstraints'];
  readonly keyUsage: Certificate['keyUsage'];
  readonly extendedKeyUsage: Certificate['extendedKeyUsage'];
  readonly unknownCritical: readonly string[];
  readonly tpmNames: TpmNames;
  readonly rsa: RsaPublicKey | undefined;
  readonly #parts: CertificateParts;
  readonly #signature: Signature;
  readonly #subjectNames: TpmNames;
  readonly #subjectIdentifier: Buffer | undefined;
  readonly #authority: KeyIdentity | undefined;
  #publicKey: KeyObject | undefined;

  constructor(der: Buffer) {
    const parts = certificateParts(der);
    const { extensions } = parts;
    /** An extension that is there but cannot be read must not pass for one that is absent. */
    const extension = <T>(oid: string, read: (value: Buffer) => T): T | undefined => {
      const found = extensions.get(oid);
      if (found === undefined) return undefined;
      try {
        return read(found.value);
      } catch (cause) {
        throw new TypeError(`the extension ${oid} cannot be read`, { cause });
      }
    };
    this.der = der;
    this.#parts = parts;
    this.#signature = signatureOf(parts.algorithm);
    this.notBefore = parts.notBefore;
    this.notAfter = parts.notAfter;
    this.basicConstraints = extension('2.5.29.19', readBasicConstraints);
    this.keyUsage = extension('2.5.29.15', readKeyUsage);
    this.extendedKeyUsage = extension('2.5.29.37', readExtendedKeyUsage);
    this.unknownCritical = [...extensions]
      .filter(([oid, { critical }]) => critical && !understood.includes(oid))
      .map(([oid]) => oid);
    this.tpmNames = tpmNames(extension('2.5.29.17', readDirectoryNames) ?? []);
    this.#subjectNames = tpmNames([parts.subject]);
    nameAttributes(parts.issuer);
    this.#subjectIdentifier = extension('2.5.29.14', readSubjectIdentifier);
    this.#authority = extension('2.5.29.35', readAuthorityIdentifier);
    this.rsa = rsaPublicKey(parts.keyInfo);
  }

  get subject(): string {
    return printable(nameText(this.#parts.subject));
  }

  get issuer(): string {
    return printable(nameText(this.#parts.issuer));
  }

  get subjectKey(): string {
    return nameKey(this.#parts.subject);
  }

  get issuerKey(): string {
    return nameKey(this.#parts.issuer);
  }

  get issuedBy(): string {
    const { issuer, extensions } = this.#parts;
    const keyIdentifier = extensions.get('2.5.29.35')?.value.toString('latin1') ?? '';
    return `${issuer.toString('latin1')}${keyIdentifier}`;
  }

  get serialNumber(): string {
    return numberText(this.#parts.serialNumber);
  }

  get sha256(): string {
    return createHash('sha256').update(this.der).digest('hex');
  }

  get weakSignature(): string | undefined {
    return this.#signature.weakness;
  }

  get tpm(): TpmAttributes {
    const of = (name: keyof TpmNames): string | null => {
      const value = this.tpmNames[name] ?? this.#subjectNames[name];
      return value === undefined ? null : printable(value);
    };
    const manufacturer = of('manufacturer');
    return {
      manufacturer: manufacturer === null ? null : vendorName(manufacturer),
      model: of('model'),
      version: of('version'),
    };
  }

  get publicKey(): KeyObject | undefined {
    try {
      return (this.#publicKey ??= createPublicKey({ key: this.#parts.keyInfo, format: 'der', type: 'spki' }));
    } catch {
      return undefined;
    }
  }

  get identity(): KeyIdentity {
    const { issuerKey, serialNumber } = this;
    return { keyIdentifier: this.#subjectIdentifier, issuerKey, serialNumber };
  }

  /** RFC 4158, 3.5: a name that is the same, and nothing that says it is another one of that name. */
  mayBeIssuedBy(issuer: Certificate): boolean {
    if (issuer.subjectKey !== this.issuerKey || issuer.keyUsage?.certificateSigning === false) return false;
    const { keyIdentifier, issuerKey, serialNumber } = this.#authority ?? noIdentity;
    const { identity } = issuer;
    const isOther =
      keyIdentifier !== undefined &&
      identity.keyIdentifier !== undefined &&
      !keyIdentifier.equals(identity.keyIdentifier);
    return (
      !isOther &&
      (issuerKey === undefined || issuerKey === identity.issuerKey) &&
      (serialNumber === undefined || serialNumber === identity.serialNumber)
    );
  }

  isSignedBy(key: KeyObject): boolean {
    return this.#signature.isOf(key, this.#parts.signed, this.#parts.signature);
  }
}

const noIdentity: KeyIdentity = { keyIdentifier: undefined, issuerKey: undefined, serialNumber: undefined };

function readSubjectIdentifier(value: Buffer): Buffer {
  return contentOf(value, wholeElement(value, derTag.octetString));
}

/** [0] keyIdentifier, [1] authorityCertIssuer, [2] authorityCertSerialNumber (RFC 5280, 4.2.1.1). */
function readAuthorityIdentifier(value: Buffer): KeyIdentity {
  const whole = wholeElement(value, derTag.sequence);
  const items = new Map(
    derElements(value, whole.start, whole.end).map((item) => [item.tag, contentOf(value, item)]),
  );
  const issuer = items.get(0xa1);
  const [name] = issuer === undefined ? [] : directoryNamesIn(issuer, derElements(issuer));
  const serialNumber = items.get(0x82);
  return {
    keyIdentifier: items.get(0x80),
    issuerKey: name && nameKey(name),
    serialNumber: serialNumber && numberText(serialNumber),
  };
}

/** In hex, as OpenSSL writes it: whole bytes, without leading zeros. @param content of an INTEGER */
function numberText(content: Buffer): string {
  const isNegative = ((content[0] ?? 0) & 0x80) !== 0;
  const value = BigInt(`0x0${content.toString('hex')}`);
  const digits = (isNegative ? (1n << BigInt(8 * content.length)) - value : value).toString(16);
  return `${isNegative ? '-' : ''}${digits.length % 2 === 0 ? digits : `0${digits}`}`;
}

function readBasicConstraints(value: Buffer): { ca: boolean; pathLength: number | undefined } {
  const whole = wholeElement(value, derTag.sequence);
  const items = derElements(value, whole.start, whole.end);
  const flag = items[0]?.tag === derTag.boolean ? items.shift() : undefined;
  const length = items.shift();
  if (items.length > 0 || (length !== undefined && length.tag !== derTag.integer))
    throw new TypeError('more than expected');
  if (length !== undefined && (length.end - length.start > 4 || (value[length.start] ?? 0x80) >= 0x80)) {
    throw new RangeError('a path length that is none');
  }
  return {
    ca: flag !== undefined && value[flag.start] !== 0,
    pathLength: length && value.readUIntBE(length.start, length.end - length.start),
  };
}

/** RFC 5280, 4.2.1.3: bit 2 is keyEncipherment, bit 5 keyCertSign; bit 0 is the highest one. */
function readKeyUsage(value: Buffer): { keyEncipherment: boolean; certificateSigning: boolean } {
  const { start, end } = wholeElement(value, derTag.bitString);
  if (end - start < 1 || (value[start] ?? 8) > 7) throw new TypeError('no bits');
  const bits = end - start > 1 ? (value[start + 1] ?? 0) : 0;
  return { keyEncipherment: (bits & 0x20) !== 0, certificateSigning: (bits & 0x04) !== 0 };
}

function readExtendedKeyUsage(value: Buffer): string[] {
  const whole = wholeElement(value, derTag.sequence);
  return derElements(value, whole.start, whole.end).map((item) => {
    if (item.tag !== derTag.oid) throw new TypeError('a usage that is none');
    return derObjectIdentifier(contentOf(value, item));
  });
}

/** [4] in a GeneralName (RFC 5280, 4.2.1.6). */
const DIRECTORY_NAME = 0xa4;

function readDirectoryNames(value: Buffer): Buffer[] {
  const whole = wholeElement(value, derTag.sequence);
  return directoryNamesIn(value, derElements(value, whole.start, whole.end));
}

function directoryNamesIn(value: Buffer, names: readonly DerElement[]): Buffer[] {
  return names
    .filter(({ tag }) => tag === DIRECTORY_NAME)
    .map((name) => {
      const content = contentOf(value, name);
      nameAttributes(content);
      return content;
    });
}

function tpmNames(names: readonly Buffer[]): TpmNames {
  const attributes = names.flatMap((name) => nameAttributes(name).flat());
  const first = (oid: string): string | undefined => attributes.find(({ type }) => type === oid)?.value;
  return { manufacturer: first(TPM_MANUFACTURER), model: first(TPM_MODEL), version: first(TPM_VERSION) };
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

/** Certificates come from anywhere, and terminals obey what they are shown. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\uFFFD');
}
