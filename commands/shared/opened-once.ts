/** What a command opens on demand: once, however many ask for it at the same time. */
import { IotdmError } from '../../src/errors.ts';

export class OpenedOnce<T> {
  readonly #open: () => Promise<T>;
  readonly #end: (value: T) => Promise<void> | void;
  #opening: Promise<T> | undefined;
  #value: T | undefined;
  #isClosed = false;

  /** @param end closes what was opened */
  constructor(open: () => Promise<T>, end: (value: T) => Promise<void> | void) {
    this.#open = open;
    this.#end = end;
  }

  /** Opens it on the first call, and anew after one that failed. */
  get(): Promise<T> {
    this.#opening ??= this.#begin();
    return this.#opening;
  }

  /** Closes it. What is still being opened is not waited for, and closed when it is there. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const value = this.#value;
    this.#value = undefined;
    if (value !== undefined) await this.#end(value);
  }

  async #begin(): Promise<T> {
    try {
      const value = await this.#open();
      if (this.#isClosed) {
        await this.#end(value);
        throw new IotdmError('interrupted.signal', 'the command has ended');
      }
      this.#value = value;
      return value;
    } catch (error) {
      this.#opening = undefined;
      throw error;
    }
  }
}
