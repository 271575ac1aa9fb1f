/** Which TPM to talk to, in the notation of tpm2-tools (TCTI strings). */
import { IotdmError } from '../errors.ts';

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
 *   `mssim:host=127.0.0.1,port=2321`, `cmd:ssh dut tpm2_send`, `tbs`
 * @throws IotdmError `usage.invalid`, `usage.unsupported`
 */
export function parseTcti(text: string): Tcti {
  const [kind, rest] = splitAt(text.trim(), ':');
  // tpm2-tools also takes the name of the library behind a TCTI.
  const name = kind.replace(/^libtss2-tcti-/, '').replace(/\.so(\.\d+)*$/, '');
  switch (name) {
    case 'device':
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
      throw new IotdmError('usage.unsupported', 'the TPM access broker (tabrmd) is not supported');
    default:
      throw invalid(
        text,
        'expected device:PATH, swtpm:host=HOST,port=PORT, swtpm:path=SOCKET, mssim:host=HOST,port=PORT, cmd:COMMAND or tbs',
      );
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
    const [key, value] = splitAt(part, '=');
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
  return { host: settings.get('host') ?? '127.0.0.1', port };
}

function splitAt(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

function invalid(text: string, expected: string): IotdmError {
  return new IotdmError('usage.invalid', `"${text}" does not name a TPM: ${expected}`);
}
