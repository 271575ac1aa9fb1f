/**
 * EK certificates of TPMs that do not exist, the same bytes each time: laid out as the TCG EK Credential Profile for
 * TPM Family 2.0 says (empty subject, what the TPM is in a critical subjectAltName), signed by a vendor of our own.
 */
import { createHash, createPrivateKey, sign, type KeyObject } from 'node:crypto';
import { commonName, der, extension, oid, sequence, time } from './certificates.ts';

const ED25519 = sequence(oid('2b6570'));
const ECDSA_WITH_SHA256 = sequence(oid('2a8648ce3d040302'));

/** Another than the sample vendor. */
export interface CertificateIssuer {
  readonly name: string;
  /** P-256. */
  readonly key: KeyObject;
}

/** A vendor's signing key, made from a fixed seed so that fixtures can be written again without a difference. */
function vendorKey(): KeyObject {
  const seed = createHash('sha256').update('iotdm sample TPM vendor').digest();
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]);
  return createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
}

/**
 * @param publicKey of the endorsement key
 * @param number serial number of the certificate, 1 to 127
 * @param options.authority makes it the certificate of a certificate authority
 * @param options.issuer whose signature differs each time
 * @returns DER
 */
export function makeEkCertificate(
  publicKey: KeyObject,
  number: number,
  { authority = false, issuer }: { authority?: boolean; issuer?: CertificateIssuer } = {},
): Buffer {
  const algorithm = issuer === undefined ? ED25519 : ECDSA_WITH_SHA256;
  const utf8 = (text: string): Buffer => der(0x0c, Buffer.from(text));
  const attribute = (id: string, text: string): Buffer => der(0x31, sequence(oid(id), utf8(text)));
  // 2.23.133.2.1 to .3: manufacturer, model, version.
  const tpm = sequence(
    attribute('6781050201', 'id:49424D00'),
    attribute('6781050202', 'sample'),
    attribute('6781050203', 'id:00010002'),
  );
  const extensions = authority
    ? [
        extension('551d13', sequence(Buffer.from('0101ff', 'hex')), true),
        // keyCertSign and cRLSign.
        extension('551d0f', Buffer.from('03020106', 'hex'), true),
      ]
    : [
        extension('551d11', sequence(der(0xa4, tpm)), true),
        extension('551d13', sequence(), true),
        // keyEncipherment.
        extension('551d0f', Buffer.from('03020520', 'hex'), true),
        // tcg-kp-EKCertificate, 2.23.133.8.1.
        extension('551d25', sequence(oid('6781050801')), false),
      ];
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([number])),
    algorithm,
    commonName(issuer?.name ?? 'Sample TPM vendor'),
    sequence(time(new Date('2024-01-01T00:00:00Z')), time(new Date('2044-01-01T00:00:00Z'))),
    authority ? commonName(`Sample TPM vendor ${number}`) : sequence(),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions)),
  );
  const signature = issuer === undefined ? sign(null, body, vendorKey()) : sign('sha256', body, issuer.key);
  return sequence(body, algorithm, der(0x03, Buffer.concat([Buffer.alloc(1), signature])));
}

/** The same certificate or public key, with its RSA key named as one for RSAES-OAEP, as older chips of Infineon do. */
export function forOaep(bytes: Buffer): Buffer {
  const changed = Buffer.from(bytes);
  const at = changed.indexOf(Buffer.from('2a864886f70d010101', 'hex'));
  changed.writeUInt8(0x07, at + 8);
  return changed;
}
