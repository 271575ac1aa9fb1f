/** What a TPM says of itself: who made it, and the certificate its maker put into it. */
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

/** NV index of the RSA 2048 EK certificate (TCG EK Credential Profile, section 2.2.1.4). */
export const EK_CERTIFICATE_INDEX = 0x01c00002;

/** Larger than any EK certificate seen in the field by a factor of four. */
const MAX_CERTIFICATE_BYTES = 8192;

/** TPMA_NV_WRITTEN. */
const NV_WRITTEN = 1 << 29;

/**
 * The bytes of the NV index that the EK certificate is kept in, whatever surrounds the certificate; null where there
 * are none. Three TPM commands for a usual certificate, one where there is none.
 * @throws IotdmError `tpm.*` where this caller may not read them
 */
export async function readEkCertificateArea(tpm: Tpm): Promise<Buffer | null> {
  const area = await tpm.nvReadPublic(EK_CERTIFICATE_INDEX);
  if (area === undefined || (area.attributes & NV_WRITTEN) === 0 || area.dataSize > MAX_CERTIFICATE_BYTES)
    return null;
  return tpm.nvRead(EK_CERTIFICATE_INDEX, area.dataSize);
}
