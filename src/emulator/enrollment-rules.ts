/**
 * What the service accepts as an individual enrollment (api-version 2021-10-01, definition IndividualEnrollment). The
 * emulator is an independent judge of what iotdm sends: these rules are written anew and share nothing with src/dps.
 */

import { decodeBase64 } from '../encoding.ts';
import { ServiceError, serviceErrorCodes, type ServiceErrorCode } from './service-error.ts';

/** What a caller may set, checked and in the service's order, with the service's defaults filled in. */
export interface EnrollmentContent {
  readonly registrationId: string;
  readonly attestation: {
    readonly type: 'tpm';
    readonly tpm: { readonly endorsementKey: string; readonly storageRootKey?: string };
  };
  readonly [member: string]: unknown;
}

export type Members = Readonly<Record<string, unknown>>;

const registrationIdPattern = /^[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?$/;
const deviceIdPattern = /^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$/;
const hostNamePattern = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.(?!$)|$))+$/i;

const provisioningStatuses = ['enabled', 'disabled'];
const allocationPolicies = ['hashed', 'geoLatency', 'static', 'custom'];

/**
 * Checks a body against the rules. Members that are null count as absent; members that only the service sets, and
 * unknown ones, are ignored.
 * @throws ServiceError 400 naming the member
 */
export function enrollmentContent(body: unknown): EnrollmentContent {
  const members = object(body, 'the enrollment');
  return {
    registrationId: registrationId(members['registrationId']),
    ...member(members, 'deviceId', (value, name) =>
      matching(
        value,
        name,
        deviceIdPattern,
        "1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
      ),
    ),
    ...member(members, 'optionalDeviceInformation', object),
    attestation: attestation(members['attestation']),
    capabilities: capabilities(members['capabilities'] ?? { iotEdge: false }),
    ...member(members, 'iotHubHostName', hostName),
    ...member(members, 'initialTwin', initialTwin),
    provisioningStatus: oneOf(
      members['provisioningStatus'] ?? 'enabled',
      'provisioningStatus',
      provisioningStatuses,
    ),
    reprovisionPolicy: reprovisionPolicy(
      members['reprovisionPolicy'] ?? { updateHubAssignment: true, migrateDeviceData: true },
    ),
    allocationPolicy: oneOf(members['allocationPolicy'] ?? 'hashed', 'allocationPolicy', allocationPolicies),
    ...member(members, 'iotHubs', hostNames),
    ...member(members, 'customAllocationDefinition', customAllocationDefinition),
    ...issuingMembers(members),
  };
}

/** What the service issues certificates from; api-version 2026-11-01. Kept and shown whatever version asks. */
function issuingMembers(members: Members): Members {
  const lettersAndDigits = /^(?=.{3,63}$)[0-9a-zA-Z][a-zA-Z0-9-]*$/;
  const form = '3 to 63 letters, digits and -, beginning with a letter or digit';
  return {
    ...member(members, 'namespaceName', (value, name) =>
      matching(
        value,
        name,
        /^(?=.{3,64}$)[a-z0-9][a-z0-9-]*[a-z0-9]$/,
        '3 to 64 lower-case letters, digits and -, with no - at either end',
      ),
    ),
    ...member(members, 'certificateAuthorityName', (value, name) =>
      matching(value, name, lettersAndDigits, form),
    ),
    ...member(members, 'certificatePolicyName', (value, name) =>
      matching(value, name, lettersAndDigits, form),
    ),
  };
}

/** A registration id of a body or a path, as written. Throws ServiceError 400. */
export function registrationId(value: unknown): string {
  return matching(
    value,
    'registrationId',
    registrationIdPattern,
    '1 to 128 letters, digits and - . _ :, beginning and ending with a letter or digit',
  );
}

/** The members of a JSON object. Throws ServiceError 400 for anything else. */
export function object(value: unknown, name: string): Members {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Members;
  throw refused(`${name} is not a JSON object`);
}

function attestation(value: unknown): EnrollmentContent['attestation'] {
  if (value === undefined || value === null) throw refused('attestation is missing');
  const members = object(value, 'attestation');
  if (members['type'] !== 'tpm') {
    throw refused('attestation.type is not tpm: the emulator keeps TPM enrollments only');
  }
  for (const other of ['x509', 'symmetricKey']) {
    if (present(members[other])) throw refused(`attestation.${other} does not go with attestation.type tpm`);
  }
  if (!present(members['tpm'])) throw refused('attestation.tpm is missing');
  const tpm = object(members['tpm'], 'attestation.tpm');
  return {
    type: 'tpm',
    tpm: {
      endorsementKey: publicArea(
        tpm['endorsementKey'],
        'endorsementKey',
        serviceErrorCodes.invalidEndorsementKey,
      ),
      ...member(tpm, 'storageRootKey', (key, name) =>
        publicArea(key, name, serviceErrorCodes.invalidEnrollment),
      ),
    },
  };
}

/** Type, name algorithm, attributes and an empty policy: no TPMT_PUBLIC is shorter (TPM 2.0 Part 2, 12.2.4). */
const shortestPublicArea = 10;

/** Canonical base64 of a TPM2B_PUBLIC (TPM 2.0 Part 2, 12.2.5): two bytes of size, then as many bytes. */
function publicArea(value: unknown, name: string, errorCode: ServiceErrorCode): string {
  const at = `attestation.tpm.${name}`;
  if (!present(value)) throw new ServiceError(errorCode, `${at} is missing`);
  const bytes = typeof value === 'string' ? decodeBase64(value) : undefined;
  if (bytes === undefined) throw new ServiceError(errorCode, `${at} is not base64`);
  const size = bytes.length - 2;
  if (size < shortestPublicArea || bytes.readUInt16BE(0) !== size) {
    throw new ServiceError(errorCode, `${at} is not a TPM2B_PUBLIC: its size does not match`);
  }
  return value as string;
}

function capabilities(value: unknown): Members {
  return { iotEdge: flag(object(value, 'capabilities')['iotEdge'], 'capabilities.iotEdge') };
}

function reprovisionPolicy(value: unknown): Members {
  const members = object(value, 'reprovisionPolicy');
  return {
    updateHubAssignment: flag(members['updateHubAssignment'], 'reprovisionPolicy.updateHubAssignment'),
    migrateDeviceData: flag(members['migrateDeviceData'], 'reprovisionPolicy.migrateDeviceData'),
  };
}

function initialTwin(value: unknown): Members {
  const twin = object(value, 'initialTwin');
  return {
    ...member(twin, 'tags', (tags) => object(tags, 'initialTwin.tags')),
    ...member(twin, 'properties', (properties) =>
      member(object(properties, 'initialTwin.properties'), 'desired', (desired) =>
        object(desired, 'initialTwin.properties.desired'),
      ),
    ),
  };
}

function customAllocationDefinition(value: unknown, name: string): Members {
  const members = object(value, name);
  return {
    webhookUrl: matching(members['webhookUrl'], `${name}.webhookUrl`, /^https:\/\/\S+$/i, 'an https URL'),
    apiVersion: matching(members['apiVersion'], `${name}.apiVersion`, /^\S+$/, 'an api-version'),
  };
}

function hostName(value: unknown, name: string): string {
  return matching(value, name, hostNamePattern, 'a host name, without https:// and without a port');
}

function hostNames(value: unknown, name: string): readonly string[] {
  if (!Array.isArray(value)) throw refused(`${name} is not an array`);
  return value.map((item, index) => hostName(item, `${name}[${index}]`));
}

/** The member in an object of its own, or an empty one when it is absent. */
function member<Value>(
  members: Members,
  name: string,
  check: (value: unknown, name: string) => Value,
): Readonly<Record<string, Value>> {
  const value = members[name];
  return present(value) ? { [name]: check(value, name) } : {};
}

function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function matching(value: unknown, name: string, pattern: RegExp, form: string): string {
  if (!present(value)) throw refused(`${name} is missing`);
  if (typeof value === 'string' && pattern.test(value)) return value;
  throw refused(`${name} is not valid: it must be ${form}`);
}

function oneOf(value: unknown, name: string, values: readonly string[]): string {
  if (typeof value === 'string' && values.includes(value)) return value;
  throw refused(`${name} is not one of ${values.join(', ')}`);
}

function flag(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  throw refused(`${name} is not true or false`);
}

function refused(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidEnrollment, message);
}
