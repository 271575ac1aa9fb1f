import { Option } from 'commander';
import type { StoredEnrollment } from '../../src/dps/enrollment.ts';
import { anyEtag, isSameVersion, quotedEtag } from '../../src/dps/etag.ts';
import type { ProvisioningService } from '../../src/dps/service.ts';
import { IotdmError } from '../../src/errors.ts';
import type { Context } from '../shared/context.ts';
import { clean } from '../shared/enrollment-table.ts';
import { whileForgetting } from '../shared/identity-index.ts';
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
    'if it has one, stays. Asks first, unless --yes is given, and then deletes only what it has asked about: a change that ' +
    'somebody makes meanwhile stops it.',
  examples: ['iotdm enrollment delete y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa --yes'],
  seeAlso: ['iotdm enrollment show', 'iotdm enrollment import --mode delete'],
  settings: ['service', 'timeout', 'state', 'confirm', 'dry-run'],
  options: [new Option('--if-match <etag>', 'only if it is still the one with this ETag')],
  async run(context, [typed], { ifMatch }) {
    const registrationId = typed.toLowerCase();
    const service = await context.openService();
    if (context.settings.dryRun) {
      refuseOther(await found(service, registrationId), ifMatch);
      return { registrationId, deleted: false, dryRun: true };
    }
    const named = ifMatch === undefined ? undefined : quotedEtag(ifMatch);
    const etag = context.settings.yes ? named : await confirmed(context, service, registrationId, named);
    await whileForgetting(context, service, registrationId, () => service.delete(registrationId, etag));
    return { registrationId, deleted: true };
  },
  describe: ({ registrationId, deleted }) =>
    deleted ? `Deleted ${registrationId}.\n` : `Would delete ${registrationId}.\n`,
};

/** Asks, and returns the ETag of what was asked about. */
async function confirmed(
  context: Context,
  service: ProvisioningService,
  registrationId: string,
  ifMatch: string | undefined,
): Promise<string> {
  // Where nobody can be asked there is no need to look.
  if (!context.console.isInteractive) await context.confirm(question(registrationId, service));
  const enrollment = await found(service, registrationId);
  refuseOther(enrollment, ifMatch);
  await context.confirm(question(registrationId, service, enrollment.deviceId));
  return enrollment.etag;
}

function question(registrationId: string, service: ProvisioningService, deviceId?: string): string {
  const device = deviceId === undefined ? '' : ` (device ${clean(deviceId)})`;
  return `Delete the enrollment ${registrationId}${device} from ${service.host}?`;
}

async function found(service: ProvisioningService, registrationId: string): Promise<StoredEnrollment> {
  const enrollment = await service.find(registrationId);
  if (enrollment !== undefined) return enrollment;
  throw new IotdmError('service.not-found', `${registrationId} is not enrolled at ${service.host}`, {
    details: { registrationId },
  });
}

function refuseOther({ registrationId, etag }: StoredEnrollment, ifMatch: string | undefined): void {
  if (ifMatch === undefined || ifMatch === anyEtag || isSameVersion(ifMatch, etag)) return;
  throw new IotdmError(
    'service.changed-meanwhile',
    `${registrationId} has the ETag ${etag}, not the given one`,
    {
      details: { registrationId },
    },
  );
}
