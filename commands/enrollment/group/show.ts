import type { EnrollmentGroup } from '../../../src/dps/enrollment-group.ts';
import { IotdmError } from '../../../src/errors.ts';
import { groupTable } from '../../shared/enrollment-table.ts';
import type { Verb } from '../../shared/verb.ts';

export const enrollmentGroupShow: Verb<[string], object, EnrollmentGroup> = {
  name: 'show',
  arguments: [['<group-id>', 'of the group']],
  summary: 'show an enrollment group',
  description:
    'Shows an enrollment group, as the service has it, with subject, thumbprints and dates of its certificates. ' +
    'Symmetric keys are left out.',
  examples: ['iotdm enrollment group show line-4', 'iotdm enrollment group show line-4 --json'],
  seeAlso: ['iotdm enrollment group list', 'iotdm enrollment show'],
  settings: ['service', 'timeout'],
  async run(context, [groupId]) {
    const service = await context.openService();
    const found = await service.findGroup(groupId);
    if (found !== undefined) return found;
    throw new IotdmError('service.not-found', `${service.host} has no enrollment group ${groupId}`, {
      details: { enrollmentGroupId: groupId },
    });
  },
  describe: groupTable,
};
