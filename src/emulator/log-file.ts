/** Files that are logs of changes, one JSON document a line: what the emulator's stores have in common. */

import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { because, IotdmError } from '../errors.ts';

const ownerOnly = 0o600;

/** A log whose end is open: whole lines are appended, or nothing at all. */
export class LogFile {
  readonly #file: string;
  #descriptor: number | undefined;
  #length: number;

  /** Makes the file where there is none. Throws system errors as they are. */
  constructor(file: string) {
    this.#file = file;
    this.#descriptor = openSync(file, 'a+', ownerOnly);
    this.#length = fstatSync(this.#descriptor).size;
  }

  /** @returns where the text begins in the file, in bytes */
  append(text: string): number {
    const descriptor = this.#open();
    const bytes = Buffer.from(text, 'utf8');
    try {
      writeAll(descriptor, bytes);
    } catch (error) {
      this.#takeBack(descriptor);
      throw error;
    }
    const at = this.#length;
    this.#length += bytes.length;
    return at;
  }

  /** What was appended there, or stood there before. */
  read(at: number, length: number): string {
    const bytes = Buffer.allocUnsafe(length);
    const count = readSync(this.#open(), bytes, 0, length, at);
    if (count < length) throw new Error(`${this.#file} is shorter than it was`);
    return bytes.toString('utf8');
  }

  /** Flushes to disk; calling it again does nothing. */
  close(): void {
    if (this.#descriptor === undefined) return;
    fsyncSync(this.#descriptor);
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #open(): number {
    if (this.#descriptor === undefined) throw new Error(`${this.#file} is closed`);
    return this.#descriptor;
  }

  /** Removes what a failed write has left: half a line in the midst of the log could never be read again. */
  #takeBack(descriptor: number): void {
    try {
      ftruncateSync(descriptor, this.#length);
    } catch {
      // As the last line it will be dropped; nothing must be written behind it.
      closeSync(descriptor);
      this.#descriptor = undefined;
    }
  }
}

/** Writes the log anew, and puts it in the old one's place once it is whole. */
export function rewriteLog(file: string, pieces: Iterable<string>): void {
  const draft = `${file}.new`;
  rmSync(draft, { force: true });
  const descriptor = openSync(draft, 'wx', ownerOnly);
  try {
    for (const piece of pieces) writeAll(descriptor, Buffer.from(piece, 'utf8'));
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(draft, file);
}

/** @param at file and line, for the message @throws IotdmError `input.invalid` */
export function parseLogLine(line: string, at: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === 'object' && value !== null) return value as Readonly<Record<string, unknown>>;
  } catch {
    // Said below; the parser's own message would quote the line.
  }
  throw new IotdmError('input.invalid', `${at} is damaged`, { details: because('emulator-state') });
}

function writeAll(descriptor: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length;) done += writeSync(descriptor, bytes, done);
}
