/** Certificate authorities that are trusted in addition to Node's own. */

import { X509Certificate } from 'node:crypto';
import { createSecureContext, rootCertificates } from 'node:tls';
import { because, IotdmError } from './errors.ts';

/**
 * Giving `ca` replaces Node's roots, so they are named as well.
 * @param ca PEM certificates
 * @throws IotdmError `input.invalid`
 */
export function secureContextWith(ca: string): ReturnType<typeof createSecureContext> {
  const certificates = ca.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (certificates.length === 0) {
    throw new IotdmError('input.invalid', 'the extra certificate authority holds no PEM certificate', {
      details: because('extra-authority'),
    });
  }
  try {
    // Node.js ignores what it cannot read among `ca`; a certificate that is not trusted after all would puzzle.
    for (const certificate of certificates) new X509Certificate(certificate);
    return createSecureContext({ ca: [...rootCertificates, ...certificates] });
  } catch (cause) {
    throw new IotdmError('input.invalid', 'the extra certificate authority is not a valid PEM certificate', {
      cause,
      details: because('extra-authority'),
    });
  }
}
