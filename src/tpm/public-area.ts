/** TPMT_PUBLIC of asymmetric keys, read from bytes without a TPM (TPM 2.0 Library, Part 2, section 12.2.4). */

import { decodeBase64 } from '../encoding.ts';

export interface PublicArea {
  /** TPM_ALG_ID of the key: RSA or ECC. */
  readonly type: number;
  readonly nameAlg: number;
  /** TPMA_OBJECT. */
  readonly attributes: number;
  readonly authPolicy: Buffer;
  /** Set for RSA keys; the exponent 0 of the TPM is given as 65537. */
  readonly rsa?: { readonly bits: number; readonly exponent: number; readonly modulus: Buffer };
  /** Set for ECC keys: TPM_ECC_CURVE. */
  readonly curve?: number;
}

const RSA = 0x0001;
const ECC = 0x0023;
const types: ReadonlySet<number> = new Set([RSA, ECC]);
const NULL = 0x0010;
const RSAES = 0x0015;
const ECDAA = 0x001a;

/** TPMI_ALG_HASH: SHA-1, SHA-256, SHA-384, SHA-512, SM3-256, SHA3-256, SHA3-384, SHA3-512. */
const hashes: ReadonlySet<number> = new Set([0x0004, 0x000b, 0x000c, 0x000d, 0x0012, 0x0027, 0x0028, 0x0029]);

/** Type, name algorithm, attributes and an empty policy: no TPMT_PUBLIC is shorter. */
const SHORTEST_BYTES = 10;

/** Why a text is not base64 of a TPM2B_PUBLIC, or undefined when it is; its content is the TPM's affair. */
export function publicAreaProblem(text: string): string | undefined {
  const bytes = decodeBase64(text);
  const size = (bytes?.length ?? 0) - 2;
  if (bytes !== undefined && size >= SHORTEST_BYTES && bytes.readUInt16BE(0) === size) return undefined;
  return 'base64 of a TPM2B_PUBLIC is expected';
}

/** The key that the bytes are the TPMT_PUBLIC of, all of them, or undefined for anything else. */
export function parsePublicArea(bytes: Buffer): PublicArea | undefined {
  // Told by its beginning first: to throw for every file that is something else would cost more than to read it.
  if (bytes.length < 4 || !types.has(bytes.readUInt16BE(0)) || !hashes.has(bytes.readUInt16BE(2)))
    return undefined;
  const reader = new Reader(bytes);
  try {
    const area = readPublicArea(reader);
    return reader.isAtEnd ? area : undefined;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function readPublicArea(reader: Reader): PublicArea {
  const type = reader.word();
  const nameAlg = reader.word();
  const head = { type, nameAlg, attributes: reader.long(), authPolicy: reader.sized() };
  // TPMT_SYM_DEF_OBJECT: key size and mode.
  if (reader.word() !== NULL) reader.skip(4);
  skipScheme(reader);
  if (type === RSA) {
    const bits = reader.word();
    const exponent = reader.long();
    return { ...head, rsa: { bits, exponent: exponent === 0 ? 65537 : exponent, modulus: reader.sized() } };
  }
  const curve = reader.word();
  // TPMT_KDF_SCHEME: its hash.
  if (reader.word() !== NULL) reader.skip(2);
  reader.sized();
  reader.sized();
  return { ...head, curve };
}

/** TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: nothing, a hash, or a hash and a counter. */
function skipScheme(reader: Reader): void {
  const scheme = reader.word();
  if (scheme === NULL || scheme === RSAES) return;
  reader.skip(scheme === ECDAA ? 4 : 2);
}

/** Throws RangeError where the bytes end. */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  word(): number {
    return this.#take(2).readUInt16BE();
  }

  long(): number {
    return this.#take(4).readUInt32BE();
  }

  /** TPM2B: two bytes of size, then that many bytes. */
  sized(): Buffer {
    return this.#take(this.word());
  }

  skip(count: number): void {
    this.#take(count);
  }

  #take(count: number): Buffer {
    const piece = this.#bytes.subarray(this.#at, this.#at + count);
    if (piece.length < count) throw new RangeError('the public area is cut off');
    this.#at += count;
    return piece;
  }
}
