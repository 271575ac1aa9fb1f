/** The connection string of a device, from a file, stdin or the environment. */
import { IotdmError } from '../../src/errors.ts';
import { parseConnectionString, type DeviceCredentials } from '../../src/slot/device-identity.ts';
import type { Context } from './context.ts';
import { CommandError } from './failure.ts';
import { secretVariables } from './settings.ts';

/**
 * Undefined where none is given.
 * @throws IotdmError `input.invalid`, `input.unreadable`, `usage.secret-in-argv`
 */
export async function readDeviceCredentials(
  context: Context,
  file: string | undefined,
): Promise<DeviceCredentials | undefined> {
  const secret = await context.readSecret(file, secretVariables.connectionString, 'the connection string');
  if (secret === undefined) return undefined;
  try {
    return parseDeviceCredentials(secret.revealText());
  } finally {
    secret.wipe();
  }
}

/** @throws CommandError `input.invalid`, with the form that is expected as its hint */
export function parseDeviceCredentials(connectionString: string): DeviceCredentials {
  try {
    return parseConnectionString(connectionString);
  } catch (error) {
    if (!(error instanceof IotdmError)) throw error;
    throw new CommandError(
      error.code,
      error.message,
      'expected HostName=NAME.azure-devices.net;DeviceId=ID;SharedAccessKey=KEY, as IoT Hub shows it for a device; in a shell between quotes',
    );
  }
}
