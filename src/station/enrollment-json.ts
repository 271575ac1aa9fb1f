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
import type { InputOptions, ReadRow } from './enrollment-rows.ts';
import { twinPathProblem, type TwinPart } from './initial-twin.ts';
import { isMembers, type Members, type RowDraft } from './row-draft.ts';

/** A row of NDJSON or of a JSON array: an enrollment, a record of `harvest`, or columns as members. */
export function jsonRow(row: JsonRow | BrokenJsonRow, file: string, options: InputOptions): ReadRow {
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
  if ('attestation' in row.value) fillFromEnrollment(draft, row, row.value, options);
  else if ('schema' in row.value) fillFromManifest(draft, row, row.value);
  else fillFromFlat(draft, row, row.value, options);
  return draft.finish();
}

/** What the service adds when it shows an enrollment. */
const readOnlyMembers = new Set(['registrationState', 'createdDateTimeUtc', 'lastUpdatedDateTimeUtc']);
const textMembers = [
  'registrationId',
  'deviceId',
  'iotHubHostName',
  'provisioningStatus',
  'allocationPolicy',
] as const satisfies readonly EnrollmentField[];
const enrollmentMembers = new Set<string>([
  ...textMembers,
  ...readOnlyMembers,
  'attestation',
  'capabilities',
  'initialTwin',
  'iotHubs',
  'reprovisionPolicy',
  'optionalDeviceInformation',
  'etag',
  // Not the service's: a bundle carries it along.
  'serialNumber',
]);

/** An enrollment in the service's own shape, as Limpet, `az` and our export write it. */
function fillFromEnrollment(draft: RowDraft, row: JsonRow, members: Members, options: InputOptions): void {
  const inner = (path: readonly string[]): unknown => memberAt(members, path);
  for (const name of textMembers) setJsonText(draft, name, row, [name], members[name]);
  draft.setAttestation(members.attestation, () => row.place(['attestation', 'type']));
  const keyPath = ['attestation', 'tpm', 'endorsementKey'];
  setJsonText(draft, 'endorsementKey', row, keyPath, inner(keyPath));
  const edgePath = ['capabilities', 'iotEdge'];
  setJsonText(draft, 'iotEdge', row, edgePath, inner(edgePath));
  setJsonTwin(draft, 'tags', row, ['initialTwin', 'tags'], inner(['initialTwin', 'tags']));
  const desiredPath = ['initialTwin', 'properties', 'desired'];
  setJsonTwin(draft, 'desired', row, desiredPath, inner(desiredPath));
  draft.setReprovisionPolicy(members.reprovisionPolicy, () => row.place(['reprovisionPolicy']));
  draft.setHubs(members.iotHubs, () => row.place(['iotHubs']));
  draft.setDeviceInformation(members.optionalDeviceInformation, (path) =>
    row.place(['optionalDeviceInformation', ...path]),
  );
  setJsonText(draft, 'serialNumber', row, ['serialNumber'], members.serialNumber);
  draft.setEtag(members.etag, () => row.place(['etag']));
  if (options.ignoreUnknownColumns === true) return;
  for (const name of Object.keys(members)) {
    if (!enrollmentMembers.has(name)) draft.fault(name, row.place([name]), `unknown member ${quoted(name)}`);
  }
}

function memberAt(members: Members, path: readonly string[]): unknown {
  let value: unknown = members;
  for (const key of path) value = isMembers(value) && Object.hasOwn(value, key) ? value[key] : undefined;
  return value;
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
function fillFromFlat(draft: RowDraft, row: JsonRow, members: Members, options: InputOptions): void {
  const report = reportMembers(members);
  const named = new Set<string>();
  for (const [name, value] of Object.entries(members)) {
    const column = columnOfName(name);
    if (column === undefined) {
      if (name === 'tags' || name === 'desired') setJsonTwin(draft, name, row, [name], value);
      else if (report.has(name)) continue;
      else if (options.ignoreUnknownColumns !== true)
        draft.fault(name, row.place([name]), unknownColumn(name));
      continue;
    }
    const plain = nameOfColumn(column);
    if (named.has(plain))
      draft.fault(plain, row.place([name]), `the column ${plain} stands here a second time`);
    named.add(plain);
    if (column.kind === 'field') setJsonText(draft, column.field, row, [name], value);
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
  if (isMembers(value)) draft.setTwin(part, [], value, (below) => row.place([...path, ...below]));
  else draft.fault(part, row.place(path), 'a JSON object is expected');
}
