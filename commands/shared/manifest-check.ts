/** What `manifest verify` and `manifest merge` say of the manifests they have checked. */
import type { CheckedManifest, ManifestCheck, ManifestFault } from '../../src/station/manifest-check.ts';
import type { Context } from './context.ts';
import { CommandError } from './failure.ts';
import { table } from './verb.ts';

export interface ManifestResult {
  readonly ok: boolean;
  /** How many. */
  readonly files: number;
  readonly records: number;
  /** Records of a device that an earlier line has with the same serial number. */
  readonly repeated: number;
  /** The first 100. */
  readonly faults: readonly ManifestFault[];
  readonly faultCount: number;
  readonly warnings: readonly ManifestFault[];
  readonly manifests: readonly CheckedManifest[];
}

export function toResult(check: ManifestCheck): ManifestResult {
  const { ok, manifests, records, repeated, faults, faultCount, warnings } = check;
  return { ok, files: manifests.length, records, repeated, faults, faultCount, warnings, manifests };
}

export function warnOf(context: Context, { warnings }: ManifestCheck): void {
  for (const { file, line, problem } of warnings) context.console.warn(`${file}:${line}: ${problem}`);
}

/** A line for each fault, and one for those that are not listed. */
export function faultLines({ faults, faultCount }: ManifestCheck): string {
  const lines = faults.map(({ file, line, problem }) => `${file}:${line}: ${problem}\n`);
  if (faultCount > faults.length) lines.push(`… and ${faultCount - faults.length} more\n`);
  return lines.join('');
}

export function manifestTable({ manifests, repeated }: ManifestResult): string {
  const rows = manifests.map(({ file, records, lastHash }): [string, string] => {
    const count = inRecords(records);
    return [file, lastHash === null ? count : `${count}, last hash ${lastHash}`];
  });
  return table(repeated === 0 ? rows : [...rows, ['Repeated', `${repeated} (same chip and serial number)`]]);
}

/** @returns the error of a check with faults: exit code 9 */
export function refusal(check: ManifestCheck): CommandError {
  const { faults, faultCount, records, manifests } = check;
  const count = faultCount === 1 ? 'one fault' : `${faultCount} faults`;
  const files = manifests.length === 1 ? (manifests[0]?.file ?? '') : `${manifests.length} manifests`;
  return new CommandError('verify.manifest', `${count} in ${files} (${inRecords(records)})`, hintFor(check), {
    files: manifests.length,
    records,
    faultCount,
    faults,
  });
}

function hintFor({ faults, faultCount, conflictCount, certificateCount, manifests }: ManifestCheck): string {
  const stranger = manifests.find(
    ({ file, records }) => records === 0 && faults.some((fault) => fault.file === file),
  );
  if (stranger !== undefined) {
    return `name a manifest of harvest: ${stranger.file} is none; iotdm enrollment import --dry-run checks other files`;
  }
  if (conflictCount === faultCount) {
    return 'check the labels of these devices: one chip and one serial number belong together';
  }
  if (certificateCount === faultCount) {
    return (
      'if the chip has another key at 0x81010001 than its manufacturer certified, remove that with ' +
      'tpm2_evictcontrol where nothing uses it, and harvest the device into a new manifest'
    );
  }
  return 'restore the manifest from a copy: it was changed after it was written';
}

function inRecords(records: number): string {
  return records === 1 ? '1 record' : `${records} records`;
}
