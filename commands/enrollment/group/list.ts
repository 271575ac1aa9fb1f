import { Option } from 'commander';
import type { EnrollmentGroup } from '../../../src/dps/enrollment-group.ts';
import type { Context } from '../../shared/context.ts';
import { printDocuments } from '../../shared/documents.ts';
import { clean } from '../../shared/enrollment-table.ts';
import type { Verb } from '../../shared/verb.ts';

export interface GroupListOptions {
  readonly ndjson?: boolean;
}

export const enrollmentGroupList: Verb<[], GroupListOptions, void> = {
  name: 'list',
  summary: 'list the enrollment groups',
  description:
    'Lists the enrollment groups of the service, page by page as they arrive: devices that prove themselves by a common ' +
    'authority or key. A TPM is enrolled by itself, never in a group. Symmetric keys are left out.',
  examples: ['iotdm enrollment group list', 'iotdm enrollment group list --json'],
  seeAlso: ['iotdm enrollment group show', 'iotdm enrollment list'],
  settings: ['service', 'timeout'],
  options: [new Option('--ndjson', 'one JSON document a line, in place of the one array of --json')],
  async run(context, _args, { ndjson = false }) {
    const service = await context.openService();
    const groups = each(service.listGroups());
    if (ndjson || context.settings.json) await printDocuments(context, groups, ndjson);
    else await printLines(context, groups);
  },
  describe: () => '',
};

async function* each(pages: AsyncIterable<readonly EnrollmentGroup[]>): AsyncGenerator<EnrollmentGroup> {
  for await (const page of pages) yield* page;
}

async function printLines(context: Context, groups: AsyncIterable<EnrollmentGroup>): Promise<void> {
  const { style } = context.console;
  const line = (status: string, attestation: string, group: string): string =>
    `${status.padEnd(8)}  ${attestation.padEnd(12)}  ${group}\n`;
  let count = 0;
  for await (const { enrollmentGroupId, provisioningStatus = '-', attestation } of groups) {
    if (count === 0) await context.print(style.bold(line('Status', 'Attestation', 'Group')));
    await context.print(line(clean(provisioningStatus), clean(attestation.type), clean(enrollmentGroupId)));
    if (context.hasNoReader) return;
    count += 1;
  }
  if (count === 0) await context.print('There are no enrollment groups.\n');
}
