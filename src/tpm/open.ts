/** Opens the transport that a TCTI names. */
import { because, IotdmError } from '../errors.ts';
import { DEFAULT_DEVICES, formatAddress, type Tcti } from './tcti.ts';
import type { TpmTransport } from './transport.ts';
import { openCommandTransport } from './transports/command.ts';
import { openDeviceTransport, type OpenDevice } from './transports/device.ts';
import { openMssimTransport } from './transports/mssim.ts';
import { openSocketTransport } from './transports/socket.ts';
import { openTbsTransport, type LoadTbs } from './transports/tbs.ts';

/** What a machine has in the way of TPMs of its own; a test describes another machine than the one it runs on. */
export interface Machine {
  readonly platform?: NodeJS.Platform;
  readonly openDevice?: OpenDevice;
  readonly loadTbs?: LoadTbs;
}

/**
 * @param tcti which TPM; undefined takes the machine's own: that of the TPM Base Services on Windows, elsewhere the
 *   first device that is there
 * @param timeoutMs time limit of one command
 * @throws IotdmError `tpm-unavailable.*`, `usage.unsupported`
 */
export async function openTransport(
  tcti: Tcti | undefined,
  timeoutMs: number,
  machine: Machine = {},
): Promise<TpmTransport> {
  const platform = machine.platform ?? process.platform;
  switch (tcti?.kind) {
    case 'device':
      return openDeviceTransport(tcti.path, timeoutMs, machine.openDevice);
    case 'swtpm-tcp':
      return openSocketTransport(
        formatAddress(tcti.host, tcti.port),
        { host: tcti.host, port: tcti.port },
        timeoutMs,
      );
    case 'swtpm-unix':
      return openSocketTransport(tcti.path, { path: tcti.path }, timeoutMs);
    case 'mssim':
      return openMssimTransport(tcti.host, tcti.port, timeoutMs);
    case 'command':
      return openCommandTransport(tcti.command, timeoutMs);
    case 'tbs':
      if (platform !== 'win32') {
        throw new IotdmError('usage.unsupported', `tbs is Windows' way to the TPM, and this is ${platform}`, {
          details: because('not-windows'),
        });
      }
      return openTbsTransport(timeoutMs, machine.loadTbs);
    case undefined:
      return platform === 'win32'
        ? openTbsTransport(timeoutMs, machine.loadTbs)
        : openFirstDevice(timeoutMs, machine.openDevice);
  }
}

async function openFirstDevice(timeoutMs: number, openDevice?: OpenDevice): Promise<TpmTransport> {
  for (const path of DEFAULT_DEVICES) {
    try {
      return await openDeviceTransport(path, timeoutMs, openDevice);
    } catch (error) {
      if (!(error instanceof IotdmError) || error.code !== 'tpm-unavailable.not-found') throw error;
    }
  }
  throw new IotdmError(
    'tpm-unavailable.not-found',
    `this machine has no TPM at ${DEFAULT_DEVICES.join(' or ')}`,
  );
}
