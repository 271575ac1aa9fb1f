/**
 * The record of a change to a slot: what stood there, and what is to stand there, with the new key as its TPM wrapped it.
 * Useless outside that TPM, and signed by a key of the slot, so that nobody without that key can write one.
 *
 * Two lines: JSON, and the signature over its digest in hex (`-` where the slot has no key that could sign).
 */
import { createHash, randomBytes } from 'node:crypto';
import { nameOf as nameOfArea } from '../duplication.ts';
import { decodeBase64 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import { parseUri } from './device-identity.ts';
import { KEY_PUBLIC_BYTES, KEY_PUBLIC_PREFIX, SLOT_COUNT, URI_LIMIT_BYTES } from './layout.ts';
import type { KeyPart, SlotParts, UriPart } from './parts.ts';
import type { WrappedKey } from './slot-tpm.ts';

export const changeKinds = ['write', 'clear', 'uri write', 'key write'] as const;
export type ChangeKind = (typeof changeKinds)[number];

/** What a slot is to hold. An absent part stays as it is, null goes. */
export interface Target {
  readonly uri?: string | null;
  readonly key?: WrappedKey | null;
}

export interface UriBefore {
  /** Name of the NV index. */
  readonly name: Buffer;
  /** Null where it was no URI, or never written. */
  readonly text: string | null;
  readonly size: number;
}

export interface SlotBefore {
  readonly uri: UriBefore | null;
  /** Name of the key, whatever kind of key it was. */
  readonly keyName: Buffer | null;
}

export interface ChangeRecord {
  readonly kind: ChangeKind;
  readonly slot: number;
  /** Name of the TPM's storage root key. */
  readonly tpmName: Buffer;
  readonly before: SlotBefore;
  readonly target: Target;
}

/** The name of a wrapped key: nameAlg and digest. */
export function nameOf({ publicPart }: WrappedKey): Buffer {
  return nameOfArea(publicPart);
}

export function beforeOf({ key, uri }: SlotParts): SlotBefore {
  return { keyName: key.kind === 'absent' ? null : key.name, uri: uriBefore(uri) };
}

function uriBefore(uri: UriPart): UriBefore | null {
  if (uri.kind === 'absent') return null;
  return { name: uri.name, size: uri.size, text: uri.kind === 'right' ? uri.text : null };
}

export function isKeyAsBefore(key: KeyPart, { keyName }: SlotBefore): boolean {
  return key.kind === 'absent' ? keyName === null : keyName !== null && key.name.equals(keyName);
}

export function isUriAsBefore(uri: UriPart, before: SlotBefore): boolean {
  const now = uriBefore(uri);
  if (now === null || before.uri === null) return now === before.uri;
  return now.name.equals(before.uri.name) && now.text === before.uri.text;
}

/** The JSON line of a record. Two of the same change differ, so that a signature over one is good for no other. */
export function recordBody({ kind, slot, tpmName, before, target }: ChangeRecord): string {
  const { uri, key } = target;
  return JSON.stringify({
    schema: 1,
    kind,
    slot,
    tpm: tpmName.toString('hex'),
    nonce: randomBytes(16).toString('hex'),
    before: {
      uri:
        before.uri === null
          ? null
          : { name: before.uri.name.toString('hex'), text: before.uri.text, size: before.uri.size },
      keyName: before.keyName?.toString('hex') ?? null,
    },
    target: {
      ...(uri === undefined ? {} : { uri }),
      ...(key === undefined ? {} : { key: key === null ? null : wrappedText(key) }),
    },
  });
}

function wrappedText({ privatePart, publicPart }: WrappedKey): Record<string, string> {
  return { private: privatePart.toString('base64'), public: publicPart.toString('base64') };
}

/** What a key of the slot signs of a record: no text that a service could take for one of its own. */
export function signedOfRecord(body: string): Buffer {
  const digest = createHash('sha256').update(body).digest('hex');
  return Buffer.from(`iotdm: record of a change to a TPM slot\n${digest}`);
}

/** @param signature of `signedOfRecord(body)`, null where there is no key to sign */
export function formatRecord(body: string, signature: Buffer | null): string {
  return `${body}\n${signature?.toString('hex') ?? '-'}\n`;
}

export interface ParsedRecord {
  readonly record: ChangeRecord;
  readonly body: string;
  /** Still to be checked with the key that it names. */
  readonly signature: Buffer | null;
}

/**
 * @param tpmName and slot that it must be for
 * @throws IotdmError `input.recovery-damaged`
 */
export function parseRecord(text: string, tpmName: Buffer, slot: number): ParsedRecord {
  const [body = '', signature = '', end, ...rest] = text.split('\n');
  if (end !== '' || rest.length > 0) throw damaged('it is cut short, or was added to');
  if (signature !== '-' && !/^[0-9a-f]{64}$/.test(signature)) throw damaged('its signature is none');
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw damaged('it is not JSON');
  }
  const record = readRecord(value);
  if (record === undefined) throw damaged('it does not describe a change to a slot');
  if (record.slot !== slot || !record.tpmName.equals(tpmName)) throw damaged('it is for another slot or TPM');
  return { record, body, signature: signature === '-' ? null : Buffer.from(signature, 'hex') };
}

export function damaged(why: string, slot?: number): IotdmError {
  return new IotdmError('input.recovery-damaged', `the recovery file is damaged: ${why}`, {
    ...(slot === undefined ? {} : { details: { slot } }),
  });
}

type Fields = Readonly<Record<string, unknown>>;

function readRecord(value: unknown): ChangeRecord | undefined {
  if (!isFields(value) || value['schema'] !== 1) return undefined;
  const kind = changeKinds.find((candidate) => candidate === value['kind']);
  const slot = value['slot'];
  const tpmName = readName(value['tpm']);
  const before = readBefore(value['before']);
  const target = readTarget(value['target']);
  const isSlot = typeof slot === 'number' && Number.isInteger(slot) && slot >= 0 && slot < SLOT_COUNT;
  if (kind === undefined || !isSlot || tpmName === undefined || before === undefined || target === undefined)
    return undefined;
  return hasPartsOf(kind, target) ? { kind, slot, tpmName, before, target } : undefined;
}

/** A change of this kind sets exactly these parts. */
function hasPartsOf(kind: ChangeKind, { uri, key }: Target): boolean {
  switch (kind) {
    case 'write':
      return typeof uri === 'string' && key instanceof Object;
    case 'clear':
      return uri === null && key === null;
    case 'uri write':
      return typeof uri === 'string' && key === undefined;
    case 'key write':
      return uri === undefined && key instanceof Object;
  }
}

function readBefore(value: unknown): SlotBefore | undefined {
  if (!isFields(value)) return undefined;
  const { uri, keyName } = value;
  const key = keyName === null ? null : readName(keyName);
  const uriPart = uri === null ? null : readUriBefore(uri);
  return key === undefined || uriPart === undefined ? undefined : { uri: uriPart, keyName: key };
}

function readUriBefore(value: unknown): UriBefore | undefined {
  if (!isFields(value)) return undefined;
  const { text, size } = value;
  const name = readName(value['name']);
  if (name === undefined || typeof size !== 'number' || !Number.isInteger(size) || size < 0) return undefined;
  if (text === null) return { name, size, text };
  return isUri(text) && Buffer.byteLength(text) === size ? { name, size, text } : undefined;
}

function readTarget(value: unknown): Target | undefined {
  if (!isFields(value)) return undefined;
  const { uri, key } = value;
  const wrapped = key === undefined || key === null ? key : readWrapped(key);
  if (key !== undefined && wrapped === undefined) return undefined;
  if (uri !== undefined && uri !== null && !isUri(uri)) return undefined;
  return { ...(uri === undefined ? {} : { uri }), ...(wrapped === undefined ? {} : { key: wrapped }) };
}

function readWrapped(value: unknown): WrappedKey | undefined {
  if (!isFields(value)) return undefined;
  const privatePart = readBase64(value['private']);
  const publicPart = readBase64(value['public']);
  const isSlotKey =
    publicPart?.length === KEY_PUBLIC_BYTES &&
    publicPart.subarray(0, KEY_PUBLIC_PREFIX.length).equals(KEY_PUBLIC_PREFIX);
  return privatePart === undefined || !isSlotKey ? undefined : { privatePart, publicPart };
}

function readBase64(value: unknown): Buffer | undefined {
  return typeof value === 'string' ? decodeBase64(value) : undefined;
}

/** A name of SHA-256, as slots' keys and NV indexes have; what is foreign may have another hash. */
function readName(value: unknown): Buffer | undefined {
  const isName = typeof value === 'string' && /^(?:[0-9a-f]{2}){2,66}$/.test(value);
  return isName ? Buffer.from(value, 'hex') : undefined;
}

function isUri(value: unknown): value is string {
  if (typeof value !== 'string') return false;
  const bytes = Buffer.from(value);
  return bytes.length < URI_LIMIT_BYTES && parseUri(bytes) !== undefined;
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
