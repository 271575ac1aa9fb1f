/**
 * The port to a TPM: bytes of one command out, bytes of its response back. Everything above it is the same for a chip,
 * a simulator and a device at the far end of a pipe.
 */
import { IotdmError } from '../errors.ts';

export interface TpmTransport {
  /** What to call this TPM in messages, such as `/dev/tpmrm0` or `127.0.0.1:2321`. */
  readonly name: string;
  /**
   * Sends one whole command and resolves with its one whole response, header included.
   * Commands are sent one at a time. After a rejection the transport is dead: the response may still be on its way.
   * @throws IotdmError `tpm-unavailable.*`; with effect `none` where the TPM was handed nothing of the command
   */
  send(command: Buffer): Promise<Buffer>;
  /** Ends the command under way, and the transport, with this error. Absent where a command cannot be called back. */
  abandon?(error: IotdmError): void;
  /** Releases the connection; sends nothing to the TPM. */
  close(): Promise<void>;
}

/** TPM 2.0 Library, Part 1, section 18.6: tag, size and response code. */
export const RESPONSE_HEADER_BYTES = 10;

/** Larger than any response of a TPM 2.0 (MAX_RESPONSE_SIZE is 4096 in the reference code). */
export const MAX_RESPONSE_BYTES = 16384;

/** TPM_ST_RSP_COMMAND, the tag with which a TPM 1.2 answers a 2.0 command. */
const TAG_TPM12_RESPONSE = 0x00c4;
const TAG_NO_SESSIONS = 0x8001;
const TAG_SESSIONS = 0x8002;

/**
 * The length that a response's header announces, or undefined while the header is not complete.
 * @throws IotdmError `tpm-unavailable.protocol` when the bytes cannot be a TPM's response
 */
export function announcedLength(name: string, bytes: Buffer): number | undefined {
  if (bytes.length < RESPONSE_HEADER_BYTES) return undefined;
  const tag = bytes.readUInt16BE(0);
  const length = bytes.readUInt32BE(2);
  if (tag === TAG_TPM12_RESPONSE) {
    throw new IotdmError('tpm-unavailable.not-tpm2', `${name} answers like a TPM 1.2`, { effect: 'refused' });
  }
  if (
    (tag !== TAG_NO_SESSIONS && tag !== TAG_SESSIONS) ||
    length < RESPONSE_HEADER_BYTES ||
    length > MAX_RESPONSE_BYTES
  ) {
    throw new IotdmError('tpm-unavailable.protocol', `${name} does not answer like a TPM 2.0`, {
      effect: 'unknown',
    });
  }
  return length;
}

/**
 * Checks that the bytes are exactly one response.
 * @throws IotdmError `tpm-unavailable.protocol`
 */
export function checkWholeResponse(name: string, bytes: Buffer): Buffer {
  const length = announcedLength(name, bytes);
  if (length !== bytes.length) {
    throw new IotdmError(
      'tpm-unavailable.protocol',
      `${name} answered ${bytes.length} bytes where its header announces ${length ?? 'more'}`,
      { effect: 'unknown' },
    );
  }
  return bytes;
}

/** Puts one response together from the pieces in which a stream delivers it. */
export interface Collector {
  /** Bytes that have arrived so far. */
  readonly received: number;
  /**
   * Adds a piece and returns the response once it is whole.
   * @throws IotdmError `tpm-unavailable.*` on bytes that are no response, or follow one
   */
  add(piece: Buffer): Buffer | undefined;
}

/** A response with nothing around it. */
export class ResponseCollector implements Collector {
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
    const length = announcedLength(this.#name, this.#bytes);
    if (length === undefined || this.#bytes.length < length) return undefined;
    return checkWholeResponse(this.#name, this.#bytes);
  }
}

/** The error for a TPM that did not answer in time. */
export function timeoutError(name: string, milliseconds: number, received = 0): IotdmError {
  const what = received === 0 ? 'did not answer' : `answered only ${received} bytes`;
  return new IotdmError('tpm-unavailable.timeout', `${name} ${what} within ${milliseconds / 1000} s`, {
    effect: 'unknown',
  });
}

/**
 * The result of an exchange that cannot be called back, unless it outlasts the time limit: then it runs on unheeded.
 * @throws IotdmError `tpm-unavailable.timeout`
 */
export async function withTimeLimit<T>(name: string, milliseconds: number, exchange: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(timeoutError(name, milliseconds));
    }, milliseconds);
  });
  try {
    return await Promise.race([exchange, limit]);
  } finally {
    clearTimeout(timer);
  }
}
