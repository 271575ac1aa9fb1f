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

/** Whether all that stands in the slot can come from this change; otherwise somebody else has written it since. */
export function isStillOf({ key, uri }: SlotParts, { before, target }: ChangeRecord): boolean {
  const keyFits =
    key.kind === 'absent' ||
    isKeyAsBefore(key, before) ||
    (target.key != null && key.name.equals(nameOf(target.key)));
  const size = typeof target.uri === 'string' ? Buffer.byteLength(target.uri) : undefined;
  const uriFits =
    uri.kind === 'absent' ||
    isUriAsBefore(uri, before) ||
    (uri.kind === 'right' && uri.text === target.uri) ||
    // Taking it back writes the old one again.
    (uri.kind === 'right' && uri.text === before.uri?.text) ||
    (uri.kind === 'unwritten' && (uri.size === size || uri.size === before.uri?.size));
  return keyFits && uriFits;
}
