/**
 * Where the record of a change under way stands until the slot is proved: outside the TPM, so that a loss of power in
 * between leaves enough to finish the change without the secret.
 */

/** Records by TPM (the name of its storage root key) and slot. */
export interface RecoveryStore {
  /** Where it is, for messages. */
  readonly place: string;
  /** Whether there is a record for this slot of any TPM. Asks no TPM; false where the place cannot be read. */
  mayHave(slot: number): boolean;
  /**
   * The text of the record, or undefined where there is none.
   * @throws IotdmError `input.recovery-damaged` for one that is not fit to be read
   */
  read(tpmName: Buffer, slot: number): string | undefined;
  /** Replaces the record; it outlasts a loss of power when this returns. @throws IotdmError `usage.output-unwritable` */
  write(tpmName: Buffer, slot: number, text: string): void;
  /** @throws IotdmError `usage.output-unwritable` */
  remove(tpmName: Buffer, slot: number): void;
}
