/** What of the logs of an index of identities goes over into a new body, read in passes so that it takes little memory. */
import { open, type FileHandle } from 'node:fs/promises';
import { livingProcess } from '../process-lock.ts';
import type { BaseBuilder } from './identity-base.ts';
import { linesOf } from './identity-lines.ts';
import {
  keyOf,
  positionOf,
  readLine,
  settledBy,
  writeLine,
  type ClaimLine,
  type ClaimOutcome,
  type LogLine,
  type Position,
} from './identity-log.ts';
import type { IdentityRow } from './identity-row.ts';

/** A request that was sent so long ago may not show in a list that is read now. */
const YOUNG_MS = 600_000;
/** What came of it would be known by now: no request takes longer. */
const LONGEST_REQUEST_MS = 86_400_000;

interface LogFile {
  readonly number: number;
  readonly path: string;
}

export class LogCarrier {
  readonly #files: readonly LogFile[];
  readonly #ends = new Map<string, readonly ClaimOutcome[]>();
  readonly #truth = new Map<string, Position>();
  isDamaged = false;
  isStale = false;
  readonly #boots = new Set<string | null>();

  private constructor(files: readonly LogFile[]) {
    this.#files = files;
  }

  /** @param files in their order; what is damaged in them is passed over, and `isDamaged` says so */
  static async read(files: readonly LogFile[]): Promise<LogCarrier> {
    const carrier = new LogCarrier(files);
    const updates = new Map<string, { readonly line: ClaimLine; readonly position: Position }>();
    for await (const { line, position } of carrier.#lines()) {
      if (line.type === 'log') carrier.#boots.add(line.boot);
      else if (line.type === 'stale') carrier.isStale = true;
      else if (line.type === 'known') {
        for (const id of [...line.gone, ...line.rows.map((row) => row.id)]) carrier.#settle(id, line.before);
      } else if (line.type === 'end') carrier.#ends.set(keyOf(line), line.outcomes);
      else if (line.kind === 'update') updates.set(keyOf(line), { line, position });
    }
    for (const [key, { line, position }] of updates) {
      for (const id of settledBy(line, carrier.#ends.get(key) ?? [])) carrier.#settle(id, position);
    }
    return carrier;
  }

  /** Whether any of it was begun in another run of the system than this one. */
  isOfOtherBoot(boot: string | null): boolean {
    return [...this.#boots].some((other) => other !== boot);
  }

  /** Ids of which the logs say all there is. */
  get outdated(): ReadonlySet<string> {
    return new Set(this.#truth.keys());
  }

  /** Beside a list that was read from a moment on: what may not have been in it yet. */
  async carryYoung(builder: BaseBuilder, log: FileHandle, readAt: number): Promise<void> {
    await this.#carry(
      builder,
      log,
      (at, isSettled) => readAt - at < (isSettled ? YOUNG_MS : LONGEST_REQUEST_MS),
    );
  }

  /** Everything that still holds. */
  async carryAll(builder: BaseBuilder, log: FileHandle): Promise<void> {
    await this.#carry(builder, log, () => true);
  }

  async #carry(
    builder: BaseBuilder,
    log: FileHandle,
    isCarried: (at: number, isSettled: boolean) => boolean,
  ): Promise<void> {
    for await (const { line, position } of this.#lines()) {
      if (line.type === 'claim') {
        const ended = this.#ends.get(keyOf(line));
        if (ended === undefined && livingProcess(JSON.stringify(line.by)) !== undefined) {
          await log.write(`\n${writeLine({ ...line, isCarried: true })}`);
          continue;
        }
        for (const [index, row] of line.rows.entries()) {
          const outcome = ended?.[index] ?? 'unknown';
          if (outcome !== 'refused' && isCarried(line.at, outcome === 'written'))
            this.#add(builder, row, position);
        }
      } else if (line.type === 'known' && isCarried(line.at, true)) {
        for (const row of line.rows) this.#add(builder, row, position);
      }
    }
  }

  #add(builder: BaseBuilder, row: IdentityRow, position: Position): void {
    if (position >= (this.#truth.get(row.id) ?? 0)) builder.add(row);
  }

  #settle(id: string, position: Position): void {
    this.#truth.set(id, Math.max(position, this.#truth.get(id) ?? 0));
  }

  async *#lines(): AsyncGenerator<{ readonly line: LogLine; readonly position: Position }, void> {
    for (const { number, path } of this.#files) {
      const handle = await open(path, 'r');
      try {
        for await (const { line, start } of linesOf(handle, 0)) {
          if (line.length === 0) continue;
          let read: LogLine;
          try {
            read = readLine(line.toString('utf8'));
          } catch {
            this.isDamaged = true;
            continue;
          }
          yield { line: read, position: positionOf(number, start) };
        }
      } finally {
        await handle.close();
      }
    }
  }
}
