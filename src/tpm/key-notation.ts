/** How people write keys down: PEM, hexadecimal, base64, and what openssl prints. From text to bytes, nothing more. */

export interface PemBlock {
  /** What stands between `BEGIN` and the dashes, such as `PUBLIC KEY`. */
  readonly label: string;
  /** Undefined when it is not base64. */
  readonly bytes: Buffer | undefined;
}

export type Decoded =
  | { readonly notation: 'hex' | 'base64' | 'base64url'; readonly bytes: Buffer }
  /** `problem` is a clause: `one of its hexadecimal digits is missing`. */
  | { readonly notation: 'hex' | 'base64' | 'base64url'; readonly problem: string };

const UTF8_BOM = Buffer.from('efbbbf', 'hex');
const UTF16_LE_BOM = Buffer.from('fffe', 'hex');
const UTF16_BE_BOM = Buffer.from('feff', 'hex');

/**
 * The text of a file in ASCII, with a byte order mark or without, or in UTF-16 with one; undefined for anything else.
 * Around PEM other characters may stand, such as a name in a comment.
 */
export function keyText(bytes: Buffer): string | undefined {
  const text = decodeText(bytes);
  return /^[\t\n\r -~]*$/.test(text) || text.includes('-----BEGIN ') ? text.trim() : undefined;
}

function decodeText(bytes: Buffer): string {
  if (begins(bytes, UTF8_BOM)) return bytes.subarray(UTF8_BOM.length).toString('latin1');
  // Windows PowerShell redirects in UTF-16.
  if (begins(bytes, UTF16_LE_BOM)) return bytes.subarray(2).toString('utf16le');
  if (begins(bytes, UTF16_BE_BOM) && bytes.length % 2 === 0)
    return Buffer.from(bytes.subarray(2)).swap16().toString('utf16le');
  return bytes.toString('latin1');
}

function begins(bytes: Buffer, mark: Buffer): boolean {
  return bytes.subarray(0, mark.length).equals(mark);
}

/** Whether a text is, or holds, a private key in one of its text forms; also one that is cut off or damaged. */
export function holdsPrivateKeyText(text: string): boolean {
  return (
    /-----BEGIN [A-Z0-9 ]*PRIVATE KEY/.test(text) || /^[ \t]*(?:privateExponent|prime1|priv):/m.test(text)
  );
}

/** The whole PEM blocks of a text (RFC 7468), with any white space, or a written-out `\n`, where line ends should be. */
export function pemBlocks(text: string): PemBlock[] {
  const found = text.matchAll(/-----BEGIN ([A-Z0-9 #]+)-----([^-]*)-----END \1-----/g);
  return [...found].map(([, label = '', body = '']) => {
    const decoded = decodeBase64Text(body.replaceAll(/\\r|\\n/g, ' '));
    return { label, bytes: decoded !== undefined && 'bytes' in decoded ? decoded.bytes : undefined };
  });
}

const modulusText =
  /^(?:(?:RSA )?Public-Key: \(\d{1,6} bit\) )?Modulus ?[=:] ?([0-9a-f][0-9a-f: ]*?)(?: Exponent: (\d{1,15}) .*)?$/i;

/**
 * The modulus in what `openssl rsa -modulus` and `openssl rsa -pubin -text` print.
 * @returns the bytes without leading zeros, and the exponent where it is given
 */
export function opensslModulus(text: string): { modulus: Buffer; exponent: number | undefined } | undefined {
  // White space is made single first: a pattern that has to pass over runs of it can take quadratic time.
  const found = modulusText.exec(text.replaceAll(/\s+/g, ' '));
  if (found === null) return undefined;
  const hex = (found[1] ?? '').replaceAll(/[: ]/g, '').replace(/^(?:00)+/, '');
  if (hex.length % 2 !== 0) return undefined;
  return {
    modulus: Buffer.from(hex, 'hex'),
    exponent: found[2] === undefined ? undefined : Number(found[2]),
  };
}

/** Hexadecimal digits in any case, with white space, `:`, `-`, `,` or `0x` between them; undefined for other text. */
export function decodeHexText(text: string): Decoded | undefined {
  const digits = text.replaceAll(/(^|[\s:,-])0x/gi, '$1').replaceAll(/[\s:,-]/g, '');
  if (!/^[0-9a-f]+$/i.test(digits)) return undefined;
  if (digits.length % 2 !== 0)
    return { notation: 'hex', problem: 'one of its hexadecimal digits is missing' };
  return { notation: 'hex', bytes: Buffer.from(digits, 'hex') };
}

/** Base64 or base64url with white space in it, padded or not; undefined for text with other characters. */
export function decodeBase64Text(text: string): Decoded | undefined {
  const [, digits = '', padding = ''] = /^([A-Za-z0-9+/_-]+)(={0,2})$/.exec(text.replaceAll(/\s/g, '')) ?? [];
  if (digits === '') return undefined;
  const notation = /[_-]/.test(digits) ? 'base64url' : 'base64';
  if (notation === 'base64url' && /[+/]/.test(digits)) return undefined;
  const isWhole = digits.length % 4 !== 1 && (padding === '' || (digits.length + padding.length) % 4 === 0);
  const bytes = Buffer.from(digits, notation);
  if (!isWhole || bytes.toString(notation).replace(/=+$/, '') !== digits)
    return { notation, problem: 'its base64 is cut off or damaged' };
  return { notation, bytes };
}
