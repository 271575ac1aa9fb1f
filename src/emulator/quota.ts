/** Throttling as Azure's services throttle: so many operations in a window of time, and 429 for what is more. */

import { IotdmError } from '../errors.ts';

export interface Quota {
  readonly operations: number;
  readonly per: 'minute' | 'second';
}

/** What a bulk request counts as: one operation, or one for each enrollment in it. Azure does not document which. */
export type BulkCost = 'request' | 'enrollment';

const windowMs = { minute: 60_000, second: 1000 } as const;
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
 * Counts in fixed windows, the first of which begins with the first operation: in each, exactly the quota is let
 * through. Refused operations do not count.
 */
export class QuotaWindow {
  readonly #quota: Quota;
  #startedAt = -Infinity;
  #used = 0;

  constructor(quota: Quota) {
    this.#quota = quota;
  }

  /**
   * @param cost how many operations it is; more than a whole quota takes a whole window, or it would never pass
   * @returns undefined when it may pass, else in how many whole seconds the next window begins
   */
  take(cost: number, now: Date): number | undefined {
    const { operations, per } = this.#quota;
    const time = now.getTime();
    const elapsed = time - this.#startedAt;
    // A clock that was set back begins a window too, rather than to hold everything up.
    if (elapsed < 0 || elapsed >= windowMs[per]) {
      this.#startedAt = time;
      this.#used = 0;
    }
    const counted = Math.min(cost, operations);
    if (this.#used + counted > operations) {
      return Math.max(1, Math.ceil((this.#startedAt + windowMs[per] - time) / 1000));
    }
    this.#used += counted;
    return undefined;
  }
}
