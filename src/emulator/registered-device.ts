/** A device that has proved who it is, by whatever attestation: what its registration is made of. */

import type { RegistrationProof } from './device-store.ts';
import type { Members } from './members.ts';

/** By which the hub will know the device again. */
export type HubCredentials =
  { readonly primaryKey: string; readonly secondaryKey: string } | { readonly thumbprint: string };

export interface RegisteredDevice {
  /** As its enrollment has it, or as the device of a group writes it. */
  readonly registrationId: string;
  /** The enrollment, or the group's. */
  readonly content: Members;
  /** Absent for one with a TPM. */
  readonly proof?: RegistrationProof;
  readonly sessionKey?: string;
  readonly credentials: HubCredentials;
  /** The key in the blob for its TPM. */
  readonly authenticationKey?: (uri: string) => string;
  /** Of the request, for the function of a custom allocation. */
  readonly payload?: object | undefined;
}
