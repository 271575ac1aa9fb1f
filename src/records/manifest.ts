/**
 * The manifest of `harvest`: one NDJSON record a device, appended by any number of stations at once, each record
 * chained to the line before it by a hash and on disk before it is reported.
 */
import { createHash } from 'node:crypto';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { AppendLog } from './append-log.ts';
import { withFileLock, type FileLease, type FileLockOptions } from './file-lock.ts';

export interface ManifestTpm {
  readonly manufacturer: string;
  readonly vendorString: string;
  readonly firmware: string;
  readonly revision: string;
}

/** What a station knows of a device. The keys are written in this order, after `schema` and before `previous`. */
export interface HarvestedIdentity {
  readonly registrationId: string;
  /** Base64 of the TPM2B_PUBLIC. */
  readonly endorsementKey: string;
  /** Hex of the TPM name. */
  readonly ekName: string;
  /** Base64 of the DER certificate. */
  readonly ekCertificate: string | null;
  /** The verdict of `ek verify`, null when nothing was verified. */
  readonly ekVerdict: string | null;
  readonly tpm: ManifestTpm;
  readonly serialNumber: string | null;
  readonly deviceId: string | null;
  readonly station: string | null;
  readonly operator: string | null;
  readonly lot: string | null;
  readonly tags: Readonly<Record<string, string>>;
  /** ISO 8601, UTC. */
  readonly harvestedAt: string;
  /** Name and version of the program that wrote the record. */
  readonly tool: string;
  /** Names of the TPM commands that were sent. */
  readonly tpmCommands: readonly string[];
}

export interface ManifestRecord extends HarvestedIdentity {
  readonly schema: 1;
  /** SHA-256, in hex, of the line before this one without its line feed; null on the first. */
  readonly previous: string | null;
}

export interface AppendedRecord {
  /** True when the manifest already held this EK with this serial number: nothing was written. */
  readonly repeated: boolean;
  /** What was written, or the earlier record. */
  readonly record: ManifestRecord;
  /** 1-based line of `record` in the file. */
  readonly line: number;
  /** True when a last line that a power loss had cut short was dropped, or its missing line feed was added. */
  readonly repaired: boolean;
}

/** No record comes near: what is longer is some other file. */
export const MAX_LINE_BYTES = 1024 * 1024;
const WINDOW_BYTES = 4 * 1024 * 1024;
/** Under the lock a manifest changes only where somebody does not heed it. */
const MOST_SCANS = 100;
const LF = 0x0a;
const LINE_START = Buffer.from('{"schema":1,');

/**
 * Appends one record, waiting for other writers; the file is made with mode 0600 when it is not there. It is on disk
 * when this returns.
 * @throws IotdmError `verify.identity-conflict` when the EK stands there with another serial number (or with none) or
 * the serial number with another EK, `verify.manifest` when a line is not a manifest record, `input.locked` when
 * others hold the file for too long, `usage.output-unwritable` when it cannot be written; nothing is written then
 */
export async function appendRecord(
  file: string,
  identity: HarvestedIdentity,
  options: FileLockOptions = {},
): Promise<AppendedRecord> {
  try {
    const log = await AppendLog.open(file, 'the manifest');
    try {
      return await withFileLock(file, (lease) => appendLocked(log, lease, identity), options);
    } finally {
      await log.close();
    }
  } catch (error) {
    const code = systemErrorCode(error);
    if (error instanceof IotdmError || code === undefined) throw error;
    throw new IotdmError('usage.output-unwritable', `the manifest ${file} cannot be written: ${code}`, {
      cause: error,
    });
  }
}

/** The record as one line of the manifest, without its line feed: compact JSON, keys in their order. */
export function manifestLine(record: ManifestRecord): string {
  const { manufacturer, vendorString, firmware, revision } = record.tpm;
  return JSON.stringify({
    schema: record.schema,
    registrationId: record.registrationId,
    endorsementKey: record.endorsementKey,
    ekName: record.ekName,
    ekCertificate: record.ekCertificate,
    ekVerdict: record.ekVerdict,
    tpm: { manufacturer, vendorString, firmware, revision },
    serialNumber: record.serialNumber,
    deviceId: record.deviceId,
    station: record.station,
    operator: record.operator,
    lot: record.lot,
    tags: record.tags,
    harvestedAt: record.harvestedAt,
    tool: record.tool,
    tpmCommands: record.tpmCommands,
    previous: record.previous,
  });
}

/** The record on a line, or undefined when it is not a manifest record of schema 1. */
export function parseManifestLine(line: string): ManifestRecord | undefined {
  const record = readManifestLine(line);
  return typeof record === 'string' ? undefined : record;
}

/** The record on a line, or what is wrong with the line: lower case, without a full stop. */
export function readManifestLine(line: string): ManifestRecord | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return 'this line is not a manifest record: it is not JSON';
  }
  if (isManifestRecord(value)) return value;
  if (!isObject(value)) return 'this line is not a manifest record: it is not a JSON object';
  if (!memberChecks.schema(value.schema)) return 'this line is not a manifest record of schema 1';
  const wrong = Object.entries(memberChecks).find(([key, check]) => !check(value[key]));
  return `this line is not a manifest record: ${wrong?.[0] ?? 'a member'} is missing or of another type`;
}

/**
 * The same record as it stands behind another line, without its line feed: keys in their order, then those of a later
 * version of this program, `previous` last.
 */
export function relinkedLine(record: ManifestRecord, previous: string | null): string {
  const names = Object.keys(memberChecks) as (keyof ManifestRecord)[];
  const known = names.filter((name) => name !== 'previous').map((name) => [name, record[name]] as const);
  const others = Object.entries(record).filter(([name]) => !Object.hasOwn(memberChecks, name));
  return JSON.stringify(Object.fromEntries([...known, ...others, ['previous', previous]]));
}

/** The hash by which the record after this line refers to it. */
export function lineHash(line: string | Buffer): string {
  return createHash('sha256').update(line).digest('hex');
}

async function appendLocked(
  log: AppendLog,
  lease: FileLease,
  identity: HarvestedIdentity,
): Promise<AppendedRecord> {
  for (let attempt = 1; attempt <= MOST_SCANS; attempt += 1) {
    const scan = await scanManifest(log, identity);
    if (scan.earlier !== undefined) {
      // Who wrote it may have been stopped before it was on disk, and reported nothing.
      await log.sync();
      return { ...scan.earlier, repeated: true, repaired: false };
    }
    const { size, keep, unterminated } = scan;
    const record: ManifestRecord = { schema: 1, ...identity, previous: scan.lastHash };
    const addition = Buffer.from(`${unterminated ? '\n' : ''}${manifestLine(record)}\n`);
    const assertHeld = (): void => {
      lease.assertHeld();
    };
    if (!(await log.append(addition, { size, keep, assertHeld }))) continue;
    await log.syncName();
    return { repeated: false, record, line: scan.lines + 1, repaired: unterminated || keep < size };
  }
  throw new IotdmError('input.locked', `${log.path} is written to by somebody who does not heed its lock`);
}

interface Scan {
  /** Bytes in the file, and how many of them stay: less when a torn last line is dropped. */
  readonly size: number;
  readonly keep: number;
  /** The last line is a whole record whose line feed is missing. */
  readonly unterminated: boolean;
  readonly lines: number;
  readonly lastHash: string | null;
  readonly earlier: { readonly record: ManifestRecord; readonly line: number } | undefined;
}

async function scanManifest(log: AppendLog, identity: HarvestedIdentity): Promise<Scan> {
  const search = new IdentitySearch(log.path, identity);
  const { size, end, tail } = await log.scan(
    { windowBytes: WINDOW_BYTES, longestLine: MAX_LINE_BYTES },
    (lines) => {
      search.take(lines);
    },
  );
  if (tail.length > MAX_LINE_BYTES) throw search.notARecord();
  const unterminated = tail.length > 0 && parseManifestLine(tail.toString('utf8')) !== undefined;
  if (unterminated) search.take(Buffer.concat([tail, Buffer.from('\n')]));
  // Only what began as a record is dropped: the path may have been that of some other file.
  else if (tail.length > 0 && !mayBeTorn(tail)) throw search.notARecord();
  return {
    size,
    keep: unterminated ? size : end,
    unterminated,
    lines: search.lines,
    lastHash: search.lastHash,
    earlier: search.earlier,
  };
}

/** Whether the bytes can be the beginning of a record, or the zeros that a file system leaves after a power loss. */
export function mayBeTorn(bytes: Buffer): boolean {
  const length = Math.min(bytes.length, LINE_START.length);
  return (
    bytes.subarray(0, length).equals(LINE_START.subarray(0, length)) || bytes.every((value) => value === 0)
  );
}

/**
 * Looks through lines for records of the same device. Only lines that hold the EK or the serial number as text, and
 * those that do not begin as this program writes them, are parsed.
 */
class IdentitySearch {
  lines = 0;
  earlier: { readonly record: ManifestRecord; readonly line: number } | undefined;
  readonly #file: string;
  readonly #identity: HarvestedIdentity;
  readonly #needles: readonly Buffer[];
  #last: Buffer | undefined;

  constructor(file: string, identity: HarvestedIdentity) {
    this.#file = file;
    this.#identity = identity;
    const texts = [
      identity.endorsementKey,
      ...(identity.serialNumber === null ? [] : [identity.serialNumber]),
    ];
    this.#needles = texts.map((text) => Buffer.from(JSON.stringify(text)));
  }

  get lastHash(): string | null {
    return this.#last === undefined ? null : lineHash(this.#last);
  }

  /** Takes whole lines, each with its line feed. */
  take(bytes: Buffer): void {
    const hits = this.#needles.map((needle) => ({ needle, at: bytes.indexOf(needle) }));
    let start = 0;
    for (let end = bytes.indexOf(LF); end !== -1; end = bytes.indexOf(LF, start)) {
      this.lines += 1;
      let suspected = !bytes.subarray(start, start + LINE_START.length).equals(LINE_START);
      for (const hit of hits) {
        if (hit.at !== -1 && hit.at < end) {
          suspected = true;
          hit.at = bytes.indexOf(hit.needle, end);
        }
      }
      // 0x7d is the closing brace: a line without it was cut short and then written on.
      if (suspected || bytes[end - 1] !== 0x7d) this.#examine(bytes.subarray(start, end));
      this.#last = bytes.subarray(start, end);
      start = end + 1;
    }
  }

  notARecord(line = this.lines + 1): IotdmError {
    return new IotdmError('verify.manifest', `${this.#file}:${line}: this line is not a manifest record`, {
      details: { file: this.#file, line },
    });
  }

  #examine(bytes: Buffer): void {
    const record = parseManifestLine(bytes.toString('utf8'));
    if (record === undefined) throw this.notARecord(this.lines);
    const sameKey = record.endorsementKey === this.#identity.endorsementKey;
    const sameSerial = record.serialNumber === this.#identity.serialNumber;
    if (sameKey && sameSerial) this.earlier ??= { record, line: this.lines };
    else if (sameKey) throw this.#conflict(record, `this TPM is already recorded with ${described(record)}`);
    else if (sameSerial && record.serialNumber !== null) {
      throw this.#conflict(record, `${described(record)} is already recorded with another TPM`);
    }
  }

  #conflict(earlier: ManifestRecord, problem: string): IotdmError {
    return new IotdmError('verify.identity-conflict', `${problem} (${this.#file}:${this.lines})`, {
      details: {
        file: this.#file,
        line: this.lines,
        registrationId: earlier.registrationId,
        serialNumber: earlier.serialNumber,
      },
    });
  }
}

function described(record: ManifestRecord): string {
  return record.serialNumber === null
    ? 'no serial number'
    : `the serial number ${JSON.stringify(record.serialNumber)}`;
}

const isText = (value: unknown): boolean => typeof value === 'string';
const isTextOrNull = (value: unknown): boolean => value === null || typeof value === 'string';
const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const memberChecks: Readonly<Record<keyof ManifestRecord, (value: unknown) => boolean>> = {
  schema: (value) => value === 1,
  registrationId: isText,
  endorsementKey: isText,
  ekName: isText,
  ekCertificate: isTextOrNull,
  ekVerdict: isTextOrNull,
  tpm: (value) =>
    isObject(value) && [value.manufacturer, value.vendorString, value.firmware, value.revision].every(isText),
  serialNumber: isTextOrNull,
  deviceId: isTextOrNull,
  station: isTextOrNull,
  operator: isTextOrNull,
  lot: isTextOrNull,
  tags: (value) => isObject(value) && Object.values(value).every(isText),
  harvestedAt: isText,
  tool: isText,
  tpmCommands: (value) => Array.isArray(value) && value.every(isText),
  previous: isTextOrNull,
};

function isManifestRecord(value: unknown): value is ManifestRecord {
  return isObject(value) && Object.entries(memberChecks).every(([key, check]) => check(value[key]));
}
