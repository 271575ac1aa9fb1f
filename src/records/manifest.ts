/**
 * The manifest of `harvest`: one NDJSON record a device, appended by any number of stations at once, each record
 * chained to the line before it by a hash and on disk before it is reported.
 */
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { withFileLock, type FileLockOptions } from './file-lock.ts';
import { openOrCreate, syncDirectory } from './lasting-file.ts';

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
    const { handle, created } = await openOrCreate(file);
    try {
      return await withFileLock(file, () => appendLocked(file, handle, created, identity), options);
    } finally {
      await handle.close();
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
  file: string,
  handle: FileHandle,
  created: boolean,
  identity: HarvestedIdentity,
): Promise<AppendedRecord> {
  for (;;) {
    const scan = await scanManifest(file, handle, identity);
    if (scan.earlier !== undefined) return { ...scan.earlier, repeated: true, repaired: false };
    const record: ManifestRecord = { schema: 1, ...identity, previous: scan.lastHash };
    const addition = `${scan.unterminated ? '\n' : ''}${manifestLine(record)}\n`;
    // A process that was suspended while it held the lock may wake up after another took it over.
    if ((await handle.stat()).size !== scan.size) continue;
    if (scan.keep < scan.size) await handle.truncate(scan.keep);
    await writeWhole(handle, Buffer.from(addition), scan.keep);
    await handle.sync();
    if (created || scan.size === 0) await syncDirectory(dirname(file));
    const repaired = scan.unterminated || scan.keep < scan.size;
    return { repeated: false, record, line: scan.lines + 1, repaired };
  }
}

/** One write; what a full disk left of it is taken back. */
async function writeWhole(handle: FileHandle, bytes: Buffer, position: number): Promise<void> {
  try {
    const { bytesWritten } = await handle.write(bytes, 0, bytes.length, position);
    if (bytesWritten < bytes.length) {
      throw Object.assign(new Error('the file system took only part of the record'), { code: 'ENOSPC' });
    }
  } catch (error) {
    await handle.truncate(position);
    throw error;
  }
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

async function scanManifest(file: string, handle: FileHandle, identity: HarvestedIdentity): Promise<Scan> {
  const { size } = await handle.stat();
  const search = new IdentitySearch(file, identity);
  let held: Buffer = Buffer.alloc(0);
  let position = 0;
  while (position < size) {
    const window = Buffer.allocUnsafe(Math.min(WINDOW_BYTES, size - position));
    const { bytesRead } = await handle.read(window, 0, window.length, position);
    if (bytesRead === 0) break;
    position += bytesRead;
    const bytes = Buffer.concat([held, window.subarray(0, bytesRead)]);
    held = bytes.subarray(search.take(bytes));
    if (held.length > MAX_LINE_BYTES) throw search.notARecord();
  }
  const unterminated = held.length > 0 && parseManifestLine(held.toString('utf8')) !== undefined;
  if (unterminated) search.take(Buffer.concat([held, Buffer.from('\n')]));
  // Only what began as a record is dropped: the path may have been that of some other file.
  else if (held.length > 0 && !mayBeTorn(held)) throw search.notARecord();
  return {
    size,
    keep: unterminated ? size : size - held.length,
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

  /** Takes the whole lines at the beginning of these bytes and returns their length. */
  take(bytes: Buffer): number {
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
    return start;
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
