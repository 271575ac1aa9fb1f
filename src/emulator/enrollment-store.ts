/**
 * Keeps enrollments, or enrollment groups, in a log of every change, one JSON document a line, written before the caller hears of it. In
 * memory is what is asked for all the time, and where in the log the rest stands: a hundred thousand enrollments would
 * keep the garbage collector busy.
 *
 * Lines: `{"start":N,"schema":1}` whenever the log is opened, `{"put":ENROLLMENT}`, `{"delete":"ID"}`.
 */

import { closeSync, existsSync, openSync, readSync, truncateSync } from 'node:fs';
import { because, IotdmError } from '../errors.ts';
import type { Attestation } from './attestation-rules.ts';
import { LogFile, parseLogLine, rewriteLog } from './log-file.ts';

/** The member that is the id. */
export type IdName = 'registrationId' | 'enrollmentGroupId';

export interface EnrollmentRecord {
  /** As it was written when the enrollment was created. */
  readonly id: string;
  /** With its quotation marks, as in the JSON. */
  readonly etag: string;
  readonly createdDateTimeUtc: string;
  readonly attestationType: Attestation['type'];
  /** The whole enrollment, with what no answer shows. */
  readonly json: string;
}

export type EnrollmentChange = { readonly put: EnrollmentRecord } | { readonly delete: string };

export interface EnrollmentPage {
  readonly records: readonly EnrollmentRecord[];
  /** Where the next page goes on, or undefined when this is the last. */
  readonly next: string | undefined;
}

const attestationTypes = ['tpm', 'x509', 'symmetricKey', 'none'] as const;

const schema = 1;
const readSize = 4 * 1024 * 1024;
const newline = 0x0a;

export class EnrollmentStore {
  readonly #log: LogFile;
  readonly #records = new Map<string, EnrollmentRecord>();
  /** How often the log has been opened: with a counter it makes ETags that never repeat. */
  readonly #start: number;
  #writes = 0;
  /** Ids in order; may still hold deleted ones. */
  #ordered: string[] = [];
  /** Ids put since `#ordered` was made; one that was deleted in between may stand there twice. */
  #unordered: string[] = [];

  private constructor(log: LogFile, loaded: Loaded) {
    this.#log = log;
    for (const [key, record] of loaded.records) this.#records.set(key, new LoggedRecord(log, record));
    this.#unordered = [...loaded.records.keys()];
    this.#start = loaded.starts + 1;
    this.#log.append(`{"start":${this.#start},"schema":${schema}}\n`);
  }

  /**
   * Opens the log, making it if there is none. An unfinished last line, which a killed process leaves, is dropped:
   * its caller never had an answer.
   * @throws IotdmError `input.invalid` naming the file and the line that cannot be understood, `input.unreadable`
   */
  static open(file: string, idName: IdName): EnrollmentStore {
    try {
      let loaded = load(file, idName);
      if (loaded.lines > 2 * loaded.records.size + 16) {
        // More lines that no longer count than lines that do: worth writing anew.
        rewriteLog(file, piecesOf(file, loaded));
        loaded = load(file, idName);
      } else if (loaded.torn > 0) truncateSync(file, loaded.length);
      return new EnrollmentStore(new LogFile(file), loaded);
    } catch (cause) {
      if (cause instanceof IotdmError) throw cause;
      throw new IotdmError('input.unreadable', `${file} cannot be opened`, {
        cause,
        details: because('emulator-state'),
      });
    }
  }

  get size(): number {
    return this.#records.size;
  }

  /** Without regard to the id's case. */
  find(id: string): EnrollmentRecord | undefined {
    return this.#records.get(id.toLowerCase());
  }

  /** Eight bytes in quoted base64; no two are alike in the life of the log. */
  nextEtag(): string {
    this.#writes += 1;
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32BE(this.#start, 0);
    bytes.writeUInt32BE(this.#writes, 4);
    return `"${bytes.toString('base64')}"`;
  }

  /** Takes effect as a whole once it is in the log; throws, changing nothing, when it cannot be written. */
  commit(changes: readonly EnrollmentChange[]): void {
    if (changes.length === 0) return;
    const lines = changes.map(logLine);
    let at = this.#log.append(lines.join(''));
    for (const [index, change] of changes.entries()) {
      const length = Buffer.byteLength(lines[index] ?? '');
      if ('put' in change) {
        const key = change.put.id.toLowerCase();
        const before = this.#records.size;
        this.#records.set(key, new LoggedRecord(this.#log, placed(change.put, at, length)));
        if (this.#records.size > before) this.#unordered.push(key);
      } else {
        this.#records.delete(change.delete.toLowerCase());
      }
      at += length;
    }
  }

  /**
   * Up to `limit` records in the order of their lower-case ids, beginning behind the id `after`, which need not exist
   * (any more): what is put or deleted between two pages neither repeats nor hides another record.
   */
  page(after: string | undefined, limit: number): EnrollmentPage {
    const ids = this.#idsInOrder();
    const records: EnrollmentRecord[] = [];
    let last: string | undefined;
    for (let index = after === undefined ? 0 : firstAfter(ids, after); index < ids.length; index += 1) {
      const id = ids[index] ?? '';
      const record = this.#records.get(id);
      if (record === undefined) continue;
      if (records.length === limit) return { records, next: last };
      records.push(record);
      last = id;
    }
    return { records, next: undefined };
  }

  /** Flushes to disk; calling it again does nothing. */
  close(): void {
    this.#log.close();
  }

  #idsInOrder(): readonly string[] {
    if (this.#unordered.length > 0) {
      const fresh = new Set(this.#unordered);
      const known = this.#ordered.filter((id) => this.#records.has(id) && !fresh.has(id));
      this.#ordered = merged(known, [...fresh].sort());
      this.#unordered = [];
    }
    return this.#ordered;
  }
}

/** An enrollment, and where its JSON stands in the log, in bytes. */
interface Place extends Omit<EnrollmentRecord, 'json'> {
  readonly at: number;
  readonly length: number;
}

/** @param at where its line begins; @param length of the line with its line feed */
function placed(
  { id, etag, createdDateTimeUtc, attestationType }: Omit<EnrollmentRecord, 'json'>,
  at: number,
  length: number,
): Place {
  const before = putLine.length;
  return {
    id,
    etag,
    createdDateTimeUtc,
    attestationType,
    at: at + before,
    length: length - before - '}\n'.length,
  };
}

class LoggedRecord implements EnrollmentRecord {
  readonly id: string;
  readonly etag: string;
  readonly createdDateTimeUtc: string;
  readonly attestationType: Attestation['type'];
  readonly #log: LogFile;
  readonly #at: number;
  readonly #length: number;

  constructor(log: LogFile, { id, etag, createdDateTimeUtc, attestationType, at, length }: Place) {
    this.id = id;
    this.etag = etag;
    this.createdDateTimeUtc = createdDateTimeUtc;
    this.attestationType = attestationType;
    this.#log = log;
    this.#at = at;
    this.#length = length;
  }

  get json(): string {
    return this.#log.read(this.#at, this.#length);
  }
}

interface Loaded {
  readonly records: Map<string, Place>;
  readonly starts: number;
  /** Complete lines. */
  readonly lines: number;
  /** Bytes of the complete lines. */
  readonly length: number;
  /** Bytes of an unfinished last line. */
  readonly torn: number;
}

function load(file: string, idName: IdName): Loaded {
  const records = new Map<string, Place>();
  if (!existsSync(file)) return { records, starts: 0, lines: 0, length: 0, torn: 0 };
  const descriptor = openSync(file, 'r');
  let starts = 0;
  let lines = 0;
  let length = 0;
  let rest = Buffer.alloc(0);
  try {
    const chunk = Buffer.allocUnsafe(readSize);
    for (let count = readSync(descriptor, chunk); count > 0; count = readSync(descriptor, chunk)) {
      const data = Buffer.concat([rest, chunk.subarray(0, count)]);
      let from = 0;
      for (let end = data.indexOf(newline); end !== -1; end = data.indexOf(newline, from)) {
        lines += 1;
        const line = { text: data.toString('utf8', from, end), at: length + from, length: end + 1 - from };
        starts = Math.max(starts, apply(line, idName, records, `${file}: line ${lines}`));
        from = end + 1;
      }
      length += from;
      rest = data.subarray(from);
    }
  } finally {
    closeSync(descriptor);
  }
  return { records, starts, lines, length, torn: rest.length };
}

const putLine = '{"put":';

/** Applies one line to the records; returns the number of a start, else 0. */
function apply(
  line: { readonly text: string; readonly at: number; readonly length: number },
  idName: IdName,
  records: Map<string, Place>,
  where: string,
): number {
  const entry = parseLogLine(line.text, where);
  const put = entry['put'];
  if (typeof put === 'object' && put !== null && line.text.startsWith(putLine)) {
    const { [idName]: id, etag, createdDateTimeUtc, attestation } = put as Record<string, unknown>;
    const attestationType = typeIn(attestation);
    if (
      typeof id === 'string' &&
      typeof etag === 'string' &&
      typeof createdDateTimeUtc === 'string' &&
      attestationType !== undefined
    ) {
      const record = { id, etag, createdDateTimeUtc, attestationType };
      records.set(id.toLowerCase(), placed(record, line.at, line.length));
      return 0;
    }
  }
  if (typeof entry['delete'] === 'string') {
    records.delete(entry['delete'].toLowerCase());
    return 0;
  }
  if (Number.isSafeInteger(entry['start'])) {
    if (entry['schema'] === schema) return entry['start'] as number;
    throw new IotdmError('input.invalid', `${where} is of another version of the emulator`, {
      details: because('emulator-state'),
    });
  }
  throw new IotdmError('input.invalid', `${where} is not an entry of the emulator's log`, {
    details: because('emulator-state'),
  });
}

function typeIn(attestation: unknown): Attestation['type'] | undefined {
  const { type } = (attestation ?? {}) as { readonly type?: unknown };
  return attestationTypes.find((known) => known === type);
}

function logLine(change: EnrollmentChange): string {
  return 'put' in change ? `${putLine}${change.put.json}}\n` : `${JSON.stringify(change)}\n`;
}

/** What still counts, as the lines of a new log, many to a piece. */
function* piecesOf(file: string, { records, starts }: Loaded): Generator<string> {
  const log = new LogFile(file);
  try {
    let lines = [`{"start":${starts},"schema":${schema}}\n`];
    for (const place of records.values()) {
      lines.push(logLine({ put: new LoggedRecord(log, place) }));
      if (lines.length === 1000) {
        yield lines.join('');
        lines = [];
      }
    }
    yield lines.join('');
  } finally {
    log.close();
  }
}

/** The index of the first id that comes after `after`. */
function firstAfter(ids: readonly string[], after: string): number {
  let low = 0;
  let high = ids.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ids[middle] ?? '') <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Two ordered lists without common ids as one. */
function merged(first: readonly string[], second: readonly string[]): string[] {
  const all: string[] = [];
  let index = 0;
  for (const id of second) {
    for (let other = first[index]; other !== undefined && other < id; other = first[index]) {
      all.push(other);
      index += 1;
    }
    all.push(id);
  }
  return all.concat(first.slice(index));
}
