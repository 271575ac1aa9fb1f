/** A row that is to be deleted beside what is enrolled under its id: whether it is the enrollment that is meant. */
import { createHash, X509Certificate } from 'node:crypto';
import type { StoredEnrollment } from '../dps/enrollment.ts';
import { isSameVersion } from '../dps/etag.ts';
import { shownText } from '../dps/service-errors.ts';
import type { DeletionTarget } from './enrollment-rows.ts';
import { anotherVersion, type Objection } from './import-comparison.ts';

/**
 * What stands against the deletion, or undefined. All that the row says is compared:
 *
 * - the kind of attestation, whichever it is;
 * - with TPM attestation the endorsement key, byte by byte;
 * - with X.509, each certificate or reference to an authority that the row has: it must be one of those enrolled, in
 *   whichever place. A row without any, such as one of a symmetric key, whose keys are not shown, is compared by its kind;
 * - the etag, unless the deletion is forced: then any version of the same device's enrollment will do.
 *
 * A row that has nothing but a registration id is not compared.
 */
export function deletionObjection(
  { attestation, etag }: DeletionTarget,
  stored: StoredEnrollment,
  force: boolean,
): Objection | undefined {
  const problem = attestation === undefined ? undefined : attestationProblem(attestation, stored.attestation);
  if (problem !== undefined) return { code: 'service.conflict', message: problem };
  return force || etag === undefined || isSameVersion(etag, stored.etag) ? undefined : anotherVersion;
}

/** Of a row without an etag: what was compared is not there any more. */
export const changedSinceCompared: Objection = {
  code: 'service.changed-meanwhile',
  message: 'was changed by somebody else meanwhile: it is not the version that was compared',
};

function attestationProblem(
  row: NonNullable<DeletionTarget['attestation']>,
  stored: StoredEnrollment['attestation'],
): string | undefined {
  if (row.type !== stored.type) {
    const expected = row.type === 'tpm' ? 'a TPM' : `${shownText(row.type, 30)} attestation`;
    return `is enrolled with ${shownText(stored.type, 30)} attestation, not with ${expected}`;
  }
  if (row.tpm !== undefined && !isSameKey(row.tpm.endorsementKey, stored.tpm?.endorsementKey)) {
    return 'holds another endorsement key';
  }
  const enrolled = certificatesOf('x509' in stored ? stored.x509 : undefined);
  const isEnrolled = (certificate: Certificate): boolean =>
    enrolled.some((other) => isSameCertificate(certificate, other));
  return certificatesOf(row.x509).every(isEnrolled) ? undefined : 'is enrolled with other certificates';
}

function isSameKey(row: string, stored: string | undefined): boolean {
  return stored !== undefined && Buffer.from(row, 'base64').equals(Buffer.from(stored, 'base64'));
}

/** A certificate by its digests, or an authority by the name of its certificate. */
type Certificate = Readonly<Partial<Record<'sha256' | 'sha1' | 'reference', string>>>;

/** By all that is known of both. */
function isSameCertificate(row: Certificate, stored: Certificate): boolean {
  const names = ['sha256', 'sha1', 'reference'] as const;
  const common = names.filter((name) => row[name] !== undefined && stored[name] !== undefined);
  return common.length > 0 && common.every((name) => row[name] === stored[name]);
}

/** Those in a definition X509Attestation, of which nothing has been checked. */
function certificatesOf(x509: unknown): readonly Certificate[] {
  const found: Certificate[] = [];
  for (const group of ['clientCertificates', 'signingCertificates', 'caReferences']) {
    for (const place of ['primary', 'secondary']) {
      const value = memberOf(memberOf(x509, group), place);
      if (typeof value === 'string' && value !== '') found.push({ reference: value });
      else if (typeof value === 'object' && value !== null) found.push(certificateOf(value));
    }
  }
  // Members that are null say nothing.
  return found.filter((certificate) => Object.keys(certificate).length > 0);
}

function certificateOf(value: object): Certificate {
  const info = memberOf(value, 'info');
  const sha256 = thumbprintOf(memberOf(info, 'sha256Thumbprint'));
  const sha1 = thumbprintOf(memberOf(info, 'sha1Thumbprint'));
  const text = memberOf(value, 'certificate');
  const digest = sha256 ?? (typeof text === 'string' && text !== '' ? digestOfCertificate(text) : undefined);
  return { ...(digest === undefined ? {} : { sha256: digest }), ...(sha1 === undefined ? {} : { sha1 }) };
}

/** SHA-256 in hex: of a certificate in PEM or in base64, else of the text, which then equals no certificate. */
function digestOfCertificate(text: string): string {
  try {
    const bytes = text.includes('-----') ? text : Buffer.from(text, 'base64');
    return new X509Certificate(bytes).fingerprint256.replaceAll(':', '').toLowerCase();
  } catch {
    return createHash('sha256').update(text).digest('hex');
  }
}

function thumbprintOf(value: unknown): string | undefined {
  if (typeof value !== 'string' || value === '') return undefined;
  return value.replace(/[\s:]/g, '').toLowerCase();
}

function memberOf(owner: unknown, name: string): unknown {
  if (typeof owner !== 'object' || owner === null || !Object.hasOwn(owner, name)) return undefined;
  return (owner as Readonly<Record<string, unknown>>)[name];
}
