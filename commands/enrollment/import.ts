import { IotdmError } from '../../src/errors.ts';
import type { RowFailure } from '../../src/records/import-journal.ts';
import type {
  DeletionRow,
  EnrollmentRow,
  InputCheck,
  InputSource,
  InputOptions,
  PlacedDeletion,
  PlacedRow,
} from '../../src/station/enrollment-input.ts';
import type { ProvisioningService } from '../../src/dps/service.ts';
import type {
  ImportMode,
  ImportOptions as LibraryOptions,
  ImportProgress,
  ImportSummary,
} from '../../src/station/import.ts';
import type { Context } from '../shared/context.ts';
import { CommandError } from '../shared/failure.ts';
import { withCheckedInput } from '../shared/enrollment-options.ts';
import {
  importLimits,
  importOptions,
  inputOptions,
  type ImportLimits,
  type ImportOptions,
} from '../shared/import-options.ts';
import {
  checkReportPath,
  journalPath,
  orPartial,
  withJournal,
  writeReport,
} from '../shared/import-outcome.ts';
import {
  indexNotes,
  indexOptions,
  notCompared,
  openToTell,
  readingText,
  type Compared,
} from '../shared/identity-index.ts';
import { ProgressReport } from '../shared/import-progress.ts';
import {
  describeVerification,
  noteVerification,
  withVerification,
  type Verified,
} from '../shared/row-verification.ts';
import { count, table, type Verb } from '../shared/verb.ts';

export interface ImportDryRun {
  readonly total: number;
  readonly dryRun: true;
}

/** The summary, and whether what was written was compared with all other enrollments. */
export type ImportResult = ImportSummary & Compared;

const LISTED_FAILURES = 100;
/** Who interrupts waits so long for the answers that are on their way, so that the fate of no row stays unknown. */
const GRACE_MS = 2000;

export const enrollmentImport: Verb<
  [string[]],
  ImportOptions,
  Verified<ImportResult | ImportDryRun> | undefined
> = {
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
    'row nothing is sent. Safe to repeat: devices that are enrolled as the file says are left alone, and fields that a ' +
    'row does not name stay as they are. A device id or registration id that is enrolled with another endorsement key ' +
    'is never overwritten.\n\n' +
    'With --mode delete, only what a row stands for is deleted, in the version that was compared: an enrollment with ' +
    'another endorsement key, another kind of attestation or other certificates is a conflict. What enrollment list ' +
    'writes can be the input, whichever kinds of attestation it holds. With --ids-only a file holds registration ids ' +
    'alone (CSV, one a line, NDJSON, JSON), and neither key nor kind nor version is compared.\n\n' +
    'A journal keeps what has become of each row. Run again with the same input, the import goes on where it stopped, ' +
    'whatever ended it, and tries failed rows once more. With credentials, --dry-run compares every row with the ' +
    'service and says what would be done.\n\n' +
    'With --roots the EK certificate of every row is verified before anything is sent: key, names, usage, dates, and ' +
    'its chain to a vendor that you trust. A row that has none, or one that is not verified, is a fault. That the device ' +
    'is the one of the certificate shows when it registers.\n\n' +
    'Columns: registrationId, endorsementKey (or ekCertificate, or publicKey, as TPM vendors deliver them), deviceId, iotHubHostName, iotHubs (several, with ' +
    'blanks between them), provisioningStatus, allocationPolicy, webhookUrl and webhookApiVersion (with custom), iotEdge, ' +
    'reprovision (migrate, reset, never), tags.*, desired.*, namespaceName, certificateAuthorityName, ' +
    'certificatePolicyName, storageRootKey, serialNumber. JSON in the form of the service (enrollment list --json, az) ' +
    'comes in as it is, or is refused with the place of what would be lost. A registration id of a column is written in ' +
    'lower case. In CSV, ids and serial numbers that a ' +
    'spreadsheet has turned into 3.57E+14, Mar-17 or #REF! are refused unless --as-text.',
  examples: [
    'iotdm enrollment import devices.csv',
    'iotdm enrollment import shift-1.ndjson shift-2.ndjson --json',
    'iotdm enrollment import devices.csv --dry-run',
    'iotdm enrollment import delivery.csv --roots /etc/iotdm/tpm-vendors --dry-run',
    'iotdm enrollment import devices.csv --rate 200 --report outcome.csv',
    'iotdm enrollment import scrapped.csv --mode delete --dry-run',
    'produce-rows | iotdm enrollment import - --format ndjson --journal rows.journal',
  ],
  notes: indexNotes,
  seeAlso: ['iotdm harvest', 'iotdm ek verify', 'iotdm enrollment export', 'iotdm enrollment list'],
  settings: ['service', 'index', 'timeout', 'confirm', 'dry-run'],
  options: importOptions,
  async run(context, [files], typed) {
    const limits = importLimits(typed);
    const options = inputOptions(typed);
    if (
      typed.mode === 'delete' &&
      (typed.verify ?? (typed.roots === undefined ? 'off' : 'require')) !== 'off'
    ) {
      throw new CommandError(
        'usage.invalid',
        '--verify and --roots prove what is to be enrolled, and --mode delete enrolls nothing',
        'leave them away',
      );
    }
    return withCheckedInput(context, files, options.format, options, async (sources, check) => {
      if (!context.settings.dryRun) {
        return withVerification(await runImport(context, files, sources, check, options, limits), check);
      }
      if (!context.hasServiceCredentials)
        return withVerification({ total: check.rows, dryRun: true } as const, check);
      noteVerification(context, check);
      await compareOnly(context, sources, check, options, limits);
      return undefined;
    });
  },
  describe(result, { console: { style } }, { report }) {
    if (result === undefined) return '';
    const { verification } = result;
    const verified = verification === undefined ? undefined : describeVerification(verification);
    if ('dryRun' in result) {
      const certificates = verified === undefined ? '' : `EK certificates: ${verified}.\n`;
      return `${count(result.total, 'row')} checked, no fault found; nothing was sent.\n${certificates}`;
    }
    const { total, created, updated, unchanged, deleted, skipped, requests, throttled, elapsedMs } = result;
    const { journal, identityCompared } = result;
    const duration = elapsedMs < 1000 ? `${elapsedMs} ms` : `${(elapsedMs / 1000).toFixed(1)} s`;
    return (
      `${style.green('✔')} ${count(total, 'row')} done.\n` +
      table([
        ['Created', String(created)],
        ['Updated', String(updated)],
        ['Unchanged', String(unchanged)],
        ['Deleted', String(deleted)],
        ['Skipped', String(skipped)],
        ['Requests', `${requests} in ${duration}${throttled > 0 ? `, ${throttled} throttled` : ''}`],
        ...(verified === undefined ? [] : [['EK certificates', verified] as const]),
        ...(journal === null ? [] : [['Journal', journal] as const]),
        ...(report === undefined ? [] : [['Report', report] as const]),
      ]) +
      (identityCompared === false ? notCompared : '')
    );
  },
};

async function runImport(
  context: Context,
  files: readonly string[],
  sources: readonly InputSource[],
  { rows: total, seal }: InputCheck,
  options: ImportOptions & InputOptions,
  limits: ImportLimits,
): Promise<ImportResult> {
  const { mode, bulkCost, force = false, report } = options;
  if (report !== undefined) await checkReportPath(report);
  const [{ deleteEnrollments, importEnrollments }, { Governor }, input, service] = await Promise.all([
    import('../../src/station/import.ts'),
    import('../../src/dps/governor.ts'),
    import('../../src/station/enrollment-input.ts'),
    context.openService({ attempts: 1, graceMs: GRACE_MS, maxSockets: limits.concurrency }),
  ]);
  if (mode === 'delete') {
    const byId = options.idsOnly === true ? ', by registration id alone,' : '';
    await context.confirm(`Delete ${count(total, 'enrollment')}${byId} from ${service.host}?`);
  }

  const toEnroll = (): AsyncIterable<readonly PlacedRow[]> => input.readPlacedRows(sources, options, seal);
  const toDelete = (): AsyncIterable<readonly PlacedDeletion[]> =>
    input.readPlacedDeletions(sources, options, seal);
  const rows = mode === 'delete' ? toDelete : toEnroll;
  const identity = { input: seal.digest, rows: total, mode, host: service.host.toLowerCase() };
  return withJournal(journalPath(files, options), identity, options, async (journal) => {
    const listed: RowFailure[] = [];
    const progress = await ProgressReport.start(context.console, total);
    const common = {
      total,
      service,
      force,
      bulkCost,
      journal,
      concurrency: limits.concurrency,
      giveUpAfterMs: limits.giveUpAfterMs,
      governor: new Governor({ ratePerMinute: limits.ratePerMinute }),
      signal: context.host.signal,
      onProgress: (now: ImportProgress) => {
        progress.update(now);
      },
      onFailure: (failure: RowFailure) => {
        if (listed.length < LISTED_FAILURES) listed.push(failure);
      },
    };
    let summary: ImportSummary;
    try {
      summary = await (mode === 'delete'
        ? deleteEnrollments({ ...common, rows: toDelete, openIndex: () => openToTell(context, service) })
        : importEnrollments({
            ...common,
            mode,
            rows: toEnroll,
            openIndex: openIndex(context, service),
            onReading: (enrollments) => {
              progress.reading(readingText(service.host, enrollments));
            },
          }));
    } catch (error) {
      const isOver = !(error instanceof IotdmError) || !error.code.startsWith('network.');
      // What has become of the rows so far is worth knowing when it goes on another day.
      if (!isOver && report !== undefined) await writeReport(report, rows(), journal);
      throw error;
    } finally {
      progress.done();
    }
    if (report !== undefined) {
      await writeReport(report, rows(), journal).catch((error: unknown) => {
        throw withoutReport(error, summary);
      });
    }
    const failures = listed.map((failure) => ({ ...failure, place: placeOf(failure, sources) }));
    return orPartial(context, { ...summary, ...comparedBy(context, mode) }, failures, options);
  });
}

/** The import itself has come to its end, which must not be lost with the report. */
function withoutReport(error: unknown, summary: ImportSummary): unknown {
  if (!(error instanceof IotdmError)) return error;
  const done = summary.total - summary.failed;
  const message = `the import is done (${done} of ${count(summary.total, 'row')}), its report is not: ${error.message}`;
  return new IotdmError(error.code, message, { cause: error, details: { ...error.details, ...summary } });
}

function placeOf({ file, line }: RowFailure, sources: readonly InputSource[]): string {
  return sources.length === 1 || file === undefined ? `line ${line}` : `${file}:${line}`;
}

/** The dry run with credentials. */
async function compareOnly(
  context: Context,
  sources: readonly InputSource[],
  { rows: total, seal }: InputCheck,
  options: ImportOptions & InputOptions,
  limits: ImportLimits,
): Promise<void> {
  const { mode, bulkCost, force = false } = options;
  const [{ ImportPlan }, { DeletionPlan }, { Requests }, { Governor }, input, { printPlan }, service] =
    await Promise.all([
      import('../../src/station/import-plan.ts'),
      import('../../src/station/deletion-plan.ts'),
      import('../../src/station/import-requests.ts'),
      import('../../src/dps/governor.ts'),
      import('../../src/station/enrollment-input.ts'),
      import('../shared/import-plan.ts'),
      context.openService({ attempts: 1, maxSockets: limits.concurrency }),
    ]);
  const requests = new Requests({
    service,
    governor: new Governor({ ratePerMinute: limits.ratePerMinute }),
    concurrency: limits.concurrency,
    bulkCost,
    giveUpAfterMs: limits.giveUpAfterMs,
    signal: context.host.signal,
  });
  const common = { ...limits, total, force, requests };
  if (mode === 'delete') {
    const rows = (): AsyncIterable<readonly DeletionRow[]> =>
      input.readPlacedDeletions(sources, options, seal);
    const isByIdOnly = options.idsOnly === true;
    const plan = new DeletionPlan({ ...common, rows, isByIdOnly });
    await printPlan(context, plan, mode, comparedBy(context, mode));
    return;
  }
  const rows = (): AsyncIterable<EnrollmentRow> => input.readCheckedRows(sources, options, seal);
  const index = await openIndex(
    context,
    service,
  )({
    pages: () => requests.pages(),
    find: (registrationId) => requests.find(registrationId),
  });
  const progress = await ProgressReport.start(context.console, total);
  try {
    const onReading = (enrollments: number): void => {
      progress.reading(readingText(service.host, enrollments));
    };
    const plan = new ImportPlan({ ...common, rows, mode, bulkCost, index, onReading });
    await printPlan(context, plan, mode, comparedBy(context, mode));
  } finally {
    progress.done();
    await index?.close();
  }
}

/** Rows of one input have nothing in common: that was checked. */
function openIndex(context: Context, service: ProvisioningService): NonNullable<LibraryOptions['openIndex']> {
  return async (source) => {
    if (!context.settings.index) return openToTell(context, service);
    const { IdentityIndex } = await import('../../src/station/identity-index.ts');
    return IdentityIndex.open({ ...indexOptions(context, service.host), claimsAreDistinct: true }, source);
  };
}

function comparedBy(context: Context, mode: ImportMode): Compared {
  return { identityCompared: mode === 'delete' ? null : context.settings.index };
}
