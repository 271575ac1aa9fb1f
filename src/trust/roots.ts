/** The certificates that an operator trusts to vouch for TPMs: root certificates, and intermediates between. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { certificatesIn, certificatesInFile, mayHoldCertificate } from './certificate-file.ts';
import { parseCertificate, type Certificate } from './certificate.ts';

export interface GivenCertificate {
  readonly certificate: Certificate;
  /** Self-signed: trust ends here. */
  readonly isRoot: boolean;
}

/** Something that was given to trust and is not, with the reason in lower case and without a full stop. */
export interface PassedOver {
  readonly file: string;
  readonly reason: string;
}

export interface TrustedCertificates {
  readonly certificates: readonly GivenCertificate[];
  /** By the subject's key. */
  readonly bySubject: ReadonlyMap<string, readonly GivenCertificate[]>;
  readonly passedOver: readonly PassedOver[];
}

/** Nobody is trusted. */
export const nobody: TrustedCertificates = { certificates: [], bySubject: new Map(), passedOver: [] };

/** What vendors and distributions call certificate files. */
const CERTIFICATE_FILE = /\.(pem|crt|cer|der)$/i;

/** A bundle of all vendors' certificates has less than 4 MiB. */
const MAX_FILE_BYTES = 16 * 1024 * 1024;

/** A file that is not called like a certificate, and is one, is no larger. */
const MAX_OTHER_FILE_BYTES = 64 * 1024;

/**
 * Reads root and intermediate certificates: files with DER or PEM certificates, as many as there are, and directories of
 * files that are called like certificates, subdirectories included. What cannot be used is listed with its reason, as is
 * a certificate in a directory under another name; readme files and the like are not.
 * @throws IotdmError `input.unreadable`; `input.invalid` for a named file that holds no certificate
 */
export async function readTrustedCertificates(paths: readonly string[]): Promise<TrustedCertificates> {
  const store = new Store();
  const others: string[] = [];
  for (const path of paths) {
    const entry = await orUnreadable(path, () => stat(path));
    if (!entry.isDirectory()) {
      const problem = store.take(path, await orUnreadable(path, () => readSmallFile(path, entry.size)));
      if (problem !== undefined) throw new IotdmError('input.invalid', `${path}: ${problem}`);
      continue;
    }
    for (const file of await orUnreadable(path, () => filesIn(path))) {
      if (CERTIFICATE_FILE.test(file)) await takeFound(store, file);
      else if (!/(?:^|[/\\])\./.test(relative(path, file))) others.push(file);
    }
  }
  for (const file of others) await lookAtOther(store, file);
  return store.trusted();
}

/** The same from certificates in memory. @throws IotdmError `input.invalid` */
export function trustedCertificates(ders: readonly Buffer[]): TrustedCertificates {
  const store = new Store();
  for (const der of ders) {
    for (const certificate of certificatesIn(der)) store.add(parseCertificate(certificate));
  }
  return store.trusted();
}

class Store {
  readonly #found = new Map<string, GivenCertificate>();
  readonly passedOver: PassedOver[] = [];

  has({ sha256 }: Certificate): boolean {
    return this.#found.has(sha256);
  }

  add(certificate: Certificate): void {
    const { sha256 } = certificate;
    if (this.#found.has(sha256)) return;
    const ownKey = certificate.mayBeIssuedBy(certificate) ? certificate.publicKey : undefined;
    const isRoot = ownKey !== undefined && certificate.isSignedBy(ownKey);
    this.#found.set(sha256, { certificate, isRoot });
  }

  /** All certificates of a file. @returns why there is none; else what is passed over is listed */
  take(file: string, bytes: Buffer): string | undefined {
    const problems: string[] = [];
    const items = certificatesInFile(bytes);
    for (const [index, item] of items.entries()) {
      const problem = 'problem' in item ? item.problem : this.#problemOf(item.der);
      if (problem === undefined) continue;
      problems.push(items.length === 1 ? problem : `part ${index + 1} of ${items.length}: ${problem}`);
    }
    if (problems.length === items.length) return problems[0];
    for (const reason of problems) this.passedOver.push({ file, reason });
    return undefined;
  }

  #problemOf(der: Buffer): string | undefined {
    try {
      this.add(parseCertificate(der));
      return undefined;
    } catch (cause) {
      if (cause instanceof IotdmError) return cause.message;
      throw cause;
    }
  }

  trusted(): TrustedCertificates {
    const certificates = [...this.#found.values()];
    const bySubject = new Map<string, GivenCertificate[]>();
    for (const given of certificates) {
      const { subjectKey } = given.certificate;
      const sameName = bySubject.get(subjectKey);
      if (sameName === undefined) bySubject.set(subjectKey, [given]);
      else sameName.push(given);
    }
    return { certificates, bySubject, passedOver: this.passedOver };
  }
}

/** A file in a directory that is called like a certificate: what is wrong with it costs no other. */
async function takeFound(store: Store, file: string): Promise<void> {
  let reason: string | undefined;
  try {
    const entry = await stat(file);
    // A pipe would be waited for.
    reason = entry.isFile() ? store.take(file, await readSmallFile(file, entry.size)) : 'it is no file';
  } catch (cause) {
    reason = cause instanceof IotdmError ? cause.message : reasonOf(cause);
    if (reason === undefined) throw cause;
  }
  if (reason !== undefined) store.passedOver.push({ file, reason });
}

/**
 * A file under any other name is not trusted: it may have been renamed to put it out of use. Who did not mean that is
 * told.
 */
async function lookAtOther(store: Store, file: string): Promise<void> {
  let bytes: Buffer;
  try {
    const entry = await stat(file);
    if (!entry.isFile() || entry.size > MAX_OTHER_FILE_BYTES) return;
    bytes = await readFile(file);
  } catch (cause) {
    if (reasonOf(cause) === undefined) throw cause;
    return;
  }
  if (!mayHoldCertificate(bytes) || certificatesIn(bytes).every((der) => isKnown(store, der))) return;
  const reason = 'its name is not that of a certificate: .pem, .crt, .cer or .der';
  store.passedOver.push({ file, reason });
}

/** In the store already, or nothing that could be in it. */
function isKnown(store: Store, der: Buffer): boolean {
  try {
    return store.has(parseCertificate(der));
  } catch (cause) {
    if (cause instanceof IotdmError) return true;
    throw cause;
  }
}

async function filesIn(path: string): Promise<string[]> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted();
}

async function readSmallFile(file: string, size: number): Promise<Buffer> {
  if (size > MAX_FILE_BYTES) {
    throw new IotdmError('input.invalid', `it is longer than ${MAX_FILE_BYTES} bytes`);
  }
  return readFile(file);
}

async function orUnreadable<T>(path: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (cause) {
    if (cause instanceof IotdmError) throw new IotdmError(cause.code, `${path}: ${cause.message}`, { cause });
    const reason = reasonOf(cause);
    if (reason === undefined) throw cause;
    throw new IotdmError('input.unreadable', `cannot read ${path}: ${reason}`, { cause });
  }
}

/** Undefined for what is no error of the system. */
function reasonOf(cause: unknown): string | undefined {
  const code = systemErrorCode(cause);
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: 'there is no such file or directory',
    EACCES: 'permission denied',
  };
  return code === undefined ? undefined : (reasons[code] ?? code);
}
