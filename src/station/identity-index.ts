/**
 * Whether another enrollment of the service has the key or the device id that one is about to get. The service has no
 * query for that, so an index of what it holds is kept in the state directory: read page by page when it is too old, and
 * kept current by what is written from here. What it says is a hint: before a writing is refused for it, the other
 * enrollment is looked up.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { StoredEnrollment } from '../dps/enrollment.ts';
import { IotdmError, mayHaveTakenEffect } from '../errors.ts';
import { OneAtATime } from '../one-at-a-time.ts';
import type { ClaimKind, ClaimOutcome, Position } from '../records/identity-log.ts';
import { IdentityDamage, type IdentityRow } from '../records/identity-row.ts';
import { IdentityStore, type Candidate } from '../records/identity-store.ts';
import {
  afterwards,
  conflictError,
  conflictWith,
  givenBy,
  identityOf,
  type IdentityConflict,
  type Writing,
} from './identity-facts.ts';

export interface IndexOptions {
  readonly stateDirectory: string;
  /** Of the service. */
  readonly host: string;
  /** How old it may be before the enrollments are read again; 0 for every time. */
  readonly maxAgeMs: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly signal: AbortSignal;
  /** Others learn of what is written from here, and nothing is compared or read for it. */
  readonly tellsOnly?: boolean;
  /** What is written shares nothing among itself: it was checked before. */
  readonly claimsAreDistinct?: boolean;
  /** When what was written is worked into what was read; see IdentityStore. */
  readonly longLogBytes?: number;
  /** Called where another process, with this id, is reading them. */
  readonly onWait?: (pid: number) => void;
}

/** Where the enrollments are. */
export interface IdentitySource {
  /** All of them, within the rate of the service. */
  pages(): AsyncIterable<readonly StoredEnrollment[]>;
  find(registrationId: string): Promise<StoredEnrollment | undefined>;
}

export interface PrepareOptions {
  /** How many enrollments are to be compared. */
  readonly expected?: number;
  /** Called after each page with the number of enrollments read so far. */
  readonly onReading?: (enrollments: number) => Promise<void> | void;
  /** Sees what is read, where it is. */
  readonly onPage?: (page: readonly StoredEnrollment[]) => Promise<void> | void;
}

/** A writing that was announced. */
export interface Claimed {
  /** Why it must not be done. */
  readonly conflict: IdentityConflict | undefined;
  /** Why nobody knows. */
  readonly error: Error | undefined;
  /** To be called once, when it is known what came of it. A writing that must not be done is `refused` already. */
  end(outcome: ClaimOutcome): void;
}

/** With so many to compare, the index is taken into memory. */
const MANY = 64;
/** A list that is no older than this is not looked into again for every conflict, where there are many. */
const FRESH_MS = 300_000;
const FEW_LOOKUPS = 10;
const ROWS_OF_A_PAGE = 1000;
const CATCH_UP_MS = 200;
/** Deletions that are not kept one by one: reading the list costs less then. */
const MOST_DELETIONS = 10_000;
/** A clock that has been set back this far makes the age unknown. */
const CLOCK_SLACK_MS = 60_000;

export class IdentityIndex {
  readonly #options: IndexOptions;
  readonly #source: IdentitySource;
  readonly #store: IdentityStore;
  readonly #turns = new OneAtATime();
  #isMany = false;
  #lookups = 0;
  #deletions = 0;
  #caughtUpAt = -Infinity;

  private constructor(options: IndexOptions, source: IdentitySource, store: IdentityStore) {
    this.#options = options;
    this.#source = source;
    this.#store = store;
  }

  /** @throws IotdmError `usage.output-unwritable` */
  static async open(options: IndexOptions, source: IdentitySource): Promise<IdentityIndex> {
    const { stateDirectory, now, claimsAreDistinct = false, longLogBytes } = options;
    const host = options.host.toLowerCase();
    const dir = join(stateDirectory, directoryOf(host));
    return new IdentityIndex(
      options,
      source,
      await IdentityStore.open({
        ...{ dir, host, now, claimsAreDistinct },
        ...(longLogBytes === undefined ? {} : { longLogBytes }),
      }),
    );
  }

  get isComparing(): boolean {
    return this.#options.tellsOnly !== true;
  }

  /** Enrollments that were read, and when, in milliseconds since 1970; undefined before that. */
  get extent(): { readonly enrollments: number; readonly readAt: number } | undefined {
    const { readAt, rows } = this.#store;
    return readAt === undefined ? undefined : { enrollments: rows, readAt };
  }

  /**
   * Reads the enrollments where what is known of them is too old or not to be relied on.
   * @returns whether it did
   * @throws IotdmError what reading them throws, with `index` in its details; `usage.output-unwritable`
   */
  async prepare({ expected = 1, ...watchers }: PrepareOptions = {}): Promise<boolean> {
    if (this.#options.tellsOnly === true) return false;
    return this.#turns.run(async () => {
      let isRead = this.#isDue && (await this.#read(watchers));
      if (!isRead && this.#store.isLong) {
        const isUsable = await this.#store.withLock(() => this.#store.compact(), this.#lockWait());
        if (!isUsable) isRead = await this.#read(watchers, true);
      }
      if (expected >= MANY && !this.#isMany) {
        this.#isMany = true;
        await this.#store.load();
      }
      return isRead;
    });
  }

  get #isDue(): boolean {
    const { readAt } = this.#store;
    if (readAt === undefined) return true;
    const age = this.#options.now() - readAt;
    return age >= this.#options.maxAgeMs || age < -CLOCK_SLACK_MS;
  }

  async #read(watchers: PrepareOptions = {}, isForced = false): Promise<boolean> {
    return this.#store.withLock(async () => {
      const before = this.#store.generation;
      await this.#store.reload({ isShallow: true });
      // Another process may have read them while this one waited.
      if (!this.#isDue && (!isForced || this.#store.generation !== before)) {
        if (isForced) await this.#store.reload();
        return false;
      }
      await this.#store.rebuild(this.#rows(watchers));
      if (this.#store.readAt === undefined) {
        throw new IotdmError(
          'internal.unexpected',
          'the index of identities cannot be read after it was written',
        );
      }
      return true;
    }, this.#lockWait());
  }

  async *#rows({ onPage, onReading }: PrepareOptions): AsyncGenerator<readonly IdentityRow[], void> {
    let count = 0;
    const pages = this.#source.pages()[Symbol.asyncIterator]();
    for (;;) {
      const page = await pages.next().catch((error: unknown) => {
        throw cannotRead(error);
      });
      if (page.done === true) return;
      await onPage?.(page.value);
      count += page.value.length;
      await onReading?.(count);
      yield page.value.map(identityOf);
    }
  }

  #lockWait(): Parameters<IdentityStore['withLock']>[1] {
    const { signal, onWait } = this.#options;
    return {
      signal,
      onWait: ({ pid }) => {
        onWait?.(pid);
      },
    };
  }

  /**
   * Who has what this writing would give to its enrollment; nothing is announced.
   * @throws IotdmError as `prepare`, and what looking up an enrollment throws
   */
  async compare(writing: Writing): Promise<IdentityConflict | undefined> {
    const given = givenBy(writing);
    if (given === undefined || this.#options.tellsOnly === true) return undefined;
    return this.#undamaged(async () => {
      await this.#catchUp();
      return this.#judge(given);
    });
  }

  /** Of many, not each needs what others have written this very moment. */
  async #catchUp(): Promise<void> {
    const now = performance.now();
    if (this.#isMany && now - this.#caughtUpAt < CATCH_UP_MS) return;
    this.#caughtUpAt = now;
    await this.#store.catchUp();
  }

  /** The same as a failure. @throws IotdmError `service.conflict`; as `compare` */
  async refuse(writing: Writing): Promise<void> {
    const conflict = await this.compare(writing);
    if (conflict !== undefined) throw conflictError(writing.enrollment.registrationId, conflict);
  }

  /**
   * Announces writings, and judges each. What others have announced before counts as theirs.
   * @throws IotdmError as `prepare`
   */
  async claim(kind: ClaimKind, writings: readonly Writing[]): Promise<readonly Claimed[]> {
    if (this.#options.tellsOnly === true) return this.#told(kind, writings);
    return this.#undamaged(async () => {
      const rows = writings.map(afterwards);
      const { number, position } = await this.#store.claim(kind, rows);
      const batch = new ClaimBatch(writings.length, (outcomes) => {
        this.#store.end(number, outcomes);
      });
      const claimed: Claimed[] = [];
      for (const [index, writing] of writings.entries()) {
        const given = writing.stored === undefined ? rows[index] : givenBy(writing);
        let conflict: IdentityConflict | undefined;
        let error: Error | undefined;
        try {
          const isFree = given === undefined || this.#store.isNew(given);
          conflict = isFree ? undefined : await this.#judge(given, position);
        } catch (caught) {
          if (caught instanceof IdentityDamage) {
            batch.endAll();
            throw caught;
          }
          error = caught instanceof Error ? caught : new Error('unknown', { cause: caught });
        }
        if (conflict !== undefined || error !== undefined) batch.end(index, 'refused');
        claimed.push({
          conflict,
          error,
          end: (outcome) => {
            batch.end(index, outcome);
          },
        });
      }
      return claimed;
    });
  }

  /** Announces writings to others who have an index. Where that cannot be done, they look the enrollments up. */
  async #told(kind: ClaimKind, writings: readonly Writing[]): Promise<readonly Claimed[]> {
    let batch: ClaimBatch | undefined;
    try {
      const { number } = await this.#store.claim(kind, writings.map(afterwards));
      batch = new ClaimBatch(writings.length, (outcomes) => {
        this.#store.end(number, outcomes);
      });
    } catch (error) {
      if (!(error instanceof IdentityDamage || error instanceof IotdmError)) throw error;
    }
    return writings.map((_, index) => ({
      conflict: undefined,
      error: undefined,
      end: (outcome) => batch?.end(index, outcome),
    }));
  }

  /**
   * Does one writing, unless another enrollment has what it would give.
   * @throws IotdmError `service.conflict`; as `prepare`; what the writing throws
   */
  async guard<T>(kind: ClaimKind, writing: Writing, write: () => Promise<T>): Promise<T> {
    const [claimed] = await this.claim(kind, [writing]);
    if (claimed?.error !== undefined) throw claimed.error;
    if (claimed?.conflict !== undefined) {
      throw conflictError(writing.enrollment.registrationId, claimed.conflict);
    }
    try {
      const result = await write();
      claimed?.end('written');
      return result;
    } catch (error) {
      claimed?.end(hadNoEffect(error) ? 'refused' : 'unknown');
      throw error;
    }
  }

  /** Up to where the index is known: to be asked for before a request that `forget` is to tell of. */
  get position(): Position {
    return this.#store.position;
  }

  /** Says that an enrollment was deleted. @param before the position when the request left */
  forget(registrationId: string, before: Position): void {
    // Without an index there is nothing to keep current.
    if (this.#store.readAt === undefined) return;
    this.#deletions += 1;
    if (this.#deletions < MOST_DELETIONS) this.#store.known([], [registrationId.toLowerCase()], before);
    else if (this.#deletions === MOST_DELETIONS) this.#store.outdate();
  }

  async close(): Promise<void> {
    await this.#store.close();
  }

  /** Where the index proves to be damaged, it is made anew, and the task done again. */
  async #undamaged<T>(task: () => Promise<T>): Promise<T> {
    try {
      return await task();
    } catch (error) {
      if (!(error instanceof IdentityDamage)) throw error;
      await this.#turns.run(() => this.#read({}, true));
      return task();
    }
  }

  async #judge(given: IdentityRow, before?: Position): Promise<IdentityConflict | undefined> {
    let candidates = await this.#store.find(given, before);
    if (candidates.length > 0 && this.#isListCheaper) {
      await this.#turns.run(async () => this.#isListCheaper && (await this.#read({}, true)));
      candidates = await this.#store.find(given, before);
    }
    for (const candidate of candidates) {
      const conflict = await this.#confirmed(given, candidate);
      if (conflict !== undefined) return conflict;
    }
    return undefined;
  }

  /** Whether what is listed counts without another look. */
  get #isFresh(): boolean {
    return this.#options.now() - (this.#store.readAt ?? -Infinity) < FRESH_MS;
  }

  /** Whether as many enrollments were looked up as it takes requests to read all of them. */
  get #isListCheaper(): boolean {
    const pages = this.#store.rows / ROWS_OF_A_PAGE;
    return this.#isMany && !this.#isFresh && this.#lookups >= Math.max(FEW_LOOKUPS, pages);
  }

  async #confirmed(given: IdentityRow, candidate: Candidate): Promise<IdentityConflict | undefined> {
    const { id, sharesKey, deviceId, writer, isListed } = candidate;
    if (writer !== undefined) return { other: id, sharesKey, deviceId, writer: writer.pid };
    if (this.#isMany && isListed && this.#isFresh && this.#lookups >= FEW_LOOKUPS) {
      return { other: id, sharesKey, deviceId };
    }
    this.#lookups += 1;
    const { position } = this.#store;
    const stored = await this.#source.find(id);
    if (stored === undefined) {
      this.#store.known([], [id], position);
      return undefined;
    }
    const conflict = conflictWith(given, stored);
    if (conflict === undefined) this.#store.known([identityOf(stored)], [], position);
    return conflict;
  }
}

/** Ends a claim when all of its rows have ended. */
class ClaimBatch {
  readonly #outcomes: (ClaimOutcome | undefined)[];
  readonly #onEnd: (outcomes: readonly ClaimOutcome[]) => void;
  #left: number;

  constructor(rows: number, onEnd: (outcomes: readonly ClaimOutcome[]) => void) {
    this.#outcomes = Array.from({ length: rows }, () => undefined);
    this.#left = rows;
    this.#onEnd = onEnd;
  }

  end(row: number, outcome: ClaimOutcome): void {
    if (this.#outcomes[row] !== undefined) return;
    this.#outcomes[row] = outcome;
    this.#left -= 1;
    if (this.#left === 0) this.#onEnd(this.#outcomes.map((ended) => ended ?? 'unknown'));
  }

  /** Nothing of it will be done. */
  endAll(): void {
    for (const row of this.#outcomes.keys()) this.end(row, 'refused');
  }
}

/** Whether there is an index of this service. */
export function hasIndex(stateDirectory: string, host: string): boolean {
  return existsSync(join(stateDirectory, directoryOf(host.toLowerCase())));
}

/** A directory for each service. */
function directoryOf(host: string): string {
  return `identities-${host.replace(/[^a-z0-9.-]/g, '_')}`;
}

/** The service said no, or was never reached. */
function hadNoEffect(error: unknown): boolean {
  if (!mayHaveTakenEffect(error)) return true;
  if (!(error instanceof IotdmError) || error.code === 'service.unexpected-answer') return false;
  return /^(?:auth|service|usage)\.|^network\.(?:unreachable|tls|proxy|throttled)$/.test(error.code);
}

function cannotRead(error: unknown): unknown {
  if (!(error instanceof IotdmError) || error.code === 'interrupted.signal') return error;
  return new IotdmError(error.code, `${error.message}; all enrollments were to be read, to compare with`, {
    cause: error,
    details: { ...error.details, index: true },
  });
}
