import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentDeleteOptions {
  readonly ifMatch?: string;
}

export interface EnrollmentDeleteResult {
  readonly registrationId: string;
  readonly deleted: boolean;
  readonly dryRun?: true;
}

export const enrollmentDelete: Verb<[string], EnrollmentDeleteOptions, EnrollmentDeleteResult> = {
  name: 'delete',
  arguments: [['<registration-id>', 'of the device']],
  summary: 'delete the enrollment of a device',
  description:
    'Deletes the individual enrollment of a device: it can no longer register with DPS. Its identity in an IoT hub, ' +
    'if it has one, stays. Asks first, unless --yes is given.',
  examples: ['iotdm enrollment delete y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa --yes'],
  seeAlso: ['iotdm enrollment show', 'iotdm enrollment import --mode delete'],
  settings: ['service', 'timeout', 'confirm', 'dry-run'],
  options: [new Option('--if-match <etag>', 'only if it is still the one with this ETag')],
  async run(context, [typed], { ifMatch }) {
    const registrationId = typed.toLowerCase();
    const service = await context.openService();
    if (context.settings.dryRun) {
      if ((await service.find(registrationId)) === undefined) {
        throw new IotdmError('service.not-found', `${registrationId} is not enrolled at ${service.host}`, {
          details: { registrationId },
        });
      }
      return { registrationId, deleted: false, dryRun: true };
    }
    await context.confirm(`Delete the enrollment ${registrationId} from ${service.host}?`);
    await service.delete(registrationId, ifMatch);
    return { registrationId, deleted: true };
  },
  describe: ({ registrationId, deleted }) =>
    deleted ? `Deleted ${registrationId}.\n` : `Would delete ${registrationId}.\n`,
};
