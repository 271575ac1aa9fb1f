/** What an input is, whatever its files are called: by this a journal is known to belong to it. */
import { createHash } from 'node:crypto';

/** SHA-256 over the SHA-256 of each source, taken while they are read. */
export class InputDigest {
  readonly #whole = createHash('sha256');

  /** The bytes of one source on their way to whoever reads them; only what is read to its end counts. */
  async *of(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
    const hash = createHash('sha256');
    for await (const piece of source) {
      hash.update(piece);
      yield piece;
    }
    this.#whole.update(hash.digest());
  }

  /** Of all sources so far, in hex. To be called once. */
  hex(): string {
    return this.#whole.digest('hex');
  }
}
