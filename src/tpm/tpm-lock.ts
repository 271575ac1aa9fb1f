/**
 * Holds a TPM for one iotdm at a time while it changes what the TPM keeps: a change to a slot is several TPM commands,
 * and nobody else's may come between them. Other programs do not know of it, and neither do other state directories.
 */
import { createHash } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { IotdmError } from '../errors.ts';
import { takeProcessLock, type Holder, type ProcessLock } from '../process-lock.ts';
import { makeStateDirectory } from '../state-directory.ts';
import type { Tcti } from './tcti.ts';

export interface TpmLockOptions {
  /** State directory; made where there is none. */
  readonly dir: string;
  readonly tcti: Tcti | undefined;
  /** How long to wait for another process, in milliseconds. */
  readonly waitMs: number;
  /** What this process does, for whoever finds the TPM held: such as `iotdm slot write`. */
  readonly command: string;
  readonly since: Date;
  readonly signal?: AbortSignal;
  /** Called once where it has to wait. */
  readonly onWait?: (holder: Holder) => void;
  readonly platform?: NodeJS.Platform;
}

const POLL_MS = 100;

/**
 * @throws IotdmError `tpm-unavailable.busy` naming the process that holds it, `usage.output-unwritable` where the
 * directory cannot be written, `interrupted.signal`
 */
export async function holdTpm(options: TpmLockOptions): Promise<ProcessLock> {
  const { dir, tcti, waitMs, command, since, signal, onWait, platform = process.platform } = options;
  makeStateDirectory(dir);
  const name = `${lockName(tcti, platform)}.lock`;
  const began = performance.now();
  for (let attempt = 0; ; attempt += 1) {
    const taken = takeProcessLock(dir, name, { command, since: since.toISOString() });
    if ('release' in taken) return taken;
    if (performance.now() - began >= waitMs) throw busy(taken, join(dir, name));
    if (attempt === 0) onWait?.(taken);
    await delay(POLL_MS, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
    if (signal?.aborted === true) throw new IotdmError('interrupted.signal', 'interrupted');
  }
}

function busy({ pid, notes }: Holder, lock: string): IotdmError {
  // What another process wrote is shown as far as it has the form of what iotdm writes.
  const command = typeof notes['command'] === 'string' && /^iotdm(?: [a-z-]+){0,3}$/.test(notes['command']);
  const since = typeof notes['since'] === 'string' && /^[0-9TZ:.+-]{1,40}$/.test(notes['since']);
  const { machine } = notes;
  const isElsewhere =
    typeof machine === 'string' && machine !== hostname() && /^[A-Za-z0-9._-]{1,255}$/.test(machine);
  const shown = {
    pid,
    ...(isElsewhere ? { machine, lock } : {}),
    ...(command ? { command: notes['command'] } : {}),
    ...(since ? { since: notes['since'] } : {}),
  };
  const what = command ? `${String(notes['command'])}, process ${pid}` : `process ${pid}`;
  const where = isElsewhere ? ` on ${machine}` : '';
  const when = since ? `, since ${String(notes['since'])}` : '';
  return new IotdmError(
    'tpm-unavailable.busy',
    `another iotdm is changing this TPM (${what}${where}${when})`,
    {
      details: shown,
    },
  );
}

/**
 * A name for a TPM that is the same however it is reached, as far as that can be told without asking it: `/dev/tpm0` and
 * `/dev/tpmrm0` are one TPM.
 */
export function lockName(tcti: Tcti | undefined, platform: NodeJS.Platform): string {
  switch (tcti?.kind) {
    case undefined:
      return platform === 'win32' ? 'tpm-tbs' : 'tpm-0';
    case 'tbs':
      return 'tpm-tbs';
    case 'device':
      return deviceName(tcti.path);
    case 'swtpm-tcp':
    case 'mssim':
      return `tpm-${digest(`${tcti.host === 'localhost' ? '127.0.0.1' : tcti.host.toLowerCase()}:${tcti.port}`)}`;
    case 'swtpm-unix':
      return `tpm-${digest(resolved(tcti.path))}`;
    case 'command':
      return `tpm-${digest(tcti.command)}`;
  }
}

function deviceName(path: string): string {
  const real = resolved(path);
  const number = /^\/dev\/tpm(?:rm)?([0-9]+)$/.exec(real)?.[1];
  return `tpm-${number ?? digest(real)}`;
}

function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** Paths and commands are long, and a command may name what is none of others' business. */
function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}

/** Whether a file of this name is such a lock. */
export function isTpmLock(name: string): boolean {
  return /^tpm-[0-9a-z]+\.lock$/.test(name);
}
