/** Certificates in enrollments: how they are sent, and what the service says of them (definition X509CertificateInfo). */

import { X509Certificate } from 'node:crypto';

export interface CertificateInfo {
  readonly subjectName: string;
  /** Upper-case hex, as .NET writes it. */
  readonly sha1Thumbprint: string;
  readonly sha256Thumbprint: string;
  readonly issuerName: string;
  readonly notBeforeUtc: string;
  readonly notAfterUtc: string;
  readonly serialNumber: string;
  readonly version: number;
}

/** The first certificate of a text: PEM, or base64 of PEM or of DER, as Azure's clients send either; else undefined. */
export function sentCertificate(text: string): X509Certificate | undefined {
  const isPem = text.includes('-----BEGIN CERTIFICATE-----');
  try {
    const certificate = new X509Certificate(isPem ? text : Buffer.from(text, 'base64'));
    const hasDates = [certificate.validFrom, certificate.validTo].every(
      (date) => !Number.isNaN(Date.parse(date)),
    );
    return hasDates ? certificate : undefined;
  } catch {
    return undefined;
  }
}

export function certificateInfo(certificate: X509Certificate): CertificateInfo {
  const { subject, issuer, validFrom, validTo, serialNumber } = certificate;
  return {
    subjectName: distinguishedName(subject),
    sha1Thumbprint: certificate.fingerprint.replaceAll(':', ''),
    sha256Thumbprint: thumbprint(certificate),
    issuerName: distinguishedName(issuer),
    notBeforeUtc: new Date(validFrom).toISOString(),
    notAfterUtc: new Date(validTo).toISOString(),
    serialNumber,
    version: versionOf(certificate.raw),
  };
}

/** SHA-256, upper-case hex. */
export function thumbprint(certificate: X509Certificate): string {
  return certificate.fingerprint256.replaceAll(':', '');
}

export function isCurrent({ validFrom, validTo }: X509Certificate, now: Date): boolean {
  return Date.parse(validFrom) <= now.getTime() && now.getTime() < Date.parse(validTo);
}

/** The last common name in the subject, undefined where it has none. */
export function commonName(certificate: X509Certificate): string | undefined {
  // Node.js types it as a text; of a certificate without a subject it is undefined.
  const subject = certificate.subject as string | undefined;
  return subject
    ?.split('\n')
    .findLast((part) => part.startsWith('CN='))
    ?.slice('CN='.length);
}

/** The most special part first, as .NET writes names. */
function distinguishedName(name: string | undefined): string {
  return (name ?? '').split('\n').reverse().join(', ');
}

/** RFC 5280, 4.1: `[0] EXPLICIT INTEGER` at the beginning of what is signed, absent in version 1. */
function versionOf(der: Buffer): number {
  const inner = contentAt(der, contentAt(der, 0));
  return der[inner] === 0xa0 ? (der[inner + 4] ?? 0) + 1 : 1;
}

/** Where the content begins of the DER element at that place. */
function contentAt(der: Buffer, at: number): number {
  const length = der[at + 1] ?? 0;
  return at + 2 + (length > 0x80 ? length - 0x80 : 0);
}
