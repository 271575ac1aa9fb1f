/**
 * The index of identities as files of the state directory, for all processes that share it: a body (`base-N`) and the
 * logs of what has happened since (`log-N` and later ones). Nobody holds a lock while requests are under way: a claim is
 * one write to the end of the newest log, and whoever made it reads what stands before it. A new body is made by one
 * process at a time, beside the others: it begins a new log first, so that what is written meanwhile is not lost.
 */
import { randomBytes } from 'node:crypto';
import { constants, existsSync, fstatSync, writeSync } from 'node:fs';
import { open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate, setTimeout as wait } from 'node:timers/promises';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { livingProcess, takeProcessLock, thisBoot, thisProcess, type Holder } from '../process-lock.ts';
import { draftName, flushDirectory, makeStateDirectory, removeDrafts } from '../state-directory.ts';
import { BaseBuilder, IdentityBase } from './identity-base.ts';
import { LogCarrier } from './identity-carry.ts';
import { linesOf } from './identity-lines.ts';
import {
  claimantOf,
  logOf,
  LogView,
  positionOf,
  readLine,
  writeLine,
  type Claim,
  type ClaimKind,
  type ClaimOutcome,
  type LogLine,
  type Position,
} from './identity-log.ts';
import { deviceFact, hubsOverlap, IdentityDamage, keyFact, type IdentityRow } from './identity-row.ts';

export interface StoreOptions {
  readonly dir: string;
  /** Of the service. */
  readonly host: string;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** What this process claims shares nothing with what else it claims, and need not be kept in memory. */
  readonly claimsAreDistinct?: boolean;
  /** A log that has become longer is worked into the body by whoever comes next; 4 MB when absent. */
  readonly longLogBytes?: number;
}

/** An enrollment that may hold what another one is to get. */
export interface Candidate {
  readonly id: string;
  readonly sharesKey: boolean;
  /** That both have. */
  readonly deviceId: string | undefined;
  /** The process that is just writing it; undefined where it has been written, or nobody is at it any more. */
  readonly writer: Holder | undefined;
  /** It is known from the list of all enrollments, as old as that is. */
  readonly isListed: boolean;
}

export interface LockWait {
  readonly signal: AbortSignal;
  /** Called once, where another process is at it. */
  readonly onWait: (holder: Holder) => void;
}

const LOCK = 'lock';
const LOCK_POLL_MS = 200;
const SESSION_BYTES = 6;
/** Of an import: so many outcomes may wait for the next claim. */
const PATIENT_LINES = 100;
/** In which the claimant of a line stands. */
const CLAIMANT_BYTES = 80;
/** What others usually append between two looks. */
const APPENDED_BYTES = 16 * 1024;
const ATTEMPTS = 20;
const ATTEMPT_MS = 20;
/** No line takes as long to write. */
const WRITING_MS = 50;
const LONG_LOG_BYTES = 4 * 1024 * 1024;
const fileName = /^(base|log)-([0-9]+)$/;

/** A line that is to be written. */
interface WaitingLine {
  readonly type: LogLine['type'];
  readonly text: string;
  /** Number of the claim that it is. */
  readonly claim: number | undefined;
  /** Of whoever waits for it. */
  readonly done?: (error?: Error) => void;
}

function waiting(line: LogLine): WaitingLine {
  return { type: line.type, text: writeLine(line), claim: line.type === 'claim' ? line.number : undefined };
}

interface OpenLog {
  readonly number: number;
  readonly handle: FileHandle;
  /** Up to where it has been read. */
  offset: number;
}

export class IdentityStore {
  readonly #options: StoreOptions;
  readonly #boot = thisBoot();
  readonly #by = thisProcess();
  readonly #session = randomBytes(SESSION_BYTES).toString('base64url');
  #base: IdentityBase | undefined;
  #view = new LogView();
  #log: OpenLog | undefined;
  #logBytes = 0;
  #isDamaged = false;
  #isLoaded = false;
  #claims = 0;
  readonly #positions = new Map<number, Position>();
  #lines: WaitingLine[] = [];
  #writing: Promise<void> | undefined;

  private constructor(options: StoreOptions) {
    this.#options = options;
  }

  /** @throws IotdmError `usage.output-unwritable` */
  static async open(options: StoreOptions): Promise<IdentityStore> {
    makeStateDirectory(options.dir);
    const store = new IdentityStore(options);
    await store.#guarded(() => store.reload({ isShallow: true }));
    return store;
  }

  /** When the enrollments that it holds were read, in milliseconds since 1970; undefined where it cannot be used. */
  get readAt(): number | undefined {
    const isLost = [...this.#view.boots].some((boot) => boot !== this.#boot);
    return this.#isDamaged || this.#view.isStale || isLost ? undefined : this.#base?.origin.readAt;
  }

  /** Number of the body that is used; another one was made later. */
  get generation(): number | undefined {
    return this.#base?.origin.covers;
  }

  /** Enrollments that the body holds. */
  get rows(): number {
    return this.#base?.rows ?? 0;
  }

  /** Up to where this process has read. */
  get position(): Position {
    return this.#log === undefined ? 0 : positionOf(this.#log.number, this.#log.offset);
  }

  get isLong(): boolean {
    return this.#logBytes > (this.#options.longLogBytes ?? LONG_LOG_BYTES);
  }

  /** Makes many look-ups fast, for memory. */
  async load(): Promise<void> {
    this.#isLoaded = true;
    await this.#guarded(async () => this.#base?.load());
  }

  /**
   * Everything from the files anew.
   * @param isShallow leaves logs that are too long unread: they are to be worked into the body before anything is asked
   */
  async reload({ isShallow = false } = {}): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#tryReload(isShallow);
        return;
      } catch (error) {
        const isMoving = error instanceof IdentityDamage || systemErrorCode(error) === 'ENOENT';
        if (!isMoving) throw error;
        // Others may have made a new body between two looks.
        if (attempt < ATTEMPTS && !(await this.#isBodyDamaged(error))) {
          await wait(ATTEMPT_MS);
          continue;
        }
        this.#isDamaged = true;
        return;
      }
    }
  }

  /** Damage to a body that is still the newest one does not go away by waiting. */
  async #isBodyDamaged(error: unknown): Promise<boolean> {
    if (!(error instanceof BodyDamage)) return false;
    const { base } = await this.#numbers();
    return base.at(-1) === error.number;
  }

  async #tryReload(isShallow: boolean): Promise<void> {
    const numbers = await this.#numbers();
    const covers = numbers.base.at(-1);
    if (covers === undefined) {
      await this.#replaceFiles(undefined, undefined);
      this.#isDamaged = numbers.log.length > 0;
      return;
    }
    const logs = numbers.log.filter((number) => number >= covers);
    if (logs.some((number, index) => number !== covers + index) || logs.length === 0) {
      throw new IdentityDamage('a log is missing');
    }
    const base = await this.#openBase(covers);
    let log: OpenLog | undefined;
    try {
      if (this.#isLoaded) await base.load();
      const view = new LogView();
      let bytes = 0;
      for (const number of logs) bytes += (await stat(this.#path('log', number))).size;
      this.#logBytes = bytes;
      const isRead = !isShallow || !this.isLong;
      this.#isDamaged = false;
      for (const number of logs) {
        await log?.handle.close();
        log = undefined;
        const handle = await open(this.#path('log', number), constants.O_RDWR | constants.O_APPEND);
        log = { number, handle, offset: 0 };
        if (isRead) {
          await this.#readOn(log, view);
          this.#isDamaged ||= !(await isWhole(log));
        } else log.offset = (await handle.stat()).size;
      }
      await this.#replaceFiles(base, log);
      this.#view = view;
    } catch (error) {
      await base.close();
      await log?.handle.close().catch(() => undefined);
      throw error;
    }
  }

  async #openBase(number: number): Promise<IdentityBase> {
    let base: IdentityBase;
    try {
      base = await IdentityBase.open(this.#path('base', number));
    } catch (error) {
      throw error instanceof IdentityDamage ? new BodyDamage(error.message, number) : error;
    }
    const { host, covers } = base.origin;
    if (host === this.#options.host && covers === number) return base;
    await base.close();
    throw new BodyDamage('it is that of another service', number);
  }

  async #replaceFiles(base: IdentityBase | undefined, log: OpenLog | undefined): Promise<void> {
    const [oldBase, oldLog] = [this.#base, this.#log];
    [this.#base, this.#log] = [base, log];
    await oldBase?.close();
    await oldLog?.handle.close();
    if (base === undefined) this.#view = new LogView();
  }

  /** The numbers of the files, ascending. */
  async #numbers(): Promise<Readonly<Record<'base' | 'log', number[]>>> {
    const numbers: Record<'base' | 'log', number[]> = { base: [], log: [] };
    for (const name of await readdir(this.#options.dir)) {
      const [, kind, digits] = fileName.exec(name) ?? [];
      if (kind === 'base' || kind === 'log') numbers[kind].push(Number(digits));
    }
    numbers.base.sort((a, b) => a - b);
    numbers.log.sort((a, b) => a - b);
    return numbers;
  }

  #path(kind: 'base' | 'log', number: number): string {
    return join(this.#options.dir, `${kind}-${number}`);
  }

  /**
   * Reads what others have appended since.
   * @throws IdentityDamage
   */
  async catchUp(): Promise<void> {
    await this.flush();
    await this.#guarded(async () => {
      const log = this.#log;
      if (log === undefined) throw new IdentityDamage('there is no log');
      if (existsSync(this.#path('log', log.number + 1))) await this.reload();
      else await this.#readOn(log, this.#view);
    });
  }

  /** Reads what was appended since. A last line without its end may still be on its way, and is left for later. */
  async #readOn(log: OpenLog, view: LogView): Promise<void> {
    const likely = log.offset === 0 ? undefined : APPENDED_BYTES;
    for await (const { line, start } of linesOf(log.handle, log.offset, likely)) {
      const position = positionOf(log.number, start);
      log.offset = start + line.length + 1;
      if (line.length > 0) this.#take(line, position, view);
    }
  }

  #take(line: Buffer, position: Position, view: LogView): void {
    const claimant = claimantOf(line.toString('latin1', 0, CLAIMANT_BYTES));
    if (claimant?.session === this.#session) {
      this.#positions.set(claimant.number, position);
      if (this.#options.claimsAreDistinct === true) return;
    }
    try {
      view.add(readLine(line.toString('utf8')), position);
    } catch (error) {
      if (!(error instanceof IdentityDamage || error instanceof SyntaxError || error instanceof TypeError))
        throw error;
      // What was torn was never sent; but nobody can say that it was that.
      this.#isDamaged = true;
    }
  }

  /** Whether nobody holds any of this: most that is asked for is new, and that can often be told at once. */
  isNew({ keyDigest, devices }: IdentityRow): boolean {
    const isNew = (fact: string): boolean => !this.#view.has(fact) && this.#base?.has(fact) === false;
    return (
      (keyDigest === undefined || isNew(keyFact(keyDigest))) &&
      devices.every(({ deviceId }) => isNew(deviceFact(deviceId)))
    );
  }

  /**
   * Who may hold the key or a device id of this enrollment, itself left out.
   * @param before only what stands before this position, where that is in the logs
   * @throws IdentityDamage
   */
  async find(
    { id, keyDigest, devices }: IdentityRow,
    before: Position = Infinity,
  ): Promise<readonly Candidate[]> {
    const found = new Map<string, Candidate>();
    const note = (candidate: Candidate): void => {
      const other = found.get(candidate.id);
      if (other === undefined) found.set(candidate.id, candidate);
      else {
        found.set(candidate.id, {
          id: candidate.id,
          sharesKey: other.sharesKey || candidate.sharesKey,
          deviceId: other.deviceId ?? candidate.deviceId,
          writer: other.writer ?? candidate.writer,
          isListed: other.isListed && candidate.isListed,
        });
      }
    };
    const look = async (
      fact: string,
      deviceId: string | undefined,
      hubs: readonly string[],
    ): Promise<void> => {
      const shared = { sharesKey: deviceId === undefined, deviceId };
      for (const { row, position, open: claim } of this.#view.find(fact)) {
        const isSame =
          deviceId === undefined ||
          row.devices.some((device) => device.deviceId === deviceId && hubsOverlap(device.hubs, hubs));
        if (row.id === id || position >= before || !isSame) continue;
        note({ id: row.id, ...shared, writer: writerOf(claim), isListed: false });
      }
      const covers = this.#base?.origin.covers ?? 0;
      for (const hit of (await this.#base?.find(fact)) ?? []) {
        const truth = this.#view.truthOf(hit.id);
        const isOutdated = truth !== undefined && logOf(truth) >= covers;
        if (hit.id === id || isOutdated) continue;
        if (hit.hubs !== undefined && !hubsOverlap(hit.hubs, hubs)) continue;
        note({ id: hit.id, ...shared, writer: undefined, isListed: hit.hubs !== undefined });
      }
    };
    if (keyDigest !== undefined) await look(keyFact(keyDigest), undefined, []);
    for (const { deviceId, hubs } of devices) await look(deviceFact(deviceId), deviceId, hubs);
    return [...found.values()];
  }

  /**
   * Says that these enrollments are about to be written. It is on disk when this returns, and everything that was
   * claimed before it is known.
   * @throws IotdmError `usage.output-unwritable`; IdentityDamage where there is no index any more
   */
  async claim(
    kind: ClaimKind,
    rows: readonly IdentityRow[],
  ): Promise<{ readonly number: number; readonly position: Position }> {
    this.#claims += 1;
    const number = this.#claims;
    const at = this.#options.now();
    await this.#write({ type: 'claim', session: this.#session, number, at, by: this.#by, kind, rows });
    const position = this.#positions.get(number);
    this.#positions.delete(number);
    if (position === undefined) throw new IdentityDamage('what was written is not there');
    return { number, position };
  }

  /** Says what came of a claim. Nobody needs to wait for it. */
  end(number: number, outcomes: readonly ClaimOutcome[]): void {
    this.#writeLater({ type: 'end', session: this.#session, number, outcomes });
  }

  /** Says how enrollments were found to be, or that they are gone. @param before as far as it outdates what was known */
  known(rows: readonly IdentityRow[], gone: readonly string[], before: Position): void {
    this.#writeLater({ type: 'known', before, at: this.#options.now(), rows, gone });
  }

  /** Says that all enrollments must be read before the index is used again. */
  outdate(): void {
    this.#writeLater({ type: 'stale' });
  }

  /** Resolves when everything was written. */
  async flush(): Promise<void> {
    if (this.#lines.length > 0) this.#startWriting();
    while (this.#writing !== undefined) await this.#writing;
  }

  async close(): Promise<void> {
    await this.flush();
    await this.#replaceFiles(undefined, undefined);
  }

  // Writing

  async #write(line: LogLine): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#lines.push({
        ...waiting(line),
        done: (error) => {
          if (error === undefined) resolve();
          else reject(error);
        },
      });
      this.#startWriting();
    });
  }

  #writeLater(line: LogLine): void {
    this.#lines.push(waiting(line));
    // Where claims come one after the other, it goes with the next of them.
    const isPatient = this.#options.claimsAreDistinct === true && this.#lines.length < PATIENT_LINES;
    if (!isPatient) this.#startWriting();
  }

  #startWriting(): void {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
      // What came while it was ending.
      if (this.#lines.length > 0) this.#startWriting();
    });
  }

  /** What comes together is written together. */
  async #writeAll(): Promise<void> {
    while (this.#lines.length > 0) {
      // What else comes in this turn of the event loop belongs to it.
      await setImmediate();
      const lines = this.#lines;
      this.#lines = [];
      let failure: Error | undefined;
      try {
        await this.#guarded(() => this.#append(lines));
      } catch (error) {
        failure = error instanceof Error ? error : new Error('unknown', { cause: error });
      }
      for (const { done } of lines) done?.(failure);
    }
  }

  /**
   * Appends to the newest log, and reads up to there. It is a few bytes and no wait for a disk, and done at once: to hand
   * it to another thread and back would take several times as long.
   */
  async #append(lines: readonly WaitingLine[]): Promise<void> {
    const isAwaited = lines.some(({ done }) => done !== undefined);
    // Whatever was torn before it ends here.
    const bytes = Buffer.from(`\n${lines.map(({ text }) => text).join('')}`);
    for (;;) {
      const log = this.#log;
      if (log === undefined) throw new IdentityDamage('there is no log');
      const written = writeSync(log.handle.fd, bytes);
      if (written < bytes.length) throw Object.assign(new Error('written in part'), { code: 'ENOSPC' });
      // Where another run of the system is known as one, a loss of power makes the index anew, and need not be feared.
      if (isAwaited && this.#boot === null) await log.handle.datasync();
      // Whoever makes a new body reads this log once more after the next one is there: what is in it now counts.
      if (!existsSync(this.#path('log', log.number + 1))) {
        if (!this.#isAlone(log, lines, bytes.length) && isAwaited) await this.#readOn(log, this.#view);
        return;
      }
      await this.reload();
      if (this.#log === log) throw new IdentityDamage('the newer log cannot be used');
    }
  }

  /** Whether nobody else has written since the last look, and there is nothing to be read in what was written here. */
  #isAlone(log: OpenLog, lines: readonly WaitingLine[], length: number): boolean {
    const isOwn = this.#options.claimsAreDistinct === true && lines.every(({ type }) => type !== 'known');
    if (!isOwn || fstatSync(log.handle.fd).size !== log.offset + length) return false;
    let offset = log.offset + 1;
    for (const { text, claim } of lines) {
      if (claim !== undefined) this.#positions.set(claim, positionOf(log.number, offset));
      offset += Buffer.byteLength(text);
    }
    log.offset = offset;
    return true;
  }

  // Making the body anew

  /**
   * Runs a task that no other process runs at the same time.
   * @throws IotdmError `interrupted.signal`, `usage.output-unwritable`
   */
  async withLock<T>(task: () => Promise<T>, { signal, onWait }: LockWait): Promise<T> {
    let isTold = false;
    for (;;) {
      const lock = takeProcessLock(this.#options.dir, LOCK);
      if ('release' in lock) {
        try {
          removeDrafts(this.#options.dir, (name) => fileName.test(name));
          return await this.#guarded(task);
        } finally {
          lock.release();
        }
      }
      if (!isTold) onWait(lock);
      isTold = true;
      await wait(LOCK_POLL_MS, undefined, { signal }).catch(() => {
        throw new IotdmError('interrupted.signal', 'interrupted');
      });
    }
  }

  /**
   * Makes the body out of what the service holds. The caller holds the lock.
   * @param pages of all enrollments; read after a new log was begun, so that nothing falls between them
   */
  async rebuild(pages: AsyncIterable<readonly IdentityRow[]>): Promise<void> {
    const readAt = this.#options.now();
    await this.#newBody(
      readAt,
      undefined,
      async (builder) => {
        for await (const page of pages) for (const row of page) builder.add(row);
      },
      async (carrier, builder, log) => {
        await carrier.carryYoung(builder, log, readAt);
        return true;
      },
    );
  }

  /**
   * Works the logs into the body, which stays as old as it is. The caller holds the lock.
   * @returns false where what is in them says that all enrollments must be read
   */
  async compact(): Promise<boolean> {
    await this.reload({ isShallow: true });
    const base = this.#base;
    if (base === undefined || this.readAt === undefined) return false;
    if (!this.isLong) return true;
    return this.#newBody(
      base.origin.readAt,
      base.key,
      () => Promise.resolve(),
      async (carrier, builder, log) => {
        if (carrier.isDamaged || carrier.isStale || carrier.isOfOtherBoot(this.#boot)) {
          return false;
        }
        await builder.takeOver(base, carrier.outdated);
        await carrier.carryAll(builder, log);
        return true;
      },
    );
  }

  async #newBody(
    readAt: number,
    key: Buffer | undefined,
    fill: (builder: BaseBuilder) => Promise<void>,
    carry: (carrier: LogCarrier, builder: BaseBuilder, log: FileHandle) => Promise<boolean>,
  ): Promise<boolean> {
    const { dir, host } = this.#options;
    const before = await this.#numbers();
    const covers = Math.max(0, ...before.base, ...before.log) + 1;
    const log = await this.#beginLog(covers);
    try {
      const builder = new BaseBuilder({ host, readAt, covers }, key);
      await fill(builder);
      const first = before.base.at(-1) ?? Infinity;
      const logs = before.log.filter((number) => number >= first);
      const carrier = await LogCarrier.read(
        logs.map((number) => ({ number, path: this.#path('log', number) })),
      );
      if (!(await carry(carrier, builder, log))) return false;
      await log.datasync();
      await builder.write(dir, `base-${covers}`);
    } finally {
      await log.close();
    }
    for (const number of before.base) await rm(this.#path('base', number), { force: true });
    for (const number of before.log) await rm(this.#path('log', number), { force: true });
    await this.reload();
    return true;
  }

  /** A new log has its first line before anybody sees it. */
  async #beginLog(number: number): Promise<FileHandle> {
    const draft = join(this.#options.dir, draftName(`log-${number}`));
    const log = await open(draft, 'ax', 0o600);
    try {
      await log.write(writeLine({ type: 'log', number, boot: this.#boot }));
      await log.datasync();
      await rename(draft, this.#path('log', number));
      flushDirectory(this.#options.dir);
      return log;
    } catch (error) {
      await log.close();
      throw error;
    }
  }

  /** System errors as what they are to the user. */
  async #guarded<T>(task: () => Promise<T>): Promise<T> {
    try {
      return await task();
    } catch (error) {
      const code = systemErrorCode(error);
      if (error instanceof IotdmError || code === undefined) throw error;
      throw new IotdmError(
        'usage.output-unwritable',
        `the index of identities in ${this.#options.dir} cannot be used (${code})`,
        { cause: error, details: { stateDirectory: this.#options.dir } },
      );
    }
  }
}

class BodyDamage extends IdentityDamage {
  readonly number: number;

  constructor(message: string, number: number) {
    super(message);
    this.number = number;
  }
}

/** The process that is at it, if it still is. */
function writerOf(claim: Claim | undefined): Holder | undefined {
  return claim === undefined ? undefined : livingProcess(JSON.stringify(claim.by));
}

/** Begins with its first line, and ends with the end of one. */
async function isWhole({ handle, offset }: OpenLog): Promise<boolean> {
  if (offset === 0) return false;
  const { size } = await handle.stat();
  if (size === offset) return true;
  // Somebody may be writing just now.
  await wait(WRITING_MS);
  return (await handle.stat()).size > size;
}
