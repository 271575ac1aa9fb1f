/**
 * A bundle: enrollments on their way from a line without network to whoever registers them. A directory with the
 * enrollments, a list of its files with their checksums, and, where the station signs, its signature of that list.
 * What comes out of one is what went in, or nothing; who may write to the directory is not trusted.
 */
import { createHash, type KeyObject } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open as openFile, readdir, type FileHandle } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { readFailure } from '../records/text-source.ts';
import type { EnrollmentRow, InputSource } from './enrollment-input.ts';
import { isSignedBy, SIGNATURE_BYTES, stationKeyId, type StationSigner } from './station-key.ts';

export const BUNDLE_LIST = 'bundle.json';
/** The 64 bytes of an Ed25519 signature of `bundle.json`. */
export const BUNDLE_SIGNATURE = 'bundle.json.sig';
const ENROLLMENTS = 'enrollments.ndjson';

const TYPE = 'iotdm-enrollment-bundle';
const SCHEMA = 1;
/** Windows has no such flag. */
const NO_FOLLOW = (constants as Partial<typeof constants>).O_NOFOLLOW ?? 0;
const MAX_LIST_BYTES = 1024 * 1024;

/** What `bundle.json` holds. */
export interface BundleList {
  readonly type: typeof TYPE;
  readonly schema: typeof SCHEMA;
  /** ISO 8601, UTC. */
  readonly createdAt: string;
  readonly tool: string;
  readonly enrollments: number;
  readonly files: readonly BundleFile[];
  /** The files that the enrollments were read from: their names and the SHA-256 of what was read, in hex. */
  readonly sources: readonly { readonly name: string; readonly sha256: string }[];
}

export interface BundleFile {
  readonly name: string;
  readonly bytes: number;
  /** In hex. */
  readonly sha256: string;
}

/** A file of a bundle in the making. */
export interface BundlePart {
  readonly name: string;
  readonly content: AsyncIterable<Buffer>;
}

export interface BundleContent {
  /** The enrollments, from sources that `hashed` gave. */
  readonly rows: AsyncIterable<EnrollmentRow>;
  readonly sources: readonly HashedSource[];
  readonly tool: string;
  readonly now: Date;
  readonly signer?: StationSigner;
}

/** A source that knows what was read from it. */
export interface HashedSource extends InputSource {
  /** Of the last pass that came to the end, in hex. */
  sha256(): string | undefined;
}

export function hashed(source: InputSource): HashedSource {
  let digest: string | undefined;
  async function* open(): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    for await (const chunk of source.open()) {
      hash.update(chunk);
      yield chunk;
    }
    digest = hash.digest('hex');
  }
  return { ...source, open, sha256: () => digest };
}

/** The files of a bundle, each to be written whole before the next one is asked for. */
export function* bundleParts({
  rows,
  sources,
  tool,
  now,
  signer,
}: BundleContent): Generator<BundlePart, void> {
  const hash = createHash('sha256');
  let bytes = 0;
  let enrollments = 0;
  async function* lines(): AsyncGenerator<Buffer> {
    for await (const { enrollment, serialNumber } of rows) {
      const line = Buffer.from(
        `${JSON.stringify(serialNumber === undefined ? enrollment : { ...enrollment, serialNumber })}\n`,
      );
      hash.update(line);
      bytes += line.length;
      enrollments += 1;
      yield line;
    }
  }
  yield { name: ENROLLMENTS, content: lines() };
  const list: BundleList = {
    type: TYPE,
    schema: SCHEMA,
    createdAt: now.toISOString(),
    tool,
    enrollments,
    files: [{ name: ENROLLMENTS, bytes, sha256: hash.digest('hex') }],
    sources: sources.map((source) => ({ name: basename(source.name), sha256: source.sha256() ?? '' })),
  };
  const text = Buffer.from(`${JSON.stringify(list, null, 2)}\n`);
  yield { name: BUNDLE_LIST, content: only(text) };
  if (signer !== undefined) yield { name: BUNDLE_SIGNATURE, content: only(signer.sign(text)) };
}

export interface OpenedBundle {
  readonly list: BundleList;
  readonly isSigned: boolean;
  /** The key that the signature was checked with, see `stationKeyId`; null where it was not. */
  readonly verifiedBy: string | null;
  /** The enrollments; a pass over one fails with `verify.bundle` where it is no longer what was checked. */
  readonly sources: readonly InputSource[];
}

/** Whether a file of this name is one of a bundle's. */
export function isBundleName(name: string): boolean {
  return name === ENROLLMENTS || name === BUNDLE_LIST || name === BUNDLE_SIGNATURE;
}

/** Whether a path is a directory with a list of a bundle in it. */
export async function isBundle(path: string): Promise<boolean> {
  return lstat(join(path, BUNDLE_LIST)).then(
    () => true,
    () => false,
  );
}

/**
 * Checks all of a bundle: the signature where a key is given, and that the directory holds the files of the list, as
 * they stand there, and nothing else.
 * @throws IotdmError `verify.signature`, `verify.bundle`, `input.unreadable`
 */
export async function openBundle(directory: string, key?: KeyObject): Promise<OpenedBundle> {
  try {
    return await openChecked(directory, key);
  } catch (error) {
    throw readFailure(directory, error);
  }
}

async function openChecked(directory: string, key: KeyObject | undefined): Promise<OpenedBundle> {
  const names = await readdir(directory);
  const listText = await readSmallFile(directory, BUNDLE_LIST, MAX_LIST_BYTES);
  const isSigned = names.includes(BUNDLE_SIGNATURE);
  // The signature comes first: nothing of a list that another has written is looked at.
  if (key !== undefined) await checkSignature(directory, key, listText, isSigned);
  const list = parseList(directory, listText);
  const expected = new Set([BUNDLE_LIST, BUNDLE_SIGNATURE, ...list.files.map(({ name }) => name)]);
  const extra = names.find((name) => !expected.has(name));
  if (extra !== undefined) throw wrong(directory, `${shown(extra)} is not in its list`);
  const missing = list.files.find(({ name }) => !names.includes(name));
  if (missing !== undefined) throw wrong(directory, `${missing.name} is missing`);
  const sources = list.files.map((file) => checkedSource(directory, file));
  for (const source of sources) await readToEnd(source);
  return { list, isSigned, verifiedBy: key === undefined ? null : stationKeyId(key), sources };
}

async function readToEnd(source: InputSource): Promise<void> {
  const reader = source.open()[Symbol.asyncIterator]();
  while ((await reader.next()).done !== true);
}

async function checkSignature(
  directory: string,
  key: KeyObject,
  list: Buffer,
  isSigned: boolean,
): Promise<void> {
  if (!isSigned) throw new IotdmError('verify.signature', `the bundle ${directory} is not signed`);
  const signature = await readSmallFile(directory, BUNDLE_SIGNATURE, SIGNATURE_BYTES);
  if (isSignedBy(key, list, signature)) return;
  const message = `the signature of the bundle ${directory} is not of the given key, or its list was changed`;
  throw new IotdmError('verify.signature', message, { details: { keyId: stationKeyId(key) } });
}

/** A file of the bundle; every pass over it ends with an error unless it was the file of the list. */
function checkedSource(directory: string, file: BundleFile): InputSource {
  const path = join(directory, file.name);
  async function* open(): AsyncGenerator<Buffer> {
    const handle = await openRegularFile(directory, file.name);
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of handle.createReadStream()) {
      const piece = chunk as Buffer;
      bytes += piece.length;
      if (bytes > file.bytes) break;
      hash.update(piece);
      yield piece;
    }
    if (bytes < file.bytes) throw wrong(directory, `${file.name} is cut short`);
    if (bytes > file.bytes) throw wrong(directory, `${file.name} is longer than its list says`);
    if (hash.digest('hex') !== file.sha256) throw wrong(directory, `${file.name} was changed`);
  }
  return { name: path, format: 'ndjson', open };
}

/** Not through a link, which may lead out of the bundle, and no device or pipe, which may never end. */
async function openRegularFile(directory: string, name: string): Promise<FileHandle> {
  let handle: FileHandle;
  try {
    if (!(await lstat(join(directory, name))).isFile()) throw wrong(directory, `${name} is no plain file`);
    handle = await openFile(join(directory, name), constants.O_RDONLY | NO_FOLLOW);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') throw wrong(directory, `${name} is missing`);
    if (systemErrorCode(error) === 'ELOOP') throw wrong(directory, `${name} is no plain file`);
    throw error;
  }
  if ((await handle.stat()).isFile()) return handle;
  await handle.close();
  throw wrong(directory, `${name} is no plain file`);
}

async function readSmallFile(directory: string, name: string, limit: number): Promise<Buffer> {
  const handle = await openRegularFile(directory, name);
  try {
    const { size } = await handle.stat();
    if (size > limit) throw wrong(directory, `${name} is longer than ${limit} bytes`);
    const content = await handle.readFile();
    if (content.length > limit) throw wrong(directory, `${name} is longer than ${limit} bytes`);
    return content;
  } finally {
    await handle.close();
  }
}

function parseList(directory: string, text: Buffer): BundleList {
  let value: unknown;
  try {
    value = JSON.parse(text.toString('utf8'));
  } catch (cause) {
    throw wrong(directory, `${BUNDLE_LIST} is not JSON`, cause);
  }
  const list = value as Partial<BundleList> | null;
  if (typeof list !== 'object' || list === null || list.type !== TYPE)
    throw wrong(directory, `${BUNDLE_LIST} is not the list of a bundle`);
  if (list.schema !== SCHEMA) throw wrong(directory, `${BUNDLE_LIST} has a schema other than ${SCHEMA}`);
  if (!Array.isArray(list.files) || list.files.length === 0 || !list.files.every(isBundleFile))
    throw wrong(directory, `${BUNDLE_LIST} does not say what files there are`);
  const files = list.files as readonly BundleFile[];
  if (new Set(files.map(({ name }) => name.toLowerCase())).size < files.length)
    throw wrong(directory, `${BUNDLE_LIST} names a file twice`);
  return value as BundleList;
}

/** A name is that of a file beside the list: no path, nothing hidden, not the list itself. */
function isBundleFile(value: unknown): value is BundleFile {
  if (typeof value !== 'object' || value === null) return false;
  const { name, bytes, sha256 } = value as Record<string, unknown>;
  return (
    typeof name === 'string' &&
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/.test(name) &&
    !name.toLowerCase().startsWith(BUNDLE_LIST) &&
    Number.isSafeInteger(bytes) &&
    (bytes as number) >= 0 &&
    typeof sha256 === 'string' &&
    /^[0-9a-f]{64}$/.test(sha256)
  );
}

function shown(name: string): string {
  return JSON.stringify(name.length > 60 ? `${name.slice(0, 57)}...` : name);
}

function wrong(directory: string, what: string, cause?: unknown): IotdmError {
  return new IotdmError('verify.bundle', `the bundle ${directory} is not as it was made: ${what}`, {
    ...(cause === undefined ? {} : { cause }),
    details: { bundle: directory },
  });
}

async function* only(bytes: Buffer): AsyncGenerator<Buffer> {
  await Promise.resolve();
  yield bytes;
}
