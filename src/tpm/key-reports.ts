/**
 * Keys in what programs print about them: Limpet's XML and tables, JSON, hex dumps of PowerShell and xxd, the text of
 * tpm2-tools. From text to bytes, and what a text says that holds no key; what the bytes are is for others to say.
 */
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { EK_PUBLIC_BYTES, EK_PUBLIC_PREFIX } from './endorsement-key.ts';
import type { PublicArea } from './public-area.ts';

/** The text of a report, whatever characters of Windows code pages stand beside it; undefined for bytes that are none. */
export function reportText(bytes: Buffer): string | undefined {
  const mark = bytes.length < 2 ? 0 : bytes.readUInt16BE(0);
  let text = bytes.toString(isUtf8(bytes) ? 'utf8' : 'latin1');
  if (mark === 0xfffe) text = bytes.subarray(2).toString('utf16le');
  else if (mark === 0xfeff && bytes.length % 2 === 0)
    text = Buffer.from(bytes.subarray(2)).swap16().toString('utf16le');
  return text.includes('\0') ? undefined : text;
}

// Base64 in XML, JSON, CSV and tables

/** Shorter than any key or certificate that is looked for. */
const MIN_BASE64 = 300;
const EK_BASE64 = Math.ceil(EK_PUBLIC_BYTES / 3) * 4;
/** What every endorsement key begins with, in base64: as much of it as is whole characters. */
const EK_BASE64_PREFIX = EK_PUBLIC_PREFIX.subarray(0, 12).toString('base64');

/** The texts in a report that may be base64 of a key, each once. */
export function base64InReport(report: string): string[] {
  // JSON may be written with escapes for any character, and some programs do so for these.
  const text = report
    .replaceAll('\\/', '/')
    .replaceAll(/\\u002b/gi, '+')
    .replaceAll(/\\u003d/gi, '=');
  // Limpet puts the key between its tags; an editor may have put line breaks into it.
  const inXml = [...text.matchAll(/<[ES]RKPub>([^<]{1,2000})</gi)].map(([, content = '']) => content);
  // A terminal wraps what is longer than its line.
  const wrapped = text
    .split(EK_BASE64_PREFIX)
    .slice(1)
    .map((rest) => EK_BASE64_PREFIX + (/^[A-Za-z0-9+/=\s]*/.exec(rest.slice(0, 2 * EK_BASE64))?.[0] ?? ''));
  const whole = [...inXml, ...wrapped].map((found) => found.replaceAll(/\s/g, ''));
  const keys = whole.map((found) => (found.startsWith(EK_BASE64_PREFIX) ? found.slice(0, EK_BASE64) : found));
  const runs = (text.match(/[A-Za-z0-9+/]+={0,2}/g) ?? []).filter((run) => run.length >= MIN_BASE64);
  return [...new Set([...keys, ...runs])];
}

/** Where the report is in: `in XML`. */
export function kindOfReport(text: string): string {
  const begin = text.trimStart();
  if (begin.startsWith('<')) return 'in XML';
  return /^[[{]/.test(begin) ? 'in JSON' : 'in text';
}

// Hex dumps

/** One line of a dump: the offset, and what stands behind it. */
const dumpLine = /^\s*(?:0x)?([0-9a-f]{4,16})(?::|\s|$)\s{0,8}(.*)$/i;
const DUMP_WIDTH = 16;

/**
 * The bytes of the hex dumps in a text, as Format-Hex of PowerShell 5 and 7, xxd and hexdump -C write them: an offset,
 * bytes, and their characters. Each line must stand at the offset that it names.
 */
export function hexDumps(text: string): Buffer[] {
  const dumps: Buffer[] = [];
  let lines: { readonly offset: number; readonly rest: string }[] = [];
  const end = (): void => {
    const dump = bytesOfDump(lines);
    if (dump !== undefined) dumps.push(dump);
    lines = [];
  };
  for (const line of text.split(/\r*\n/)) {
    const [, digits = '', rest = ''] = dumpLine.exec(line) ?? [];
    if (digits === '') continue;
    const offset = Number.parseInt(digits, 16);
    if (offset === 0) end();
    lines.push({ offset, rest });
  }
  end();
  return dumps;
}

function bytesOfDump(
  lines: readonly { readonly offset: number; readonly rest: string }[],
): Buffer | undefined {
  if (lines.length < 2) return undefined;
  const pieces: Buffer[] = [];
  let length = 0;
  for (const [index, { offset, rest }] of lines.entries()) {
    if (offset !== length) return undefined;
    const next = lines[index + 1];
    const piece = bytesOfLine(rest, next === undefined ? DUMP_WIDTH : Math.min(next.offset - offset, 64));
    pieces.push(piece);
    length += piece.length;
  }
  return Buffer.concat(pieces);
}

/** As many bytes as there are in front of the characters, at most `limit`. */
function bytesOfLine(rest: string, limit: number): Buffer {
  const group = /((?:[0-9a-f]{2}){1,8})(?:( {1,2})(?=[^ ])|\s*$|\s)/iy;
  let hex = '';
  while (hex.length < limit * 2) {
    const [, digits = '', gap = ' '] = group.exec(rest) ?? [];
    if (digits === '' || hex.length + digits.length > limit * 2) break;
    hex += digits;
    // hexdump -C leaves a gap in the middle; elsewhere it is the one in front of the characters.
    if (gap.length > 1 && hex.length !== DUMP_WIDTH) break;
    if (rest.slice(group.lastIndex - 1, group.lastIndex + 1) === '  ' && gap.length === 1) break;
  }
  return Buffer.from(hex, 'hex');
}

/** The bytes of a list of decimal numbers, one a line, as PowerShell prints an array; undefined for other text. */
export function decimalBytes(text: string): Buffer | undefined {
  if (!/^[0-9\s,;]+$/.test(text)) return undefined;
  const numbers = text.split(/[\s,;]+/).filter((number) => number !== '');
  const isList =
    numbers.length > 1 && numbers.every((number) => number.length <= 3 && Number(number) <= 0xff);
  return isList ? Buffer.from(numbers.map(Number)) : undefined;
}

// tpm2-tools

/** A public area as tpm2_readpublic prints it. */
export interface PrintedArea {
  readonly area: PublicArea;
  /** Whether symmetric algorithm and scheme are those of template L-1: AES-128-CFB, none. */
  readonly hasUsualAlgorithms: boolean;
  /** The name that stands with it, in hex; empty where there is none. */
  readonly name: string;
}

const RSA = 0x0001;
const ECC = 0x0023;

/**
 * The public areas in the YAML that tpm2_readpublic, tpm2_print and their like write. A text that is cut off gives
 * `undefined` in the place of an area.
 */
export function printedAreas(report: string): (PrintedArea | undefined)[] {
  const text = report.replaceAll('\r\n', '\n');
  if (!/^name-alg:\s*$/m.test(text)) return [];
  const parts = text.split(/^(?=name: )|(?<!^name: .*\n(?:qualified name: .*\n)?)^(?=name-alg:)/m);
  return parts.filter((part) => /^name-alg:\s*$/m.test(part)).map(printedArea);
}

function printedArea(yaml: string): PrintedArea | undefined {
  const value = (key: string): string => new RegExp(`^${key}: *([^\\s].*?)\\s*$`, 'm').exec(yaml)?.[1] ?? '';
  const raw = (key: string): number =>
    Number(
      new RegExp(`^${key}:\\s*\\n(?:[ \\t]+value:.*\\n)?[ \\t]+raw: *(0x[0-9a-f]+)`, 'im').exec(yaml)?.[1],
    );
  const type = raw('(?:type|algorithm)');
  const head = { type, nameAlg: raw('name-alg'), attributes: raw('attributes') };
  const authPolicy = Buffer.from(value('authorization policy'), 'hex');
  const name = value('name').toLowerCase();
  const hasUsualAlgorithms =
    raw('sym-alg') === 0x0006 &&
    raw('sym-mode') === 0x0043 &&
    value('sym-keybits') === '128' &&
    raw('scheme') === 0x0010;
  if (type === ECC) {
    const curve = raw('curve-id');
    return {
      area: { ...head, authPolicy, ...(Number.isNaN(curve) ? {} : { curve }) },
      hasUsualAlgorithms,
      name,
    };
  }
  const [bits, exponent] = [Number(value('bits')), Number(value('exponent'))];
  const modulus = Buffer.from(value('rsa'), 'hex');
  const isWhole =
    type === RSA && modulus.length > 0 && modulus.length * 8 === bits && Number.isInteger(head.attributes);
  if (!isWhole || !Number.isInteger(exponent) || value('exponent') === '') return undefined;
  return {
    area: { ...head, authPolicy, rsa: { bits, exponent: exponent === 0 ? 65537 : exponent, modulus } },
    hasUsualAlgorithms,
    name,
  };
}

/** TPM name of an object whose nameAlg is SHA-256: nameAlg and digest of the TPMT_PUBLIC, in hex. */
export function nameOfArea(publicArea: Buffer): string {
  return `000b${createHash('sha256').update(publicArea).digest('hex')}`;
}

// What is no key

const digitsOnly = (count: number): RegExp =>
  new RegExp(
    `^\\W*(?:(?:sha-?(?:1|256) )?(?:thumb|finger)print\\W*|PublicKeyHash\\W*)?(?:[0-9a-f]{2}[ :-]?){${count}}\\s*$`,
    'i',
  );
const sha1 = digitsOnly(20);
const sha256 = digitsOnly(32);
const rawData = '(Get-TpmEndorsementKeyInfo).PublicKey.RawData | Format-Hex gives the key';

/** What a text is that names a key or certificate and does not hold it, or undefined for anything else. */
export function digestProblem(text: string): string | undefined {
  // What is copied out of Windows' certificate window begins with a mark that nobody sees.
  const plain = text.replaceAll(/[\u200e\u200f\ufeff]/g, '').trim();
  if (sha1.test(plain))
    return `this is a thumbprint, by which Windows names a certificate: no key follows from it; export the certificate itself, or ${rawData}`;
  if (sha256.test(plain))
    return `this is a SHA-256 digest, such as a PublicKeyHash, or a registration id in hex: no key follows from it; ${rawData}`;
  if (/^[a-z2-7]{52}$/.test(plain))
    return 'this is a registration id, which follows from the key, and not the other way round';
  if (/^\s*PublicKeyHash\s*:/im.test(plain))
    return `this is what Get-TpmEndorsementKeyInfo shows, digests and thumbprints, not the key; ${rawData}`;
  if (/^\s*<[ES]RKPub\s*(?:\/>|>\s*<\/)/im.test(plain))
    return 'Limpet has printed an empty element here: it could not read the key';
  return undefined;
}
