/** Holds a file for one writer at a time, across processes and stations, by a lock directory beside it. */
import { randomUUID } from 'node:crypto';
import { realpath, rename, rmdir, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { lock } from 'proper-lockfile';
import { IotdmError, systemErrorCode } from '../errors.ts';

export interface FileLockOptions {
  /** How long to wait for other writers, in milliseconds. */
  readonly waitMs?: number;
  /** A lock that its holder has not touched for this long while we watched belongs to a crashed process. */
  readonly staleMs?: number;
}

/** How often a holder touches its lock. */
const TOUCH_MS = 1000;

/**
 * Runs the task while this process alone holds the file, which must exist, and passes on its result. A symbolic link
 * and what it points to are one file.
 * @throws IotdmError `input.locked` when others hold it for longer than `waitMs`
 */
export async function withFileLock<T>(
  file: string,
  task: () => Promise<T>,
  options: FileLockOptions = {},
): Promise<T> {
  const release = await acquire(await realpath(file), options.waitMs ?? 30_000, options.staleMs ?? 5_000);
  try {
    return await task();
  } finally {
    await release();
  }
}

async function acquire(file: string, waitMs: number, staleMs: number): Promise<() => Promise<void>> {
  const lockDirectory = `${file}.lock`;
  const began = performance.now();
  const watch = new LockWatch(lockDirectory);
  for (let attempt = 0; ; attempt += 1) {
    const release = await tryLock(file, lockDirectory);
    if (release !== undefined) return release;
    if ((await watch.untouchedMs()) > staleMs) {
      await watch.removeDeadLock();
    } else if (performance.now() - began > waitMs) {
      throw new IotdmError(
        'input.locked',
        `${file} has been held by another process for ${Math.round(waitMs / 1000)} seconds (${lockDirectory})`,
      );
    } else {
      await delay(Math.random() * Math.min(200, 10 * 2 ** Math.min(attempt, 5)));
    }
  }
}

/** The function that gives the lock back, or undefined when another process holds it. */
async function tryLock(file: string, lockfilePath: string): Promise<(() => Promise<void>) | undefined> {
  try {
    // Staleness is left to LockWatch: proper-lockfile compares the file server's clock with ours, and between its
    // look at a stale lock and its removal another waiter may already have replaced it.
    const release = await lock(file, {
      realpath: false,
      lockfilePath,
      stale: Infinity,
      update: TOUCH_MS,
      onCompromised: () => undefined,
    });
    return () => release().catch(ignoreReleased);
  } catch (error) {
    // ENOENT: the directory was taken for dead and moved while proper-lockfile was still preparing it.
    const code = systemErrorCode(error);
    if (code === 'ELOCKED' || code === 'ENOENT') return undefined;
    throw error;
  }
}

function ignoreReleased(error: unknown): void {
  const code = systemErrorCode(error);
  if (code !== 'ERELEASED' && code !== 'ENOTACQUIRED') throw error;
}

/** Watches another process's lock by our own clock only, so that clocks of stations and file servers may differ. */
class LockWatch {
  readonly #directory: string;
  #touched: bigint | undefined;
  #since = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** For how long the lock has not changed while we watched, in milliseconds; 0 when it is gone. */
  async untouchedMs(): Promise<number> {
    const touched = await modified(this.#directory);
    if (touched === undefined || touched !== this.#touched) {
      this.#touched = touched;
      this.#since = performance.now();
    }
    return performance.now() - this.#since;
  }

  /** Removes the lock that was watched, and no other that has come in its place. */
  async removeDeadLock(): Promise<void> {
    const grave = `${this.#directory}.${randomUUID()}`;
    try {
      await rename(this.#directory, grave);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return;
      throw error;
    }
    if ((await modified(grave)) === this.#touched) {
      await rmdir(grave);
    } else {
      await rename(grave, this.#directory);
    }
    this.#touched = undefined;
  }
}

/** Time of last change in nanoseconds, or undefined when there is nothing. */
async function modified(path: string): Promise<bigint | undefined> {
  try {
    return (await stat(path, { bigint: true })).mtimeNs;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
