/**
 * What an enrollment in the service becomes when a row of an import is applied to it: members that the row does not
 * name stay as the service has them.
 */

import { isDeepStrictEqual } from 'node:util';
import type { Enrollment, StoredEnrollment, TwinObject, TwinValue } from '../dps/enrollment.ts';

export interface Merged {
  /** The whole enrollment to write, with the etag of the stored one. */
  readonly enrollment: Enrollment;
  /** True when writing it would change nothing. */
  readonly unchanged: boolean;
}

/** Set by the service only; they neither are written nor count as a difference. */
const readOnly: ReadonlySet<string> = new Set([
  'registrationState',
  'createdDateTimeUtc',
  'lastUpdatedDateTimeUtc',
]);

/**
 * Both must hold the same endorsement key: see `holdsSameKey`.
 *
 * - Initial twin and optional device information are merged deeply, as IoT Hub merges twins and as RFC 7396 says:
 *   objects member by member, everything else (arrays too) replaced, null removes a member.
 * - `iotHubHostName` and `iotHubs` say the same in two ways, and the service may answer with the one that was not sent:
 *   a row that names either replaces both.
 * - A webhook belongs to custom allocation: a row that names another policy takes it away.
 * - Everything else in the service is kept, members that iotdm does not know included.
 */
export function mergeEnrollment(stored: StoredEnrollment, row: Enrollment): Merged {
  const writable = without(stored, readOnly);
  const merged: Record<string, unknown> = { ...writable, ...without(row, mergedApart) };
  if (stored.deviceId === undefined && row.deviceId === stored.registrationId) {
    // Where none is stored, the registration id is the device id, in the case in which it was written.
    delete merged['deviceId'];
  }
  mergeMembers(merged, 'capabilities', stored.capabilities, row.capabilities);
  mergeMembers(merged, 'reprovisionPolicy', stored.reprovisionPolicy, row.reprovisionPolicy);
  mergeMembers(
    merged,
    'customAllocationDefinition',
    stored.customAllocationDefinition,
    row.customAllocationDefinition,
  );
  if ((row.allocationPolicy ?? 'custom') !== 'custom') delete merged['customAllocationDefinition'];
  const { storageRootKey } = row.attestation.tpm;
  if (storageRootKey !== undefined) {
    const { attestation } = stored;
    merged['attestation'] = { ...attestation, tpm: { ...attestation.tpm, storageRootKey } };
  }
  if (row.optionalDeviceInformation !== undefined) {
    const { optionalDeviceInformation: before } = stored;
    const information = mergeTwin(before, row.optionalDeviceInformation);
    if (isWorthWriting(before, information)) merged['optionalDeviceInformation'] = information;
  }
  if (row.initialTwin !== undefined) mergeInitialTwin(merged, stored, row.initialTwin);
  if (namesOtherHubs(stored, row)) {
    delete merged['iotHubHostName'];
    delete merged['iotHubs'];
    if (row.iotHubHostName !== undefined) merged['iotHubHostName'] = row.iotHubHostName;
    if (row.iotHubs !== undefined) merged['iotHubs'] = row.iotHubs;
  }
  return {
    enrollment: merged as unknown as Enrollment,
    unchanged: isDeepStrictEqual(merged, writable),
  };
}

/**
 * What is written for a row where nothing is enrolled yet: without what is null in its twin and its device information,
 * which has nothing to remove there.
 */
export function enrollmentToCreate(row: Enrollment): Enrollment {
  const { initialTwin, optionalDeviceInformation } = row;
  if (!holdsNull(initialTwin) && !holdsNull(optionalDeviceInformation)) return row;
  return {
    ...row,
    ...(initialTwin === undefined ? {} : { initialTwin: withoutNulls(initialTwin) }),
    ...(optionalDeviceInformation === undefined
      ? {}
      : { optionalDeviceInformation: withoutNulls(optionalDeviceInformation) }),
  };
}

/** Whether the enrollment is for the TPM with the row's endorsement key. */
export function holdsSameKey(stored: StoredEnrollment, row: Enrollment): boolean {
  const storedKey = stored.attestation.tpm?.endorsementKey;
  if (stored.attestation.type !== 'tpm' || storedKey === undefined) return false;
  const rowKey = row.attestation.tpm.endorsementKey;
  return Buffer.from(storedKey, 'base64').equals(Buffer.from(rowKey, 'base64'));
}

/** Members of a row that do not simply take the place of what is stored. */
const mergedApart: ReadonlySet<string> = new Set([
  'registrationId',
  'attestation',
  'initialTwin',
  'iotHubHostName',
  'iotHubs',
  'optionalDeviceInformation',
  'etag',
]);

function mergeMembers(
  merged: Record<string, unknown>,
  name: string,
  stored: object | undefined,
  row: object | undefined,
): void {
  if (row !== undefined) merged[name] = { ...stored, ...row };
}

function mergeInitialTwin(
  merged: Record<string, unknown>,
  stored: StoredEnrollment,
  row: NonNullable<Enrollment['initialTwin']>,
): void {
  const { tags, properties } = stored.initialTwin ?? {};
  const twin: Record<string, unknown> = { ...stored.initialTwin };
  if (row.tags !== undefined) {
    const changed = mergeTwin(tags, row.tags);
    if (isWorthWriting(tags, changed)) twin['tags'] = changed;
  }
  if (row.properties?.desired !== undefined) {
    const changed = mergeTwin(properties?.desired, row.properties.desired);
    if (isWorthWriting(properties?.desired, changed))
      twin['properties'] = { ...properties, desired: changed };
  }
  if (isWorthWriting(stored.initialTwin, twin)) merged['initialTwin'] = twin;
}

/** Nothing where nothing was is no change, and the service may not keep what is empty. */
function isWorthWriting(before: object | undefined, after: object): boolean {
  return before !== undefined || Object.keys(after).length > 0;
}

function holdsNull(value: unknown): boolean {
  if (typeof value !== 'object') return false;
  return value === null || (!Array.isArray(value) && Object.values(value).some(holdsNull));
}

/** Elements of arrays stay as they are. */
function withoutNulls(twin: TwinObject): TwinObject {
  const members = Object.entries(twin).filter(([, value]) => value !== null);
  return Object.fromEntries(
    members.map(([key, value]) => [key, isTwinObject(value) ? withoutNulls(value) : value]),
  );
}

function mergeTwin(stored: TwinObject | undefined, row: TwinObject): TwinObject {
  const merged = new Map<string, TwinValue>(Object.entries(stored ?? {}));
  for (const [key, value] of Object.entries(row)) {
    const before = merged.get(key);
    if (value === null) merged.delete(key);
    else if (!isTwinObject(value)) merged.set(key, value);
    else merged.set(key, mergeTwin(before !== undefined && isTwinObject(before) ? before : undefined, value));
  }
  // fromEntries defines members, where an assignment to `__proto__` would change the prototype.
  return Object.fromEntries(merged);
}

function isTwinObject(value: TwinValue): value is TwinObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function namesOtherHubs(stored: StoredEnrollment, row: Enrollment): boolean {
  if (row.iotHubHostName === undefined && (row.iotHubs ?? []).length === 0) return false;
  return !isDeepStrictEqual(hubsOf(stored), hubsOf(row));
}

function hubsOf(enrollment: Pick<Enrollment, 'iotHubHostName' | 'iotHubs'>): readonly string[] {
  const hubs = [enrollment.iotHubHostName ?? [], enrollment.iotHubs ?? []].flat();
  return [...new Set(hubs.map((hub) => hub.toLowerCase()))].sort();
}

function without(value: object, names: ReadonlySet<string>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value).filter(([name, item]) => item !== undefined && !names.has(name)),
  );
}
