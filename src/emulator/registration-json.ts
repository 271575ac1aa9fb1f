/** Registrations as the service shows them to devices and to operators. */

import type { Registration } from './device-store.ts';
import { serviceErrorCodes } from './service-error.ts';

export type OperationState = 'assigning' | Registration['outcome'];

/** Whether the operation of a registration is done by now, and how it ended. */
export function operationState({ doneAt, outcome }: Registration, now: Date): OperationState {
  return now.getTime() < doneAt ? 'assigning' : outcome;
}

/** Only a fault makes an assignment fail here. */
const failure = {
  errorCode: serviceErrorCodes.internal,
  errorMessage: 'the emulator was told to fail this assignment',
} as const;

/** Definition DeviceRegistrationState: what operators see. */
export function registrationState(registration: Registration, now: Date): Readonly<Record<string, unknown>> {
  const { registrationId, createdDateTimeUtc, lastUpdatedDateTimeUtc, etag, assignment } = registration;
  const status = operationState(registration, now);
  const assigned = status === 'assigned' ? assignment : undefined;
  return {
    registrationId,
    createdDateTimeUtc,
    ...(assigned === undefined
      ? {}
      : {
          assignedHub: assigned.assignedHub,
          deviceId: assigned.deviceId,
        }),
    status,
    ...(assigned === undefined ? {} : { substatus: assigned.substatus }),
    ...(status === 'failed' ? failure : {}),
    lastUpdatedDateTimeUtc,
    etag,
    ...(assigned?.payload === undefined ? {} : { payload: assigned.payload }),
  };
}

/** Definition DeviceRegistrationResult: the same for the device, with its key or what it has proved. */
export function registrationResult(registration: Registration, now: Date): Readonly<Record<string, unknown>> {
  const state = registrationState(registration, now);
  return { ...(state['status'] === 'assigned' ? attestationResult(registration) : {}), ...state };
}

function attestationResult({ assignment, proof }: Registration): Readonly<Record<string, unknown>> {
  if (proof !== undefined) {
    const { kind, ...told } = proof;
    return { [kind]: told };
  }
  const authenticationKey = assignment?.authenticationKey;
  return authenticationKey === undefined ? {} : { tpm: { authenticationKey } };
}
