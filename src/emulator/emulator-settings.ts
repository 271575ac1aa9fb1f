/** The emulator's settings in its state directory: where it can be found, and since when it is there. */

import { join } from 'node:path';
import { because, IotdmError } from '../errors.ts';
import { readState } from './state-directory.ts';

export const emulatorSettingsFile = 'emulator.json';

/** What the emulator keeps of its last run. */
export interface EmulatorSettings {
  readonly port: number;
  readonly created: string;
  /** Those of earlier versions have none of these. */
  readonly devicePort?: number;
  readonly hubPort?: number;
  readonly idScope?: string;
}

/** @throws IotdmError `input.invalid` when the file is damaged */
export function recordedSettings(dir: string): EmulatorSettings | undefined {
  const text = readState(dir, emulatorSettingsFile);
  if (text === undefined) return undefined;
  try {
    const { port, devicePort, hubPort, idScope, created } = JSON.parse(text) as Record<string, unknown>;
    const isWhole =
      isPort(port) &&
      typeof created === 'string' &&
      (devicePort === undefined || isPort(devicePort)) &&
      (hubPort === undefined || isPort(hubPort)) &&
      (idScope === undefined || (typeof idScope === 'string' && /^0ne[0-9A-F]{8}$/.test(idScope)));
    if (isWhole) {
      return {
        port,
        created,
        ...(devicePort === undefined ? {} : { devicePort }),
        ...(hubPort === undefined ? {} : { hubPort }),
        ...(idScope === undefined ? {} : { idScope }),
      };
    }
  } catch {
    // Said below.
  }
  throw new IotdmError('input.invalid', `${join(dir, emulatorSettingsFile)} is damaged`, {
    details: because('emulator-state'),
  });
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 && value < 65536;
}
