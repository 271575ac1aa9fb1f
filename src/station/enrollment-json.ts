/** Enrollments from JSON values, in the shape of the service, of a manifest, or of the columns of CSV. */
import type { BrokenJsonRow, JsonRow } from '../records/json-rows.ts';
import { draftOf, idOfJson } from './deletion-rows.ts';
import {
  columnOfName,
  nameOfColumn,
  quoted,
  unknownColumn,
  type EnrollmentField,
  type InputField,
} from './enrollment-columns.ts';
import type { CheckOptions, ReadRow } from './enrollment-rows.ts';
import { twinPathProblem, unwrapTwinCollection, type TwinPart } from './initial-twin.ts';
import { isMembers, type Members, type RowDraft } from './row-draft.ts';

/** A row of NDJSON or of a JSON array: an enrollment, a record of `harvest`, or columns as members. */
export function jsonRow(row: JsonRow | BrokenJsonRow, file: string, options: CheckOptions): ReadRow {
  const draft = draftOf(file, row.line, options);
  if (row.kind === 'broken') {
    draft.fault(null, row, row.message);
    return draft.faulty(false);
  }
  if (options.deletion === 'ids-only') return idOfJson(row, file, options);
  if (!isMembers(row.value)) {
    draft.fault(null, row.place([]), 'a row is a JSON object, this is something else');
    return draft.faulty(false);
  }
  if ('attestation' in row.value) fillFromEnrollment(draft, row, row.value);
  else if ('schema' in row.value) fillFromManifest(draft, row, row.value);
  else fillFromFlat(draft, row, row.value);
  return draft.finish();
}

/** What the service adds when it shows an enrollment. */
const readOnlyMembers = ['registrationState', 'createdDateTimeUtc', 'lastUpdatedDateTimeUtc'];
const textMembers = [
  'registrationId',
  'deviceId',
  'iotHubHostName',
  'provisioningStatus',
  'allocationPolicy',
  'namespaceName',
  'certificateAuthorityName',
  'certificatePolicyName',
  // Not the service's: a bundle carries it along.
  'serialNumber',
] as const satisfies readonly EnrollmentField[];
const enrollmentMembers: ReadonlySet<string> = new Set<string>([
  ...textMembers,
  ...readOnlyMembers,
  'attestation',
  'capabilities',
  'customAllocationDefinition',
  'initialTwin',
  'iotHubs',
  'reprovisionPolicy',
  'optionalDeviceInformation',
  'etag',
]);
const attestationMembers: ReadonlySet<string> = new Set(['type', 'tpm', 'x509', 'symmetricKey']);
const tpmMembers: ReadonlySet<string> = new Set(['endorsementKey', 'storageRootKey']);
const capabilityMembers: ReadonlySet<string> = new Set(['iotEdge']);
const webhookMembers: ReadonlySet<string> = new Set(['webhookUrl', 'apiVersion']);
const twinMembers: ReadonlySet<string> = new Set(['tags', 'properties']);
const propertyMembers: ReadonlySet<string> = new Set(['desired']);
const reprovisionMembers: ReadonlySet<string> = new Set(['updateHubAssignment', 'migrateDeviceData']);

/**
 * An enrollment in the service's own shape, as Limpet, `az`, `enrollment list` and our export write it. A member that is
 * null is one that is not set; one that means nothing here is never passed over in silence, however deep it stands.
 */
function fillFromEnrollment(draft: RowDraft, row: JsonRow, members: Members): void {
  draft.isVerbatim = true;
  const text = (field: InputField, path: readonly string[], value: unknown): void => {
    setJsonText(draft, field, row, path, value);
  };
  /** The members of an object below; the others are unknown. */
  const group = (path: readonly string[], value: unknown, known: ReadonlySet<string>): Members => {
    if (value === undefined || value === null) return {};
    if (!isMembers(value)) {
      draft.fault(path.join('.'), row.place(path), 'a JSON object is expected');
      return {};
    }
    refuseUnknown(draft, row, path, value, known);
    return value;
  };
  refuseUnknown(draft, row, [], members, enrollmentMembers);
  for (const name of textMembers) text(name, [name], members[name]);

  const attestation = group(['attestation'], members.attestation, attestationMembers);
  draft.setAttestation(members.attestation, () => row.place(['attestation', 'type']));
  refuseOtherKeys(draft, row, attestation);
  const tpmPath = ['attestation', 'tpm'];
  const tpm = group(tpmPath, attestation.tpm, tpmMembers);
  text('endorsementKey', [...tpmPath, 'endorsementKey'], tpm.endorsementKey);
  text('storageRootKey', [...tpmPath, 'storageRootKey'], tpm.storageRootKey);

  const { iotEdge } = group(['capabilities'], members.capabilities, capabilityMembers);
  text('iotEdge', ['capabilities', 'iotEdge'], iotEdge);

  const webhookPath = ['customAllocationDefinition'];
  const webhook = group(webhookPath, members.customAllocationDefinition, webhookMembers);
  text('webhookUrl', [...webhookPath, 'webhookUrl'], webhook.webhookUrl);
  text('webhookApiVersion', [...webhookPath, 'apiVersion'], webhook.apiVersion);

  const twin = group(['initialTwin'], members.initialTwin, twinMembers);
  if (twin === members.initialTwin) draft.beginTwin('initialTwin');
  setJsonTwin(draft, 'tags', row, ['initialTwin', 'tags'], twin.tags);
  const propertiesPath = ['initialTwin', 'properties'];
  const properties = group(propertiesPath, twin.properties, propertyMembers);
  if (properties === twin.properties) draft.beginTwin('properties');
  setJsonTwin(draft, 'desired', row, [...propertiesPath, 'desired'], properties.desired);

  const policyPath = ['reprovisionPolicy'];
  const policy = group(policyPath, members.reprovisionPolicy, reprovisionMembers);
  if (Object.values(policy).some((value) => value !== null))
    draft.setReprovisionPolicy(policy, () => row.place(policyPath));
  draft.setHubs(members.iotHubs, () => row.place(['iotHubs']));
  setDeviceInformation(draft, row, members.optionalDeviceInformation);
  draft.setEtag(members.etag, () => row.place(['etag']));
}

/** Members that mean nothing here, and hold something. */
function refuseUnknown(
  draft: RowDraft,
  row: JsonRow,
  path: readonly string[],
  members: Members,
  known: ReadonlySet<string>,
): void {
  for (const [name, value] of Object.entries(members)) {
    if (known.has(name) || value === null || isEmptyCollection(name, value)) continue;
    const here = [...path, name];
    const full = here.join('.');
    draft.unknown(full, () => row.place(here), `unknown member ${quoted(full)}`);
  }
}

/** The Azure CLI writes it beside the members that it knows. */
function isEmptyCollection(name: string, value: unknown): boolean {
  return name === 'additionalProperties' && isMembers(value) && Object.keys(value).length === 0;
}

/** Beside a TPM's. */
function refuseOtherKeys(draft: RowDraft, row: JsonRow, attestation: Members): void {
  if ((attestation.type ?? 'tpm') !== 'tpm') return;
  for (const other of ['x509', 'symmetricKey']) {
    if ((attestation[other] ?? null) === null) continue;
    const place = row.place(['attestation', other]);
    draft.fault(`attestation.${other}`, place, 'only tpm can be enrolled here');
  }
}

function setDeviceInformation(draft: RowDraft, row: JsonRow, value: unknown): void {
  const field = 'optionalDeviceInformation';
  const found = isMembers(value) ? unwrapTwinCollection(value) : { values: value, path: [] };
  if ('problem' in found) draft.fault(field, row.place([field, ...found.path]), found.problem);
  else draft.setDeviceInformation(found.values, (below) => row.place([field, ...found.path, ...below]));
}

/** A record of `harvest`: its tags are labels of the harvest, not of the device's twin, and stay behind. */
function fillFromManifest(draft: RowDraft, row: JsonRow, members: Members): void {
  if (members.schema !== 1) {
    draft.fault('schema', row.place(['schema']), 'this is a manifest of a schema other than 1');
    return;
  }
  const names = ['registrationId', 'endorsementKey', 'ekCertificate', 'deviceId', 'serialNumber'] as const;
  for (const name of names) setJsonText(draft, name, row, [name], members[name]);
  draft.isHarvested = true;
}

/** What `ek read --json` and `ek convert --json` say besides the two columns. */
const readReport = new Set(['name', 'algorithm', 'persistent', 'handle']);
const convertReport = new Set(['hexRegistrationId', 'input']);
const noReport = new Set<string>();

function reportMembers(members: Members): ReadonlySet<string> {
  if (members.algorithm === 'rsa2048') return readReport;
  return 'hexRegistrationId' in members ? convertReport : noReport;
}

/** Columns as members: the names of CSV, and the whole of `tags` and `desired` as objects too. */
function fillFromFlat(draft: RowDraft, row: JsonRow, members: Members): void {
  const report = reportMembers(members);
  const named = new Set<string>();
  for (const [name, value] of Object.entries(members)) {
    const column = columnOfName(name);
    if (column === undefined) {
      if (name === 'tags' || name === 'desired') setJsonTwin(draft, name, row, [name], value);
      else if (!report.has(name)) draft.unknown(name, () => row.place([name]), unknownColumn(name));
      continue;
    }
    const plain = nameOfColumn(column);
    if (named.has(plain))
      draft.fault(plain, row.place([name]), `the column ${plain} stands here a second time`);
    named.add(plain);
    if (column.kind === 'field' && column.field === 'iotHubs' && Array.isArray(value))
      draft.setHubs(value, () => row.place([name]));
    else if (column.kind === 'field') setJsonText(draft, column.field, row, [name], value);
    else {
      const problem = twinPathProblem(column.path);
      if (problem !== undefined) draft.fault(plain, row.place([name]), problem);
      else draft.setTwin(column.part, column.path, value, (path) => row.place([name, ...path]));
    }
  }
}

function setJsonText(
  draft: RowDraft,
  field: InputField,
  row: JsonRow,
  path: readonly string[],
  value: unknown,
): void {
  if (value === undefined || value === null || value === '') return;
  const place = () => row.place(path);
  if (typeof value === 'string') draft.setText(field, value, place);
  else if (typeof value === 'boolean' && field === 'iotEdge') draft.setText(field, String(value), place);
  else if (
    typeof value === 'number' &&
    Number.isSafeInteger(value) &&
    (field === 'serialNumber' || field === 'iotEdge')
  ) {
    draft.setText(field, String(value), place);
  } else
    draft.fault(
      field,
      place(),
      field === 'iotEdge' ? 'true or false is expected' : 'a text in quotes is expected',
    );
}

function setJsonTwin(
  draft: RowDraft,
  part: TwinPart,
  row: JsonRow,
  path: readonly string[],
  value: unknown,
): void {
  if (value === undefined || value === null) return;
  if (!isMembers(value)) {
    draft.fault(part, row.place(path), 'a JSON object is expected');
    return;
  }
  const found = unwrapTwinCollection(value);
  if ('problem' in found) draft.fault(part, row.place([...path, ...found.path]), found.problem);
  else draft.setTwin(part, [], found.values, (below) => row.place([...path, ...found.path, ...below]));
}
