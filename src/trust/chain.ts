/**
 * From an EK certificate to a root that the operator trusts (RFC 5280, section 6, as far as EK certificates go: no
 * name constraints, no policies; revocation is not looked up).
 */
import { nameOf, type Certificate } from './certificate.ts';
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

/** What leads on from a certificate: its issuer, the issuer's issuer, and so on. */
interface Ascent {
  readonly authorities: readonly Certificate[];
  readonly fault?: string;
}

/** Certificates of so many issuers are remembered: more than any vendor has, and no list can fill the memory. */
const MAX_REMEMBERED = 10_000;

/** Finds chains at one time and with one set of trusted certificates; what it found of an issuer it remembers. */
export class ChainFinder {
  readonly #trusted: TrustedCertificates;
  readonly #now: Date;
  readonly #missingRoot: string | undefined;
  /** By what a certificate says of its issuer. */
  readonly #issuers = new Map<string, readonly GivenCertificate[]>();
  /** What leads on from an EK certificate by way of its issuer, that one included. */
  readonly #ascents = new Map<GivenCertificate, Ascent>();

  constructor(trusted: TrustedCertificates, now: Date) {
    this.#trusted = trusted;
    this.#now = now;
    if (!trusted.certificates.some(({ isRoot }) => isRoot)) {
      this.#missingRoot =
        trusted.certificates.length === 0
          ? 'no root certificates were given to trust'
          : 'none of the certificates that were given to trust is a root, one that signed itself';
    }
  }

  /** A chain from the certificate to one of the roots in which every issuer is good. */
  find(leaf: Certificate): ChainResult {
    if (this.#missingRoot !== undefined) return { chain: [leaf], fault: this.#missingRoot };
    const { authorities, fault } = this.#ascend(leaf, []);
    const chain = [leaf, ...authorities];
    return fault === undefined ? { chain } : { chain, fault };
  }

  /** Depth first: of several certificates of one issuer, such as cross-certificates, one may lead to a root. */
  #ascend(last: Certificate, authorities: readonly Certificate[]): Ascent {
    if (authorities.length === MAX_CHAIN - 1) {
      return { authorities, fault: `the chain is longer than ${MAX_CHAIN} certificates` };
    }
    let best: Ascent | undefined;
    for (const candidate of this.#issuersOf(last)) {
      const { certificate } = candidate;
      if (authorities.includes(certificate)) continue;
      const key = certificate.publicKey;
      const result =
        key !== undefined && last.isSignedBy(key)
          ? this.#ascendBy(candidate, authorities)
          : {
              authorities,
              fault: `the signature on the certificate ${nameOf(last)} is not that of its issuer`,
            };
      if (result.fault === undefined) return result;
      if (best === undefined || result.authorities.length > best.authorities.length) best = result;
    }
    return best ?? { authorities, fault: this.#missingIssuer(last, authorities.length === 0) };
  }

  #ascendBy(issuer: GivenCertificate, authorities: readonly Certificate[]): Ascent {
    // What is above an issuer does not depend on the EK certificate that it issued.
    const known = authorities.length === 0 ? this.#ascents.get(issuer) : undefined;
    if (known !== undefined) return known;
    const { certificate, isRoot } = issuer;
    const above = [...authorities, certificate];
    const fault = issuerFault(issuer, authorities, this.#now);
    const result =
      fault === undefined && !isRoot
        ? this.#ascend(certificate, above)
        : { authorities: above, ...(fault === undefined ? {} : { fault }) };
    if (authorities.length === 0) this.#ascents.set(issuer, result);
    return result;
  }

  #issuersOf(certificate: Certificate): readonly GivenCertificate[] {
    const { issuedBy } = certificate;
    const known = this.#issuers.get(issuedBy);
    if (known !== undefined) return known;
    const found = (this.#trusted.bySubject.get(certificate.issuerKey) ?? []).filter((given) =>
      certificate.mayBeIssuedBy(given.certificate),
    );
    if (this.#issuers.size >= MAX_REMEMBERED) this.#issuers.clear();
    this.#issuers.set(issuedBy, found);
    return found;
  }

  #missingIssuer(last: Certificate, isLeaf: boolean): string {
    // One of that name may have another key identifier, or may not sign certificates.
    if (this.#trusted.bySubject.has(last.issuerKey) && last.issuerKey !== last.subjectKey) {
      return `the certificate given for "${last.issuer}" is not the one that issued ${nameOf(last)}, or may not issue any`;
    }
    return isLeaf
      ? `its issuer "${last.issuer}" is not among the certificates that were given to trust`
      : `the chain ends at ${nameOf(last)}: "${last.issuer}" is not among the certificates that were given to trust`;
  }
}

/** An EK certifies nobody. */
export function authorityFault({ basicConstraints }: Certificate): string | undefined {
  return basicConstraints?.ca === true ? 'the certificate is that of an authority, not of an EK' : undefined;
}

/** What is wrong with what an EK certificate may be used for; undefined when that is in order. */
export function usageFault(certificate: Certificate): string | undefined {
  const { keyUsage, extendedKeyUsage } = certificate;
  const authority = authorityFault(certificate);
  if (authority !== undefined) return authority;
  if (keyUsage?.keyEncipherment !== true) return 'the certificate does not allow its key to encipher keys';
  if (extendedKeyUsage?.includes(EK_CERTIFICATE_USAGE) !== true) {
    return `the certificate is not for an EK: it lacks the extended key usage ${EK_CERTIFICATE_USAGE}`;
  }
  return undefined;
}

/**
 * What forbids this certificate to have issued the last one below it.
 * @param below the authorities between it and the EK certificate
 */
function issuerFault(
  { certificate: issuer, isRoot }: GivenCertificate,
  below: readonly Certificate[],
  now: Date,
): string | undefined {
  const name = nameOf(issuer);
  const { basicConstraints, keyUsage, extendedKeyUsage } = issuer;
  if (basicConstraints?.ca !== true) return `the issuer ${name} is not a certificate authority`;
  if (keyUsage?.certificateSigning === false) return `the issuer ${name} may not sign certificates`;
  // RFC 5280, 4.2.1.9: intermediates that follow it, self-issued ones not counted.
  const between = below.filter(({ subjectKey, issuerKey }) => subjectKey !== issuerKey).length;
  if (basicConstraints.pathLength !== undefined && between > basicConstraints.pathLength) {
    return `the issuer ${name} allows no more than ${basicConstraints.pathLength} authorities below it`;
  }
  if (
    !isRoot &&
    extendedKeyUsage?.some((usage) => usage === EK_CERTIFICATE_USAGE || usage === ANY_USAGE) === false
  ) {
    return `the issuer ${name} is not for EK certificates`;
  }
  const { asymmetricKeyType, asymmetricKeyDetails } = issuer.publicKey ?? {};
  if (
    asymmetricKeyType?.startsWith('rsa') === true &&
    (asymmetricKeyDetails?.modulusLength ?? 0) < MIN_RSA_BITS
  ) {
    return `the key of the issuer ${name} is too short`;
  }
  return commonFault(issuer, now, isRoot);
}

/**
 * What is wrong with the kind of signature, the critical extensions or the dates of any certificate. A root is trusted
 * because it was given, not for its own signature.
 */
export function commonFault(certificate: Certificate, now: Date, isRoot = false): string | undefined {
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
