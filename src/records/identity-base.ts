/**
 * The body of the index of identities: what a service held when its enrollments were read, as a file in which one
 * identity is looked up with two reads, however much there is. Some 50 to 90 bytes an enrollment.
 *
 * Layout: a sealed line of JSON; a fan-out of 2^bits + 1 numbers; facts of 16 bytes, in the order of their hashes' first
 * `bits` bits; names; a digest of 8 bytes for each block of 16 KiB of all that follows the line. A fact is the keyed hash
 * of a digest of a key or of a device id, the place of the enrollment's name, and which hubs the device id is for. A name
 * is a registration id, or the digest of the key that it follows from.
 */
import { createHash, randomBytes } from 'node:crypto';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { base32, decodeBase32 } from '../encoding.ts';
import { KeyedHash } from '../keyed-hash.ts';
import { draftName, flushDirectory } from '../state-directory.ts';
import {
  DERIVED_CHARACTERS,
  deviceFact,
  IdentityDamage,
  idOfDigest,
  keyFact,
  openLine,
  sealLine,
  type IdentityRow,
} from './identity-row.ts';

export interface BaseOrigin {
  /** Of the service, in lower case. */
  readonly host: string;
  /** When reading the enrollments began, in milliseconds since 1970. */
  readonly readAt: number;
  /** What the logs before the one with this number say is in it. */
  readonly covers: number;
}

interface Header extends BaseOrigin {
  readonly rows: number;
  readonly facts: number;
  readonly bits: number;
  /** Of the hash, hex. */
  readonly key: string;
  /** Sets of hubs, by their number. */
  readonly hubs: readonly (readonly string[])[];
  /** Bytes of fan-out, facts and names. */
  readonly body: number;
  /** SHA-256 of the digests of all blocks, hex. */
  readonly digests: string;
}

/** An enrollment that may have what was looked for: only the service knows. */
export interface BaseHit {
  readonly id: string;
  /** Undefined where the file does not say which. */
  readonly hubs: readonly string[] | undefined;
}

const TITLE = 'iotdm identity index';
const SCHEMA = 1;
const FACT_WORDS = 4;
const FACT_BYTES = 16;
const BLOCK_BYTES = 16 * 1024;
const DIGEST_BYTES = 8;
const KEY_BYTES = 8;
const FACTS_PER_BUCKET = 16;
const MOST_BITS = 20;
const PIECE_FACTS = 8192;
const PIECE_BYTES = 1024 * 1024;
const LONGEST_HEADER = 4 * 1024 * 1024;
/** A name begins with one of these: 32 bytes follow, or a length of 4 bytes and a text. */
const DERIVED = 1;
const TEXT = 0;
const KEY_DIGEST_BYTES = 32;
/** More sets of hubs than these are not told apart. */
const MOST_HUB_SETS = 4096;
const UNKNOWN_HUBS = 0xffff;

/** Gathers enrollments and writes them as one file. */
export class BaseBuilder {
  readonly #origin: BaseOrigin;
  readonly #key: Buffer;
  readonly #hash: KeyedHash;
  readonly #facts: Int32Array[] = [];
  #factCount = 0;
  readonly #names: Buffer[] = [];
  #piece = Buffer.alloc(0);
  #pieceLength = 0;
  #namesBefore = 0;
  readonly #hubSets = new Map<string, number>();
  #rows = 0;

  /** @param key of the hash, where facts of another file are taken over as they are */
  constructor(origin: BaseOrigin, key: Buffer = randomBytes(KEY_BYTES)) {
    this.#origin = origin;
    this.#key = key;
    this.#hash = new KeyedHash(key);
  }

  get rows(): number {
    return this.#rows;
  }

  add(row: IdentityRow): void {
    const place = this.#name(row);
    if (row.keyDigest !== undefined) this.#fact(keyFact(row.keyDigest), place, 0);
    for (const { deviceId, hubs } of row.devices) this.#fact(deviceFact(deviceId), place, this.#hubSet(hubs));
    this.#rows += 1;
  }

  /**
   * Takes over all of another file, whose key must be this one's, before anything is added. Names of what is left out
   * stay until the enrollments are read again.
   * @param leftOut ids of which the file is not to be believed any more
   */
  async takeOver(base: IdentityBase, leftOut: ReadonlySet<string>): Promise<void> {
    const { names, facts } = await base.contents();
    this.#names.push(names);
    this.#namesBefore = names.length;
    for (const { low, high, place, hubs } of facts) {
      if (leftOut.size > 0 && leftOut.has(nameIn(names, place))) continue;
      this.#push(low, high, place, hubs === undefined ? UNKNOWN_HUBS : this.#hubSet(hubs));
    }
    this.#rows += base.rows;
  }

  #fact(text: string, place: number, hubs: number): void {
    const [low = 0, high = 0] = this.#hash.of(text);
    this.#push(low, high, place, hubs);
  }

  #push(low: number, high: number, place: number, hubs: number): void {
    const at = this.#factCount % PIECE_FACTS;
    if (at === 0) this.#facts.push(new Int32Array(PIECE_FACTS * FACT_WORDS));
    this.#facts.at(-1)?.set([low, high, place, hubs], at * FACT_WORDS);
    this.#factCount += 1;
  }

  /** Keeps the name, and returns its place. */
  #name({ id, keyDigest }: Pick<IdentityRow, 'id' | 'keyDigest'>): number {
    const digest = derivationOf(id, keyDigest);
    const text = digest === undefined ? Buffer.from(id, 'utf8') : undefined;
    const length = text === undefined ? 1 + KEY_DIGEST_BYTES : 5 + text.length;
    if (this.#pieceLength + length > this.#piece.length) {
      this.#names.push(this.#piece.subarray(0, this.#pieceLength));
      this.#namesBefore += this.#pieceLength;
      this.#piece = Buffer.allocUnsafe(Math.max(PIECE_BYTES, length));
      this.#pieceLength = 0;
    }
    const at = this.#pieceLength;
    this.#piece[at] = text === undefined ? DERIVED : TEXT;
    if (digest !== undefined) digest.copy(this.#piece, at + 1);
    else if (text !== undefined) {
      this.#piece.writeUInt32LE(text.length, at + 1);
      text.copy(this.#piece, at + 5);
    }
    this.#pieceLength += length;
    return this.#namesBefore + at;
  }

  #hubSet(hubs: readonly string[]): number {
    const text = hubs.join('\n');
    const known = this.#hubSets.get(text);
    if (known !== undefined) return known;
    if (this.#hubSets.size >= MOST_HUB_SETS) return UNKNOWN_HUBS;
    this.#hubSets.set(text, this.#hubSets.size);
    return this.#hubSets.size - 1;
  }

  /** On disk when it returns, for its owner only. Throws system errors as they are. */
  async write(dir: string, name: string): Promise<void> {
    const bits = Math.min(MOST_BITS, Math.max(0, Math.ceil(Math.log2(this.#factCount / FACTS_PER_BUCKET))));
    const body = this.#body(bits);
    const digests = digestsOf(body);
    const header: Header & Readonly<Record<typeof TITLE, number>> = {
      [TITLE]: SCHEMA,
      ...this.#origin,
      rows: this.#rows,
      facts: this.#factCount,
      bits,
      key: this.#key.toString('hex'),
      hubs: [...this.#hubSets.keys()].map((text) => (text === '' ? [] : text.split('\n'))),
      body: body.length,
      digests: createHash('sha256').update(digests).digest('hex'),
    };
    const draft = join(dir, draftName(name));
    try {
      const file = await open(draft, 'wx', 0o600);
      try {
        for (const bytes of [Buffer.from(sealLine(JSON.stringify(header))), body, digests])
          await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(draft, join(dir, name));
      flushDirectory(dir);
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    }
  }

  /** Everything behind the header. */
  #body(bits: number): Buffer {
    const starts = new Uint32Array(2 ** bits + 1);
    for (let fact = 0; fact < this.#factCount; fact += 1) {
      const bucket = bucketOf(this.#word(fact, 0), bits);
      starts[bucket + 1] = (starts[bucket + 1] ?? 0) + 1;
    }
    for (let bucket = 1; bucket < starts.length; bucket += 1) {
      starts[bucket] = (starts[bucket] ?? 0) + (starts[bucket - 1] ?? 0);
    }
    const factsAt = starts.length * 4;
    const namesAt = factsAt + this.#factCount * FACT_BYTES;
    const body = Buffer.allocUnsafe(namesAt + this.#namesBefore + this.#pieceLength);
    for (const [bucket, start] of starts.entries()) body.writeUInt32LE(start, bucket * 4);
    const next = starts.slice();
    for (let fact = 0; fact < this.#factCount; fact += 1) {
      const bucket = bucketOf(this.#word(fact, 0), bits);
      const at = factsAt + (next[bucket] ?? 0) * FACT_BYTES;
      next[bucket] = (next[bucket] ?? 0) + 1;
      for (let word = 0; word < FACT_WORDS; word += 1)
        body.writeInt32LE(this.#word(fact, word), at + word * 4);
    }
    let at = namesAt;
    for (const piece of this.#names) at += piece.copy(body, at);
    this.#piece.copy(body, at, 0, this.#pieceLength);
    return body;
  }

  #word(fact: number, word: number): number {
    return this.#facts[Math.floor(fact / PIECE_FACTS)]?.[(fact % PIECE_FACTS) * FACT_WORDS + word] ?? 0;
  }
}

function bucketOf(low: number, bits: number): number {
  return bits === 0 ? 0 : low >>> (32 - bits);
}

/** The digest that stands for an id which follows from a key, or undefined for an id of its own. */
function derivationOf(id: string, keyDigest: string | undefined): Buffer | undefined {
  if (id.length !== DERIVED_CHARACTERS) return undefined;
  const isOfKey = keyDigest !== undefined && idOfDigest(keyDigest) === id;
  return isOfKey ? Buffer.from(keyDigest, 'base64url') : decodeBase32(id);
}

function digestsOf(body: Buffer): Buffer {
  const count = Math.ceil(body.length / BLOCK_BYTES);
  const digests = Buffer.allocUnsafe(count * DIGEST_BYTES);
  for (let block = 0; block < count; block += 1) {
    blockDigest(body.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)).copy(
      digests,
      block * DIGEST_BYTES,
    );
  }
  return digests;
}

function blockDigest(block: Buffer): Buffer {
  return createHash('sha256').update(block).digest().subarray(0, DIGEST_BYTES);
}

interface Fact {
  readonly low: number;
  readonly high: number;
  readonly place: number;
  readonly hubs: readonly string[] | undefined;
}

/** The file, open to be looked up in. What is not as it was written throws IdentityDamage. */
export class IdentityBase {
  readonly origin: BaseOrigin;
  readonly rows: number;
  readonly bytes: number;
  /** Of the hash. */
  readonly key: Buffer;
  readonly #header: Header;
  readonly #hash: KeyedHash;
  readonly #file: FileHandle;
  readonly #bodyAt: number;
  readonly #digests: Buffer;
  readonly #factsAt: number;
  readonly #namesAt: number;
  /** Fan-out and facts, where many look-ups are to come. */
  #loaded: Buffer | undefined;

  private constructor(header: Header, file: FileHandle, bodyAt: number, digests: Buffer) {
    const { host, readAt, covers } = header;
    this.origin = { host, readAt, covers };
    this.rows = header.rows;
    this.bytes = bodyAt + header.body + digests.length;
    this.key = Buffer.from(header.key, 'hex');
    this.#header = header;
    this.#hash = new KeyedHash(this.key);
    this.#file = file;
    this.#bodyAt = bodyAt;
    this.#digests = digests;
    this.#factsAt = (2 ** header.bits + 1) * 4;
    this.#namesAt = this.#factsAt + header.facts * FACT_BYTES;
  }

  /** @throws IdentityDamage; system errors as they are, ENOENT among them */
  static async open(path: string): Promise<IdentityBase> {
    const file = await open(path, 'r');
    try {
      const line = await firstLine(file);
      const header = readHeader(line);
      const bodyAt = Buffer.byteLength(line) + 1;
      const digests = Buffer.alloc(Math.ceil(header.body / BLOCK_BYTES) * DIGEST_BYTES);
      const { size } = await file.stat();
      if (size !== bodyAt + header.body + digests.length) throw new IdentityDamage('it was cut short');
      await readFully(file, digests, bodyAt + header.body);
      if (createHash('sha256').update(digests).digest('hex') !== header.digests) {
        throw new IdentityDamage('its digests were changed');
      }
      return new IdentityBase(header, file, bodyAt, digests);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Makes many look-ups fast: 16 bytes a fact in memory. */
  async load(): Promise<void> {
    this.#loaded ??= await this.#read(0, this.#namesAt);
  }

  /** Whether anybody may have this, where that can be told without reading; undefined where it cannot. */
  has(fact: string): boolean | undefined {
    if (this.#header.facts === 0) return false;
    const loaded = this.#loaded;
    if (loaded === undefined) return undefined;
    const [low = 0, high = 0] = this.#hash.of(fact);
    const bucket = bucketOf(low, this.#header.bits);
    const end = this.#factsAt + loaded.readUInt32LE(bucket * 4 + 4) * FACT_BYTES;
    for (let at = this.#factsAt + loaded.readUInt32LE(bucket * 4) * FACT_BYTES; at < end; at += FACT_BYTES) {
      if (loaded.readInt32LE(at) === low && loaded.readInt32LE(at + 4) === high) return true;
    }
    return false;
  }

  /** Who may have this. */
  async find(fact: string): Promise<readonly BaseHit[]> {
    if (this.#header.facts === 0) return [];
    const [low = 0, high = 0] = this.#hash.of(fact);
    const bucket = bucketOf(low, this.#header.bits);
    const range = this.#loaded?.subarray(bucket * 4, bucket * 4 + 8) ?? (await this.#read(bucket * 4, 8));
    const [first, end] = [range.readUInt32LE(0), range.readUInt32LE(4)];
    if (first > end || end > this.#header.facts) throw new IdentityDamage('its fan-out is not in order');
    const [from, to] = [this.#factsAt + first * FACT_BYTES, this.#factsAt + end * FACT_BYTES];
    const facts = this.#loaded?.subarray(from, to) ?? (await this.#read(from, to - from));
    const hits: BaseHit[] = [];
    for (let at = 0; at < facts.length; at += FACT_BYTES) {
      if (facts.readInt32LE(at) !== low || facts.readInt32LE(at + 4) !== high) continue;
      const { place, hubs } = this.#fact(facts, at);
      hits.push({ id: await this.#name(place), hubs });
    }
    return hits;
  }

  /** All of it. */
  async contents(): Promise<{ readonly names: Buffer; readonly facts: Iterable<Fact> }> {
    const body = await this.#read(0, this.#header.body);
    return { names: body.subarray(this.#namesAt), facts: this.#factsOf(body) };
  }

  *#factsOf(body: Buffer): Generator<Fact, void> {
    for (let at = this.#factsAt; at < this.#namesAt; at += FACT_BYTES) yield this.#fact(body, at);
  }

  #fact(bytes: Buffer, at: number): Fact {
    return {
      low: bytes.readInt32LE(at),
      high: bytes.readInt32LE(at + 4),
      place: bytes.readUInt32LE(at + 8),
      hubs: this.#header.hubs[bytes.readUInt32LE(at + 12)],
    };
  }

  async #name(place: number): Promise<string> {
    const at = this.#namesAt + place;
    const left = this.#header.body - at;
    if (left < 1) throw new IdentityDamage('a name is missing');
    const start = await this.#read(at, Math.min(left, 1 + KEY_DIGEST_BYTES));
    if (start[0] === DERIVED || start.length < 5) return nameIn(start, 0);
    const length = 5 + start.readUInt32LE(1);
    if (length > left) throw new IdentityDamage('a name is cut short');
    return nameIn(await this.#read(at, length), 0);
  }

  /** Bytes of the body, as whole blocks that are as they were written. */
  async #read(at: number, length: number): Promise<Buffer> {
    if (length === 0) return Buffer.alloc(0);
    const first = Math.floor(at / BLOCK_BYTES);
    const end = Math.min(Math.ceil((at + length) / BLOCK_BYTES) * BLOCK_BYTES, this.#header.body);
    const blocks = Buffer.allocUnsafe(end - first * BLOCK_BYTES);
    await readFully(this.#file, blocks, this.#bodyAt + first * BLOCK_BYTES);
    for (let block = 0; block * BLOCK_BYTES < blocks.length; block += 1) {
      const digestAt = (first + block) * DIGEST_BYTES;
      const digest = blockDigest(blocks.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
      if (!digest.equals(this.#digests.subarray(digestAt, digestAt + DIGEST_BYTES))) {
        throw new IdentityDamage('a block was changed');
      }
    }
    return blocks.subarray(at - first * BLOCK_BYTES, at - first * BLOCK_BYTES + length);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function nameIn(bytes: Buffer, at: number): string {
  if (bytes[at] === DERIVED) return base32(bytes.subarray(at + 1, at + 1 + KEY_DIGEST_BYTES));
  if (at + 5 > bytes.length) throw new IdentityDamage('a name is cut short');
  const length = bytes.readUInt32LE(at + 1);
  return bytes.toString('utf8', at + 5, at + 5 + length);
}

async function firstLine(file: FileHandle): Promise<string> {
  let bytes = Buffer.alloc(0);
  for (let size = BLOCK_BYTES; size <= LONGEST_HEADER; size *= 4) {
    const piece = Buffer.alloc(size - bytes.length);
    const { bytesRead } = await file.read(piece, 0, piece.length, bytes.length);
    bytes = Buffer.concat([bytes, piece.subarray(0, bytesRead)]);
    const end = bytes.indexOf(0x0a);
    if (end !== -1) return bytes.toString('utf8', 0, end);
    if (bytesRead === 0) break;
  }
  throw new IdentityDamage('it has no header');
}

function readHeader(line: string): Header {
  const text = openLine(line);
  if (text === undefined) throw new IdentityDamage('its header was changed');
  const header = JSON.parse(text) as Header & Readonly<Partial<Record<typeof TITLE, unknown>>>;
  if (header[TITLE] !== SCHEMA) throw new IdentityDamage('it is of another version');
  return header;
}

async function readFully(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, position + done);
    if (bytesRead === 0) throw new IdentityDamage('it was cut short');
    done += bytesRead;
  }
}
