/** Names in certificates (RFC 5280, 4.1.2.4): their attributes, how they are written, and when two are the same. */
import { wholeElement, contentOf } from '../certificate-parts.ts';
import { derElements, derObjectIdentifier, derTag, type DerElement } from '../der.ts';

export interface NameAttribute {
  /** Object identifier in dots. */
  readonly type: string;
  readonly value: string;
}

/** X.520, and what RFC 4514 and OpenSSL write for it. */
const shortNames: Readonly<Record<string, string>> = {
  '2.5.4.3': 'CN',
  '2.5.4.4': 'SN',
  '2.5.4.6': 'C',
  '2.5.4.7': 'L',
  '2.5.4.8': 'ST',
  '2.5.4.10': 'O',
  '2.5.4.11': 'OU',
  '2.5.4.12': 'T',
  '2.5.4.42': 'G',
  '2.5.4.43': 'I',
  '0.9.2342.19200300.100.1.25': 'DC',
  '1.2.840.113549.1.9.1': 'E',
};

/**
 * The attributes of a name, those that stand in one set together.
 * @param name DER
 * @throws TypeError, RangeError where it is none
 */
export function nameAttributes(name: Buffer): NameAttribute[][] {
  const whole = wholeElement(name, derTag.sequence);
  return derElements(name, whole.start, whole.end).map((set) => {
    if (set.tag !== derTag.set) throw new TypeError('a name cannot be read');
    return derElements(name, set.start, set.end).map((attribute) => {
      const [type, value, ...others] = derElements(name, attribute.start, attribute.end);
      if (type?.tag !== derTag.oid || value === undefined || others.length > 0) {
        throw new TypeError('a name cannot be read');
      }
      return { type: derObjectIdentifier(contentOf(name, type)), value: textOf(name, value) };
    });
  });
}

/** As RFC 4514 writes it, in the order of the certificate: `C=DE, O=Vendor, CN=Root`. */
export function nameText(name: Buffer): string {
  return nameAttributes(name)
    .map((set) => set.map(({ type, value }) => `${shortNames[type] ?? type}=${escaped(value)}`).join('+'))
    .join(', ');
}

/** The same for names that are the same (RFC 5280, 7.1): case, white space and kind of string do not count. */
export function nameKey(name: Buffer): string {
  const sets = nameAttributes(name).map((set) =>
    set.map(({ type, value }) => `${type}=${value.trim().replace(/\s+/g, ' ').toLowerCase()}`).toSorted(),
  );
  return JSON.stringify(sets);
}

function escaped(value: string): string {
  return value
    .replace(/[,+"\\<>;]/g, '\\$&')
    .replace(/^[ #]/, '\\$&')
    .replace(/ $/, '\\ ');
}

const LATIN: readonly number[] = [0x12, 0x13, 0x14, 0x16, 0x1a];
const UTF8 = 0x0c;
const BMP = 0x1e;

/** A string of any kind that names are written in; what is none in hex. */
function textOf(der: Buffer, element: DerElement): string {
  const content = contentOf(der, element);
  if (element.tag === UTF8) return content.toString('utf8');
  if (LATIN.includes(element.tag)) return content.toString('latin1');
  if (element.tag === BMP && content.length % 2 === 0)
    return Buffer.from(content).swap16().toString('utf16le');
  return `#${der.subarray(element.head, element.end).toString('hex')}`;
}
