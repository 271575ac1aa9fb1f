/** Serial numbers as a barcode scanner types them: a line each, of which nothing is trusted. */
import { IotdmError } from '../../errors.ts';

/** What a label holds; far less than a line may have. */
export const MAX_SERIAL_CHARACTERS = 256;

/** What has no end by then is no line of a scanner. */
const MAX_LINE_BYTES = 4096;

/**
 * The lines of the input, without their ends. A line that is too long, or no UTF-8, comes as undefined, and those behind
 * it are read all the same.
 */
export async function* readLines(
  input: AsyncIterable<Buffer>,
): AsyncGenerator<string | undefined, void, undefined> {
  let line = new PendingLine();
  for await (const chunk of input) {
    let start = 0;
    // Scanners end a line with CR, LF or both; what stands between CR and LF is an empty line, which says nothing.
    for (let end = endOfLine(chunk, start); end !== -1; end = endOfLine(chunk, start)) {
      line.add(chunk.subarray(start, end));
      yield line.text();
      line = new PendingLine();
      start = end + 1;
    }
    line.add(chunk.subarray(start));
  }
  if (line.isBegun) yield line.text();
}

class PendingLine {
  #held: Buffer = Buffer.alloc(0);
  #isTooLong = false;

  get isBegun(): boolean {
    return this.#isTooLong || this.#held.length > 0;
  }

  add(piece: Buffer): void {
    if (this.#isTooLong || this.#held.length + piece.length > MAX_LINE_BYTES) this.#isTooLong = true;
    else this.#held = Buffer.concat([this.#held, piece]);
  }

  text(): string | undefined {
    if (this.#isTooLong) return undefined;
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(this.#held);
    } catch {
      return undefined;
    }
  }
}

/**
 * The serial number on a line.
 * @returns undefined for an empty line
 * @throws IotdmError `input.barcode`, which does not repeat what was read
 */
export function serialNumberOf(line: string | undefined): string | undefined {
  if (line === undefined) throw unreadable(`it is longer than ${MAX_LINE_BYTES} bytes, or no text`);
  const text = line.trim();
  if (text === '') return undefined;
  // Also what changes how a text is shown, such as the order of its characters.
  if (/[\p{C}\p{Zl}\p{Zp}]/u.test(text)) throw unreadable('control characters stand in it');
  if (text.length > MAX_SERIAL_CHARACTERS) {
    throw unreadable(`it has more than ${MAX_SERIAL_CHARACTERS} characters`);
  }
  return text;
}

function unreadable(why: string): IotdmError {
  return new IotdmError('input.barcode', `the barcode is no serial number: ${why}`);
}

function endOfLine(chunk: Buffer, from: number): number {
  const lf = chunk.indexOf(0x0a, from);
  const cr = chunk.indexOf(0x0d, from);
  if (lf === -1 || cr === -1) return Math.max(lf, cr);
  return Math.min(lf, cr);
}
