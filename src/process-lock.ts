/** A lock that one process holds, as a file in a directory, and that ends with the process however it ends. */

import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { IotdmError, systemErrorCode } from './errors.ts';
import { draftName, readState } from './state-directory.ts';

export interface ProcessLock {
  release(): void;
}

export interface Holder {
  readonly pid: number;
  /** Everything in the lock; what others than this process wrote is not to be trusted. */
  readonly notes: Readonly<Record<string, unknown>>;
}

/** Locks of this process, which the process's own id cannot tell from stale ones. */
const held = new Set<string>();

/**
 * Holds the lock for this process until `release()`, or says who holds it. A lock whose process is gone, as `kill -9`
 * leaves it, is taken over.
 * @param dir an existing directory
 * @param name of the lock's file in it
 * @param notes what others may want to know about the holder; it is forgotten with the lock
 * @throws IotdmError `usage.output-unwritable`, `input.unreadable`
 */
export function takeProcessLock(
  dir: string,
  name: string,
  notes: Readonly<Record<string, unknown>> = {},
): ProcessLock | Holder {
  const lock = join(dir, name);
  if (held.has(lock)) return { pid: process.pid, notes: { machine: hostname(), ...notes } };
  const draft = join(dir, draftName(name));
  const content = JSON.stringify({ ...thisProcess(), ...notes });
  try {
    writeFileSync(draft, content, { flag: 'wx', mode: 0o600 });
    // Linked in its final form, so that nobody ever reads an empty lock.
    while (!tryLink(draft, lock)) {
      const text = readState(dir, name);
      if (text === undefined) continue;
      const holder = livingProcess(text);
      if (holder !== undefined) return holder;
      removeDeadLock(dir, name, text);
    }
  } catch (cause) {
    if (cause instanceof IotdmError) throw cause;
    const code = systemErrorCode(cause);
    throw new IotdmError(
      'usage.output-unwritable',
      `the state directory ${dir} cannot be written${code === undefined ? '' : ` (${code})`}`,
      { cause, details: { stateDirectory: dir } },
    );
  } finally {
    rmSync(draft, { force: true });
  }
  held.add(lock);
  return {
    release() {
      // One that was removed by hand may be another process's by now.
      if (held.delete(lock) && holds(lock, content)) rmSync(lock, { force: true });
    },
  };
}

/** The living process that holds the lock, or undefined when none does. @throws IotdmError `input.unreadable` */
export function holderOfLock(dir: string, name: string): Holder | undefined {
  const text = readState(dir, name);
  return text === undefined ? undefined : livingProcess(text);
}

/** What tells this process from any other, as a lock has it. */
export function thisProcess(): Readonly<Record<string, unknown>> {
  return { pid: process.pid, started: startOf(process.pid), machine: hostname() };
}

function holds(lock: string, content: string): boolean {
  try {
    return readFileSync(lock, 'utf8') === content;
  } catch {
    // What cannot be read is not ours, and ends with its process.
    return false;
  }
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Removes the lock that was read, and no other that a third process has put in its place meanwhile. */
function removeDeadLock(dir: string, name: string, text: string): void {
  const lock = join(dir, name);
  const graveName = draftName(name);
  const grave = join(dir, graveName);
  try {
    renameSync(lock, grave);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    throw error;
  }
  if (readState(dir, graveName) !== text) tryLink(grave, lock);
  rmSync(grave, { force: true });
}

/** The process of which a lock or anything else says what `thisProcess` gives, if it is still there. */
export function livingProcess(text: string): Holder | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof parsed !== 'object' || parsed === null) return undefined;
  const notes = parsed as Readonly<Record<string, unknown>>;
  const { pid, started, machine } = notes;
  if (typeof pid !== 'number' || !Number.isSafeInteger(pid) || pid <= 0) return undefined;
  // Of a process on another machine, in a directory that both see, nothing can be known from here.
  if (typeof machine === 'string' && machine !== hostname()) return { pid, notes };
  if (!isAlive(pid)) return undefined;
  // The same number may have gone to another process since, in a restarted container to this very one.
  const now = startOf(pid);
  return typeof started === 'string' && now !== null && now !== started ? undefined : { pid, notes };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return systemErrorCode(error) === 'EPERM';
  }
  // A process that has ended and that nobody has asked about yet, as under a PID 1 that does not.
  const state = statOf(pid)?.[0];
  return state !== 'Z' && state !== 'X';
}

/** The fields of /proc/PID/stat from the third on, the state; undefined where the system has none (proc(5)). */
function statOf(pid: number): readonly string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is a command's name in parentheses, which may hold spaces.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** What tells this run of the system from any other; null where the system does not say (random(4)). */
export function thisBoot(): string | null {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return null;
  }
}

/** When a process was started, in ticks since boot, and in which boot; null where the system does not say (proc(5)). */
function startOf(pid: number): string | null {
  try {
    const boot = thisBoot();
    // The 22nd field of all.
    const ticks = statOf(pid)?.[19];
    return ticks === undefined || boot === null ? null : `${boot}:${ticks}`;
  } catch {
    return null;
  }
}
