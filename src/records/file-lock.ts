/**
 * Holds a file for one writer at a time, across processes and stations, by a lock directory beside it. Who holds it can
 * lose it: a process that was stopped, or a laptop that was suspended, is taken for dead and wakes up later. So a holder
 * asks, right before it writes, whether the lock is still its own.
 *
 * In the directory stands one file, whose name is its holder's alone. By it a holder knows its lock, and whoever removes
 * a dead one removes that file first, so that a lock which has come in its place stays.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { readdir, realpath, stat, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { IotdmError, systemErrorCode } from '../errors.ts';

export interface FileLockOptions {
  /** How long to wait for other writers, in milliseconds. */
  readonly waitMs?: number;
  /** A lock that its holder has not touched for this long while we watched belongs to a crashed process. */
  readonly staleMs?: number;
}

/** The lock as its holder has it. */
export interface FileLease {
  /**
   * To be called right before each write, with nothing awaited in between.
   * @throws LockLost where another process has taken the lock over
   */
  assertHeld(): void;
}

/** Thrown out of a task, it has the lock acquired once more and the task begun anew. */
export class LockLost extends Error {
  constructor() {
    super('the lock was taken over by another process');
    this.name = 'LockLost';
  }
}

/** How often a holder touches its lock. */
const TOUCH_MS = 1000;
/** Between two looks no more than this counts as watched: the watcher may have been stopped itself. */
const MOST_BETWEEN_LOOKS_MS = 1000;

/**
 * Runs the task while this process alone holds the file, which must exist, and passes on its result. A symbolic link
 * and what it points to are one file. The task may be begun more than once: see LockLost.
 * @throws IotdmError `input.locked` when others hold it for longer than `waitMs`
 */
export async function withFileLock<T>(
  file: string,
  task: (lease: FileLease) => Promise<T>,
  options: FileLockOptions = {},
): Promise<T> {
  const { waitMs = 30_000, staleMs = 5_000 } = options;
  const path = await realpath(file);
  const until = performance.now() + waitMs;
  for (;;) {
    const lock = await acquire(path, until, waitMs, staleMs);
    try {
      return await task(lock);
    } catch (error) {
      if (!(error instanceof LockLost) || performance.now() > until) throw asLocked(error, path, waitMs);
    } finally {
      lock.release();
    }
  }
}

async function acquire(file: string, until: number, waitMs: number, staleMs: number): Promise<HeldLock> {
  const place = `${file}.lock`;
  const watch = new LockWatch(place);
  for (let attempt = 0; ; attempt += 1) {
    const lock = HeldLock.tryTake(place);
    if (lock !== undefined) return lock;
    if ((await watch.untouchedMs()) > staleMs) {
      watch.removeDeadLock();
    } else if (performance.now() > until) {
      throw heldByOthers(file, waitMs);
    } else {
      await delay(Math.random() * Math.min(200, 10 * 2 ** Math.min(attempt, 5)));
    }
  }
}

function heldByOthers(file: string, waitMs: number): IotdmError {
  return new IotdmError(
    'input.locked',
    `${file} has been held by another process for ${Math.round(waitMs / 1000)} seconds (${file}.lock)`,
  );
}

function asLocked(error: unknown, file: string, waitMs: number): unknown {
  return error instanceof LockLost ? heldByOthers(file, waitMs) : error;
}

class HeldLock implements FileLease {
  readonly #place: string;
  readonly #mark: string;
  readonly #touching: NodeJS.Timeout;

  private constructor(place: string, mark: string) {
    this.#place = place;
    this.#mark = mark;
    this.#touching = setInterval(() => {
      const now = new Date();
      // Where it fails the lock is another's by now, which assertHeld() finds out.
      utimes(mark, now, now).catch(() => undefined);
    }, TOUCH_MS).unref();
    process.once('exit', this.release);
  }

  /** Undefined when another process holds the lock. */
  static tryTake(place: string): HeldLock | undefined {
    const isMade = wasFirst(() => {
      mkdirSync(place);
    });
    if (!isMade) return undefined;
    const name = randomUUID();
    const mark = join(place, name);
    try {
      writeFileSync(mark, `process ${process.pid} on ${hostname()}\n`, { flag: 'wx' });
      // Who is stopped before it has made its mark may find that it has made it in another's lock.
      const names = readdirSync(place);
      if (names.length === 1 && names[0] === name) return new HeldLock(place, mark);
      unlinkSync(mark);
    } catch (error) {
      // Taken for dead meanwhile.
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      rmSync(mark, { force: true });
      removeIfEmpty(place);
      throw error;
    }
    return undefined;
  }

  assertHeld(): void {
    if (!existsSync(this.#mark)) throw new LockLost();
  }

  /** Gives the lock back, if it is still this one. Synchronous, so that it can be done when the process exits. */
  readonly release = (): void => {
    process.removeListener('exit', this.release);
    clearInterval(this.#touching);
    if (remove(this.#mark)) removeIfEmpty(this.#place);
  };
}

/** Watches another process's lock by our own clock only, so that clocks of stations and file servers may differ. */
class LockWatch {
  readonly #place: string;
  #seen: Look | undefined;
  #lookedAt = 0;
  #watchedMs = 0;

  constructor(place: string) {
    this.#place = place;
  }

  /** For how long the lock has not changed while we watched, in milliseconds; 0 when it is gone. */
  async untouchedMs(): Promise<number> {
    const seen = await lookAt(this.#place);
    const now = performance.now();
    const isSame = seen !== undefined && seen.state === this.#seen?.state;
    this.#watchedMs = isSame ? this.#watchedMs + Math.min(now - this.#lookedAt, MOST_BETWEEN_LOOKS_MS) : 0;
    this.#seen = seen;
    this.#lookedAt = now;
    return this.#watchedMs;
  }

  /** Removes the lock that was watched, and no other that has come in its place: that one has another mark. */
  removeDeadLock(): void {
    const { names = [] } = this.#seen ?? {};
    this.#seen = undefined;
    if (names.every((name) => remove(join(this.#place, name)))) removeIfEmpty(this.#place);
  }
}

interface Look {
  readonly names: readonly string[];
  /** What tells one state of a lock from another. */
  readonly state: string;
}

/** Undefined when there is no lock. */
async function lookAt(place: string): Promise<Look | undefined> {
  try {
    const names = await readdir(place);
    // An empty one was left before it was marked, or is that of an earlier version, whose holder touches the directory.
    const { mtimeNs } = await stat(join(place, names[0] ?? ''), { bigint: true });
    return { names, state: `${names.join(' ')} ${mtimeNs}` };
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** False where it is gone already. */
function remove(mark: string): boolean {
  return wasFirst(() => {
    unlinkSync(mark);
  });
}

function removeIfEmpty(directory: string): void {
  wasFirst(() => {
    rmdirSync(directory);
  });
}

/** False where another process was faster: what was to be made is there, or what was to be removed is gone or in use. */
function wasFirst(change: () => void): boolean {
  try {
    change();
    return true;
  } catch (error) {
    const code = systemErrorCode(error) ?? '';
    if (['EEXIST', 'ENOENT', 'ENOTEMPTY'].includes(code)) return false;
    // Windows says so where somebody is looking at it just now.
    if (process.platform === 'win32' && ['EPERM', 'EACCES', 'EBUSY'].includes(code)) return false;
    throw error;
  }
}
