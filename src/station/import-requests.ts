/**
 * The requests of an import: as many at a time as are wanted, at the governor's pace, repeated while the service is
 * throttling or out of reach. A request of which nobody knows whether it took effect is not repeated here.
 */

import { setMaxListeners } from 'node:events';
import type { Enrollment, StoredEnrollment } from '../dps/enrollment.ts';
import type { Governor } from '../dps/governor.ts';
import type { BulkMode, BulkResult, ProvisioningService } from '../dps/service.ts';
import { IotdmError, mayHaveTakenEffect } from '../errors.ts';

/** What a bulk request counts as: one operation, or one for each enrollment in it. Azure does not document which. */
export type BulkCost = 'request' | 'enrollment';

/** The request may or may not have taken effect. */
export class FateUnknown extends Error {
  override readonly cause: IotdmError;

  constructor(cause: IotdmError) {
    super(cause.message);
    this.cause = cause;
  }
}

/** What the service answers about this one enrollment is no answer, or an error again and again; about others it is not. */
export class Unreadable extends Error {
  override readonly cause: IotdmError;

  constructor(cause: IotdmError) {
    super(cause.message);
    this.cause = cause;
  }
}

/** Where the order of sending is kept on disk. */
export interface SendingLog {
  beforeSending(): Promise<void>;
  markSending(): void;
}

export interface RequestOptions {
  readonly service: ProvisioningService;
  readonly governor: Governor;
  readonly log?: SendingLog;
  /** Requests under way at once. */
  readonly concurrency: number;
  readonly bulkCost: BulkCost;
  /** For how long nothing may get through before the last error is thrown. */
  readonly giveUpAfterMs: number;
  /** Ends all waiting; requests under way are left to finish. */
  readonly signal: AbortSignal;
}

/** That look-ups get through says nothing of what writes. */
type Kind = 'read' | 'write';

/** How often an answer to a look-up may be no answer, and how many such answers in a row are the end of it all. */
const readAttempts = 3;
const strangeAnswers = 10;
/** How often one look-up may fail otherwise, while others get through. */
const failedReads = 5;

export class Requests {
  readonly #options: RequestOptions;
  readonly #waiting: (() => void)[] = [];
  #free: number;
  /** Answers of the service itself, refusals of single requests included. */
  #answers = 0;
  #writes = 0;
  /** Since when nothing of the kind has got through. */
  #failingSince: Record<Kind, number | undefined> = { write: undefined, read: undefined };
  #strangeInARow = 0;

  constructor(options: RequestOptions) {
    this.#options = options;
    this.#free = options.concurrency;
    // As many as wait; Node.js would take more than ten for a mistake.
    setMaxListeners(0, options.signal);
  }

  /** Grows with each bulk request that the service has answered: whether others got through meanwhile. */
  get writes(): number {
    return this.#writes;
  }

  /**
   * @param announce puts it on disk that this is sent, before it is
   * @throws FateUnknown when it may have taken effect; IotdmError for what the service has against its content, and for
   * what ends the import
   */
  async bulk(
    mode: BulkMode,
    enrollments: readonly Enrollment[],
    announce: () => Promise<void>,
  ): Promise<BulkResult> {
    const { bulkCost, service } = this.#options;
    const cost = bulkCost === 'request' ? 1 : enrollments.length;
    return this.#write(cost, () => service.bulk(mode, enrollments), announce);
  }

  /** Deletes one enrollment, and with an etag that version only; else as `bulk`, whose requests cannot say which. */
  async delete(
    registrationId: string,
    etag: string | undefined,
    announce: () => Promise<void>,
  ): Promise<void> {
    await this.#write(1, () => this.#options.service.delete(registrationId, etag), announce);
  }

  async #write<T>(cost: number, send: () => Promise<T>, announce: () => Promise<void>): Promise<T> {
    // Without a pace it leaves soon, and many are announced together; else as late as can be, so that of an import that
    // is stopped there is little to look up.
    const isPaced = Number.isFinite(this.#options.governor.ratePerMinute);
    if (!isPaced) await announce();
    return this.#untilTakenUp('write', cost, send, announce);
  }

  /** @throws Unreadable; IotdmError for what the service has against the id, and for what ends the import */
  async find(registrationId: string): Promise<StoredEnrollment | undefined> {
    const answersBefore = this.#answers;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#untilTakenUp('read', 1, () => this.#options.service.find(registrationId));
      } catch (error) {
        if (!(error instanceof FateUnknown)) throw error;
        const isStrange = isStrangeAnswer(error.cause);
        const isHopeless = isStrange
          ? attempt + 1 >= readAttempts && this.#answers > 0
          : attempt + 1 >= failedReads && this.#answers > answersBefore;
        if (isHopeless) throw new Unreadable(error.cause);
        await this.backOff(attempt);
      }
    }
  }

  /** Pages of all enrollments; throws as the service does. */
  async *pages(): AsyncGenerator<readonly StoredEnrollment[], void> {
    const pages = this.#options.service.list()[Symbol.asyncIterator]();
    for (;;) {
      const page = await this.#once('read', 1, () => pages.next());
      if (page.done === true) return;
      yield page.value;
    }
  }

  /** A wait before something is tried again. */
  async backOff(attempt: number): Promise<void> {
    await this.#options.governor.backOff(attempt, this.#options.signal);
  }

  async #untilTakenUp<T>(
    kind: Kind,
    cost: number,
    send: () => Promise<T>,
    announce?: () => Promise<void>,
  ): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#once(kind, cost, send, announce);
      } catch (error) {
        if (!(error instanceof IotdmError) || !isTransient(error)) throw error;
        // A mistyped host, or a page in place of the service, does not get better by waiting.
        if (this.#answers === 0 && isAboutTheHost(error)) throw error;
        this.#giveUpInTime(kind, error);
        if (error.code === 'network.throttled') continue;
        if (mayHaveTakenEffect(error)) throw new FateUnknown(error);
        await this.backOff(attempt);
      }
    }
  }

  async #once<T>(
    kind: Kind,
    cost: number,
    send: () => Promise<T>,
    announce?: () => Promise<void>,
  ): Promise<T> {
    const { governor, log, signal } = this.#options;
    await this.#slot();
    try {
      await log?.beforeSending();
      await governor.acquire(cost, signal);
      await announce?.();
      await log?.beforeSending();
      signal.throwIfAborted();
      log?.markSending();
      const sentAt = governor.clock();
      try {
        const answer = await send();
        this.#gotThrough(kind, cost);
        return answer;
      } catch (error) {
        if (error instanceof IotdmError) {
          if (error.code === 'network.throttled') governor.refused(retryAfterOf(error), sentAt);
          else if (isRefusal(error)) this.#gotThrough(kind, cost);
          if (isStrangeAnswer(error)) this.#strangeInARow += 1;
        }
        throw error;
      }
    } finally {
      this.#free += 1;
      this.#waiting.shift()?.();
    }
  }

  async #slot(): Promise<void> {
    while (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#free -= 1;
  }

  #gotThrough(kind: Kind, cost: number): void {
    this.#answers += 1;
    if (kind === 'write') this.#writes += 1;
    this.#strangeInARow = 0;
    this.#failingSince[kind] = undefined;
    this.#options.governor.accepted(cost);
  }

  #giveUpInTime(kind: Kind, error: IotdmError): void {
    if (this.#strangeInARow > strangeAnswers) throw error;
    const { governor, giveUpAfterMs } = this.#options;
    const now = governor.clock();
    this.#failingSince[kind] ??= now;
    const forMs = now - this.#failingSince[kind];
    if (forMs < giveUpAfterMs) return;
    throw new IotdmError(
      error.code,
      `${error.message}; nothing got through for ${Math.round(forMs / 1000)} s`,
      { cause: error, details: error.details },
    );
  }
}

/** May be otherwise in a minute. Of refused certificates nothing is to be hoped. */
function isTransient({ code }: IotdmError): boolean {
  return (code.startsWith('network.') && code !== 'network.tls') || code === 'service.unexpected-answer';
}

/** Nobody is there, or somebody else: a page with its status, where the service's JSON could only be broken. */
function isAboutTheHost(error: IotdmError): boolean {
  const { code, details } = error;
  if (code === 'network.unreachable') return true;
  if (code === 'network.proxy') return details?.['reason'] !== 'proxy-gateway';
  return code === 'service.unexpected-answer' && details?.['status'] !== undefined;
}

/** Somebody else than the service has answered. */
function isStrangeAnswer({ code, details }: IotdmError): boolean {
  const isPage = code === 'network.proxy' && details?.['status'] !== undefined;
  return code === 'service.unexpected-answer' || (isPage && details['reason'] !== 'proxy-gateway');
}

/** The service has answered, and does not want this one. */
function isRefusal({ code }: IotdmError): boolean {
  return code.startsWith('service.') && code !== 'service.unexpected-answer';
}

function retryAfterOf(error: IotdmError): number | undefined {
  const asked = error.details?.['retryAfterMs'];
  return typeof asked === 'number' ? asked : undefined;
}
