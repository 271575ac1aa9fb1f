import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import {
  bulkBodies,
  exportEnrollments,
  exportFormats,
  type ExportFormat,
} from '../../src/station/enrollment-export.ts';
import { bundleParts, hashed, isBundleName } from '../../src/station/bundle.ts';
import { readCheckedRows, type InputFormat, type InputSource } from '../../src/station/enrollment-input.ts';
import { readStationSigner } from '../../src/station/station-key.ts';
import type { Context } from '../shared/context.ts';
import { csvOptions, textColumnsOption } from '../shared/csv-options.ts';
import {
  faultsOption,
  verifyKeyOption,
  ignoreUnknownColumnsOption,
  inputFormats,
  withCheckedInput,
  type InputFileOptions,
} from '../shared/enrollment-options.ts';
import {
  describeVerification,
  noteVerification,
  rowVerificationOptions,
  withVerification,
  type Verified,
} from '../shared/row-verification.ts';
import { printWhole, writeOutputDirectory, writeOutputFile, type OutputPart } from '../shared/output-file.ts';
import { count, type Verb } from '../shared/verb.ts';

export interface EnrollmentExportOptions extends InputFileOptions {
  readonly format: ExportFormat | 'bundle';
  readonly signKey?: string;
  readonly inputFormat?: InputFormat;
  readonly out?: string;
  readonly overwrite?: boolean;
}

export interface EnrollmentExportResult {
  readonly total: number;
  readonly format: ExportFormat | 'bundle';
  readonly out: string;
  /** Files written. */
  readonly files: number;
  readonly dryRun?: true;
}

export const enrollmentExport: Verb<
  [string[]],
  EnrollmentExportOptions,
  Verified<EnrollmentExportResult> | undefined
> = {
  name: 'export',
  arguments: [['<manifest...>', 'manifests of harvest, or any file that import takes; - reads stdin']],
  summary: 'write enrollments for somebody else to register later',
  description:
    'Writes the devices of one or more manifests as enrollments that can be registered later, without this machine ' +
    'ever reaching the service: as an array of enrollments (dps-json), as bodies of bulk requests of ten (dps-bulk; a ' +
    'directory with one file a request), as CSV for iotdm enrollment import, as a script of Azure CLI calls (az), or as a ' +
    'bundle for iotdm enrollment import: a directory with checksums, signed with --sign-key, that is taken as it was made or not at all. ' +
    'With --roots the EK certificate of every row is verified first, as enrollment import does. Needs no credentials and ' +
    'no network.',
  examples: [
    'iotdm enrollment export shift.ndjson --format dps-json --out enrollments.json',
    'iotdm enrollment export shift-*.ndjson --format dps-bulk --out bulk/',
    'iotdm enrollment export shift.ndjson --format az --out enroll.sh',
    'iotdm enrollment export shift.ndjson --format bundle --out shift-17 --sign-key station.key',
  ],
  seeAlso: ['iotdm harvest', 'iotdm enrollment import'],
  settings: ['dry-run'],
  options: [
    new Option('--format <format>', 'what to write')
      .choices([...exportFormats, 'bundle'])
      .makeOptionMandatory(),
    new Option('--out <path>', 'file to write, or directory for dps-bulk and bundle (default: stdout)'),
    new Option('--sign-key <pem>', "the station's private key, Ed25519, to sign a bundle with"),
    new Option('--overwrite', 'replace files that are there'),
    new Option('--input-format <format>', 'of the input, where its name does not tell').choices(inputFormats),
    ignoreUnknownColumnsOption(),
    ...csvOptions(),
    textColumnsOption(),
    faultsOption(),
    verifyKeyOption(),
    ...rowVerificationOptions(),
  ],
  async run(context, [files], options) {
    const { format, out, overwrite = false, signKey } = options;
    if (format === 'bundle' && out === undefined) {
      throw new IotdmError('usage.invalid', 'a bundle is a directory: name it with --out');
    }
    if (format !== 'bundle' && signKey !== undefined) {
      throw new IotdmError('usage.invalid', '--sign-key signs a bundle: pass --format bundle');
    }
    return withCheckedInput(context, files, options.inputFormat, options, async (sources, check) => {
      const { rows: total, seal } = check;
      const rows = (): ReturnType<typeof readCheckedRows> => readCheckedRows(sources, options, seal);
      if (out === undefined) {
        if (format === 'bundle') return undefined;
        await printWhole(context, exportEnrollments(format, rows));
        noteVerification(context, check);
        return undefined;
      }
      if (context.settings.dryRun) {
        return withVerification({ total, format, out, files: 0, dryRun: true } as const, check);
      }
      if (format !== 'dps-bulk' && format !== 'bundle') {
        await writeOutputFile(out, exportEnrollments(format, rows), { overwrite });
        return withVerification({ total, format, out, files: 1 }, check);
      }
      const files = await writeDirectory(context, sources, out, options);
      return withVerification({ total, format, out, files }, check);
    });
  },
  describe(result) {
    if (result === undefined) return '';
    const { total, out, files, dryRun, verification } = result;
    const what =
      dryRun === true
        ? `Would write ${count(total, 'enrollment')} to ${out}.\n`
        : `Wrote ${count(total, 'enrollment')} to ${out}${files > 1 ? ` (${files} files)` : ''}.\n`;
    return verification === undefined
      ? what
      : `${what}EK certificates: ${describeVerification(verification)}.\n`;
  },
};

/** @returns the number of files */
async function writeDirectory(
  context: Context,
  sources: readonly InputSource[],
  out: string,
  { format, overwrite = false, signKey, ...options }: EnrollmentExportOptions,
): Promise<number> {
  if (format === 'dps-bulk') {
    const isOurs = (name: string): boolean => /^bulk-[0-9]{6}\.json$/.test(name);
    return writeOutputDirectory(out, bulkParts(readCheckedRows(sources, options)), { overwrite, isOurs });
  }
  const signer =
    signKey === undefined
      ? undefined
      : readStationSigner(await context.readSecretFile(signKey, 'the station key'));
  const read = sources.map(hashed);
  const parts = bundleParts({
    rows: readCheckedRows(read, options),
    sources: read,
    tool: context.host.tool,
    now: context.host.clock(),
    ...(signer === undefined ? {} : { signer }),
  });
  const files = await writeOutputDirectory(out, parts, { overwrite, isOurs: isBundleName });
  if (signer === undefined) context.console.note('the bundle is not signed: --sign-key FILE signs it');
  else context.console.note(`signed as station ${signer.keyId}`);
  return files;
}

async function* bulkParts(rows: ReturnType<typeof readCheckedRows>): AsyncGenerator<OutputPart> {
  let count = 0;
  for await (const body of bulkBodies(rows)) {
    count += 1;
    yield { name: `bulk-${String(count).padStart(6, '0')}.json`, content: `${JSON.stringify(body)}\n` };
  }
}
