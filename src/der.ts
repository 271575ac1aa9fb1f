/**
 * The heads of DER elements (X.690, section 8.1): what a file begins with, where it ends, and what follows what inside
 * of it. What the values mean is for others to say.
 */

export interface DerElement {
  /** First byte, such as 0x30 for a SEQUENCE. */
  readonly tag: number;
  /** Offset of that byte. */
  readonly head: number;
  /** Offset of the contents. */
  readonly start: number;
  /** Offset behind the contents; greater than the length of the bytes when they are cut off. */
  readonly end: number;
}

export const derTag = {
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  boolean: 0x01,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** With more, an arc could be larger than a number is exact; none that is assigned is. */
const MAX_IDENTIFIER_BYTES = 64;

/** More than any certificate needs: lengths of up to 16 MiB. */
const MAX_LENGTH_BYTES = 3;

/** The element that begins at an offset, or undefined where none does. */
export function derElement(bytes: Buffer, offset = 0): DerElement | undefined {
  const tag = bytes[offset];
  const first = bytes[offset + 1];
  if (tag === undefined || first === undefined) return undefined;
  const start = offset + 2;
  if (first < 0x80) return { tag, head: offset, start, end: start + first };
  const count = first & 0x7f;
  if (count === 0 || count > MAX_LENGTH_BYTES || start + count > bytes.length) return undefined;
  return { tag, head: offset, start: start + count, end: start + count + bytes.readUIntBE(start, count) };
}

/**
 * The elements that fill another one, or the whole of the bytes.
 * @throws RangeError where one is not whole, or where they do not end where they should
 */
export function derElements(bytes: Buffer, start = 0, end = bytes.length): DerElement[] {
  const elements: DerElement[] = [];
  for (let at = start; at < end;) {
    const element = derElement(bytes, at);
    if (element === undefined || element.end > end)
      throw new RangeError('an element is longer than what holds it');
    elements.push(element);
    at = element.end;
  }
  return elements;
}

/** An object identifier in dots. @param content of its element */
export function derObjectIdentifier(content: Buffer): string {
  if (content.length === 0 || content.length > MAX_IDENTIFIER_BYTES || (content.at(-1) ?? 0) >= 0x80) {
    throw new RangeError('an object identifier cannot be read');
  }
  let text = '';
  let arc = 0;
  for (const byte of content) {
    if (arc === 0 && byte === 0x80) throw new RangeError('an object identifier cannot be read');
    arc = arc * 128 + (byte & 0x7f);
    if (byte >= 0x80) continue;
    if (text === '') {
      const root = Math.min(Math.floor(arc / 40), 2);
      text = `${root}.${arc - root * 40}`;
    } else text += `.${arc}`;
    arc = 0;
  }
  return text;
}
