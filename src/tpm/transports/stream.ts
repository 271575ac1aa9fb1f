/** What all transports over a stream of bytes share: one command at a time, a time limit, a clear end. */
import { IotdmError, withEffect } from '../../errors.ts';
import { ResponseCollector, timeoutError, type Collector } from '../transport.ts';

/** A place to write commands to; what comes back is handed to `StreamExchange.receive`. */
export interface ByteSink {
  write(bytes: Buffer): void;
}

interface Pending {
  readonly collector: Collector;
  readonly timer: NodeJS.Timeout;
  readonly resolve: (response: Buffer) => void;
  readonly reject: (error: IotdmError) => void;
}

export class StreamExchange {
  readonly #name: string;
  readonly #timeoutMs: number;
  readonly #newCollector: () => Collector;
  #pending: Pending | undefined;
  #dead: IotdmError | undefined;

  /** @param newCollector what puts an answer together; without it a response with nothing around it is expected */
  constructor(
    name: string,
    timeoutMs: number,
    newCollector: () => Collector = () => new ResponseCollector(name),
  ) {
    this.#name = name;
    this.#timeoutMs = timeoutMs;
    this.#newCollector = newCollector;
  }

  send(sink: ByteSink, command: Buffer): Promise<Buffer> {
    if (this.#dead !== undefined) return Promise.reject(withEffect(this.#dead, 'none'));
    if (this.#pending !== undefined) {
      const error = new IotdmError('internal.unexpected', 'two TPM commands were sent at once', {
        effect: 'none',
      });
      return Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      const collector = this.#newCollector();
      const timer = setTimeout(() => {
        this.fail(timeoutError(this.#name, this.#timeoutMs, collector.received));
      }, this.#timeoutMs);
      this.#pending = { collector, timer, resolve, reject };
      sink.write(command);
    });
  }

  /** Bytes from the TPM. Unasked ones end the exchange: from then on no answer could be trusted to be the right one. */
  receive(bytes: Buffer): void {
    if (this.#dead !== undefined) return;
    const pending = this.#pending;
    if (pending === undefined) {
      this.fail(new IotdmError('tpm-unavailable.protocol', `${this.#name} sends data that nobody asked for`));
      return;
    }
    try {
      const response = pending.collector.add(bytes);
      if (response === undefined) return;
      this.#settle()?.resolve(response);
    } catch (error) {
      this.fail(error as IotdmError);
    }
  }

  /** Ends the exchange: the command under way and all later ones fail with this error. */
  fail(error: IotdmError): void {
    this.#dead ??= error;
    // What answers may know better than that it is not known, such as a simulator that is switched off.
    this.#settle()?.reject(withEffect(this.#dead, this.#dead.effect ?? 'unknown'));
  }

  #settle(): Pending | undefined {
    const pending = this.#pending;
    this.#pending = undefined;
    clearTimeout(pending?.timer);
    return pending;
  }
}
