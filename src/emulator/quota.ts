/** Throttling as Azure's services throttle: so many operations in a span of time, and 429 for what is more. */

import { IotdmError } from '../errors.ts';

export interface Quota {
  readonly operations: number;
  readonly per: 'minute' | 'second';
}

/** What a bulk request counts as: one operation, or one for each enrollment in it. Azure does not document which. */
export type BulkCost = 'request' | 'enrollment';

const periodMs = { minute: 60_000, second: 1000 } as const;
const form = /^([1-9][0-9]{0,8})(?:\/(s|sec|second|min|minute))?$/;

/** `1000` or `1000/min`: operations a minute; `100/s`: a second. @throws IotdmError `usage.invalid` */
export function parseQuota(text: string): Quota {
  const [, operations, unit = 'min'] = form.exec(text.trim()) ?? [];
  if (operations === undefined) {
    throw new IotdmError(
      'usage.invalid',
      `the quota "${text}" is not a number such as 1000, 1000/min or 100/s`,
    );
  }
  return { operations: Number(operations), per: unit.startsWith('s') ? 'second' : 'minute' };
}

export function formatQuota({ operations, per }: Quota): string {
  return `${operations}/${per === 'minute' ? 'min' : 's'}`;
}

/**
 * A bucket that holds one quota, starts full and fills up evenly: who keeps to the rate is never refused, even where some
 * requests bunch up on their way, and who does not gets no more than the rate once the bucket is empty. Refused operations
 * take nothing out.
 */
export class QuotaBucket {
  readonly #capacity: number;
  readonly #perMs: number;
  #left: number;
  #at = Number.NaN;

  constructor({ operations, per }: Quota) {
    this.#capacity = operations;
    this.#perMs = operations / periodMs[per];
    this.#left = operations;
  }

  /**
   * @param cost how many operations it is; more than a whole quota takes a whole bucket, or it would never pass
   * @returns undefined when it may pass, else in how many whole seconds, one at least, it may be tried again
   */
  take(cost: number, now: Date): number | undefined {
    const time = now.getTime();
    // A clock that was set back earns nothing, and holds nothing up.
    const elapsed = Math.max(0, time - (Number.isNaN(this.#at) ? time : this.#at));
    this.#left = Math.min(this.#capacity, this.#left + elapsed * this.#perMs);
    this.#at = time;
    const counted = Math.min(cost, this.#capacity);
    const missing = counted - this.#left;
    // Less than a thousandth is what adding up fractions has lost.
    if (missing > 0.001) return Math.max(1, Math.ceil(missing / this.#perMs / 1000));
    this.#left = Math.max(0, -missing);
    return undefined;
  }
}
