/** Time that passes when nobody has anything else to do: waits of hours take no time, and their order is kept. */

interface Timer {
  readonly at: number;
  readonly ring: () => void;
}

/** Turns of the event loop in which whatever is under way without waiting has surely come to its next wait. */
const IDLE_TURNS = 12;

export class VirtualTime {
  now = 0;
  #timers: Timer[] = [];
  #running = false;

  readonly clock = (): number => this.now;

  readonly delay = async (ms: number, signal?: AbortSignal): Promise<void> => {
    signal?.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        this.#timers = this.#timers.filter((other) => other !== timer);
        reject(signal?.reason as Error);
      };
      const timer = {
        at: this.now + ms,
        ring: () => {
          signal?.removeEventListener('abort', abort);
          resolve();
        },
      };
      this.#timers.push(timer);
      signal?.addEventListener('abort', abort, { once: true });
      void this.#run();
    });
  };

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    while (this.#timers.length > 0) {
      for (let turn = 0; turn < IDLE_TURNS; turn += 1) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      const at = Math.min(...this.#timers.map((timer) => timer.at));
      const due = this.#timers.filter((timer) => timer.at === at);
      this.#timers = this.#timers.filter((timer) => timer.at !== at);
      this.now = Math.max(this.now, at);
      for (const timer of due) timer.ring();
    }
    this.#running = false;
  }
}

/** Numbers that look like chance and are the same each time. */
export function repeatableRandom(seed = 1): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state / 0x80000000;
  };
}
