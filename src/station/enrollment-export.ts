/**
 * Enrollments as files with which someone else registers them: the service's JSON, bulk request bodies, our CSV, or a
 * shell script for the Azure CLI. Everything is written as it is read; nothing is held but the columns of a CSV.
 */
import type { Enrollment } from '../dps/enrollment.ts';
import { because, IotdmError } from '../errors.ts';
import { csvLine } from '../records/csv.ts';
import { enrollmentFields, nameOfReprovisionPolicy, type EnrollmentField } from './enrollment-columns.ts';
import type { EnrollmentRow } from './enrollment-input.ts';
import { enrollmentToCreate } from './enrollment-merge.ts';
import { twinCells } from './initial-twin.ts';

export type ExportFormat = 'dps-json' | 'dps-bulk' | 'csv' | 'az';

export const exportFormats: readonly ExportFormat[] = ['dps-json', 'dps-bulk', 'csv', 'az'];

export type ExportRow = Pick<EnrollmentRow, 'enrollment' | 'serialNumber'>;

/** Body of `POST /enrollments`. */
export interface BulkBody {
  readonly enrollments: readonly Enrollment[];
  readonly mode: 'create';
}

/** What one bulk request may hold. */
const BULK_ENROLLMENTS = 10;

/**
 * The text of one export file, piece by piece. `dps-bulk` is NDJSON, one request body a line.
 * @param openRows the rows from the beginning; called twice for CSV, whose header names the columns of all rows
 * @throws IotdmError `usage.unsupported` when a row holds what the format has no place for
 */
export async function* exportEnrollments(
  format: ExportFormat,
  openRows: () => AsyncIterable<ExportRow>,
): AsyncGenerator<string, void, undefined> {
  switch (format) {
    case 'dps-json':
      yield* enrollmentArray(openRows());
      return;
    case 'dps-bulk':
      for await (const body of bulkBodies(openRows())) yield `${JSON.stringify(body)}\n`;
      return;
    case 'csv':
      yield* csvLines(openRows);
      return;
    case 'az':
      yield* azScript(openRows());
  }
}

/** Request bodies of ten enrollments, the last one of the rest, for one file each. ETags of the input are left out. */
export async function* bulkBodies(rows: AsyncIterable<ExportRow>): AsyncGenerator<BulkBody, void, undefined> {
  let enrollments: Enrollment[] = [];
  for await (const { enrollment } of rows) {
    enrollments.push(withoutEtag(enrollmentToCreate(enrollment)));
    if (enrollments.length < BULK_ENROLLMENTS) continue;
    yield { enrollments, mode: 'create' };
    enrollments = [];
  }
  if (enrollments.length > 0) yield { enrollments, mode: 'create' };
}

async function* enrollmentArray(rows: AsyncIterable<ExportRow>): AsyncGenerator<string, void> {
  let separator = '[\n';
  for await (const { enrollment } of rows) {
    yield `${separator}${JSON.stringify(enrollment)}`;
    separator = ',\n';
  }
  yield separator === '[\n' ? '[]\n' : '\n]\n';
}

// CSV

async function* csvLines(openRows: () => AsyncIterable<ExportRow>): AsyncGenerator<string, void> {
  const used = new Set<string>(['registrationId', 'endorsementKey']);
  for await (const row of openRows()) {
    for (const column of cellsOf(row).keys()) used.add(column);
  }
  const fields: readonly string[] = enrollmentFields;
  const columns = [
    ...fields.filter((field) => used.has(field)),
    ...[...used].filter((column) => column.startsWith('tags.')),
    ...[...used].filter((column) => column.startsWith('desired.')),
  ];
  yield csvLine(columns);
  for await (const row of openRows()) {
    const cells = cellsOf(row);
    yield csvLine(columns.map((column) => cells.get(column) ?? ''));
  }
}

/** The cells of a row that are not empty, by the names of their columns. */
function cellsOf({ enrollment, serialNumber }: ExportRow): Map<string, string> {
  refuseMember(enrollment, 'optionalDeviceInformation', 'csv');
  const { tpm } = enrollment.attestation;
  const { webhookUrl, apiVersion } = enrollment.customAllocationDefinition ?? {};
  const fields: Readonly<Record<EnrollmentField, string | undefined>> = {
    registrationId: enrollment.registrationId,
    endorsementKey: tpm.endorsementKey,
    // A column's registration id is lower-cased: where the case matters, the device id says it.
    deviceId: enrollment.deviceId ?? cased(enrollment.registrationId),
    iotHubHostName: enrollment.iotHubHostName,
    iotHubs: (enrollment.iotHubs ?? []).length === 0 ? undefined : enrollment.iotHubs?.join(' '),
    provisioningStatus: enrollment.provisioningStatus,
    allocationPolicy: enrollment.allocationPolicy,
    webhookUrl,
    webhookApiVersion: apiVersion,
    iotEdge: enrollment.capabilities?.iotEdge.toString(),
    reprovision: reprovisionName(enrollment, 'csv'),
    namespaceName: enrollment.namespaceName,
    certificateAuthorityName: enrollment.certificateAuthorityName,
    certificatePolicyName: enrollment.certificatePolicyName,
    storageRootKey: tpm.storageRootKey,
    serialNumber,
  };
  const cells = new Map<string, string>();
  for (const [field, cell] of Object.entries(fields)) if (cell !== undefined) cells.set(field, cell);
  const { tags = {}, properties } = enrollment.initialTwin ?? {};
  for (const [column, cell] of twinCells('tags', tags)) cells.set(column, cell);
  for (const [column, cell] of twinCells('desired', properties?.desired ?? {})) cells.set(column, cell);
  return cells;
}

function cased(registrationId: string): string | undefined {
  return registrationId === registrationId.toLowerCase() ? undefined : registrationId;
}

// Azure CLI

const azHeader = `#!/bin/sh
# Individual TPM enrollments, one call each. Needs the Azure CLI, its azure-iot extension, and a login.
set -eu
: "\${DPS_NAME:?set it to the name of the provisioning service}"
: "\${RESOURCE_GROUP:?set it to the resource group of the provisioning service}"
`;

const azCommand = 'az iot dps enrollment create --dps-name "$DPS_NAME" --resource-group "$RESOURCE_GROUP"';

async function* azScript(rows: AsyncIterable<ExportRow>): AsyncGenerator<string, void> {
  yield azHeader;
  for await (const { enrollment } of rows) {
    const words = azOptions(enrollment).map(([flag, value]) => `${flag}=${azValue(enrollment, flag, value)}`);
    yield `${[azCommand, ...words].join(' ')}\n`;
  }
}

/** Source: `az iot dps enrollment create --help` of the extension azure-iot. */
function azOptions(enrollment: Enrollment): [flag: string, value: string][] {
  const { allocationPolicy, iotHubHostName, initialTwin } = enrollment;
  const { endorsementKey, storageRootKey } = enrollment.attestation.tpm;
  if (storageRootKey !== undefined) throw unsupported(enrollment, 'az', 'attestation.tpm.storageRootKey');
  const { webhookUrl, apiVersion } = enrollment.customAllocationDefinition ?? {};
  if (allocationPolicy === 'custom' && webhookUrl === undefined) {
    throw unsupported(enrollment, 'az', 'custom allocation without the address of its function');
  }
  // The CLI takes the host name alone (and makes it a static allocation), or a policy with a list of hubs.
  const hubs = [
    ...new Set([...(iotHubHostName === undefined ? [] : [iotHubHostName]), ...(enrollment.iotHubs ?? [])]),
  ];
  const hubFlag = allocationPolicy === undefined ? '--iot-hub-host-name' : '--iot-hubs';
  const options: [string, string | undefined][] = [
    ['--enrollment-id', enrollment.registrationId],
    ['--attestation-type', 'tpm'],
    ['--endorsement-key', endorsementKey],
    ['--device-id', enrollment.deviceId],
    ['--edge-enabled', enrollment.capabilities?.iotEdge.toString()],
    ['--provisioning-status', enrollment.provisioningStatus],
    ['--allocation-policy', allocationPolicy],
    [hubFlag, hubs.length === 0 ? undefined : hubs.join(' ')],
    ['--webhook-url', webhookUrl],
    ['--api-version', apiVersion],
    ['--reprovision-policy', azReprovisionPolicy(enrollment)],
    ['--initial-twin-tags', jsonOf(initialTwin?.tags)],
    ['--initial-twin-properties', jsonOf(initialTwin?.properties?.desired)],
    ['--device-information', jsonOf(enrollment.optionalDeviceInformation)],
    ['--adr-namespace', enrollment.namespaceName],
    ['--adr-ca-name', enrollment.certificateAuthorityName],
    ['--adr-cert-policy-name', enrollment.certificatePolicyName],
  ];
  return options.flatMap(([flag, value]) => (value === undefined ? [] : [[flag, value]]));
}

function jsonOf(value: unknown): string | undefined {
  return value === undefined ? undefined : JSON.stringify(value);
}

function azReprovisionPolicy(enrollment: Enrollment): string | undefined {
  const name = reprovisionName(enrollment, 'az');
  return name === undefined || name === 'never' ? name : `reprovisionand${name}data`;
}

/**
 * A value as one word of the shell, behind `=`, so that one that begins with `-` is no option. The CLI itself takes a
 * value that begins with `@` for the name of a file, and has no way around that.
 */
function azValue(enrollment: Enrollment, flag: string, value: string): string {
  if (value.startsWith('@')) throw unsupported(enrollment, 'az', `a value that begins with @ (${flag})`);
  return `'${value.replaceAll("'", String.raw`'\''`)}'`;
}

// What a format cannot say

function withoutEtag(enrollment: Enrollment): Enrollment {
  const copy: { -readonly [Key in keyof Enrollment]: Enrollment[Key] } = { ...enrollment };
  delete copy.etag;
  return copy;
}

function reprovisionName(
  { reprovisionPolicy, ...rest }: Enrollment,
  format: ExportFormat,
): string | undefined {
  if (reprovisionPolicy === undefined) return undefined;
  const name = nameOfReprovisionPolicy(reprovisionPolicy);
  if (name === undefined)
    throw unsupported(rest, format, 'a reprovision policy that migrates data without a new hub');
  return name;
}

function refuseMember(enrollment: Enrollment, member: keyof Enrollment, format: ExportFormat): void {
  if (enrollment[member] !== undefined) throw unsupported(enrollment, format, member);
}

function unsupported({ registrationId }: Enrollment, format: ExportFormat, what: string): IotdmError {
  return new IotdmError(
    'usage.unsupported',
    `${format} cannot say ${what}, as ${registrationId} has it: use dps-json`,
    {
      details: because('export-format', { registrationId, format }),
    },
  );
}
