/** The time that the provisioning of one device may take, all steps together. */
import { IotdmError } from '../../errors.ts';

export class Budget {
  readonly #seconds: number | undefined;
  readonly #now: () => number;
  readonly #began: number;

  /** @param seconds undefined for as long as it takes @param now milliseconds, of a clock that only goes on */
  constructor(seconds?: number, now: () => number = () => performance.now()) {
    this.#seconds = seconds;
    this.#now = now;
    this.#began = now();
    this.end = seconds === undefined ? undefined : AbortSignal.timeout(Math.ceil(seconds * 1000));
  }

  /** Milliseconds, Infinity without a limit, never negative. */
  get leftMs(): number {
    if (this.#seconds === undefined) return Number.POSITIVE_INFINITY;
    return Math.max(0, this.#seconds * 1000 - (this.#now() - this.#began));
  }

  /** Aborted when the time is up, for what may be abandoned at any moment; undefined without a limit. */
  readonly end: AbortSignal | undefined;

  /** @throws IotdmError `network.budget` where no time is left */
  check(left: readonly string[]): void {
    if (this.leftMs === 0) throw this.#usedUp(left);
  }

  /** What failed for want of time says so. */
  explain(error: IotdmError, left: readonly string[]): IotdmError {
    const isWant = error.code.startsWith('network.') || error.code === 'interrupted.signal';
    return isWant && this.leftMs === 0 ? this.#usedUp(left, error) : error;
  }

  /**
   * Waits for the work as long as there is time. What is still under way then is not undone: it must be such that
   * whoever comes next finds out what became of it.
   */
  async within<T>(work: Promise<T>): Promise<T> {
    const { leftMs } = this;
    if (leftMs === Number.POSITIVE_INFINITY) return work;
    let timer: NodeJS.Timeout | undefined;
    const end = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(this.#usedUp([]));
      }, Math.ceil(leftMs));
    });
    try {
      return await Promise.race([work, end]);
    } finally {
      clearTimeout(timer);
    }
  }

  #usedUp(left: readonly string[], cause?: IotdmError): IotdmError {
    const rest = left.length === 0 ? '' : `; left to do: ${left.join(', ')}`;
    return new IotdmError(
      'network.budget',
      `the ${this.#seconds ?? 0} s for this device are used up${rest}`,
      {
        ...(cause === undefined ? {} : { cause }),
        details: { budgetSeconds: this.#seconds ?? null, left },
      },
    );
  }
}
