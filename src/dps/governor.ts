/**
 * Keeps requests within what the service allows: at the pace that was asked for, and at the pace that its refusals
 * (429) teach, whichever is slower. One governor for all requests of a run.
 */

import { setTimeout as wait } from 'node:timers/promises';

export interface GovernorOptions {
  /** Operations a minute; Infinity for no limit but the service's own. */
  readonly ratePerMinute: number;
  /** Milliseconds that never go backwards. */
  readonly clock?: () => number;
  readonly delay?: (ms: number, signal: AbortSignal) => Promise<unknown>;
  /** From 0 up to 1. */
  readonly random?: () => number;
}

/** The share of the rate that is used: requests on their way bunch up, and a window of time must not see more. */
const usedShare = 0.96;
/** A request that is late by no more than this does not delay the ones behind it. */
const caughtUpMs = 20;

/** What is learned from a refusal is what got through in the last so many times its pause, and at least this long. */
const measuredPauses = 3;
const leastMeasuredMs = 10_000;
const longestMeasuredMs = 300_000;
/** `retry-after` is in whole seconds: on average the service would have been ready so much earlier. */
const roundedUpMs = 500;
/** What was learned is forgotten slowly at first, in each pause's time, then twice as fast after so many of them. */
const learnedShare = 0.97;
const roughGrowth = 0.007;
const steadyGrowth = 0.0025;
const quickGrowth = 0.1;
const doublingPauses = 5;

const firstPauseMs = 500;
const longestPauseMs = 60_000;
/** No rate that is learned is below one operation in this time: it could never be unlearned. */
const slowestMs = 10_000;

/** Waits while nothing is known of the service are as long as those after a refusal without `retry-after`. */
export function backoffOf(attempt: number, random: () => number): number {
  const longest = Math.min(firstPauseMs * 2 ** Math.max(0, attempt), longestPauseMs);
  // Half of it is chance, so that stations that failed together do not come back together.
  return longest * (0.5 + random() / 2);
}

export class Governor {
  readonly clock: () => number;
  readonly #delay: (ms: number, signal: AbortSignal) => Promise<unknown>;
  readonly #random: () => number;
  /** Operations a millisecond. */
  readonly #asked: number;
  #rate: number;
  #nextAt = -Infinity;
  #pausedUntil = -Infinity;
  #pausedAt = -Infinity;
  #pauseMs = 1000;
  #refusalsInARow = 0;
  /** When the rate was last raised, and when that began. */
  #grownAt = -Infinity;
  #grownFrom = -Infinity;
  #growth = roughGrowth;
  #turn: Promise<void> = Promise.resolve();
  readonly #passed: PassedOperations;

  constructor(options: GovernorOptions) {
    this.clock = options.clock ?? (() => performance.now());
    this.#delay = options.delay ?? ((ms, signal) => wait(ms, undefined, { signal }));
    this.#random = options.random ?? Math.random;
    this.#asked = (options.ratePerMinute / 60_000) * usedShare;
    this.#rate = this.#asked;
    this.#passed = new PassedOperations();
  }

  /** Operations a minute at which requests leave at the moment. */
  get ratePerMinute(): number {
    return (this.#rate / usedShare) * 60_000;
  }

  /**
   * Waits until a request that counts as `cost` operations may leave, in the order of the calls; it leaves at once
   * then. Rejects, as the delay does, when the signal is aborted.
   */
  async acquire(cost: number, signal: AbortSignal): Promise<void> {
    const before = this.#turn;
    let passOn: () => void = () => undefined;
    this.#turn = new Promise((resolve) => {
      passOn = resolve;
    });
    await before;
    try {
      for (;;) {
        signal.throwIfAborted();
        const ms = Math.max(this.#nextAt, this.#pausedUntil) - this.clock();
        if (ms <= 0) break;
        // Timers count whole milliseconds, and what is too early would be a request too many.
        await this.#delay(Math.ceil(ms), signal);
      }
      const now = this.clock();
      this.#passed.beginAt(now);
      const interval = Number.isFinite(this.#rate) ? cost / this.#rate : 0;
      this.#nextAt = Math.max(this.#nextAt, now - caughtUpMs) + interval;
    } finally {
      passOn();
    }
  }

  /** To be called when the service has taken up a request. */
  accepted(cost: number): void {
    const now = this.clock();
    this.#refusalsInARow = 0;
    this.#passed.add(now, cost);
    if (this.#rate >= this.#asked) return;
    const pauses = Math.max(0, now - this.#grownFrom) / this.#pauseMs;
    const growth = Math.min(quickGrowth, this.#growth * 2 ** (pauses / doublingPauses));
    const share = Math.min(1, Math.max(0, now - this.#grownAt) / this.#pauseMs);
    this.#rate = Math.min(this.#asked, this.#rate * (1 + growth * share));
    this.#grownAt = now;
  }

  /**
   * To be called when the service has refused a request for their number (429).
   * @param askedMs what `retry-after` asks for, where it was given
   * @param sentAt when the request left, by this governor's clock
   */
  refused(askedMs: number | undefined, sentAt: number): void {
    const now = this.clock();
    const isNews = sentAt >= this.#pausedAt && now >= this.#pausedUntil;
    if (!isNews) {
      // It left before anybody knew.
      if (askedMs !== undefined) this.#pausedUntil = Math.max(this.#pausedUntil, now + askedMs);
      return;
    }
    // Who asks for no pause, and refuses all the same, is not asked again at once.
    const isAsked = askedMs !== undefined && askedMs >= firstPauseMs;
    const pauseMs = isAsked ? askedMs : backoffOf(this.#refusalsInARow, this.#random);
    this.#refusalsInARow += 1;
    this.#pausedAt = now;
    this.#pauseMs = Math.max(1000, pauseMs);
    // Stations that are refused together are told the same time.
    this.#pausedUntil = now + pauseMs + this.#random() * Math.min(pauseMs / 10, 1000);
    this.#learn(now, pauseMs);
  }

  /** A wait for a service that fails or cannot be reached. */
  async backOff(attempt: number, signal: AbortSignal): Promise<void> {
    await this.#delay(Math.round(backoffOf(attempt, this.#random)), signal);
  }

  #learn(now: number, pauseMs: number): void {
    const ranFor = now - Math.max(this.#grownFrom, 0);
    this.#grownAt = this.#pausedUntil;
    this.#grownFrom = this.#pausedUntil;
    const steadyMs = measuredPauses * this.#pauseMs;
    const isSteady = ranFor >= steadyMs;
    this.#growth = isSteady ? steadyGrowth : roughGrowth;
    const horizonMs = isSteady ? steadyMs : Math.min(Math.max(leastMeasuredMs, steadyMs), longestMeasuredMs);
    const { cost, since } = this.#passed.since(now - horizonMs);
    // Of a service that lets nothing through its rate cannot be learned.
    if (cost === 0) return;
    // Whoever has run steadily was only a little too fast. Else the pauses are a part of the rate, this one included.
    const until = isSteady ? now : now + Math.max(pauseMs - roundedUpMs, pauseMs / 2);
    const measured = cost / Math.max(1, until - since);
    this.#rate = Math.min(
      this.#rate,
      Math.max(measured * learnedShare, Math.min(1 / slowestMs, this.#asked)),
    );
  }
}

/** How many operations got through when, to the second. */
class PassedOperations {
  readonly #seconds: { readonly at: number; cost: number }[] = [];
  #began = Infinity;

  beginAt(now: number): void {
    this.#began = Math.min(this.#began, now);
  }

  add(now: number, cost: number): void {
    const at = Math.floor(now / 1000) * 1000;
    const last = this.#seconds.at(-1);
    if (last?.at === at) last.cost += cost;
    else this.#seconds.push({ at, cost });
    while ((this.#seconds[0]?.at ?? at) < at - longestMeasuredMs) this.#seconds.shift();
  }

  /** All that got through since then, or since the beginning if that was later. */
  since(from: number): { readonly cost: number; readonly since: number } {
    const start = Math.max(Math.floor(from / 1000) * 1000, this.#began);
    let cost = 0;
    for (const second of this.#seconds) if (second.at >= start - 999) cost += second.cost;
    return { cost, since: start };
  }
}
