/** Finds the record of a change that was interrupted, and says whether it still fits what stands in the slot. */
import { IotdmError } from '../errors.ts';
import { SRK_HANDLE } from './layout.ts';
import type { SlotParts } from './parts.ts';
import {
  isKeyAsBefore,
  isUriAsBefore,
  nameOf,
  parseRecord,
  type ChangeRecord,
  type ParsedRecord,
} from './record.ts';
import type { RecoveryStore } from './recovery.ts';
import type { SlotTpm } from './slot-tpm.ts';

export type FoundRecord =
  ({ readonly kind: 'record' } & ParsedRecord) | { readonly kind: 'damaged'; readonly error: IotdmError };

/** Looks records up, and asks the TPM for its name at most once, and only where there may be a record. */
export class InterruptedChanges {
  readonly #tpm: SlotTpm;
  readonly #recovery: RecoveryStore | undefined;
  #name: Promise<Buffer | undefined> | undefined;

  /** @param tpmName where it is known already */
  constructor(tpm: SlotTpm, recovery: RecoveryStore | undefined, tpmName?: Buffer) {
    this.#tpm = tpm;
    this.#recovery = recovery;
    if (tpmName !== undefined) this.#name = Promise.resolve(tpmName);
  }

  async of(slot: number): Promise<FoundRecord | undefined> {
    const recovery = this.#recovery;
    if (recovery?.mayHave(slot) !== true) return undefined;
    // A TPM without a storage root key has no wrapped key that it could load.
    this.#name ??= this.#tpm.readPublic(SRK_HANDLE).then((key) => key?.name);
    const name = await this.#name;
    if (name === undefined) return undefined;
    try {
      const text = recovery.read(name, slot);
      return text === undefined ? undefined : { kind: 'record', ...parseRecord(text, name, slot) };
    } catch (error) {
      if (error instanceof IotdmError && error.code === 'input.recovery-damaged')
        return { kind: 'damaged', error };
      throw error;
    }
  }
}

/**
 * Whether a change to this slot that was interrupted may still bring this key into it. Asks no TPM.
 * @param tpmName name of the storage root key
 * @param keyName hex
 */
export function mayBringKey(
  recovery: RecoveryStore,
  tpmName: Buffer,
  slot: number,
  keyName: string,
): boolean {
  try {
    const text = recovery.read(tpmName, slot);
    if (text === undefined) return false;
    const { key } = parseRecord(text, tpmName, slot).record.target;
    return key != null && nameOf(key).toString('hex') === keyName;
  } catch {
    // What cannot be read is not known to name another key.
    return true;
  }
}

/** Whether all that stands in the slot can come from this change; otherwise somebody else has written it since. */
export function isStillOf(parts: SlotParts, record: ChangeRecord): boolean {
  return isKeyStillOf(parts, record) && isUriStillOf(parts, record);
}

function isKeyStillOf({ key }: SlotParts, { before, target }: ChangeRecord): boolean {
  if (isKeyAsBefore(key, before)) return true;
  if (target.key === undefined) return false;
  return key.kind === 'absent' || (target.key !== null && key.name.equals(nameOf(target.key)));
}

function isUriStillOf({ uri }: SlotParts, { before, target }: ChangeRecord): boolean {
  if (isUriAsBefore(uri, before)) return true;
  if (target.uri === undefined) return false;
  switch (uri.kind) {
    case 'absent':
      return true;
    case 'right':
      return uri.text === target.uri || uri.text === before.uri?.text;
    case 'unwritten': {
      // Taking it back defines the old one again.
      const newSize = target.uri === null ? undefined : Buffer.byteLength(target.uri);
      return uri.size === newSize || uri.size === before.uri?.size;
    }
    case 'foreign':
      return false;
  }
}
