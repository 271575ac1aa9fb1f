/**
 * Files that records are appended to, each ended by a line feed. What a loss of power has cut short is dropped when the
 * next record is written; what a full disk or a failing flush has left of a record is taken back; and nothing is ever
 * written over what another process has appended meanwhile.
 */
import { constants, fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { IotdmError, systemErrorCode, type ErrorDetails } from '../errors.ts';

export interface OpenOptions {
  /** What is appended goes to the disk in one step where the system can do that (open(2), O_DSYNC). */
  readonly writeThrough?: boolean;
  /** Of errors. */
  readonly details?: ErrorDetails;
}

export interface ScanOptions {
  /** How much is read at a time, in bytes. */
  readonly windowBytes: number;
  /** No record is longer, in bytes. The scan ends where one is. */
  readonly longestLine: number;
}

/** What a scan has found. */
export interface Extent {
  /** Length of the file. */
  readonly size: number;
  /** Length of its whole lines. */
  readonly end: number;
  /** What stands behind them, of which the beginning only where it is longer than a line may be. */
  readonly tail: Buffer;
}

export interface AppendOptions {
  /** Length that the file must still have: what was scanned, or what was appended last. */
  readonly size: number;
  /** How much of it stays; what is behind was cut short. `size` when absent. */
  readonly keep?: number;
  /** Called right before the file is changed; what it throws leaves the file as it is. */
  readonly assertHeld?: () => void;
}

const { O_RDWR, O_APPEND, O_CREAT, O_EXCL } = constants;
const O_DSYNC = (constants as Partial<typeof constants>).O_DSYNC;
const LF = 0x0a;

export class AppendLog {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #isWrittenThrough: boolean;

  private constructor(path: string, handle: FileHandle, isWrittenThrough: boolean) {
    this.path = path;
    this.#handle = handle;
    this.#isWrittenThrough = isWrittenThrough;
  }

  /**
   * Opens a file; a new one is its owner's only. One that is there is not changed by that. Throws system errors as they
   * are.
   * @param name what it is to people, such as `the manifest`
   * @throws IotdmError `usage.output-unwritable` for what is no regular file
   */
  static async open(path: string, name: string, options: OpenOptions = {}): Promise<AppendLog> {
    const { writeThrough = false, details = {} } = options;
    const flags = O_RDWR | O_APPEND | (writeThrough ? (O_DSYNC ?? 0) : 0);
    const handle = await openOrMake(path, flags);
    try {
      if (!(await handle.stat()).isFile()) {
        throw new IotdmError('usage.output-unwritable', `${name} ${path} is not a regular file`, { details });
      }
      return new AppendLog(path, handle, writeThrough);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /**
   * Reads the file once.
   * @param take gets whole lines with their line feeds, many at a time, and where they begin in the file
   */
  async scan(
    { windowBytes, longestLine }: ScanOptions,
    take: (lines: Buffer, offset: number) => void,
  ): Promise<Extent> {
    const { size } = await this.#handle.stat();
    let tail: Buffer = Buffer.alloc(0);
    let position = 0;
    while (position < size && tail.length <= longestLine) {
      const window = Buffer.allocUnsafe(Math.min(windowBytes, size - position));
      const { bytesRead } = await this.#handle.read(window, 0, window.length, position);
      if (bytesRead === 0) break;
      const bytes = tail.length === 0 ? window.subarray(0, bytesRead) : joined(tail, window, bytesRead);
      const end = bytes.lastIndexOf(LF) + 1;
      if (end > 0) take(bytes.subarray(0, end), position - tail.length);
      tail = bytes.subarray(end);
      position += bytesRead;
    }
    return { size, end: position - tail.length, tail };
  }

  /** Some bytes of the file; fewer where it ends. */
  async read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    const { bytesRead } = await this.#handle.read(bytes, 0, length, offset);
    return bytes.subarray(0, bytesRead);
  }

  /**
   * Appends whole lines, all of them or nothing. They are on disk when this returns true.
   * @returns false where the file has another length than the given one: somebody else has written, and nothing was
   * changed. Throws system errors as they are.
   */
  async append(lines: Buffer, options: AppendOptions): Promise<boolean> {
    const { size, keep = size, assertHeld } = options;
    const { fd } = this.#handle;
    // Nothing is awaited between the looks and the change: whoever is stopped here is stopped before or after both.
    if (fstatSync(fd).size !== size) return false;
    assertHeld?.();
    if (keep < size) ftruncateSync(fd, keep);
    try {
      if (this.#isWrittenThrough) await this.#writeThrough(lines);
      else writeWhole(fd, lines);
      // Appended behind what somebody has written in this very moment it is whole, but not where it belongs.
      if (fstatSync(fd).size !== keep + lines.length) throw new StrayWrite();
      if (!this.#isWrittenThrough) await this.#handle.sync();
      else if (O_DSYNC === undefined) await this.#handle.datasync();
    } catch (error) {
      this.#takeBack(lines, keep, assertHeld);
      if (error instanceof StrayWrite) return false;
      throw error;
    }
    return true;
  }

  /**
   * Drops what stands behind the whole lines, or everything, and flushes the file.
   * @returns false where the file has another length than the given one
   */
  async cut({ size, keep = size }: Pick<AppendOptions, 'size' | 'keep'>): Promise<boolean> {
    const { fd } = this.#handle;
    if (fstatSync(fd).size !== size) return false;
    if (keep < size) ftruncateSync(fd, keep);
    await this.#handle.sync();
    return true;
  }

  /** Resolves when all that stands in the file is on disk, its name in its directory included. */
  async sync(): Promise<void> {
    await this.#handle.sync();
    await this.syncName();
  }

  /** A new file survives a loss of power only when its directory entry does. Windows cannot sync a directory. */
  async syncName(): Promise<void> {
    if (process.platform === 'win32') return;
    const directory = await open(dirname(this.path), 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }

  /** Makes the file its owner's only. */
  async restrict(): Promise<void> {
    await this.#handle.chmod(0o600);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #writeThrough(bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, null);
      if (bytesWritten === 0) throw noRoom();
      done += bytesWritten;
    }
  }

  /** Removes what a failed append has left, where that is the end of the file and nothing of somebody else's. */
  #takeBack(lines: Buffer, keep: number, assertHeld: (() => void) | undefined): void {
    const { fd } = this.#handle;
    try {
      assertHeld?.();
      const { size } = fstatSync(fd);
      const start = Math.max(keep, size - lines.length);
      const left = Buffer.allocUnsafe(size - start);
      readSync(fd, left, 0, left.length, start);
      if (left.length > 0 && lines.subarray(0, left.length).equals(left)) ftruncateSync(fd, start);
    } catch {
      // As the last line it is dropped by whoever appends next; what has failed is thrown by the caller.
    }
  }
}

class StrayWrite extends Error {}

function writeWhole(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length;) {
    const written = writeSync(fd, bytes, done, bytes.length - done, null);
    if (written === 0) throw noRoom();
    done += written;
  }
}

function noRoom(): Error {
  return Object.assign(new Error('the file system took only part of the record'), { code: 'ENOSPC' });
}

function joined(tail: Buffer, window: Buffer, length: number): Buffer {
  return Buffer.concat([tail, window.subarray(0, length)]);
}

async function openOrMake(path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, flags | O_CREAT | O_EXCL, 0o600);
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
    return open(path, flags);
  }
}
