/**
 * The clouds of Azure that have provisioning services, by the ends of their hosts. Devices of all of them carry an ID scope
 * that tells its cloud: `0ne…` of the public one, `0cn…` of China, `0us…` of the US government (seen in public reports of
 * all three; Microsoft does not document it).
 */

export interface Cloud {
  /** For messages. */
  readonly name: string;
  /** What all hosts of its provisioning services end with. */
  readonly suffix: string;
  /** Where Microsoft Entra ID gives tokens to its identities. */
  readonly authorityHost: string;
  readonly idScopePrefix: string;
  /** As the Azure CLI calls it: `az cloud set --name`. */
  readonly cliName: string;
}

export const clouds: readonly [publicCloud: Cloud, ...others: Cloud[]] = [
  {
    name: 'Azure',
    suffix: 'azure-devices-provisioning.net',
    authorityHost: 'https://login.microsoftonline.com',
    idScopePrefix: '0ne',
    cliName: 'AzureCloud',
  },
  {
    name: 'Azure in China',
    suffix: 'azure-devices-provisioning.cn',
    authorityHost: 'https://login.partner.microsoftonline.cn',
    idScopePrefix: '0cn',
    cliName: 'AzureChinaCloud',
  },
  {
    name: 'Azure Government',
    suffix: 'azure-devices-provisioning.us',
    authorityHost: 'https://login.microsoftonline.us',
    idScopePrefix: '0us',
    cliName: 'AzureUSGovernment',
  },
];

/** The cloud of a provisioning service, `NAME.` before the suffix; undefined for every other host. */
export function cloudOfHost(hostname: string): Cloud | undefined {
  const [, suffix] = /^[a-z0-9-]+\.([a-z.-]+)$/.exec(hostname.toLowerCase()) ?? [];
  return clouds.find((cloud) => cloud.suffix === suffix);
}

/** Where all devices of a cloud register. */
export function globalHostOf({ suffix }: Cloud): string {
  return `global.${suffix}`;
}

/**
 * The cloud that an ID scope is of, where it is another one than that of the host; undefined where they fit, or where
 * either of them tells nothing.
 */
export function otherCloudOfScope(idScope: string, hostname: string): Cloud | undefined {
  const ofHost = cloudOfHost(hostname);
  const ofScope = clouds.find(({ idScopePrefix }) => idScope.toLowerCase().startsWith(idScopePrefix));
  return ofHost === undefined || ofScope === undefined || ofScope === ofHost ? undefined : ofScope;
}
