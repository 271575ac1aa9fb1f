/** What an entry of the catalogue of codes says. All texts are sentences without a capital and without a full stop. */

/** What a fix may refer to. */
export interface Situation {
  /** The command as typed, such as `iotdm slot write`. */
  readonly command: string;
  readonly details: Readonly<Record<string, unknown>>;
}

/** What to do, with the command or setting that does it. */
export type Fix = string | ((situation: Situation) => string);

export interface Entry {
  readonly meaning: string;
  /** The likely one, where iotdm is used. */
  readonly cause: string;
  readonly fix: Fix;
}

export const kinds = {
  tpm: 'TPM 2.0 response code',
  tbs: 'Windows TPM Base Services',
  tss: 'TPM software stack (tpm2-tss)',
  errno: 'system error',
  dps: 'Azure service error code',
  http: 'HTTP status of an Azure service',
  iotdm: 'iotdm error code',
  exit: 'iotdm exit code',
} as const;

export type Kind = keyof typeof kinds;

/** A code explained. */
export interface Explanation {
  /** The code in its usual notation: `0x0000018b`, `404201`, `EACCES`, `tpm.lockout`. */
  readonly code: string;
  /** Its name, such as `TPM_RC_HANDLE (handle 1)`. */
  readonly name: string;
  readonly kind: Kind;
  readonly meaning: string;
  readonly cause: string;
  readonly fix: string;
}

/** The fix as text; outside of a failed command there is nothing particular to refer to. */
export function fixText(fix: Fix, situation: Situation = { command: 'iotdm', details: {} }): string {
  return typeof fix === 'string' ? fix : fix(situation);
}
