/** A TPM behind a socket: swtpm's raw command port, over TCP or UNIX, or a protocol that frames the commands. */
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { IotdmError, systemErrorCode } from '../../errors.ts';
import { ResponseCollector, type Collector, type TpmTransport } from '../transport.ts';
import { StreamExchange } from './stream.ts';

/** How commands and responses travel on the socket. */
export interface Framing {
  /** The bytes to write for a command. */
  frame(command: Buffer): Buffer;
  /** What takes an answer out of its frame again. */
  newCollector(name: string): Collector;
  /** Written before a connection is closed; empty for none. */
  readonly farewell: Buffer;
}

const raw: Framing = {
  frame: (command) => command,
  newCollector: (name) => new ResponseCollector(name),
  farewell: Buffer.alloc(0),
};

/** How long connecting may take; a listening simulator on any bench answers far sooner. */
const CONNECT_TIMEOUT_MS = 5000;

/**
 * @param name what to call the TPM in messages
 * @param timeoutMs time limit of one command
 * @throws IotdmError `tpm-unavailable.connection`, `tpm-unavailable.permission`
 */
export async function openSocketTransport(
  name: string,
  address: NetConnectOpts,
  timeoutMs: number,
  framing: Framing = raw,
): Promise<TpmTransport> {
  const socket = await connected(name, address);
  const exchange = new StreamExchange(name, timeoutMs, () => framing.newCollector(name));
  socket.setNoDelay(true);
  socket.on('data', (bytes: Buffer) => {
    exchange.receive(bytes);
  });
  socket.on('error', (error) => {
    exchange.fail(lost(name, error));
  });
  socket.on('close', () => {
    exchange.fail(lost(name));
  });
  return {
    name,
    send: async (command) => {
      try {
        return await exchange.send(socket, framing.frame(command));
      } catch (error) {
        socket.destroy();
        throw error;
      }
    },
    abandon: (error) => {
      exchange.fail(error);
    },
    close: () =>
      new Promise((resolve) => {
        if (socket.destroyed) {
          resolve();
          return;
        }
        // swtpm serves one client at a time: wait until it has seen this one leave.
        socket.once('close', () => {
          resolve();
        });
        socket.end(framing.farewell);
        setTimeout(() => {
          socket.destroy();
        }, 500).unref();
      }),
  };
}

function connected(name: string, address: NetConnectOpts): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(address);
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new IotdmError('tpm-unavailable.connection', `${name} does not accept connections`));
    }, CONNECT_TIMEOUT_MS);
    const failed = (error: Error): void => {
      clearTimeout(timer);
      socket.destroy();
      const code = systemErrorCode(error);
      const kind =
        code === 'EACCES' || code === 'EPERM' ? 'tpm-unavailable.permission' : 'tpm-unavailable.connection';
      reject(
        new IotdmError(kind, `cannot connect to a TPM at ${name} (${code ?? error.message})`, {
          cause: error,
        }),
      );
    };
    socket.once('error', failed);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', failed);
      resolve(socket);
    });
  });
}

function lost(name: string, cause?: Error): IotdmError {
  const reason = cause === undefined ? '' : ` (${systemErrorCode(cause) ?? cause.message})`;
  return new IotdmError('tpm-unavailable.connection', `${name} closed the connection${reason}`, { cause });
}
