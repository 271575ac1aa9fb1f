/** Where iotdm keeps what must outlast a command: locks, and records of changes that were interrupted. */
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import type { Environment } from './settings.ts';

/** Where the platform's programs keep state; on Linux by the XDG Base Directory Specification. */
export function defaultStateDirectory(
  environment: Environment,
  platform: NodeJS.Platform = process.platform,
): string {
  const home = environment['HOME'] ?? homedir();
  const given = (name: string): string | undefined => {
    const value = environment[name];
    // The specification has relative paths ignored.
    return value !== undefined && isAbsolute(value) ? value : undefined;
  };
  switch (platform) {
    case 'win32':
      return join(given('LOCALAPPDATA') ?? join(homedir(), 'AppData', 'Local'), 'iotdm');
    case 'darwin':
      return join(home, 'Library', 'Application Support', 'iotdm');
    default:
      return join(given('XDG_STATE_HOME') ?? join(home, '.local', 'state'), 'iotdm');
  }
}
