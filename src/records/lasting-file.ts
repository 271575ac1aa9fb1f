/** Files that records are appended to, and that a loss of power neither takes away nor leaves open to others. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { systemErrorCode } from '../errors.ts';

/** Opens a file for reading and writing; a new one is its owner's only. Throws system errors as they are. */
export async function openOrCreate(
  file: string,
): Promise<{ readonly handle: FileHandle; readonly created: boolean }> {
  try {
    return { handle: await open(file, 'wx+', 0o600), created: true };
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
    return { handle: await open(file, constants.O_RDWR), created: false };
  }
}

/** A new file survives a power loss only when its directory entry does. Windows cannot sync a directory. */
export async function syncDirectory(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
