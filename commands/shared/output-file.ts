/** Files that commands make: for the owner only, whole or not there, and never over existing ones unless told to. */
import { link, lstat, mkdir, mkdtemp, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { randomUUID } from 'node:crypto';
import { IotdmError, systemErrorCode } from '../../src/errors.ts';
import type { Context } from './context.ts';

export type OutputContent = string | Buffer | AsyncIterable<string | Buffer>;

/**
 * Writes a file with mode 0600 that is either whole or not there, also after a loss of power.
 * @throws IotdmError `usage.output-exists`, `usage.output-unwritable`
 */
export async function writeOutputFile(
  path: string,
  content: OutputContent,
  { overwrite = false } = {},
): Promise<void> {
  const part = join(dirname(path), `.${randomUUID()}.part`);
  try {
    // Known beforehand, before anything is done for nothing; `moveToFreePlace` is what holds.
    if (!overwrite && (await exists(path))) throw alreadyThere(path);
    if (overwrite) await refuseToReplaceDevice(path);
    try {
      await writeWhole(part, content);
      if (overwrite) await rename(part, path);
      else await moveToFreePlace(part, path);
      await syncDirectory(dirname(path));
    } finally {
      await rm(part, { force: true });
    }
  } catch (cause) {
    throw outputFailure(path, cause);
  }
}

/** A rename would put an ordinary file in the place of a device, a pipe or a socket (`--out /dev/null` as root). */
async function refuseToReplaceDevice(path: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there === undefined || there.isFile() || there.isDirectory() || there.isSymbolicLink()) return;
  throw new IotdmError('usage.output-unwritable', `cannot write ${path}: it is there, and is no file`);
}

const COPIED_BYTES = 64 * 1024;

/**
 * Prints what has been made without a fault, and nothing of what fails midway: whoever runs what is printed must not run
 * half of it. Until it is whole it is kept in a file without a name.
 * @throws IotdmError `usage.output-unwritable`, and what making it throws, with nothing printed
 */
export async function printWhole(context: Context, content: AsyncIterable<string | Buffer>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'iotdm-print-'));
  let file: FileHandle | undefined;
  try {
    try {
      const path = join(directory, 'whole');
      file = await open(path, 'wx+', 0o600);
      // Where a file that is open keeps its name (Windows), the directory goes with it at the end.
      await rm(path).catch(() => undefined);
      for await (const piece of content) await file.writeFile(piece);
    } catch (cause) {
      throw outputFailure(tmpdir(), cause);
    }
    const { size } = await file.stat();
    for (let at = 0; at < size && !context.hasNoReader;) {
      const piece = Buffer.alloc(Math.min(COPIED_BYTES, size - at));
      const { bytesRead } = await file.read(piece, 0, piece.length, at);
      if (bytesRead === 0) break;
      await context.print(piece.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await file?.close();
    await rm(directory, { recursive: true, force: true });
  }
}

export interface OutputPart {
  readonly name: string;
  readonly content: OutputContent;
}

/**
 * Makes a directory of files, all of it or nothing. An empty directory in its place is taken; one with files only with
 * `overwrite`, and only where all of them are of the kind that is written.
 * @param isOurs whether a file of this name may be replaced
 * @returns the number of files
 * @throws IotdmError `usage.output-exists`, `usage.output-unwritable`
 */
export async function writeOutputDirectory(
  path: string,
  parts: AsyncIterable<OutputPart> | Iterable<OutputPart>,
  { overwrite = false, isOurs }: { overwrite?: boolean; isOurs: (name: string) => boolean },
): Promise<number> {
  const parent = dirname(resolve(path));
  const aside = join(parent, `.${basename(path)}.${randomUUID()}`);
  try {
    await refuseOccupied(path, overwrite, isOurs);
    await mkdir(parent, { recursive: true });
    try {
      await mkdir(`${aside}.part`, { mode: 0o700 });
      let count = 0;
      for await (const { name, content } of parts) {
        await writeWhole(join(`${aside}.part`, name), content);
        count += 1;
      }
      await syncDirectory(`${aside}.part`);
      const old = await refuseOccupied(path, overwrite, isOurs);
      if (old) await rename(path, `${aside}.old`);
      await rename(`${aside}.part`, path);
      await syncDirectory(parent);
      return count;
    } finally {
      await rm(`${aside}.part`, { recursive: true, force: true });
      if (await exists(path)) await rm(`${aside}.old`, { recursive: true, force: true });
    }
  } catch (cause) {
    throw outputFailure(path, cause);
  }
}

/** Whether a directory stands there that is to be replaced. @throws IotdmError `usage.output-exists` */
async function refuseOccupied(
  path: string,
  overwrite: boolean,
  isOurs: (name: string) => boolean,
): Promise<boolean> {
  if (!(await exists(path))) return false;
  if (!(await lstat(path)).isDirectory()) throw alreadyThere(path);
  const names = await readdir(path);
  if (names.length > 0 && !overwrite) throw alreadyThere(path);
  const foreign = names.find((name) => !isOurs(name));
  if (foreign === undefined) return true;
  throw new IotdmError('usage.output-unwritable', `${path} holds what this does not write: ${foreign}`);
}

async function writeWhole(path: string, content: OutputContent): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    if (typeof content === 'string' || Buffer.isBuffer(content)) await file.writeFile(content);
    else for await (const piece of content) await file.writeFile(piece);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** A link is refused where the name is taken; a file system without links (a USB stick's) is looked at first. */
async function moveToFreePlace(part: string, path: string): Promise<void> {
  try {
    await link(part, path);
  } catch (error) {
    if (!['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EISDIR'].includes(systemErrorCode(error) ?? ''))
      throw error;
    if (await exists(path)) throw alreadyThere(path);
    await rename(part, path);
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Makes the names in a directory last; where that cannot be asked for (Windows), the file system does it. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r').catch(() => undefined);
  try {
    await directory?.sync();
  } catch {
    // Some file systems do not know it.
  } finally {
    await directory?.close();
  }
}

function alreadyThere(path: string): IotdmError {
  return new IotdmError('usage.output-exists', `${path} exists already`);
}

function outputFailure(path: string, cause: unknown): unknown {
  const code = systemErrorCode(cause);
  if (cause instanceof IotdmError || code === undefined) return cause;
  if (code === 'EEXIST') return alreadyThere(path);
  return new IotdmError('usage.output-unwritable', `cannot write ${path} (${code})`, { cause });
}

export interface OutputOptions {
  readonly out?: string;
  readonly overwrite?: boolean;
}

/** Prints what a command gives, or writes it to the file that `--out` names. */
export async function deliver(
  context: Context,
  { out, overwrite = false }: OutputOptions,
  content: string | Buffer,
): Promise<void> {
  if (out !== undefined && context.settings.dryRun) {
    context.console.note(`would write ${out}`);
    return;
  }
  if (out !== undefined) {
    await writeOutputFile(out, content, { overwrite });
    context.console.note(`wrote ${out}`);
    return;
  }
  if (Buffer.isBuffer(content) && context.host.stdout.isTTY === true) {
    throw new IotdmError(
      'usage.invalid',
      'not writing binary data to a terminal: give --out FILE or redirect stdout',
    );
  }
  await context.print(content);
}
