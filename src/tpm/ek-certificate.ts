/**
 * The EK certificate as it lies in the TPM, told apart from one that is missing, closed or damaged; and whether it is
 * for a given key. Who signed it is another question, which is not answered here.
 */
import type { X509Certificate } from 'node:crypto';
import { IotdmError } from '../errors.ts';
import { publicKeyOfCertificate } from './certified-key.ts';
import { trimCertificate } from '../certificate-bytes.ts';
import { opensslView } from '../certificate-parts.ts';
import type { Tpm } from './tpm.ts';

export type StoredCertificate =
  | { readonly kind: 'absent' }
  /** Something is there, and reading it is refused or would need an authorization value that is not known. */
  | { readonly kind: 'closed'; readonly why: string }
  | { readonly kind: 'damaged'; readonly why: string }
  | { readonly kind: 'certificate'; readonly der: Buffer; readonly certificate: X509Certificate };

/** TPMA_NV (Part 2, 13.4). */
const OWNER_READ = 1 << 17;
const AUTH_READ = 1 << 18;
const NO_DA = 1 << 25;
const WRITTEN = 1 << 29;

/** NV index of the RSA 2048 EK certificate (TCG EK Credential Profile, section 2.2.1.4). */
export const EK_CERTIFICATE_INDEX = 0x01c00002;

/** Larger than any EK certificate seen in the field by a factor of four. */
const MAX_CERTIFICATE_BYTES = 8192;

type StoredArea =
  Exclude<StoredCertificate, { kind: 'certificate' }> | { readonly kind: 'area'; readonly bytes: Buffer };

/**
 * Never risks a wrong authorization value: an index that counts them (NO_DA clear) is read as the owner, or not at all.
 * One TPM command where there is none, usually three.
 * @param options.ownerUsable whether the owner's authorization is known
 */
export async function findEkCertificate(
  tpm: Tpm,
  options: { readonly ownerUsable: boolean },
): Promise<StoredCertificate> {
  const area = await findArea(tpm, options);
  return area.kind === 'area' ? parseStoredCertificate(area.bytes) : area;
}

/**
 * The bytes of the NV index that the EK certificate is kept in, whatever surrounds the certificate; null where there
 * are none. Three TPM commands for a usual certificate, one where there is none.
 * @throws IotdmError `tpm.authorization` where this caller may not read them
 */
export async function readEkCertificateArea(tpm: Tpm): Promise<Buffer | null> {
  // The owner hierarchy does not count wrong values, so trying an empty one costs nothing.
  const area = await findArea(tpm, { ownerUsable: true });
  if (area.kind === 'closed') {
    throw new IotdmError('tpm.authorization', `the EK certificate cannot be read: ${area.why}`);
  }
  return area.kind === 'area' ? area.bytes : null;
}

async function findArea(tpm: Tpm, { ownerUsable }: { readonly ownerUsable: boolean }): Promise<StoredArea> {
  const area = await tpm.nvReadPublic(EK_CERTIFICATE_INDEX);
  if (area === undefined) return { kind: 'absent' };
  const has = (bit: number): boolean => (area.attributes & bit) !== 0;
  if (!has(WRITTEN)) return { kind: 'damaged', why: 'it was never written' };
  if (area.dataSize > MAX_CERTIFICATE_BYTES) {
    return { kind: 'damaged', why: `${area.dataSize} bytes are no certificate` };
  }
  const reader =
    has(AUTH_READ) && has(NO_DA) ? 'index' : has(OWNER_READ) && ownerUsable ? 'owner' : undefined;
  if (reader === undefined) {
    return { kind: 'closed', why: 'it takes an authorization value that is not known' };
  }
  try {
    const bytes = await tpm.nvRead(EK_CERTIFICATE_INDEX, area.dataSize, reader);
    return isErased(bytes) ? { kind: 'absent' } : { kind: 'area', bytes };
  } catch (error) {
    if (error instanceof IotdmError && error.code.startsWith('tpm.'))
      return { kind: 'closed', why: error.message };
    throw error;
  }
}

/** Memory in which nothing was ever written, or which was wiped. */
function isErased(bytes: Buffer): boolean {
  const [first] = bytes;
  return (first === 0 || first === 0xff) && bytes.every((byte) => byte === first);
}

/** @param area the whole NV area, padding and TCG header included */
export function parseStoredCertificate(area: Buffer): StoredCertificate {
  const der = trimCertificate(area);
  if (der === undefined) return { kind: 'damaged', why: 'no certificate begins there' };
  try {
    return { kind: 'certificate', der, certificate: opensslView(der) };
  } catch {
    return { kind: 'damaged', why: 'it cannot be read as a certificate' };
  }
}

/**
 * Whether the certificate is for the RSA key with this modulus.
 * @param modulus big-endian, 256 bytes
 */
export function isCertificateFor(
  { certificate }: { certificate: X509Certificate },
  modulus: Buffer,
): boolean {
  const { n } = publicKeyOfCertificate(certificate)?.export({ format: 'jwk' }) ?? {};
  // A key of another kind has no modulus, and so is for no RSA key.
  return n !== undefined && Buffer.from(n, 'base64url').equals(modulus);
}
