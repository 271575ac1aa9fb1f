/** Which TPM to talk to, in the notation of tpm2-tools (TCTI strings). */
import { isIPv6 } from 'node:net';
import { because, IotdmError } from '../errors.ts';

export type Tcti =
  | { readonly kind: 'device'; readonly path: string }
  | { readonly kind: 'swtpm-tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'swtpm-unix'; readonly path: string }
  | { readonly kind: 'mssim'; readonly host: string; readonly port: number }
  | { readonly kind: 'command'; readonly command: string }
  | { readonly kind: 'tbs' };

/** The kernel's resource manager first: it keeps several programs apart and cleans up after them. */
export const DEFAULT_DEVICES = ['/dev/tpmrm0', '/dev/tpm0'] as const;

/** The default port of swtpm, and of Microsoft's simulator. */
const DEFAULT_PORT = 2321;
const MAX_PORT = 65535;

/**
 * @param text such as `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`, `swtpm:path=/run/swtpm.sock`,
 *   `mssim:host=[::1],port=2321`, `cmd:ssh dut tpm2_send`, `tbs`
 * @throws IotdmError `usage.invalid`, `usage.unsupported`; what was probably meant is in the message and, as `meant`, in
 *   the details
 */
export function parseTcti(text: string): Tcti {
  const [kind, rest] = splitAt(text.trim(), ':');
  // tpm2-tools also takes the name of the library behind a TCTI.
  const name = kind.replace(/^libtss2-tcti-/, '').replace(/\.so(\.\d+)*$/, '');
  switch (name) {
    case 'device':
      // Nobody means a file of that name in the working directory.
      if (deviceNode.test(rest)) throw unnamed(text);
      return { kind: 'device', path: rest === '' ? DEFAULT_DEVICES[0] : rest };
    case 'swtpm':
      return parseSwtpm(text, rest);
    case 'mssim':
      return parseMssim(text, rest);
    case 'cmd':
      if (rest.trim() === '') throw invalid(text, 'cmd: needs a command, such as cmd:ssh dut tpm2_send');
      return { kind: 'command', command: rest };
    case 'tbs':
      if (rest !== '') throw invalid(text, 'tbs takes no settings');
      return { kind: 'tbs' };
    case 'tabrmd':
    case 'abrmd':
    case 'tpm2-abrmd':
      throw new IotdmError(
        'usage.unsupported',
        `the TPM access broker (tabrmd) is not supported; did you mean device:${DEFAULT_DEVICES[0]}?`,
        { details: because('access-broker', { meant: `device:${DEFAULT_DEVICES[0]}` }) },
      );
    default:
      throw unnamed(text);
  }
}

/** `host:port` as it is written, an IPv6 address in brackets. */
export function formatAddress(host: string, port: number): string {
  return `${isIPv6(host) ? `[${host}]` : host}:${port}`;
}

/** The file name of a TPM's device. */
const deviceNode = /^tpm(?:rm)?[0-9]{1,4}$/i;

/** What people write in place of a notation, and the notation. The first that fits and can be parsed is what was meant. */
const mistaken: readonly (readonly [RegExp, (found: RegExpExecArray) => string])[] = [
  [
    /^(?:device[:=]?\s*)?(?:\/*dev\/)?(tpm(?:rm)?[0-9]{1,4})$/i,
    ([, node = '']) => `device:/dev/${node.toLowerCase()}`,
  ],
  [/^(?:device[:=]?\s*|file:(?:\/\/)?)?(\/dev\/\S+)$/i, ([, path = '']) => `device:${path}`],
  [/^(?:(?:unix|socket|swtpm|unixio):(?:\/\/)?|path=)?(\/\S+)$/i, ([, path = '']) => `swtpm:path=${path}`],
  [
    /^(?:(?:tcp|socket|simulator|sim|swtpm):(?:\/\/)?)?(localhost|[0-9.]+|[\w-]+(?:\.[\w-]+)+|\[[0-9a-f:.]+\]):([0-9]{1,5})$/i,
    ([, host = '', port = '']) => `swtpm:host=${host},port=${port}`,
  ],
  [
    /^(?:tcp|socket|swtpm):(?:\/\/)?([\w-]+):([0-9]{1,5})$/i,
    ([, host = '', port = '']) => `swtpm:host=${host},port=${port}`,
  ],
  [
    /^mssim:(?:\/\/)?([\w.-]+|\[[0-9a-f:.]+\]):([0-9]{1,5})$/i,
    ([, host = '', port = '']) => `mssim:host=${host},port=${port}`,
  ],
  [
    /^(swtpm|mssim):host=([\w.-]+|\[[0-9a-f:.]+\]):([0-9]{1,5})$/i,
    ([, kind = '', host = '', port = '']) => `${kind.toLowerCase()}:host=${host},port=${port}`,
  ],
  [/^((?:host|port)=\S+)$/i, ([, settings = '']) => `swtpm:${settings}`],
  [/^(?:port:?\s*)?([0-9]{2,5})$/i, ([, port = '']) => `swtpm:port=${port}`],
  [/^(?:windows|tbsi|tbs\.dll|\\\\\.\\tpm)$/i, () => 'tbs'],
  [/^(device|swtpm|mssim|cmd|tbs)(:.*)?$/is, ([, kind = '', rest = '']) => `${kind.toLowerCase()}${rest}`],
  [/^(?:pcap|command):(.+)$/is, ([text, rest = '']) => (text.startsWith('c') ? `cmd:${rest}` : rest)],
  [/^(?:ssh|sudo|docker|podman|kubectl|tpm2_send)\s.*$|^tpm2_send$/is, ([command]) => `cmd:${command}`],
];

/** The notation that a text was probably meant to be, or undefined where nothing is near. */
function meantBy(text: string): string | undefined {
  const written = text.trim();
  for (const [pattern, notation] of mistaken) {
    const found = pattern.exec(written);
    const meant = found === null ? undefined : notation(found);
    if (meant !== undefined && meant !== written && isTcti(meant)) return meant;
  }
  return undefined;
}

function isTcti(text: string): boolean {
  try {
    parseTcti(text);
    return true;
  } catch {
    return false;
  }
}

function parseSwtpm(text: string, rest: string): Tcti {
  const settings = parseSettings(text, rest, ['host', 'port', 'path'], 'host=HOST,port=PORT or path=SOCKET');
  const path = settings.get('path');
  if (path !== undefined) {
    if (settings.size > 1) throw invalid(text, 'swtpm: takes either path or host and port');
    return { kind: 'swtpm-unix', path };
  }
  return { kind: 'swtpm-tcp', ...parseAddress(text, settings, MAX_PORT) };
}

function parseMssim(text: string, rest: string): Tcti {
  const settings = parseSettings(text, rest, ['host', 'port'], 'host=HOST,port=PORT');
  // The port after it is needed too, for the platform's signals.
  return { kind: 'mssim', ...parseAddress(text, settings, MAX_PORT - 1) };
}

function parseSettings(
  text: string,
  rest: string,
  known: readonly string[],
  expected: string,
): Map<string, string> {
  const settings = new Map<string, string>();
  for (const part of rest.split(',').filter((piece) => piece !== '')) {
    const [key, value] = splitAt(part.trim(), '=');
    if (!known.includes(key) || value === '' || settings.has(key)) {
      throw invalid(text, `${splitAt(text.trim(), ':')[0]}: takes ${expected}`);
    }
    settings.set(key, value);
  }
  return settings;
}

function parseAddress(
  text: string,
  settings: ReadonlyMap<string, string>,
  highest: number,
): { host: string; port: number } {
  const port = Number(settings.get('port') ?? DEFAULT_PORT);
  if (!Number.isInteger(port) || port < 1 || port > highest)
    throw invalid(text, `the port is a number from 1 to ${highest}`);
  return { host: hostOf(text, settings.get('host') ?? '127.0.0.1'), port };
}

/** An IPv6 address is the same with brackets and without. */
function hostOf(text: string, written: string): string {
  const inBrackets = /^\[(.*)\]$/.exec(written)?.[1];
  const host = inBrackets ?? written;
  if (isIPv6(host)) return host;
  if (inBrackets !== undefined) throw invalid(text, 'an IPv6 address is expected in the brackets');
  if (/[:[\]]/.test(host))
    throw invalid(text, 'the host is a name or an address; its port is given as port=PORT');
  return host;
}

function splitAt(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

function unnamed(text: string): IotdmError {
  return invalid(
    text,
    'expected device:PATH, swtpm:host=HOST,port=PORT, swtpm:path=SOCKET, mssim:host=HOST,port=PORT, cmd:COMMAND or tbs',
  );
}

function invalid(text: string, expected: string): IotdmError {
  const meant = meantBy(text);
  if (meant === undefined)
    return new IotdmError('usage.invalid', `"${text}" does not name a TPM: ${expected}`);
  const shown = /\s/.test(meant) ? `"${meant}"` : meant;
  return new IotdmError('usage.invalid', `"${text}" does not name a TPM; did you mean ${shown}?`, {
    details: { meant },
  });
}
