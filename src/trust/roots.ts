/** The certificates that an operator trusts to vouch for TPMs: root certificates, and intermediates between. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { X509Certificate } from 'node:crypto';
import { IotdmError, systemErrorCode } from '../errors.ts';

/** A certificate that was read but not yet taken apart: of hundreds, a chain needs three. */
export interface GivenCertificate {
  readonly der: Buffer;
  readonly openssl: X509Certificate;
  /** Self-signed: trust ends here. */
  readonly isRoot: boolean;
}

export interface TrustedCertificates {
  readonly certificates: readonly GivenCertificate[];
  /** Files of a directory that look like certificates and are none. */
  readonly skipped: readonly string[];
}

/** Nobody is trusted. */
export const nobody: TrustedCertificates = { certificates: [], skipped: [] };

/** What vendors and distributions call certificate files. */
const CERTIFICATE_FILE = /\.(pem|crt|cer|der)$/i;

/** A bundle of all vendors' certificates has less than 1 MiB. */
const MAX_FILE_BYTES = 4 * 1024 * 1024;

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----/g;

/**
 * Reads root and intermediate certificates: files with one DER or any number of PEM certificates, and directories of
 * such files, subdirectories included. In a directory, files without a certificate (keys, settings) are passed over.
 * @throws IotdmError `input.unreadable`, `input.invalid` naming a file that holds no certificate
 */
export async function readTrustedCertificates(paths: readonly string[]): Promise<TrustedCertificates> {
  const found = new Map<string, GivenCertificate>();
  const skipped: string[] = [];
  for (const path of paths) {
    for (const { file, named } of await filesAt(path)) {
      try {
        for (const der of certificatesIn(await readSmallFile(file))) {
          const given = describeGiven(der);
          found.set(given.openssl.fingerprint256, given);
        }
      } catch (cause) {
        if (!named && cause instanceof IotdmError && cause.code === 'input.invalid') {
          skipped.push(file);
          continue;
        }
        if (cause instanceof IotdmError && cause.code === 'input.invalid') {
          throw new IotdmError('input.invalid', `${file}: ${cause.message}`, { cause });
        }
        throw cause;
      }
    }
  }
  return { certificates: [...found.values()], skipped };
}

/** The same from certificates in memory. @throws IotdmError `input.invalid` */
export function trustedCertificates(ders: readonly Buffer[]): TrustedCertificates {
  return { certificates: ders.map(describeGiven), skipped: [] };
}

/**
 * The DER certificates in a file's bytes: one DER certificate, or all PEM ones in their order.
 * @throws IotdmError `input.invalid` when there is none
 */
export function certificatesIn(bytes: Buffer): Buffer[] {
  if (bytes[0] === 0x30) return [bytes];
  const ders = [...bytes.toString('latin1').matchAll(PEM_CERTIFICATE)].map(([, body = '']) =>
    Buffer.from(body.replace(/\s+/g, ''), 'base64'),
  );
  if (ders.length === 0) throw new IotdmError('input.invalid', 'there is no PEM or DER certificate in it');
  return ders;
}

/** @throws IotdmError `input.unreadable` */
async function filesAt(path: string): Promise<{ file: string; named: boolean }[]> {
  try {
    if (!(await stat(path)).isDirectory()) return [{ file: path, named: true }];
    const entries = await readdir(path, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => CERTIFICATE_FILE.test(entry.name) && !entry.isDirectory())
      .map((entry) => ({ file: join(entry.parentPath, entry.name), named: false }))
      .sort((one, other) => (one.file < other.file ? -1 : 1));
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

async function readSmallFile(file: string): Promise<Buffer> {
  try {
    if ((await stat(file)).size > MAX_FILE_BYTES) {
      throw new IotdmError('input.invalid', `it is longer than ${MAX_FILE_BYTES} bytes`);
    }
    return await readFile(file);
  } catch (cause) {
    throw unreadable(file, cause);
  }
}

function unreadable(path: string, cause: unknown): unknown {
  const code = systemErrorCode(cause);
  if (cause instanceof IotdmError || code === undefined) return cause;
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: 'there is no such file or directory',
    EACCES: 'permission denied',
  };
  return new IotdmError('input.unreadable', `cannot read ${path}: ${reasons[code] ?? code}`, { cause });
}

function describeGiven(der: Buffer): GivenCertificate {
  try {
    const openssl = new X509Certificate(der);
    if (!openssl.raw.equals(der)) throw new TypeError('not DER');
    return { der, openssl, isRoot: openssl.checkIssued(openssl) && isSelfSigned(openssl) };
  } catch (cause) {
    throw new IotdmError('input.invalid', 'it holds something that is no certificate', { cause });
  }
}

function isSelfSigned(certificate: X509Certificate): boolean {
  try {
    return certificate.verify(certificate.publicKey);
  } catch {
    return false;
  }
}
