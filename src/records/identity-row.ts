/** What an enrollment takes for itself, as the index of identities keeps it: digests and names, and no key. */
import crypto, { createHash } from 'node:crypto';
import { base32 } from '../encoding.ts';

/** A device id and the hubs in which a device may come to bear it. */
export interface DeviceName {
  /** Case-sensitive. */
  readonly deviceId: string;
  /** In lower case, sorted, each once; empty for any hub. */
  readonly hubs: readonly string[];
}

export interface IdentityRow {
  /** The registration id in lower case: the service matches it without regard to case. */
  readonly id: string;
  /** SHA-256 of the endorsement key, base64url; undefined for an enrollment that is not a TPM's. */
  readonly keyDigest: string | undefined;
  readonly devices: readonly DeviceName[];
}

/** The registration id that follows from a key. @param keyDigest base64url */
export function idOfDigest(keyDigest: string): string {
  return base32(Buffer.from(keyDigest, 'base64url'));
}

/** What a row can be found by: its key and its device ids, as one text each. */
export function factsOf({ keyDigest, devices }: Omit<IdentityRow, 'id'>): readonly string[] {
  const names = devices.map(({ deviceId }) => deviceFact(deviceId));
  return keyDigest === undefined ? names : [keyFact(keyDigest), ...names];
}

export function keyFact(keyDigest: string): string {
  return `k${keyDigest}`;
}

export function deviceFact(deviceId: string): string {
  return `d${deviceId}`;
}

/** Whether a device could get the same id in the same hub by both. */
export function hubsOverlap(some: readonly string[], others: readonly string[]): boolean {
  return some.length === 0 || others.length === 0 || some.some((hub) => others.includes(hub));
}

/** Of base32 of a digest. */
export const DERIVED_CHARACTERS = 52;

function isDerived(id: string, keyDigest: string | undefined): boolean {
  return id.length === DERIVED_CHARACTERS && keyDigest !== undefined && idOfDigest(keyDigest) === id;
}

/**
 * As JSON, put together by hand: an import writes one for every row. What follows from the rest is left out: most rows are
 * a digest and a device id.
 */
export function writeRow({ id, keyDigest, devices }: IdentityRow): string {
  const [only] = devices;
  const isUsual = devices.length === 1 && only?.deviceId === id && only.hubs.length === 0;
  const parts: string[] = [];
  if (!isDerived(id, keyDigest)) parts.push(`"i":${JSON.stringify(id)}`);
  if (keyDigest !== undefined) parts.push(`"k":"${keyDigest}"`);
  if (!isUsual) parts.push(`"d":[${devices.map(writeDevice).join()}]`);
  return `{${parts.join()}}`;
}

function writeDevice({ deviceId, hubs }: DeviceName): string {
  return hubs.length === 0 ? `[${JSON.stringify(deviceId)}]` : JSON.stringify([deviceId, ...hubs]);
}

/** What `writeRow` gave, or undefined for anything else. */
export function readRow(value: unknown): IdentityRow | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { i, k, d } = value as { readonly i?: unknown; readonly k?: unknown; readonly d?: unknown };
  if (k !== undefined && (typeof k !== 'string' || !/^[\w-]{43}$/.test(k))) return undefined;
  const id = i ?? (k === undefined ? undefined : idOfDigest(k));
  if (typeof id !== 'string') return undefined;
  if (d === undefined) return { id, keyDigest: k, devices: [{ deviceId: id, hubs: [] }] };
  if (!Array.isArray(d)) return undefined;
  const devices: DeviceName[] = [];
  for (const names of d as readonly unknown[]) {
    if (!Array.isArray(names) || !names.every((name) => typeof name === 'string')) return undefined;
    const [deviceId, ...hubs] = names as readonly string[];
    if (deviceId === undefined) return undefined;
    devices.push({ deviceId, hubs });
  }
  return { id, keyDigest: k, devices };
}

const SEAL_CHARACTERS = 16;

/** A line whose every change shows: the beginning of its digest, a blank, and the text, which has no line break. */
export function sealLine(text: string): string {
  return `${sealOf(text)} ${text}\n`;
}

/** The text of a sealed line without its line break; undefined where it was torn or changed. */
export function openLine(line: string): string | undefined {
  const text = line.slice(SEAL_CHARACTERS + 1);
  const isWhole = line[SEAL_CHARACTERS] === ' ' && sealOf(text) === line.slice(0, SEAL_CHARACTERS);
  return isWhole ? text : undefined;
}

/** SHA-256, base64url. */
export function digestOf(bytes: string | Buffer): string {
  // Node.js 20.12 and later do this in one call, in half the time.
  const { hash } = crypto as Partial<typeof crypto>;
  return hash === undefined
    ? createHash('sha256').update(bytes).digest('base64url')
    : hash('sha256', bytes, 'base64url' as 'base64');
}

function sealOf(text: string): string {
  return digestOf(text).slice(0, SEAL_CHARACTERS);
}

/** Something in the index is not as it was written: what it says is not to be relied on, and it is made anew. */
export class IdentityDamage extends Error {}
