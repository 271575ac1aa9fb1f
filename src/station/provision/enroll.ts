/** The enrollment of the device: created, or brought to what it should be; never taken from another TPM. */
import type { Enrollment, StoredEnrollment } from '../../dps/enrollment.ts';
import type { ProvisioningService } from '../../dps/service.ts';
import { IotdmError } from '../../errors.ts';
import { holdsSameKey, mergeEnrollment } from '../enrollment-merge.ts';
import type { StepOutcome } from './steps.ts';
import type { Work } from './work.ts';

/** Somebody else may write the same enrollment at the same time; more than twice in a row is no coincidence. */
const ATTEMPTS = 3;

/** @throws IotdmError `service.*`, `auth.*`, `network.*`; `tpm.slot-*` before anything is changed */
export async function enroll(work: Work): Promise<StepOutcome> {
  const { job, found } = work;
  const { endorsementKey, registrationId } = await work.identity();
  const service = await work.part('service')();
  const { deviceId } = job.labels;
  const wanted: Enrollment = {
    registrationId,
    attestation: { type: 'tpm', tpm: { endorsementKey } },
    ...(deviceId === null ? {} : { deviceId }),
  };
  for (let attempt = 1; ; attempt += 1) {
    const stored = await job.budget.within(service.find(registrationId));
    found.stored = stored ?? null;
    if (stored !== undefined) refuseOtherKey(stored, wanted);
    // Before the service is changed: a slot that holds somebody else's identity ends this.
    await work.claimSlot();
    try {
      return await bring(service, stored, wanted, work);
    } catch (error) {
      const isRace =
        error instanceof IotdmError &&
        (error.code === 'service.conflict' || error.code === 'service.changed-meanwhile');
      if (!isRace || attempt === ATTEMPTS) throw error;
    }
  }
}

async function bring(
  service: ProvisioningService,
  stored: StoredEnrollment | undefined,
  wanted: Enrollment,
  { job, found }: Work,
): Promise<StepOutcome> {
  const { budget, dryRun } = job;
  if (stored === undefined) {
    if (dryRun) return { status: 'planned', detail: `would enroll ${wanted.registrationId}` };
    found.stored = await budget.within(service.create(wanted));
    return { status: 'done', detail: 'enrolled' };
  }
  const { enrollment, unchanged } = mergeEnrollment(stored, wanted);
  if (unchanged) return { status: 'unchanged', detail: 'enrolled already' };
  if (dryRun) return { status: 'planned', detail: 'would update the enrollment' };
  const { registrationState } = stored;
  const written = await budget.within(service.replace(enrollment, stored.etag));
  // Writing an enrollment takes no registration away, whatever the answer shows.
  found.stored = { ...(registrationState === undefined ? {} : { registrationState }), ...written };
  return { status: 'done', detail: 'enrollment updated' };
}

function refuseOtherKey(stored: StoredEnrollment, wanted: Enrollment): void {
  if (holdsSameKey(stored, wanted)) return;
  const { registrationId } = wanted;
  const what =
    stored.attestation.type === 'tpm'
      ? 'with the endorsement key of another TPM'
      : 'without a TPM: its attestation is of another kind';
  throw new IotdmError('service.conflict', `${registrationId} is enrolled ${what}`, {
    details: { registrationId, otherKey: true },
  });
}
