/**
 * Text files as factories send them, read piece by piece: refuses what is not UTF-8 text with the reason, and gives
 * the rest as checked chunks or as numbered lines of bounded length.
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
  ['fffe', 'UTF-16 text'],
  ['feff', 'UTF-16 text'],
];
const SIGNATURE_BYTES = 8;
const BOM = Buffer.from('efbbbf', 'hex');

/** Whether the bytes begin with the UTF-8 byte order mark. */
export function beginsWithBom(bytes: Buffer): boolean {
  return bytes.length >= BOM.length && bytes.subarray(0, BOM.length).equals(BOM);
}

/**
 * The chunks of a text file: UTF-8 that is whole at every chunk's end, without NUL bytes and without the byte order
 * mark at the beginning.
 * @param kind what the file should be, with its article: `a CSV file`
 * @throws IotdmError `input.invalid` naming what the file looks like, `input.unreadable` when the source fails
 */
export async function* readText(
  source: AsyncIterable<Buffer>,
  name: string,
  kind: string,
): AsyncGenerator<Buffer, void, undefined> {
  let held: Buffer = Buffer.alloc(0);
  let line: number | undefined;
  for await (const chunk of readable(source, name)) {
    const bytes = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    const end = line === undefined && bytes.length < SIGNATURE_BYTES ? 0 : wholeCharacters(bytes);
    held = bytes.subarray(end);
    if (end === 0) continue;
    const text = checkText(bytes.subarray(0, end), line, name, kind);
    line = (line ?? 1) + countLineFeeds(text);
    yield text;
  }
  if (held.length > 0) yield checkText(held, line, name, kind);
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
): AsyncGenerator<readonly TextLine[], void, undefined> {
  let pieces: Buffer[] = [];
  let pending = 0;
  let number = 1;
  for await (const chunk of readText(source, name, kind)) {
    const batch: TextLine[] = [];
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      const tail = chunk.subarray(start, end);
      const bytes = pieces.length === 0 ? tail : Buffer.concat([...pieces, tail]);
      if (bytes.length > MAX_ROW_BYTES) throw tooLong(name, number);
      batch.push({ number, bytes });
      pieces = [];
      pending = 0;
      number += 1;
      start = end + 1;
    }
    if (start < chunk.length) {
      pieces.push(chunk.subarray(start));
      pending += chunk.length - start;
      if (pending > MAX_ROW_BYTES) throw tooLong(name, number);
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

function checkSignature(bytes: Buffer, name: string, kind: string): void {
  const hex = bytes.subarray(0, SIGNATURE_BYTES).toString('hex');
  const found = signatures.find(([signature]) => hex.startsWith(signature));
  if (found === undefined) return;
  throw new IotdmError('input.invalid', `${name} is not ${kind}: it looks like ${found[1]}`);
}

/** The bytes as text of the file; `firstLine` is undefined for the first ones, which may begin with a mark. */
function checkText(piece: Buffer, firstLine: number | undefined, name: string, kind: string): Buffer {
  if (firstLine === undefined) checkSignature(piece, name, kind);
  const bytes = firstLine === undefined && beginsWithBom(piece) ? piece.subarray(BOM.length) : piece;
  if (bytes.includes(0)) {
    throw new IotdmError(
      'input.invalid',
      `${name} is not ${kind}: it holds NUL bytes, as binary files and UTF-16 text do`,
    );
  }
  if (isUtf8(bytes)) return bytes;
  let line = firstLine ?? 1;
  let start = 0;
  for (
    let end = bytes.indexOf(LF);
    end !== -1 && isUtf8(bytes.subarray(start, end));
    end = bytes.indexOf(LF, start)
  ) {
    start = end + 1;
    line += 1;
  }
  throw new IotdmError(
    'input.invalid',
    `${name} is not ${kind}: line ${line} holds bytes that are not UTF-8`,
    {
      details: { file: name, line },
    },
  );
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
      const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
      return needed > back ? bytes.length - back : bytes.length;
    }
  }
  return bytes.length;
}

function tooLong(name: string, line: number): IotdmError {
  return inputError(name, line, null, `the line is longer than ${MAX_ROW_BYTES} bytes`);
}
