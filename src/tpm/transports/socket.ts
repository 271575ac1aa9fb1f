/** swtpm's raw command port, over TCP or a UNIX socket. */
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { IotdmError, systemErrorCode } from '../../errors.ts';
import type { TpmTransport } from '../transport.ts';
import { StreamExchange } from './stream.ts';

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
): Promise<TpmTransport> {
  const socket = await connected(name, address);
  const exchange = new StreamExchange(name, timeoutMs);
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
        return await exchange.send(socket, command);
      } catch (error) {
        socket.destroy();
        throw error;
      }
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
        socket.end();
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
