/**
 * The journal of an import: which rows were sent and what became of each, on disk as it happens, so that an import that
 * ends at any moment is taken up where it stopped. One JSON document a line; a torn last line is as if it had never been
 * written. In memory it is one byte a row.
 *
 * Lines: a header, `{"create":"0-9"}` before rows are sent, `{"created":"0-9"}` for their outcome (each member a set of
 * rows, counted from 0 in the order of the input), and `{"failed":{…}}` for a row that failed, with `sent` where nobody
 * found out what had become of it.
 */

import { accessSync, constants } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { IotdmError, isErrorCode, systemErrorCode, type ErrorCode, type ErrorDetails } from '../errors.ts';
import { takeProcessLock, type ProcessLock } from '../process-lock.ts';
import { AppendLog } from './append-log.ts';
import { formatRanges, readRanges } from './row-ranges.ts';

/** What a row was sent for; its fate is unknown until an outcome follows. */
export const rowOperations = ['create', 'update', 'delete'] as const;
export type RowOperation = (typeof rowOperations)[number];

/** `absent`: there was nothing to delete. */
export const rowOutcomes = ['created', 'updated', 'unchanged', 'deleted', 'absent'] as const;
export type RowOutcome = (typeof rowOutcomes)[number];

export type RowState = 'open' | RowOperation | RowOutcome | 'failed';
const rowStates: readonly RowState[] = ['open', ...rowOperations, ...rowOutcomes, 'failed'];
const stateNumbers = new Map(rowStates.map((state, number) => [state, number]));

export interface RowFailure {
  /** 0-based, in the order of the input. */
  readonly row: number;
  /** Name of the input file, where there are several. */
  readonly file?: string;
  /** 1-based. */
  readonly line: number;
  readonly registrationId: string;
  readonly code: ErrorCode;
  readonly message: string;
  /** The service's own six digits, where it gave them. */
  readonly errorCode?: number;
  /** Registration id of the enrollment that has what the row would get. */
  readonly other?: string;
  /** What it was sent for without anybody having found out whether that took effect. */
  readonly sent?: RowOperation;
}

/** What makes two imports the same one. */
export interface ImportIdentity {
  /** SHA-256 of the input, in hex. */
  readonly input: string;
  readonly rows: number;
  readonly mode: string;
  readonly host: string;
}

export interface JournalOptions {
  /** Forget what the journal holds, whichever import it is of. */
  readonly restart?: boolean;
  /** It goes when the import ends: nobody is told of it. */
  readonly isTemporary?: boolean;
}

const title = 'iotdm import journal';
const headerStart = Buffer.from(`{"${title}":`);
const schema = 1;
const LF = 0x0a;
const readBytes = 256 * 1024;
/** The longest line is a failure: an id and a message, both bounded. Rows of a request are far shorter. */
const longestLine = 64 * 1024;
const rowsOfLine = 1000;
/** What nobody waits for is written after so long. */
const idleMs = 20;

/** What has become of the rows: in memory only, or in a file as well. */
export class ImportJournal {
  /** Null when nothing stays of it. */
  readonly path: string | null;
  readonly #states: Uint8Array;
  readonly #counts = new Map<RowState, number>();
  readonly #file: JournalFile | undefined;
  /** Places of the failures in the file. */
  #failureAt = new Map<number, number>();
  /** What failed rows were sent for, where that may have taken effect. */
  readonly #doubts = new Map<number, RowOperation>();
  readonly #sent = new Map<RowOperation, number[]>();
  readonly #settled = new Map<RowOutcome, number[]>();
  #failures: RowFailure[] = [];
  /** How much had an outcome when the last request was sent. */
  #marked = 0;
  #outcomes = 0;

  private constructor(rows: number, file?: JournalFile, isTemporary = false) {
    this.#states = new Uint8Array(rows);
    this.#file = file;
    this.path = isTemporary ? null : (file?.path ?? null);
    this.#counts.set('open', rows);
    if (file !== undefined) file.takeLines = (offset) => this.#takeLines(offset);
  }

  /** A journal that is not kept: nothing can be taken up again, and failures cannot be read back. */
  static inMemory(rows: number): ImportJournal {
    return new ImportJournal(rows);
  }

  /**
   * Opens the journal of an import, or makes it; the file is this process's until `close()`. When it resolves the file
   * has been written to and is on disk.
   * @throws IotdmError `input.journal` when the file is the journal of another import, damaged, or no journal at all;
   * `input.locked` when another process uses it; `usage.output-unwritable` when it cannot be written
   */
  static async open(
    path: string,
    identity: ImportIdentity,
    { restart = false, isTemporary = false }: JournalOptions = {},
  ): Promise<ImportJournal> {
    const file = await JournalFile.open(path);
    try {
      const journal = new ImportJournal(identity.rows, file, isTemporary);
      await journal.#readFile(file, identity, restart);
      return journal;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get rows(): number {
    return this.#states.length;
  }

  state(row: number): RowState {
    return rowStates[this.#states[row] ?? 0] ?? 'open';
  }

  /** What the row was sent for, if nobody knows whether that took effect: also of one that has failed since. */
  doubt(row: number): RowOperation | undefined {
    const state = this.state(row);
    return state === 'failed'
      ? this.#doubts.get(row)
      : rowOperations.find((operation) => operation === state);
  }

  /** How many rows are in this state. */
  count(state: RowState): number {
    return this.#counts.get(state) ?? 0;
  }

  /** Rows that nothing is left to do for. */
  get done(): number {
    return rowOutcomes.reduce((sum, outcome) => sum + this.count(outcome), 0);
  }

  /** Resolves when it is on disk that the rows are sent for this. */
  async sent(operation: RowOperation, rows: readonly number[]): Promise<void> {
    for (const row of rows) this.#set(row, operation);
    if (this.#file === undefined) return;
    listIn(this.#sent, operation).push(...rows);
    await this.#file.durable();
  }

  /** It is on disk before the next request but one is sent. */
  settled(row: number, outcome: RowOutcome): void {
    this.#set(row, outcome);
    if (this.#file === undefined) return;
    listIn(this.#settled, outcome).push(row);
    this.#outcomes = this.#file.request();
  }

  /** As `settled`. The row is tried again when the import is taken up. */
  failed(failure: RowFailure): void {
    this.#setFailed(failure);
    if (this.#file === undefined) return;
    this.#failures.push(failure);
    this.#outcomes = this.#file.request();
  }

  /** To be awaited before each request: outcomes that were known when the one before it was sent are on disk then. */
  async beforeSending(): Promise<void> {
    await this.#file?.durable(this.#marked);
  }

  /** To be called when a request is sent. */
  markSending(): void {
    this.#marked = this.#outcomes;
  }

  /** Why a row failed. */
  async failure(row: number): Promise<RowFailure | undefined> {
    const offset = this.#failureAt.get(row);
    const line = offset === undefined ? undefined : await this.#file?.lineAt(offset);
    return line === undefined ? undefined : failureOf(parsed(line)?.['failed']);
  }

  /** Resolves when everything is on disk. */
  async flush(): Promise<void> {
    if (this.#file !== undefined) await this.#file.durable();
  }

  /** Gives the file back; what could still be written is. */
  async close(): Promise<void> {
    await this.#file?.close();
  }

  #setFailed({ row, sent }: RowFailure): void {
    this.#set(row, 'failed');
    if (sent === undefined) this.#doubts.delete(row);
    else this.#doubts.set(row, sent);
  }

  #set(row: number, state: RowState): void {
    const before = this.state(row);
    this.#counts.set(before, this.count(before) - 1);
    this.#counts.set(state, this.count(state) + 1);
    this.#states[row] = stateNumbers.get(state) ?? 0;
  }

  /** The lines for all that has happened since they were last taken; `offset` is where they will stand. */
  #takeLines(offset: number): Buffer {
    const lines: string[] = [];
    for (const [name, rows] of [...this.#sent, ...this.#settled]) {
      for (let from = 0; from < rows.length; from += rowsOfLine) {
        lines.push(`{"${name}":"${formatRanges(rows.slice(from, from + rowsOfLine))}"}\n`);
      }
    }
    this.#sent.clear();
    this.#settled.clear();
    const head = Buffer.from(lines.join(''), 'utf8');
    if (this.#failures.length === 0) return head;
    const pieces = [head];
    let at = offset + head.length;
    for (const failed of this.#failures) {
      const line = Buffer.from(`${JSON.stringify({ failed })}\n`, 'utf8');
      this.#failureAt.set(failed.row, at);
      pieces.push(line);
      at += line.length;
    }
    this.#failures = [];
    return Buffer.concat(pieces);
  }

  async #readFile(file: JournalFile, identity: ImportIdentity, restart: boolean): Promise<void> {
    let lines = 0;
    await file.read((text, offset) => {
      lines += 1;
      if (lines === 1) {
        if (!text.startsWith(headerStart.toString())) {
          throw journalError(file, 'is not a journal of an import', { isJournal: false });
        }
        const problem = restart ? undefined : headerProblem(text, identity);
        if (problem !== undefined) throw journalError(file, problem);
      } else if (!restart && !this.#replay(text, offset)) {
        throw journalError(file, `is damaged in line ${lines}`);
      }
    });
    if (lines === 0 || restart) await file.begin(`${JSON.stringify({ [title]: schema, ...identity })}\n`);
    else await file.continue();
  }

  #replay(text: string, offset: number): boolean {
    const line = parsed(text);
    if (line === undefined) return false;
    return Object.entries(line).every(([name, value]) => {
      if (name === 'failed') {
        const failure = failureOf(value);
        if (failure === undefined || failure.row >= this.rows) return false;
        this.#setFailed(failure);
        this.#failureAt.set(failure.row, offset);
        return true;
      }
      const state = [...rowOperations, ...rowOutcomes].find((known) => known === name);
      if (state === undefined || typeof value !== 'string') return false;
      return readRanges(value, this.rows, (row) => {
        this.#set(row, state);
      });
    });
  }
}

function listIn<Key>(lists: Map<Key, number[]>, key: Key): number[] {
  let list = lists.get(key);
  if (list === undefined) lists.set(key, (list = []));
  return list;
}

/** The members of one line, or undefined when it is not a line of a journal. */
function parsed(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Readonly<Record<string, unknown>>;
  } catch {
    // The parser's own message would quote the line.
  }
  return undefined;
}

/** Why a header is not that of this import. */
function headerProblem(text: string, identity: ImportIdentity): string | undefined {
  const header = parsed(text) ?? {};
  if (header[title] !== schema) return 'is the journal of another version of iotdm';
  if (header['input'] !== identity.input || header['rows'] !== identity.rows) {
    return 'is the journal of another input: its content is not what it was';
  }
  for (const name of ['mode', 'host'] as const) {
    const theirs = header[name];
    if (theirs !== identity[name]) {
      const shown =
        typeof theirs === 'string' && /^[\w.:[\]-]{1,260}$/.test(theirs) ? theirs : 'something else';
      return `is the journal of an import with the ${name} ${shown}, not ${identity[name]}`;
    }
  }
  return undefined;
}

function journalError(file: JournalFile, problem: string, details: ErrorDetails = {}): IotdmError {
  return new IotdmError('input.journal', `${file.path} ${problem}`, {
    details: { journal: file.path, ...details },
  });
}

function failureOf(value: unknown): RowFailure | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { row, file, line, registrationId, code, message, errorCode, other, sent } = value as Record<
    string,
    unknown
  >;
  const operation = rowOperations.find((known) => known === sent);
  if (!Number.isSafeInteger(row) || (row as number) < 0 || !Number.isSafeInteger(line)) return undefined;
  if (typeof registrationId !== 'string' || typeof message !== 'string') return undefined;
  if (typeof code !== 'string' || !isErrorCode(code)) return undefined;
  if (sent !== undefined && operation === undefined) return undefined;
  return {
    row: row as number,
    ...(typeof file === 'string' ? { file } : {}),
    line: line as number,
    registrationId,
    code,
    message,
    ...(Number.isSafeInteger(errorCode) ? { errorCode: errorCode as number } : {}),
    ...(typeof other === 'string' ? { other } : {}),
    ...(operation === undefined ? {} : { sent: operation }),
  };
}

/** The file beneath: lines in, lines out, many writes to one flush of the disk. */
class JournalFile {
  readonly path: string;
  /** Gives what is to be written; it will stand at this offset. */
  takeLines: (offset: number) => Buffer = () => Buffer.alloc(0);
  readonly #log: AppendLog;
  readonly #lock: ProcessLock;
  /** Length of the file as it was read, and of the whole lines in it: where the next one will stand. */
  #size = 0;
  #end = 0;
  #requested = 0;
  #durable = 0;
  #failure: IotdmError | undefined;
  #writing: Promise<void> | undefined;
  #soon: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(path: string, log: AppendLog, lock: ProcessLock) {
    this.path = path;
    this.#log = log;
    this.#lock = lock;
  }

  static async open(path: string): Promise<JournalFile> {
    let lock: ProcessLock | undefined;
    try {
      lock = takeLock(path);
      const details = { journal: path };
      const log = await AppendLog.open(path, 'the journal', { writeThrough: true, details });
      return new JournalFile(path, log, lock);
    } catch (cause) {
      lock?.release();
      throw unwritable(path, cause);
    }
  }

  /**
   * Reads the whole lines of the file; a torn one at the end is left out and will be written over.
   * @param take gets each, and where it begins in the file
   */
  async read(take: (text: string, offset: number) => void): Promise<void> {
    const { size, end, tail } = await this.#log.scan(
      { windowBytes: readBytes, longestLine },
      (lines, offset) => {
        for (let start = 0; start < lines.length;) {
          const next = lines.indexOf(LF, start);
          take(lines.toString('utf8', start, next), offset + start);
          start = next + 1;
        }
      },
    );
    // Of a file that was never a journal nothing is dropped: the path may be that of something precious.
    const isTorn = end === 0 ? mayBeTornHeader(tail) : tail.length <= longestLine || isZero(tail);
    if (tail.length > 0 && !isTorn) take(tail.toString('utf8', 0, 1), end);
    this.#size = size;
    this.#end = end;
  }

  /** Begins the file anew. */
  async begin(header: string): Promise<void> {
    await this.#take(0);
    await this.#orUnwritable(async () => {
      await this.#write(Buffer.from(header, 'utf8'));
      await this.#log.syncName();
    });
  }

  /** Goes on behind the last whole line. */
  async continue(): Promise<void> {
    await this.#take(this.#end);
  }

  async lineAt(offset: number): Promise<string | undefined> {
    const bytes = await this.#log.read(offset, longestLine);
    const end = bytes.indexOf(LF);
    return end === -1 ? undefined : bytes.toString('utf8', 0, end);
  }

  /** There are lines to write: returns a number to wait for with `durable`, which has them written if need be. */
  request(): number {
    this.#requested += 1;
    // Nobody need wait for it; but where requests are far apart it is soon safe.
    this.#soon ??= setTimeout(() => {
      this.#soon = undefined;
      if (this.#durable < this.#requested) void this.durable(this.#requested).catch(() => undefined);
    }, idleMs).unref();
    return this.#requested;
  }

  /**
   * Resolves when all that was requested up to this number, or everything, is on disk.
   * @throws IotdmError `usage.output-unwritable`, from then on always
   */
  async durable(number?: number): Promise<void> {
    const wanted = number ?? this.request();
    while (this.#durable < wanted && this.#failure === undefined) await (this.#writing ??= this.#writeAll());
    if (this.#failure !== undefined) throw this.#failure;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#soon);
    try {
      await this.durable().catch(() => undefined);
      await this.#log.close();
    } finally {
      this.#lock.release();
    }
  }

  /** The file becomes this import's: until then it may have been anybody's, and is left as it was. */
  async #take(keep: number): Promise<void> {
    await this.#orUnwritable(async () => {
      await this.#log.restrict();
      if (!(await this.#log.cut({ size: this.#size, keep }))) throw this.#writtenByOthers();
      this.#size = this.#end = keep;
    });
  }

  async #writeAll(): Promise<void> {
    try {
      // What comes within the same turn of the event loop goes together.
      await setImmediate();
      const taken = this.#requested;
      const bytes = this.takeLines(this.#end);
      if (bytes.length > 0) await this.#write(bytes);
      this.#durable = taken;
    } catch (cause) {
      this.#failure = unwritable(this.path, cause) as IotdmError;
    } finally {
      this.#writing = undefined;
    }
  }

  async #write(bytes: Buffer): Promise<void> {
    if (!(await this.#log.append(bytes, { size: this.#size }))) throw this.#writtenByOthers();
    this.#size = this.#end += bytes.length;
  }

  /** Its lock was removed by hand, or not heeded. */
  #writtenByOthers(): IotdmError {
    return new IotdmError('input.locked', `somebody else has written to the journal ${this.path} meanwhile`, {
      details: { journal: this.path },
    });
  }

  async #orUnwritable(task: () => Promise<void>): Promise<void> {
    try {
      await task();
    } catch (cause) {
      throw unwritable(this.path, cause);
    }
  }
}

function takeLock(path: string): ProcessLock {
  const name = `${basename(path)}.lock`;
  // Where the directory cannot be written, the journal's own error says more.
  accessSync(dirname(path), constants.W_OK);
  const taken = lockOf(path, name);
  if (!('pid' in taken)) return taken;
  const { pid, notes } = taken;
  const machine = typeof notes['machine'] === 'string' ? ` on ${shownName(notes['machine'])}` : '';
  throw new IotdmError('input.locked', `another import uses the journal ${path} (process ${pid}${machine})`, {
    details: { journal: path, lock: join(dirname(path), name), pid },
  });
}

function lockOf(path: string, name: string): ReturnType<typeof takeProcessLock> {
  try {
    return takeProcessLock(dirname(path), name);
  } catch (error) {
    // Where there is no room for the lock there is none for the journal, which is what people know of.
    const cause = error instanceof IotdmError ? error.cause : undefined;
    throw systemErrorCode(cause) === undefined ? error : unwritable(path, cause);
  }
}

/** What stands in the lock may have been written by anybody. */
function shownName(name: string): string {
  return /^[\w.-]{1,64}$/.test(name) ? name : 'another machine';
}

/** What a power loss can leave of a file that had only just been begun. */
function mayBeTornHeader(bytes: Buffer): boolean {
  const length = Math.min(bytes.length, headerStart.length);
  return bytes.subarray(0, length).equals(headerStart.subarray(0, length)) || isZero(bytes);
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((value) => value === 0);
}

function unwritable(path: string, cause: unknown): unknown {
  if (cause instanceof IotdmError) return cause;
  const code = systemErrorCode(cause);
  if (code === undefined) return cause;
  return new IotdmError('usage.output-unwritable', `the journal ${path} cannot be written (${code})`, {
    cause,
    details: { journal: path },
  });
}
