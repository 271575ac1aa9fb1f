/** Whether an emulator runs on a state directory, and how to end it. */

import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { because, IotdmError, systemErrorCode } from '../errors.ts';
import type { KnobReport } from './knobs.ts';
import { holderOf, readState, removeDrafts } from './state-directory.ts';

/** Parts that are absent, as all are while it does not run, are null. */
export interface EmulatorStatus {
  readonly running: boolean;
  /** DPS service host, `host:port`. */
  readonly host: string | null;
  /** Where devices register, `host:port`. */
  readonly deviceHost: string | null;
  readonly idScope: string | null;
  /** File with the service's connection string. */
  readonly connectionStringFile: string | null;
  /** File with the PEM certificate to trust. */
  readonly ca: string | null;
  readonly dir: string;
  readonly pid: number | null;
  /** Where all hubs answer that devices are assigned to, `host:port`. */
  readonly hubHost: string | null;
  /** Name of the hub that devices are assigned to whose enrollments name none. */
  readonly hub: string | null;
  /** What makes it misbehave; null when nothing does. */
  readonly knobs: KnobReport | null;
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
  const holder = holderOf(dir);
  const recorded = /^HostName=([^;]+);/.exec(readState(dir, 'service-connection-string') ?? '')?.[1];
  const isRunning = holder !== undefined && recorded !== undefined;
  const { port, devicePort, hubPort, idScope, hub } = isRunning ? settingsIn(dir) : {};
  const address = (port: unknown): string | null => (typeof port === 'number' ? `127.0.0.1:${port}` : null);
  const text = (value: unknown): string | null => (typeof value === 'string' ? value : null);
  return {
    running: isRunning,
    // With the port of HTTPS, the connection string has none.
    host: isRunning ? (address(port) ?? recorded) : null,
    deviceHost: address(devicePort),
    idScope: text(idScope),
    connectionStringFile: isRunning ? join(dir, 'service-connection-string') : null,
    ca: isRunning ? join(dir, 'ca.pem') : null,
    dir,
    pid: isRunning ? holder.pid : null,
    hubHost: address(hubPort),
    hub: text(hub),
    knobs: isRunning ? knobsIn(holder.notes) : null,
  };
}

/** What the running emulator has recorded; one of an earlier version records less. */
function settingsIn(dir: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(readState(dir, 'emulator.json') ?? '{}') as Readonly<Record<string, unknown>>;
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

/** The knobs as the running emulator wrote them into its lock. */
function knobsIn({ knobs }: Readonly<Record<string, unknown>>): KnobReport | null {
  return typeof knobs === 'object' ? (knobs as KnobReport | null) : null;
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
        throw new IotdmError('input.locked', `the emulator (process ${pid}) does not end`, {
          details: because('emulator-hangs', { pid }),
        });
      }
      await delay(POLL_MS);
    }
  }
  if (wipe) {
    const logs = ['enrollments.ndjson', 'enrollment-groups.ndjson', 'devices.ndjson'].flatMap((log) => [
      log,
      `${log}.new`,
    ]);
    for (const file of [...stateFiles, ...logs, 'lock', 'log']) {
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
    throw new IotdmError('input.locked', `the emulator (process ${pid}) belongs to another user`, {
      cause,
      details: because('emulator-of-another', { pid }),
    });
  }
}
