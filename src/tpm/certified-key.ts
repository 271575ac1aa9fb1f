/**
 * The public key in a SubjectPublicKeyInfo or certificate, also where it is marked as one for RSAES-OAEP: the TCG EK
 * Credential Profile allows that, older chips have it, and OpenSSL does not read it.
 */
import { createPublicKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { derElement, derTag, type DerElement } from '../der.ts';

/** OBJECT IDENTIFIER 1.2.840.113549.1.1.7, id-RSAES-OAEP (RFC 8017, appendix A.2.1). */
const RSAES_OAEP = Buffer.from('06092a864886f70d010107', 'hex');

/** [0] EXPLICIT, the version in a TBSCertificate (RFC 5280, 4.1). */
const VERSION_TAG = 0xa0;

/**
 * The key of a certificate that OpenSSL has read.
 * @returns undefined where it is of a kind that is not known here
 */
export function publicKeyOfCertificate(certificate: X509Certificate): KeyObject | undefined {
  try {
    return certificate.publicKey;
  } catch {
    const info = subjectPublicKeyInfo(certificate.raw);
    return info === undefined ? undefined : rsaesOaepKey(info);
  }
}

/**
 * The RSA key of a SubjectPublicKeyInfo whose algorithm is id-RSAES-OAEP; its parameters, a wish for the hash, are not
 * looked at, as a TPM uses the one of its own scheme.
 * @returns undefined where the algorithm is another one
 */
export function rsaesOaepKey(info: Buffer): KeyObject | undefined {
  const [algorithm, bits] = itemsIn(info, derElement(info));
  if (algorithm === undefined || bits?.tag !== derTag.bitString) return undefined;
  const oid = info.subarray(algorithm.start, algorithm.start + RSAES_OAEP.length);
  if (algorithm.tag !== derTag.sequence || !oid.equals(RSAES_OAEP)) return undefined;
  try {
    // The first byte of a bit string counts the bits that are left over: none.
    const key = info.subarray(bits.start + 1, bits.end);
    return createPublicKey({ key, format: 'der', type: 'pkcs1' });
  } catch {
    return undefined;
  }
}

/** Certificate ::= { TBSCertificate ::= { [version], serial, algorithm, issuer, validity, subject, key, … }, … } */
function subjectPublicKeyInfo(certificate: Buffer): Buffer | undefined {
  const [signed] = itemsIn(certificate, derElement(certificate));
  const fields = itemsIn(certificate, signed).filter(({ tag }) => tag !== VERSION_TAG);
  const [, , , , subject, key] = fields;
  return subject === undefined || key === undefined ? undefined : certificate.subarray(subject.end, key.end);
}

/** The elements inside one that is whole; those up to the first that is not. */
function itemsIn(bytes: Buffer, parent: DerElement | undefined): DerElement[] {
  const items: DerElement[] = [];
  if (parent === undefined || parent.end > bytes.length) return items;
  for (let at = parent.start; at < parent.end;) {
    const item = derElement(bytes, at);
    if (item === undefined || item.end > parent.end) break;
    items.push(item);
    at = item.end;
  }
  return items;
}
