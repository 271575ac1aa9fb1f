import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { withMergedManifest } from '../../src/station/manifest-merge.ts';
import { faultLines, refusal, warnOf } from '../shared/manifest-check.ts';
import { writeOutputFile } from '../shared/output-file.ts';
import { table, type Verb } from '../shared/verb.ts';

export interface ManifestMergeOptions {
  readonly out: string;
  readonly overwrite?: boolean;
}

export interface ManifestMergeResult {
  /** How many were merged. */
  readonly files: number;
  /** In the new manifest. */
  readonly records: number;
  /** Left out, as an earlier record has the same chip and serial number. */
  readonly repeated: number;
  readonly out: string;
  /** SHA-256 of the last line of the new manifest; null on a dry run. */
  readonly lastHash: string | null;
  readonly dryRun?: true;
}

export const manifestMerge: Verb<[string[]], ManifestMergeOptions, ManifestMergeResult> = {
  name: 'merge',
  arguments: [['<file...>', 'manifests of harvest']],
  summary: 'make one manifest of several',
  description:
    'Verifies the manifests and writes their records into a new one, ordered by time, with a chain of its own. A ' +
    'device that stands in several of them with the same serial number is kept once, as it was recorded first. ' +
    'Nothing is written when one of them is not in order, or when they disagree on which serial number a chip has. ' +
    'The manifests themselves are left as they are: keep them, for the new chain says nothing of the old ones.',
  examples: [
    'iotdm manifest merge line-1.ndjson line-2.ndjson --out week-48.ndjson',
    'iotdm manifest merge shift-*.ndjson --out day.ndjson --dry-run',
  ],
  seeAlso: ['iotdm manifest verify', 'iotdm enrollment import', 'iotdm enrollment export'],
  settings: ['dry-run'],
  options: [
    new Option('--out <file>', 'the new manifest (mode 0600)').makeOptionMandatory(),
    new Option('--overwrite', 'replace the file that --out names'),
  ],
  async run(context, [files], { out, overwrite = false }) {
    if (files.includes('-')) {
      throw new IotdmError('usage.invalid', 'merge reads its files twice: give names of files and not -');
    }
    const progress = await context.console.progress('Verifying and merging');
    try {
      return await withMergedManifest(files, { out, signal: context.host.signal }, async (check, merged) => {
        progress.done();
        warnOf(context, check);
        if (merged === undefined) {
          if (!context.settings.json) context.host.stderr.write(faultLines(check));
          throw refusal(check);
        }
        if (context.settings.dryRun) {
          const { records, repeated } = check;
          return {
            files: files.length,
            records: records - repeated,
            repeated,
            out,
            lastHash: null,
            dryRun: true,
          };
        }
        await writeOutputFile(out, merged.lines, { overwrite });
        return { files: files.length, ...merged.progress, out };
      });
    } finally {
      progress.done();
    }
  },
  describe({ files, records, repeated, out, lastHash, dryRun }, { console: { style } }) {
    const rows = table([
      ['Manifest', out],
      ['Records', String(records)],
      ['Left out', `${repeated} (same chip and serial number as an earlier record)`],
      ...(lastHash === null ? [] : [['Last hash', lastHash] as const]),
    ]);
    if (dryRun === true) return `Would merge ${files} manifests:\n${rows}`;
    return `${style.green('✔')} Merged ${files} manifests.\n${rows}`;
  },
};
