/** The exit codes: one for each family of error codes. */
import type { ErrorCode } from '../../src/errors.ts';

/** Also the table of `iotdm help exit-codes` and the README. */
export const exitCodes = [
  [0, 'done', ''],
  [1, 'unexpected: a bug in iotdm', 'internal'],
  [2, 'wrong usage or unusable input file; nothing was touched', 'usage, input'],
  [3, 'no TPM reached, or it is not a TPM 2.0 that will do', 'tpm-unavailable'],
  [4, 'the TPM refused: authorization, lockout, no room, key missing, slot not empty', 'tpm'],
  [5, 'the service refused the credentials', 'auth'],
  [6, 'the service refused the request: conflict, not found, invalid', 'service'],
  [7, 'network, timeout or throttling outlasted the retries: run again later', 'network'],
  [8, 'a batch finished with some rows failed', 'partial'],
  [9, 'verification failed: certificate, proof, signature, manifest', 'verify'],
  [130, 'interrupted', 'interrupted'],
] as const;

export type Family = ErrorCode extends `${infer Name}.${string}` ? Name : never;

const exitCodeOfFamily: Readonly<Record<Family, number>> = {
  internal: 1,
  usage: 2,
  input: 2,
  'tpm-unavailable': 3,
  tpm: 4,
  auth: 5,
  service: 6,
  network: 7,
  partial: 8,
  verify: 9,
  interrupted: 130,
};

export function exitCodeOf(code: ErrorCode): number {
  return exitCodeOfFamily[code.split('.')[0] as Family];
}

/** The exit code of `tpm-unavailable`, or undefined for what is no family. */
export function exitCodeOfName(family: string): number | undefined {
  return Object.hasOwn(exitCodeOfFamily, family) ? exitCodeOfFamily[family as Family] : undefined;
}
