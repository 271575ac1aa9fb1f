/** The options that describe one enrollment: one row of the columns that `enrollment import` takes, under the same rules. */
import { Option } from 'commander';
import type { Enrollment, TwinValue } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { twinValueOfCell } from '../../src/station/initial-twin.ts';
import { EK_PUBLIC_PREFIX } from '../../src/tpm/endorsement-key.ts';
import type { Context } from './context.ts';

export interface EnrollmentValueOptions {
  readonly deviceId?: string;
  readonly iotHubHostName?: string;
  readonly iotHubs?: readonly string[];
  readonly provisioningStatus?: string;
  readonly allocationPolicy?: string;
  readonly webhookUrl?: string;
  readonly webhookUrlFile?: string;
  readonly webhookApiVersion?: string;
  readonly reprovision?: string;
  readonly namespaceName?: string;
  readonly certificateAuthorityName?: string;
  readonly certificatePolicyName?: string;
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
    new Option(
      '--iot-hubs <host...>',
      'the IoT hubs it may be assigned to, by the --allocation-policy; of hashed, geoLatency or custom, several',
    ),
    new Option('--provisioning-status <status>', 'enabled or disabled'),
    new Option('--allocation-policy <policy>', 'hashed, geoLatency, static or custom'),
    new Option('--webhook-url <url>', 'the function that custom allocation asks for a hub'),
    new Option(
      '--webhook-url-file <file>',
      'the same, from a file, so that its key does not stand on the command line (- reads stdin)',
    ),
    new Option(
      '--webhook-api-version <version>',
      'what the function is spoken to in, such as 2021-10-01; needed with a webhook',
    ),
    new Option('--reprovision <policy>', 'migrate, reset or never'),
    new Option(
      '--namespace-name <name>',
      'the Azure Device Registry namespace of the certificate authority and policy below',
    ),
    new Option('--certificate-authority-name <name>', 'who issues certificates to the device'),
    new Option('--certificate-policy-name <name>', 'the policy by which they are issued'),
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

/**
 * @param isPartial the values are to change an enrollment that is there, and need not make a whole one
 * @throws IotdmError `usage.invalid` naming every option that will not do
 */
export async function enrollmentOfOptions(
  context: Context,
  {
    tag = [],
    desired = [],
    iotHubs,
    webhookUrl,
    webhookUrlFile,
    ...named
  }: EnrollmentValueOptions & {
    readonly endorsementKey: string;
    readonly registrationId?: string;
    readonly iotEdge?: boolean | string;
  },
  isPartial = false,
): Promise<Enrollment> {
  const url = await webhookOf(context, webhookUrl, webhookUrlFile);
  const columns = {
    ...named,
    ...(iotHubs === undefined ? {} : { iotHubs: iotHubs.join(' ') }),
    ...(url === undefined ? {} : { webhookUrl: url }),
  };
  const twin = [
    ...tag.map((text) => twinColumn('tags', text)),
    ...desired.map((text) => twinColumn('desired', text)),
  ];
  const twice = twin.find(([column], index) => twin.findIndex(([other]) => other === column) !== index);
  if (twice !== undefined) throw new IotdmError('usage.invalid', `${flagOf(twice[0])}it is given twice`);
  const text = Buffer.from(JSON.stringify({ ...columns, ...Object.fromEntries(twin) }));
  const { readEnrollmentRows } = await import('../../src/station/enrollment-input.ts');
  const source = { name: 'options', format: 'ndjson', open: () => only(text) } as const;
  for await (const item of readEnrollmentRows(source, { partial: isPartial })) {
    if (!('faults' in item)) return item.enrollment;
    const problems = item.faults.map(({ field, message }) => `${flagOf(field)}${message}`);
    throw new IotdmError('usage.invalid', problems.join('; '));
  }
  throw new IotdmError('internal.unexpected', 'the options gave no enrollment');
}

/** The address of an Azure function holds its key, which every user of the machine could read on a command line. */
async function webhookOf(
  context: Context,
  url: string | undefined,
  file: string | undefined,
): Promise<string | undefined> {
  if (url !== undefined && file !== undefined)
    throw new IotdmError('usage.invalid', '--webhook-url and --webhook-url-file exclude each other');
  if (file !== undefined) return (await context.readSecretFile(file, 'the webhook')).revealText().trim();
  if (url === undefined) return undefined;
  if (/[?&](?:code|sig)=/i.test(url)) {
    context.console.warn(
      'a webhook with its key on the command line can be read by every user of this machine: use --webhook-url-file FILE (- reads stdin)',
    );
  }
  return url;
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
