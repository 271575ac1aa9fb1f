import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import {
  bulkBodies,
  exportEnrollments,
  exportFormats,
  type ExportFormat,
} from '../../src/station/enrollment-export.ts';
import { readCheckedRows, type InputFormat } from '../../src/station/enrollment-input.ts';
import {
  faultsOption,
  ignoreUnknownColumnsOption,
  inputFormats,
  withCheckedInput,
  type InputFileOptions,
} from '../shared/enrollment-options.ts';
import { writeOutputFile } from '../shared/output-file.ts';
import { count, type Verb } from '../shared/verb.ts';

export interface EnrollmentExportOptions extends InputFileOptions {
  readonly format: ExportFormat;
  readonly inputFormat?: InputFormat;
  readonly out?: string;
  readonly overwrite?: boolean;
}

export interface EnrollmentExportResult {
  readonly total: number;
  readonly format: ExportFormat;
  readonly out: string;
  /** Files written. */
  readonly files: number;
  readonly dryRun?: true;
}

export const enrollmentExport: Verb<[string[]], EnrollmentExportOptions, EnrollmentExportResult | undefined> =
  {
    name: 'export',
    arguments: [['<manifest...>', 'manifests of harvest, or any file that import takes; - reads stdin']],
    summary: 'write enrollments for somebody else to register later',
    description:
      'Writes the devices of one or more manifests as enrollments that can be registered later, without this machine ' +
      'ever reaching the service: as an array of enrollments (dps-json), as bodies of bulk requests of ten (dps-bulk; a ' +
      'directory with one file a request), as CSV for iotdm enrollment import, or as a script of Azure CLI calls (az). ' +
      'Needs no credentials and no network.',
    examples: [
      'iotdm enrollment export shift.ndjson --format dps-json --out enrollments.json',
      'iotdm enrollment export shift-*.ndjson --format dps-bulk --out bulk/',
      'iotdm enrollment export shift.ndjson --format az --out enroll.sh',
    ],
    seeAlso: ['iotdm harvest', 'iotdm enrollment import'],
    settings: ['dry-run'],
    options: [
      new Option('--format <format>', 'what to write').choices([...exportFormats]).makeOptionMandatory(),
      new Option('--out <path>', 'file to write, or directory for dps-bulk (default: stdout)'),
      new Option('--overwrite', 'replace files that are there'),
      new Option('--input-format <format>', 'of the input, where its name does not tell').choices(
        inputFormats,
      ),
      ignoreUnknownColumnsOption(),
      faultsOption(),
    ],
    async run(context, [files], options) {
      const { format, out, overwrite = false } = options;
      return withCheckedInput(context, files, options.inputFormat, options, async (sources, total) => {
        const rows = (): ReturnType<typeof readCheckedRows> => readCheckedRows(sources, options);
        if (out === undefined) {
          for await (const piece of exportEnrollments(format, rows)) await context.print(piece);
          return undefined;
        }
        if (context.settings.dryRun) return { total, format, out, files: 0, dryRun: true };
        if (format !== 'dps-bulk') {
          await writeOutputFile(out, exportEnrollments(format, rows), { overwrite });
          return { total, format, out, files: 1 };
        }
        return { total, format, out, files: await writeBodies(out, bulkBodies(rows()), overwrite) };
      });
    },
    describe: (result) =>
      result === undefined
        ? ''
        : result.dryRun === true
          ? `Would write ${count(result.total, 'enrollment')} to ${result.out}.\n`
          : `Wrote ${count(result.total, 'enrollment')} to ${result.out}${result.files > 1 ? ` (${result.files} files)` : ''}.\n`,
  };

async function writeBodies(
  directory: string,
  bodies: AsyncIterable<object>,
  overwrite: boolean,
): Promise<number> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new IotdmError('usage.output-unwritable', `cannot make the directory ${directory}`, { cause });
  }
  let count = 0;
  for await (const body of bodies) {
    count += 1;
    const name = `bulk-${String(count).padStart(6, '0')}.json`;
    await writeOutputFile(join(directory, name), `${JSON.stringify(body)}\n`, { overwrite });
  }
  return count;
}
