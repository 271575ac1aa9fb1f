/** The emulator's state directory, and a lock so that one process uses it. */

import { because, IotdmError } from '../errors.ts';
import { holderOfLock, takeProcessLock, type Holder, type ProcessLock } from '../process-lock.ts';

export {
  makeStateDirectory,
  readState,
  removeDrafts,
  writePublicState,
  writeState,
} from '../state-directory.ts';

const lockFile = 'lock';

/**
 * Holds the directory for this process until `release()`.
 * @param notes what others may want to know about the holder; it is forgotten with the lock
 * @throws IotdmError `input.locked` naming the process that holds it
 */
export function lockStateDirectory(dir: string, notes: Readonly<Record<string, unknown>> = {}): ProcessLock {
  const taken = takeProcessLock(dir, lockFile, notes);
  if ('release' in taken) return taken;
  throw new IotdmError('input.locked', `an emulator runs in ${dir} already (process ${taken.pid})`, {
    details: because('emulator-runs', { dir, pid: taken.pid }),
  });
}

/** The living process that holds the directory, or undefined when none does. @throws IotdmError `input.unreadable` */
export function holderOf(dir: string): Holder | undefined {
  return holderOfLock(dir, lockFile);
}
