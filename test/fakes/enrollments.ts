/** Enrollments for tests: number N has the synthetic endorsement key N. */

import type { Enrollment } from '../../src/dps/enrollment.ts';
import { syntheticEndorsementKey } from './endorsement-keys.ts';

export function fakeEnrollment(number: number, more: Partial<Enrollment> = {}): Enrollment {
  return {
    registrationId: `device-${String(number).padStart(4, '0')}`,
    attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(number) } },
    ...more,
  };
}
