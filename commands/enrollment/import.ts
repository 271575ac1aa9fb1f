import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import type { ImportMode, ImportSummary } from '../../src/station/import.ts';
import type { InputFormat } from '../../src/station/enrollment-input.ts';
import type { Context } from '../shared/context.ts';
import {
  faultsOption,
  verifyKeyOption,
  ignoreUnknownColumnsOption,
  inputFormats,
  withCheckedInput,
  type InputFileOptions,
} from '../shared/enrollment-options.ts';
import { count, table, type Verb } from '../shared/verb.ts';

export interface ImportOptions extends InputFileOptions {
  readonly mode: ImportMode;
  readonly concurrency: string;
  readonly format?: InputFormat;
}

export interface ImportDryRun {
  readonly total: number;
  readonly dryRun: true;
}

const MAX_CONCURRENCY = 64;

export const enrollmentImport: Verb<[string[]], ImportOptions, ImportSummary | ImportDryRun> = {
  name: 'import',
  arguments: [
    [
      '<file...>',
      'CSV, NDJSON (a manifest of harvest), JSON, the output of Limpet, or a bundle of export; - reads stdin',
    ],
  ],
  summary: 'enroll the devices in a file',
  description:
    'Enrolls every device in one or more files. All rows are checked before the first request is sent: with one bad ' +
    'row nothing is sent. Safe to repeat: devices that are enrolled as the file says are left alone. A device id or ' +
    'registration id that is enrolled with another endorsement key is never overwritten.\n\n' +
    'Columns: registrationId, endorsementKey (or ekCertificate, or publicKey, as TPM vendors deliver them), deviceId, iotHubHostName, provisioningStatus, allocationPolicy, iotEdge, ' +
    'reprovision (migrate, reset, never), tags.*, desired.*, serialNumber.',
  examples: [
    'iotdm enrollment import devices.csv',
    'iotdm enrollment import shift-1.ndjson shift-2.ndjson --json',
    'iotdm enrollment import devices.csv --dry-run',
    'produce-rows | iotdm enrollment import - --format ndjson',
  ],
  seeAlso: ['iotdm harvest', 'iotdm enrollment export', 'iotdm enrollment list'],
  settings: ['service', 'timeout', 'confirm', 'dry-run'],
  options: [
    new Option('--mode <mode>', 'what to do with each row')
      .choices(['upsert', 'create', 'update', 'delete'] satisfies ImportMode[])
      .default('upsert'),
    new Option('--format <format>', 'of the files, where their names do not tell').choices(inputFormats),
    new Option('--concurrency <n>', 'requests under way at once').default('4'),
    ignoreUnknownColumnsOption(),
    faultsOption(),
    verifyKeyOption(),
  ],
  async run(context, [files], options) {
    const concurrency = parseConcurrency(options.concurrency);
    return withCheckedInput(context, files, options.format, options, async (sources, total) => {
      if (context.settings.dryRun) return { total, dryRun: true };
      const [{ importEnrollments }, { readCheckedRows }, service] = await Promise.all([
        import('../../src/station/import.ts'),
        import('../../src/station/enrollment-input.ts'),
        context.openService(),
      ]);
      if (options.mode === 'delete') {
        await context.confirm(`Delete ${count(total, 'enrollment')} from ${service.host}?`);
      }
      const progress = await context.console.progress(context.console.bar(0, total));
      try {
        const summary = await importEnrollments({
          rows: readCheckedRows(sources, options),
          service,
          mode: options.mode,
          concurrency,
          signal: context.host.signal,
          onProgress: ({ done, failed }) => {
            progress.update(`${context.console.bar(done, total)}${failed > 0 ? `, ${failed} failed` : ''}`);
          },
        });
        return await orPartial(context, summary);
      } finally {
        progress.done();
      }
    });
  },
  describe(result, { console: { style } }) {
    if ('dryRun' in result)
      return `${count(result.total, 'row')} checked, no fault found; nothing was sent.\n`;
    const { total, created, updated, unchanged, deleted, skipped, requests, elapsedMs } = result;
    return (
      `${style.green('✔')} ${count(total, 'row')} done.\n` +
      table([
        ['Created', String(created)],
        ['Updated', String(updated)],
        ['Unchanged', String(unchanged)],
        ['Deleted', String(deleted)],
        ['Skipped', String(skipped)],
        [
          'Requests',
          `${requests} in ${elapsedMs < 1000 ? `${elapsedMs} ms` : `${(elapsedMs / 1000).toFixed(1)} s`}`,
        ],
      ])
    );
  },
};

/** A batch with failed rows ends in an error that carries the whole summary; for scripts it is on stdout as well. */
async function orPartial(context: Context, summary: ImportSummary): Promise<ImportSummary> {
  if (summary.failed === 0) return summary;
  if (context.settings.json) {
    await context.print(`${JSON.stringify(summary, null, 2)}\n`);
  } else {
    for (const { line, registrationId, message } of summary.failures) {
      context.host.stderr.write(`line ${line}: ${registrationId}: ${message}\n`);
    }
  }
  const { total, created, updated, unchanged, deleted, failed, skipped } = summary;
  throw new IotdmError('partial.rows-failed', `${failed} of ${total} rows failed`, {
    details: { total, created, updated, unchanged, deleted, failed, skipped },
  });
}

function parseConcurrency(text: string): number {
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || number < 1 || number > MAX_CONCURRENCY) {
    throw new IotdmError('usage.invalid', `--concurrency takes a number from 1 to ${MAX_CONCURRENCY}`);
  }
  return number;
}
