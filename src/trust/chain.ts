/**
 * From an EK certificate to a root that the operator trusts (RFC 5280, section 6, as far as EK certificates go: no
 * name constraints, no policies; revocation is not looked up).
 */
import { parseCertificate, nameOf, type Certificate } from './certificate.ts';
import type { GivenCertificate, TrustedCertificates } from './roots.ts';

export type ChainResult =
  /** The whole chain, the EK certificate first, the root last. */
  | { readonly chain: readonly Certificate[]; readonly fault?: undefined }
  /** As far as it went, and why it went no further. */
  | { readonly chain: readonly Certificate[]; readonly fault: string };

/** tcg-kp-EKCertificate, and anyExtendedKeyUsage (RFC 5280, 4.2.1.12). */
const EK_CERTIFICATE_USAGE = '2.23.133.8.1';
const ANY_USAGE = '2.5.29.37.0';

/** Vendors have two or three levels between root and chip. */
const MAX_CHAIN = 8;

/** RSA keys of issuers below this are not trusted. */
const MIN_RSA_BITS = 2048;

/** Finds a chain from the certificate to one of the roots in which every certificate is good at this time. */
export async function buildChain(
  leaf: Certificate,
  trusted: TrustedCertificates,
  now: Date,
): Promise<ChainResult> {
  if (!trusted.certificates.some(({ isRoot }) => isRoot)) {
    const fault =
      trusted.certificates.length === 0
        ? 'no root certificates were given to trust'
        : 'none of the certificates that were given to trust is a root, one that signed itself';
    return { chain: [leaf], fault };
  }
  return extend([leaf], trusted, now);
}

/** What is wrong with an EK certificate itself, whoever issued it; undefined when it is in order. */
export function ekCertificateFault(certificate: Certificate, now: Date): string | undefined {
  const { basicConstraints, keyUsage, extendedKeyUsage } = certificate;
  if (basicConstraints?.ca === true) return 'the certificate is that of an authority, not of an EK';
  if (keyUsage?.keyEncipherment !== true) return 'the certificate does not allow its key to encipher keys';
  if (extendedKeyUsage?.includes(EK_CERTIFICATE_USAGE) !== true) {
    return `the certificate is not for an EK: it lacks the extended key usage ${EK_CERTIFICATE_USAGE}`;
  }
  return commonFault(certificate, now);
}

/** Depth first: of several certificates of one issuer, such as cross-certificates, one may lead to a root. */
async function extend(
  path: readonly Certificate[],
  trusted: TrustedCertificates,
  now: Date,
): Promise<ChainResult> {
  const last = path.at(-1);
  if (last === undefined) throw new RangeError('a chain begins with a certificate');
  if (path.length === MAX_CHAIN)
    return { chain: path, fault: `the chain is longer than ${MAX_CHAIN} certificates` };

  const issuers = trusted.certificates.filter(
    ({ openssl, der }) => last.openssl.checkIssued(openssl) && !path.some((seen) => seen.der.equals(der)),
  );
  let best: ChainResult = { chain: path, fault: missingIssuer(last, trusted, path.length === 1) };
  for (const candidate of issuers) {
    const result = await extendBy(path, last, candidate, trusted, now);
    if (result.fault === undefined) return result;
    if (result.chain.length > best.chain.length || best.chain.length === path.length) best = result;
  }
  return best;
}

async function extendBy(
  path: readonly Certificate[],
  last: Certificate,
  candidate: GivenCertificate,
  trusted: TrustedCertificates,
  now: Date,
): Promise<ChainResult> {
  if (!isSignedBy(last, candidate)) {
    return {
      chain: path,
      fault: `the signature on the certificate ${nameOf(last)} is not that of its issuer`,
    };
  }
  let issuer: Certificate;
  try {
    issuer = await parseCertificate(candidate.der);
  } catch {
    return { chain: path, fault: `the certificate of the issuer of ${nameOf(last)} cannot be read` };
  }
  const chain = [...path, issuer];
  const fault = issuerFault(issuer, candidate, path, now);
  if (fault !== undefined) return { chain, fault };
  return candidate.isRoot ? { chain } : extend(chain, trusted, now);
}

function isSignedBy({ openssl }: Certificate, issuer: GivenCertificate): boolean {
  try {
    return openssl.verify(issuer.openssl.publicKey);
  } catch {
    return false;
  }
}

function missingIssuer(last: Certificate, { certificates }: TrustedCertificates, isLeaf: boolean): string {
  // X509_check_issued refuses an issuer by name for its key identifier or its key usage.
  const sameName = certificates.some(({ openssl }) => openssl.subject === last.openssl.issuer);
  if (sameName && last.issuer !== last.subject) {
    return `the certificate given for "${last.issuer}" is not the one that issued ${nameOf(last)}, or may not issue any`;
  }
  return isLeaf
    ? `its issuer "${last.issuer}" is not among the certificates that were given to trust`
    : `the chain ends at ${nameOf(last)}: "${last.issuer}" is not among the certificates that were given to trust`;
}

/** What forbids this certificate to have issued the last one of the path. */
function issuerFault(
  issuer: Certificate,
  { isRoot, openssl }: GivenCertificate,
  path: readonly Certificate[],
  now: Date,
): string | undefined {
  const name = nameOf(issuer);
  const { basicConstraints, keyUsage, extendedKeyUsage } = issuer;
  if (basicConstraints?.ca !== true) return `the issuer ${name} is not a certificate authority`;
  if (keyUsage?.certificateSigning === false) return `the issuer ${name} may not sign certificates`;
  // RFC 5280, 4.2.1.9: intermediates that follow it, the EK certificate and self-issued ones not counted.
  const between = path.slice(1).filter(({ subject, issuer: issuedBy }) => subject !== issuedBy).length;
  if (basicConstraints.pathLength !== undefined && between > basicConstraints.pathLength) {
    return `the issuer ${name} allows no more than ${basicConstraints.pathLength} authorities below it`;
  }
  if (
    !isRoot &&
    extendedKeyUsage?.some((usage) => usage === EK_CERTIFICATE_USAGE || usage === ANY_USAGE) === false
  ) {
    return `the issuer ${name} is not for EK certificates`;
  }
  const { asymmetricKeyType, asymmetricKeyDetails } = openssl.publicKey;
  if (
    asymmetricKeyType?.startsWith('rsa') === true &&
    (asymmetricKeyDetails?.modulusLength ?? 0) < MIN_RSA_BITS
  ) {
    return `the key of the issuer ${name} is too short`;
  }
  return commonFault(issuer, now, isRoot);
}

/** A root is trusted because it was given, not for its own signature. */
function commonFault(certificate: Certificate, now: Date, isRoot = false): string | undefined {
  const { notBefore, notAfter, weakSignature, unknownCritical } = certificate;
  const name = nameOf(certificate);
  if (!isRoot && weakSignature !== undefined) {
    return `the signature on ${name} is of a kind that can be forged or is not known: ${weakSignature}`;
  }
  if (unknownCritical.length > 0) {
    return `the certificate ${name} has a critical extension that is not understood: ${unknownCritical.join(', ')}`;
  }
  if (!(now >= notBefore)) return `the certificate ${name} is not valid before ${notBefore.toISOString()}`;
  if (!(now <= notAfter)) return `the certificate ${name} expired on ${notAfter.toISOString()}`;
  return undefined;
}
