/** A TPM behind a Linux character device: `/dev/tpmrm0` (the kernel's resource manager) or `/dev/tpm0`. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { because, IotdmError, systemErrorCode, withEffect } from '../../errors.ts';
import { checkWholeResponse, MAX_RESPONSE_BYTES, withTimeLimit, type TpmTransport } from '../transport.ts';

/** Between two looks for a response. */
const FIRST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 20;

/** The part of a file handle that the transport uses; a test puts a fake here, as no test machine has a chip. */
export interface DeviceFile {
  write(bytes: Buffer): Promise<{ bytesWritten: number }>;
  read(buffer: Buffer): Promise<{ bytesRead: number; buffer: Buffer }>;
  close(): Promise<void>;
}

export type OpenDevice = (path: string) => Promise<DeviceFile>;

/**
 * The driver takes one whole command per write and gives its whole response in one read.
 * A command that outlasts the time limit cannot be called back: it runs on in the chip.
 * @param timeoutMs time limit of one command
 * @throws IotdmError `tpm-unavailable.not-found`, `.permission`, `.busy`
 */
export async function openDeviceTransport(
  path: string,
  timeoutMs: number,
  openDevice: OpenDevice = openCharacterDevice,
): Promise<TpmTransport> {
  let file: DeviceFile;
  try {
    file = await openDevice(path);
  } catch (error) {
    throw openFailure(path, error);
  }
  let dead: IotdmError | undefined;
  const exchange = async (command: Buffer): Promise<Buffer> => {
    const { bytesWritten } = await file.write(command);
    if (bytesWritten !== command.length) {
      throw new IotdmError(
        'tpm-unavailable.protocol',
        `${path} took ${bytesWritten} of ${command.length} bytes of a command`,
        // The driver passes whole commands on, and nothing else.
        { effect: 'none' },
      );
    }
    const response = Buffer.alloc(MAX_RESPONSE_BYTES);
    for (let pause = FIRST_PAUSE_MS; dead === undefined; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      const bytesRead = await readIfReady(file, response);
      if (bytesRead > 0) return checkWholeResponse(path, response.subarray(0, bytesRead));
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    throw dead;
  };
  return {
    name: path,
    send: async (command) => {
      if (dead !== undefined) throw withEffect(dead, 'none');
      try {
        return await withTimeLimit(path, timeoutMs, exchange(command));
      } catch (error) {
        dead = ioFailure(path, error);
        throw dead;
      }
    },
    close: async () => {
      // After a time-out a read is still under way; closing would wait for the chip.
      if (dead?.code !== 'tpm-unavailable.timeout') await file.close();
    },
  };
}

/** Until the response is there the driver gives nothing, or says EAGAIN. */
async function readIfReady(file: DeviceFile, response: Buffer): Promise<number> {
  try {
    return (await file.read(response)).bytesRead;
  } catch (error) {
    if (systemErrorCode(error) === 'EAGAIN') return 0;
    throw error;
  }
}

/** Without waiting in the kernel: a read that never ends would keep the process from ending too. */
const openCharacterDevice: OpenDevice = async (path) => {
  const file = await open(path, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    if ((await file.stat()).isCharacterDevice()) return file;
    throw new IotdmError('tpm-unavailable.not-found', `${path} is not a device`, {
      details: because('no-device-node'),
    });
  } catch (error) {
    await file.close();
    throw error;
  }
};

function openFailure(path: string, error: unknown): IotdmError {
  if (error instanceof IotdmError) return error;
  const code = systemErrorCode(error);
  switch (code) {
    case 'ENOENT':
    case 'ENODEV':
    case 'ENXIO':
    case 'EISDIR':
      return new IotdmError('tpm-unavailable.not-found', `there is no TPM at ${path}`, { cause: error });
    case 'EACCES':
    case 'EPERM':
      return new IotdmError('tpm-unavailable.permission', `no permission to use ${path}`, { cause: error });
    case 'EBUSY':
      return new IotdmError('tpm-unavailable.busy', `${path} is in use by another program`, { cause: error });
    default:
      return new IotdmError(
        'tpm-unavailable.connection',
        `cannot open ${path} (${code ?? 'unknown error'})`,
        {
          cause: error,
        },
      );
  }
}

function ioFailure(path: string, error: unknown): IotdmError {
  if (error instanceof IotdmError) return error;
  const reason = systemErrorCode(error) ?? 'unknown error';
  return new IotdmError('tpm-unavailable.connection', `${path} failed while it was in use (${reason})`, {
    cause: error,
    // EBUSY: the driver still has another command's response, and takes no command (drivers/char/tpm/tpm-dev-common.c).
    effect: reason === 'EBUSY' ? 'none' : 'unknown',
  });
}
