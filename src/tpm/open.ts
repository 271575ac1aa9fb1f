/** Opens the transport that a TCTI names. */
import { IotdmError } from '../errors.ts';
import { DEFAULT_DEVICES, type Tcti } from './tcti.ts';
import type { TpmTransport } from './transport.ts';
import { openCommandTransport } from './transports/command.ts';
import { openDeviceTransport, type OpenDevice } from './transports/device.ts';
import { openSocketTransport } from './transports/socket.ts';

/**
 * @param tcti which TPM; undefined takes the first of the machine's own devices that is there
 * @param timeoutMs time limit of one command
 * @throws IotdmError `tpm-unavailable.*`
 */
export async function openTransport(
  tcti: Tcti | undefined,
  timeoutMs: number,
  openDevice?: OpenDevice,
): Promise<TpmTransport> {
  switch (tcti?.kind) {
    case 'device':
      return openDeviceTransport(tcti.path, timeoutMs, openDevice);
    case 'swtpm-tcp':
      return openSocketTransport(
        `${tcti.host}:${tcti.port}`,
        { host: tcti.host, port: tcti.port },
        timeoutMs,
      );
    case 'swtpm-unix':
      return openSocketTransport(tcti.path, { path: tcti.path }, timeoutMs);
    case 'command':
      return openCommandTransport(tcti.command, timeoutMs);
    case undefined:
      return openDefault(timeoutMs, openDevice);
  }
}

async function openDefault(timeoutMs: number, openDevice?: OpenDevice): Promise<TpmTransport> {
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
