/** What `ek verify` and `harvest` share: which certificates are trusted, and what a verdict leads to. */
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import type { PassedOver, TrustedCertificates } from '../../src/trust/roots.ts';
import type { Verdict } from '../../src/trust/verdict.ts';
import type { Context } from './context.ts';
import type { TrustPolicy } from './line-settings.ts';

export const ROOTS_VARIABLE = 'IOTDM_EK_ROOTS';

export function rootsOption(): Option {
  return new Option(
    '--roots <path>',
    `certificates of TPM vendors to trust: a PEM or DER file, or a directory of them; any number of times [${ROOTS_VARIABLE}]`,
  ).argParser((value: string, before: readonly string[] | undefined) => [...(before ?? []), value]);
}

/** As many lines as anybody reads before the result. */
const SHOWN_PASSED_OVER = 10;

/** In a result, which is read by programs. */
const LISTED_PASSED_OVER = 100;

/** What a result lists of that. */
export function listedPassedOver({ passedOver }: TrustedCertificates): readonly PassedOver[] {
  return passedOver.slice(0, LISTED_PASSED_OVER);
}

/**
 * The certificates that --roots names, else the environment, where the paths are separated as in PATH, else the settings
 * file; nobody's where none names any.
 * @throws IotdmError `input.unreadable`, `input.invalid`
 */
export async function readRoots(
  context: Context,
  paths: readonly string[] | undefined,
): Promise<TrustedCertificates> {
  const { readTrustedCertificates } = await import('../../src/trust/roots.ts');
  const trusted = await readTrustedCertificates(paths ?? context.settings.line.ekRoots ?? []);
  const { passedOver } = trusted;
  for (const { file, reason } of passedOver.slice(0, SHOWN_PASSED_OVER)) {
    context.console.warn(`${file} is passed over: ${reason}`);
  }
  for (const { file, reason } of passedOver.slice(SHOWN_PASSED_OVER)) {
    context.console.detail(`${file} is passed over: ${reason}`);
  }
  if (passedOver.length > SHOWN_PASSED_OVER) {
    const rest = passedOver.length - SHOWN_PASSED_OVER;
    context.console.warn(
      `${rest} more of what --roots names ${rest === 1 ? 'is' : 'are'} passed over: -v says which`,
    );
  }
  const roots = trusted.certificates.filter(({ isRoot }) => isRoot).length;
  context.console.detail(
    `trusting ${roots} root certificates, with ${trusted.certificates.length - roots} intermediate ones`,
  );
  return trusted;
}

/** Ends the command, warns or says nothing. @throws IotdmError `verify.ek` */
export function enforce(
  { verdict, reason }: { readonly verdict: Verdict; readonly reason: string },
  policy: TrustPolicy,
  context: Context,
  subject = 'the EK',
): void {
  if (verdict === 'genuine' || policy === 'off') return;
  const message = `${subject} is not verified (${verdict}): ${reason}`;
  if (policy === 'require') throw new IotdmError('verify.ek', message, { details: { verdict, reason } });
  context.console.warn(message);
}
