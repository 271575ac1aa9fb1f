import { Option } from 'commander';
import {
  provisioningStatuses,
  type ProvisioningStatus,
  type StoredEnrollment,
} from '../../src/dps/enrollment.ts';
import type { Context } from '../shared/context.ts';
import { clean } from '../shared/enrollment-table.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentListOptions {
  readonly idPrefix?: string;
  readonly status?: ProvisioningStatus;
  readonly hub?: string;
  readonly ndjson?: boolean;
}

export const enrollmentList: Verb<[], EnrollmentListOptions, void> = {
  name: 'list',
  summary: 'list the individual enrollments',
  description:
    'Lists the individual enrollments of the service, page by page as they arrive. The service has no query for what ' +
    '--id-prefix, --status and --hub say: all enrollments are read, and those that do not match are left out here.',
  examples: [
    'iotdm enrollment list',
    'iotdm enrollment list --json > enrollments.json',
    'iotdm enrollment list --status disabled --hub plant.azure-devices.net --ndjson',
  ],
  seeAlso: ['iotdm enrollment show', 'iotdm enrollment import'],
  settings: ['service', 'timeout'],
  options: [
    new Option('--id-prefix <text>', 'only those whose registration id begins like this'),
    new Option('--status <status>', 'only those that are enabled, or disabled').choices(provisioningStatuses),
    new Option('--hub <host>', 'only those that are to be assigned to this IoT hub'),
    new Option('--ndjson', 'one JSON document a line, in place of the one array of --json'),
  ],
  async run(context, _args, options) {
    const service = await context.openService();
    const enrollments = matching(service.list(), options);
    if (options.ndjson === true) await printNdjson(context, enrollments);
    else if (context.settings.json) await printJson(context, enrollments);
    else await printLines(context, enrollments, isFiltered(options));
  },
  describe: () => '',
};

function isFiltered({ idPrefix, status, hub }: EnrollmentListOptions): boolean {
  return idPrefix !== undefined || status !== undefined || hub !== undefined;
}

async function* matching(
  pages: AsyncIterable<readonly StoredEnrollment[]>,
  { idPrefix, status, hub }: EnrollmentListOptions,
): AsyncGenerator<StoredEnrollment> {
  const prefix = idPrefix?.toLowerCase();
  const wantedHub = hub?.toLowerCase();
  for await (const page of pages) {
    for (const enrollment of page) {
      const { registrationId, provisioningStatus = 'enabled', iotHubHostName, iotHubs = [] } = enrollment;
      if (prefix !== undefined && !registrationId.toLowerCase().startsWith(prefix)) continue;
      if (status !== undefined && provisioningStatus !== status) continue;
      const hubs = [iotHubHostName ?? [], iotHubs].flat().map((host) => host.toLowerCase());
      if (wantedHub !== undefined && !hubs.includes(wantedHub)) continue;
      yield enrollment;
    }
  }
}

/** One JSON array, an enrollment a line, written as the pages come: memory does not grow with the service. */
async function printJson(context: Context, enrollments: AsyncIterable<StoredEnrollment>): Promise<void> {
  let separator = '[\n';
  for await (const enrollment of enrollments) {
    await context.print(`${separator}${JSON.stringify(enrollment)}`);
    if (context.hasNoReader) return;
    separator = ',\n';
  }
  await context.print(separator === '[\n' ? '[]\n' : '\n]\n');
}

async function printNdjson(context: Context, enrollments: AsyncIterable<StoredEnrollment>): Promise<void> {
  for await (const enrollment of enrollments) {
    await context.print(`${JSON.stringify(enrollment)}\n`);
    if (context.hasNoReader) return;
  }
}

async function printLines(
  context: Context,
  enrollments: AsyncIterable<StoredEnrollment>,
  filtered: boolean,
): Promise<void> {
  const { style } = context.console;
  let count = 0;
  for await (const { registrationId, deviceId, provisioningStatus } of enrollments) {
    if (count === 0)
      await context.print(style.bold(`${'Registration id'.padEnd(52)}  ${'Status'.padEnd(8)}  Device id\n`));
    const status = (provisioningStatus ?? '-').padEnd(8);
    await context.print(
      clean(`${registrationId.padEnd(52)}  ${status}  ${deviceId ?? '(the registration id)'}`) + '\n',
    );
    if (context.hasNoReader) return;
    count += 1;
  }
  if (count > 0) return;
  await context.print(
    filtered ? 'No individual enrollment is like that.\n' : 'There are no individual enrollments.\n',
  );
}
