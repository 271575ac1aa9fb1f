/** What has become of the rows of an import: counts, the failures to be listed, and the news for whoever watches. */

import type { ProvisioningService } from '../dps/service.ts';
import type { ErrorCode } from '../errors.ts';
import type { ImportJournal, RowFailure, RowOutcome } from '../records/import-journal.ts';

export interface ImportProgress {
  /** Rows that nothing is left to do for, those of earlier runs and failed ones included. */
  readonly done: number;
  readonly total: number;
  readonly failed: number;
  /** Rows that were done by an earlier run. */
  readonly skipped: number;
  /** Answers with status 429. */
  readonly throttled: number;
}

export interface ImportFailure {
  readonly line: number;
  readonly registrationId: string;
  readonly code: ErrorCode;
  readonly message: string;
}

/** Who is told of each row. */
export interface ImportListeners {
  readonly onProgress?: (progress: ImportProgress) => void;
  readonly onFailure?: (failure: RowFailure) => void;
}

/** Counts are rows, except `requests` (HTTP requests, retries included) and `throttled` (answers with status 429). */
export interface ImportCounts {
  readonly total: number;
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly deleted: number;
  readonly failed: number;
  /** Rows that an earlier run has done, and with `delete` those that were not there. */
  readonly skipped: number;
  readonly requests: number;
  readonly throttled: number;
}

const listedFailures = 100;

/** Every row's outcome passes through it once, on its way into the journal. */
export class ImportTally {
  readonly #journal: ImportJournal;
  readonly #service: ProvisioningService;
  readonly #requestsBefore: number;
  readonly #throttledBefore: number;
  readonly #startedAt = performance.now();
  readonly #listeners: ImportListeners;
  readonly #outcomes: Record<RowOutcome, number> = {
    created: 0,
    updated: 0,
    unchanged: 0,
    deleted: 0,
    absent: 0,
  };
  #failed = 0;
  #settled = 0;
  readonly #failures: ImportFailure[] = [];
  readonly #doneBefore: number;

  constructor(journal: ImportJournal, service: ProvisioningService, listeners: ImportListeners) {
    this.#journal = journal;
    this.#service = service;
    this.#requestsBefore = service.requests;
    this.#throttledBefore = service.throttled;
    this.#doneBefore = journal.done;
    this.#listeners = listeners;
  }

  settled(row: number, outcome: RowOutcome): void {
    this.#outcomes[outcome] += 1;
    this.#settled += 1;
    this.#journal.settled(row, outcome);
    this.#report();
  }

  failed(failure: RowFailure): void {
    this.#failed += 1;
    const { line, registrationId, code, message } = failure;
    if (this.#failures.length < listedFailures) this.#failures.push({ line, registrationId, code, message });
    this.#listeners.onFailure?.(failure);
    this.#journal.failed(failure);
    this.#report();
  }

  /** Rows that were settled or have failed in this run. */
  get finished(): number {
    return this.#failed + this.#settled;
  }

  get failures(): readonly ImportFailure[] {
    return this.#failures;
  }

  get elapsedMs(): number {
    return Math.round(performance.now() - this.#startedAt);
  }

  counts(): ImportCounts {
    const { created, updated, unchanged, deleted, absent } = this.#outcomes;
    return {
      total: this.#journal.rows,
      created,
      updated,
      unchanged,
      deleted,
      failed: this.#failed,
      skipped: this.#doneBefore + absent,
      requests: this.#service.requests - this.#requestsBefore,
      throttled: this.#service.throttled - this.#throttledBefore,
    };
  }

  #report(): void {
    this.#listeners.onProgress?.({
      done: this.#doneBefore + this.finished,
      total: this.#journal.rows,
      failed: this.#failed,
      skipped: this.#doneBefore,
      throttled: this.#service.throttled - this.#throttledBefore,
    });
  }
}
