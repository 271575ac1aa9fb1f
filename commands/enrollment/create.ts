import { Option } from 'commander';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import type { Context } from '../shared/context.ts';
import { enrollmentTable } from '../shared/enrollment-table.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentCreateOptions {
  readonly registrationId?: string;
  readonly endorsementKey?: string;
  readonly deviceId?: string;
  readonly iotHubHostName?: string;
  readonly provisioningStatus?: string;
  readonly allocationPolicy?: string;
  readonly iotEdge?: boolean;
  readonly reprovision?: string;
  readonly tag?: readonly string[];
  readonly desired?: readonly string[];
}

const collect = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  value,
];

export const enrollmentCreate: Verb<[], EnrollmentCreateOptions, StoredEnrollment | Enrollment> = {
  name: 'create',
  summary: 'enroll one device',
  description:
    'Creates the individual enrollment of one device. The endorsement key is read from the TPM, unless ' +
    '--endorsement-key gives it; the registration id follows from it, unless --registration-id gives another. ' +
    'A registration id that is enrolled already is refused.',
  examples: [
    'iotdm enrollment create --device-id press-17',
    'iotdm enrollment create --endorsement-key AToAAQ… --iot-hub-host-name plant.azure-devices.net',
    'iotdm enrollment create --tag site=north --desired interval=30 --dry-run',
  ],
  seeAlso: ['iotdm ek read', 'iotdm enrollment show', 'iotdm enrollment import'],
  settings: ['tpm', 'service', 'timeout', 'dry-run'],
  options: [
    new Option(
      '--endorsement-key <base64>',
      'TPM2B_PUBLIC of the EK, as ek read prints it (default: read from the TPM)',
    ),
    new Option('--registration-id <id>', 'default: the one that follows from the endorsement key'),
    new Option('--device-id <id>', 'device id it is to have in IoT Hub (default: the registration id)'),
    new Option('--iot-hub-host-name <host>', 'the IoT hub it is to be assigned to'),
    new Option('--provisioning-status <status>', 'enabled or disabled'),
    new Option('--allocation-policy <policy>', 'hashed, geoLatency, static or custom'),
    new Option('--iot-edge', 'the device runs IoT Edge'),
    new Option('--reprovision <policy>', 'migrate, reset or never'),
    new Option('--tag <path=value>', 'tag of the initial twin, any number of times').argParser(collect),
    new Option(
      '--desired <path=value>',
      'desired property of the initial twin, any number of times',
    ).argParser(collect),
  ],
  async run(context, _args, options) {
    const enrollment = await toEnrollment(options, () => readKey(context));
    if (context.settings.dryRun) return enrollment;
    const service = await context.openService();
    return service.create(enrollment);
  },
  describe(enrollment, { console: { style } }) {
    if (enrollment.etag === undefined) {
      return `Would create:\n${JSON.stringify(enrollment, null, 2)}\n`;
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

/** The options are one row of the columns that `enrollment import` takes, and obey the same rules. */
async function toEnrollment(
  options: EnrollmentCreateOptions,
  readFromTpm: () => Promise<string>,
): Promise<Enrollment> {
  const { tag = [], desired = [], endorsementKey, ...columns } = options;
  const twin = [
    ...tag.map((text) => twinColumn('tags', text)),
    ...desired.map((text) => twinColumn('desired', text)),
  ];
  const row = { ...columns, ...Object.fromEntries(twin) };
  const { readEnrollmentRows } = await import('../../src/station/enrollment-input.ts');
  const check = async (key: string): Promise<Enrollment> => {
    const text = Buffer.from(JSON.stringify({ endorsementKey: key, ...row }));
    const source = { name: 'options', format: 'ndjson', open: () => only(text) } as const;
    for await (const item of readEnrollmentRows(source)) {
      if (!('faults' in item)) return item.enrollment;
      const problems = item.faults.map(({ field, message }) => `${flagOf(field)}${message}`);
      throw new IotdmError('usage.invalid', problems.join('; '));
    }
    throw new IotdmError('internal.unexpected', 'the options gave no enrollment');
  };
  if (endorsementKey !== undefined) return check(endorsementKey);
  return check(await readFromTpm());
}

async function* only(bytes: Buffer): AsyncGenerator<Buffer> {
  await Promise.resolve();
  yield bytes;
}

function twinColumn(part: 'tags' | 'desired', text: string): [string, string] {
  const at = text.indexOf('=');
  const flag = part === 'tags' ? '--tag' : '--desired';
  if (at < 1) throw new IotdmError('usage.invalid', `${flag} takes PATH=VALUE, not "${text}"`);
  return [`${part}.${text.slice(0, at)}`, text.slice(at + 1)];
}

/** `deviceId` → `--device-id: `, `tags.site` → `--tag site: `. */
function flagOf(field: string | null): string {
  if (field === null) return '';
  if (field.startsWith('tags.')) return `--tag ${field.slice('tags.'.length)}: `;
  if (field.startsWith('desired.')) return `--desired ${field.slice('desired.'.length)}: `;
  return `--${field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}: `;
}
