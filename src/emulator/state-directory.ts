/** The emulator's state directory: files that are replaced as a whole, and a lock so that one process uses them. */

import { randomUUID } from 'node:crypto';
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';

const ownerOnly = 0o600;
const readable = 0o644;

export interface StateLock {
  release(): void;
}

/** Locks of this process, which the process's own id cannot tell from stale ones. */
const held = new Set<string>();

/**
 * Makes the directory, for its owner only, where there is none.
 * @throws IotdmError `usage.output-unwritable`
 */
export function makeStateDirectory(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new IotdmError('usage.output-unwritable', `the state directory ${dir} cannot be made`, { cause });
  }
}

/**
 * The text of a file in the directory, or undefined where there is none.
 * @throws IotdmError `input.unreadable`
 */
export function readState(dir: string, name: string): string | undefined {
  const file = join(dir, name);
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw new IotdmError('input.unreadable', `${file} cannot be read`, { cause });
  }
}

/** Replaces a file as a whole: whoever reads it, even after a crash, sees the old text or the new. For its owner only. */
export function writeState(dir: string, name: string, text: string): void {
  replace(dir, name, text, ownerOnly);
}

/** The same for a file that is no secret, such as a certificate. */
export function writePublicState(dir: string, name: string, text: string): void {
  replace(dir, name, text, readable);
}

function replace(dir: string, name: string, text: string, mode: number): void {
  const draft = join(dir, `.${name}.${randomUUID()}`);
  try {
    const descriptor = openSync(draft, 'wx', mode);
    try {
      writeFileSync(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(draft, join(dir, name));
  } catch (cause) {
    rmSync(draft, { force: true });
    throw new IotdmError('usage.output-unwritable', `${join(dir, name)} cannot be written`, { cause });
  }
}

/**
 * Holds the directory for this process until `release()`. A lock whose process is gone, as `kill -9` leaves it, is
 * taken over.
 * @param notes what others may want to know about the holder; it is forgotten with the lock
 * @throws IotdmError `input.locked` naming the process that holds it
 */
export function lockStateDirectory(dir: string, notes: Readonly<Record<string, unknown>> = {}): StateLock {
  const lock = join(dir, 'lock');
  if (held.has(lock)) throw inUse(dir, process.pid);
  const draft = join(dir, `.lock.${randomUUID()}`);
  const content = JSON.stringify({ pid: process.pid, started: startOf(process.pid), ...notes });
  try {
    writeFileSync(draft, content, { flag: 'wx', mode: ownerOnly });
    // Linked in its final form, so that nobody ever reads an empty lock.
    while (!tryLink(draft, lock)) {
      const text = readState(dir, 'lock');
      if (text === undefined) continue;
      const holder = livingHolder(text);
      if (holder !== undefined) throw inUse(dir, holder.pid);
      removeDeadLock(dir, lock, text);
    }
  } catch (cause) {
    if (cause instanceof IotdmError) throw cause;
    throw new IotdmError('usage.output-unwritable', `the state directory ${dir} cannot be locked`, { cause });
  } finally {
    rmSync(draft, { force: true });
  }
  held.add(lock);
  return {
    release() {
      if (held.delete(lock)) rmSync(lock, { force: true });
    },
  };
}

export interface Holder {
  readonly pid: number;
  /** Everything in the lock; what others than this process wrote is not to be trusted. */
  readonly notes: Readonly<Record<string, unknown>>;
}

/** The living process that holds the directory, or undefined when none does. @throws IotdmError `input.unreadable` */
export function holderOf(dir: string): Holder | undefined {
  const text = readState(dir, 'lock');
  return text === undefined ? undefined : livingHolder(text);
}

function inUse(dir: string, pid: number): IotdmError {
  return new IotdmError('input.locked', `an emulator runs in ${dir} already (process ${pid})`, {
    details: { dir, pid },
  });
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
function removeDeadLock(dir: string, lock: string, text: string): void {
  const graveName = `.lock.${randomUUID()}`;
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

/** The process that wrote the lock, if it is still there. */
function livingHolder(text: string): Holder | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof parsed !== 'object' || parsed === null) return undefined;
  const notes = parsed as Readonly<Record<string, unknown>>;
  const { pid, started } = notes;
  if (typeof pid !== 'number' || !Number.isSafeInteger(pid) || pid <= 0 || !isAlive(pid)) return undefined;
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

/** When a process was started, in ticks since boot, and in which boot; null where the system does not say (proc(5)). */
function startOf(pid: number): string | null {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // The 22nd field of all.
    const ticks = statOf(pid)?.[19];
    return ticks === undefined ? null : `${boot}:${ticks}`;
  } catch {
    return null;
  }
}

/** Files of ours in the directory that are no state: what a process that was killed while it wrote has left. */
export function removeDrafts(dir: string, names: readonly string[]): void {
  let entries: string[];
  try {
    entries = readdirSync(dir);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    throw error;
  }
  const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
  for (const entry of entries) {
    const name = names.find((candidate) => entry.startsWith(`.${candidate}.`));
    if (name !== undefined && uuid.test(entry.slice(name.length + 2)))
      rmSync(join(dir, entry), { force: true });
  }
}
