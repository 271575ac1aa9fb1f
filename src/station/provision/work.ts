/** One device on the line: what is to be done with it, what the station does it with, and what is known so far. */
import { setTimeout as wait } from 'node:timers/promises';
import type { StoredEnrollment } from '../../dps/enrollment.ts';
import type { ProvisioningService } from '../../dps/service.ts';
import { IotdmError } from '../../errors.ts';
import type { AppendedRecord, HarvestedIdentity } from '../../records/manifest.ts';
import type { DeviceIdentity } from '../../slot/device-identity.ts';
import { showSlot, slotToken, type RecoveryStore, type SlotView } from '../../slot/slots.ts';
import { registrationIdOf } from '../../tpm/endorsement-key.ts';
import type { PrimaryKey, Tpm } from '../../tpm/tpm.ts';
import type { ModuleSlot } from '../agent-config.ts';
import type { HarvestLabels } from '../harvest.ts';
import type { IdentityIndex } from '../identity-index.ts';
import type { ModuleHub, ModuleStatus } from '../modules.ts';
import {
  takeUpRegistration,
  type HubCheck,
  type RegistrationJob,
  type RegistrationOutcome,
} from '../registration.ts';
import type { RegistrationRecords } from '../registration-records.ts';
import type { Budget } from './budget.ts';
import { claim, type Claim, type ClaimFacts } from './claim.ts';
import type { ProvisioningRecord } from './provisioning-record.ts';
import type { StepEvent, StepName } from './steps.ts';

export interface DeviceJob {
  /** What the station knows of the device; `deviceId` is the one that it is to have in IoT Hub. */
  readonly labels: HarvestLabels;
  /** Where the enrollment has an id of its own; else that of the EK. */
  readonly registrationId?: string;
  readonly slot: number;
  readonly modules: readonly ModuleSlot[];
  /** Replace what the slots hold. */
  readonly overwrite: boolean;
  /** Look, and say what would be done. */
  readonly dryRun: boolean;
  readonly skip: ReadonlySet<StepName>;
  readonly budget: Budget;
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: StepEvent) => void;
}

/** A TPM for one device at a time, held against other processes. */
export interface HeldTpm {
  readonly tpm: Tpm;
  readonly recovery: RecoveryStore;
  close(): Promise<void>;
}

/** What the station works with. A part whose step is skipped may be absent. */
export interface LineParts {
  /** Connects anew. */
  readonly openTpm: () => Promise<HeldTpm>;
  /** Judges the EK certificate. @returns the verdict, such as `genuine` @throws IotdmError where it will not do */
  readonly judge?: (key: PrimaryKey, certificate: Buffer | null) => string;
  /** Whether this serial number may belong to this TPM, as far as the station has seen others. @throws IotdmError */
  readonly recognize?: (serialNumber: string | null, registrationId: string) => void;
  /** They belong together: the manifest has taken them, or, where none is kept, the device has passed. */
  readonly remember?: (serialNumber: string | null, registrationId: string) => void;
  /** Into the manifest, on disk when it returns. */
  readonly harvested?: (identity: HarvestedIdentity) => Promise<AppendedRecord>;
  readonly service?: () => Promise<ProvisioningService>;
  /** What other enrollments have. Absent where nothing is to be compared with them. */
  readonly index?: () => Promise<IdentityIndex>;
  readonly registration?: {
    readonly idScope: string;
    readonly register: (
      job: Pick<RegistrationJob, 'slots' | 'slot' | 'overwrite' | 'hubCheck'> & {
        readonly registrationId?: string;
        /** Milliseconds; Infinity for as long as it usually may take. */
        readonly leftMs: number;
      },
    ) => Promise<RegistrationOutcome>;
  };
  readonly records: RegistrationRecords;
  readonly modules?: (end?: AbortSignal) => Promise<ModuleHub>;
  /** Whether the hub takes this token. @throws IotdmError `auth.refused`, `service.not-found`, and what else hinders */
  readonly askHub?: (
    identity: DeviceIdentity,
    sharedAccessSignature: string,
    end?: AbortSignal,
  ) => Promise<void>;
  /** Has the hub judge an identity before it replaces another one. */
  readonly hubCheck?: HubCheck;
  /** Writes down what came of it. @returns false where it stood there already */
  readonly record?: (record: ProvisioningRecord) => Promise<boolean>;
  readonly now: () => Date;
  /** Name and version of this program. */
  readonly tool: string;
}

export interface ModuleReport {
  readonly moduleId: string;
  readonly slot: number;
  readonly status: ModuleStatus;
  /** Name of the slot's key, hex. */
  readonly keyName: string | null;
}

/** What the steps find out, for those behind them and for the result. */
export interface Findings {
  ekVerified: boolean | null;
  verdict: string | null;
  endorsementKey: string | undefined;
  registrationId: string | undefined;
  /** Null for no enrollment, undefined where the service was not asked. */
  stored: StoredEnrollment | null | undefined;
  /** Whether the device id and the key were compared with those of other enrollments; null where none was given. */
  identityCompared: boolean | null;
  deviceId: string | null;
  assignedHub: string | null;
  keyName: string | null;
  modules: readonly ModuleReport[];
  /** The hub has taken a token of the device's slot as it stands now. */
  isProved: boolean;
}

/** Long enough for a hub whose clock is not ours. */
const TOKEN_LIFETIME_S = 300;

const WAITS_MS: readonly number[] = [500, 1500];

/** The hub does not know the device, or not with this key. */
export function isHubRefusal(error: unknown): boolean {
  return error instanceof IotdmError && (error.code === 'auth.refused' || error.code === 'service.not-found');
}

export class Work {
  readonly job: DeviceJob;
  readonly parts: LineParts;
  readonly found: Findings = {
    ekVerified: null,
    verdict: null,
    endorsementKey: undefined,
    registrationId: undefined,
    stored: undefined,
    identityCompared: null,
    deviceId: null,
    assignedHub: null,
    keyName: null,
    modules: [],
    isProved: false,
  };
  #held: HeldTpm | undefined;
  /** The registration id that follows from the EK, whichever the enrollment has. */
  #derivedId: string | undefined;
  #view: SlotView | undefined;
  #slot: { readonly view: SlotView; readonly facts: ClaimFacts; readonly claim: Claim } | undefined;

  constructor(job: DeviceJob, parts: LineParts) {
    this.job = job;
    this.parts = parts;
  }

  /** @throws IotdmError `tpm-unavailable.*` */
  async held(): Promise<HeldTpm> {
    this.#held ??= await this.parts.openTpm();
    return this.#held;
  }

  /** What the TPM's EK makes of the device; read once. */
  async identity(): Promise<{ readonly endorsementKey: string; readonly registrationId: string }> {
    const { found } = this;
    if (found.endorsementKey === undefined || found.registrationId === undefined) {
      const { tpm } = await this.held();
      const { publicArea } = await tpm.readEndorsementKey();
      this.identified(publicArea.toString('base64'), registrationIdOf(publicArea));
    }
    return { endorsementKey: found.endorsementKey ?? '', registrationId: found.registrationId ?? '' };
  }

  /** @throws what `recognize` throws */
  identified(endorsementKey: string, derivedId: string): void {
    this.found.endorsementKey = endorsementKey;
    this.found.registrationId = this.job.registrationId ?? derivedId;
    this.#derivedId = derivedId;
    this.parts.recognize?.(this.job.labels.serialNumber, derivedId);
  }

  /** The device is the one of its serial number. */
  confirmed(): void {
    if (this.#derivedId === undefined || this.job.dryRun) return;
    this.parts.remember?.(this.job.labels.serialNumber, this.#derivedId);
  }

  /**
   * What stands in the device's slot, looked at once, and whose that is: by what is known of the enrollment now, which may
   * be otherwise than when it was asked first.
   * @throws IotdmError as `claim` does
   */
  async claimSlot(): Promise<{ readonly view: SlotView; readonly facts: ClaimFacts; readonly claim: Claim }> {
    const { job, parts, found } = this;
    if (this.#slot === undefined || this.#slot.facts.stored !== found.stored) {
      const { registrationId } = await this.identity();
      const view = (this.#view ??= await this.#lookAtSlot());
      const facts: ClaimFacts = {
        view,
        registrationId,
        idScope: parts.registration?.idScope,
        deviceId: job.labels.deviceId ?? undefined,
        record: view.keyName === null ? undefined : parts.records.find(job.slot, view.keyName),
        stored: found.stored,
        overwrite: job.overwrite,
      };
      this.#slot = { view, facts, claim: claim(facts) };
    }
    return this.#slot;
  }

  async #lookAtSlot(): Promise<SlotView> {
    const { job, parts } = this;
    const { tpm, recovery } = await this.held();
    const view = await showSlot(tpm, job.slot, recovery);
    if (view.interrupted === null || job.dryRun) return view;
    await takeUpRegistration({ slots: { tpm, recovery }, slot: job.slot, records: parts.records });
    return showSlot(tpm, job.slot, recovery);
  }

  /**
   * Has the hub judge what stands in a slot.
   * @param patient it may be new to the hub, which then takes a moment to know it
   * @throws IotdmError as `askHub` does
   */
  async askHubAbout(slot: number, identity: DeviceIdentity, { patient = false } = {}): Promise<void> {
    const { tpm, recovery } = await this.held();
    const { budget } = this.job;
    const askHub = this.part('askHub');
    const expiry = Math.floor(this.parts.now().getTime() / 1000) + TOKEN_LIFETIME_S;
    const { sharedAccessSignature } = await slotToken(tpm, slot, expiry, recovery);
    for (const waitMs of [...(patient ? WAITS_MS : []), 0]) {
      try {
        await budget.within(askHub(identity, sharedAccessSignature, budget.end));
        return;
      } catch (error) {
        if (waitMs === 0 || !isHubRefusal(error)) throw error;
        await budget.within(wait(waitMs));
      }
    }
  }

  /** A part that its step cannot be taken without. */
  part<Name extends keyof LineParts>(name: Name): NonNullable<LineParts[Name]> {
    const part = this.parts[name];
    if (part === undefined) {
      throw new IotdmError('internal.unexpected', `the line has no ${name}, and its step is not left out`);
    }
    return part;
  }

  async close(): Promise<void> {
    await this.#held?.close();
  }
}
