/** Changes one enrollment: what is named becomes what it is to be, everything else stays as the service has it. */
import { allocationProblem, type Enrollment, type StoredEnrollment } from '../dps/enrollment.ts';
import { anyEtag, isSameVersion } from '../dps/etag.ts';
import type { ProvisioningService } from '../dps/service.ts';
import { IotdmError } from '../errors.ts';
import { registrationIdOf } from '../tpm/endorsement-key.ts';
import { holdsSameKey, mergeEnrollment } from './enrollment-merge.ts';

export interface EnrollmentUpdate {
  /** What is named; its registration id does not count. A null in its twin removes what stands there. */
  readonly values: Enrollment;
  /** Whether the endorsement key of the values is meant: otherwise it does not count either. */
  readonly namesKey: boolean;
  /** Hands the enrollment over to another TPM, which is refused without. */
  readonly replaceKey: boolean;
  /** Only where the enrollment is still the one with this ETag. */
  readonly ifMatch?: string;
}

export interface PlannedUpdate {
  readonly stored: StoredEnrollment;
  /** The whole enrollment to write, with the ETag of the stored one: nobody else's change is lost. */
  readonly enrollment: Enrollment;
  readonly unchanged: boolean;
  /**
   * The id under which the new TPM asks for its identity of its own accord, where the enrollment has the one of the
   * old TPM.
   */
  readonly expectedId: string | undefined;
}

/**
 * Reads the enrollment and says what is to be written; writes nothing.
 * @throws IotdmError `usage.invalid` for an allocation that could not work with what is there already;
 * `service.not-found`, `service.changed-meanwhile`; `service.key-differs` for another endorsement
 * key without `replaceKey`, `service.conflict` where that key is enrolled elsewhere, `service.not-tpm`
 */
export async function planUpdate(
  service: ProvisioningService,
  registrationId: string,
  update: EnrollmentUpdate,
): Promise<PlannedUpdate> {
  const { values, namesKey, replaceKey, ifMatch } = update;
  const details = { registrationId };
  const stored = await service.find(registrationId);
  if (stored === undefined) {
    const message = `${registrationId} is not enrolled at ${service.host}`;
    throw new IotdmError('service.not-found', message, { details });
  }
  if (ifMatch !== undefined && ifMatch !== anyEtag && !isSameVersion(ifMatch, stored.etag)) {
    const message = `${registrationId} has the ETag ${stored.etag}, not the given one`;
    throw new IotdmError('service.changed-meanwhile', message, { details });
  }
  // Keys of other kinds of attestation are not even read from the service: to write it would take them away.
  if (stored.attestation.type !== 'tpm') {
    const message = `${registrationId} proves itself by ${stored.attestation.type}, not by a TPM`;
    throw new IotdmError('service.not-tpm', message, { details });
  }
  const { enrollment, unchanged } = mergeEnrollment(stored, values);
  if (namesAllocation(values)) refuseUnusableAllocation(enrollment);
  if (!namesKey || holdsSameKey(stored, values)) {
    return { stored, enrollment, unchanged, expectedId: undefined };
  }
  if (!replaceKey) {
    const message = `${registrationId} is the enrollment of another endorsement key, that is, of another TPM`;
    throw new IotdmError('service.key-differs', message, { details });
  }
  const derivedId = await refuseEnrolledElsewhere(service, registrationId, values);
  const hadDerivedId = derivedIdOf(stored.attestation.tpm?.endorsementKey) === registrationId;
  return {
    stored,
    // Without the storage root key, which was the old TPM's.
    enrollment: { ...enrollment, attestation: values.attestation },
    unchanged: false,
    expectedId: hadDerivedId && derivedId !== registrationId ? derivedId : undefined,
  };
}

/** @returns the id that follows from the key */
async function refuseEnrolledElsewhere(
  service: ProvisioningService,
  registrationId: string,
  values: Enrollment,
): Promise<string> {
  const derivedId = derivedIdOf(values.attestation.tpm.endorsementKey);
  if (derivedId === registrationId) return derivedId;
  const other = await service.find(derivedId);
  if (other === undefined || !holdsSameKey(other, values)) return derivedId;
  const message = `that endorsement key is enrolled as ${derivedId} already`;
  throw new IotdmError('service.conflict', message, { details: { registrationId: derivedId } });
}

function namesAllocation(values: Enrollment): boolean {
  const { allocationPolicy, iotHubHostName, iotHubs, customAllocationDefinition } = values;
  return (allocationPolicy ?? iotHubHostName ?? iotHubs ?? customAllocationDefinition) !== undefined;
}

function refuseUnusableAllocation(enrollment: Enrollment): void {
  const problem = allocationProblem(enrollment);
  if (problem === undefined) return;
  const { field, problem: message } = problem;
  throw new IotdmError('usage.invalid', `${field}: ${message}`, { details: { field } });
}

function derivedIdOf(endorsementKey = ''): string {
  return registrationIdOf(Buffer.from(endorsementKey, 'base64'));
}
