import { Option } from 'commander';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import type { Context } from '../shared/context.ts';
import { enrollmentTable, shownJson } from '../shared/enrollment-table.ts';
import {
  enrollmentOfOptions,
  enrollmentValueOptions,
  type EnrollmentValueOptions,
} from '../shared/enrollment-values.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentCreateOptions extends EnrollmentValueOptions {
  readonly registrationId?: string;
  readonly endorsementKey?: string;
  readonly iotEdge?: boolean;
}

export const enrollmentCreate: Verb<[], EnrollmentCreateOptions, StoredEnrollment | Enrollment> = {
  name: 'create',
  summary: 'enroll one device',
  description:
    'Creates the individual enrollment of one device. The endorsement key is read from the TPM, unless ' +
    '--endorsement-key gives it; the registration id follows from it, unless --registration-id gives another, which is ' +
    'written in lower case. A registration id that is enrolled already is refused.',
  examples: [
    'iotdm enrollment create --device-id press-17',
    'iotdm enrollment create --endorsement-key AToAAQ… --iot-hub-host-name plant.azure-devices.net',
    'iotdm enrollment create --tag site=north --desired interval=30 --dry-run',
    'iotdm enrollment create --allocation-policy geoLatency --iot-hubs east.azure-devices.net west.azure-devices.net',
    'iotdm enrollment create --allocation-policy custom --webhook-url-file function.txt --webhook-api-version 2021-10-01',
  ],
  seeAlso: ['iotdm ek read', 'iotdm enrollment show', 'iotdm enrollment import'],
  settings: ['tpm', 'service', 'timeout', 'dry-run'],
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
    if (context.settings.dryRun) return enrollment;
    const service = await context.openService();
    return service.create(enrollment);
  },
  describe(enrollment, { console: { style } }) {
    if (enrollment.etag === undefined) {
      return `Would create:\n${shownJson(enrollment)}\n`;
    }
    return `${style.green('✔')} Enrolled.\n${enrollmentTable({ ...enrollment, etag: enrollment.etag })}`;
  },
};

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
