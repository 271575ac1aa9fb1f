/** The columns of enrollment files: their names, what people write instead, and the texts that stand in their cells. */
import type { ReprovisionPolicy } from '../dps/enrollment.ts';
import { editDistance, nearest } from '../nearest.ts';
import { redact } from '../secret.ts';
import type { TwinPart } from './initial-twin.ts';

/** In the order in which they are written. */
export const enrollmentFields = [
  'registrationId',
  'endorsementKey',
  'deviceId',
  'iotHubHostName',
  'iotHubs',
  'provisioningStatus',
  'allocationPolicy',
  'webhookUrl',
  'webhookApiVersion',
  'iotEdge',
  'reprovision',
  'namespaceName',
  'certificateAuthorityName',
  'certificatePolicyName',
  'storageRootKey',
  'serialNumber',
] as const;

export type EnrollmentField = (typeof enrollmentFields)[number];

/** The columns that name the endorsement key, each in another form. A row has one, or several that agree. */
export const keyFields = ['endorsementKey', 'ekCertificate', 'publicKey'] as const;

export type KeyField = (typeof keyFields)[number];

export type InputField = EnrollmentField | KeyField;

const inputFields: readonly InputField[] = [...new Set<InputField>([...enrollmentFields, ...keyFields])];

export type Column =
  | { readonly kind: 'field'; readonly field: InputField }
  | { readonly kind: 'twin'; readonly part: TwinPart; readonly path: readonly string[] };

const fieldOfName = new Map(inputFields.map((field) => [plainName(field), field]));

/**
 * What a column's name means: fields without regard to case, spaces, `-` and `_`; `tags.a.b` and `desired.a.b` with
 * the keys as they are written. Undefined for any other name.
 */
export function columnOfName(name: string): Column | undefined {
  const field = fieldOfName.get(plainName(name));
  if (field !== undefined) return { kind: 'field', field };
  const dot = name.indexOf('.');
  const part = plainName(name.slice(0, Math.max(dot, 0)));
  if (part !== 'tags' && part !== 'desired') return undefined;
  return { kind: 'twin', part, path: name.slice(dot + 1).split('.') };
}

/** The name by which messages and exports call a column. */
export function nameOfColumn(column: Column): string {
  return column.kind === 'field' ? column.field : `${column.part}.${column.path.join('.')}`;
}

/** The column that a name was probably meant to be, or undefined when none is near. */
export function nearestColumnName(name: string): string | undefined {
  const plain = plainName(name);
  const [prefix = '', ...rest] = plain.split('.');
  const parts = ['tags', 'desired', 'tag', 'desiredproperties', 'properties'];
  if (parts.includes(prefix) || (rest.length > 0 && parts.some((part) => editDistance(prefix, part) <= 1))) {
    const path = name.includes('.') ? name.slice(name.indexOf('.') + 1) : 'NAME';
    return `${prefix.startsWith('t') ? 'tags' : 'desired'}.${path}`;
  }
  return nearest(plain, inputFields, Math.max(2, plain.length / 3));
}

/** What is wrong with a column that means nothing here, with the one that was probably meant. */
export function unknownColumn(name: string, number?: number): string {
  const where = number === undefined ? '' : ` (column ${number})`;
  if (name === '') return `a column has no name${where}`;
  const nearest = nearestColumnName(name);
  return `unknown column ${quoted(name)}${where}${nearest === undefined ? '' : `; did you mean ${quotedName(nearest)}?`}`;
}

function quotedName(name: string): string {
  return /^[\w.]+$/.test(name) ? name : quoted(name);
}

/** Text from a file for a message: short, and without what looks like a secret. */
export function shownText(text: string): string {
  const safe = redact(text);
  return safe.length > 60 ? `${safe.slice(0, 57)}...` : safe;
}

/** The same in quotes, on one line. */
export function quoted(text: string): string {
  return JSON.stringify(shownText(text));
}

/** The three reprovision policies that have a name. */
export const reprovisionPolicies: Readonly<Record<'migrate' | 'reset' | 'never', ReprovisionPolicy>> = {
  migrate: { updateHubAssignment: true, migrateDeviceData: true },
  reset: { updateHubAssignment: true, migrateDeviceData: false },
  never: { updateHubAssignment: false, migrateDeviceData: false },
};

const reprovisionNames = new Map<string, ReprovisionPolicy>([
  ['migrate', reprovisionPolicies.migrate],
  ['reset', reprovisionPolicies.reset],
  ['never', reprovisionPolicies.never],
  ['reprovisionandmigratedata', reprovisionPolicies.migrate],
  ['reprovisionandresetdata', reprovisionPolicies.reset],
]);

/** The policy of a cell, by our names or those of `az iot dps enrollment`; undefined for any other text. */
export function reprovisionPolicyOf(text: string): ReprovisionPolicy | undefined {
  return reprovisionNames.get(plainName(text));
}

/** The name of a policy, or undefined for the one that has none (no new hub, yet its data migrated). */
export function nameOfReprovisionPolicy(
  policy: ReprovisionPolicy,
): keyof typeof reprovisionPolicies | undefined {
  if (policy.updateHubAssignment) return policy.migrateDeviceData ? 'migrate' : 'reset';
  return policy.migrateDeviceData ? undefined : 'never';
}

/** The hubs in a cell: blanks, commas or semicolons stand between them. */
export function hubsOfCell(text: string): readonly string[] {
  return text.split(/[\s,;]+/).filter((hub) => hub !== '');
}

const booleans = new Map([
  ['true', true],
  ['yes', true],
  ['1', true],
  ['false', false],
  ['no', false],
  ['0', false],
]);

/** The truth of a cell, or undefined for any text other than true, false, yes, no, 1 and 0. */
export function booleanOf(text: string): boolean | undefined {
  return booleans.get(text.toLowerCase());
}

function plainName(name: string): string {
  return name.replace(/[\s_-]/g, '').toLowerCase();
}
