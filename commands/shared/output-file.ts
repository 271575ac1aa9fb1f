/** Files that commands make: for the owner only, and never over an existing file unless told to. */
import { constants } from 'node:fs';
import { copyFile, link, lstat, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { IotdmError, systemErrorCode } from '../../src/errors.ts';
import type { Context } from './context.ts';

/**
 * Writes a file with mode 0600 that is either whole or not there: until then what is written stands beside it, hidden.
 * @throws IotdmError `usage.output-exists`, `usage.output-unwritable`
 */
export async function writeOutputFile(
  path: string,
  content: string | Buffer | AsyncIterable<string>,
  { overwrite = false } = {},
): Promise<void> {
  const draft = join(dirname(path), `.${randomUUID()}.part`);
  try {
    if (!overwrite && (await isThere(path))) throw existsAlready(path);
    const file = await open(draft, 'wx', 0o600);
    try {
      try {
        if (typeof content === 'string' || Buffer.isBuffer(content)) await file.writeFile(content);
        else for await (const piece of content) await file.write(piece);
        await file.sync();
      } finally {
        await file.close();
      }
      await (overwrite ? rename(draft, path) : giveName(draft, path));
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    }
  } catch (cause) {
    throw outputFailure(path, cause);
  }
}

/** Unlike a rename, this does not replace what has come to stand there meanwhile. */
async function giveName(draft: string, path: string): Promise<void> {
  try {
    await link(draft, path);
  } catch (error) {
    // Memory sticks and some network shares know no links.
    if (!['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'].includes(systemErrorCode(error) ?? '')) throw error;
    await copyFile(draft, path, constants.COPYFILE_EXCL);
  }
  await rm(draft, { force: true });
}

async function isThere(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

function existsAlready(path: string, cause?: unknown): IotdmError {
  return new IotdmError('usage.output-exists', `${path} exists already`, { cause });
}

function outputFailure(path: string, cause: unknown): unknown {
  const code = systemErrorCode(cause);
  if (cause instanceof IotdmError || code === undefined) return cause;
  if (code === 'EEXIST') return existsAlready(path, cause);
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
