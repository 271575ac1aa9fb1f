/** `--verify` where rows are read: the EK certificates in them are held against trusted vendors before anything is sent. */
import { Option } from 'commander';
import { describeFault, type InputCheck } from '../../src/station/enrollment-input.ts';
import type { CertificateWitness, RowVerification } from '../../src/station/certificate-witness.ts';
import type { Context } from './context.ts';
import { CommandError } from './failure.ts';
import { trustPolicies, type TrustPolicy } from './line-settings.ts';
import { readRoots, rootsOption } from './trust.ts';
import { count } from './verb.ts';

export interface RowVerificationOptions {
  readonly roots?: readonly string[];
  readonly verify?: TrustPolicy;
}

/** Of an import or export, where rows were verified. */
export type Verified<Result> = Result & { readonly verification?: Omit<RowVerification, 'first'> };

export function rowVerificationOptions(): Option[] {
  return [
    new Option(
      '--verify <policy>',
      'verify the EK certificate of every row: refuse the rows that have none or one that is not verified, warn of them, or do not look',
    )
      .choices(trustPolicies)
      .default(undefined, 'require with --roots, else off'),
    rootsOption(),
  ];
}

/**
 * What looks at the certificates, undefined where nobody is to. The line's own policy is not heeded: it is for devices
 * that are there.
 * @throws IotdmError `usage.invalid`, and as `readRoots`
 */
export async function rowWitness(
  context: Context,
  { roots, verify = roots === undefined ? 'off' : 'require' }: RowVerificationOptions,
): Promise<CertificateWitness | undefined> {
  if (verify === 'off') return undefined;
  if ((roots ?? context.settings.line.ekRoots ?? []).length === 0) {
    throw new CommandError(
      'usage.invalid',
      '--verify without certificates to trust',
      'name those of the TPM vendors, roots and intermediates, with --roots FILE or DIR',
    );
  }
  const trusted = await readRoots(context, roots);
  const { CertificateWitness } = await import('../../src/station/certificate-witness.ts');
  return new CertificateWitness(trusted, context.host.clock(), verify);
}

/** Says what a policy of `warn` lets pass: how many rows and why, and the first of them. */
export function warnOfUnverified(context: Context, { verification, rows }: InputCheck): void {
  if (verification?.policy !== 'warn' || verification.notVerified === 0) return;
  const { notVerified, first } = verification;
  context.console.warn(
    `${notVerified} of ${count(rows, 'row')} have no verified EK certificate (${reasonsOf(verification)})`,
  );
  for (const { message, ...place } of first) {
    const fault = {
      ...place,
      message,
      field: 'ekCertificate',
      registrationId: null,
      code: 'verify.ek',
    } as const;
    context.console.warn(describeFault(fault));
  }
  if (notVerified > first.length) context.console.warn(`and ${notVerified - first.length} more of such rows`);
}

/** `100 verified, 3 not (chain 2, dates 1)`. */
export function describeVerification(verification: Omit<RowVerification, 'first'>): string {
  const { verified, notVerified } = verification;
  return `${verified} verified${notVerified === 0 ? '' : `, ${notVerified} not (${reasonsOf(verification)})`}; no device was asked`;
}

/** For a command whose result has no place for it. */
export function noteVerification({ console }: Context, { verification }: InputCheck): void {
  if (verification !== undefined) console.note(`EK certificates: ${describeVerification(verification)}`);
}

function reasonsOf({ reasons }: Pick<RowVerification, 'reasons'>): string {
  return reasons.map(({ for: reason, rows }) => `${reason} ${rows}`).join(', ');
}

/** The result with what was verified, where something was. */
export function withVerification<Result extends object>(
  result: Result,
  { verification }: InputCheck,
): Verified<Result> {
  if (verification === undefined) return result;
  const { policy, verified, notVerified, reasons } = verification;
  return { ...result, verification: { policy, verified, notVerified, reasons } };
}
