/**
 * The heads of DER elements (X.690, section 8.1): enough to tell what a file begins with and where it ends. What is
 * inside is read by node:crypto.
 */

export interface DerElement {
  /** First byte, such as 0x30 for a SEQUENCE. */
  readonly tag: number;
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
  sequence: 0x30,
} as const;

/** More than any certificate needs: lengths of up to 16 MiB. */
const MAX_LENGTH_BYTES = 3;

/** The element that begins at an offset, or undefined where none does. */
export function derElement(bytes: Buffer, offset = 0): DerElement | undefined {
  const tag = bytes[offset];
  const first = bytes[offset + 1];
  if (tag === undefined || first === undefined) return undefined;
  const start = offset + 2;
  if (first < 0x80) return { tag, start, end: start + first };
  const count = first & 0x7f;
  if (count === 0 || count > MAX_LENGTH_BYTES || start + count > bytes.length) return undefined;
  return { tag, start: start + count, end: start + count + bytes.readUIntBE(start, count) };
}
