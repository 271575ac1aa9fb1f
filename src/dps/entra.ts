/**
 * The identity that this machine has with Microsoft Entra ID, by whatever way `DefaultAzureCredential` finds: the
 * environment, a managed identity, the Azure CLI. Large: loaded only where it is used.
 */
import { rootCertificates } from 'node:tls';
import { DefaultAzureCredential } from '@azure/identity';
import { because, IotdmError } from '../errors.ts';
import type { TokenCredential } from './bearer-token.ts';
import { cloudOfHost } from './clouds.ts';
import type { Proxy } from './proxy.ts';
import { isLoopback, parseServiceHost } from './service-host.ts';

export interface EntraOptions {
  /** PEM certificates, trusted in addition to Node's roots. */
  readonly ca?: string;
  /** Absent, Azure's library heeds `HTTPS_PROXY` and `NO_PROXY` by itself. */
  readonly proxy?: Proxy;
  /** Where tokens are given; absent, Azure's library heeds `AZURE_AUTHORITY_HOST`, or takes that of the public cloud. */
  readonly authorityHost?: string;
}

export function entraCredential({ ca, proxy, authorityHost }: EntraOptions): TokenCredential {
  return new DefaultAzureCredential({
    ...(authorityHost === undefined ? {} : { authorityHost }),
    ...(ca === undefined ? {} : { tlsOptions: { ca: [...rootCertificates, ca].join('\n') } }),
    ...(proxy === undefined
      ? {}
      : {
          proxyOptions: {
            host: `${proxy.url.protocol}//${proxy.url.hostname}`,
            port: proxy.port,
            ...(proxy.credentials === undefined
              ? {}
              : {
                  username: proxy.credentials.username,
                  password: proxy.credentials.password.revealText(),
                }),
          },
        }),
  });
}

/**
 * Refuses to send a token elsewhere: unlike a signature, it is good for every provisioning service that this identity
 * may use, for whoever holds it.
 * @throws IotdmError `usage.invalid`
 */
export function refuseForeignHost(host: string): void {
  const { hostname } = parseServiceHost(host);
  if (cloudOfHost(hostname) !== undefined || isLoopback(hostname)) return;
  throw new IotdmError(
    'usage.invalid',
    `a token of Microsoft Entra ID is sent to NAME.azure-devices-provisioning.net, .cn or .us only, not to ${hostname}: give a connection string`,
    { details: because('token-goes-elsewhere') },
  );
}
