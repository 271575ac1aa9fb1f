import { Option } from 'commander';
import {
  attestationTypes,
  provisioningStatuses,
  type ProvisioningStatus,
  type StoredEnrollment,
} from '../../src/dps/enrollment.ts';
import type { Context } from '../shared/context.ts';
import { printDocuments } from '../shared/documents.ts';
import { clean } from '../shared/enrollment-table.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentListOptions {
  readonly idPrefix?: string;
  readonly status?: ProvisioningStatus;
  readonly hub?: string;
  readonly attestation?: (typeof attestationTypes)[number];
  readonly ndjson?: boolean;
}

export const enrollmentList: Verb<[], EnrollmentListOptions, void> = {
  name: 'list',
  summary: 'list the individual enrollments',
  description:
    'Lists the individual enrollments of the service, page by page as they arrive. The service has no query for what ' +
    '--id-prefix, --status, --hub and --attestation say: all enrollments are read, and those that do not match are left out here. ' +
    'What --json and --ndjson write of TPM enrollments, enrollment import brings back as it was; that holds the keys of ' +
    'webhooks, which are left out of the lines.',
  examples: [
    'iotdm enrollment list',
    'iotdm enrollment list --attestation tpm --json > enrollments.json',
    'iotdm enrollment list --status disabled --hub plant.azure-devices.net --ndjson',
  ],
  seeAlso: ['iotdm enrollment show', 'iotdm enrollment import'],
  settings: ['service', 'timeout'],
  options: [
    new Option('--id-prefix <text>', 'only those whose registration id begins like this'),
    new Option('--status <status>', 'only those that are enabled, or disabled').choices(provisioningStatuses),
    new Option('--hub <host>', 'only those that are to be assigned to this IoT hub'),
    new Option('--attestation <type>', 'only those that prove themselves in this way').choices(
      attestationTypes,
    ),
    new Option('--ndjson', 'one JSON document a line, in place of the one array of --json'),
  ],
  async run(context, _args, options) {
    const service = await context.openService();
    const enrollments = matching(service.list(), options);
    const isNdjson = options.ndjson === true;
    if (isNdjson || context.settings.json) await printDocuments(context, enrollments, isNdjson);
    else await printLines(context, enrollments, isFiltered(options));
  },
  describe: () => '',
};

function isFiltered({ idPrefix, status, hub, attestation }: EnrollmentListOptions): boolean {
  return (idPrefix ?? status ?? hub ?? attestation) !== undefined;
}

async function* matching(
  pages: AsyncIterable<readonly StoredEnrollment[]>,
  { idPrefix, status, hub, attestation }: EnrollmentListOptions,
): AsyncGenerator<StoredEnrollment> {
  const prefix = idPrefix?.toLowerCase();
  const wantedHub = hub?.toLowerCase();
  for await (const page of pages) {
    for (const enrollment of page) {
      const { registrationId, provisioningStatus = 'enabled', iotHubHostName, iotHubs = [] } = enrollment;
      if (prefix !== undefined && !registrationId.toLowerCase().startsWith(prefix)) continue;
      if (status !== undefined && provisioningStatus !== status) continue;
      if (attestation !== undefined && enrollment.attestation.type !== attestation) continue;
      const hubs = [iotHubHostName ?? [], iotHubs].flat().map((host) => host.toLowerCase());
      if (wantedHub !== undefined && !hubs.includes(wantedHub)) continue;
      yield enrollment;
    }
  }
}

async function printLines(
  context: Context,
  enrollments: AsyncIterable<StoredEnrollment>,
  filtered: boolean,
): Promise<void> {
  const { style } = context.console;
  let count = 0;
  const line = (id: string, status: string, attestation: string, device: string): string =>
    `${clean(`${id.padEnd(52)}  ${status.padEnd(8)}  ${attestation.padEnd(12)}  ${device}`)}\n`;
  for await (const { registrationId, deviceId, provisioningStatus = '-', attestation } of enrollments) {
    if (count === 0)
      await context.print(style.bold(line('Registration id', 'Status', 'Attestation', 'Device id')));
    const device = deviceId ?? '(the registration id)';
    await context.print(line(registrationId, provisioningStatus, attestation.type, device));
    if (context.hasNoReader) return;
    count += 1;
  }
  if (count > 0) return;
  await context.print(
    filtered ? 'No individual enrollment is like that.\n' : 'There are no individual enrollments.\n',
  );
}
