/**
 * Registration of a device with DPS by TPM attestation, as the rest of iotdm sees it: what it needs of a TPM, what comes of
 * it, and what happens meanwhile.
 */
import { clouds, globalHostOf } from './clouds.ts';
import type { TwinObject } from './enrollment.ts';

/** Where all devices of the public cloud register. */
export const DEFAULT_DEVICE_HOST = globalHostOf(clouds[0]);

/** The portal shows letters and digits; anything else would change the address that is asked. */
const idScopePattern = /^[A-Za-z0-9]{1,64}$/;

/** Why a text is no ID scope, or undefined when it may be one. */
export function idScopeProblem(text: string): string | undefined {
  if (idScopePattern.test(text)) return undefined;
  return 'an ID scope is letters and digits, such as 0ne000A1B2C, as the portal shows it for the service';
}

/**
 * What a registration needs of a TPM. `Key` is a key of that TPM which has not been stored anywhere: DPS gives one for the
 * registration itself, and then the device's own.
 */
export interface AttestingTpm<Key> {
  /** Marshalled TPM2B_PUBLIC of the EK. */
  readonly endorsementKey: Buffer;
  /** Marshalled TPM2B_PUBLIC of the SRK. */
  readonly storageRootKey: Buffer;
  /** Opens what DPS sent. @throws IotdmError `verify.identity-key` where it is not for this TPM or not whole */
  takeOver(blob: Buffer): Promise<Key>;
  /** HMAC-SHA256 by a key that was taken over. */
  sign(key: Key, data: Buffer): Promise<Buffer>;
}

/** What DPS gave to the device. */
export interface Registered<Key> {
  readonly registrationId: string;
  readonly deviceId: string;
  /** Host name of the IoT Hub. */
  readonly assignedHub: string;
  readonly status: 'assigned';
  /** Such as `initialAssignment`; null where the service says none. */
  readonly substatus: string | null;
  /** What a custom allocation has for the device; null where there is none. */
  readonly payload: TwinObject | null;
  /** The device's own. */
  readonly key: Key;
}

export type RegistrationEvent =
  /** DPS knows the registration id, and wants the TPM to prove itself. */
  | { readonly kind: 'challenged' }
  /** The clock of this machine is ahead of the service's by so much; negative where it is behind. */
  | { readonly kind: 'clock-off'; readonly seconds: number }
  /** DPS takes its time. */
  | { readonly kind: 'assigning'; readonly waitMs: number }
  /** The service is throttling or not available, and is asked again. */
  | { readonly kind: 'repeating'; readonly waitMs: number; readonly code: string }
  | { readonly kind: 'assigned'; readonly deviceId: string; readonly assignedHub: string };
