/** How the IoT Hub of a device is reached. */
import type { Agent } from 'node:http';
import { Option } from 'commander';
import type { Proxy } from '../../src/dps/proxy.ts';
import type { HubOptions } from '../../src/hub/hub-request.ts';
import type { DeviceIdentity } from '../../src/slot/device-identity.ts';
import type { ModuleHub } from '../../src/station/modules.ts';
import type { HubCheck } from '../../src/station/registration.ts';
import type { Context, Network } from './context.ts';

/** Where the hub is: known once the slot's URI has been read. */
export async function hubAddress(
  context: Context,
  hubHost: string | undefined,
): Promise<(identity: Pick<DeviceIdentity, 'hostName'>) => Promise<HubOptions>> {
  const { parseServiceHost } = await import('../../src/dps/service-host.ts');
  const words = {
    what: 'the host of the hub',
    form: 'name.azure-devices.net or host:port, without https://',
  };
  const host = hubHost ?? context.settings.line.hubHost;
  const given = host === undefined ? undefined : parseServiceHost(host, words);
  // Also where no hub is asked in the end: what cannot be used is said before anything is done.
  await context.extraCertificates();
  return async ({ hostName }) => {
    const { proxy, ...network } = await context.network(host ?? hostName);
    return {
      ...(given ?? { hostname: hostName, port: 443 }),
      ...network,
      ...(proxy === undefined ? {} : { agent: await tunnel(proxy, network), proxy: proxy.name }),
      userAgent: context.host.tool,
      signal: context.host.signal,
      clock: () => context.host.clock().getTime(),
    };
  };
}

/** One connection for each request, as without a proxy. */
async function tunnel(proxy: Proxy, { ca, timeoutMs }: Omit<Network, 'proxy'>): Promise<Agent> {
  const [{ TunnelAgent }, { secureContextWith }] = await Promise.all([
    import('../../src/dps/proxy-agent.ts'),
    import('../../src/trusted-certificates.ts'),
  ]);
  const trust = ca === undefined ? {} : { secureContext: secureContextWith(ca) };
  const options = { keepAlive: false, maxSockets: 1, timeout: timeoutMs, connectTimeoutMs: timeoutMs };
  return new TunnelAgent({ ...options, ...trust, proxy });
}

export interface HubCheckSettings {
  readonly verifyHub?: boolean;
  readonly hubHost?: string;
}

export function hubHostOption(): Option {
  return new Option(
    '--hub-host <host>',
    'where the hub is, if not where its name says: a host, or host:port [IOTDM_HUB_HOST]',
  );
}

export function hubCheckOptions(): Option[] {
  return [
    new Option('--verify-hub', 'also fail where the hub cannot be asked whether it accepts the identity'),
    new Option('--no-verify-hub', 'do not ask the hub'),
    hubHostOption(),
  ];
}

/** How the hub is asked about a new identity; nothing where it is not to be asked. */
export async function hubCheckOf(
  context: Context,
  { verifyHub, hubHost }: HubCheckSettings,
): Promise<{ readonly hubCheck?: HubCheck }> {
  if (verifyHub === false || context.settings.dryRun) return {};
  const { hubCheck } = await import('../../src/station/hub-check.ts');
  const check = hubCheck({
    hub: await hubAddress(context, hubHost),
    now: () => Math.floor(context.host.clock().getTime() / 1000),
    required: verifyHub === true,
    onUnasked: ({ message }) => {
      context.console.warn(`the hub was not asked whether it accepts the identity: ${message}`);
    },
  });
  return { hubCheck: check };
}

/** The hub as modules need it. */
export async function moduleHub(context: Context, hubHost: string | undefined): Promise<ModuleHub> {
  const [{ readOrCreateModule }, hub] = await Promise.all([
    import('../../src/hub/module-identities.ts'),
    hubAddress(context, hubHost),
  ]);
  return {
    moduleIdentity: async (device, moduleId, token) =>
      readOrCreateModule(await hub(device), device.deviceId, moduleId, token),
  };
}
