/**
 * What is done with the rows of a deletion: each is held beside what is enrolled under its id, and only that is deleted, in
 * the version that was compared. Bulk requests cannot name a version, so every deletion is a request of its own.
 */

import type { StoredEnrollment } from '../dps/enrollment.ts';
import { isSameVersion } from '../dps/etag.ts';
import type { Position } from '../records/identity-log.ts';
import type { ImportJournal, RowOutcome } from '../records/import-journal.ts';
import { changedSinceCompared, deletionObjection } from './deletion-comparison.ts';
import type { DeletionRow } from './enrollment-rows.ts';
import { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import type { IdentityIndex } from './identity-index.ts';
import {
  asObjection,
  inDoubt,
  objectionOf,
  refusedAsChanged,
  rowFailure,
  type Objection,
} from './import-comparison.ts';
import { FateUnknown, Unreadable, type Requests } from './import-requests.ts';
import type { ImportTally } from './import-tally.ts';
import {
  failuresOfOneRow,
  fewLookups,
  idsOf,
  inputChanged,
  isDone,
  mostContradictions,
  mostTurns,
} from './import-work.ts';

export interface DeletionWorkOptions {
  readonly rows: () => AsyncIterable<readonly DeletionRow[]>;
  /** Also versions other than a row's, and other than the one that was compared. */
  readonly force: boolean;
  readonly concurrency: number;
  readonly journal: ImportJournal;
  readonly tally: ImportTally;
  readonly requests: Requests;
  /** Where it is known what each enrollment has: what is deleted is free. */
  readonly index?: IdentityIndex | undefined;
  /** Aborted when something ends the deletion; reading and sending stop then. */
  readonly stop: AbortController;
}

/** A row under way. */
interface Item {
  readonly index: number;
  readonly row: DeletionRow;
  /** Up to where the index was known before anything was sent. */
  readonly position: Position;
  /** It was sent, and nobody knows whether that took effect. */
  isInDoubt: boolean;
  /** The version that was compared last. */
  base: string | undefined;
  /** The service has just refused that version as another one. */
  isRefused: boolean;
  /** How often it was refused so, and how often although it was shown unchanged afterwards. */
  refusals: number;
  contradictions: number;
  /** How often its fate stayed unknown, and how many writes had got through at the first time. */
  failures: number;
  writesBefore: number;
  /** The last reason for that. */
  failure: Objection | undefined;
}

/** What to delete: a version, or whatever there is. */
interface Version {
  readonly etag: string | undefined;
}

export class DeletionWork {
  readonly #options: DeletionWorkOptions;
  readonly #underWay = new Set<Promise<void>>();
  #fault: { readonly error: unknown } | undefined;
  #snapshot: Promise<EnrollmentSnapshot | undefined> | undefined;

  constructor(options: DeletionWorkOptions) {
    this.#options = options;
  }

  /** Resolves when every row has an outcome. Throws what ended the deletion, once what was under way has settled. */
  async run(): Promise<void> {
    try {
      await this.#read();
    } catch (error) {
      this.#end(error);
    }
    while (this.#underWay.size > 0) await Promise.race(this.#underWay);
    const snapshot = await this.#snapshot?.catch(() => undefined);
    await snapshot?.close();
    if (this.#fault !== undefined) throw this.#fault.error;
  }

  async #read(): Promise<void> {
    const { journal, stop, rows, concurrency } = this.#options;
    let index = -1;
    for await (const some of rows()) {
      for (const row of some) {
        index += 1;
        if (index >= journal.rows) throw inputChanged();
        if (isDone(journal.state(index))) continue;
        while (this.#underWay.size >= 2 * concurrency) await Promise.race(this.#underWay);
        if (stop.signal.aborted) return;
        this.#begin({
          index,
          row,
          position: this.#options.index?.position ?? 0,
          isInDoubt: journal.doubt(index) !== undefined,
          base: undefined,
          isRefused: false,
          refusals: 0,
          contradictions: 0,
          failures: 0,
          writesBefore: 0,
          failure: undefined,
        });
      }
    }
    if (!stop.signal.aborted && index + 1 < journal.rows) throw inputChanged();
  }

  #begin(item: Item): void {
    const task = this.#delete(item)
      .catch((error: unknown) => {
        this.#end(error);
      })
      .finally(() => this.#underWay.delete(task));
    this.#underWay.add(task);
  }

  #end(error: unknown): void {
    this.#fault ??= { error };
    this.#options.stop.abort(error);
  }

  /** Bounded: by the refusals that #toDelete counts, and by the time in which nothing gets through. */
  async #delete(item: Item): Promise<void> {
    for (;;) {
      const version = await this.#toDelete(item);
      if (version === undefined || (await this.#isSettledBy(version, item))) return;
    }
  }

  /** The version that may be deleted, or undefined when the row is settled. */
  async #toDelete(item: Item): Promise<Version | undefined> {
    const { attestation } = item.row.enrollment;
    // By its id alone: there is nothing to look at.
    if (attestation === undefined && !item.isInDoubt) return { etag: undefined };
    const found = await this.#stored(item);
    if (found === undefined) return undefined;
    const { stored } = found;
    if (stored === undefined) {
      this.#settled(item, item.isInDoubt ? 'deleted' : 'absent');
      return undefined;
    }
    const objection = (await this.#refusal(item, stored)) ?? this.#objection(item, stored);
    if (objection !== undefined) {
      this.#failed(item, objection);
      return undefined;
    }
    const hopeless = this.#isHopeless(item) ? item.failure : undefined;
    if (hopeless !== undefined) {
      this.#failed(item, hopeless, 'delete');
      return undefined;
    }
    if (attestation === undefined) return { etag: undefined };
    item.base = stored.etag;
    return { etag: stored.etag };
  }

  #objection({ row, base }: Item, stored: StoredEnrollment): Objection | undefined {
    const { force } = this.#options;
    const objection = deletionObjection(row.enrollment, stored, force);
    if (objection !== undefined || base === undefined || isSameVersion(base, stored.etag) || force)
      return objection;
    return changedSinceCompared;
  }

  /** After a refusal because of the etag. That it is what was compared may be news of yesterday, or a lie. */
  async #refusal(item: Item, stored: StoredEnrollment): Promise<Objection | undefined> {
    if (!item.isRefused) return undefined;
    item.isRefused = false;
    item.refusals += 1;
    if (item.refusals > mostTurns) return changedSinceCompared;
    if (!isSameVersion(stored.etag, item.base ?? '')) return undefined;
    item.contradictions += 1;
    if (item.contradictions > mostContradictions) return refusedAsChanged;
    await this.#options.requests.backOff(item.contradictions - 1);
    return undefined;
  }

  async #isSettledBy({ etag }: Version, item: Item): Promise<boolean> {
    const { journal, requests } = this.#options;
    const { index, row } = item;
    const announce = async (): Promise<void> => {
      if (journal.state(index) !== 'delete') await journal.sent('delete', [index]);
    };
    try {
      await requests.delete(row.enrollment.registrationId, etag, announce);
      this.#settled(item, 'deleted');
      return true;
    } catch (error) {
      if (error instanceof FateUnknown) {
        await this.#afterUnknownFate(item, error);
        return false;
      }
      const objection = objectionOf(error);
      if (objection === undefined) throw error;
      if (objection.code === 'service.changed-meanwhile' && etag !== undefined) {
        item.isRefused = true;
        return false;
      }
      if (objection.code !== 'service.not-found') this.#failed(item, objection);
      else this.#settled(item, item.isInDoubt ? 'deleted' : 'absent');
      return true;
    }
  }

  async #afterUnknownFate(item: Item, { cause }: FateUnknown): Promise<void> {
    const { requests } = this.#options;
    if (item.failures === 0) item.writesBefore = requests.writes;
    item.failures += 1;
    item.failure = asObjection(cause);
    item.isInDoubt = true;
    await requests.backOff(item.failures - 1);
  }

  /** It is this row that cannot be deleted: others were meanwhile. */
  #isHopeless({ failures, writesBefore }: Item): boolean {
    return failures >= failuresOfOneRow && this.#options.requests.writes > writesBefore;
  }

  /** What is enrolled: as the list of all enrollments has it, or as it is now. Undefined when the row has failed. */
  async #stored(item: Item): Promise<{ readonly stored: StoredEnrollment | undefined } | undefined> {
    const { registrationId } = item.row.enrollment;
    if (!item.isInDoubt && !item.isRefused) {
      const snapshot = await (this.#snapshot ??= this.#readAll());
      const stored = await snapshot?.find(registrationId);
      if (stored !== undefined || snapshot?.isComplete === true) return { stored };
    }
    try {
      return { stored: await this.#options.requests.find(registrationId) };
    } catch (error) {
      const objection = error instanceof Unreadable ? asObjection(error.cause) : objectionOf(error);
      if (objection === undefined) throw error;
      if (item.isInDoubt) this.#failed(item, inDoubt(objection), 'delete');
      else this.#failed(item, objection);
      return undefined;
    }
  }

  /** All enrollments of the service, where that may save more look-ups than it costs. */
  async #readAll(): Promise<EnrollmentSnapshot | undefined> {
    const { journal, rows, requests } = this.#options;
    const lookUps = journal.rows - journal.done;
    if (lookUps < fewLookups) return undefined;
    return EnrollmentSnapshot.read({
      ids: idsOf(rows()),
      count: journal.rows,
      pages: requests.pages(),
      most: Math.ceil(lookUps / 2),
    });
  }

  #settled({ index, row, position }: Item, outcome: RowOutcome): void {
    this.#options.index?.forget(row.enrollment.registrationId, position);
    this.#options.tally.settled(index, outcome);
  }

  /** @param sent where it may yet be deleted: whoever tries it again must know */
  #failed({ index, row }: Item, objection: Objection, sent?: 'delete'): void {
    this.#options.tally.failed(rowFailure(index, row, objection, sent));
  }
}
