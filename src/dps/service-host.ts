/** The address of a provisioning service as people write it: a host name or an IP address, perhaps with a port. */

import { isIPv4, isIPv6 } from 'node:net';
import { IotdmError } from '../errors.ts';
import { hostNameProblem } from './enrollment.ts';

export interface ServiceHost {
  /** For the socket: an IPv6 address without its brackets. */
  readonly hostname: string;
  /** 443 unless one is given. */
  readonly port: number;
}

/** What a host is called in an error, and what it should look like. */
export interface HostWords {
  readonly what: string;
  readonly form: string;
}

const ofService: HostWords = {
  what: "the provisioning service's host",
  form: 'name.azure-devices-provisioning.net or host:port, without https://',
};
/** Whether a host name or address is this machine itself. */
export function isLoopback(hostname: string): boolean {
  return (
    hostname.toLowerCase() === 'localhost' ||
    hostname === '::1' ||
    (isIPv4(hostname) && hostname.startsWith('127.'))
  );
}

/**
 * Splits `name.azure-devices-provisioning.net`, `127.0.0.1:8443`, `localhost:8443` or `[::1]:8443`.
 * Throws `usage.invalid`, without quoting the text: it may be a connection string in the wrong place.
 */
export function parseServiceHost(text: string, { what, form }: HostWords = ofService): ServiceHost {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]/@\s]+))(?::([0-9]{1,5}))?$/.exec(text);
  const hostname = match?.[1] ?? match?.[2];
  const port = Number(match?.[3] ?? 443);
  const valid =
    hostname !== undefined &&
    (match?.[1] === undefined
      ? isIPv4(hostname) || hostNameProblem(hostname) === undefined
      : isIPv6(hostname));
  if (!valid || port < 1 || port > 65535) {
    throw new IotdmError('usage.invalid', `${what} does not have the form ${form}`);
  }
  return { hostname, port };
}
