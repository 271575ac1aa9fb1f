/** The time that the provisioning of one device may take, all steps together. */
import { setMaxListeners } from 'node:events';
import { IotdmError } from '../../errors.ts';

/** A deadline made of the time that was left may ring as much before it: timers count whole milliseconds. */
const momentMs = 10;

export class Budget {
  readonly #seconds: number | undefined;
  readonly #now: () => number;
  readonly #began: number;
  readonly #end = new AbortController();

  /** @param seconds undefined for as long as it takes @param now milliseconds, of a clock that only goes on */
  constructor(seconds?: number, now: () => number = () => performance.now()) {
    this.#seconds = seconds;
    this.#now = now;
    this.#began = now();
    if (seconds === undefined) return;
    this.end = this.#end.signal;
    // As many may wait for it as there are requests.
    setMaxListeners(0, this.end);
    setTimeout(
      () => {
        this.#use();
      },
      Math.ceil(seconds * 1000),
    ).unref();
  }

  /**
   * Milliseconds, Infinity without a limit, never negative. A timer and a clock may differ by a moment: whichever of them
   * first says that the time is up is right for both, so that the signal is aborted where nothing is left, and only there.
   */
  get leftMs(): number {
    if (this.#seconds === undefined) return Number.POSITIVE_INFINITY;
    if (this.#end.signal.aborted) return 0;
    const left = this.#seconds * 1000 - (this.#now() - this.#began);
    if (left > 0) return left;
    this.#use();
    return 0;
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
    return isWant && this.leftMs < momentMs ? this.#usedUp(left, error) : error;
  }

  /**
   * Waits for the work as long as there is time. What is still under way then is not undone: it must be such that
   * whoever comes next finds out what became of it.
   */
  async within<T>(work: Promise<T>): Promise<T> {
    const { leftMs, end } = this;
    if (end === undefined) return work;
    let ended: () => void = () => undefined;
    const isOver = new Promise<never>((_, reject) => {
      ended = () => {
        reject(this.#usedUp([]));
      };
    });
    end.addEventListener('abort', ended, { once: true });
    if (end.aborted) ended();
    // Also of a process that has nothing else to wait for.
    const timer = setTimeout(() => {
      this.#use();
    }, Math.ceil(leftMs));
    try {
      return await Promise.race([work, isOver]);
    } finally {
      clearTimeout(timer);
      end.removeEventListener('abort', ended);
    }
  }

  #use(): void {
    this.#end.abort(new DOMException('the time for this device is used up', 'TimeoutError'));
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
