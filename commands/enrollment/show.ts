import type { StoredEnrollment } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { enrollmentTable } from '../shared/enrollment-table.ts';
import type { Verb } from '../shared/verb.ts';

export const enrollmentShow: Verb<[string], object, StoredEnrollment> = {
  name: 'show',
  arguments: [['<registration-id>', 'of the device']],
  summary: 'show the enrollment of a device',
  description: 'Shows the individual enrollment of a device, as the service has it.',
  examples: ['iotdm enrollment show y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa --json'],
  seeAlso: ['iotdm enrollment list', 'iotdm enrollment delete'],
  settings: ['service', 'timeout'],
  async run(context, [registrationId]) {
    const service = await context.openService();
    const found = await service.find(registrationId.toLowerCase());
    if (found === undefined) {
      throw new IotdmError('service.not-found', `${registrationId} is not enrolled at ${service.host}`, {
        details: { registrationId },
      });
    }
    return found;
  },
  describe: enrollmentTable,
};
