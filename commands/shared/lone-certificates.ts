/** What `ek verify` does with certificates whose device is not there. */
import type { CertificateCheckName, LoneAssessment } from '../../src/trust/verdict.ts';
import type { TrustedCertificates } from '../../src/trust/roots.ts';
import type { Context } from './context.ts';
import { CommandError } from './failure.ts';
import type { TrustPolicy } from './line-settings.ts';
import { count, table } from './verb.ts';

export interface LoneCertificate extends Omit<LoneAssessment, 'key'> {
  readonly file: string;
  /** The DPS value of the key, and the registration id that follows from it; null where DPS takes no such key. */
  readonly endorsementKey: string | null;
  readonly registrationId: string | null;
  readonly checked: readonly CertificateCheckName[];
  /** No TPM was asked. */
  readonly proved: null;
}

const MAX_CERTIFICATE_FILE_BYTES = 4 * 1024 * 1024;

/** More than these are not named in an error or in warnings. */
const NAMED = 10;

/** Judges every EK certificate in the files, each by itself; the certificates of authorities beside them are no EK's. */
export async function judgeLoneCertificates(
  context: Context,
  files: readonly string[],
  trusted: TrustedCertificates,
): Promise<LoneCertificate[]> {
  const [
    { CertificateJudge },
    { certificatesInFile },
    { parseCertificate },
    { EK_PUBLIC_PREFIX, registrationIdOf },
  ] = await Promise.all([
    import('../../src/trust/verdict.ts'),
    import('../../src/trust/certificate-file.ts'),
    import('../../src/trust/certificate.ts'),
    import('../../src/tpm/endorsement-key.ts'),
  ]);
  const judge = new CertificateJudge(trusted, context.host.clock());
  const isAuthority = (der: Buffer): boolean => {
    try {
      return parseCertificate(der).basicConstraints?.ca === true;
    } catch {
      return false;
    }
  };
  const judged: LoneCertificate[] = [];
  for (const file of files) {
    const bytes = await context.readInput(file, 'the EK certificate', MAX_CERTIFICATE_FILE_BYTES);
    const items = certificatesInFile(bytes);
    const ders = items.flatMap((item) => ('der' in item ? [item.der] : []));
    const ekCertificates = ders.filter((der) => !isAuthority(der));
    const [problem] = items.flatMap((item) => ('problem' in item ? [item.problem] : []));
    if (ders.length === 0) judged.push(withoutCertificate(file, problem ?? 'there is no certificate in it'));
    for (const der of ekCertificates.length === 0 ? ders.slice(0, 1) : ekCertificates) {
      const { key, ...assessment } = judge.judgeAlone(der);
      const isUsable = key !== null && assessment.checked.includes('key');
      const endorsementKey = isUsable ? Buffer.concat([EK_PUBLIC_PREFIX, key.modulus]) : undefined;
      judged.push({
        ...assessment,
        file,
        endorsementKey: endorsementKey?.toString('base64') ?? null,
        registrationId: endorsementKey === undefined ? null : registrationIdOf(endorsementKey),
        proved: null,
      });
    }
  }
  return judged;
}

function withoutCertificate(file: string, reason: string): LoneCertificate {
  return {
    verdict: 'no-certificate',
    reason,
    manufacturer: null,
    model: null,
    version: null,
    issuer: null,
    serialNumber: null,
    chain: [],
    checked: [],
    file,
    endorsementKey: null,
    registrationId: null,
    proved: null,
  };
}

export function isInOrder({ verdict }: LoneCertificate): boolean {
  return verdict === 'device-not-checked';
}

/**
 * Ends the command, warns or says nothing of those that are not in order.
 * @throws IotdmError `verify.ek`
 */
export function enforceLone(
  certificates: readonly LoneCertificate[],
  policy: TrustPolicy,
  context: Context,
): void {
  const faulty = certificates.filter((one) => !isInOrder(one));
  const [first] = faulty;
  if (first === undefined || policy === 'off') return;
  const named = faulty
    .slice(0, NAMED)
    .map(({ file, verdict, reason }) => `${file} is not verified (${verdict}): ${reason}`);
  if (faulty.length > named.length) named.push(`${faulty.length - named.length} more are not verified`);
  if (policy === 'warn') {
    for (const line of named) context.console.warn(line);
    return;
  }
  const message =
    certificates.length === 1
      ? `the certificate in ${named[0] ?? ''}`
      : `${faulty.length} of ${count(certificates.length, 'certificate')} are not verified: ${named[0] ?? ''}`;
  const { verdict, reason } = first;
  throw new CommandError(
    'verify.ek',
    message,
    verdict === 'no-certificate'
      ? 'look at it with: openssl x509 -text -noout -in FILE'
      : "give the certificates of the TPM's vendor, root and intermediates, with --roots; do not enroll a TPM whose certificate is not verified",
    { verdict, reason, failed: faulty.length, total: certificates.length },
  );
}

/** One certificate in full, several in a line each. */
export function describeLone(
  certificates: readonly LoneCertificate[],
  { console: { style } }: Context,
): string {
  const [only, ...others] = certificates;
  if (only !== undefined && others.length === 0) {
    const { verdict, reason, manufacturer, model, version, issuer, serialNumber, chain, checked } = only;
    const heading = isInOrder(only)
      ? `${style.green('✔')} Certificate verified, device not checked: ${reason}.`
      : `${style.red('✘')} Not verified: ${reason}.`;
    return `${heading}\n${table([
      ['Verdict', verdict],
      ['File', only.file],
      ['Registration id', only.registrationId ?? '-'],
      ['Manufacturer', manufacturer ?? '-'],
      ['Model', model ?? '-'],
      ['Version', version ?? '-'],
      ['Issuer', issuer ?? '-'],
      ['Serial number', serialNumber ?? '-'],
      ...chain.map(({ subject, serialNumber: number }, index): readonly [string, string] => [
        index === 0 ? 'Chain' : '',
        subject === '' ? `(no subject, serial number ${number})` : subject,
      ]),
      ['Checked', `${checked.length === 0 ? 'nothing' : checked.join(', ')}; not the device`],
    ])}`;
  }
  const lines = certificates.map((one) =>
    isInOrder(one)
      ? `${style.green('✔')} ${one.file}: ${one.registrationId ?? '-'}\n`
      : `${style.red('✘')} ${one.file}: ${one.reason} (${one.verdict})\n`,
  );
  const good = certificates.filter(isInOrder).length;
  return `${lines.join('')}${good} of ${count(certificates.length, 'certificate')} verified by themselves; no device was checked.\n`;
}
