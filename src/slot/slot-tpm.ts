/** What slots need of a TPM, and what they need besides it to survive a loss of power. */
import type { RecoveryStore } from './recovery.ts';

/** A key in the TPM as far as slots look at it. */
export interface SlotKey {
  /** nameAlg and digest of the public area. */
  readonly name: Buffer;
  readonly type: number;
  readonly nameAlg: number;
  readonly attributes: number;
  readonly hmacHash?: number;
}

/** A key that only its parent in one TPM can load. */
export interface WrappedKey {
  /** Contents of TPM2B_PRIVATE. */
  readonly privatePart: Buffer;
  /** TPMT_PUBLIC. */
  readonly publicPart: Buffer;
}

/** Failures are IotdmErrors `tpm.*`, `tpm-unavailable.*` and `interrupted.signal`, each with its effect. */
export interface SlotTpm {
  /** Whether a key that was loaded may still be. Nothing else is left transient. */
  readonly mayHaveLeftLoaded: boolean;
  /** The public part of a key, or undefined where the handle is empty. */
  readPublic(handle: number): Promise<SlotKey | undefined>;
  /** The storage root key: where it stands, or derived and flushed. */
  readStorageRootKey(): Promise<{ readonly name: Buffer }>;
  /** Derives it and keeps it where nothing stands. */
  makeStorageRootKey(): Promise<{ readonly name: Buffer }>;
  createHmacKey(parentHandle: number, key: Buffer): Promise<WrappedKey>;
  withLoaded<T>(
    parentHandle: number,
    key: WrappedKey,
    use: (key: SlotKey & { readonly handle: number }) => Promise<T>,
  ): Promise<T>;
  hmac(handle: number, data: Buffer): Promise<Buffer>;
  hmacOfStream(handle: number, data: AsyncIterable<Buffer>): Promise<Buffer>;
  persist(transientHandle: number, persistentHandle: number): Promise<void>;
  removePersistent(handle: number): Promise<void>;
  /** For how many more persistent keys there is room, as the TPM estimates it; undefined where it does not say. */
  persistentLeft(): Promise<number | undefined>;
  flushTransient(handle: number): Promise<void>;
  handles(first: number, count: number): Promise<number[]>;
  nvReadPublic(index: number): Promise<NvArea | undefined>;
  nvRead(index: number, size: number): Promise<Buffer>;
  nvDefine(index: number, attributes: number, dataSize: number): Promise<void>;
  nvWrite(index: number, data: Buffer): Promise<void>;
  nvUndefine(index: number): Promise<void>;
}

export interface NvArea {
  /** nameAlg and digest of the NV index's public area. */
  readonly name: Buffer;
  readonly attributes: number;
  readonly nameAlg: number;
  /** Bytes. */
  readonly dataSize: number;
}

/** What a slot is changed with. Whoever has it is the only one that changes the TPM. */
export interface SlotAccess {
  readonly tpm: SlotTpm;
  readonly recovery: RecoveryStore;
}
