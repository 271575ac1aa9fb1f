/** Certificates that devices show, and those of the authorities that issue them. */

import { generateKeyPairSync, randomBytes, webcrypto, X509Certificate, type KeyObject } from 'node:crypto';
import { loadX509 } from '../../src/x509.ts';

export interface Certified {
  readonly name: string;
  /** PEM. */
  readonly cert: string;
  readonly key: string;
  readonly privateKey: KeyObject;
  /** Upper-case hex, as the service writes it. */
  readonly sha256Thumbprint: string;
}

export interface CertificateWish {
  /** Itself when absent. */
  readonly issuer?: Certified;
  /** Whether it may issue others. */
  readonly ca?: boolean;
  readonly from?: Date;
  readonly to?: Date;
}

const day = 86_400_000;
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

/** @param name the common name, behind an organization */
export async function certified(name: string, wish: CertificateWish = {}): Promise<Certified> {
  const x509 = await loadX509();
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { issuer, ca = false, from = new Date(Date.now() - day), to = new Date(Date.now() + day) } = wish;
  const subject = [{ O: ['Plant'] }, { CN: [name] }];
  const signer = (issuer?.privateKey ?? privateKey).export({ type: 'pkcs8', format: 'der' });
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: `01${randomBytes(15).toString('hex')}`,
    subject,
    issuer: issuer === undefined ? subject : [{ O: ['Plant'] }, { CN: [issuer.name] }],
    notBefore: from,
    notAfter: to,
    publicKey: await webcrypto.subtle.importKey(
      'spki',
      publicKey.export({ type: 'spki', format: 'der' }),
      algorithm,
      true,
      ['verify'],
    ),
    signingKey: await webcrypto.subtle.importKey('pkcs8', signer, algorithm, true, ['sign']),
    signingAlgorithm: algorithm,
    extensions: [new x509.BasicConstraintsExtension(ca, undefined, true)],
  });
  const cert = `${made.toString('pem')}\n`;
  return {
    name,
    cert,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    privateKey,
    sha256Thumbprint: new X509Certificate(cert).fingerprint256.replaceAll(':', ''),
  };
}
