/**
 * Microsoft's TPM simulator, and whatever speaks its protocol: commands on one TCP port, the switches of the machine
 * around the TPM on the next one.
 *
 * Source: TpmTcpProtocol.h and TcpServer.c of the reference simulator; tcti-mssim.c of tpm2-tss. All numbers are
 * big-endian. A command is `TPM_SEND_COMMAND, locality (1 byte), size, command`; its answer is `size, response, 0`.
 */
import { IotdmError } from '../../errors.ts';
import { formatAddress } from '../tcti.ts';
import {
  announcedLength,
  checkWholeResponse,
  MAX_RESPONSE_BYTES,
  RESPONSE_HEADER_BYTES,
  type Collector,
  type TpmTransport,
} from '../transport.ts';
import { openSocketTransport, type Framing } from './socket.ts';

const SIGNAL_POWER_ON = 1;
const SEND_COMMAND = 8;
const SIGNAL_NV_ON = 11;
const SESSION_END = 20;

const LOCALITY = 0;
const NUMBER_BYTES = 4;

/**
 * Switches the simulated machine on, as tpm2-tss does, and connects to its TPM. Both signals are without effect on a
 * machine that runs. TPM2_Startup is not sent: it would reset what an earlier owner of the TPM left in it, so a TPM that
 * wants it says so (`tpm-unavailable.not-started`) and the user decides.
 * @param port of the commands; the switches are on the next one
 * @param timeoutMs time limit of one command, and of one signal
 * @throws IotdmError `tpm-unavailable.*`
 */
export async function openMssimTransport(
  host: string,
  port: number,
  timeoutMs: number,
): Promise<TpmTransport> {
  const commands = await openSocketTransport(
    formatAddress(host, port),
    { host, port },
    timeoutMs,
    commandFraming,
  );
  try {
    await switchOn(host, port + 1, timeoutMs);
  } catch (error) {
    await commands.close();
    throw error;
  }
  return commands;
}

async function switchOn(host: string, port: number, timeoutMs: number): Promise<void> {
  const name = `${formatAddress(host, port)} (the platform port)`;
  const platform = await openSocketTransport(name, { host, port }, timeoutMs, signalFraming);
  try {
    for (const signal of [SIGNAL_POWER_ON, SIGNAL_NV_ON]) await platform.send(number(signal));
  } finally {
    await platform.close();
  }
}

const commandFraming: Framing = {
  frame: (command) =>
    Buffer.concat([number(SEND_COMMAND), Buffer.from([LOCALITY]), number(command.length), command]),
  newCollector: (name) => new FramedResponseCollector(name),
  farewell: number(SESSION_END),
};

const signalFraming: Framing = {
  frame: (signal) => signal,
  newCollector: (name) => new AcknowledgementCollector(name),
  farewell: number(SESSION_END),
};

/** Size, response, and a zero. */
class FramedResponseCollector implements Collector {
  readonly #name: string;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(name: string) {
    this.#name = name;
  }

  get received(): number {
    return this.#bytes.length;
  }

  add(piece: Buffer): Buffer | undefined {
    this.#bytes = Buffer.concat([this.#bytes, piece]);
    if (this.#bytes.length < NUMBER_BYTES) return undefined;
    const size = this.#bytes.readUInt32BE(0);
    if (size === 0) {
      throw new IotdmError(
        'tpm-unavailable.not-started',
        `${this.#name} answers nothing: it is switched off`,
        { effect: 'refused' },
      );
    }
    if (size < RESPONSE_HEADER_BYTES || size > MAX_RESPONSE_BYTES) throw wrongProtocol(this.#name);
    const end = NUMBER_BYTES + size;
    announcedLength(this.#name, this.#bytes.subarray(NUMBER_BYTES, end));
    if (this.#bytes.length < end + NUMBER_BYTES) return undefined;
    if (this.#bytes.length > end + NUMBER_BYTES || this.#bytes.readUInt32BE(end) !== 0) {
      throw wrongProtocol(this.#name);
    }
    return checkWholeResponse(this.#name, this.#bytes.subarray(NUMBER_BYTES, end));
  }
}

/** The zero with which a signal is acknowledged. */
class AcknowledgementCollector implements Collector {
  readonly #name: string;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(name: string) {
    this.#name = name;
  }

  get received(): number {
    return this.#bytes.length;
  }

  add(piece: Buffer): Buffer | undefined {
    this.#bytes = Buffer.concat([this.#bytes, piece]);
    if (this.#bytes.length < NUMBER_BYTES) return undefined;
    if (this.#bytes.length > NUMBER_BYTES || this.#bytes.readUInt32BE(0) !== 0) {
      throw wrongProtocol(this.#name);
    }
    return this.#bytes;
  }
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(NUMBER_BYTES);
  bytes.writeUInt32BE(value);
  return bytes;
}

function wrongProtocol(name: string): IotdmError {
  return new IotdmError(
    'tpm-unavailable.protocol',
    `${name} does not speak the protocol of Microsoft's TPM simulator`,
  );
}
