/**
 * What is done with the rows of an import, by mode: rows gather in lanes until ten make a request, answers are taken
 * apart row by row, and rows whose fate is unknown are looked up before they are sent again.
 */

import type { Enrollment, StoredEnrollment } from '../dps/enrollment.ts';
import { bulkLimit, type BulkFailure, type BulkMode } from '../dps/service.ts';
import { isSameVersion } from '../dps/etag.ts';
import { IotdmError } from '../errors.ts';
import {
  rowOutcomes,
  type ImportJournal,
  type RowOperation,
  type RowOutcome,
  type RowState,
} from '../records/import-journal.ts';
import { enrollmentToCreate } from './enrollment-merge.ts';
import { namedValues } from './enrollment-rows.ts';
import { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import {
  asObjection,
  bulkObjection,
  changedMeanwhile,
  compare,
  enrolledAlready,
  inDoubt,
  notEnrolled,
  objectionOf,
  refusedAsChanged,
  rowFailure,
  type Objection,
} from './import-comparison.ts';
import type { ClaimKind, ClaimOutcome } from '../records/identity-log.ts';
import type { Claimed, IdentityIndex } from './identity-index.ts';
import { claimItems } from './import-claims.ts';
import { FateUnknown, Unreadable, type Requests } from './import-requests.ts';
import type { ImportTally } from './import-tally.ts';
import type { ImportRow, WriteMode } from './import.ts';

export interface WorkOptions {
  readonly rows: () => AsyncIterable<readonly ImportRow[]>;
  readonly mode: WriteMode;
  readonly force: boolean;
  readonly concurrency: number;
  readonly journal: ImportJournal;
  readonly tally: ImportTally;
  readonly requests: Requests;
  /** What other enrollments have. Absent where nothing is to be compared with them. */
  readonly index?: IdentityIndex | undefined;
  /** What the service holds of the rows, where that was read already; closed at the end. */
  readonly known?: EnrollmentSnapshot | undefined;
  /** Aborted when something ends the import; reading and sending stop then. */
  readonly stop: AbortController;
}

/** A row under way. */
interface Item {
  readonly index: number;
  /** The registration id in lower case. */
  readonly id: string;
  readonly row: ImportRow;
  /** What is to be sent: the row itself, or the row merged with what the service holds. */
  enrollment: Enrollment;
  /** The version that `enrollment` was merged with. */
  stored: StoredEnrollment | undefined;
  /** Where it was announced what its enrollment is about to get. */
  claimed: Claimed | undefined;
  /** The etag of the version that `enrollment` was merged with. */
  base: string | undefined;
  /** What it was sent for without anybody knowing whether that took effect. */
  doubt: WriteOperation | undefined;
  /** In how many requests it was whose fate stayed unknown, and how many others had got through at the first of them. */
  failures: number;
  writesBefore: number;
  /** How often an answer has sent it another way: somebody else was faster, or the service contradicts itself. */
  turns: number;
  /** How often it was refused as changed, although it has not changed. */
  contradictions: number;
}

type WriteOperation = Exclude<RowOperation, 'delete'>;

const bulkModes: Readonly<Record<WriteOperation, BulkMode>> = {
  create: 'create',
  update: 'updateIfMatchETag',
};

/** With fewer look-ups than this to save, all enrollments are not read for it. */
export const fewLookups = 10;
/** A request that failed so often is halved; a row alone in one, while others get through, is given up. */
const failuresBeforeHalving = 3;
export const failuresOfOneRow = 5;
/** How often answers may send a row another way, also when it is to be written over whatever others make of it. */
export const mostTurns = 10;
/** Who asks another server of the service than it was written to may see yesterday's version a few times. */
export const mostContradictions = 4;

export class ImportWork {
  readonly #options: WorkOptions;
  readonly #lanes: Readonly<Record<WriteOperation, Item[]>> = { create: [], update: [] };
  /** Ids that are under way, so that two rows of one id do not race. */
  readonly #busy = new Set<string>();
  #taken = 0;
  #finished = 0;
  #flows = 0;
  #wake: () => void = () => undefined;
  #fault: { readonly error: unknown } | undefined;
  /** Rows that were written as new, and rows that were found to exist. */
  #fresh = 0;
  #existing = 0;
  /** Whether the first request has been answered. */
  #hasProbed = false;
  #snapshot: Promise<EnrollmentSnapshot> | undefined;
  /** Once it has been read. */
  #known: EnrollmentSnapshot | undefined;

  constructor(options: WorkOptions) {
    this.#options = options;
    this.#known = options.known;
    if (options.known !== undefined) this.#snapshot = Promise.resolve(options.known);
  }

  /** Resolves when every row has an outcome. Throws what ended the import, once what was under way has settled. */
  async run(): Promise<void> {
    try {
      await this.#read();
    } catch (error) {
      this.#end(error);
    }
    await this.#drain();
    await (await this.#snapshot?.catch(() => undefined))?.close();
    if (this.#fault !== undefined) throw this.#fault.error;
  }

  async #read(): Promise<void> {
    const { journal, stop } = this.#options;
    let index = -1;
    for await (const rows of this.#options.rows()) {
      for (const row of rows) {
        index += 1;
        if (index >= journal.rows) throw inputChanged();
        if (isDone(journal.state(index))) continue;
        const id = idOf(row);
        // To wait for nothing, ten times for each request, would cost as much as sending it.
        if (!this.#isFree(id)) await this.#room(id);
        if (stop.signal.aborted) return;
        this.#take({
          index,
          id,
          row,
          enrollment: enrollmentToCreate(row.enrollment),
          stored: undefined,
          claimed: undefined,
          base: undefined,
          doubt: writeOf(journal.doubt(index)),
          failures: 0,
          writesBefore: 0,
          turns: 0,
          contradictions: 0,
        });
      }
    }
    if (!stop.signal.aborted && index + 1 < journal.rows) throw inputChanged();
  }

  /** Ten rows for each request under way, and ten more that are being made ready. Rows that wait in a lane are apart. */
  async #room(id: string): Promise<void> {
    while (!this.#options.stop.signal.aborted && !this.#isFree(id)) {
      if (this.#flows === 0 || this.#busy.has(id)) this.#dispatchAll();
      await this.#change();
    }
  }

  #isFree(id: string): boolean {
    return this.#hasRoom && !this.#busy.has(id);
  }

  get #hasRoom(): boolean {
    const { mode, concurrency } = this.#options;
    // What the first answer says, and all that the service holds, decides what is done with the other rows.
    const isProbing = mode === 'upsert' && !this.#hasProbed;
    if (this.#snapshot !== undefined && this.#known === undefined) return false;
    if (isProbing && this.#taken - this.#finished >= bulkLimit) return false;
    return this.#taken - this.#finished - this.#parked < bulkLimit * (concurrency + 1);
  }

  async #drain(): Promise<void> {
    while (this.#flows > 0 || (this.#parked > 0 && !this.#options.stop.signal.aborted)) {
      if (this.#flows === 0) this.#dispatchAll();
      await this.#change();
    }
  }

  get #parked(): number {
    return this.#lanes.create.length + this.#lanes.update.length;
  }

  async #change(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  #end(error: unknown): void {
    this.#fault ??= { error };
    this.#options.stop.abort(error);
  }

  /** Something that goes on by itself; what it throws ends the import. */
  #flow(task: () => Promise<void>): void {
    this.#flows += 1;
    void task()
      .catch((error: unknown) => {
        this.#end(error);
      })
      .finally(() => {
        this.#flows -= 1;
        this.#wake();
      });
  }

  #take(item: Item): void {
    this.#taken += 1;
    this.#busy.add(item.id);
    const { mode } = this.#options;
    const { doubt } = item;
    if (doubt !== undefined) this.#route(item, () => this.#lookUp(doubt, item));
    else if (mode === 'create') this.#add(mode, item);
    else if (mode === 'update') this.#route(item, () => this.#compareWithStored(item, notEnrolled));
    else if (this.#known === undefined) this.#add('create', item);
    else {
      const known = this.#known;
      this.#route(item, async () => {
        const stored = await known.find(item.row.enrollment.registrationId);
        return stored === undefined ? 'create' : this.#compared(item, stored);
      });
    }
  }

  /** Puts a row into the lane that `decide` gives, if it gives one and has not settled the row. */
  #route(item: Item, decide: () => Promise<WriteOperation | undefined>): void {
    this.#flow(async () => {
      const operation = await decide();
      if (operation !== undefined) this.#add(operation, item);
    });
  }

  // Sending

  #add(operation: WriteOperation, item: Item): void {
    this.#lanes[operation].push(item);
    if (this.#lanes[operation].length >= bulkLimit) this.#dispatch(operation);
  }

  #dispatchAll(): void {
    this.#dispatch('create');
    this.#dispatch('update');
  }

  #dispatch(operation: WriteOperation): void {
    const items = this.#lanes[operation].splice(0, bulkLimit);
    if (items.length === 0) return;
    this.#flow(async () => {
      try {
        await this.#send(operation, await this.#claimed(operation, items));
      } finally {
        this.#hasProbed = true;
      }
    });
  }

  /** Those of the rows that may be written. What they are about to get is theirs until it is known what came of it. */
  async #claimed(operation: ClaimKind, items: readonly Item[]): Promise<readonly Item[]> {
    const { index, mode } = this.#options;
    if (index === undefined) return items;
    const { free, taken } = await claimItems(index, operation, items);
    for (const { item, objection } of taken) {
      // A row that finds its enrollment as it should be gets nothing.
      const mayExist = operation === 'create' && mode === 'upsert' && this.#known === undefined;
      if (mayExist) this.#route(item, () => this.#found(item, objection));
      else this.#failed(item, objection);
    }
    return free;
  }

  /** One request for all items, and more only when nobody can say what became of which: then by halves. */
  async #send(operation: WriteOperation, items: readonly Item[]): Promise<void> {
    const [only] = items;
    if (only === undefined) return;
    try {
      const errors = await this.#sendOnce(operation, items);
      const objections = new Map(
        errors.map((failure) => [failure.registrationId.toLowerCase(), bulkObjection(failure)]),
      );
      this.#count(operation, items.length, [...objections.values()]);
      for (const item of items) this.#answered(operation, item, objections.get(item.id));
    } catch (error) {
      if (error instanceof FateUnknown) {
        await this.#afterUnknownFate(operation, items, error);
        return;
      }
      const objection = objectionOf(error);
      if (objection === undefined) throw error;
      if (items.length === 1) this.#answered(operation, only, objection);
      else for (const half of halves(items)) await this.#send(operation, half);
    }
  }

  async #sendOnce(operation: WriteOperation, items: readonly Item[]): Promise<readonly BulkFailure[]> {
    const { journal, requests } = this.#options;
    const announce = async (): Promise<void> => {
      const news = items.filter(({ index }) => journal.state(index) !== operation);
      if (news.length === 0) return;
      await journal.sent(
        operation,
        news.map(({ index }) => index),
      );
    };
    const enrollments = items.map(({ enrollment }) => enrollment);
    return (await requests.bulk(bulkModes[operation], enrollments, announce)).errors;
  }

  #count(operation: WriteOperation, sent: number, objections: readonly Objection[]): void {
    if (operation !== 'create') return;
    const existing = objections.filter(({ code }) => code === 'service.conflict').length;
    this.#existing += existing;
    this.#fresh += sent - existing;
  }

  async #afterUnknownFate(
    operation: WriteOperation,
    items: readonly Item[],
    { cause }: FateUnknown,
  ): Promise<void> {
    const { requests } = this.#options;
    for (const item of items) {
      if (item.failures === 0) item.writesBefore = requests.writes;
      item.failures += 1;
      item.doubt = operation;
    }
    const failures = Math.max(...items.map((item) => item.failures));
    await requests.backOff(failures - 1);
    const again: Item[] = [];
    for (const item of items) {
      const next = await this.#lookUp(operation, item);
      if (next === operation) again.push(item);
      else if (next !== undefined) this.#turn(item, asObjection(cause), () => Promise.resolve(next));
    }
    const [only] = again;
    if (only === undefined) return;
    const othersGotThrough = requests.writes > only.writesBefore;
    if (again.length === 1 && failures >= failuresOfOneRow && othersGotThrough) {
      this.#failed(only, asObjection(cause), operation);
    } else if (failures >= failuresBeforeHalving) {
      for (const half of halves(again)) await this.#send(operation, half);
    } else await this.#send(operation, again);
  }

  // Answers

  #answered(operation: WriteOperation, item: Item, objection: Objection | undefined): void {
    if (objection === undefined) this.#settled(item, outcomes[operation]);
    else if (operation === 'create' && objection.code === 'service.conflict') {
      const isOurs = this.#options.mode !== 'create' || item.doubt === 'create';
      if (isOurs) this.#turn(item, objection, () => this.#compareWithStored(item, objection));
      else this.#failed(item, objection);
    } else if (operation === 'update' && objection.code === 'service.changed-meanwhile') {
      this.#turn(item, changedMeanwhile, () => this.#comparedAnew(item));
    } else this.#failed(item, objection);
  }

  /** An answer sends a row another way, which it does once or twice, unless the service contradicts itself for ever. */
  #turn(item: Item, objection: Objection, decide: () => Promise<WriteOperation | undefined>): void {
    item.turns += 1;
    if (item.turns > mostTurns) this.#failed(item, objection);
    else this.#route(item, decide);
  }

  /** After a refusal because of the etag. That it is what was compared may be news of yesterday, or a lie. */
  async #comparedAnew(item: Item): Promise<WriteOperation | undefined> {
    const found = await this.#find(item);
    if (found === undefined) return undefined;
    const { stored } = found;
    if (stored === undefined) this.#failed(item, notEnrolled);
    else if (!isSameVersion(stored.etag, item.base ?? '')) return this.#compared(item, stored);
    else {
      item.contradictions += 1;
      if (item.contradictions <= mostContradictions) {
        await this.#options.requests.backOff(item.contradictions - 1);
        return this.#compared(item, stored);
      }
      this.#failed(item, refusedAsChanged);
    }
    return undefined;
  }

  /** What is left to do for a row after a request of unknown fate. */
  async #lookUp(operation: WriteOperation, item: Item): Promise<WriteOperation | undefined> {
    const found = await this.#find(item);
    if (found === undefined) return undefined;
    const { stored } = found;
    if (stored !== undefined) return this.#compared(item, stored);
    if (operation === 'create') return 'create';
    if (this.#options.force && this.#options.mode === 'upsert') return 'create';
    else this.#failed(item, { ...notEnrolled, message: 'is not enrolled any more' });
    return undefined;
  }

  /** A row that is to be compared with what is there; `whenAbsent` stands against it when nothing is. */
  async #compareWithStored(item: Item, whenAbsent: Objection): Promise<WriteOperation | undefined> {
    const { journal, mode } = this.#options;
    const share = mode === 'update' ? 1 : this.#existing / Math.max(1, this.#existing + this.#fresh);
    this.#readAll((journal.rows - journal.done) * share);
    const snapshot = await this.#snapshot;
    const stored = await snapshot?.find(item.row.enrollment.registrationId);
    if (stored !== undefined) return this.#compared(item, stored);
    if (snapshot?.isComplete === true && mode === 'update') {
      this.#failed(item, whenAbsent);
      return undefined;
    }
    return this.#found(item, whenAbsent);
  }

  async #found(item: Item, whenAbsent: Objection): Promise<WriteOperation | undefined> {
    const found = await this.#find(item);
    if (found === undefined) return undefined;
    if (found.stored !== undefined) return this.#compared(item, found.stored);
    this.#failed(item, whenAbsent);
    return undefined;
  }

  #compared(item: Item, stored: StoredEnrollment): WriteOperation | undefined {
    const { mode, force } = this.#options;
    const comparison = compare(namedValues(item.row), stored, force);
    if (comparison.action === 'unchanged') {
      const { doubt } = item;
      // What was sent with unknown fate, and is there, has most probably arrived.
      this.#settled(item, doubt === undefined ? 'unchanged' : outcomes[doubt]);
      return undefined;
    }
    if (comparison.action === 'conflict') this.#failed(item, comparison.objection);
    else if (mode === 'create') this.#failed(item, enrolledAlready);
    else if (item.base !== undefined && !isSameVersion(item.base, stored.etag) && !force) {
      this.#failed(item, changedMeanwhile);
    } else {
      item.enrollment = comparison.enrollment;
      item.stored = stored;
      item.base = stored.etag;
      return 'update';
    }
    return undefined;
  }

  /** Undefined when the row has failed. */
  async #find(item: Item): Promise<{ readonly stored: StoredEnrollment | undefined } | undefined> {
    try {
      return { stored: await this.#options.requests.find(item.row.enrollment.registrationId) };
    } catch (error) {
      const objection = error instanceof Unreadable ? asObjection(error.cause) : objectionOf(error);
      if (objection === undefined) throw error;
      const { doubt } = item;
      this.#failed(item, doubt === undefined ? objection : inDoubt(objection), doubt);
      return undefined;
    }
  }

  // All enrollments at once

  /** Begins to read all enrollments of the service, once, where that is likely to save more look-ups than it costs. */
  #readAll(lookUps: number): void {
    if (this.#snapshot !== undefined || lookUps < fewLookups) return;
    const { journal, rows, requests } = this.#options;
    this.#snapshot = EnrollmentSnapshot.read({
      ids: idsOf(rows()),
      count: journal.rows,
      pages: requests.pages(),
      most: Math.ceil(lookUps / 2),
    });
    this.#flow(async () => {
      this.#known = await this.#snapshot;
    });
  }

  // Outcomes

  #settled(item: Item, outcome: RowOutcome): void {
    this.#leave(item, outcome === 'created' || outcome === 'updated' ? 'written' : 'unknown');
    this.#options.tally.settled(item.index, outcome);
  }

  /** @param sent what it was sent for, where that may yet have taken effect: whoever tries it again must know */
  #failed(item: Item, objection: Objection, sent?: RowOperation): void {
    const mayBeWritten = sent !== undefined || item.doubt !== undefined;
    this.#leave(item, mayBeWritten ? 'unknown' : 'refused');
    this.#options.tally.failed(rowFailure(item.index, item.row, objection, sent));
  }

  #leave(item: Item, outcome: ClaimOutcome): void {
    item.claimed?.end(outcome);
    this.#finished += 1;
    this.#busy.delete(item.id);
    this.#wake();
  }
}

const outcomes: Readonly<Record<WriteOperation, RowOutcome>> = {
  create: 'created',
  update: 'updated',
};

function writeOf(operation: RowOperation | undefined): WriteOperation | undefined {
  return operation === 'delete' ? undefined : operation;
}

export function isDone(state: RowState): boolean {
  return (rowOutcomes as readonly RowState[]).includes(state);
}

interface RowOfId {
  readonly enrollment: { readonly registrationId: string };
}

function idOf(row: RowOfId): string {
  return row.enrollment.registrationId.toLowerCase();
}

export async function* idsOf(rows: AsyncIterable<readonly RowOfId[]>): AsyncGenerator<string, void> {
  for await (const some of rows) yield* some.map(idOf);
}

function halves<T>(items: readonly T[]): readonly (readonly T[])[] {
  const middle = Math.ceil(items.length / 2);
  return [items.slice(0, middle), items.slice(middle)];
}

export function inputChanged(): IotdmError {
  return new IotdmError('input.changed', 'the input has changed since it was checked');
}
