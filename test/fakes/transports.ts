/** TPM transports that misbehave on demand. */
import { IotdmError, withEffect } from '../../src/errors.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';

/** Answers each command with the next scripted response, whatever it was. */
export class ScriptedTransport implements TpmTransport {
  readonly name = 'scripted TPM';
  readonly sent: Buffer[] = [];
  readonly #responses: Buffer[];

  constructor(responses: readonly Buffer[]) {
    this.#responses = [...responses];
  }

  send(command: Buffer): Promise<Buffer> {
    this.sent.push(Buffer.from(command));
    const response = this.#responses.shift();
    return response === undefined
      ? Promise.reject(new IotdmError('tpm-unavailable.connection', 'the script is at its end'))
      : Promise.resolve(response);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** A response that consists of a header with this code. */
export function bareResponse(code: number): Buffer {
  const bytes = Buffer.from('80010000000a00000000', 'hex');
  bytes.writeUInt32BE(code, 6);
  return bytes;
}

/**
 * Passes commands on, and dies for good at the `lethal`-th one (counted from 0), before the TPM has seen it or after it
 * has done it.
 */
export class DyingTransport implements TpmTransport {
  readonly name: string;
  sent = 0;
  readonly #inner: TpmTransport;
  readonly #lethal: number;
  readonly #moment: 'before' | 'after';

  constructor(inner: TpmTransport, lethal: number, moment: 'before' | 'after') {
    this.name = inner.name;
    this.#inner = inner;
    this.#lethal = lethal;
    this.#moment = moment;
  }

  async send(command: Buffer): Promise<Buffer> {
    const number = this.sent;
    this.sent += 1;
    const dead = new IotdmError('tpm-unavailable.connection', 'the connection was cut', {
      effect: number === this.#lethal ? 'unknown' : 'none',
    });
    if (number > this.#lethal || (number === this.#lethal && this.#moment === 'before')) throw dead;
    const response = await this.#inner.send(command);
    if (number === this.#lethal) throw dead;
    return response;
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

/**
 * Passes commands on, and answers no more from the `lethal`-th one on (counted from 0), which the TPM has not seen or has
 * done. Whoever waits for an answer may leave.
 */
export class SilentTransport implements TpmTransport {
  readonly name: string;
  readonly #inner: TpmTransport;
  readonly #lethal: number;
  readonly #moment: 'before' | 'after';
  readonly #onSilence: () => void;
  #sent = 0;
  #leave: (error: IotdmError) => void = () => undefined;
  #dead: IotdmError | undefined;

  /** @param onSilence called once, when the command is under way */
  constructor(inner: TpmTransport, lethal: number, moment: 'before' | 'after', onSilence: () => void) {
    this.name = inner.name;
    this.#inner = inner;
    this.#lethal = lethal;
    this.#moment = moment;
    this.#onSilence = onSilence;
  }

  async send(command: Buffer): Promise<Buffer> {
    if (this.#dead !== undefined) throw withEffect(this.#dead, 'none');
    const isLethal = this.#sent === this.#lethal;
    this.#sent += 1;
    if (!isLethal) return this.#inner.send(command);
    if (this.#moment === 'after') await this.#inner.send(command);
    return new Promise((_, reject) => {
      this.#leave = reject;
      this.#onSilence();
    });
  }

  abandon(error: IotdmError): void {
    this.#dead = error;
    this.#leave(withEffect(error, 'unknown'));
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

/** TPM_CC of what tests cut off (Part 2, section 6.5.2). */
export const CommandCode = {
  EvictControl: 0x120,
  NV_UndefineSpace: 0x122,
  NV_DefineSpace: 0x12a,
  NV_Write: 0x137,
  SequenceComplete: 0x13e,
  Load: 0x157,
  HMAC_Start: 0x15b,
  SequenceUpdate: 0x15c,
  FlushContext: 0x165,
  GetCapability: 0x17a,
} as const;

/** Dies for good before the TPM sees the first command with this code. */
export function dyingAt(inner: TpmTransport, code: number): TpmTransport {
  let isDead = false;
  return {
    name: inner.name,
    send: (command) => {
      const effect = isDead ? 'none' : 'unknown';
      isDead ||= command.readUInt32BE(6) === code;
      return isDead
        ? Promise.reject(new IotdmError('tpm-unavailable.connection', 'the connection was cut', { effect }))
        : inner.send(command);
    },
    close: () => inner.close(),
  };
}

/** Answers the first command with this code with a response code of its own, and passes on all others. */
export function refusingAt(inner: TpmTransport, code: number, responseCode: number, skip = 0): TpmTransport {
  let left = skip;
  let hasRefused = false;
  return {
    name: inner.name,
    send: (command) => {
      if (hasRefused || command.readUInt32BE(6) !== code) return inner.send(command);
      if (left > 0) {
        left -= 1;
        return inner.send(command);
      }
      hasRefused = true;
      return Promise.resolve(bareResponse(responseCode));
    },
    close: () => inner.close(),
  };
}
