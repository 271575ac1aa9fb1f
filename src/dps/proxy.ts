/** HTTPS proxies as people write them down, and the hosts that are reached without one. */
import { IotdmError } from '../errors.ts';
import { Secret } from '../secret.ts';

export interface Proxy {
  /** Without user and password. */
  readonly url: URL;
  readonly port: number;
  readonly credentials: { readonly username: string; readonly password: Secret } | undefined;
  /** `host:port`, for messages. */
  readonly name: string;
}

/**
 * Parses `http://[user:password@]host[:port]`, also with `https:` or without a scheme.
 * @throws IotdmError `usage.invalid`, which quotes nothing of it: it may hold a password
 */
export function parseProxy(text: string): Proxy {
  const form = 'a proxy has the form http://host:port, perhaps with user:password@ before the host';
  let url: URL;
  try {
    url = new URL(/^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`);
  } catch {
    throw new IotdmError('usage.invalid', form);
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new IotdmError('usage.invalid', `${form}; ${url.protocol.replace(':', '')} is not supported`);
  }
  if (url.hostname === '' || !['', '/'].includes(url.pathname)) throw new IotdmError('usage.invalid', form);
  const { username, password } = url;
  const credentials =
    username === '' && password === ''
      ? undefined
      : { username: decoded(username), password: Secret.fromText(decoded(password)) };
  url.username = '';
  url.password = '';
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  return { url, port, credentials, name: `${url.hostname}:${port}` };
}

/** A `%` that stands for nothing else is a part of the password. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * Whether `NO_PROXY` names a host: `*`, or entries with commas or spaces between them, each a host that stands for its
 * subdomains as well (`example.com`, `.example.com`, `*.example.com`), perhaps with a port. As curl does.
 */
export function isExemptFromProxy(noProxy: string, host: { hostname: string; port: number }): boolean {
  const hostname = host.hostname.toLowerCase();
  return noProxy
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .some((entry) => {
      // An IPv6 address without brackets looks like a host with a port.
      if (entry === '*' || entry === hostname) return true;
      const [, inBrackets, plain, port] = /^(?:\[([^\]]+)\]|(.*?))(?::([0-9]+))?$/.exec(entry) ?? [];
      if (port !== undefined && Number(port) !== host.port) return false;
      if (inBrackets === hostname) return true;
      const domain = (plain ?? '').replace(/^\*?\./, '');
      return domain !== '' && (hostname === domain || hostname.endsWith(`.${domain}`));
    });
}
