/**
 * Logical devices ("slots") in a TPM: an HMAC key at a persistent handle and the name it belongs to in an NV index.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { hex32 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { formatUri, parseUri, type DeviceCredentials, type DeviceIdentity } from './device-identity.ts';
import {
  KEY_ATTRIBUTES,
  KEY_HASH,
  KEY_TYPE,
  keyHandle,
  SLOT_COUNT,
  SRK_HANDLE,
  URI_ATTRIBUTES,
  URI_LIMIT_BYTES,
  URI_WRITTEN,
  uriIndex,
} from './layout.ts';
import {
  encodedResource,
  formatSignature,
  formatTokenConnectionString,
  signedText,
} from './shared-access-signature.ts';

/** A key in the TPM as far as slots look at it. */
export interface SlotKey {
  readonly name: Buffer;
  readonly type: number;
  readonly nameAlg: number;
  readonly attributes: number;
  readonly hmacHash?: number;
}

/** What slots need of a TPM. Failures are IotdmErrors `tpm.*` and `tpm-unavailable.*`; nothing is left transient. */
export interface SlotTpm<Wrapped> {
  /** The public part of a key, or undefined where the handle is empty. */
  readPublic(handle: number): Promise<SlotKey | undefined>;
  /** Sees to it that a storage root key stands at its handle, deriving it where none does. */
  ensureStorageRootKey(): Promise<void>;
  createHmacKey(parentHandle: number, key: Buffer): Promise<Wrapped>;
  withLoaded<T>(
    parentHandle: number,
    key: Wrapped,
    use: (key: SlotKey & { readonly handle: number }) => Promise<T>,
  ): Promise<T>;
  hmac(handle: number, data: Buffer): Promise<Buffer>;
  hmacOfStream(handle: number, data: AsyncIterable<Buffer>): Promise<Buffer>;
  persist(transientHandle: number, persistentHandle: number): Promise<void>;
  removePersistent(handle: number): Promise<void>;
  handles(first: number, count: number): Promise<number[]>;
  nvReadPublic(index: number): Promise<{ attributes: number; nameAlg: number; dataSize: number } | undefined>;
  nvRead(index: number, size: number): Promise<Buffer>;
  nvDefine(index: number, attributes: number, dataSize: number): Promise<void>;
  nvWrite(index: number, data: Buffer): Promise<void>;
  nvUndefine(index: number): Promise<void>;
}

/**
 * `empty`: nothing there. `ready`: key and URI, both as they should be. `incomplete`: one of them is missing or was never
 * written. `foreign`: something else stands at a handle or index of this slot.
 */
export type SlotState = 'empty' | 'ready' | 'incomplete' | 'foreign';

export interface SlotView {
  readonly slot: number;
  readonly state: SlotState;
  readonly uri: string | null;
  readonly hostName: string | null;
  readonly deviceId: string | null;
  readonly moduleId: string | null;
  /** Name of the key object, hex. */
  readonly keyName: string | null;
  /** For people: what is missing or strange, null for empty and ready slots. */
  readonly remark: string | null;
}

export interface SlotWritten {
  readonly slot: number;
  readonly uri: string;
  readonly keyName: string;
  /** Whether another identity stood there before. */
  readonly replaced: boolean;
}

export interface SlotToken {
  readonly connectionString: string;
  readonly sharedAccessSignature: string;
  /** ISO 8601. */
  readonly expiresAt: string;
}

type KeyPart = { kind: 'absent' } | { kind: 'right'; name: Buffer } | { kind: 'foreign'; why: string };
type UriPart =
  | { kind: 'absent' }
  | { kind: 'unwritten' }
  | { kind: 'right'; text: string; identity: DeviceIdentity }
  | { kind: 'foreign'; why: string };

/** What stands in one slot. Two TPM commands for an empty slot, three for a full one. */
export async function showSlot<W>(tpm: SlotTpm<W>, slot: number): Promise<SlotView> {
  return view(slot, await readKeyPart(tpm, slot), await readUriPart(tpm, slot));
}

/** All slots, the empty ones too. Two TPM commands, and up to three for each slot in use. */
export async function listSlots<W>(tpm: SlotTpm<W>): Promise<SlotView[]> {
  const used = new Set([
    ...(await tpm.handles(keyHandle(0), SLOT_COUNT)).map((handle) => handle - keyHandle(0)),
    ...(await tpm.handles(uriIndex(0), SLOT_COUNT)).map((index) => index - uriIndex(0)),
  ]);
  const views: SlotView[] = [];
  for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
    views.push(
      used.has(slot) ? await showSlot(tpm, slot) : view(slot, { kind: 'absent' }, { kind: 'absent' }),
    );
  }
  return views;
}

/**
 * Puts an identity into a slot and proves that the TPM signs with its key before it returns.
 *
 * The new key is made and proved while it is still transient, before anything is removed. Then the old URI goes first,
 * the old key next, and the new URI comes last: no moment shows one identity's key under another's name.
 * @param overwrite replace what the slot holds
 * @param force replace even what is not a slot's key or URI
 * @throws IotdmError `tpm.slot-not-empty`, `tpm.slot-foreign` with nothing changed; `verify.slot` and other `tpm.*`
 */
export async function writeSlot<W>(
  tpm: SlotTpm<W>,
  slot: number,
  { identity, key }: DeviceCredentials,
  { overwrite = false, force = false } = {},
): Promise<SlotWritten> {
  const before = await showSlotParts(tpm, slot);
  refuseToDestroy(before.view, { overwrite, force });
  const uri = Buffer.from(formatUri(identity), 'utf8');

  await tpm.ensureStorageRootKey();
  const wrapped = await tpm.createHmacKey(SRK_HANDLE, key.bytes);
  const keyName = await tpm.withLoaded(SRK_HANDLE, wrapped, async (loaded) => {
    await prove(tpm, loaded.handle, key);
    const began = { changed: false };
    try {
      await removeParts(tpm, slot, before, began);
      await installKey(tpm, slot, loaded.handle, uri, began);
      await tpm.nvWrite(uriIndex(slot), uri);
    } catch (error) {
      throw began.changed ? halfDone(slot, 'written', before.view, error) : error;
    }
    return loaded.name;
  });
  await proveSlot(tpm, slot, key, uri);
  return {
    slot,
    uri: uri.toString('utf8'),
    keyName: keyName.toString('hex'),
    replaced: before.view.state !== 'empty',
  };
}

/** What a write would meet: what stands in the slot now. @throws as `writeSlot` does before it changes anything */
export async function checkSlotWritable<W>(
  tpm: SlotTpm<W>,
  slot: number,
  { overwrite = false, force = false } = {},
): Promise<SlotView> {
  const before = await showSlot(tpm, slot);
  refuseToDestroy(before, { overwrite, force });
  return before;
}

/** What clearing would destroy. @throws IotdmError `tpm.slot-foreign` */
export async function checkSlotClearable<W>(
  tpm: SlotTpm<W>,
  slot: number,
  { force = false } = {},
): Promise<SlotView> {
  return checkSlotWritable(tpm, slot, { overwrite: true, force });
}

/**
 * Empties a slot: the URI first, then the key.
 * @param force remove even what is not a slot's key or URI
 * @returns what stood there before
 */
export async function clearSlot<W>(tpm: SlotTpm<W>, slot: number, { force = false } = {}): Promise<SlotView> {
  const before = await showSlotParts(tpm, slot);
  refuseToDestroy(before.view, { overwrite: true, force });
  const began = { changed: false };
  try {
    await removeParts(tpm, slot, before, began);
  } catch (error) {
    throw began.changed ? halfDone(slot, 'cleared', before.view, error) : error;
  }
  return before.view;
}

/**
 * A SAS connection string, signed by the slot's key inside the TPM. Three TPM commands.
 * @param expiry Unix seconds
 */
export async function slotToken<W>(tpm: SlotTpm<W>, slot: number, expiry: number): Promise<SlotToken> {
  const uri = await readUriPart(tpm, slot);
  if (uri.kind !== 'right') throw notReady(slot, await showSlot(tpm, slot));
  const resource = encodedResource(uri.identity);
  const hmac = await signing(tpm, slot, () => tpm.hmac(keyHandle(slot), signedText(resource, expiry)));
  const sharedAccessSignature = formatSignature(resource, expiry, hmac);
  return {
    connectionString: formatTokenConnectionString(uri.identity, sharedAccessSignature),
    sharedAccessSignature,
    expiresAt: new Date(expiry * 1000).toISOString(),
  };
}

/** HMAC-SHA256 of any amount of data by the slot's key, 32 bytes. */
export async function slotSign<W>(
  tpm: SlotTpm<W>,
  slot: number,
  data: AsyncIterable<Buffer>,
): Promise<Buffer> {
  return signing(tpm, slot, () => tpm.hmacOfStream(keyHandle(slot), data));
}

interface SlotParts {
  readonly view: SlotView;
  readonly key: KeyPart;
  readonly uri: UriPart;
}

async function showSlotParts<W>(tpm: SlotTpm<W>, slot: number): Promise<SlotParts> {
  const key = await readKeyPart(tpm, slot);
  const uri = await readUriPart(tpm, slot);
  return { view: view(slot, key, uri), key, uri };
}

async function readKeyPart<W>(tpm: SlotTpm<W>, slot: number): Promise<KeyPart> {
  const key = await tpm.readPublic(keyHandle(slot));
  if (key === undefined) return { kind: 'absent' };
  const isSlotKey =
    key.type === KEY_TYPE &&
    key.nameAlg === KEY_HASH &&
    key.attributes === KEY_ATTRIBUTES &&
    key.hmacHash === KEY_HASH;
  if (isSlotKey) return { kind: 'right', name: key.name };
  return { kind: 'foreign', why: `the key at ${hex32(keyHandle(slot))} is not a slot's HMAC key` };
}

async function readUriPart<W>(tpm: SlotTpm<W>, slot: number): Promise<UriPart> {
  const index = uriIndex(slot);
  const foreign = { kind: 'foreign', why: `NV index ${hex32(index)} does not hold a slot's URI` } as const;
  const area = await tpm.nvReadPublic(index);
  if (area === undefined) return { kind: 'absent' };
  const written = (area.attributes & URI_WRITTEN) !== 0;
  if ((area.attributes & ~URI_WRITTEN) >>> 0 !== URI_ATTRIBUTES || area.dataSize >= URI_LIMIT_BYTES)
    return foreign;
  if (!written) return { kind: 'unwritten' };
  const bytes = await tpm.nvRead(index, area.dataSize);
  const identity = parseUri(bytes);
  return identity === undefined ? foreign : { kind: 'right', text: bytes.toString('utf8'), identity };
}

function view(slot: number, key: KeyPart, uri: UriPart): SlotView {
  const identity = uri.kind === 'right' ? uri.identity : undefined;
  return {
    slot,
    ...stateOf(key, uri),
    uri: uri.kind === 'right' ? uri.text : null,
    hostName: identity?.hostName ?? null,
    deviceId: identity?.deviceId ?? null,
    moduleId: identity?.moduleId ?? null,
    keyName: key.kind === 'right' ? key.name.toString('hex') : null,
  };
}

function stateOf(key: KeyPart, uri: UriPart): { state: SlotState; remark: string | null } {
  if (key.kind === 'foreign') return { state: 'foreign', remark: key.why };
  if (uri.kind === 'foreign') return { state: 'foreign', remark: uri.why };
  if (key.kind === 'absent' && uri.kind === 'absent') return { state: 'empty', remark: null };
  if (key.kind === 'right' && uri.kind === 'right') return { state: 'ready', remark: null };
  if (key.kind === 'right') return { state: 'incomplete', remark: 'it has a key but no URI' };
  return {
    state: 'incomplete',
    remark: uri.kind === 'right' ? 'it has a URI but no key' : 'it has neither a key nor a written URI',
  };
}

function refuseToDestroy(
  before: SlotView,
  { overwrite, force }: { overwrite: boolean; force: boolean },
): void {
  const details = { slot: before.slot, state: before.state, uri: before.uri, keyName: before.keyName };
  if (before.state === 'foreign' && !force) {
    throw new IotdmError('tpm.slot-foreign', `slot ${before.slot} is foreign: ${before.remark ?? ''}`, {
      details,
    });
  }
  if (before.state === 'empty' || overwrite || force) return;
  const holder = before.uri === null ? '' : `: it holds ${before.uri}`;
  throw new IotdmError('tpm.slot-not-empty', `slot ${before.slot} is not empty${holder}`, { details });
}

async function removeParts<W>(
  tpm: SlotTpm<W>,
  slot: number,
  { key, uri }: SlotParts,
  began: { changed: boolean },
): Promise<void> {
  if (uri.kind !== 'absent') await changing(began, tpm.nvUndefine(uriIndex(slot)));
  if (key.kind !== 'absent') await changing(began, tpm.removePersistent(keyHandle(slot)));
}

/** Notes that the slot has changed: also when the connection was lost, as the TPM may have done it all the same. */
async function changing(began: { changed: boolean }, step: Promise<void>): Promise<void> {
  try {
    await step;
    began.changed = true;
  } catch (error) {
    if (!(error instanceof IotdmError) || !error.code.startsWith('tpm.')) began.changed = true;
    throw error;
  }
}

/** Room for the URI is taken before the key becomes persistent; where there is no room for both, neither stays. */
async function installKey<W>(
  tpm: SlotTpm<W>,
  slot: number,
  transientHandle: number,
  uri: Buffer,
  began: { changed: boolean },
): Promise<void> {
  const before = began.changed;
  await changing(began, tpm.nvDefine(uriIndex(slot), URI_ATTRIBUTES, uri.length));
  try {
    await tpm.persist(transientHandle, keyHandle(slot));
  } catch (error) {
    await tpm.nvUndefine(uriIndex(slot)).then(
      () => {
        began.changed = before;
      },
      () => undefined,
    );
    throw error;
  }
}

/** The failure of a job that had begun to change the slot, saying so. */
function halfDone(slot: number, done: 'written' | 'cleared', before: SlotView, error: unknown): unknown {
  if (!(error instanceof IotdmError)) return error;
  const lost = before.uri === null ? '' : `, and may no longer hold ${before.uri}`;
  return new IotdmError(
    'tpm.slot-incomplete',
    `slot ${slot} may be only partly ${done}${lost}: ${error.message}`,
    {
      cause: error,
      details: { ...error.details, slot, before: before.uri, causeCode: error.code },
    },
  );
}

/** The TPM signs a fresh nonce with the key, and that is what the key given to us yields. */
async function prove<W>(tpm: SlotTpm<W>, handle: number, key: Secret): Promise<void> {
  const nonce = randomBytes(32);
  const fromTpm = await tpm.hmac(handle, nonce);
  const expected = createHmac('sha256', key.bytes).update(nonce).digest();
  if (fromTpm.length !== expected.length || !timingSafeEqual(fromTpm, expected)) {
    throw new IotdmError('verify.slot', `the TPM does not sign with the key it was given`);
  }
}

async function proveSlot<W>(tpm: SlotTpm<W>, slot: number, key: Secret, uri: Buffer): Promise<void> {
  await prove(tpm, keyHandle(slot), key);
  const stored = await tpm.nvRead(uriIndex(slot), uri.length);
  if (!stored.equals(uri)) {
    throw new IotdmError('verify.slot', `slot ${slot} does not hold the URI that was written`);
  }
}

async function signing<W, T>(tpm: SlotTpm<W>, slot: number, sign: () => Promise<T>): Promise<T> {
  try {
    return await sign();
  } catch (error) {
    if (error instanceof IotdmError && (error.code === 'tpm.key-missing' || error.code === 'tpm.refused')) {
      const now = await showSlot(tpm, slot);
      if (now.keyName === null) throw notReady(slot, now);
    }
    throw error;
  }
}

function notReady(slot: number, { state, remark, uri, keyName }: SlotView): IotdmError {
  const details = { slot, state, uri, keyName };
  switch (state) {
    case 'empty':
      return new IotdmError('tpm.slot-empty', `slot ${slot} is empty`, { details });
    case 'foreign':
      return new IotdmError('tpm.slot-foreign', `slot ${slot} is foreign: ${remark ?? ''}`, { details });
    case 'incomplete':
    case 'ready':
      return new IotdmError('tpm.slot-incomplete', `slot ${slot} is incomplete: ${remark ?? ''}`, {
        details,
      });
  }
}
