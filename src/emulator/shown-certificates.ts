/** The certificates that a client has shown in its TLS handshake, by which it has proved that it holds the first one's key. */

import { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { TLSSocket, type DetailedPeerCertificate } from 'node:tls';

/** More than any chain has; a certificate that issues itself is its own issuer for ever. */
const longestChain = 10;

/** Its own first, then who issued it, as far as they were sent; nobody has judged them. */
export function shownCertificates(socket: Socket): readonly X509Certificate[] {
  if (!(socket instanceof TLSSocket)) return [];
  // Typed as if there always were one; without one it is an object without members, or null when the socket is gone.
  let next = socket.getPeerCertificate(true) as Partial<DetailedPeerCertificate> | null | undefined;
  const chain: X509Certificate[] = [];
  while (next?.raw !== undefined && chain.length < longestChain) {
    const certificate = new X509Certificate(next.raw);
    if (chain.at(-1)?.fingerprint256 === certificate.fingerprint256) break;
    chain.push(certificate);
    next = next.issuerCertificate;
  }
  return chain;
}
