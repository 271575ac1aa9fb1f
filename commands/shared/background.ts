/** Runs this very iotdm again in the background, and returns once it says that it is ready. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { IotdmError, isErrorCode, type ErrorDetails } from '../../src/errors.ts';
import type { Host } from './context.ts';

const READY_TIMEOUT_MS = 15_000;

/** What a background process tells the one that started it, over Node.js's IPC channel. */
export type BackgroundMessage = { readonly ready: unknown } | { readonly failed: BackgroundFailure };

/** What its hint depends on as well. */
export interface BackgroundFailure {
  readonly code: string;
  readonly message: string;
  readonly details?: ErrorDetails | undefined;
}

/**
 * @param args the command line of the process in the background
 * @param dir its state directory, where its log goes
 * @returns what it said when it was ready
 * @throws IotdmError with the code and message of its failure
 */
export async function startInBackground(host: Host, args: readonly string[], dir: string): Promise<unknown> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const log = openSync(join(dir, 'log'), 'a', 0o600);
  const [program = process.execPath, ...first] = host.self;
  const child = spawn(program, [...first, ...args], {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
    env: { ...host.environment },
  });
  closeSync(log);
  try {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        child.kill();
        reject(new IotdmError('internal.unexpected', `it did not get ready; see ${join(dir, 'log')}`));
      }, READY_TIMEOUT_MS);
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        act();
      };
      child.once('error', (cause) => {
        settle(() => {
          reject(new IotdmError('internal.unexpected', 'it could not be started', { cause }));
        });
      });
      child.once('exit', () => {
        settle(() => {
          reject(new IotdmError('internal.unexpected', `it ended at once; see ${join(dir, 'log')}`));
        });
      });
      child.once('message', (message: BackgroundMessage) => {
        settle(() => {
          if ('ready' in message) resolve(message.ready);
          else reject(asError(message.failed));
        });
      });
    });
  } finally {
    child.removeAllListeners();
    if (child.connected) child.disconnect();
    child.unref();
  }
}

function asError({ code, message, details }: BackgroundFailure): IotdmError {
  return new IotdmError(isErrorCode(code) ? code : 'internal.unexpected', message, { details });
}
