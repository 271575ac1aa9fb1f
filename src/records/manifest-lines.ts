/**
 * A manifest line by line, as it is and not only as it should be: whole records, lines that are none, and the end that
 * a power loss has torn, each with the hash by which the next line refers to it.
 */
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { lineHash, MAX_LINE_BYTES, mayBeTorn, readManifestLine, type ManifestRecord } from './manifest.ts';

interface Place {
  /** 1-based. */
  readonly line: number;
  /** Of the first byte, in the file. */
  readonly offset: number;
  /** In bytes, without the line feed. */
  readonly length: number;
}

export type ManifestLine =
  | (Place & {
      readonly kind: 'record';
      readonly record: ManifestRecord;
      /** Of the bytes without the line feed, and without a carriage return before it. */
      readonly hash: string;
      /** False on a last line whose line feed is missing. */
      readonly terminated: boolean;
      /** A carriage return stands before the line feed: this program writes none. */
      readonly carriageReturn: boolean;
    })
  | (Place & { readonly kind: 'faulty'; readonly problem: string; readonly hash: string })
  /** The beginning of a record, or zeros, at the end of the file: never reported as recorded. */
  | (Place & { readonly kind: 'torn' });

const LF = 0x0a;
const CR = 0x0d;

/** Reads a manifest once, from its beginning; at most one line is in memory. */
export async function* readManifestLines(
  source: AsyncIterable<Buffer>,
): AsyncGenerator<ManifestLine, void, undefined> {
  let pending = new PendingLine(1, 0);
  for await (const chunk of source) {
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      pending.add(chunk.subarray(start, end));
      yield pending.finish(true);
      pending = pending.next();
      start = end + 1;
    }
    pending.add(chunk.subarray(start));
  }
  if (pending.length > 0) yield pending.finish(false);
}

/** A line whose end has not been read. Of one that is too long to be a record only the hash is kept. */
class PendingLine {
  length = 0;
  readonly #line: number;
  readonly #offset: number;
  #pieces: Buffer[] = [];
  readonly #hash = createHash('sha256');

  constructor(line: number, offset: number) {
    this.#line = line;
    this.#offset = offset;
  }

  add(piece: Buffer): void {
    if (piece.length === 0) return;
    this.length += piece.length;
    if (this.length <= MAX_LINE_BYTES) {
      this.#pieces.push(piece);
      return;
    }
    for (const held of this.#pieces) this.#hash.update(held);
    this.#pieces = [];
    this.#hash.update(piece);
  }

  next(): PendingLine {
    return new PendingLine(this.#line + 1, this.#offset + this.length + 1);
  }

  finish(terminated: boolean): ManifestLine {
    const place = { line: this.#line, offset: this.#offset, length: this.length };
    if (this.length > MAX_LINE_BYTES) {
      const problem = `this line is not a manifest record: it is longer than ${MAX_LINE_BYTES} bytes`;
      return { ...place, kind: 'faulty', problem, hash: this.#hash.digest('hex') };
    }
    const bytes =
      this.#pieces.length === 1 ? (this.#pieces[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#pieces);
    const carriageReturn = bytes.at(-1) === CR;
    const written = carriageReturn ? bytes.subarray(0, -1) : bytes;
    const hash = lineHash(written);
    const record = isUtf8(written)
      ? readManifestLine(written.toString('utf8'))
      : 'this line is not a manifest record: it holds bytes that are not UTF-8';
    if (typeof record !== 'string') {
      return { ...place, kind: 'record', record, hash, terminated, carriageReturn };
    }
    if (!terminated && mayBeTorn(bytes)) return { ...place, kind: 'torn' };
    return { ...place, kind: 'faulty', problem: record, hash };
  }
}
