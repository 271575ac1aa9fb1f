/** Whether an EK is that of a genuine TPM, as far as its certificate tells. */
import { IotdmError } from '../errors.ts';
import { authorityFault, ChainFinder, commonFault, usageFault } from './chain.ts';
import { parseCertificate, type Certificate, type RsaPublicKey, type TpmAttributes } from './certificate.ts';
import type { TrustedCertificates } from './roots.ts';

/**
 * `genuine`: the certificate is for this EK and leads to a trusted root. `untrusted`: it does not lead to one, or is
 * damaged, expired or not an EK certificate. `mismatched`: it is for another key. `proof-failed`: the TPM does not
 * hold the private part of its EK. `device-not-checked`: the certificate by itself is in order and leads to a trusted
 * root; no device was there to show that it has this EK.
 */
export type Verdict =
  'genuine' | 'untrusted' | 'mismatched' | 'no-certificate' | 'proof-failed' | 'device-not-checked';

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

/** What can be said of a certificate without its device, in the order in which it is looked at. */
export const certificateChecks = ['key', 'names', 'usage', 'dates', 'chain'] as const;
export type CertificateCheckName = (typeof certificateChecks)[number];

export interface LoneAssessment extends Assessment {
  /** What was found in order; what follows the first fault was not looked at. */
  readonly checked: readonly CertificateCheckName[];
  /** The key that the certificate is for, where it can be read. */
  readonly key: RsaPublicKey | null;
}

export interface AssessmentInput {
  /** DER, null where there is none. */
  readonly certificate: Buffer | null;
  /** Public part of the EK. */
  readonly key: RsaPublicKey;
  readonly trusted: TrustedCertificates;
  readonly now: Date;
}

/** Judges certificates, many of them at one time; what it learns of their issuers it remembers. */
export class CertificateJudge {
  readonly #chains: ChainFinder;
  readonly #now: Date;

  constructor(trusted: TrustedCertificates, now: Date) {
    this.#chains = new ChainFinder(trusted, now);
    this.#now = now;
  }

  /**
   * Whether this is the certificate of a genuine TPM with this EK; never throws for what the certificate holds.
   * @param der null where there is none
   */
  judge(der: Buffer | null, key: RsaPublicKey): Assessment {
    if (der === null) return withoutCertificate('no-certificate', 'there is no EK certificate');
    const certificate = readable(der);
    if ('verdict' in certificate) return certificate;
    if (!isFor(certificate, key)) {
      return described('mismatched', 'the certificate is for another key than the EK', certificate, [
        certificate,
      ]);
    }
    const ownFault = usageFault(certificate) ?? commonFault(certificate, this.#now);
    if (ownFault !== undefined) return described('untrusted', ownFault, certificate, [certificate]);
    const { chain, fault } = this.#chains.find(certificate);
    if (fault !== undefined) return described('untrusted', fault, certificate, chain);
    const reason = 'the certificate is for this EK and leads to a trusted root';
    return described('genuine', reason, certificate, chain);
  }

  /**
   * Whether the certificate by itself is that of an EK that DPS takes, from a vendor who is trusted, and names the TPM as
   * the TCG asks for: `device-not-checked` is the best that can be said without the device. Never throws either.
   */
  judgeAlone(der: Buffer): LoneAssessment {
    const certificate = readable(der);
    if ('verdict' in certificate) return { ...certificate, checked: [], key: null };
    const { failed, fault, chain } = this.#examine(certificate);
    const key = certificate.rsa ?? null;
    if (failed === undefined) {
      return {
        ...described('device-not-checked', inOrder, certificate, chain),
        checked: certificateChecks,
        key,
      };
    }
    const checked = certificateChecks.slice(0, certificateChecks.indexOf(failed));
    return { ...described('untrusted', fault, certificate, chain), checked, key };
  }

  /** The same for one of many, of which only what is wrong is of interest: undefined where nothing is. */
  faultOf(
    der: Buffer,
  ): { readonly failed: CertificateCheckName | undefined; readonly reason: string } | undefined {
    const certificate = readable(der);
    if ('verdict' in certificate) return { failed: undefined, reason: certificate.reason };
    const { failed, fault } = this.#examine(certificate);
    return failed === undefined ? undefined : { failed, reason: fault };
  }

  #examine(certificate: Certificate): {
    readonly failed: CertificateCheckName | undefined;
    readonly fault: string;
    readonly chain: readonly Certificate[];
  } {
    let chain: readonly Certificate[] = [certificate];
    const faults: Readonly<Record<CertificateCheckName, () => string | undefined>> = {
      key: () => authorityFault(certificate) ?? keyFault(certificate),
      names: () => namesFault(certificate),
      usage: () => usageFault(certificate),
      dates: () => commonFault(certificate, this.#now),
      chain: () => {
        const found = this.#chains.find(certificate);
        ({ chain } = found);
        return found.fault;
      },
    };
    for (const check of certificateChecks) {
      const fault = faults[check]();
      if (fault !== undefined) return { failed: check, fault, chain };
    }
    return { failed: undefined, fault: '', chain };
  }
}

const inOrder =
  'the certificate is in order and leads to a trusted root; whether a TPM has its key was not checked';

/** Judges one certificate; never throws for what it holds. */
export function assessCertificate({ certificate, key, trusted, now }: AssessmentInput): Assessment {
  return new CertificateJudge(trusted, now).judge(certificate, key);
}

function readable(der: Buffer): Certificate | Assessment {
  try {
    return parseCertificate(der);
  } catch (error) {
    if (!(error instanceof IotdmError)) throw error;
    return withoutCertificate('untrusted', `the EK certificate is damaged: ${error.message}`);
  }
}

/** The only EKs that DPS takes. */
const EK_MODULUS_BYTES = 256;
const EK_EXPONENT = 65537;

function keyFault({ rsa }: Certificate): string | undefined {
  const only = 'and DPS takes RSA 2048 endorsement keys only';
  if (rsa === undefined) return `the certificate is for a key of another kind than RSA, ${only}`;
  const bits = rsa.modulus.length * 8 - Math.clz32(rsa.modulus[0] ?? 0) + 24;
  if (bits !== EK_MODULUS_BYTES * 8) return `the certificate is for an RSA ${bits} key, ${only}`;
  if (rsa.exponent === EK_EXPONENT) return undefined;
  return `the certificate is for a key with the exponent ${rsa.exponent}, and that of an endorsement key is ${EK_EXPONENT}`;
}

/** TCG EK Credential Profile, 3.2.9: all three in the subject alternative name, the manufacturer by its TCG vendor id. */
function namesFault({ tpmNames }: Certificate): string | undefined {
  const missing = (['manufacturer', 'model', 'version'] as const).filter(
    (name) => (tpmNames[name]?.trim() ?? '') === '',
  );
  if (missing.length > 0) {
    return `the certificate does not say which TPM it is for: its subject alternative name lacks ${missing.join(', ')}`;
  }
  if (/^id:[0-9a-f]{8}$/i.test(tpmNames.manufacturer ?? '')) return undefined;
  return 'the certificate names no manufacturer by a TCG vendor id, such as id:49465800';
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
