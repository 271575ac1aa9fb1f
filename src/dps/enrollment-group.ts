/**
 * A group of enrollments, as the service shows it (api-version 2026-11-01, definition EnrollmentGroup): devices that
 * share a certificate authority or a symmetric key. iotdm reads groups and writes none.
 */
import type { StoredAttestation, StoredEnrollment } from './enrollment.ts';

/** Members that iotdm does not know are kept. */
export interface EnrollmentGroup extends Omit<
  StoredEnrollment,
  'registrationId' | 'deviceId' | 'attestation' | 'optionalDeviceInformation' | 'registrationState'
> {
  readonly enrollmentGroupId: string;
  /** Without symmetric keys. */
  readonly attestation: StoredAttestation;
}

/** Why a text cannot name a group, or undefined when it can. */
export function groupIdProblem(text: string): string | undefined {
  if (/^[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?$/.test(text)) return undefined;
  return 'a group id is 1 to 128 letters, digits and - . _ : and begins and ends with a letter or digit';
}
