/** What a TPM says of itself: who made it, and which firmware it runs. */
import type { Tpm } from './tpm.ts';

export interface TpmDescription {
  /** Four letters of the TCG Vendor ID Registry, such as `IFX` or `IBM`. */
  readonly manufacturer: string;
  readonly vendorString: string;
  /** Such as `7.85.4555.0`. */
  readonly firmware: string;
  /** Of the TPM 2.0 Library specification, such as `1.64`. */
  readonly revision: string;
}

/** TPM_PT_FIXED, Part 2, section 6.13. */
const PT_REVISION = 0x102;
const PT_MANUFACTURER = 0x105;
const PT_VENDOR_STRINGS = [0x106, 0x107, 0x108, 0x109] as const;
const PT_FIRMWARE = [0x10b, 0x10c] as const;
const PT_COUNT = PT_FIRMWARE[1] - PT_REVISION + 1;

/** One TPM command. */
export async function describeTpm(tpm: Tpm): Promise<TpmDescription> {
  return descriptionFrom(await tpm.properties(PT_REVISION, PT_COUNT));
}

/** @param properties TPM_PT_FIXED, those from TPM_PT_REVISION to TPM_PT_FIRMWARE_VERSION_2 at least */
export function descriptionFrom(properties: ReadonlyMap<number, number>): TpmDescription {
  const value = (id: number): number => properties.get(id) ?? 0;
  return {
    manufacturer: letters([value(PT_MANUFACTURER)]),
    vendorString: letters(PT_VENDOR_STRINGS.map(value)),
    firmware: PT_FIRMWARE.map(value)
      .flatMap((word) => [word >>> 16, word & 0xffff])
      .join('.'),
    revision: (value(PT_REVISION) / 100).toFixed(2),
  };
}

/** Four characters a word; zeros and what is not printable ASCII are left out, as terminals and logs will see it. */
export function letters(words: readonly number[]): string {
  return words
    .flatMap((word) => [word >>> 24, (word >>> 16) & 0xff, (word >>> 8) & 0xff, word & 0xff])
    .filter((byte) => byte >= 0x20 && byte < 0x7f)
    .map((byte) => String.fromCharCode(byte))
    .join('')
    .trim();
}
