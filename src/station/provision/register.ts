/** The registration of the device with DPS, unless the slot holds what came of an earlier one and the hub takes it. */
import type { DeviceIdentity } from '../../slot/device-identity.ts';
import { isAssigned, notThisDevices } from './claim.ts';
import type { StepOutcome } from './steps.ts';
import { isHubRefusal, type Work } from './work.ts';

/** @throws IotdmError `tpm.*`, `verify.*`, `service.*`, `auth.*`, `network.*` */
export async function register(work: Work): Promise<StepOutcome> {
  const { job, found } = work;
  const { hubCheck } = work.parts;
  const { view, facts, claim } = await work.claimSlot();
  const standing: DeviceIdentity | undefined =
    view.state === 'ready' && view.hostName !== null && view.deviceId !== null
      ? { hostName: view.hostName, deviceId: view.deviceId, moduleId: null }
      : undefined;
  if ((claim === 'ours' || claim === 'named') && standing !== undefined) {
    if (await holds(work, standing)) {
      found.deviceId = standing.deviceId;
      found.assignedHub = standing.hostName;
      found.keyName = view.keyName;
      const proof = found.isProved ? ', and the hub takes its token' : '';
      return { status: 'unchanged', detail: `slot ${job.slot} holds ${view.uri ?? ''}${proof}` };
    }
    // A name alone is no title to what stands there.
    if (claim === 'named' && !job.overwrite) throw notThisDevices(facts);
  }
  if (job.dryRun) return { status: 'planned', detail: `would register, and write slot ${job.slot}` };
  job.budget.check(['register']);
  const { tpm, recovery } = await work.held();
  const outcome = await work.part('registration').register({
    slots: { tpm, recovery },
    slot: job.slot,
    // Whose identity stands there has been judged: with what the service says too.
    overwrite: claim !== 'empty',
    leftMs: job.budget.leftMs,
    ...(claim === 'replace' && hubCheck !== undefined ? { hubCheck } : {}),
    ...(job.registrationId === undefined ? {} : { registrationId: job.registrationId }),
  });
  found.deviceId = outcome.deviceId;
  found.assignedHub = outcome.assignedHub;
  found.keyName = outcome.keyName;
  return {
    status: 'done',
    detail: `slot ${job.slot} holds ${outcome.assignedHub}/${outcome.deviceId}${outcome.replaced ? ', replacing what it held' : ''}`,
  };
}

/** Whether the identity in the slot is good as it stands. The hub knows best; where it is not asked, the service. */
async function holds(work: Work, identity: DeviceIdentity): Promise<boolean> {
  const { job, found, parts } = work;
  const { facts, view, claim } = await work.claimSlot();
  if (facts.stored != null && !isAssigned(facts.stored, view) && isAssignedAtAll(facts.stored)) return false;
  if (job.skip.has('prove') || parts.askHub === undefined) {
    return claim === 'ours' && facts.record?.isSuperseded !== true;
  }
  try {
    await work.askHubAbout(job.slot, identity);
    found.isProved = true;
    return true;
  } catch (error) {
    // A registration that was cut off after DPS had answered leaves a key here that the hub has no more.
    if (isHubRefusal(error)) return false;
    throw error;
  }
}

function isAssignedAtAll({ registrationState }: NonNullable<Work['found']['stored']>): boolean {
  return String(registrationState?.['status']).toLowerCase() === 'assigned';
}
