/**
 * Reads the service's answers. Whoever answers is not trusted: what is not of the specified shape is refused, and
 * what passes is built anew from the members that are known.
 */

import {
  allocationPolicies,
  provisioningStatuses,
  type StoredEnrollment,
  type TwinObject,
  type TwinValue,
} from './enrollment.ts';
import type { BulkFailure, BulkResult } from './service.ts';

/** Says which part of an answer is not as specified; carries no value from it. */
export class AnswerShapeError extends Error {}

const deepestTwin = 32;

/**
 * Definition IndividualEnrollment. Members that are null or empty texts count as absent. Of the attestation only the type and the
 * TPM's keys are taken, so that the symmetric keys of other enrollments in a list go no further. A member
 * `customAllocationDefinition`, which iotdm does not interpret, is carried along: to write an enrollment without
 * it would take it away.
 * Throws AnswerShapeError; `expectedId` is the registration id that was asked for, in any case.
 */
export function storedEnrollment(value: unknown, expectedId?: string): StoredEnrollment {
  const answer = object(value, 'enrollment');
  const registrationId = text(answer['registrationId'], 'registrationId');
  if (expectedId !== undefined && registrationId.toLowerCase() !== expectedId.toLowerCase()) {
    throw new AnswerShapeError('an enrollment that was not asked for');
  }
  const carried = optional(answer['customAllocationDefinition'], (custom) => ({
    customAllocationDefinition: twinObject(custom, 'customAllocationDefinition'),
  }));
  return {
    registrationId,
    ...member(answer, 'deviceId', text),
    attestation: attestation(answer['attestation']),
    ...member(answer, 'capabilities', capabilities),
    ...member(answer, 'iotHubHostName', text),
    ...member(answer, 'iotHubs', texts),
    ...member(answer, 'allocationPolicy', (policy, name) => oneOf(policy, name, allocationPolicies)),
    ...carried,
    ...member(answer, 'initialTwin', initialTwin),
    ...member(answer, 'provisioningStatus', (status, name) => oneOf(status, name, provisioningStatuses)),
    ...member(answer, 'reprovisionPolicy', reprovisionPolicy),
    ...member(answer, 'optionalDeviceInformation', twinObject),
    etag: etag(answer['etag']),
    ...member(answer, 'createdDateTimeUtc', text),
    ...member(answer, 'lastUpdatedDateTimeUtc', text),
    ...member(answer, 'registrationState', twinObject),
  };
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

function attestation(value: unknown): StoredEnrollment['attestation'] {
  const answer = object(value, 'attestation');
  const type = text(answer['type'], 'attestation.type');
  if (type !== 'tpm') return { type };
  const tpm = object(answer['tpm'], 'attestation.tpm');
  return {
    type,
    tpm: {
      endorsementKey: text(tpm['endorsementKey'], 'attestation.tpm.endorsementKey'),
      ...member(tpm, 'storageRootKey', text),
    },
  };
}

function capabilities(value: unknown, name: string): NonNullable<StoredEnrollment['capabilities']> {
  return { iotEdge: flag(object(value, name)['iotEdge'], `${name}.iotEdge`) };
}

function reprovisionPolicy(value: unknown, name: string): NonNullable<StoredEnrollment['reprovisionPolicy']> {
  const policy = object(value, name);
  return {
    updateHubAssignment: flag(policy['updateHubAssignment'], `${name}.updateHubAssignment`),
    migrateDeviceData: flag(policy['migrateDeviceData'], `${name}.migrateDeviceData`),
  };
}

function initialTwin(value: unknown, name: string): NonNullable<StoredEnrollment['initialTwin']> {
  const twin = object(value, name);
  return {
    ...member(twin, 'tags', twinObject),
    ...member(twin, 'properties', (properties, path) => ({
      ...member(object(properties, path), 'desired', twinObject),
    })),
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
