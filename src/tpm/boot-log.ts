/** The TCG event log of the machine's boot, which the Linux kernel keeps beside each TPM. */
import { systemErrorCode } from '../errors.ts';

/** A log is some tens of kilobytes; what is longer by far is none. */
const LIMIT_BYTES = 64 * 1024 * 1024;

/** The kernel gives this file the size 0 whatever it holds. */
function logFile(number: string): string {
  return `/sys/kernel/security/tpm${number}/binary_bios_measurements`;
}

/**
 * Size of the log in bytes; 0 where there is none, where it may not be read (it is root's), and for a TPM that is not
 * the machine's own.
 * @param tpmName the device node, such as `/dev/tpmrm0`, or another name that has no log
 * @param open how the machine reads a file
 */
export async function bootLogSize(
  tpmName: string,
  open: (file: string) => AsyncIterable<Buffer>,
): Promise<number> {
  const number = /^\/dev\/tpm(?:rm)?(\d+)$/.exec(tpmName)?.[1];
  if (number === undefined) return 0;
  let size = 0;
  try {
    for await (const piece of open(logFile(number))) {
      size += piece.length;
      if (size > LIMIT_BYTES) return 0;
    }
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return 0;
  }
  return size;
}
