/**
 * What has happened to the index of identities since its body was written, as lines that any number of processes append
 * to one file: who is about to write which enrollments, what came of it, and what was found to be otherwise. The order of
 * the lines decides who was first.
 *
 * Lines, each sealed: `log N` first; `claim SESSION NUMBER {at, by, kind, rows}` before a request leaves; `end SESSION NUMBER +-?`, a
 * character a row, after its answer; `known BEFORE {at, rows, gone}` for enrollments as the service has them, which is
 * truer than all that stands before that position; `stale` where the whole index is.
 */
import {
  openLine,
  readRow,
  sealLine,
  writeRow,
  factsOf,
  IdentityDamage,
  type IdentityRow,
} from './identity-row.ts';

/** Where a line stands: the number of its file and its offset in it, as one number. */
export type Position = number;

const OFFSETS = 2 ** 34;

export function positionOf(log: number, offset: number): Position {
  return log * OFFSETS + offset;
}

export function logOf(position: Position): number {
  return Math.floor(position / OFFSETS);
}

/** `written`: the enrollment is as the row says; `refused`: it is not; `unknown`: one of the two. */
export type ClaimOutcome = 'written' | 'refused' | 'unknown';

/** A new enrollment may come beside what its id was known for, a changed one is all there is of it. */
export type ClaimKind = 'create' | 'update';

export interface ClaimLine {
  readonly type: 'claim';
  /** Of the process that has made it. */
  readonly session: string;
  /** Of the claim among those of the session. */
  readonly number: number;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** As `thisProcess` gives it. */
  readonly by: Readonly<Record<string, unknown>>;
  readonly kind: ClaimKind;
  readonly rows: readonly IdentityRow[];
  /** It was made in an earlier file, before anything in this one. */
  readonly isCarried?: true;
}

export interface EndLine {
  readonly type: 'end';
  readonly session: string;
  readonly number: number;
  /** In the order of the claim's rows. */
  readonly outcomes: readonly ClaimOutcome[];
}

export interface KnownLine {
  readonly type: 'known';
  readonly before: Position;
  readonly at: number;
  readonly rows: readonly IdentityRow[];
  /** Ids that are not enrolled. */
  readonly gone: readonly string[];
}

/** The first line of a log. */
export interface LogStart {
  readonly type: 'log';
  readonly number: number;
  /** In which run of the system it was begun; null where the system does not say. */
  readonly boot: string | null;
}

export type LogLine = LogStart | ClaimLine | EndLine | KnownLine | { readonly type: 'stale' };

const characters: Readonly<Record<ClaimOutcome, string>> = { written: '+', refused: '-', unknown: '?' };
const outcomes: Readonly<Record<string, ClaimOutcome>> = { '+': 'written', '-': 'refused', '?': 'unknown' };

export function writeLine(line: LogLine): string {
  return sealLine(textOf(line));
}

function textOf(line: LogLine): string {
  switch (line.type) {
    case 'claim': {
      const { session, number, rows, at, by, kind, isCarried } = line;
      const members = JSON.stringify({ at, by, kind, isCarried }).slice(1, -1);
      return `claim ${session} ${number} {${members},"rows":[${rows.map(writeRow).join()}]}`;
    }
    case 'end':
      return `end ${line.session} ${line.number} ${line.outcomes.map((outcome) => characters[outcome]).join('')}`;
    case 'known': {
      const { before, at, rows, gone } = line;
      const members = JSON.stringify({ at, gone }).slice(1, -1);
      return `known ${before} {${members},"rows":[${rows.map(writeRow).join()}]}`;
    }
    case 'log':
      return `log ${line.number} ${line.boot ?? '-'}`;
    case 'stale':
      return 'stale';
  }
}

/** Whose claim a line is, by its beginning; undefined for other lines. */
export function claimantOf(line: string): { readonly session: string; readonly number: number } | undefined {
  const [, session, number] = /^.{16} claim (\S+) ([0-9]+) /.exec(line) ?? [];
  return session === undefined ? undefined : { session, number: Number(number) };
}

/** @throws IdentityDamage for a line that was torn, changed, or written by a later version */
export function readLine(line: string): LogLine {
  const text = openLine(line);
  const parsed = text === undefined ? undefined : parse(text);
  if (parsed === undefined) throw new IdentityDamage('a line is not whole');
  return parsed;
}

function parse(text: string): LogLine | undefined {
  if (text === 'stale') return { type: 'stale' };
  const [start, log = '', boot] = /^log ([0-9]+) (\S+)$/.exec(text) ?? [];
  if (start !== undefined)
    return { type: 'log', number: Number(log), boot: boot === '-' ? null : (boot ?? null) };
  const [, type, first = '', second = '', rest = ''] =
    /^(claim|end|known) (\S+)(?: ([0-9]+))? (.*)$/.exec(text) ?? [];
  const number = Number(second);
  if (type === 'end') {
    const ended = Array.from(rest, (character) => outcomes[character]);
    return ended.includes(undefined)
      ? undefined
      : { type, session: first, number, outcomes: ended as readonly ClaimOutcome[] };
  }
  if (type === undefined) return undefined;
  const value = JSON.parse(rest) as {
    readonly at: number;
    readonly by: ClaimLine['by'];
    readonly kind: ClaimKind;
    readonly rows: readonly unknown[];
    readonly gone: readonly string[];
    readonly isCarried?: true;
  };
  const rows = value.rows.map(readRow);
  if (rows.includes(undefined)) return undefined;
  const { at, by, kind, gone, isCarried } = value;
  return type === 'claim'
    ? {
        ...{ type, session: first, number, at, by, kind, rows: rows as readonly IdentityRow[] },
        ...(isCarried === true ? { isCarried } : {}),
      }
    : { type: 'known', before: Number(first), at, rows: rows as readonly IdentityRow[], gone };
}

/** A claim as far as it is known what came of it. */
export interface Claim extends ClaimLine {
  readonly position: Position;
  readonly outcomes: readonly ClaimOutcome[] | undefined;
}

/** What one line says of one enrollment. */
export interface LogEntry {
  readonly row: IdentityRow;
  readonly position: Position;
  /** Where nobody has said yet what came of it. */
  readonly open: Claim | undefined;
}

interface Mention {
  readonly row: IdentityRow;
  readonly position: Position;
  readonly claim: string | undefined;
  readonly index: number;
}

/** The lines of the logs, to be looked up in. */
export class LogView {
  readonly #claims = new Map<string, Claim>();
  readonly #ends = new Map<string, readonly ClaimOutcome[]>();
  readonly #mentions = new Map<string, Mention[]>();
  /** Of an id, what stands before this is not true any more. */
  readonly #truth = new Map<string, Position>();
  isStale = false;
  /** In which runs of the system the logs were begun. */
  readonly boots = new Set<string | null>();

  add(line: LogLine, position: Position): void {
    if (line.type === 'claim') this.#addClaim(line, position);
    else if (line.type === 'end') this.#addEnd(line);
    else if (line.type === 'known') {
      for (const id of [...line.gone, ...line.rows.map((row) => row.id)]) this.#settle(id, line.before);
      for (const [index, row] of line.rows.entries())
        this.#mention({ row, position, claim: undefined, index });
    } else if (line.type === 'stale') this.isStale = true;
    else this.boots.add(line.boot);
  }

  #addClaim(line: ClaimLine, at: Position): void {
    const key = keyOf(line);
    const position = line.isCarried === true ? positionOf(logOf(at), 0) : at;
    // The same again where a claim was taken over into another file: where it stands last counts.
    this.#claims.set(key, { ...line, position, outcomes: undefined });
    for (const [index, row] of line.rows.entries()) this.#mention({ row, position, claim: key, index });
    const ended = this.#ends.get(key);
    if (ended !== undefined) this.#endClaim(key, ended);
  }

  #addEnd(line: EndLine): void {
    const key = keyOf(line);
    if (this.#claims.has(key)) this.#endClaim(key, line.outcomes);
    else this.#ends.set(key, line.outcomes);
  }

  #endClaim(key: string, ended: readonly ClaimOutcome[]): void {
    const claim = this.#claims.get(key);
    if (claim === undefined) return;
    this.#claims.set(key, { ...claim, outcomes: ended });
    for (const id of settledBy(claim, ended)) this.#settle(id, claim.position);
  }

  #settle(id: string, position: Position): void {
    this.#truth.set(id, Math.max(position, this.#truth.get(id) ?? 0));
  }

  #mention(mention: Mention): void {
    for (const fact of factsOf(mention.row)) {
      const mentions = this.#mentions.get(fact);
      if (mentions === undefined) this.#mentions.set(fact, [mention]);
      else mentions.push(mention);
    }
  }

  has(fact: string): boolean {
    return this.#mentions.has(fact);
  }

  /** What stands here of a key or a device id, and still holds. */
  find(fact: string): readonly LogEntry[] {
    return (this.#mentions.get(fact) ?? []).flatMap(({ row, position, claim: key, index }) => {
      const claim = key === undefined ? undefined : this.#claims.get(key);
      const outcome = claim?.outcomes?.[index];
      if (outcome === 'refused' || position < (this.#truth.get(row.id) ?? 0)) return [];
      return [{ row, position, open: claim?.outcomes === undefined ? claim : undefined }];
    });
  }

  /** From where on the logs say all there is of an id; undefined where they do not. */
  truthOf(id: string): Position | undefined {
    return this.#truth.get(id);
  }
}

export function keyOf({ session, number }: Pick<ClaimLine, 'session' | 'number'>): string {
  return `${session} ${number}`;
}

/** Ids of which a claim says all there is, now that it has ended like this. */
export function settledBy({ kind, rows }: ClaimLine, ended: readonly ClaimOutcome[]): readonly string[] {
  if (kind === 'create') return [];
  return rows.filter((_, index) => ended[index] === 'written').map(({ id }) => id);
}
