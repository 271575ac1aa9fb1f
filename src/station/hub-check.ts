/** Whether the IoT Hub of a device accepts an identity, asked before that identity replaces another one. */
import { setTimeout as wait } from 'node:timers/promises';
import { IotdmError } from '../errors.ts';
import { lookForMessage } from '../hub/device-hub.ts';
import type { HubOptions } from '../hub/hub-request.ts';
import type { DeviceIdentity } from '../slot/device-identity.ts';
import { encodedResource, formatSignature, signedText } from '../slot/shared-access-signature.ts';
import type { HubCheck } from './registration.ts';

export interface HubCheckOptions {
  readonly hub: (identity: DeviceIdentity) => Promise<HubOptions> | HubOptions;
  /** Unix seconds. */
  readonly now: () => number;
  /** A hub that cannot be reached is a failure, too. */
  readonly required: boolean;
  /** Told why the hub could not be asked, where that is no failure. */
  readonly onUnasked: (error: IotdmError) => void;
  /** Replaces the wait between attempts, in tests. */
  readonly delay?: (ms: number) => Promise<unknown>;
}

/** Long enough for a hub whose clock is not ours. */
const TOKEN_LIFETIME_S = 300;

/** A hub may take a moment to know what DPS has just given it. */
const WAITS_MS: readonly number[] = [1000, 2000];

export function hubCheck({ hub, now, required, onUnasked, delay = wait }: HubCheckOptions): HubCheck {
  return async (identity, sign) => {
    const ask = async (): Promise<void> => {
      const resource = encodedResource(identity);
      const expiry = now() + TOKEN_LIFETIME_S;
      const token = formatSignature(resource, expiry, await sign(signedText(resource, expiry)));
      await lookForMessage(await hub(identity), identity, token);
    };
    for (let attempt = 0; ; attempt += 1) {
      try {
        await ask();
        return true;
      } catch (error) {
        if (!(error instanceof IotdmError)) throw error;
        const waitMs = WAITS_MS[attempt];
        if (mayBeTooEarly(error) && waitMs !== undefined) {
          await delay(waitMs);
          continue;
        }
        if (required || !error.code.startsWith('network.')) throw error;
        onUnasked(error);
        return false;
      }
    }
  };
}

function mayBeTooEarly({ code }: IotdmError): boolean {
  return code === 'auth.refused' || code === 'service.not-found';
}
