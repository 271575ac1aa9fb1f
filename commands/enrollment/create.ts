import { Option } from 'commander';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import type { ProvisioningService } from '../../src/dps/service.ts';
import type { Context } from '../shared/context.ts';
import { enrollmentTable, shownJson } from '../shared/enrollment-table.ts';
import {
  enrollmentOfOptions,
  enrollmentValueOptions,
  type EnrollmentValueOptions,
} from '../shared/enrollment-values.ts';
import {
  indexNotes,
  notCompared,
  prepareIndex,
  withIdentityIndex,
  type Compared,
} from '../shared/identity-index.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentCreateOptions extends EnrollmentValueOptions {
  readonly registrationId?: string;
  readonly endorsementKey?: string;
  readonly iotEdge?: boolean;
}

/** Says of the comparison only that it was left out, so that it is an enrollment for whoever reads it again. */
export type EnrollmentCreateResult = (StoredEnrollment | Enrollment) & Partial<Compared>;

export const enrollmentCreate: Verb<[], EnrollmentCreateOptions, EnrollmentCreateResult> = {
  name: 'create',
  summary: 'enroll one device',
  description:
    'Creates the individual enrollment of one device. The endorsement key is read from the TPM, unless ' +
    '--endorsement-key gives it; the registration id follows from it, unless --registration-id gives another, which is ' +
    'written in lower case. A registration id that is enrolled already is refused, and so is a device id or a key that ' +
    'another enrollment has.',
  notes: indexNotes,
  examples: [
    'iotdm enrollment create --device-id press-17',
    'iotdm enrollment create --endorsement-key AToAAQ… --iot-hub-host-name plant.azure-devices.net',
    'iotdm enrollment create --tag site=north --desired interval=30 --dry-run',
    'iotdm enrollment create --allocation-policy geoLatency --iot-hubs east.azure-devices.net west.azure-devices.net',
    'iotdm enrollment create --allocation-policy custom --webhook-url-file function.txt --webhook-api-version 2021-10-01',
  ],
  seeAlso: ['iotdm ek read', 'iotdm enrollment show', 'iotdm enrollment import'],
  settings: ['tpm', 'service', 'index', 'timeout', 'dry-run'],
  options: [
    new Option(
      '--endorsement-key <base64>',
      'TPM2B_PUBLIC of the EK, as ek read prints it (default: read from the TPM)',
    ),
    new Option('--registration-id <id>', 'default: the one that follows from the endorsement key'),
    new Option('--iot-edge', 'the device runs IoT Edge'),
    ...enrollmentValueOptions(),
  ],
  async run(context, _args, options) {
    const { endorsementKey = await readKey(context), ...values } = options;
    const { enrollmentToCreate } = await import('../../src/station/enrollment-merge.ts');
    const enrollment = enrollmentToCreate(await enrollmentOfOptions(context, { endorsementKey, ...values }));
    const { registrationId } = enrollment;
    if (registrationId !== (values.registrationId ?? registrationId))
      context.console.note(`the registration id is written in lower case: ${registrationId}`);
    const { dryRun } = context.settings;
    if (dryRun && !context.hasServiceCredentials) return enrollment;
    const service = await context.openService();
    return withIdentityIndex(context, service, async (index) => {
      const compared = context.settings.index ? {} : { identityCompared: false };
      if (dryRun) await refuseEnrolled(service, enrollment);
      if (index !== undefined) await prepareIndex(context, index, service.host);
      if (dryRun) {
        await index?.refuse({ enrollment });
        return { ...enrollment, ...compared };
      }
      const create = () => service.create(enrollment);
      const stored = await (index?.guard('create', { enrollment }, create) ?? create());
      return { ...stored, ...compared };
    });
  },
  describe({ identityCompared, ...enrollment }, { console: { style } }) {
    const remark = identityCompared === false ? notCompared : '';
    if (enrollment.etag === undefined) {
      return `Would create:\n${shownJson(enrollment)}\n${remark}`;
    }
    const shown = enrollmentTable({ ...enrollment, etag: enrollment.etag });
    return `${style.green('✔')} Enrolled.\n${shown}${remark}`;
  },
};

/** What the service itself would say, were it asked to create it. */
async function refuseEnrolled(service: ProvisioningService, { registrationId }: Enrollment): Promise<void> {
  if ((await service.find(registrationId)) === undefined) return;
  const message = `${registrationId} is enrolled already`;
  throw new IotdmError('service.conflict', message, { details: { registrationId } });
}

async function readKey(context: Context): Promise<string> {
  const tpm = await context.openTpm();
  const progress = await context.console.progress(
    'Reading the endorsement key; deriving it takes a chip a while',
  );
  try {
    return (await tpm.readEndorsementKey()).publicArea.toString('base64');
  } finally {
    progress.done();
  }
}
