/**
 * Text files as factories send them, read piece by piece: UTF-8, UTF-16 with a byte order mark, which is what Excel
 * calls "Unicode text", and the encoding that somebody names. Refuses what is not text with the reason, and gives the
 * rest as checked chunks of UTF-8 or as numbered lines of bounded length.
 */
import { isUtf8 } from 'node:buffer';
import { IotdmError, systemErrorCode } from '../errors.ts';

/** Longest line, row or JSON element that is held in memory, in bytes. */
export const MAX_ROW_BYTES = 1024 * 1024;

export interface TextLine {
  /** 1-based. */
  readonly number: number;
  /** Without the line feed; a carriage return before it is still there. */
  readonly bytes: Buffer;
}

const LF = 0x0a;

/** The first bytes of files that people take for text, in hex. */
const signatures: readonly (readonly [string, string])[] = [
  ['89504e470d0a1a0a', 'a PNG image'],
  ['504b0304', 'a ZIP archive or an Excel workbook'],
  ['d0cf11e0a1b11ae1', 'an old Excel workbook'],
  ['25504446', 'a PDF document'],
  ['1f8b', 'a gzip archive'],
  ['ffd8ff', 'a JPEG image'],
];
const SIGNATURE_BYTES = 8;
const BOM = Buffer.from('efbbbf', 'hex');

/** Whether the bytes begin with the UTF-8 byte order mark. */
export function beginsWithBom(bytes: Buffer): boolean {
  return bytes.length >= BOM.length && bytes.subarray(0, BOM.length).equals(BOM);
}

/** Whether a text has more than `MAX_ROW_BYTES` bytes in UTF-8. */
export function tooLong(text: string): boolean {
  // No character of a JavaScript string has more than three bytes.
  return text.length * 3 > MAX_ROW_BYTES && Buffer.byteLength(text) > MAX_ROW_BYTES;
}

/**
 * The beginning of a file as text, whatever of its encodings it is in; a character that is cut off is left out.
 * @param encoding as for `readText`
 */
export function textOfHead(head: Buffer, encoding?: string): string {
  return new TextDecoder(utf16Of(head) ?? encoding ?? 'utf-8').decode(head, { stream: true });
}

/**
 * What an encoding is called by whoever decodes it, or undefined for a label that means nothing here.
 * @param label one of the WHATWG's Encoding standard, such as `utf-16le`, `windows-1252` or `latin1`
 */
export function encodingOfLabel(label: string): string | undefined {
  try {
    return new TextDecoder(label).encoding;
  } catch {
    return undefined;
  }
}

/**
 * The chunks of a text file: UTF-8 that is whole at every chunk's end, without NUL bytes and without the byte order
 * mark at the beginning.
 * @param kind what the file should be, with its article: `a CSV file`
 * @param encoding of a file without a byte order mark, as `encodingOfLabel` gives it; without one it is UTF-8
 * @throws IotdmError `input.invalid` naming what the file looks like, `input.unreadable` when the source fails
 */
export async function* readText(
  source: AsyncIterable<Buffer>,
  name: string,
  kind: string,
  encoding?: string,
): AsyncGenerator<Buffer, void, undefined> {
  let held: Buffer = Buffer.alloc(0);
  let at: Position | undefined;
  for await (const chunk of inUtf8(readable(source, name), name, kind, encoding)) {
    const bytes = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    const end = at === undefined && bytes.length < SIGNATURE_BYTES ? 0 : wholeCharacters(bytes);
    held = bytes.subarray(end);
    if (end === 0) continue;
    const text = checkText(bytes.subarray(0, end), at, name, kind);
    at = positionAfter(text, at);
    yield text;
  }
  if (held.length > 0) yield checkText(held, at, name, kind);
}

/**
 * The lines of a text file, in batches of what one chunk completed. The last line needs no line feed; an empty file
 * has no lines.
 * @throws IotdmError as `readText`, and `input.invalid` when a line is longer than `MAX_ROW_BYTES`
 */
export async function* readLines(
  source: AsyncIterable<Buffer>,
  name: string,
  kind: string,
  encoding?: string,
): AsyncGenerator<readonly TextLine[], void, undefined> {
  let pieces: Buffer[] = [];
  let pending = 0;
  let number = 1;
  for await (const chunk of readText(source, name, kind, encoding)) {
    const batch: TextLine[] = [];
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      const tail = chunk.subarray(start, end);
      const bytes = pieces.length === 0 ? tail : Buffer.concat([...pieces, tail]);
      if (bytes.length > MAX_ROW_BYTES) throw lineTooLong(name, number);
      batch.push({ number, bytes });
      pieces = [];
      pending = 0;
      number += 1;
      start = end + 1;
    }
    if (start < chunk.length) {
      pieces.push(chunk.subarray(start));
      pending += chunk.length - start;
      if (pending > MAX_ROW_BYTES) throw lineTooLong(name, number);
    }
    if (batch.length > 0) yield batch;
  }
  if (pieces.length > 0) yield [{ number, bytes: Buffer.concat(pieces) }];
}

/** An error at a place in a file, in the notation of compilers: `rows.csv:3:17: message`. */
export function inputError(name: string, line: number, column: number | null, message: string): IotdmError {
  const place = column === null ? `${name}:${line}` : `${name}:${line}:${column}`;
  return new IotdmError('input.invalid', `${place}: ${message}`, { details: { file: name, line, column } });
}

/**
 * The beginning of a source, and the whole source again from its first byte.
 * @param bytes how much to look at; fewer when the source is shorter
 */
export async function peek(
  source: AsyncIterable<Buffer>,
  bytes: number,
): Promise<{ head: Buffer; whole: AsyncIterable<Buffer> }> {
  const iterator = source[Symbol.asyncIterator]();
  const read: Buffer[] = [];
  let length = 0;
  while (length < bytes) {
    const next = await iterator.next();
    if (next.done === true) break;
    read.push(next.value);
    length += next.value.length;
  }
  return { head: Buffer.concat(read).subarray(0, bytes), whole: replay(read, iterator) };
}

async function* replay(
  read: readonly Buffer[],
  iterator: AsyncIterator<Buffer>,
): AsyncGenerator<Buffer, void> {
  try {
    yield* read;
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value;
  } finally {
    await iterator.return?.();
  }
}

const unreadable: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EISDIR: 'it is a directory',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
};

/** A failure of the file system as `input.unreadable`; anything else as it is. */
export function readFailure(name: string, cause: unknown): unknown {
  const code = systemErrorCode(cause);
  if (cause instanceof IotdmError || code === undefined) return cause;
  return new IotdmError('input.unreadable', `${name} cannot be read: ${unreadable[code] ?? code}`, { cause });
}

/** The same bytes; what goes wrong with a file is `input.unreadable`. */
export async function* readable(source: AsyncIterable<Buffer>, name: string): AsyncGenerator<Buffer, void> {
  try {
    yield* source;
  } catch (error) {
    throw readFailure(name, error);
  }
}

type Utf16 = 'utf-16le' | 'utf-16be';

function utf16Of(head: Buffer): Utf16 | undefined {
  if (head.length < 2) return undefined;
  const mark = head.readUInt16BE(0);
  if (mark === 0xfffe) return 'utf-16le';
  return mark === 0xfeff ? 'utf-16be' : undefined;
}

/** UTF-16 with its byte order mark, and a named encoding, as UTF-8; anything else as it is. */
async function* inUtf8(
  source: AsyncIterable<Buffer>,
  name: string,
  kind: string,
  named: string | undefined,
): AsyncGenerator<Buffer, void> {
  const { head, whole } = await peek(source, SIGNATURE_BYTES);
  const marked = utf16Of(head);
  const encoding = marked ?? (beginsWithBom(head) || named === 'utf-8' ? undefined : named);
  if (encoding === undefined) {
    yield* whole;
    return;
  }
  checkSignature(head, name, kind);
  const decoder = new TextDecoder(encoding, { fatal: true });
  let line = 1;
  const decode = (bytes?: Buffer): Buffer => {
    try {
      const text = bytes === undefined ? decoder.decode() : decoder.decode(bytes, { stream: true });
      const utf8 = Buffer.from(encoding === WINDOWS_1252 ? withoutControls(text) : text);
      line += countLineFeeds(utf8);
      return utf8;
    } catch (cause) {
      const begins = marked === undefined ? `it was to be read as ${encoding}` : 'it begins as UTF-16';
      const message = `${name} is not ${kind}: ${begins}, and at line ${line} or soon after it is not`;
      throw new IotdmError('input.invalid', message, {
        cause,
        details: { file: name, line, encoding: 'unknown' },
      });
    }
  };
  for await (const chunk of whole) {
    const text = decode(chunk);
    if (text.length > 0) yield text;
  }
  const rest = decode();
  if (rest.length > 0) yield rest;
}

const WINDOWS_1252 = 'windows-1252';

/** What the bytes 0x80 to 0x9f are in Windows-1252; a space where they are nothing. */
const WINDOWS_1252_SIGNS = '€ ‚ƒ„…†‡ˆ‰Š‹Œ Ž  ‘’“”•–—˜™š›œ žŸ';

/** Versions of Node.js decode Windows-1252 as if it were ISO 8859-1, whose control characters these would be. */
function withoutControls(text: string): string {
  return text.replaceAll(/[\u0080-\u009f]/g, (control) => {
    const sign = WINDOWS_1252_SIGNS[control.charCodeAt(0) - 0x80] ?? ' ';
    return sign === ' ' ? control : sign;
  });
}

function checkSignature(bytes: Buffer, name: string, kind: string): void {
  const hex = bytes.subarray(0, SIGNATURE_BYTES).toString('hex');
  const found = signatures.find(([signature]) => hex.startsWith(signature));
  if (found === undefined) return;
  throw new IotdmError('input.invalid', `${name} is not ${kind}: it looks like ${found[1]}`);
}

/** Of a byte in the file: both 1-based, the column in characters. */
interface Position {
  readonly line: number;
  readonly column: number;
}

/** Of the byte that follows these; they begin at `first`, or at the beginning of the file. */
function positionAfter(bytes: Buffer, first: Position = { line: 1, column: 1 }): Position {
  const lastFeed = bytes.lastIndexOf(LF);
  let column = lastFeed === -1 ? first.column : 1;
  for (let index = lastFeed + 1; index < bytes.length; index += 1) {
    if (((bytes[index] ?? 0) & 0xc0) !== 0x80) column += 1;
  }
  return { line: first.line + countLineFeeds(bytes), column };
}

/** The bytes as text of the file; `first` is undefined for the first ones, which may begin with a mark. */
function checkText(piece: Buffer, first: Position | undefined, name: string, kind: string): Buffer {
  if (first === undefined) checkSignature(piece, name, kind);
  const bytes = first === undefined && beginsWithBom(piece) ? piece.subarray(BOM.length) : piece;
  const nul = bytes.indexOf(0);
  if (nul !== -1) {
    const { line, column } = positionAfter(bytes.subarray(0, nul), first);
    const what = `this is not ${kind}: it holds NUL bytes, as binary files do, and UTF-16 text without a byte order mark`;
    throw new IotdmError('input.invalid', `${name}:${line}:${column}: ${what}`, {
      details: { file: name, line, column, encoding: 'unknown' },
    });
  }
  if (isUtf8(bytes)) return bytes;
  const end = endOfUtf8(bytes);
  const { line, column } = positionAfter(bytes.subarray(0, end), first);
  const byte = bytes.subarray(end, end + 1);
  const sign = withoutControls(byte.toString('latin1'));
  const shown = /[\u0080-\u00a0\u00ad]/.test(sign)
    ? ''
    : `, which is "${sign}" in the Windows code page 1252`;
  const problem = `this is not ${kind} in UTF-8: the byte 0x${byte.toString('hex')} stands here${shown}`;
  throw new IotdmError('input.invalid', `${name}:${line}:${column}: ${problem}`, {
    details: { file: name, line, column, encoding: 'unknown' },
  });
}

/** Where the bytes cease to be UTF-8: at a character's beginning. */
function endOfUtf8(bytes: Buffer): number {
  let end = 0;
  for (let feed = bytes.indexOf(LF); feed !== -1; feed = bytes.indexOf(LF, feed + 1)) {
    if (!isUtf8(bytes.subarray(end, feed))) break;
    end = feed + 1;
  }
  for (;;) {
    const next = end + lengthOfCharacter(bytes[end] ?? 0);
    if (next > bytes.length || !isUtf8(bytes.subarray(end, next))) return end;
    end = next;
  }
}

/** In bytes, by the first of them. */
function lengthOfCharacter(lead: number): number {
  if (lead < 0xc0) return 1;
  return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
}

function countLineFeeds(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(LF); at !== -1; at = bytes.indexOf(LF, at + 1)) count += 1;
  return count;
}

/** Length of the bytes without a UTF-8 sequence that is cut off at their end. */
function wholeCharacters(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte < 0x80) return bytes.length;
    if (byte >= 0xc0) {
      const needed = lengthOfCharacter(byte);
      return needed > back ? bytes.length - back : bytes.length;
    }
  }
  return bytes.length;
}

function lineTooLong(name: string, line: number): IotdmError {
  return inputError(name, line, 1, `the line is longer than ${MAX_ROW_BYTES} bytes`);
}
