/** X.509 certificates, made and taken apart: the one place that loads @peculiar/x509. */
import { webcrypto } from 'node:crypto';

/** What @peculiar/x509 exports. */
export type X509Library = Awaited<ReturnType<typeof loadX509>>;

/**
 * Loaded only when a certificate is to be made or read, which most commands do not need. Its dependency tsyringe
 * refuses to load without the metadata functions of reflect-metadata, though nothing here has any metadata: functions
 * that know none do.
 */
// eslint-disable-next-line @typescript-eslint/explicit-module-boundary-types -- the library's own type, in full
export async function loadX509() {
  const reflect: object = Reflect;
  if (!('getMetadata' in reflect)) {
    for (const name of ['getMetadata', 'getOwnMetadata', 'defineMetadata']) {
      Object.defineProperty(reflect, name, { value: () => undefined, configurable: true, writable: true });
    }
  }
  // The default export, a CommonJS module's exports, is all that esbuild leaves of it in a bundle that is split.
  const { default: x509 } = await import('@peculiar/x509');
  x509.cryptoProvider.set(webcrypto);
  return x509;
}
