/**
 * Reads the service's answers. Whoever answers is not trusted: what is not of the specified shape is refused, and
 * what passes is built anew.
 */

import {
  allocationPolicies,
  provisioningStatuses,
  type CustomAllocation,
  type StoredAttestation,
  type StoredEnrollment,
  type TwinObject,
  type TwinValue,
} from './enrollment.ts';
import type { EnrollmentGroup } from './enrollment-group.ts';
import type { BulkFailure, BulkResult } from './service.ts';

/** Says which part of an answer is not as specified; carries no value from it. */
export class AnswerShapeError extends Error {}

const deepestTwin = 32;

/** Every other member of an enrollment is one that iotdm does not know. */
const enrollmentMembers: ReadonlySet<string> = new Set([
  'registrationId',
  'deviceId',
  'attestation',
  'capabilities',
  'iotHubHostName',
  'iotHubs',
  'allocationPolicy',
  'customAllocationDefinition',
  'initialTwin',
  'provisioningStatus',
  'reprovisionPolicy',
  'optionalDeviceInformation',
  'namespaceName',
  'certificateAuthorityName',
  'certificatePolicyName',
  'etag',
  'createdDateTimeUtc',
  'lastUpdatedDateTimeUtc',
  'registrationState',
]);

/**
 * Definition IndividualEnrollment. Members that are null or empty texts count as absent. Members that iotdm does not
 * know are carried along wherever they stand: to write an enrollment without them would take them away. Only of an
 * attestation other than by TPM no more is taken than certificates, so that keys that several could use go no further.
 * Throws AnswerShapeError; `expectedId` is the registration id that was asked for, in any case.
 */
export function storedEnrollment(value: unknown, expectedId?: string): StoredEnrollment {
  const answer = object(value, 'enrollment');
  const registrationId = text(answer['registrationId'], 'registrationId');
  if (expectedId !== undefined && registrationId.toLowerCase() !== expectedId.toLowerCase()) {
    throw new AnswerShapeError('an enrollment that was not asked for');
  }
  return {
    registrationId,
    ...member(answer, 'deviceId', text),
    attestation: attestation(answer['attestation']),
    ...settings(answer),
    ...member(answer, 'optionalDeviceInformation', twinObject),
    ...member(answer, 'registrationState', twinObject),
    ...unknownMembers(answer, enrollmentMembers),
  };
}

const groupMembers: ReadonlySet<string> = new Set([...enrollmentMembers, 'enrollmentGroupId']);

/** Definition EnrollmentGroup, read like an enrollment. Throws AnswerShapeError, also where it is another than `expectedId`. */
export function enrollmentGroup(value: unknown, expectedId?: string): EnrollmentGroup {
  const answer = object(value, 'group');
  const enrollmentGroupId = text(answer['enrollmentGroupId'], 'enrollmentGroupId');
  if (expectedId !== undefined && enrollmentGroupId.toLowerCase() !== expectedId.toLowerCase()) {
    throw new AnswerShapeError('a group that was not asked for');
  }
  return {
    enrollmentGroupId,
    attestation: attestation(answer['attestation']),
    ...settings(answer),
    ...unknownMembers(answer, groupMembers),
  };
}

/** A page of a query: an array of EnrollmentGroup. */
export function groupPage(value: unknown): readonly EnrollmentGroup[] {
  return array(value, 'page').map((item) => enrollmentGroup(item));
}

/** What enrollments and groups have in common. */
function settings(
  answer: Readonly<Record<string, unknown>>,
): Omit<EnrollmentGroup, 'enrollmentGroupId' | 'attestation'> {
  return {
    ...member(answer, 'capabilities', capabilities),
    ...member(answer, 'iotHubHostName', text),
    ...member(answer, 'iotHubs', texts),
    ...member(answer, 'allocationPolicy', (policy, name) => oneOf(policy, name, allocationPolicies)),
    ...member(answer, 'customAllocationDefinition', customAllocation),
    ...member(answer, 'initialTwin', initialTwin),
    ...member(answer, 'provisioningStatus', (status, name) => oneOf(status, name, provisioningStatuses)),
    ...member(answer, 'reprovisionPolicy', reprovisionPolicy),
    ...member(answer, 'namespaceName', text),
    ...member(answer, 'certificateAuthorityName', text),
    ...member(answer, 'certificatePolicyName', text),
    etag: etag(answer['etag']),
    ...member(answer, 'createdDateTimeUtc', text),
    ...member(answer, 'lastUpdatedDateTimeUtc', text),
  };
}

/** Members that iotdm does not know, as they are. */
function unknownMembers(
  owner: Readonly<Record<string, unknown>>,
  known: ReadonlySet<string>,
): Readonly<Record<string, TwinValue>> {
  const names = Object.keys(owner).filter(
    (name) => !known.has(name) && name !== '__proto__' && (owner[name] ?? null) !== null,
  );
  return Object.fromEntries(names.map((name) => [name, twinValue(owner[name], name, 1)]));
}

/** A page of a query: an array of IndividualEnrollment. */
export function enrollmentPage(value: unknown): readonly StoredEnrollment[] {
  return array(value, 'page').map((item) => storedEnrollment(item));
}

/**
 * Definition BulkEnrollmentOperationResult for a request with these registration ids. A failure of an id that was not
 * sent, a failure without failures and a success with failures are refused: nobody could say which rows are done.
 */
export function bulkResult(value: unknown, sentIds: readonly string[]): BulkResult {
  const answer = object(value, 'result');
  const isSuccessful = flag(answer['isSuccessful'], 'isSuccessful');
  const sent = new Map(sentIds.map((id) => [id.toLowerCase(), id]));
  const errors = (optional(answer['errors'], (list) => array(list, 'errors')) ?? []).map((item) =>
    bulkFailure(item, sent),
  );
  if (isSuccessful !== (errors.length === 0)) {
    throw new AnswerShapeError('isSuccessful and errors contradict each other');
  }
  return { isSuccessful, errors };
}

function bulkFailure(value: unknown, sent: ReadonlyMap<string, string>): BulkFailure {
  const failure = object(value, 'errors[]');
  const registrationId = sent.get(text(failure['registrationId'], 'errors[].registrationId').toLowerCase());
  if (registrationId === undefined)
    throw new AnswerShapeError('a result for an enrollment that was not sent');
  const errorCode = failure['errorCode'];
  if (!Number.isSafeInteger(errorCode))
    throw new AnswerShapeError('errors[].errorCode is not a whole number');
  if (typeof failure['errorStatus'] !== 'string')
    throw new AnswerShapeError('errors[].errorStatus is not a text');
  return {
    registrationId,
    errorCode: errorCode as number,
    errorStatus: failure['errorStatus'],
  };
}

const attestationMembers: ReadonlySet<string> = new Set(['type', 'tpm', 'x509', 'symmetricKey']);
const tpmMembers: ReadonlySet<string> = new Set(['endorsementKey', 'storageRootKey']);
const capabilityMembers: ReadonlySet<string> = new Set(['iotEdge']);
const webhookMembers: ReadonlySet<string> = new Set(['webhookUrl', 'apiVersion']);
const reprovisionMembers: ReadonlySet<string> = new Set(['updateHubAssignment', 'migrateDeviceData']);
const twinMembers: ReadonlySet<string> = new Set(['tags', 'properties']);
const propertyMembers: ReadonlySet<string> = new Set(['desired']);

function attestation(value: unknown): StoredAttestation {
  const answer = object(value, 'attestation');
  const type = text(answer['type'], 'attestation.type');
  if (type === 'x509') return { type, ...member(answer, 'x509', twinObject) };
  if (type !== 'tpm') return { type };
  const tpm = object(answer['tpm'], 'attestation.tpm');
  return {
    type,
    tpm: {
      endorsementKey: text(tpm['endorsementKey'], 'attestation.tpm.endorsementKey'),
      ...member(tpm, 'storageRootKey', text),
      ...unknownMembers(tpm, tpmMembers),
    },
    ...unknownMembers(answer, attestationMembers),
  };
}

function capabilities(value: unknown, name: string): NonNullable<StoredEnrollment['capabilities']> {
  const answer = object(value, name);
  return {
    iotEdge: flag(answer['iotEdge'], `${name}.iotEdge`),
    ...unknownMembers(answer, capabilityMembers),
  };
}

function customAllocation(value: unknown, name: string): CustomAllocation {
  const answer = object(value, name);
  return {
    ...member(answer, 'webhookUrl', text),
    ...member(answer, 'apiVersion', text),
    ...unknownMembers(answer, webhookMembers),
  };
}

function reprovisionPolicy(value: unknown, name: string): NonNullable<StoredEnrollment['reprovisionPolicy']> {
  const policy = object(value, name);
  return {
    updateHubAssignment: flag(policy['updateHubAssignment'], `${name}.updateHubAssignment`),
    migrateDeviceData: flag(policy['migrateDeviceData'], `${name}.migrateDeviceData`),
    ...unknownMembers(policy, reprovisionMembers),
  };
}

function initialTwin(value: unknown, name: string): NonNullable<StoredEnrollment['initialTwin']> {
  const twin = object(value, name);
  return {
    ...member(twin, 'tags', twinObject),
    ...member(twin, 'properties', (properties, path) => ({
      ...member(object(properties, path), 'desired', twinObject),
      ...unknownMembers(object(properties, path), propertyMembers),
    })),
    ...unknownMembers(twin, twinMembers),
  };
}

/** Travels in a header when the enrollment is written, so it must be fit for one. */
function etag(value: unknown): string {
  const tag = text(value, 'etag');
  if (!/^[\x21-\x7e]{1,256}$/.test(tag)) throw new AnswerShapeError('etag is not an entity tag');
  return tag;
}

export function twinObject(value: unknown, name: string, depth = 1): TwinObject {
  // fromEntries defines members, where an assignment to `__proto__` would change the prototype.
  return Object.fromEntries(
    Object.entries(object(value, name)).map(([key, item]) => [key, twinValue(item, name, depth)]),
  );
}

function twinValue(value: unknown, name: string, depth: number): TwinValue {
  if (depth > deepestTwin) throw new AnswerShapeError(`${name} is nested too deeply`);
  if (
    value === null ||
    typeof value === 'string' ||
    typeof value === 'number' ||
    typeof value === 'boolean'
  ) {
    return value;
  }
  if (Array.isArray(value)) return value.map((item) => twinValue(item, name, depth + 1));
  return twinObject(value, name, depth + 1);
}

/** `{ [name]: read(value) }`, or nothing when the member is absent, null or an empty text. */
export function member<Name extends string, T>(
  owner: Readonly<Record<string, unknown>>,
  name: Name,
  read: (value: unknown, name: string) => T,
): Partial<Record<Name, T>> {
  const value = Object.hasOwn(owner, name) ? owner[name] : undefined;
  if (value === undefined || value === null || value === '') return {};
  return { [name]: read(value, name) } as Record<Name, T>;
}

export function optional<T>(value: unknown, read: (value: unknown) => T): T | undefined {
  return value === undefined || value === null ? undefined : read(value);
}

export function object(value: unknown, name: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new AnswerShapeError(`${name} is not an object`);
  }
  return value as Readonly<Record<string, unknown>>;
}

function array(value: unknown, name: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new AnswerShapeError(`${name} is not an array`);
  return value;
}

export function text(value: unknown, name: string): string {
  if (typeof value !== 'string' || value === '') throw new AnswerShapeError(`${name} is not a text`);
  return value;
}

function texts(value: unknown, name: string): readonly string[] {
  return array(value, name).map((item) => text(item, `${name}[]`));
}

function flag(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw new AnswerShapeError(`${name} is not a boolean`);
  return value;
}

export function oneOf<T extends string>(value: unknown, name: string, values: readonly T[]): T {
  const found = values.find((candidate) => candidate === value);
  if (found === undefined) throw new AnswerShapeError(`${name} has a value that is not specified`);
  return found;
}
