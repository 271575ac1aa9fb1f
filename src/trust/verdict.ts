/** Whether an EK is that of a genuine TPM, as far as its certificate tells. */
import { IotdmError } from '../errors.ts';
import { buildChain, ekCertificateFault } from './chain.ts';
import { parseCertificate, type Certificate, type RsaPublicKey, type TpmAttributes } from './certificate.ts';
import type { TrustedCertificates } from './roots.ts';

/**
 * `genuine`: the certificate is for this EK and leads to a trusted root. `untrusted`: it does not lead to one, or is
 * damaged, expired or not an EK certificate. `mismatched`: it is for another key. `proof-failed`: the TPM does not
 * hold the private part of its EK.
 */
export type Verdict = 'genuine' | 'untrusted' | 'mismatched' | 'no-certificate' | 'proof-failed';

export interface ChainLink {
  /** As RFC 4514 writes it; often empty in an EK certificate. */
  readonly subject: string;
  /** Lower-case hex. */
  readonly serialNumber: string;
  /** Of the DER, lower-case hex. */
  readonly sha256: string;
}

export interface Assessment extends TpmAttributes {
  readonly verdict: Verdict;
  /** Why, in words. */
  readonly reason: string;
  /** Of the EK certificate; null where none could be read. */
  readonly issuer: string | null;
  readonly serialNumber: string | null;
  /** The EK certificate first; the root last where the verdict is `genuine`, otherwise as far as the chain went. */
  readonly chain: readonly ChainLink[];
}

export interface AssessmentInput {
  /** DER, null where there is none. */
  readonly certificate: Buffer | null;
  /** Public part of the EK. */
  readonly key: RsaPublicKey;
  readonly trusted: TrustedCertificates;
  readonly now: Date;
}

/** Judges a certificate; never throws for what the certificate holds. */
export async function assessCertificate(input: AssessmentInput): Promise<Assessment> {
  const { certificate: der, key, trusted, now } = input;
  if (der === null) return withoutCertificate('no-certificate', 'there is no EK certificate');
  let certificate: Certificate;
  try {
    certificate = await parseCertificate(der);
  } catch (error) {
    if (!(error instanceof IotdmError)) throw error;
    return withoutCertificate('untrusted', `the EK certificate is damaged: ${error.message}`);
  }
  if (!isFor(certificate, key)) {
    return described('mismatched', 'the certificate is for another key than the EK', certificate, [
      certificate,
    ]);
  }
  const ownFault = ekCertificateFault(certificate, now);
  if (ownFault !== undefined) return described('untrusted', ownFault, certificate, [certificate]);
  const { chain, fault } = await buildChain(certificate, trusted, now);
  if (fault !== undefined) return described('untrusted', fault, certificate, chain);
  return described(
    'genuine',
    'the certificate is for this EK and leads to a trusted root',
    certificate,
    chain,
  );
}

/** Whether the certificate is for this very key. */
export function isFor({ rsa }: Certificate, key: RsaPublicKey): boolean {
  return rsa !== undefined && rsa.exponent === key.exponent && rsa.modulus.equals(key.modulus);
}

function withoutCertificate(verdict: Verdict, reason: string): Assessment {
  return {
    verdict,
    reason,
    manufacturer: null,
    model: null,
    version: null,
    issuer: null,
    serialNumber: null,
    chain: [],
  };
}

function described(
  verdict: Verdict,
  reason: string,
  { tpm, issuer, serialNumber }: Certificate,
  chain: readonly Certificate[],
): Assessment {
  const { manufacturer, model, version } = tpm;
  return {
    verdict,
    reason,
    manufacturer,
    model,
    version,
    issuer,
    serialNumber,
    chain: chain.map(({ subject, serialNumber: number, sha256 }) => ({
      subject,
      serialNumber: number,
      sha256,
    })),
  };
}
