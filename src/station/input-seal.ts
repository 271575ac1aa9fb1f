/** What an input is, whatever its files are called, and whether it still is that when it is read again. */
import { createHash } from 'node:crypto';
import { IotdmError } from '../errors.ts';

/** What was found when an input was checked. */
export interface InputSeal {
  /** SHA-256 over the digests of all blocks and over where each source ends, in hex: a journal knows its input by it. */
  readonly digest: string;
  /** SHA-256 of each block of each source. */
  readonly blocks: readonly (readonly Buffer[])[];
}

/**
 * As much as is held before it is known to be what was checked. With more, the rows of a block would outlive the cheap
 * part of the garbage collection.
 */
const BLOCK_BYTES = 64 * 1024;

/** Takes the seal of an input while it is read. */
export class InputSealer {
  readonly #sources: Buffer[][] = [];
  readonly #reading: string;

  /** @param reading how the bytes are read, where that is not the usual way: other rows are another input */
  constructor(reading = '') {
    this.#reading = reading;
  }

  /** The bytes of the next source on their way to whoever reads them. */
  async *of(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
    const blocks: Buffer[] = [];
    this.#sources.push(blocks);
    for await (const { bytes, digest } of blocksOf(source)) {
      blocks.push(digest);
      yield bytes;
    }
  }

  seal(): InputSeal {
    const whole = createHash('sha256').update(this.#reading);
    for (const blocks of this.#sources) whole.update(`${blocks.length}\n`).update(Buffer.concat(blocks));
    return { digest: whole.digest('hex'), blocks: this.#sources };
  }
}

/**
 * The bytes of a source that was sealed, none of which are given out before they are known to be the same.
 * @param blocks the seal's of this source
 * @throws IotdmError `input.changed`
 */
export async function* unchanged(
  source: AsyncIterable<Buffer>,
  name: string,
  blocks: readonly Buffer[],
): AsyncGenerator<Buffer, void> {
  let count = 0;
  for await (const { bytes, digest } of blocksOf(source)) {
    if (blocks[count]?.equals(digest) !== true) throw changed(name);
    count += 1;
    yield bytes;
  }
  if (count < blocks.length) throw changed(name);
}

async function* blocksOf(
  source: AsyncIterable<Buffer>,
): AsyncGenerator<{ readonly bytes: Buffer; readonly digest: Buffer }, void> {
  let held: Buffer = Buffer.alloc(0);
  for await (const piece of source) {
    // Files come in whole blocks, which are not copied.
    const bytes = held.length === 0 ? piece : Buffer.concat([held, piece]);
    let at = 0;
    for (; bytes.length - at >= BLOCK_BYTES; at += BLOCK_BYTES)
      yield block(bytes.subarray(at, at + BLOCK_BYTES));
    held = bytes.subarray(at);
  }
  if (held.length > 0) yield block(held);
}

function block(bytes: Buffer): { readonly bytes: Buffer; readonly digest: Buffer } {
  return { bytes, digest: createHash('sha256').update(bytes).digest() };
}

function changed(name: string): IotdmError {
  return new IotdmError('input.changed', `${name} has changed since it was checked`, {
    details: { file: name },
  });
}
