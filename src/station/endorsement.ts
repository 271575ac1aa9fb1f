/** The EK of a TPM judged: its certificate read and verified, and, when asked, its private part proved to be there. */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { makeCredential } from '../credential.ts';
import { IotdmError } from '../errors.ts';
import { readEkCertificateArea } from '../tpm/ek-certificate.ts';
import { rsaKeyObject } from '../tpm/endorsement-key.ts';
import { refusesWhatItWasGiven } from '../tpm/identity-key.ts';
import type { PrimaryKey, Tpm } from '../tpm/tpm.ts';
import { trimCertificate } from '../certificate-bytes.ts';
import type { TrustedCertificates } from '../trust/roots.ts';
import { assessCertificate, type Assessment } from '../trust/verdict.ts';

export interface EndorsementCheck {
  readonly tpm: Tpm;
  readonly trusted: TrustedCertificates;
  readonly now: Date;
  /** An EK certificate from elsewhere, DER; absent, it is read from the TPM. */
  readonly certificate?: Buffer;
  /** Also has the TPM open a secret that only the private part of the EK can open. */
  readonly prove?: boolean;
}

export interface EndorsementAssessment extends Assessment {
  /** Whether the TPM has proved to hold the private part of its EK; null when it was not asked to. */
  readonly proved: boolean | null;
}

/** Exponent of every EK that DPS takes. */
const EXPONENT = 65537;

const SECRET_BYTES = 32;

/**
 * The EK certificate in the TPM, DER; null where there is none. Where something else stands in its place, all of that:
 * it is no certificate, and not the lack of one either. Three TPM commands for a usual certificate, one where there is
 * none.
 * @throws IotdmError `tpm.*` where this caller may not read it
 */
export async function readEkCertificate(tpm: Tpm): Promise<Buffer | null> {
  const area = await readEkCertificateArea(tpm);
  return area === null ? null : (trimCertificate(area) ?? area);
}

/** The same for a record that is to be written in any case: null also where this caller may not read it. */
export async function readEkCertificateIfAllowed(tpm: Tpm): Promise<Buffer | null> {
  try {
    return await readEkCertificate(tpm);
  } catch (error) {
    if (error instanceof IotdmError && error.code.startsWith('tpm.')) return null;
    throw error;
  }
}

/**
 * Judges the EK of a TPM. Changes nothing in it. Four TPM commands with EK and certificate in place, four or five more
 * with `prove`; keys that do not stand at their handles are derived and flushed.
 * @throws IotdmError `tpm.*` where the TPM refuses what is needed, never for a verdict
 */
export async function assessEndorsement(check: EndorsementCheck): Promise<EndorsementAssessment> {
  const { tpm, prove = false } = check;
  const certificate = check.certificate ?? (await readEkCertificate(tpm));
  if (!prove) {
    const key = await tpm.readEndorsementKey();
    return { ...(await assessFor(key, certificate, check)), proved: null };
  }
  return tpm.withEndorsementKey(async (key, handle) => {
    const assessment = await assessFor(key, certificate, check);
    const proved = await provesPossession(tpm, key, handle);
    if (proved) return { ...assessment, proved };
    const reason = 'the TPM cannot open what is encrypted to its EK: it does not hold the private key';
    return { ...assessment, verdict: 'proof-failed', reason, proved };
  });
}

/** Judges a certificate for an EK, or the absence of one. */
export function assessForKey(
  { modulus }: PrimaryKey,
  certificate: Buffer | null,
  { trusted, now }: Pick<EndorsementCheck, 'trusted' | 'now'>,
): Assessment {
  return assessCertificate({ certificate, key: { modulus, exponent: EXPONENT }, trusted, now });
}

async function assessFor(
  key: PrimaryKey,
  certificate: Buffer | null,
  check: EndorsementCheck,
): Promise<Assessment> {
  const assessment = assessForKey(key, certificate, check);
  if (assessment.verdict !== 'mismatched' || key.handle === null) return assessment;
  if (!(await isForDerivedKey(certificate, check))) return assessment;
  const reason =
    'the certificate is for the EK that the TCG template derives, but another program keeps another EK at 0x81010001';
  return { ...assessment, reason };
}

/** One chip has several EKs: software that fills the template otherwise persists one that no certificate knows. */
async function isForDerivedKey(certificate: Buffer | null, check: EndorsementCheck): Promise<boolean> {
  try {
    const derived = await check.tpm.withDerivedEndorsementKey((key) => Promise.resolve(key));
    return assessForKey(derived, certificate, check).verdict !== 'mismatched';
  } catch (error) {
    // It only makes the reason better: the verdict stands without it.
    if (error instanceof IotdmError && error.code.startsWith('tpm.')) return false;
    throw error;
  }
}

/**
 * The round trip by which DPS will know this TPM: a secret encrypted to the EK and bound to the SRK comes back. Five TPM
 * commands with an SRK in place, two more where it is derived.
 * @param ekHandle where the EK stands or is loaded
 */
export async function provesPossession(
  tpm: Tpm,
  { modulus }: PrimaryKey,
  ekHandle: number,
): Promise<boolean> {
  return tpm.withStorageRootKey(async ({ name }, srkHandle) => {
    const secret = randomBytes(SECRET_BYTES);
    const credential = makeCredential(rsaKeyObject(modulus), name, secret);
    try {
      const answer = await tpm.activateCredential(srkHandle, ekHandle, credential);
      return answer.length === secret.length && timingSafeEqual(answer, secret);
    } catch (error) {
      if (await refusesWhatItWasGiven(tpm, error)) return false;
      throw error;
    } finally {
      secret.fill(0);
    }
  });
}
