/**
 * A file of outcomes: one NDJSON record each, appended by any number of stations at once, for its owner only, and on disk
 * before it is reported.
 */
import { because, IotdmError, systemErrorCode } from '../errors.ts';
import { AppendLog } from './append-log.ts';
import { withFileLock, type FileLease, type FileLockOptions } from './file-lock.ts';

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
/** Under the lock the file changes only where somebody does not heed it. */
const MOST_SCANS = 100;

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
    const log = await AppendLog.open(file, 'the record');
    try {
      return await withFileLock(file, (lease) => appendLocked(log, lease, append), options);
    } finally {
      await log.close();
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
  log: AppendLog,
  lease: FileLease,
  { entry, subject, isNeedless }: OutcomeAppend<Entry>,
): Promise<boolean> {
  const line = Buffer.from(`${JSON.stringify(entry)}\n`);
  for (let attempt = 1; attempt <= MOST_SCANS; attempt += 1) {
    const { size, end, last } = await scan(log, JSON.stringify(subject));
    if (last !== undefined && isNeedless(last as Entry)) {
      // Who wrote it may have been stopped before it was on disk, and reported nothing.
      await log.sync();
      return false;
    }
    const assertHeld = (): void => {
      lease.assertHeld();
    };
    if (!(await log.append(line, { size, keep: end, assertHeld }))) continue;
    await log.syncName();
    return true;
  }
  throw new IotdmError('input.locked', `${log.path} is written to by somebody who does not heed its lock`);
}

/** The length of the file and of its whole records, and the subject's last one. */
async function scan(
  log: AppendLog,
  needle: string,
): Promise<{ readonly size: number; readonly end: number; readonly last: unknown }> {
  let last: unknown;
  const { size, end, tail } = await log.scan(
    { windowBytes: WINDOW_BYTES, longestLine: MAX_LINE_BYTES },
    (lines) => {
      for (let start = 0; start < lines.length;) {
        const next = lines.indexOf(LF, start);
        const line = lines.subarray(start, next);
        if (!isRecordLike(line)) throw notALog(log.path);
        if (line.includes(needle)) last = parsed(log.path, line);
        start = next + 1;
      }
    },
  );
  const isTooLong = tail.length > MAX_LINE_BYTES;
  if (isTooLong || (tail.length > 0 && !isRecordLike(tail))) throw notALog(log.path);
  return { size, end, last };
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
  return new IotdmError('input.invalid', `${file} holds something else than records of provisioning`, {
    details: because('record-file'),
  });
}
