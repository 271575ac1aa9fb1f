/**
 * Recognizes an endorsement key in whatever form it comes – TPM structure, public key, certificate or bare modulus, as
 * bytes or as text – and gives the one value that DPS takes. Needs no TPM: the value is a constant and the modulus.
 */
import { isUtf8 } from 'node:buffer';
import { createPublicKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { IotdmError } from '../errors.ts';
import { publicKeyOfCertificate, rsaesOaepKey } from './certified-key.ts';
import { derElement, derTag } from '../der.ts';
import { beginsWithHeader, isPadding, splitCertificateArea } from '../certificate-bytes.ts';
import { certificateParts, opensslView, rsaPublicKey } from '../certificate-parts.ts';
import {
  EK_AUTH_POLICY,
  EK_PUBLIC_BYTES,
  EK_PUBLIC_PREFIX,
  endorsementKeyProblem,
} from './endorsement-key.ts';
import {
  keyText,
  decodeBase64Text,
  decodeHexText,
  holdsPrivateKeyText,
  opensslModulus,
  pemBlocks,
  type Decoded,
} from './key-notation.ts';
import {
  base64InReport,
  decimalBytes,
  digestProblem,
  hexDumps,
  kindOfReport,
  nameOfArea,
  printedAreas,
  reportText,
  type PrintedArea,
} from './key-reports.ts';
import { parsePublicArea, type PublicArea } from './public-area.ts';

/** What holds the key, without regard to how it is written down. */
export type KeyForm =
  | 'TPM2B_PUBLIC'
  | 'TPMT_PUBLIC'
  | 'public key'
  | 'PKCS#1 public key'
  | 'EK certificate'
  | 'certificate'
  | 'bare modulus';

export interface RecognizedEndorsementKey {
  readonly kind: 'endorsement-key';
  /** TPM2B_PUBLIC, 316 bytes. */
  readonly endorsementKey: Buffer;
  readonly form: KeyForm;
  /** DER of the certificate that the key stands in. */
  readonly certificate?: Buffer;
  /** How it was written, innermost first: `['DER', 'padded', 'hex']`. */
  readonly notations: readonly string[];
  /** Both of them: `EK certificate (DER, padded, hex)`. */
  readonly input: string;
}

/** Problems are lower case without a full stop, say what the input is, and quote nothing of it. */
export type Recognition =
  | RecognizedEndorsementKey
  /** A key or certificate, but none that DPS takes. */
  | { readonly kind: 'other-key'; readonly form: KeyForm; readonly input: string; readonly problem: string }
  | { readonly kind: 'private-key'; readonly problem: string }
  | { readonly kind: 'unrecognized'; readonly problem: string };

/** A certificate is a few KiB at most, in hex with separators three times that. */
export const MAX_KEY_INPUT_BYTES = 65536;

/**
 * @returns what the content is; `endorsement-key` only for an RSA 2048 key with exponent 65537 that is, or may be, an
 * endorsement key of template L-1. No signature of a certificate is checked.
 */
export function recognizeEndorsementKey(content: Buffer): Recognition {
  if (content.length > MAX_KEY_INPUT_BYTES)
    return unrecognized(`this is longer than ${MAX_KEY_INPUT_BYTES} bytes: no key or certificate is`);
  return recognize(content, []);
}

/**
 * The same for a command: the DPS value, or an error. Also takes what programs print about the key: Limpet, iotdm,
 * tpm2_readpublic, Format-Hex of PowerShell and the like.
 * @throws IotdmError `input.key-unsuitable` for a key that DPS does not take, `input.private-key`, `input.invalid`
 */
export function convertToEndorsementKey(content: Buffer): RecognizedEndorsementKey {
  const alone = recognizeEndorsementKey(content);
  const found = (alone.kind === 'unrecognized' ? recognizeReport(content) : undefined) ?? alone;
  switch (found.kind) {
    case 'endorsement-key':
      return found;
    case 'other-key':
      throw new IotdmError('input.key-unsuitable', found.problem, { details: { input: found.input } });
    case 'private-key':
      throw new IotdmError('input.private-key', found.problem);
    case 'unrecognized':
      throw new IotdmError('input.invalid', found.problem);
  }
}

/** The same as part of a sentence: `a PEM public key`, `a DER EK certificate (padded, hex)`. */
export function nameOfKey({ form, notations }: RecognizedEndorsementKey): string {
  const [container = '', ...others] = notations;
  if (container !== 'PEM' && container !== 'DER') return `a ${described(form, notations)}`;
  return `a ${container} ${others.length === 0 ? form : described(form, others)}`;
}

/** Text encodings around the bytes, and the container in front of them: `['DER', 'base64']`. */
type Notations = readonly string[];

function recognize(bytes: Buffer, notations: Notations): Recognition {
  const structure = recognizeStructure(bytes, notations);
  if (structure !== undefined && structure.kind !== 'unrecognized') return structure;
  const text = keyText(bytes);
  // Text may begin like DER: the digit 0 is the byte of a SEQUENCE.
  if (structure !== undefined && text === undefined) return structure;
  if (text === undefined) return unrecognized(`this is ${describeBytes(bytes)}`);
  if (text === '') return unrecognized('there is nothing in it');
  if (holdsPrivateKeyText(text)) return privateKey();
  if (text.includes('-----BEGIN')) return recognizePem(text, notations);
  const printed = opensslModulus(text);
  if (printed !== undefined)
    return recognizeModulus(printed.modulus, printed.exponent, ['printed by openssl', ...notations]);
  // One encoding around the bytes, not encodings of encodings.
  if (notations.length > 0) return unrecognized('this is text that holds no key');
  return recognizeEncoded(text);
}

/**
 * Hexadecimal digits are base64 as well. What the bytes are then decides: a key has a length and a beginning that the
 * other reading cannot have, so that two readings that both give a key do not occur but by design.
 */
function recognizeEncoded(text: string): Recognition {
  const readings = [decodeHexText(text), decodeBase64Text(text)].filter((reading) => reading !== undefined);
  const results = readings.map(recognizeDecoded);
  const [first, second] = results.filter(({ kind }) => kind !== 'unrecognized');
  if (first !== undefined && second !== undefined)
    return unrecognized('this can be read as hexadecimal and as base64, and is a key in both');
  return first ?? results[0] ?? unrecognized('this is text that is neither PEM nor hexadecimal nor base64');
}

function recognizeDecoded(decoded: Decoded): Recognition {
  const name = decoded.notation === 'hex' ? 'hexadecimal' : decoded.notation;
  if ('problem' in decoded) return unrecognized(`this looks like ${name}, but ${decoded.problem}`);
  const found = recognize(decoded.bytes, [decoded.notation]);
  if (found.kind !== 'unrecognized') return found;
  return unrecognized(`this is ${name} of ${describeBytes(decoded.bytes)}`);
}

function recognizePem(text: string, notations: Notations): Recognition {
  const blocks = pemBlocks(text);
  if (blocks.length === 0) return unrecognized('this is PEM text that is cut off or damaged');
  const found = blocks.map(({ label, bytes }) => recognizePemBlock(label, bytes, notations));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const secret = found.find(({ kind }) => kind === 'private-key');
  if (secret !== undefined) return secret;
  // A chain: the certificates of authorities stand behind that of the key.
  const keys = found.filter((item) => item.kind === 'endorsement-key');
  const [key] = keys;
  const others = found.filter((item) => item.kind !== 'endorsement-key' && !isAuthority(item));
  if (
    key !== undefined &&
    others.length === 0 &&
    keys.every((item) => item.endorsementKey.equals(key.endorsementKey))
  )
    return key;
  return unrecognized(`this holds ${blocks.length} PEM blocks: give that of the endorsement key alone`);
}

function recognizePemBlock(label: string, bytes: Buffer | undefined, notations: Notations): Recognition {
  if (bytes === undefined) return unrecognized('this is PEM text that is cut off or damaged');
  const found = bytes[0] === derTag.sequence ? recognizeDer(bytes, ['PEM', ...notations]) : undefined;
  if (
    found === undefined ||
    (found.kind === 'unrecognized' && !label.includes('PUBLIC KEY') && !label.includes('CERTIFICATE'))
  )
    return unrecognized(`this is PEM text of another kind (${label.slice(0, 40)})`);
  return found;
}

/** Undefined for bytes that are nothing known, such as text. */
function recognizeStructure(bytes: Buffer, notations: Notations): Recognition | undefined {
  const binary = notations.length === 0 ? ['binary'] : notations;
  if (bytes.length >= 2 && bytes.readUInt16BE() === bytes.length - 2) {
    const area = parsePublicArea(bytes.subarray(2));
    if (area !== undefined) return publicAreaResult(bytes, area, 'TPM2B_PUBLIC', binary);
  }
  const area = parsePublicArea(bytes);
  if (area !== undefined) {
    const size = Buffer.alloc(2);
    size.writeUInt16BE(bytes.length);
    return publicAreaResult(Buffer.concat([size, bytes]), area, 'TPMT_PUBLIC', binary);
  }
  if (beginsWithHeader(bytes)) return recognizeCertificateArea(bytes, ['DER', ...notations]);
  if (bytes[0] === derTag.sequence) return recognizeDer(bytes, ['DER', ...notations]);
  // Text that begins with a letter outside ASCII is no number.
  if (isUtf8(bytes)) return undefined;
  if (bytes.length === MODULUS_BYTES && isModulus(bytes)) return recognizeModulus(bytes, undefined, binary);
  if (bytes.length === MODULUS_BYTES + 1 && bytes[0] === 0 && isModulus(bytes.subarray(1)))
    return recognizeModulus(bytes.subarray(1), undefined, ['leading 00', ...binary]);
  return undefined;
}

// Reports

/** What a program prints about a key; undefined where nothing of that kind is in it. */
function recognizeReport(content: Buffer): Recognition | undefined {
  const text = content.length > MAX_KEY_INPUT_BYTES ? undefined : reportText(content);
  if (text === undefined) return undefined;
  if (holdsPrivateKeyText(text)) return privateKey();
  const digest = digestProblem(text);
  const decimals = decimalBytes(text);
  const found = [
    ...printedAreas(text).map(recognizePrintedArea),
    ...hexDumps(text).map((bytes) => recognize(bytes, ['hex dump'])),
    ...(decimals === undefined ? [] : [recognize(decimals, ['decimal'])]),
    ...base64InReport(text).map((base64) => recognizeBase64(base64, kindOfReport(text))),
  ];
  const keys = found.filter((item) => item.kind === 'endorsement-key');
  const [key] = keys;
  const distinct = new Set(keys.map(({ endorsementKey }) => endorsementKey.toString('base64')));
  const isPrivate = found.find(({ kind }) => kind === 'private-key');
  if (isPrivate !== undefined) return isPrivate;
  if (distinct.size > 1)
    return unrecognized(`this holds ${distinct.size} different endorsement keys: give one`);
  if (key !== undefined) return key;
  const other =
    found.find(({ kind }) => kind === 'other-key') ?? (digest === undefined ? found[0] : undefined);
  return other ?? (digest === undefined ? undefined : unrecognized(digest));
}

function recognizeBase64(base64: string, where: string): Recognition {
  const decoded = decodeBase64Text(base64);
  if (decoded === undefined || 'problem' in decoded)
    return unrecognized('this holds a key in base64 that is cut off or damaged');
  return recognize(decoded.bytes, [decoded.notation, where]);
}

/** What tpm2_readpublic prints says all that an endorsement key is. */
function recognizePrintedArea(printed: PrintedArea | undefined): Recognition {
  if (printed === undefined)
    return unrecognized('this is the text of tpm2_readpublic, and is cut off or damaged');
  const { area, hasUsualAlgorithms, name } = printed;
  const notations = ['printed by tpm2_readpublic'];
  const input = described('TPM2B_PUBLIC', notations);
  const other = (problem: string): Recognition => ({
    kind: 'other-key',
    form: 'TPM2B_PUBLIC',
    input,
    problem: `what tpm2_readpublic printed here is ${problem}`,
  });
  const problem = publicAreaProblem(area);
  if (problem !== undefined) return other(problem);
  if (area.nameAlg !== SHA256 || !hasUsualAlgorithms)
    return other('not an endorsement key of TCG template L-1: it has other algorithms');
  const endorsementKey = Buffer.concat([EK_PUBLIC_PREFIX, area.rsa?.modulus ?? Buffer.alloc(0)]);
  if (name !== '' && name !== nameOfArea(endorsementKey.subarray(2)))
    return unrecognized('this is the text of tpm2_readpublic, and its name is not that of its contents');
  const unfit = endorsementKeyProblem(endorsementKey);
  if (unfit !== undefined) return { kind: 'other-key', form: 'TPM2B_PUBLIC', input, problem: unfit };
  return { kind: 'endorsement-key', endorsementKey, form: 'TPM2B_PUBLIC', notations, input };
}

/** TPM_ALG_SHA256. */
const SHA256 = 0x000b;

// TPM structures

function publicAreaResult(
  tpm2b: Buffer,
  area: PublicArea,
  form: 'TPM2B_PUBLIC' | 'TPMT_PUBLIC',
  notations: Notations,
): Recognition {
  const input = described(form, notations);
  const difference = publicAreaProblem(area);
  const problem = difference === undefined ? endorsementKeyProblem(tpm2b) : `this ${form} is ${difference}`;
  if (problem !== undefined) return { kind: 'other-key', form, input, problem };
  return { kind: 'endorsement-key', endorsementKey: Buffer.from(tpm2b), form, notations, input };
}

/** TPMA_OBJECT of template L-1, and of the storage root key that the TCG's provisioning guidance describes. */
const EK_ATTRIBUTES = 0x000300b2;
const SRK_ATTRIBUTES = 0x00030472;

/** TPM_ECC_CURVE, Part 2, section 6.4. */
const curves: Readonly<Record<number, string>> = {
  3: 'NIST P-256',
  4: 'NIST P-384',
  5: 'NIST P-521',
  16: 'BN P-256',
};

/** What a public area is in place of an L-1 endorsement key; undefined where only its bytes can tell. */
function publicAreaProblem({ attributes, authPolicy, rsa, curve }: PublicArea): string | undefined {
  if (rsa === undefined)
    return `an ECC key (${curves[curve ?? 0] ?? `curve 0x${(curve ?? 0).toString(16)}`}), ${rsa2048Only}`;
  const problem = rsaProblem(rsa.bits, rsa.exponent);
  if (problem !== undefined) return problem;
  if (attributes === SRK_ATTRIBUTES) return 'a storage root key (SRK), not an endorsement key';
  if (attributes !== EK_ATTRIBUTES)
    return `not an endorsement key of TCG template L-1: its attributes are 0x${attributes.toString(16).padStart(8, '0')}, not 0x000300b2`;
  if (!authPolicy.equals(EK_AUTH_POLICY))
    return 'not an endorsement key of TCG template L-1: it has another authorization policy';
  return undefined;
}

// Public keys and certificates

const rsa2048Only = 'and DPS takes RSA 2048 endorsement keys only';

function rsaProblem(bits: number, exponent: number | bigint): string | undefined {
  if (bits !== 2048) return `an RSA ${bits} key, ${rsa2048Only}`;
  if (BigInt(exponent) !== 65537n)
    return `an RSA key with the exponent ${exponent}, and that of an endorsement key is 65537`;
  return undefined;
}

/** OBJECT IDENTIFIER 2.23.133.10.1: keys of tpm2-openssl and tpm2-tss-engine, wrapped by a TPM. */
const TSS2_KEY = Buffer.from('06066781050a01', 'hex');

/** What begins with a SEQUENCE, told apart by what the sequence begins with. */
function recognizeDer(bytes: Buffer, notations: Notations): Recognition {
  const whole = derElement(bytes);
  if (whole === undefined) return unrecognized('this begins like DER, but is damaged');
  const first = derElement(bytes, whole.start);
  const second = first === undefined ? undefined : derElement(bytes, first.end);
  if (first?.tag === derTag.integer && first.end - first.start === 1) {
    // PKCS#1 and PKCS#8 private keys begin with version 0, or 1 as SEC 1 does; PKCS#12 with 3.
    return (bytes[first.start] ?? 0) <= 2
      ? privateKey()
      : unrecognized('this is a PKCS#12 container, or other DER');
  }
  if (first?.tag === derTag.sequence && second?.tag === derTag.octetString) return privateKey();
  if (first?.tag === derTag.oid && bytes.includes(TSS2_KEY)) return privateKey();
  if (whole.end > bytes.length)
    return unrecognized(`this is DER that is cut off: ${bytes.length} of ${whole.end} bytes`);
  if (first?.tag === derTag.integer)
    return recognizePublicKey(bytes, whole.end, 'PKCS#1 public key', notations);
  if (first?.tag === derTag.sequence && second?.tag === derTag.bitString)
    return recognizePublicKey(bytes, whole.end, 'public key', notations);
  if (first?.tag === derTag.sequence && second?.tag === derTag.sequence)
    return recognizeCertificateArea(bytes, notations);
  return unrecognized('this is DER of something else than a public key or certificate');
}

function recognizePublicKey(
  bytes: Buffer,
  end: number,
  form: 'public key' | 'PKCS#1 public key',
  notations: Notations,
): Recognition {
  if (end < bytes.length) return unrecognized(`${bytes.length - end} bytes follow the public key`);
  try {
    const type = form === 'public key' ? 'spki' : 'pkcs1';
    const marked = form === 'public key' ? rsaesOaepKey(bytes) : undefined;
    return keyResult(marked ?? createPublicKey({ key: bytes, format: 'der', type }), form, notations);
  } catch {
    return unrecognized('this looks like the DER of a public key, but is damaged');
  }
}

/** OBJECT IDENTIFIER 2.5.29.15, the extension keyUsage. */
const KEY_USAGE = Buffer.from('0603551d0f', 'hex');

function recognizeCertificateArea(area: Buffer, notations: Notations): Recognition {
  const parts = splitCertificateArea(area);
  if (parts === undefined) return unrecognized('this looks like a certificate, but is cut off or damaged');
  const { certificate: der, hasHeader, rest } = parts;
  if (!isPadding(rest))
    return unrecognized(`${rest.length} bytes follow the certificate that are no padding`);
  const [container = 'DER', ...encodings] = notations;
  const written = [
    container,
    ...(hasHeader ? ['TCG header'] : []),
    ...(rest.length > 0 ? ['padded'] : []),
    ...encodings,
  ];
  const modulus = modulusOfUsual(der);
  if (modulus !== undefined) {
    const usual = modulusResult(modulus, 'EK certificate', written);
    return usual.kind === 'endorsement-key' ? { ...usual, certificate: der } : usual;
  }
  let certificate: X509Certificate;
  try {
    certificate = opensslView(der);
  } catch {
    return unrecognized('this looks like the DER of a certificate, but is none or damaged');
  }
  // A certificate made with openssl's defaults for a rehearsal says CA, but no keyUsage; those of authorities have it.
  if (certificate.ca && der.includes(KEY_USAGE)) return authority(written);
  const key = publicKeyOfCertificate(certificate);
  if (key === undefined) return unrecognized('the public key in this certificate cannot be read');
  const found = keyResult(key, 'EK certificate', written);
  return found.kind === 'endorsement-key' ? { ...found, certificate: der } : found;
}

/** BasicConstraints of whoever is no authority, as DER has them. */
const NO_AUTHORITY = Buffer.from('3000', 'hex');

/**
 * The modulus of a usual EK certificate, which says that it is no authority's: of a hundred thousand of them in a list all
 * are like that, and OpenSSL would take four times as long. Undefined where there is anything to be said about it.
 */
function modulusOfUsual(der: Buffer): Buffer | undefined {
  try {
    const { extensions, keyInfo } = certificateParts(der);
    const key = rsaPublicKey(keyInfo);
    const isPlain = extensions.get('2.5.29.19')?.value.equals(NO_AUTHORITY) === true;
    const isUsable =
      key?.modulus.length === MODULUS_BYTES && isModulus(key.modulus) && key.exponent === 65537;
    return isPlain && isUsable ? key.modulus : undefined;
  } catch {
    return undefined;
  }
}

function authority(notations: Notations): Recognition {
  return {
    kind: 'other-key',
    form: 'certificate',
    input: described('certificate', notations),
    problem: 'this is the certificate of a certificate authority, not that of an endorsement key',
  };
}

function isAuthority(found: Recognition): boolean {
  return found.kind === 'other-key' && found.form === 'certificate';
}

function keyResult(
  key: KeyObject,
  form: 'public key' | 'PKCS#1 public key' | 'EK certificate',
  notations: Notations,
): Recognition {
  const problem = keyObjectProblem(key);
  if (problem !== undefined) {
    const name = form === 'EK certificate' ? 'certificate' : form;
    const input = described(name, notations);
    const holds = name === 'certificate' ? 'is for' : 'is';
    return { kind: 'other-key', form, input, problem: `this ${name} ${holds} ${problem}` };
  }
  const modulus = Buffer.from(key.export({ format: 'jwk' }).n ?? '', 'base64url');
  return modulusResult(modulus, form, notations);
}

function keyObjectProblem(key: KeyObject): string | undefined {
  const { modulusLength, publicExponent, namedCurve } = key.asymmetricKeyDetails ?? {};
  if (key.asymmetricKeyType === 'ec') return `an ECC key (${namedCurve ?? 'unnamed curve'}), ${rsa2048Only}`;
  if (key.asymmetricKeyType === 'rsa-pss')
    return 'an RSA-PSS key, which only signs, and an endorsement key only decrypts';
  if (key.asymmetricKeyType !== 'rsa')
    return `a key of another kind (${key.asymmetricKeyType ?? 'unknown'}), ${rsa2048Only}`;
  return rsaProblem(modulusLength ?? 0, publicExponent ?? 0n);
}

// Bare moduli

const MODULUS_BYTES = EK_PUBLIC_BYTES - EK_PUBLIC_PREFIX.length;

/** Whether the number can be an RSA modulus of the full length of the bytes. */
function isModulus(bytes: Buffer): boolean {
  return ((bytes[0] ?? 0) & 0x80) !== 0 && ((bytes.at(-1) ?? 0) & 1) !== 0;
}

function recognizeModulus(modulus: Buffer, exponent: number | undefined, notations: Notations): Recognition {
  const problem = rsaProblem(modulus.length * 8 - leadingZeroBits(modulus), exponent ?? 65537);
  const form = 'bare modulus';
  if (problem === undefined) return modulusResult(modulus, form, notations);
  const input = described(form, notations);
  return { kind: 'other-key', form, input, problem: `this bare modulus is that of ${problem}` };
}

function leadingZeroBits(bytes: Buffer): number {
  return bytes.length === 0 ? 0 : Math.clz32(bytes[0] ?? 0) - 24;
}

function modulusResult(modulus: Buffer, form: KeyForm, notations: Notations): Recognition {
  const endorsementKey = Buffer.concat([EK_PUBLIC_PREFIX, modulus]);
  const input = described(form, notations);
  const problem = endorsementKeyProblem(endorsementKey);
  return problem === undefined
    ? { kind: 'endorsement-key', endorsementKey, form, notations, input }
    : { kind: 'other-key', form, input, problem };
}

// Words

function described(form: KeyForm, notations: Notations): string {
  return `${form} (${notations.join(', ')})`;
}

function unrecognized(problem: string): Recognition {
  return { kind: 'unrecognized', problem };
}

function privateKey(): Recognition {
  return { kind: 'private-key', problem: 'this is a private key: it does not belong here, and was not read' };
}

/** What bytes may be that are no key. */
function describeBytes(bytes: Buffer): string {
  const count = `${bytes.length} bytes`;
  const prefix = EK_PUBLIC_PREFIX.subarray(0, Math.min(EK_PUBLIC_PREFIX.length, bytes.length));
  if (bytes.length >= 4 && bytes.subarray(0, prefix.length).equals(prefix))
    return `a TPM2B_PUBLIC of ${count}, where an endorsement key has ${EK_PUBLIC_BYTES}`;
  const digits = bytes[0] === 0 ? bytes.subarray(1) : bytes;
  if (digits.length === MODULUS_BYTES) return `${count} that are not the modulus of an RSA 2048 key`;
  if ([128, 384, 512].includes(digits.length) && isModulus(digits))
    return `${count}, maybe the modulus of an RSA ${digits.length * 8} key, ${rsa2048Only}`;
  return `${count} that are no key or certificate`;
}
