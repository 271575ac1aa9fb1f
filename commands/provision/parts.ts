/** What the line works with: the real TPM, service, hub and files, each opened when its step asks for it. */
import { IotdmError } from '../../src/errors.ts';
import type { HarvestLabels } from '../../src/station/harvest.ts';
import { Budget } from '../../src/station/provision/budget.ts';
import type { IdentityIndex } from '../../src/station/identity-index.ts';
import type { DeviceProvisioned } from '../../src/station/provision/device.ts';
import type { StepEvent } from '../../src/station/provision/steps.ts';
import type { LineParts } from '../../src/station/provision/work.ts';
import type { RegistrationJob } from '../../src/station/registration.ts';
import type { Tcti } from '../../src/tpm/tcti.ts';
import type { Tpm } from '../../src/tpm/tpm.ts';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import type { Progress } from '../shared/console.ts';
import type { Context } from '../shared/context.ts';
import { hubAddress, hubCheckOf } from '../shared/hub.ts';
import { registrationPlan } from '../shared/registration.ts';
import { enforce, readRoots } from '../shared/trust.ts';
import type { ProvisionOptions, ProvisionPlan } from './plan.ts';

export interface Device {
  /** Undefined for the machine's own. */
  readonly tcti: Tcti | undefined;
  /** In traces. */
  readonly label: string;
  readonly labels: HarvestLabels;
  readonly onEvent?: (event: StepEvent) => void;
  /** Where progress is shown already. */
  readonly progress?: Pick<Progress, 'update'>;
}

export interface Line {
  /** @throws IotdmError what is not this device's own fault, see `provisionDevice` */
  provision(device: Device): Promise<DeviceProvisioned>;
  /** To be called at the end. */
  close(): Promise<void>;
}

/** As long as a registration may take by itself. */
const REGISTRATION_LIMIT_MS = 300_000;

/** @throws IotdmError `usage.*`, `input.*`; no TPM and no network is touched */
export async function openLine(
  context: Context,
  plan: ProvisionPlan,
  options: ProvisionOptions,
  known: Pick<LineParts, 'recognize' | 'remember'> = {},
): Promise<Line> {
  const [{ provisionDevice }, { RegistrationRecords }] = await Promise.all([
    import('../../src/station/provision/device.ts'),
    import('../../src/station/registration-records.ts'),
  ]);
  const { skip } = plan;
  const { host, settings } = context;
  const records = new RegistrationRecords(context.stateDirectory);
  const shared: Omit<LineParts, 'openTpm' | 'registration'> = {
    ...(await judging(context, plan)),
    ...known,
    ...(await recording(plan)),
    ...(skip.has('enroll') ? {} : { service: () => context.openService() }),
    ...(await hubParts(context, plan)),
    records,
    now: host.clock,
    tool: host.tool,
  };
  const others = skip.has('enroll') ? undefined : await comparison(context);
  const dps = skip.has('register') ? undefined : await registrationPlan(context, options);
  return {
    close: async () => {
      await others?.close();
    },
    provision: async (device) => {
      // Of the station's time, and not of this device's.
      const index = await others?.prepared(device.progress);
      let tpm: Tpm | undefined;
      const parts: LineParts = {
        ...shared,
        ...(index === undefined ? {} : { index }),
        openTpm: async () => {
          const held = await context.openDevice(device.tcti, device.label);
          tpm = held.tpm;
          return held;
        },
        ...(dps === undefined ? {} : registering(context, dps, records)),
      };
      const stepOf = new StepTrace(context, device.label, () => tpm?.commandsSent.length ?? 0);
      return provisionDevice(
        {
          labels: device.labels,
          ...(dps?.registrationId === undefined ? {} : { registrationId: dps.registrationId }),
          slot: plan.slot,
          modules: plan.modules,
          overwrite: plan.overwrite,
          dryRun: settings.dryRun,
          skip,
          budget: new Budget(plan.budgetSeconds),
          signal: host.signal,
          onEvent: (event) => {
            stepOf.see(event);
            device.onEvent?.(event);
          },
        },
        parts,
      );
    },
  };
}

/** The comparison with other enrollments, for all devices of the line. */
async function comparison(context: Context): Promise<
  | {
      /** Brought up to date where it has to be. What hinders that is the failure of a device that needs it. */
      prepared(progress?: Pick<Progress, 'update'>): Promise<() => Promise<IdentityIndex>>;
      close(): Promise<void>;
    }
  | undefined
> {
  const service = await context.openService();
  const { openIdentityIndex, prepareIndex } = await import('../shared/identity-index.ts');
  const index = await openIdentityIndex(context, service);
  if (index === undefined) return undefined;
  return {
    prepared: async (progress) => {
      try {
        await prepareIndex(context, index, service.host, progress);
        return () => Promise.resolve(index);
      } catch (error) {
        const failure = error instanceof Error ? error : new Error(String(error));
        return () => Promise.reject(failure);
      }
    },
    close: () => index.close(),
  };
}

async function judging(
  context: Context,
  { verify, roots, skip }: ProvisionPlan,
): Promise<Pick<LineParts, 'judge'>> {
  if (verify === 'off' || skip.has('harvest')) return {};
  const trusted = await readRoots(context, roots);
  const { assessForKey } = await import('../../src/station/endorsement.ts');
  return {
    judge: (key, certificate) => {
      const assessment = assessForKey(key, certificate, { trusted, now: context.host.clock() });
      enforce(assessment, verify, context, `the EK of ${registrationIdOf(key.publicArea)}`);
      return assessment.verdict;
    },
  };
}

async function recording({
  manifest,
  record,
  skip,
}: ProvisionPlan): Promise<Pick<LineParts, 'harvested' | 'record'>> {
  const [{ appendRecord }, { appendOutcome }, { saysTheSame }, { OneAtATime }] = await Promise.all([
    import('../../src/records/manifest.ts'),
    import('../../src/records/outcome-log.ts'),
    import('../../src/station/provision/provisioning-record.ts'),
    import('../../src/one-at-a-time.ts'),
  ]);
  const [harvests, outcomes] = [new OneAtATime(), new OneAtATime()];
  return {
    ...(manifest === undefined || skip.has('harvest')
      ? {}
      : { harvested: (identity) => harvests.run(() => appendRecord(manifest, identity)) }),
    ...(record === undefined || skip.has('record')
      ? {}
      : {
          record: (entry) =>
            outcomes.run(() =>
              appendOutcome(record, {
                entry,
                subject: entry.registrationId ?? entry.serialNumber ?? '',
                isNeedless: (last) => saysTheSame(last, entry),
              }),
            ),
        }),
  };
}

async function hubParts(
  context: Context,
  { hubHost, skip }: ProvisionPlan,
): Promise<Pick<LineParts, 'askHub' | 'modules' | 'hubCheck'>> {
  const [{ lookForMessage }, { readOrCreateModule }, hub] = await Promise.all([
    import('../../src/hub/device-hub.ts'),
    import('../../src/hub/module-identities.ts'),
    hubAddress(context, hubHost),
  ]);
  const until = (end: AbortSignal | undefined): { readonly signal: AbortSignal } => ({
    signal: end === undefined ? context.host.signal : AbortSignal.any([context.host.signal, end]),
  });
  return {
    modules: (end) =>
      Promise.resolve({
        moduleIdentity: async (device, moduleId, token) =>
          readOrCreateModule({ ...(await hub(device)), ...until(end) }, device.deviceId, moduleId, token),
      }),
    ...(skip.has('prove')
      ? {}
      : {
          askHub: async (identity, token, end) => {
            await lookForMessage({ ...(await hub(identity)), ...until(end) }, identity, token);
          },
          ...(await hubCheckOf(context, hubHost === undefined ? {} : { hubHost })),
        }),
  };
}

function registering(
  context: Context,
  dps: RegistrationJob['dps'],
  records: RegistrationJob['records'],
): Required<Pick<LineParts, 'registration'>> {
  return {
    registration: {
      idScope: dps.idScope,
      register: async ({ leftMs, registrationId, ...job }) => {
        const { registerDevice } = await import('../../src/station/registration.ts');
        return registerDevice({
          ...job,
          records,
          dps: {
            ...dps,
            ...(registrationId === undefined ? {} : { registrationId }),
            deadlineMs: Math.max(1, Math.min(leftMs, dps.deadlineMs ?? REGISTRATION_LIMIT_MS)),
          },
          now: context.host.clock,
          onEvent: (event) => {
            if (event.kind === 'clock-off') {
              const off = `${Math.abs(event.seconds)} s ${event.seconds < 0 ? 'behind' : 'ahead of'}`;
              context.console.warn(
                `the clock of this machine is ${off} the service's: its tokens may be refused`,
              );
            } else if (event.kind === 'repeating') {
              context.console.detail(`asking again in ${event.waitMs} ms: ${event.code}`);
            }
          },
        });
      },
    },
  };
}

/** Says with -v what each step cost the TPM. */
class StepTrace {
  readonly #context: Context;
  readonly #label: string;
  readonly #sent: () => number;
  #before = 0;

  constructor(context: Context, label: string, sent: () => number) {
    this.#context = context;
    this.#label = label;
    this.#sent = sent;
  }

  see(event: StepEvent): void {
    if (event.kind === 'begun') this.#before = this.#sent();
    else if (event.status !== 'skipped') {
      const commands = this.#sent() - this.#before;
      this.#context.console.detail(
        `${this.#label}: ${event.step}: ${commands} TPM commands, ${event.elapsedMs} ms; ${event.detail}`,
      );
    }
  }
}

/** A failure that a dry run, too, would meet is one of the station's own. */
export function asError(failure: IotdmError | undefined): IotdmError {
  return failure ?? new IotdmError('internal.unexpected', 'the device did not pass, and nobody knows why');
}
