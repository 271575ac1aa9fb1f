/** What people see on stderr: colours, progress, warnings, questions. Results go to stdout and not through here. */
import { createInterface } from 'node:readline/promises';
import { Writable, type Readable } from 'node:stream';
import { Chalk, type ChalkInstance } from 'chalk';
import type { Ora } from 'ora';
import { IotdmError, systemErrorCode } from '../../src/errors.ts';

/** The process's streams, or a test's. */
export interface Streams {
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
}

/** What a pipe or socket says once nobody reads it; a terminal that was hung up says EIO. */
const goneCodes = ['EPIPE', 'ECONNRESET', 'EOF', 'ERR_STREAM_DESTROYED'];

/** Whether a stream could not be written because whoever read it has gone, as `head` does when it has its lines. */
export function isReaderGone({ isTTY }: { readonly isTTY?: boolean }, error: Error): boolean {
  const code = systemErrorCode(error) ?? '';
  return goneCodes.includes(code) || (isTTY === true && code === 'EIO');
}

export interface ConsoleOptions {
  readonly quiet: boolean;
  readonly verbose: number;
  readonly color: boolean;
}

/** Shown while something takes long; `done` removes it. */
export interface Progress {
  update(text: string): void;
  /** Prints something else meanwhile, where the line would be in its way. */
  above(print: () => void): void;
  done(): void;
}

const BAR_WIDTH = 24;

export class Console {
  readonly #streams: Streams;
  readonly #options: ConsoleOptions;
  /** For stdout and stderr: without colours where the stream is no terminal. */
  readonly style: ChalkInstance;
  /** For stderr. */
  readonly errorStyle: ChalkInstance;
  #spinner: Ora | undefined;

  constructor(streams: Streams, options: ConsoleOptions) {
    this.#streams = streams;
    this.#options = options;
    this.style = new Chalk({ level: options.color && streams.stdout.isTTY === true ? 1 : 0 });
    this.errorStyle = new Chalk({ level: options.color && streams.stderr.isTTY === true ? 1 : 0 });
  }

  /** A person sits at both ends: questions can be asked. */
  get isInteractive(): boolean {
    return this.#streams.stdin.isTTY === true && this.#streams.stderr.isTTY === true;
  }

  /** Whether `progress` draws anything. A terminal that does not know its width, as serial consoles do not, says 0. */
  get drawsProgress(): boolean {
    const { isTTY, columns } = this.#streams.stderr;
    return isTTY === true && columns !== 0 && !this.#options.quiet;
  }

  /** Something worth knowing; not with `--quiet`. */
  note(text: string): void {
    if (!this.#options.quiet) this.#line(`iotdm: ${text}`);
  }

  /** Something worth knowing about how it was done; from `-v` on. */
  detail(text: string): void {
    if (this.#options.verbose >= 1) this.#line(`iotdm: ${text}`);
  }

  /** What goes over the wire; from `-vv` on. */
  trace(text: string): void {
    if (this.#options.verbose >= 2) this.#line(this.errorStyle.dim(`iotdm: ${text}`));
  }

  warn(text: string): void {
    this.#line(`iotdm: ${this.errorStyle.yellow('warning')}: ${text}`);
  }

  error(message: string, hint: string): void {
    this.#line(`iotdm: ${this.errorStyle.red('error')}: ${message}`);
    this.#line(`iotdm: ${this.errorStyle.cyan('hint')}: ${hint}`);
  }

  stack(text: string): void {
    if (this.#options.verbose >= 1) this.#line(text);
  }

  /** A spinner where stderr is a terminal, nothing elsewhere. */
  async progress(text: string): Promise<Progress> {
    // Without a width ora would clear lines for ever.
    if (!this.drawsProgress) {
      return {
        update: () => undefined,
        above: (print) => {
          print();
        },
        done: () => undefined,
      };
    }
    const { default: ora } = await import('ora');
    // Neither Ctrl-C nor what a person types ahead is ora's business.
    const spinner = ora({
      text,
      stream: this.#streams.stderr,
      discardStdin: false,
      hideCursor: true,
      // By itself ora heeds --no-color, but neither NO_COLOR nor the settings file.
      color: this.#options.color ? 'cyan' : false,
    }).start();
    this.#spinner = spinner;
    return {
      update: (next) => {
        spinner.text = next;
      },
      above: (print) => {
        spinner.clear();
        print();
        spinner.render();
      },
      done: () => {
        spinner.stop();
        this.#spinner = undefined;
      },
    };
  }

  /** `████████░░░░ 340/1000`, for the text of a progress line. */
  bar(done: number, total: number): string {
    const filled = total === 0 ? BAR_WIDTH : Math.floor((done / total) * BAR_WIDTH);
    const { green, dim } = this.errorStyle;
    return `${green('█'.repeat(filled))}${dim('░'.repeat(BAR_WIDTH - filled))} ${done}/${total}`;
  }

  /** Asks a question that only `y` or `yes` answers in the affirmative. */
  async confirm(question: string, signal: AbortSignal): Promise<boolean> {
    const terminal = createInterface({ input: this.#streams.stdin, output: this.#streams.stderr });
    try {
      const answer = await terminal.question(`${question} [y/N] `, { signal });
      return /^y(es)?$/i.test(answer.trim());
    } catch (error) {
      this.#streams.stderr.write('\n');
      throw interrupted(error);
    } finally {
      terminal.close();
    }
  }

  /** Reads one line from the terminal without showing what is typed. */
  async askSecret(prompt: string, signal: AbortSignal): Promise<string> {
    const silent = new Writable({
      write: (_chunk, _encoding, done) => {
        done();
      },
    });
    // From here on the terminal does not echo; only then is anybody asked to type.
    const terminal = createInterface({ input: this.#streams.stdin, output: silent, terminal: true });
    this.#streams.stderr.write(`${prompt} (not shown): `);
    try {
      return await terminal.question('', { signal });
    } catch (error) {
      throw interrupted(error);
    } finally {
      terminal.close();
      this.#streams.stderr.write('\n');
    }
  }

  #line(text: string): void {
    const spinner = this.#spinner;
    spinner?.clear();
    this.#streams.stderr.write(`${text}\n`);
    if (spinner?.isSpinning === true) spinner.render();
  }
}

/** At a question the terminal is in raw mode: Ctrl-C comes as a key, and readline turns it into an AbortError. */
function interrupted(error: unknown): unknown {
  const isAbort = error instanceof Error && error.name === 'AbortError';
  return isAbort ? new IotdmError('interrupted.signal', 'interrupted', { cause: error }) : error;
}
