/** The knobs at work: what the emulator does to a request besides serving it. */

import type { Fault } from './fault-spec.ts';
import { draw, FaultInjector, type FaultTarget } from './faults.ts';
import { defaultBulkCost, type Knobs, type Latency } from './knobs.ts';
import { QuotaBucket } from './quota.ts';

/** What a request counts towards: Azure has one limit for operators and one for registrations, of the same size. */
export type QuotaKind = 'operations' | 'registrations';

/** A series of random numbers that no fault uses. */
const latencySeries = -1;

export class Disturbance {
  readonly #buckets: Readonly<Record<QuotaKind, QuotaBucket>> | undefined;
  readonly #countsEnrollments: boolean;
  readonly #faults: FaultInjector | undefined;
  readonly #latency: Latency | undefined;
  readonly #seed: number;
  #delays = 0;

  constructor({ quota, bulkCost = defaultBulkCost, latency, faults = [], faultSeed = 0 }: Knobs) {
    if (quota !== undefined) {
      this.#buckets = { operations: new QuotaBucket(quota), registrations: new QuotaBucket(quota) };
    }
    this.#countsEnrollments = bulkCost === 'enrollment';
    if (faults.length > 0) this.#faults = new FaultInjector(faults, faultSeed);
    this.#latency = latency;
    this.#seed = faultSeed;
  }

  /**
   * @param enrollments how many enrollments a bulk request is about, 1 for any other
   * @returns undefined when the request may pass, else how many seconds it should wait
   */
  throttle(kind: QuotaKind, enrollments: number, now: Date): number | undefined {
    return this.#buckets?.[kind].take(this.#countsEnrollments ? enrollments : 1, now);
  }

  faultFor(target: FaultTarget): Fault | undefined {
    return this.#faults?.next(target);
  }

  /** By how much to hold the next answer back. */
  nextDelayMs(): number {
    if (this.#latency === undefined) return 0;
    const { minMs, maxMs } = this.#latency;
    if (minMs === maxMs) return minMs;
    this.#delays += 1;
    return minMs + draw(this.#seed, latencySeries, this.#delays) * (maxMs - minMs);
  }
}
