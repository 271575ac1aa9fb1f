/** The options that describe one enrollment: one row of the columns that `enrollment import` takes, under the same rules. */
import { Option } from 'commander';
import type { Enrollment, TwinValue } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { twinValueOfCell } from '../../src/station/initial-twin.ts';
import { EK_PUBLIC_PREFIX } from '../../src/tpm/endorsement-key.ts';

export interface EnrollmentValueOptions {
  readonly deviceId?: string;
  readonly iotHubHostName?: string;
  readonly provisioningStatus?: string;
  readonly allocationPolicy?: string;
  readonly reprovision?: string;
  readonly tag?: readonly string[];
  readonly desired?: readonly string[];
}

const collect = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  value,
];

export function enrollmentValueOptions(): Option[] {
  return [
    new Option('--device-id <id>', 'device id it is to have in IoT Hub (default: the registration id)'),
    new Option('--iot-hub-host-name <host>', 'the IoT hub it is to be assigned to'),
    new Option('--provisioning-status <status>', 'enabled or disabled'),
    new Option('--allocation-policy <policy>', 'hashed, geoLatency, static or custom'),
    new Option('--reprovision <policy>', 'migrate, reset or never'),
    new Option(
      '--tag <path=value>',
      'tag of the initial twin, any number of times; 5 is a number, "5" text',
    ).argParser(collect),
    new Option(
      '--desired <path=value>',
      'desired property of the initial twin, any number of times',
    ).argParser(collect),
  ];
}

/** An endorsement key of no TPM, for values that are checked without one. */
export const PLACEHOLDER_KEY = Buffer.concat([EK_PUBLIC_PREFIX, Buffer.alloc(256, 0xff)]).toString('base64');

/** @throws IotdmError `usage.invalid` naming every option that will not do */
export async function enrollmentOfOptions({
  tag = [],
  desired = [],
  ...columns
}: EnrollmentValueOptions & {
  readonly endorsementKey: string;
  readonly registrationId?: string;
  readonly iotEdge?: boolean | string;
}): Promise<Enrollment> {
  const twin = [
    ...tag.map((text) => twinColumn('tags', text)),
    ...desired.map((text) => twinColumn('desired', text)),
  ];
  const twice = twin.find(([column], index) => twin.findIndex(([other]) => other === column) !== index);
  if (twice !== undefined) throw new IotdmError('usage.invalid', `${flagOf(twice[0])}it is given twice`);
  const text = Buffer.from(JSON.stringify({ ...columns, ...Object.fromEntries(twin) }));
  const { readEnrollmentRows } = await import('../../src/station/enrollment-input.ts');
  const source = { name: 'options', format: 'ndjson', open: () => only(text) } as const;
  for await (const item of readEnrollmentRows(source)) {
    if (!('faults' in item)) return item.enrollment;
    const problems = item.faults.map(({ field, message }) => `${flagOf(field)}${message}`);
    throw new IotdmError('usage.invalid', problems.join('; '));
  }
  throw new IotdmError('internal.unexpected', 'the options gave no enrollment');
}

async function* only(bytes: Buffer): AsyncGenerator<Buffer> {
  await Promise.resolve();
  yield bytes;
}

/** The value as in a cell of CSV: `5` is a number, `"5"` in quotes text, `null` removes what is there. */
function twinColumn(part: 'tags' | 'desired', text: string): [string, TwinValue] {
  const at = text.indexOf('=');
  const flag = part === 'tags' ? '--tag' : '--desired';
  if (at < 1) throw new IotdmError('usage.invalid', `${flag} takes PATH=VALUE, not "${text}"`);
  return [`${part}.${text.slice(0, at)}`, twinValueOfCell(text.slice(at + 1))];
}

/** `deviceId` → `--device-id: `, `tags.site` → `--tag site: `. */
function flagOf(field: string | null): string {
  if (field === null) return '';
  if (field.startsWith('tags.')) return `--tag ${field.slice('tags.'.length)}: `;
  if (field.startsWith('desired.')) return `--desired ${field.slice('desired.'.length)}: `;
  return `--${field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}: `;
}
