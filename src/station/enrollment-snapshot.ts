/**
 * What the service held of the input's enrollments when it was read, page by page: one request for a thousand
 * enrollments instead of one for each. Kept in a temporary file, and in memory in some 30 bytes a row, however much the
 * service holds.
 */

import { createHash } from 'node:crypto';
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StoredEnrollment } from '../dps/enrollment.ts';

export interface SnapshotOptions {
  /** The registration ids that matter, in any order. */
  readonly ids: AsyncIterable<string>;
  /** How many there are at most. */
  readonly count: number;
  readonly pages: AsyncIterable<readonly StoredEnrollment[]>;
  /** How many pages to read at most. */
  readonly most: number;
}

export class EnrollmentSnapshot {
  /** How many were read. */
  readonly pages: number;
  readonly #places: PlaceIndex;
  readonly #file: TemporaryFile | undefined;
  #isComplete: boolean;

  private constructor(
    isComplete: boolean,
    pages: number,
    places: PlaceIndex,
    file: TemporaryFile | undefined,
  ) {
    this.#isComplete = isComplete;
    this.pages = pages;
    this.#places = places;
    this.#file = file;
  }

  /** All pages were read and can be read again: what is not in here was not in the service. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /**
   * What goes wrong with the pages, or with the temporary file, ends the reading, not the snapshot: it is incomplete then,
   * and holds what was whole by then. Without a temporary file nothing is asked of the service.
   */
  static async read({ ids, count, pages, most }: SnapshotOptions): Promise<EnrollmentSnapshot> {
    const places = new PlaceIndex(count);
    for await (const id of ids) places.add(id.toLowerCase());
    const file = await TemporaryFile.make();
    if (file === undefined) return new EnrollmentSnapshot(false, 0, places, undefined);
    let isComplete = true;
    let read = 0;
    try {
      for await (const page of pages) {
        read += 1;
        const found: (readonly [id: string, place: Place])[] = [];
        for (const stored of page) {
          const id = stored.registrationId.toLowerCase();
          if (places.has(id)) found.push([id, file.append(JSON.stringify(stored))]);
        }
        await file.flush();
        // Not before it is there: a full disk takes half of it.
        for (const [id, place] of found) places.set(id, place);
        if (read < most) continue;
        isComplete = false;
        break;
      }
    } catch {
      isComplete = false;
    }
    return new EnrollmentSnapshot(isComplete, read, places, file);
  }

  /**
   * Without regard to case. Undefined when it was not among what was read, or cannot be read back; the snapshot is
   * incomplete from then on.
   */
  async find(registrationId: string): Promise<StoredEnrollment | undefined> {
    const id = registrationId.toLowerCase();
    const place = this.#places.get(id);
    if (place === undefined) return undefined;
    try {
      const stored = JSON.parse((await this.#file?.read(place)) ?? '') as StoredEnrollment;
      // Another enrollment with the same digest.
      return stored.registrationId.toLowerCase() === id ? stored : undefined;
    } catch {
      this.#isComplete = false;
      return undefined;
    }
  }

  /** Whatever goes wrong with a file that nobody needs any more must not hide what the work ended with. */
  async close(): Promise<void> {
    await this.#file?.close().catch(() => undefined);
  }
}

interface Place {
  readonly offset: number;
  readonly length: number;
}

/** Digests of ids with a place each, in open addressing. Two ids with one digest share a place. */
class PlaceIndex {
  readonly #slots: number;
  /** 48 bits of the digest, plus one: 0 is a free slot. */
  readonly #digests: Float64Array;
  /** Plus one: 0 is no place. */
  readonly #offsets: Float64Array;
  readonly #lengths: Uint32Array;

  constructor(count: number) {
    this.#slots = Math.ceil(count * 1.5) + 8;
    this.#digests = new Float64Array(this.#slots);
    this.#offsets = new Float64Array(this.#slots);
    this.#lengths = new Uint32Array(this.#slots);
  }

  add(id: string): void {
    const digest = digestOf(id);
    this.#digests[this.#slotOf(digest)] = digest;
  }

  has(id: string): boolean {
    const digest = digestOf(id);
    return this.#digests[this.#slotOf(digest)] === digest;
  }

  set(id: string, place: Place): void {
    const slot = this.#slotOf(digestOf(id));
    this.#offsets[slot] = place.offset + 1;
    this.#lengths[slot] = place.length;
  }

  get(id: string): Place | undefined {
    const slot = this.#slotOf(digestOf(id));
    const offset = this.#offsets[slot] ?? 0;
    return offset === 0 ? undefined : { offset: offset - 1, length: this.#lengths[slot] ?? 0 };
  }

  /** Where the digest is, or where it belongs. */
  #slotOf(digest: number): number {
    let slot = digest % this.#slots;
    while (this.#digests[slot] !== 0 && this.#digests[slot] !== digest) slot = (slot + 1) % this.#slots;
    return slot;
  }
}

function digestOf(id: string): number {
  return createHash('sha256').update(id).digest().readUIntBE(0, 6) + 1;
}

/** For its owner only, and gone when it is closed, where the system allows also when the process is killed. */
class TemporaryFile {
  readonly #handle: FileHandle;
  readonly #dir: string;
  #end = 0;
  #pending: Buffer[] = [];

  private constructor(handle: FileHandle, dir: string) {
    this.#handle = handle;
    this.#dir = dir;
  }

  /** Undefined where there is no room or no right to make one. */
  static async make(): Promise<TemporaryFile | undefined> {
    let dir: string | undefined;
    let handle: FileHandle | undefined;
    try {
      dir = await mkdtemp(join(tmpdir(), 'iotdm-snapshot-'));
      handle = await open(join(dir, 'enrollments'), 'wx+', 0o600);
      // An open file that has no name any more lasts as long as the process; Windows does not do that.
      if (process.platform !== 'win32') await rm(dir, { recursive: true, force: true });
      return new TemporaryFile(handle, dir);
    } catch {
      await handle?.close().catch(() => undefined);
      if (dir !== undefined) await rm(dir, { recursive: true, force: true }).catch(() => undefined);
      return undefined;
    }
  }

  append(text: string): Place {
    const bytes = Buffer.from(text, 'utf8');
    const place = { offset: this.#end, length: bytes.length };
    this.#pending.push(bytes);
    this.#end += bytes.length;
    return place;
  }

  async flush(): Promise<void> {
    if (this.#pending.length === 0) return;
    const bytes = Buffer.concat(this.#pending);
    this.#pending = [];
    let position = this.#end - bytes.length;
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, position);
      done += bytesWritten;
      position += bytesWritten;
    }
  }

  async read({ offset, length }: Place): Promise<string> {
    const bytes = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      const { bytesRead } = await this.#handle.read(bytes, done, length - done, offset + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return bytes.toString('utf8', 0, done);
  }

  async close(): Promise<void> {
    await this.#handle.close();
    await rm(this.#dir, { recursive: true, force: true });
  }
}
