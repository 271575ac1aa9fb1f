/** Sources of bytes for readers, cut into chunks of any size. */

/** The bytes in chunks of `size`, so that every boundary falls somewhere awkward for small sizes. */
export async function* chunked(data: string | Buffer, size = 64 * 1024): AsyncGenerator<Buffer, void> {
  const bytes = Buffer.from(data);
  for (let at = 0; at < bytes.length; at += size) {
    await Promise.resolve();
    yield bytes.subarray(at, at + size);
  }
}

/** All items of an iterable. */
export async function collect<T>(items: AsyncIterable<T> | Iterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}
