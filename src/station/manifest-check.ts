/**
 * Verifies manifests: the chain from line to line, every record in itself, and one chip and one serial number for each
 * other across all files given. Of each record only digests are kept, about a hundred bytes.
 */
import { createHash, type KeyObject } from 'node:crypto';
import { opensslView } from '../certificate-parts.ts';
import { decodeBase64 } from '../encoding.ts';
import type { ManifestRecord } from '../records/manifest.ts';
import { readManifestLines, type ManifestLine } from '../records/manifest-lines.ts';
import { publicKeyOfCertificate } from '../tpm/certified-key.ts';
import {
  EK_PUBLIC_BYTES,
  EK_PUBLIC_PREFIX,
  endorsementKeyProblem,
  registrationIdOf,
} from '../tpm/endorsement-key.ts';
import { quoted } from './enrollment-columns.ts';
import { FirstSeen, type SeenPlace } from './first-seen.ts';

export interface ManifestSource {
  /** File name, or `<stdin>`, for messages. */
  readonly name: string;
  /** The bytes from the beginning. */
  open(): AsyncIterable<Buffer>;
}

export interface ManifestFault {
  readonly file: string;
  /** 1-based. */
  readonly line: number;
  /** Lower case, without a full stop. */
  readonly problem: string;
}

export interface CheckedManifest {
  readonly file: string;
  readonly records: number;
  /**
   * SHA-256 of the last line, in hex, or null where there is none. Nothing in a file shows that lines are missing at
   * its end: only this hash, noted elsewhere, does.
   */
  readonly lastHash: string | null;
}

export interface ManifestCheck {
  /** Nothing is wrong; warnings do not count. */
  readonly ok: boolean;
  readonly manifests: readonly CheckedManifest[];
  readonly records: number;
  /** Records of an EK and a serial number that stood together in an earlier line. */
  readonly repeated: number;
  /** The first 100, in the order of the files. */
  readonly faults: readonly ManifestFault[];
  readonly faultCount: number;
  /** How many of them are a chip under two serial numbers, or a serial number on two chips. */
  readonly conflictCount: number;
  /** How many of them are a certificate that is not of the record's key: that may be true of the chip. */
  readonly certificateCount: number;
  /** What the next harvest mends, and files without a record. */
  readonly warnings: readonly ManifestFault[];
}

export interface ManifestCheckOptions {
  /** Called with each whole record, in the order of the files. */
  readonly onRecord?: (file: number, line: ManifestLine & { readonly kind: 'record' }) => void;
}

const MAX_LISTED_FAULTS = 100;

/** A record is reported when its whole line is on disk, so a station's own file loses nothing; a copy may. */
const TORN =
  'the last line is cut short: after a power loss it was never reported as recorded, and the next harvest mends it; ' +
  'if this is a copy, copy it again';

/**
 * Reads every source once and lists all that is wrong.
 * @throws IotdmError `input.unreadable` as the sources throw it
 */
export async function checkManifests(
  sources: readonly ManifestSource[],
  { onRecord }: ManifestCheckOptions = {},
): Promise<ManifestCheck> {
  const identities = new IdentityPairs(sources.map(({ name }) => name));
  const manifests: CheckedManifest[] = [];
  const faults: ManifestFault[] = [];
  const warnings: ManifestFault[] = [];
  let faultCount = 0;
  let certificateCount = 0;
  for (const [file, source] of sources.entries()) {
    const chain = new Chain();
    let records = 0;
    for await (const line of readManifestLines(source.open())) {
      const report = (problem: string): void => {
        faultCount += 1;
        if (faults.length < MAX_LISTED_FAULTS) faults.push({ file: source.name, line: line.line, problem });
      };
      const warn = (problem: string): void => {
        warnings.push({ file: source.name, line: line.line, problem });
      };
      if (line.kind === 'torn') {
        warn(TORN);
        continue;
      }
      const broken = chain.link(line);
      if (broken !== undefined) report(broken);
      if (line.kind === 'faulty') report(line.problem);
      else {
        records += 1;
        onRecord?.(file, line);
        if (!line.terminated) warn('the line feed of the last line is missing: the next harvest mends it');
        if (line.carriageReturn && chain.meetsFirstCarriageReturn()) {
          report('the line ends with CR LF: the file was changed by a program that converts line ends');
        }
        for (const problem of recordProblems(line.record)) report(problem);
        const uncertified = certificateProblem(line.record);
        if (uncertified !== undefined) {
          certificateCount += 1;
          report(`ekCertificate: ${uncertified}`);
        }
        for (const problem of identities.look(line.record, { file, line: line.line })) report(problem);
      }
    }
    if (chain.lastHash === null)
      warnings.push({ file: source.name, line: 1, problem: 'the file holds no record' });
    manifests.push({ file: source.name, records, lastHash: chain.lastHash });
  }
  return {
    ok: faultCount === 0,
    manifests,
    records: manifests.reduce((sum, { records }) => sum + records, 0),
    repeated: identities.repeated,
    faults,
    faultCount,
    conflictCount: identities.conflicts,
    certificateCount,
    warnings,
  };
}

/** What is wrong with a record by itself, its certificate apart. */
function recordProblems(record: ManifestRecord): string[] {
  const problems: string[] = [];
  const key = decodeBase64(record.endorsementKey);
  const unfit = key === undefined ? 'it is not base64' : endorsementKeyProblem(key);
  if (key === undefined || unfit !== undefined) {
    problems.push(`endorsementKey: ${unfit ?? ''}`);
  } else {
    if (record.registrationId !== registrationIdOf(key)) {
      problems.push('registrationId is not the one that follows from endorsementKey');
    }
    if (record.ekName !== nameOf(key)) problems.push('ekName is not the name of endorsementKey');
  }
  if (!isUtcTime(record.harvestedAt)) problems.push('harvestedAt is not a time in ISO 8601, UTC');
  return problems;
}

/** TPM name in hex: the algorithm's id and the SHA-256 of the TPMT_PUBLIC, which is the TPM2B without its size. */
function nameOf(endorsementKey: Buffer): string {
  return `000b${createHash('sha256').update(endorsementKey.subarray(2)).digest('hex')}`;
}

/**
 * Whether the certificate is for the record's key. Where the harvest has found that it is not, and says so, the record
 * is in order: another program may have put its own EK into the chip.
 */
function certificateProblem({
  ekCertificate,
  ekVerdict,
  endorsementKey,
}: ManifestRecord): string | undefined {
  const key = decodeBase64(endorsementKey);
  if (ekCertificate === null || ekVerdict === 'mismatched' || key?.length !== EK_PUBLIC_BYTES)
    return undefined;
  const der = decodeBase64(ekCertificate);
  if (der === undefined) return 'it is not base64';
  const modulus = key.subarray(EK_PUBLIC_PREFIX.length);
  let certified: KeyObject | undefined;
  try {
    certified = publicKeyOfCertificate(opensslView(der));
  } catch {
    // Field certificates may be what OpenSSL does not take; the key is in them as it is.
    const isThere = der[0] === 0x30 && der.includes(asDerKey(modulus));
    return isThere ? undefined : 'it cannot be read, or is for another key than endorsementKey';
  }
  const { n } = certified?.export({ format: 'jwk' }) ?? {};
  const isForIt = n !== undefined && Buffer.from(n, 'base64url').equals(modulus);
  return isForIt ? undefined : 'it is for another key than endorsementKey';
}

/** The modulus as it stands in a DER public key: a positive INTEGER of 257 bytes, then 65537. */
function asDerKey(modulus: Buffer): Buffer {
  return Buffer.concat([Buffer.from('0282010100', 'hex'), modulus, Buffer.from('0203010001', 'hex')]);
}

function isUtcTime(text: string): boolean {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/.test(text) && !Number.isNaN(Date.parse(text));
}

/** Follows the hashes from line to line of one file. */
class Chain {
  lastHash: string | null = null;
  #lastLine = 0;
  #carriageReturns = 0;

  /** Takes the next line and says where it does not follow the one before it. */
  link(line: ManifestLine & { readonly kind: 'record' | 'faulty' }): string | undefined {
    const before = this.lastHash;
    const problem = line.kind === 'record' && line.record.previous !== before ? this.#break() : undefined;
    this.lastHash = line.hash;
    this.#lastLine = line.line;
    return problem;
  }

  /** A file that was converted has one in every line: one fault says it. */
  meetsFirstCarriageReturn(): boolean {
    this.#carriageReturns += 1;
    return this.#carriageReturns === 1;
  }

  #break(): string {
    if (this.#lastLine === 0) return 'previous is not null: lines are missing before the first one';
    return `previous is not the hash of line ${this.#lastLine}: it was changed, or lines were added or removed here`;
  }
}

/** Holds every EK to one serial number and every serial number to one EK. */
class IdentityPairs {
  repeated = 0;
  conflicts = 0;
  readonly #names: readonly string[];
  readonly #pairs = new FirstSeen();
  readonly #keys = new FirstSeen();
  readonly #serials = new FirstSeen();

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  look({ endorsementKey, serialNumber }: ManifestRecord, place: SeenPlace): string[] {
    if (this.#pairs.seeAt(pairOf(endorsementKey, serialNumber), place) !== undefined) {
      this.repeated += 1;
      return [];
    }
    const problems: string[] = [];
    const sameKey = this.#keys.seeAt(endorsementKey, place);
    const sameSerial = serialNumber === null ? undefined : this.#serials.seeAt(serialNumber, place);
    const at = (earlier: SeenPlace): string => `${this.#names[earlier.file] ?? ''}:${earlier.line}`;
    if (sameKey !== undefined) {
      const here = serialNumber === null ? 'no serial number' : `the serial number ${quoted(serialNumber)}`;
      problems.push(`this TPM, here with ${here}, is recorded otherwise in ${at(sameKey)}`);
    }
    if (sameSerial !== undefined) {
      problems.push(
        `the serial number ${quoted(serialNumber ?? '')} is recorded with another TPM in ${at(sameSerial)}`,
      );
    }
    this.conflicts += problems.length;
    return problems;
  }
}

/** A text that two records share when their EK and their serial number are the same. */
export function pairOf(endorsementKey: string, serialNumber: string | null): string {
  return JSON.stringify([endorsementKey, serialNumber]);
}
