/**
 * Keys and connection strings travel in this class: it prints, serializes and inspects as `[secret]`, so that a
 * secret can only leave through a call that names its purpose.
 */
import { transcode } from 'node:buffer';

const shown = '[secret]';

export class Secret {
  #bytes: Buffer;

  private constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Takes over the buffer itself: it is overwritten by `wipe()`. */
  static fromBytes(bytes: Buffer): Secret {
    return new Secret(bytes);
  }

  /**
   * What a file holds, in UTF-8 and without a byte order mark: Windows PowerShell's `>` writes UTF-16, and Notepad puts a
   * mark before UTF-8. Bytes that are no text are taken as they are. The buffer is overwritten where it is not taken over.
   */
  static fromFile(bytes: Buffer): Secret {
    const text = utf16Text(bytes);
    if (text !== undefined) {
      bytes.fill(0);
      return new Secret(text);
    }
    return new Secret(
      bytes.subarray(0, UTF8_MARK.length).equals(UTF8_MARK) ? bytes.subarray(UTF8_MARK.length) : bytes,
    );
  }

  static fromText(text: string): Secret {
    return new Secret(Buffer.from(text, 'utf8'));
  }

  /** The live bytes, for handing to the TPM or the wire; do not keep or print them. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  /** The bytes as UTF-8 text. A JavaScript string cannot be overwritten: prefer `bytes` where there is a choice. */
  revealText(): string {
    return this.#bytes.toString('utf8');
  }

  /** Overwrites the bytes in memory; afterwards the secret is empty. */
  wipe(): void {
    this.#bytes.fill(0);
    this.#bytes = Buffer.alloc(0);
  }

  toString(): string {
    return shown;
  }

  toJSON(): string {
    return shown;
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return shown;
  }
}

const UTF8_MARK = Buffer.from('efbbbf', 'hex');

/** Letters, digits and punctuation of Europe end here: what lies above is no text, but a key of bytes. */
const LAST_LETTER = 0x20ff;

/** The bytes as UTF-8 where they are UTF-16 with its byte order mark, and text. */
function utf16Text(bytes: Buffer): Buffer | undefined {
  if (bytes.length < 4 || bytes.length % 2 !== 0) return undefined;
  const mark = bytes.readUInt16BE(0);
  if (mark !== 0xfffe && mark !== 0xfeff) return undefined;
  const units = Buffer.from(bytes.subarray(2));
  if (mark === 0xfeff) units.swap16();
  let isText = true;
  for (let at = 0; at < units.length; at += 2) {
    const unit = units.readUInt16LE(at);
    if (unit === 0 || unit > LAST_LETTER) isText = false;
  }
  const text = isText ? transcode(units, 'utf16le', 'utf8') : undefined;
  units.fill(0);
  return text;
}

/** Values after which a text is not fit to be shown: private keys, SAS keys, signatures and bearer tokens. */
const secretPatterns: readonly [RegExp, string][] = [
  [/-----BEGIN [A-Z0-9 ]*PRIVATE KEY[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)/g, shown],
  // Not the `…` that stands for a key where a message shows the form of a connection string.
  [/(shared\s*access\s*key\s*=\s*)(?!…(?:[;\s'"&]|$))[^;\s'"&]+/gi, `$1${shown}`],
  [/((?:primary|secondary)Key"?\s*[:=]\s*"?)[A-Za-z0-9+/=]{16,}/gi, `$1${shown}`],
  [/(\bsig=)[^&\s'"]+/gi, `$1${shown}`],
  // A SAS key by itself: base64 of 32 or 64 bytes. Endorsement keys and registration ids have other lengths.
  [/(?<![A-Za-z0-9+/_-])(?:[A-Za-z0-9+/_-]{43}=|[A-Za-z0-9+/_-]{86}==)(?!=)/g, shown],
  // The password of a proxy's or service's address.
  [/(:\/\/[^\s/@:]*:)[^\s/@]+(?=@)/g, `$1${shown}`],
  [/(\bBasic\s+)[A-Za-z0-9+/]{8,}=*/g, `$1${shown}`],
  [/(\bBearer\s+)[A-Za-z0-9._~+/-]+=*/g, `$1${shown}`],
];

/**
 * The same text with everything that looks like a SAS key, signature or token replaced. The second line of defence:
 * messages are built without secrets in the first place, but they may quote what a user typed or a peer answered.
 */
export function redact(text: string): string {
  return secretPatterns.reduce(
    (result, [pattern, replacement]) => result.replace(pattern, replacement),
    text,
  );
}
