/** What came of provisioning a device, for a file that outlasts the station: names and times, never a secret. */
import type { ErrorCode } from '../../errors.ts';
import type { ModuleReport } from './work.ts';
import type { StepReport } from './steps.ts';

export interface ProvisioningRecord {
  readonly schema: 1;
  readonly result: 'pass' | 'fail';
  readonly serialNumber: string | null;
  /** Null where the TPM was not read. */
  readonly registrationId: string | null;
  readonly deviceId: string | null;
  readonly assignedHub: string | null;
  readonly slot: number;
  /** Name of the slot's key, hex. */
  readonly keyName: string | null;
  readonly modules: readonly ModuleReport[];
  /** True only where the certificate was verified and is genuine; null where nothing was verified. */
  readonly ekVerified: boolean | null;
  /** Whether the device id and the key were compared with those of other enrollments; null where none was given. */
  readonly identityCompared: boolean | null;
  /** A hub has taken what the TPM signed. */
  readonly proved: boolean;
  readonly steps: readonly StepReport[];
  readonly error: { readonly code: ErrorCode; readonly message: string } | null;
  readonly station: string | null;
  readonly operator: string | null;
  readonly lot: string | null;
  readonly tags: Readonly<Record<string, string>>;
  /** ISO 8601, UTC. */
  readonly provisionedAt: string;
  /** Name and version of the program that wrote the record. */
  readonly tool: string;
}

/** Whether two records say the same of the device itself, so that the later one is not needed. */
export function saysTheSame(earlier: ProvisioningRecord, later: ProvisioningRecord): boolean {
  const facts = (record: ProvisioningRecord): string => {
    const { result, serialNumber, registrationId, deviceId, assignedHub, slot, keyName, ekVerified, proved } =
      record;
    const modules = record.modules.map(({ moduleId, slot: at, keyName: name }) => [moduleId, at, name]);
    return JSON.stringify([
      [result, serialNumber, registrationId, deviceId, assignedHub, slot, keyName, ekVerified, proved],
      modules,
    ]);
  };
  return later.result === 'pass' && facts(earlier) === facts(later);
}
