/**
 * One device from a bare TPM to an identity that its hub takes. What is there is looked at and left alone where it is
 * right, so that the same again takes up where the last time ended, whatever ended it.
 */
import { because, IotdmError } from '../../errors.ts';
import { redact } from '../../secret.ts';
import { showSlot } from '../../slot/slots.ts';
import { registrationIdOf } from '../../tpm/endorsement-key.ts';
import { readIdentity } from '../harvest.ts';
import { provisionModules } from '../modules.ts';
import { checkTpm } from '../tpm-check.ts';
import { Budget } from './budget.ts';
import { enroll } from './enroll.ts';
import type { ProvisioningRecord } from './provisioning-record.ts';
import { register } from './register.ts';
import { runStep, runSteps, type Step, type StepOutcome, type StepReport } from './steps.ts';
import { Work, type DeviceJob, type LineParts, type ModuleReport } from './work.ts';

export interface DeviceProvisioned {
  readonly registrationId: string | null;
  readonly deviceId: string | null;
  readonly assignedHub: string | null;
  readonly slot: number;
  /** True only where the certificate was verified and is genuine; null where nothing was verified. */
  readonly ekVerified: boolean | null;
  readonly steps: readonly StepReport[];
  readonly serialNumber: string | null;
  readonly modules: readonly ModuleReport[];
  /** Whether the device id and the key were compared with those of other enrollments; null where none was given. */
  readonly identityCompared: boolean | null;
  readonly passed: boolean;
  /** What ended it before its time. */
  readonly failure?: IotdmError;
}

/** @throws what is no IotdmError; everything else is in the result */
export async function provisionDevice(job: DeviceJob, parts: LineParts): Promise<DeviceProvisioned> {
  const work = new Work(job, parts);
  try {
    const steps: readonly Step[] = [
      { name: 'check', run: () => check(work) },
      { name: 'harvest', run: () => harvest(work) },
      { name: 'enroll', run: () => enroll(work) },
      { name: 'register', run: () => register(work) },
      { name: 'modules', run: () => modules(work) },
      { name: 'prove', run: () => prove(work) },
    ];
    const run = await runSteps(steps, job);
    // Also what failed is written down, and also when no time is left for anything else.
    const last: Step = { name: 'record', run: () => record(work, run) };
    const { skip, onEvent } = job;
    const unhurried = { skip, budget: new Budget(), ...(onEvent === undefined ? {} : { onEvent }) };
    const { report, failure } = await runStep(last, unhurried);
    const ended = run.failure ?? failure;
    if (ended === undefined) work.confirmed();
    return {
      ...summary(work),
      steps: [...run.steps, report],
      passed: ended === undefined,
      ...(ended === undefined ? {} : { failure: ended }),
    };
  } finally {
    await work.close();
  }
}

function summary({ job, found }: Work): Omit<DeviceProvisioned, 'steps' | 'passed' | 'failure'> {
  return {
    registrationId: found.registrationId ?? null,
    deviceId: found.deviceId,
    assignedHub: found.assignedHub,
    slot: job.slot,
    ekVerified: found.ekVerified,
    serialNumber: job.labels.serialNumber,
    modules: found.modules,
    identityCompared: found.identityCompared,
  };
}

async function check(work: Work): Promise<StepOutcome> {
  const { tpm, recovery } = await work.held();
  const slots = [work.job.slot, ...work.job.modules.map(({ slot }) => slot)];
  const { checks } = await checkTpm(() => Promise.resolve(tpm), { slots, recovery });
  const first = checks.find(({ status }) => status === 'fail');
  if (first !== undefined) {
    const { id, code = 'internal.unexpected', message, finding, error } = first;
    throw new IotdmError(code, `${id}: ${message}`, {
      ...(error === undefined ? {} : { cause: error }),
      details: { ...error?.details, check: id, ...(finding === undefined ? {} : { finding }) },
    });
  }
  const warnings = checks.filter(({ status }) => status === 'warn').map(({ id }) => id);
  const known = warnings.length === 0 ? '' : ` (to know: ${warnings.join(', ')})`;
  return { status: 'unchanged', detail: `fit for DPS${known}` };
}

async function harvest(work: Work): Promise<StepOutcome> {
  const { job, parts, found } = work;
  const { tpm } = await work.held();
  const { judge } = parts;
  const identity = await readIdentity({
    tpm,
    labels: job.labels,
    now: parts.now(),
    tool: parts.tool,
    // Whoever registers by an SDK later finds this key, and not one that it would make itself.
    keepKey: !job.dryRun && !job.skip.has('register'),
    ...(judge === undefined
      ? {}
      : {
          judge: (key, certificate) => {
            // Also a device that is refused has a name.
            work.identified(key.publicArea.toString('base64'), registrationIdOf(key.publicArea));
            return judge(key, certificate);
          },
        }),
  });
  work.identified(identity.endorsementKey, identity.registrationId);
  found.verdict = identity.ekVerdict;
  found.ekVerified = identity.ekVerdict === null ? null : identity.ekVerdict === 'genuine';
  const verdict = identity.ekVerdict === null ? '' : `, EK ${identity.ekVerdict}`;
  if (job.dryRun) return { status: 'planned', detail: `would record ${identity.registrationId}${verdict}` };
  const { repeated, line, repaired } = await work.part('harvested')(identity);
  work.confirmed();
  const mended = repaired ? '; a line that was cut short has been mended' : '';
  return repeated
    ? { status: 'unchanged', detail: `recorded earlier, line ${line}${verdict}` }
    : { status: 'done', detail: `recorded, line ${line}${verdict}${mended}` };
}

async function modules(work: Work): Promise<StepOutcome> {
  const { job, parts, found } = work;
  const names = job.modules.map(({ moduleId }) => moduleId).join(', ');
  if (job.modules.length === 0) return { status: 'skipped', detail: 'no module was asked for' };
  if (job.dryRun) return { status: 'planned', detail: `would provision ${names}` };
  await deviceInSlot(work);
  const { tpm, recovery } = await work.held();
  const { modules: outcomes } = await provisionModules({
    slots: { tpm, recovery },
    deviceSlot: job.slot,
    modules: job.modules,
    overwrite: job.overwrite,
    hub: await work.part('modules')(job.budget.end),
    now: parts.now,
  });
  found.modules = outcomes.map(({ moduleId, slot, status, keyName }) => ({
    moduleId,
    slot,
    status,
    keyName,
  }));
  const [failed, ...others] = outcomes.filter(({ error }) => error !== undefined);
  if (failed?.error !== undefined) {
    const more = others.length === 0 ? '' : ` (and ${others.length} more)`;
    const { code, message, details } = failed.error;
    throw new IotdmError(code, `module ${failed.moduleId}${more}: ${message}`, {
      cause: failed.error,
      ...(details === undefined ? {} : { details }),
    });
  }
  const isUnchanged = outcomes.every(({ status }) => status === 'unchanged');
  return isUnchanged
    ? { status: 'unchanged', detail: `${names}: in place` }
    : { status: 'done', detail: `${names}: in place` };
}

/** The last word is the hub's: it takes what the TPM signs with the keys in its slots. */
async function prove(work: Work): Promise<StepOutcome> {
  const { job, found } = work;
  if (job.dryRun) return { status: 'planned', detail: 'would ask the hub' };
  const device = await deviceInSlot(work);
  if (!found.isProved) {
    job.budget.check(['prove']);
    await work.askHubAbout(job.slot, device, { patient: true });
    found.isProved = true;
  }
  for (const { moduleId, slot } of job.skip.has('modules') ? [] : job.modules) {
    job.budget.check(['prove']);
    await work.askHubAbout(slot, { ...device, moduleId }, { patient: true });
  }
  const count = found.modules.length;
  const also = count === 0 ? '' : ` and of ${count === 1 ? 'its module' : `its ${count} modules`}`;
  return { status: 'done', detail: `${device.hostName} takes the token of ${device.deviceId}${also}` };
}

/** Who the device is now: what registration has found, or what stands in its slot where that is left out. */
async function deviceInSlot(work: Work): Promise<{ hostName: string; deviceId: string; moduleId: null }> {
  const { found, job } = work;
  if (found.assignedHub !== null && found.deviceId !== null) {
    return { hostName: found.assignedHub, deviceId: found.deviceId, moduleId: null };
  }
  const { tpm, recovery } = await work.held();
  const view = await showSlot(tpm, job.slot, recovery);
  if (view.state !== 'ready' || view.hostName === null || view.deviceId === null) {
    throw new IotdmError('tpm.slot-empty', `slot ${job.slot} holds no identity`, {
      details: { slot: job.slot, state: view.state },
    });
  }
  const { deviceId } = job.labels;
  if (view.moduleId !== null || (deviceId !== null && deviceId !== view.deviceId)) {
    throw new IotdmError(
      'verify.slot',
      `slot ${job.slot} holds ${view.uri ?? ''}, and not the identity of ${deviceId ?? 'a device'}`,
      {
        details: because('other-identity', { slot: job.slot }),
      },
    );
  }
  found.assignedHub = view.hostName;
  found.deviceId = view.deviceId;
  found.keyName = view.keyName;
  return { hostName: view.hostName, deviceId: view.deviceId, moduleId: null };
}

async function record(
  work: Work,
  { steps, failure }: { readonly steps: readonly StepReport[]; readonly failure?: IotdmError },
): Promise<StepOutcome> {
  const { job, parts, found } = work;
  if (parts.record === undefined) return { status: 'skipped', detail: 'no record file was named' };
  if (job.dryRun) return { status: 'planned', detail: 'would record what came of it' };
  const { station, operator, lot, tags } = job.labels;
  const entry: ProvisioningRecord = {
    schema: 1,
    result: failure === undefined ? 'pass' : 'fail',
    ...summary(work),
    keyName: found.keyName,
    proved: found.isProved,
    steps,
    error: failure === undefined ? null : { code: failure.code, message: redact(failure.message) },
    station,
    operator,
    lot,
    tags,
    provisionedAt: parts.now().toISOString(),
    tool: parts.tool,
  };
  const isNew = await parts.record(entry);
  return isNew ? { status: 'done', detail: 'recorded' } : { status: 'unchanged', detail: 'recorded earlier' };
}
