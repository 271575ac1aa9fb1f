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
 * - `capabilities` and `reprovisionPolicy` are replaced as a whole: the service demands all their members.
 * - `iotHubHostName` and `iotHubs` say the same in two ways, and the service may answer with the one that was not sent:
 *   a row that names either replaces both.
 * - Everything else in the service is kept, members that iotdm does not know included.
 */
export function mergeEnrollment(stored: StoredEnrollment, row: Enrollment): Merged {
  const writable = without(stored, readOnly);
  const merged: Record<string, unknown> = {
    ...writable,
    ...without(
      row,
      new Set(['registrationId', 'attestation', 'initialTwin', 'iotHubHostName', 'iotHubs', 'etag']),
    ),
    ...(row.optionalDeviceInformation === undefined
      ? {}
      : {
          optionalDeviceInformation: mergeTwin(
            stored.optionalDeviceInformation,
            row.optionalDeviceInformation,
          ),
        }),
    ...(row.initialTwin === undefined ? {} : { initialTwin: mergeInitialTwin(stored, row.initialTwin) }),
  };
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

/** Whether the enrollment is for the TPM with the row's endorsement key. */
export function holdsSameKey(stored: StoredEnrollment, row: Enrollment): boolean {
  const storedKey = stored.attestation.tpm?.endorsementKey;
  if (stored.attestation.type !== 'tpm' || storedKey === undefined) return false;
  const rowKey = row.attestation.tpm.endorsementKey;
  return Buffer.from(storedKey, 'base64').equals(Buffer.from(rowKey, 'base64'));
}

function mergeInitialTwin(stored: StoredEnrollment, row: NonNullable<Enrollment['initialTwin']>): object {
  const twin = stored.initialTwin ?? {};
  return {
    ...twin,
    ...(row.tags === undefined ? {} : { tags: mergeTwin(twin.tags, row.tags) }),
    ...(row.properties?.desired === undefined
      ? {}
      : {
          properties: {
            ...twin.properties,
            desired: mergeTwin(twin.properties?.desired, row.properties.desired),
          },
        }),
  };
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
  if (row.iotHubHostName === undefined && row.iotHubs === undefined) return false;
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
