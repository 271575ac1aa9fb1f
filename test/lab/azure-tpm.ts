/** What Azure's security client needs for a TPM of ours. */
import tss from 'tss.js';
import type { TpmTransport } from '../../src/tpm/transport.ts';

/** tss.js's own Tpm over a transport of ours. */
export function azureTpm(transport: TpmTransport): tss.Tpm {
  const tpm = new tss.Tpm(true);
  const device = {
    connect: (continuation: (error: null) => void) => setImmediate(continuation, null),
    dispatchCommand: (command: Buffer, continuation: (error: unknown, response: Buffer | null) => void) => {
      transport.send(command).then(
        (response) => {
          continuation(null, response);
        },
        (error: unknown) => {
          continuation(error, null);
        },
      );
    },
    close: () => undefined,
  };
  return Object.assign(tpm, { device });
}

/** A function with a callback, as Azure's and Microsoft's libraries have them, as a promise. */
export function promised<T>(start: (done: (error?: Error | null, result?: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, result) => {
      if (error) reject(error);
      else resolve(result as T);
    });
  });
}
