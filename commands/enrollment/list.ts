import type { StoredEnrollment } from '../../src/dps/enrollment.ts';
import type { Context } from '../shared/context.ts';
import { clean } from '../shared/enrollment-table.ts';
import type { Verb } from '../shared/verb.ts';

export const enrollmentList: Verb<[], object, void> = {
  name: 'list',
  summary: 'list the individual enrollments',
  description: 'Lists all individual enrollments of the service, page by page as they arrive.',
  examples: ['iotdm enrollment list', 'iotdm enrollment list --json > enrollments.json'],
  seeAlso: ['iotdm enrollment show', 'iotdm enrollment import'],
  settings: ['service', 'timeout'],
  async run(context) {
    const service = await context.openService();
    await (context.settings.json ? printJson(context, service.list()) : printLines(context, service.list()));
  },
  describe: () => '',
};

/** One JSON array, an enrollment a line, written as the pages come: memory does not grow with the service. */
async function printJson(context: Context, pages: AsyncIterable<readonly StoredEnrollment[]>): Promise<void> {
  let separator = '[\n';
  for await (const page of pages) {
    for (const enrollment of page) {
      await context.print(`${separator}${JSON.stringify(enrollment)}`);
      separator = ',\n';
    }
  }
  await context.print(separator === '[\n' ? '[]\n' : '\n]\n');
}

async function printLines(
  context: Context,
  pages: AsyncIterable<readonly StoredEnrollment[]>,
): Promise<void> {
  const { style } = context.console;
  let count = 0;
  for await (const page of pages) {
    for (const { registrationId, deviceId, provisioningStatus } of page) {
      if (count === 0)
        await context.print(
          style.bold(`${'Registration id'.padEnd(52)}  ${'Status'.padEnd(8)}  Device id\n`),
        );
      const status = (provisioningStatus ?? '-').padEnd(8);
      await context.print(
        clean(`${registrationId.padEnd(52)}  ${status}  ${deviceId ?? '(the registration id)'}`) + '\n',
      );
      count += 1;
    }
  }
  if (count === 0) await context.print('There are no individual enrollments.\n');
}
