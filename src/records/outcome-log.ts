/**
 * A file of outcomes: one NDJSON record each, appended by any number of stations at once, for its owner only, and on disk
 * before it is reported.
 */
import type { FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { withFileLock, type FileLockOptions } from './file-lock.ts';
import { openOrCreate, syncDirectory } from './lasting-file.ts';

/** What is appended: its first member says what kind of file this is. */
export interface Outcome {
  readonly schema: 1;
  readonly result: string;
}

export interface OutcomeAppend<Entry extends Outcome> {
  readonly entry: Entry;
  /** A text that every earlier record of the same subject holds. */
  readonly subject: string;
  /** Whether the subject's last record makes this one needless. */
  readonly isNeedless: (last: Entry) => boolean;
}

const LINE_START = Buffer.from('{"schema":1,"result":');
const LF = 0x0a;
/** No record comes near. */
const MAX_LINE_BYTES = 1024 * 1024;
const WINDOW_BYTES = 1024 * 1024;

/**
 * @returns whether it was written
 * @throws IotdmError `input.invalid` for a file of something else, `input.locked`, `usage.output-unwritable`
 */
export async function appendOutcome<Entry extends Outcome>(
  file: string,
  append: OutcomeAppend<Entry>,
  options: FileLockOptions = {},
): Promise<boolean> {
  try {
    const { handle, created } = await openOrCreate(file);
    try {
      return await withFileLock(file, () => appendLocked(file, handle, created, append), options);
    } finally {
      await handle.close();
    }
  } catch (error) {
    const code = systemErrorCode(error);
    if (error instanceof IotdmError || code === undefined) throw error;
    throw new IotdmError('usage.output-unwritable', `the record ${file} cannot be written: ${code}`, {
      cause: error,
    });
  }
}

async function appendLocked<Entry extends Outcome>(
  file: string,
  handle: FileHandle,
  created: boolean,
  { entry, subject, isNeedless }: OutcomeAppend<Entry>,
): Promise<boolean> {
  const { keep, last } = await scan(file, handle, JSON.stringify(subject));
  if (last !== undefined && isNeedless(last as Entry)) return false;
  const bytes = Buffer.from(`${JSON.stringify(entry)}\n`);
  // What a power loss has cut short was never reported.
  await handle.truncate(keep);
  const { bytesWritten } = await handle.write(bytes, 0, bytes.length, keep);
  if (bytesWritten < bytes.length) {
    await handle.truncate(keep);
    throw Object.assign(new Error('the file system took only part of the record'), { code: 'ENOSPC' });
  }
  await handle.sync();
  if (created) await syncDirectory(dirname(file));
  return true;
}

/** The length of the whole records, and the subject's last one. */
async function scan(
  file: string,
  handle: FileHandle,
  needle: string,
): Promise<{ keep: number; last: unknown }> {
  const { size } = await handle.stat();
  let last: unknown;
  let keep = 0;
  let held: Buffer = Buffer.alloc(0);
  for (let position = 0; position < size;) {
    const window = Buffer.allocUnsafe(Math.min(WINDOW_BYTES, size - position));
    const { bytesRead } = await handle.read(window, 0, window.length, position);
    if (bytesRead === 0) break;
    position += bytesRead;
    const bytes = Buffer.concat([held, window.subarray(0, bytesRead)]);
    let start = 0;
    for (let end = bytes.indexOf(LF); end !== -1; end = bytes.indexOf(LF, start)) {
      const line = bytes.subarray(start, end);
      if (!isRecordLike(line)) throw notALog(file);
      if (line.includes(needle)) last = parsed(file, line);
      start = end + 1;
    }
    keep += start;
    held = bytes.subarray(start);
    if (held.length > MAX_LINE_BYTES) throw notALog(file);
  }
  if (held.length > 0 && !isRecordLike(held)) throw notALog(file);
  return { keep, last };
}

/** As it was begun, or the zeros that a file system leaves after a power loss. */
function isRecordLike(line: Buffer): boolean {
  const length = Math.min(line.length, LINE_START.length);
  const isBegun = length > 0 && line.subarray(0, length).equals(LINE_START.subarray(0, length));
  return isBegun || (line.length > 0 && line.every((value) => value === 0));
}

function parsed(file: string, line: Buffer): unknown {
  try {
    return JSON.parse(line.toString('utf8'));
  } catch {
    throw notALog(file);
  }
}

function notALog(file: string): IotdmError {
  return new IotdmError('input.invalid', `${file} holds something else than records of provisioning`);
}
