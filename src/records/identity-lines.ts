/** Lines of a file that others append to meanwhile. */
import type { FileHandle } from 'node:fs/promises';

const MOST_BYTES = 256 * 1024;
const LF = 0x0a;

/**
 * The whole lines from an offset on, without their ends; a last line that has no end yet is not among them.
 * @param firstBytes how much is likely to be there
 */
export async function* linesOf(
  handle: FileHandle,
  from: number,
  firstBytes = MOST_BYTES,
): AsyncGenerator<{ readonly line: Buffer; readonly start: number }, void> {
  let held = Buffer.alloc(0);
  let start = from;
  for (let size = firstBytes; ; size = MOST_BYTES) {
    const piece = Buffer.allocUnsafe(size);
    const { bytesRead } = await handle.read(piece, 0, piece.length, start + held.length);
    if (bytesRead === 0) return;
    const news = piece.subarray(0, bytesRead);
    const bytes = held.length === 0 ? news : Buffer.concat([held, news]);
    let at = 0;
    for (let end = bytes.indexOf(LF); end !== -1; end = bytes.indexOf(LF, at)) {
      yield { line: bytes.subarray(at, end), start: start + at };
      at = end + 1;
    }
    start += at;
    // Less than was asked for is all there is.
    if (bytesRead < piece.length) return;
    held = Buffer.from(bytes.subarray(at));
  }
}
