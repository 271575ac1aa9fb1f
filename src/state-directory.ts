/** A state directory: files for their owner only that are replaced as a whole, and that a crash never leaves half done. */

import { randomUUID } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { IotdmError, systemErrorCode } from './errors.ts';

const ownerOnly = 0o600;
const readable = 0o644;

/**
 * Makes the directory, for its owner only, where there is none.
 * @throws IotdmError `usage.output-unwritable`
 */
export function makeStateDirectory(dir: string): void {
  try {
    makeDirectories(dir);
  } catch (cause) {
    throw unwritable(dir, `the state directory ${dir} cannot be made`, cause);
  }
}

/** Node.js's own recursive mkdir never ends where the system says ENOENT for a directory whose parent is there, as /proc does. */
function makeDirectories(dir: string): void {
  try {
    mkdirSync(dir, { mode: 0o700 });
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'EEXIST' && statSync(dir).isDirectory()) return;
    const parent = dirname(dir);
    if (code !== 'ENOENT' || parent === dir || existsSync(parent)) throw error;
    makeDirectories(parent);
    makeDirectories(dir);
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

/** Removes a file, and returns when that outlasts a loss of power; nothing happens where there is none. */
export function removeState(dir: string, name: string): void {
  try {
    rmSync(join(dir, name), { force: true });
    flushDirectory(dir);
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return;
    throw unwritable(dir, `${join(dir, name)} cannot be removed`, cause);
  }
}

function replace(dir: string, name: string, text: string, mode: number): void {
  const draft = join(dir, draftName(name));
  try {
    const descriptor = openSync(draft, 'wx', mode);
    try {
      writeFileSync(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(draft, join(dir, name));
    flushDirectory(dir);
  } catch (cause) {
    rmSync(draft, { force: true });
    throw unwritable(dir, `${join(dir, name)} cannot be written`, cause);
  }
}

/** A name is on disk only when its directory is (fsync(2)); Windows has no such call and writes directories through. */
export function flushDirectory(dir: string): void {
  if (process.platform === 'win32') return;
  const descriptor = openSync(dir, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function unwritable(dir: string, message: string, cause: unknown): IotdmError {
  const code = systemErrorCode(cause);
  return new IotdmError('usage.output-unwritable', code === undefined ? message : `${message} (${code})`, {
    cause,
    details: { stateDirectory: dir },
  });
}

/** The name under which a file is made before it gets its own. */
export function draftName(name: string): string {
  return `.${name}.${randomUUID()}`;
}

/**
 * Removes files of ours in the directory that are no state: what a process that was killed while it wrote has left.
 * @param names of the files whose drafts go, or what decides about a name
 * @param olderThanMs younger ones may belong to a process that is just writing
 */
export function removeDrafts(
  dir: string,
  names: readonly string[] | ((name: string) => boolean),
  { olderThanMs = 0 } = {},
): void {
  let entries: string[];
  try {
    entries = readdirSync(dir);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    throw error;
  }
  const isOurs = typeof names === 'function' ? names : (name: string) => names.includes(name);
  const draft = /^\.(.+)\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
  for (const entry of entries) {
    const name = draft.exec(entry)?.[1];
    if (name === undefined || !isOurs(name)) continue;
    const file = join(dir, entry);
    if (olderThanMs === 0 || ageMs(file) > olderThanMs) rmSync(file, { force: true });
  }
}

/** 0 for a file that has gone meanwhile. */
function ageMs(file: string): number {
  try {
    return Date.now() - statSync(file).mtimeMs;
  } catch {
    return 0;
  }
}
