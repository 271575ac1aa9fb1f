/** Makes one manifest of several: verified first, ordered by time, each device once, with a chain of its own. */
import { open, stat, type FileHandle } from 'node:fs/promises';
import { because, IotdmError, systemErrorCode } from '../errors.ts';
import { lineHash, parseManifestLine, relinkedLine } from '../records/manifest.ts';
import { readFailure } from '../records/text-source.ts';
import { FirstSeen } from './first-seen.ts';
import { checkManifests, pairOf, type ManifestCheck } from './manifest-check.ts';

export interface MergedManifest {
  /** Lines in order of `harvestedAt`, each with its line feed; can be read once. */
  readonly lines: AsyncIterable<string>;
  /** What has been read from `lines` so far. */
  readonly progress: { records: number; repeated: number; lastHash: string | null };
}

export interface MergeOptions {
  /** The file that will be written: it must be none of the inputs. */
  readonly out: string;
  readonly signal?: AbortSignal;
}

/**
 * Verifies the files, and hands the check and, where nothing is wrong, the merged manifest to `use`. Records are read
 * again from the files as they are asked for; about thirty bytes of each are kept. Records that share EK and serial
 * number become one: the earliest.
 * @throws IotdmError `input.unreadable`, `usage.invalid` when `out` is one of the files, `verify.manifest` when a file
 * is changed meanwhile
 */
export async function withMergedManifest<T>(
  files: readonly string[],
  { out, signal }: MergeOptions,
  use: (check: ManifestCheck, merged: MergedManifest | undefined) => Promise<T>,
): Promise<T> {
  const handles: FileHandle[] = [];
  try {
    for (const file of files) handles.push(await openInput(file, out));
    const index = new RecordIndex();
    const sources = files.map((name, file) => ({ name, open: () => bytesOf(name, handles[file], signal) }));
    const check = await checkManifests(sources, {
      onRecord: (file, { offset, length, hash, record }) => {
        index.add({ file, offset, length, mark: markOf(hash) }, record.harvestedAt);
      },
    });
    if (!check.ok) return await use(check, undefined);
    const progress: MergedManifest['progress'] = { records: 0, repeated: 0, lastHash: null };
    const inputs = handles.map((handle, file) => new LineReader(files[file] ?? '', handle));
    return await use(check, { progress, lines: mergedLines(index, inputs, progress, signal) });
  } finally {
    await Promise.all(handles.map((handle) => handle.close()));
  }
}

async function* mergedLines(
  index: RecordIndex,
  inputs: readonly LineReader[],
  progress: MergedManifest['progress'],
  signal: AbortSignal | undefined,
): AsyncGenerator<string, void> {
  const pairs = new FirstSeen();
  for (const { file, offset, length, mark } of index.inOrderOfTime()) {
    signal?.throwIfAborted();
    const record = await inputs[file]?.recordAt(offset, length, mark);
    if (record === undefined) continue;
    const pair = pairOf(record.endorsementKey, record.serialNumber);
    if (pairs.seeAt(pair, { file: 0, line: progress.records }) !== undefined) {
      progress.repeated += 1;
      continue;
    }
    const line = relinkedLine(record, progress.lastHash);
    progress.lastHash = lineHash(line);
    progress.records += 1;
    yield `${line}\n`;
  }
}

async function openInput(file: string, out: string): Promise<FileHandle> {
  let handle: FileHandle;
  try {
    handle = await open(file, 'r');
  } catch (error) {
    throw readFailure(file, error);
  }
  try {
    const [input, output] = await Promise.all([handle.stat(), statIfThere(out)]);
    if (output?.dev !== input.dev || output.ino !== input.ino) return handle;
    // A station may be appending to it: what it appends meanwhile would be lost.
    throw new IotdmError('usage.invalid', `${out} is both an input and the output`);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function statIfThere(path: string): Promise<{ dev: number; ino: number } | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    // Whether it can be written is seen when it is written.
    if (systemErrorCode(error) !== undefined) return undefined;
    throw error;
  }
}

const WINDOW_BYTES = 64 * 1024;

async function* bytesOf(
  name: string,
  handle: FileHandle | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer, void> {
  try {
    for (let position = 0; ;) {
      signal?.throwIfAborted();
      const chunk = Buffer.allocUnsafe(WINDOW_BYTES);
      const { bytesRead } = (await handle?.read(chunk, 0, chunk.length, position)) ?? { bytesRead: 0 };
      if (bytesRead === 0) return;
      position += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } catch (error) {
    throw readFailure(name, error);
  }
}

interface RecordPlace {
  readonly file: number;
  readonly offset: number;
  readonly length: number;
  /** Shows a change of the file between the check and the copy. */
  readonly mark: number;
}

/** Where the records are and when they were made, as flat arrays of numbers. */
class RecordIndex {
  readonly #times: number[] = [];
  readonly #files: number[] = [];
  readonly #offsets: number[] = [];
  readonly #lengths: number[] = [];
  readonly #marks: number[] = [];

  add({ file, offset, length, mark }: RecordPlace, harvestedAt: string): void {
    this.#times.push(Date.parse(harvestedAt));
    this.#files.push(file);
    this.#offsets.push(offset);
    this.#lengths.push(length);
    this.#marks.push(mark);
  }

  /** Records of the same time in the order in which they were added. */
  *inOrderOfTime(): Generator<RecordPlace, void> {
    const times = this.#times;
    const order = Uint32Array.from(times, (_, number) => number);
    order.sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0) || a - b);
    for (const number of order) {
      yield {
        file: this.#files[number] ?? 0,
        offset: this.#offsets[number] ?? 0,
        length: this.#lengths[number] ?? 0,
        mark: this.#marks[number] ?? 0,
      };
    }
  }
}

/** 48 bits of a line's hash. */
function markOf(hash: string): number {
  return Number.parseInt(hash.slice(0, 12), 16);
}

/** Reads lines of one file anew, most often one behind the other. */
class LineReader {
  readonly #name: string;
  readonly #handle: FileHandle;
  #window: Buffer = Buffer.alloc(0);
  #position = 0;

  constructor(name: string, handle: FileHandle) {
    this.#name = name;
    this.#handle = handle;
  }

  async recordAt(
    offset: number,
    length: number,
    mark: number,
  ): Promise<NonNullable<ReturnType<typeof parseManifestLine>>> {
    const bytes = await this.#read(offset, length);
    const record = markOf(lineHash(bytes)) === mark ? parseManifestLine(bytes.toString('utf8')) : undefined;
    if (record !== undefined) return record;
    throw new IotdmError('verify.manifest', `${this.#name} was changed while it was read`, {
      details: because('changed-while-read', { file: this.#name }),
    });
  }

  async #read(offset: number, length: number): Promise<Buffer> {
    const start = offset - this.#position;
    if (start >= 0 && start + length <= this.#window.length)
      return this.#window.subarray(start, start + length);
    const window = Buffer.allocUnsafe(Math.max(WINDOW_BYTES, length));
    try {
      const { bytesRead } = await this.#handle.read(window, 0, window.length, offset);
      this.#window = window.subarray(0, bytesRead);
    } catch (error) {
      throw readFailure(this.#name, error);
    }
    this.#position = offset;
    return this.#window.subarray(0, length);
  }
}
