/** Errors of the operating system, as they meet iotdm on a TPM's device node, in files and on the network. */
import type { ErrorCode } from '../../src/errors.ts';
import type { Entry } from './entry.ts';
import { ownCodes } from './own-codes.ts';

interface SystemEntry {
  /** Linux' number, where there is one. */
  readonly number?: number;
  readonly meaning: string;
  readonly cause: string;
  /** A text, or the error code whose fix it is. */
  readonly fix: Entry['fix'] | { readonly as: ErrorCode };
}

const device: { readonly as: ErrorCode } = { as: 'tpm-unavailable.not-found' };
const reach = 'check the host name, the network and whether a proxy is needed';

const entries = {
  EPERM: {
    number: 1,
    meaning: 'the operation is not permitted',
    cause: 'a container without the device /dev/tpmrm0, or a security module that keeps it away',
    fix: 'run as root; a container needs the device: docker run --device /dev/tpmrm0 …',
  },
  ENOENT: {
    number: 2,
    meaning: 'there is no such file or device',
    cause:
      'for /dev/tpmrm0: the TPM is switched off in the firmware settings, the kernel has no driver for it, or a container was not given it; for a file: a mistyped name',
    fix: device,
  },
  EIO: {
    number: 5,
    meaning: 'reading or writing failed',
    cause: 'the TPM does not answer its driver, after suspend or because of a loose module',
    fix: 'restart the device; see what the driver says: journalctl -k | grep -i tpm',
  },
  ENXIO: {
    number: 6,
    meaning: 'there is no such device',
    cause: 'a device node without a device behind it',
    fix: device,
  },
  E2BIG: {
    number: 7,
    meaning: 'the command is longer than the driver takes',
    cause: 'a TPM command of more than 4096 bytes',
    fix: { as: 'internal.unexpected' },
  },
  EAGAIN: {
    number: 11,
    meaning: 'not now',
    cause: 'the device is busy',
    fix: { as: 'tpm-unavailable.busy' },
  },
  ENOMEM: {
    number: 12,
    meaning: 'the system has no memory left',
    cause: 'too many programs on a small device',
    fix: 'end other programs and run the command again',
  },
  EACCES: {
    number: 13,
    meaning: 'permission denied',
    cause:
      'for /dev/tpmrm0: it belongs to root and the group tss, and this user is neither; for a file: it belongs to somebody else',
    fix: { as: 'tpm-unavailable.permission' },
  },
  EBUSY: {
    number: 16,
    meaning: 'the device is in use',
    cause: '/dev/tpm0 serves one program at a time, and tpm2-abrmd or another program holds it',
    fix: 'use --tpm device:/dev/tpmrm0; what holds it is shown by: sudo fuser -v /dev/tpm0',
  },
  EEXIST: {
    number: 17,
    meaning: 'the file exists',
    cause: 'an output file of an earlier run',
    fix: { as: 'usage.output-exists' },
  },
  ENODEV: {
    number: 19,
    meaning: 'there is no such device',
    cause: 'the driver has let go of the TPM',
    fix: device,
  },
  ENOTDIR: {
    number: 20,
    meaning: 'a part of the path is no folder',
    cause: 'a mistyped name',
    fix: { as: 'input.unreadable' },
  },
  EISDIR: {
    number: 21,
    meaning: 'it is a folder',
    cause: 'a folder was given in place of a file or device',
    fix: { as: 'input.unreadable' },
  },
  EINVAL: {
    number: 22,
    meaning: 'invalid argument',
    cause: 'the driver does not take what was written to it as a TPM command',
    fix: 'check that --tpm names a TPM: device:/dev/tpmrm0',
  },
  EMFILE: {
    number: 24,
    meaning: 'this process has too many files open',
    cause: 'a low limit of open files',
    fix: 'raise the limit with: ulimit -n 4096; or lower --concurrency',
  },
  ENOSPC: {
    number: 28,
    meaning: 'the disk is full',
    cause: 'journals and manifests that were never tidied away',
    fix: { as: 'usage.output-unwritable' },
  },
  EROFS: {
    number: 30,
    meaning: 'the file system is read-only',
    cause: 'an image that is mounted read-only',
    fix: { as: 'usage.output-unwritable' },
  },
  EPIPE: {
    number: 32,
    meaning: 'the other end of the connection is gone',
    cause: 'the program behind --tpm cmd:… or the simulator has ended',
    fix: { as: 'tpm-unavailable.connection' },
  },
  ETIME: {
    number: 62,
    meaning: 'the device did not answer in time',
    cause: "the kernel's own limit for a TPM command has passed; the TPM hangs or makes a key",
    fix: 'restart the device; see what the driver says: journalctl -k | grep -i tpm',
  },
  EPROTO: {
    number: 71,
    meaning: 'the protocol was broken',
    cause: 'no TLS at the other end, or a proxy between',
    fix: { as: 'network.tls' },
  },
  EADDRINUSE: {
    number: 98,
    meaning: 'the port is taken',
    cause: 'another simulator or emulator, or another service',
    fix: 'choose another port, or leave it out and any free one is taken; see: iotdm simulator status, iotdm emulator status',
  },
  ENETUNREACH: { number: 101, meaning: 'there is no route to the network', cause: 'no network', fix: reach },
  ECONNABORTED: {
    number: 103,
    meaning: 'the connection was cut',
    cause: 'a network that fails now and then',
    fix: { as: 'network.unavailable' },
  },
  ECONNRESET: {
    number: 104,
    meaning: 'the other end cut the connection',
    cause: 'a proxy or firewall, or a simulator that serves one client at a time',
    fix: { as: 'network.unavailable' },
  },
  ETIMEDOUT: {
    number: 110,
    meaning: 'no answer in time',
    cause: 'a firewall that drops packets, or a host that is down',
    fix: { as: 'network.timeout' },
  },
  ECONNREFUSED: {
    number: 111,
    meaning: 'nothing listens at this port',
    cause: 'the simulator or emulator is not running, or the port is another one',
    fix: 'see: iotdm simulator status, iotdm emulator status',
  },
  EHOSTUNREACH: {
    number: 113,
    meaning: 'there is no route to the host',
    cause: 'a wrong address, or a host that is down',
    fix: reach,
  },
  ENOTFOUND: {
    meaning: 'the host name is not known',
    cause: 'a mistyped name, or no name server',
    fix: reach,
  },
  EAI_AGAIN: {
    meaning: 'the host name cannot be looked up at the moment',
    cause: 'no network, or a name server that does not answer',
    fix: reach,
  },
} as const satisfies Readonly<Record<string, SystemEntry>>;

export type SystemErrorName = keyof typeof entries;

export const systemErrorNames = Object.keys(entries) as SystemErrorName[];

export function isSystemErrorName(text: string): text is SystemErrorName {
  return Object.hasOwn(entries, text);
}

/** The name of a number of Linux, such as `EACCES` for 13. */
export function systemErrorOfNumber(number: number): SystemErrorName | undefined {
  return systemErrorNames.find((name) => (entries[name] as SystemEntry).number === number);
}

export function systemError(name: SystemErrorName): Entry {
  const { meaning, cause, fix } = entries[name] as SystemEntry;
  return { meaning, cause, fix: typeof fix === 'object' ? ownCodes[fix.as].fix : fix };
}
