/** Files that commands make: for the owner only, and never over an existing file unless told to. */
import { lstat, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { IotdmError, systemErrorCode } from '../../src/errors.ts';
import type { Context } from './context.ts';

/**
 * Writes a file with mode 0600 that is either whole or not there.
 * @throws IotdmError `usage.output-exists`, `usage.output-unwritable`
 */
export async function writeOutputFile(
  path: string,
  content: string | Buffer | AsyncIterable<string>,
  { overwrite = false } = {},
): Promise<void> {
  if (overwrite) await refuseToReplaceDevice(path);
  const target = overwrite ? join(dirname(path), `.${randomUUID()}.part`) : path;
  try {
    const file = await open(target, 'wx', 0o600);
    try {
      if (typeof content === 'string' || Buffer.isBuffer(content)) await file.writeFile(content);
      else for await (const piece of content) await file.write(piece);
      await file.sync();
    } catch (error) {
      await rm(target, { force: true });
      throw error;
    } finally {
      await file.close();
    }
    if (overwrite) {
      await rename(target, path).catch(async (error: unknown) => {
        await rm(target, { force: true });
        throw error;
      });
    }
  } catch (cause) {
    throw outputFailure(path, cause);
  }
}

/** A file renamed to `/dev/null` would take its place, for all programs of the machine. */
async function refuseToReplaceDevice(path: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there === undefined || there.isFile() || there.isDirectory() || there.isSymbolicLink()) return;
  throw new IotdmError('usage.output-unwritable', `cannot write ${path}: it is there, and is no file`);
}

function outputFailure(path: string, cause: unknown): unknown {
  const code = systemErrorCode(cause);
  if (cause instanceof IotdmError || code === undefined) return cause;
  if (code === 'EEXIST') return new IotdmError('usage.output-exists', `${path} exists already`, { cause });
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
