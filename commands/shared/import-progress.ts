/** How an import is getting on: a bar at a terminal, elsewhere one line a minute. */
import type { ImportProgress } from '../../src/station/import.ts';
import type { Console, Progress } from './console.ts';

const DRAW_MS = 100;
const LINE_MS = 60_000;
/** The rate is that of the last so many milliseconds. */
const RATE_MS = 30_000;

export class ProgressReport {
  readonly #console: Console;
  readonly #bar: Progress;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #clock: () => number;
  readonly #samples: { readonly at: number; readonly done: number }[] = [];
  #now: ImportProgress;
  #drawnAt = -Infinity;
  #before: string | undefined;

  private constructor(console: Console, bar: Progress, total: number, clock: () => number) {
    this.#console = console;
    this.#bar = bar;
    this.#clock = clock;
    this.#now = { done: 0, total, failed: 0, skipped: 0, throttled: 0 };
    if (console.drawsProgress) return;
    this.#timer = setInterval(() => {
      console.note(this.#before ?? `${this.#now.done} of ${total} rows done${this.#rest(this.#clock())}`);
    }, LINE_MS);
    this.#timer.unref();
  }

  static async start(
    console: Console,
    total: number,
    clock = (): number => performance.now(),
  ): Promise<ProgressReport> {
    return new ProgressReport(console, await console.progress(console.bar(0, total)), total, clock);
  }

  update(progress: ImportProgress): void {
    const at = this.#clock();
    this.#before = undefined;
    this.#now = progress;
    if (at - this.#drawnAt < DRAW_MS && progress.done < progress.total) return;
    this.#drawnAt = at;
    // What an earlier run has done says nothing of the pace.
    if (this.#samples.length === 0) this.#samples.push({ at, done: progress.skipped });
    this.#samples.push({ at, done: progress.done });
    while (this.#samples.length > 2 && at - (this.#samples[1]?.at ?? at) > RATE_MS) this.#samples.shift();
    if (this.#console.drawsProgress) {
      this.#bar.update(`${this.#console.bar(progress.done, progress.total)}${this.#rest(at)}`);
    }
  }

  /** What is done before the first row. */
  reading(text: string): void {
    this.#before = text;
    const at = this.#clock();
    if (at - this.#drawnAt < DRAW_MS) return;
    this.#drawnAt = at;
    if (this.#console.drawsProgress) this.#bar.update(text);
  }

  done(): void {
    clearInterval(this.#timer);
    this.#bar.done();
  }

  #rest(at: number): string {
    const { done, total, failed, throttled } = this.#now;
    const [first] = this.#samples;
    const seconds = first === undefined ? 0 : (at - first.at) / 1000;
    const rate = first === undefined || seconds < 1 ? 0 : (done - first.done) / seconds;
    return [
      rate > 0 ? `, ${rate < 10 ? rate.toFixed(1) : Math.round(rate)} rows/s` : '',
      rate > 0 && done < total ? `, ${timeLeft((total - done) / rate)} left` : '',
      throttled > 0 ? `, throttled ${throttled} times` : '',
      failed > 0 ? `, ${failed} failed` : '',
    ].join('');
  }
}

function timeLeft(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
