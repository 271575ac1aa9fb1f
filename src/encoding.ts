/** Encodings that Node.js does not have: base32, and base64 that is refused unless it is canonical. */

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';

/** RFC 4648 base32 in lower case without padding, the form of DPS registration ids. */
export function base32(bytes: Buffer): string {
  const text = Buffer.allocUnsafe(Math.ceil((bytes.length * 8) / 5));
  let length = 0;
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text[length] = alphabet.charCodeAt((value >>> bits) & 31);
      length += 1;
    }
    value &= (1 << bits) - 1;
  }
  if (bits > 0) text[length] = alphabet.charCodeAt((value << (5 - bits)) & 31);
  return text.toString('latin1');
}

/** The bytes of what `base32` gives, or undefined for any other text. */
export function decodeBase32(text: string): Buffer | undefined {
  const bytes = Buffer.allocUnsafe(Math.floor((text.length * 5) / 8));
  let length = 0;
  let bits = 0;
  let value = 0;
  for (const character of text) {
    const digit = alphabet.indexOf(character);
    if (digit === -1) return undefined;
    value = (value << 5) | digit;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes[length] = value >>> bits;
      length += 1;
    }
    value &= (1 << bits) - 1;
  }
  return base32(bytes) === text ? bytes : undefined;
}

/** The bytes of canonical base64 (padding included, no white space), or undefined for any other text. */
export function decodeBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64');
  return text !== '' && bytes.toString('base64') === text ? bytes : undefined;
}

/** A handle or response code the way TPM tools print it: `0x81010001`. */
export function hex32(value: number): string {
  return `0x${(value >>> 0).toString(16).padStart(8, '0')}`;
}
