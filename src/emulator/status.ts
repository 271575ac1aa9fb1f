/** Whether an emulator runs on a state directory, and how to end it. */

import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { holderOf, readState, removeDrafts } from './state-directory.ts';

/** Parts that are absent, as all are while it does not run, are null. */
export interface EmulatorStatus {
  readonly running: boolean;
  /** DPS service host, `host:port`. */
  readonly host: string | null;
  /** Host for devices. */
  readonly deviceHost: string | null;
  readonly idScope: string | null;
  /** File with the service's connection string. */
  readonly connectionStringFile: string | null;
  /** File with the PEM certificate to trust. */
  readonly ca: string | null;
  readonly dir: string;
  readonly pid: number | null;
}

/** Those that are replaced as a whole. */
const stateFiles = [
  'ca.pem',
  'ca-key.pem',
  'server.pem',
  'server-key.pem',
  'service-connection-string',
  'emulator.json',
];

const STOP_TIMEOUT_MS = 10_000;
const POLL_MS = 20;

/** @throws IotdmError `input.unreadable` */
export function emulatorStatus(directory: string): EmulatorStatus {
  const dir = resolve(directory);
  const pid = holderOf(dir)?.pid;
  const connectionStringFile = join(dir, 'service-connection-string');
  const host = /^HostName=([^;]+);/.exec(readState(dir, 'service-connection-string') ?? '')?.[1];
  const absent = { deviceHost: null, idScope: null };
  if (pid === undefined || host === undefined) {
    return { running: false, host: null, ...absent, connectionStringFile: null, ca: null, dir, pid: null };
  }
  return { running: true, host, ...absent, connectionStringFile, ca: join(dir, 'ca.pem'), dir, pid };
}

/**
 * Ends the emulator and waits until it is gone; does nothing where none runs.
 * @param wipe also delete its state
 * @returns whether one was running
 */
export async function stopEmulator(directory: string, { wipe = false } = {}): Promise<boolean> {
  const dir = resolve(directory);
  const pid = holderOf(dir)?.pid;
  if (pid !== undefined) {
    askToEnd(pid);
    const deadline = Date.now() + STOP_TIMEOUT_MS;
    while (holderOf(dir)?.pid === pid) {
      if (Date.now() > deadline) {
        throw new IotdmError('input.locked', `the emulator (process ${pid}) does not end`);
      }
      await delay(POLL_MS);
    }
  }
  if (wipe) {
    for (const file of [...stateFiles, 'enrollments.ndjson', 'enrollments.ndjson.new', 'lock', 'log']) {
      await rm(join(dir, file), { force: true });
    }
    removeDrafts(dir, [...stateFiles, 'lock']);
  }
  return pid !== undefined;
}

function askToEnd(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM');
  } catch (cause) {
    // It has ended by itself meanwhile.
    if (systemErrorCode(cause) === 'ESRCH') return;
    throw new IotdmError('input.locked', `the emulator (process ${pid}) belongs to another user`, { cause });
  }
}
