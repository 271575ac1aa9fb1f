/** The enrollment of the device: created, or brought to what it should be; never taken from another TPM. */
import type { Enrollment, StoredEnrollment } from '../../dps/enrollment.ts';
import type { ProvisioningService } from '../../dps/service.ts';
import { IotdmError } from '../../errors.ts';
import type { ClaimKind } from '../../records/identity-log.ts';
import { holdsSameKey, mergeEnrollment } from '../enrollment-merge.ts';
import { givesIdentity, type Writing } from '../identity-facts.ts';
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
        error.details?.['otherRegistrationId'] === undefined &&
        (error.code === 'service.conflict' || error.code === 'service.changed-meanwhile');
      if (!isRace || attempt === ATTEMPTS) throw error;
    }
  }
}

async function bring(
  service: ProvisioningService,
  stored: StoredEnrollment | undefined,
  wanted: Enrollment,
  work: Work,
): Promise<StepOutcome> {
  const { dryRun } = work.job;
  if (stored === undefined) {
    const remark = await guarded(work, 'create', { enrollment: wanted }, () => service.create(wanted));
    return dryRun
      ? { status: 'planned', detail: `would enroll ${wanted.registrationId}${remark}` }
      : { status: 'done', detail: `enrolled${remark}` };
  }
  const { enrollment, unchanged } = mergeEnrollment(stored, wanted);
  if (unchanged) return { status: 'unchanged', detail: 'enrolled already' };
  const remark = await guarded(work, 'update', { enrollment, stored }, async () => {
    const { registrationState } = stored;
    const written = await service.replace(enrollment, stored.etag);
    // Writing an enrollment takes no registration away, whatever the answer shows.
    return { ...(registrationState === undefined ? {} : { registrationState }), ...written };
  });
  return dryRun
    ? { status: 'planned', detail: `would update the enrollment${remark}` }
    : { status: 'done', detail: `enrollment updated${remark}` };
}

/**
 * Writes, on a dry run only looks, unless another enrollment has what this one would get.
 * @returns what there is to say of the comparison
 */
async function guarded(
  { job: { budget, dryRun }, parts, found }: Work,
  kind: ClaimKind,
  writing: Writing,
  write: () => Promise<StoredEnrollment>,
): Promise<string> {
  const isGiving = givesIdentity(writing);
  const index = isGiving ? await parts.index?.() : undefined;
  if (isGiving) found.identityCompared = index?.isComparing === true;
  if (dryRun) await budget.within(index?.refuse(writing) ?? Promise.resolve());
  else found.stored = await budget.within(index?.guard(kind, writing, write) ?? write());
  return found.identityCompared === false ? ', not compared with other enrollments' : '';
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
