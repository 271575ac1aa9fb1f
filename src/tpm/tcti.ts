/** Which TPM to talk to, in the notation of tpm2-tools (TCTI strings). */
import { IotdmError } from '../errors.ts';

export type Tcti =
  | { readonly kind: 'device'; readonly path: string }
  | { readonly kind: 'swtpm-tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'swtpm-unix'; readonly path: string }
  | { readonly kind: 'command'; readonly command: string };

/** The kernel's resource manager first: it keeps several programs apart and cleans up after them. */
export const DEFAULT_DEVICES = ['/dev/tpmrm0', '/dev/tpm0'] as const;

/** swtpm's own default port. */
const DEFAULT_SWTPM_PORT = 2321;

/**
 * @param text such as `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`, `swtpm:path=/run/swtpm.sock`, `cmd:ssh dut tpm2_send`
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
    case 'cmd':
      if (rest.trim() === '') throw invalid(text, 'cmd: needs a command, such as cmd:ssh dut tpm2_send');
      return { kind: 'command', command: rest };
    case 'tabrmd':
      throw new IotdmError('usage.unsupported', 'the TPM access broker (tabrmd) is not supported');
    default:
      throw invalid(
        text,
        'expected device:PATH, swtpm:host=HOST,port=PORT, swtpm:path=SOCKET or cmd:COMMAND',
      );
  }
}

function parseSwtpm(text: string, rest: string): Tcti {
  const settings = new Map<string, string>();
  for (const part of rest.split(',').filter((piece) => piece !== '')) {
    const [key, value] = splitAt(part, '=');
    if (!['host', 'port', 'path'].includes(key) || value === '' || settings.has(key)) {
      throw invalid(text, 'swtpm: takes host=HOST,port=PORT or path=SOCKET');
    }
    settings.set(key, value);
  }
  const path = settings.get('path');
  if (path !== undefined) {
    if (settings.size > 1) throw invalid(text, 'swtpm: takes either path or host and port');
    return { kind: 'swtpm-unix', path };
  }
  const port = Number(settings.get('port') ?? DEFAULT_SWTPM_PORT);
  if (!Number.isInteger(port) || port < 1 || port > 65535)
    throw invalid(text, 'the port is a number from 1 to 65535');
  return { kind: 'swtpm-tcp', host: settings.get('host') ?? '127.0.0.1', port };
}

function splitAt(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

function invalid(text: string, expected: string): IotdmError {
  return new IotdmError('usage.invalid', `"${text}" does not name a TPM: ${expected}`);
}
