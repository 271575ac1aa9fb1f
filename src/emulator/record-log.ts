/**
 * Keeps small JSON records by key: in memory, and on disk as a log of changes, one JSON document a line, each written
 * before the caller hears of it, so that what belongs together takes effect together.
 *
 * Lines: `{"schema":1}` first, then `{"set":{KEY:RECORD,…},"delete":[KEY,…]}`.
 */

import { existsSync, readFileSync, truncateSync } from 'node:fs';
import { because, IotdmError } from '../errors.ts';
import { LogFile, parseLogLine, rewriteLog } from './log-file.ts';

const schema = 1;
const header = `{"schema":${schema}}\n`;
/** So many records a line when the log is written anew. */
const compactLine = 100;

export interface RecordChange<Value> {
  readonly set?: Readonly<Record<string, Value>>;
  readonly delete?: readonly string[];
}

export class RecordLog<Value> {
  readonly #log: LogFile;
  readonly #records: Map<string, Value>;

  private constructor(log: LogFile, records: Map<string, Value>) {
    this.#log = log;
    this.#records = records;
  }

  /**
   * Opens the log, making it if there is none. An unfinished last line, which a killed process leaves, is dropped: its
   * caller never had an answer.
   * @param isValue whether what a line holds under a key is a record
   * @throws IotdmError `input.invalid` naming the file and the line that cannot be understood, `input.unreadable`
   */
  static open<Value>(
    file: string,
    isValue: (key: string, value: unknown) => value is Value & object,
  ): RecordLog<Value> {
    try {
      const { records, lines, length, torn } = load<Value>(file, isValue);
      // More changes that no longer count than records: worth writing anew.
      if (lines === 0 || lines > 2 * records.size + 16) rewriteLog(file, piecesOf(records));
      else if (torn) truncateSync(file, length);
      return new RecordLog<Value>(new LogFile(file), records);
    } catch (cause) {
      if (cause instanceof IotdmError) throw cause;
      throw new IotdmError('input.unreadable', `${file} cannot be opened`, {
        cause,
        details: because('emulator-state'),
      });
    }
  }

  get(key: string): Value | undefined {
    return this.#records.get(key);
  }

  entries(): IterableIterator<[string, Value]> {
    return this.#records.entries();
  }

  /** Takes effect as a whole once it is in the log; throws, changing nothing, when it cannot be written. */
  commit(change: RecordChange<Value>): void {
    const { set = {}, delete: gone = [] } = change;
    if (Object.keys(set).length === 0 && gone.length === 0) return;
    this.#log.append(`${JSON.stringify(change)}\n`);
    apply(this.#records, set, gone);
  }

  /** Flushes to disk; calling it again does nothing. */
  close(): void {
    this.#log.close();
  }
}

interface Loaded<Value> {
  readonly records: Map<string, Value>;
  /** Complete ones. */
  readonly lines: number;
  /** Bytes of the complete lines. */
  readonly length: number;
  readonly torn: boolean;
}

function load<Value>(
  file: string,
  isValue: (key: string, value: unknown) => value is Value & object,
): Loaded<Value> {
  const records = new Map<string, Value>();
  if (!existsSync(file)) return { records, lines: 0, length: 0, torn: false };
  const text = readFileSync(file, 'utf8');
  const end = text.lastIndexOf('\n') + 1;
  const lines = text.slice(0, end).split('\n').slice(0, -1);
  for (const [index, line] of lines.entries()) {
    const at = `${file}: line ${index + 1}`;
    const entry = parseLogLine(line, at);
    if (index === 0) {
      if (entry['schema'] === schema) continue;
      throw new IotdmError('input.invalid', `${at} is of another version of the emulator`, {
        details: because('emulator-state'),
      });
    }
    const { set = {}, delete: gone = [] } = entry;
    if (typeof set !== 'object' || set === null || !Array.isArray(gone)) throw notAnEntry(at);
    const values: Record<string, Value> = {};
    for (const [key, value] of Object.entries(set) as [string, unknown][]) {
      if (!isValue(key, value)) throw notAnEntry(at);
      values[key] = value;
    }
    if (!gone.every((key) => typeof key === 'string')) throw notAnEntry(at);
    apply(records, values, gone);
  }
  return {
    records,
    lines: lines.length,
    length: Buffer.byteLength(text.slice(0, end)),
    torn: end < text.length,
  };
}

function apply<Value>(
  records: Map<string, Value>,
  set: Readonly<Record<string, Value>>,
  gone: readonly string[],
): void {
  for (const key of gone) records.delete(key);
  for (const [key, value] of Object.entries(set)) records.set(key, value);
}

function notAnEntry(at: string): IotdmError {
  return new IotdmError('input.invalid', `${at} is not an entry of the emulator's log`, {
    details: because('emulator-state'),
  });
}

/** What still counts, as the lines of a new log. */
function* piecesOf(records: ReadonlyMap<string, unknown>): Generator<string> {
  yield header;
  const entries = [...records];
  for (let from = 0; from < entries.length; from += compactLine) {
    yield `${JSON.stringify({ set: Object.fromEntries(entries.slice(from, from + compactLine)) })}\n`;
  }
}
