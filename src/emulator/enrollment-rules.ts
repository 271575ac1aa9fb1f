/**
 * What the service accepts as an individual enrollment and as an enrollment group (api-version 2021-10-01, definitions
 * IndividualEnrollment and EnrollmentGroup, and what 2026-11-01 adds). The emulator is an independent judge of what
 * iotdm sends: these rules are written anew and share nothing with src/dps.
 */

import { attestation, groupScope, individualScope, type Attestation } from './attestation-rules.ts';
import { flag, matching, member, object, oneOf, refused, type Members } from './members.ts';
import { checkTwinPart } from './twin-rules.ts';

/** What both kinds have that a caller may set, checked and in the service's order, with the service's defaults. */
interface Content {
  readonly attestation: Attestation;
  readonly [member: string]: unknown;
}

export interface EnrollmentContent extends Content {
  readonly registrationId: string;
}

export interface GroupContent extends Content {
  readonly enrollmentGroupId: string;
}

const idPattern = /^[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?$/;
const idForm = '1 to 128 letters, digits and - . _ :, beginning and ending with a letter or digit';
const deviceIdPattern = /^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$/;
const hostNamePattern = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.(?!$)|$))+$/i;

const provisioningStatuses = ['enabled', 'disabled'];
const allocationPolicies = ['hashed', 'geoLatency', 'static', 'custom'];

/** What IoT Hub keeps of each part of a twin, in bytes. */
const largestTags = 8 * 1024;
const largestDesired = 32 * 1024;

/**
 * Checks a body against the rules. Members that are null count as absent; members that only the service sets, and
 * unknown ones, are ignored.
 * @param existing how the devices of the enrollment that it replaces prove who they are
 * @throws ServiceError 400 naming the member
 */
export function enrollmentContent(body: unknown, existing?: Attestation): EnrollmentContent {
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
    attestation: attestation(members['attestation'], individualScope, existing),
    ...commonContent(members),
  };
}

/** The same for a group. */
export function groupContent(body: unknown, existing?: Attestation): GroupContent {
  const members = object(body, 'the enrollment group');
  return {
    enrollmentGroupId: groupId(members['enrollmentGroupId']),
    attestation: attestation(members['attestation'], groupScope, existing),
    ...commonContent(members),
  };
}

/** A registration id of a body or a path, as written. Throws ServiceError 400. */
export function registrationId(value: unknown): string {
  return matching(value, 'registrationId', idPattern, idForm);
}

/** The same for the id of a group. */
export function groupId(value: unknown): string {
  return matching(value, 'enrollmentGroupId', idPattern, idForm);
}

function commonContent(members: Members): Members {
  return {
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
    ...issuingAuthority(members),
  };
}

/** Members of 2026-11-01, kept and returned whatever version is spoken: no certificate is issued here. */
function issuingAuthority(members: Members): Members {
  const name = (value: unknown, at: string): string =>
    matching(value, at, /^[0-9a-zA-Z][a-zA-Z0-9-]{2,62}$/, '3 to 63 letters, digits and hyphens');
  return {
    ...member(members, 'namespaceName', (value, at) =>
      matching(
        value,
        at,
        /^[a-z0-9][a-z0-9-]{1,62}[a-z0-9]$/,
        '3 to 64 lower-case letters, digits and hyphens',
      ),
    ),
    ...member(members, 'certificateAuthorityName', name),
    ...member(members, 'certificatePolicyName', name),
  };
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
    ...member(twin, 'tags', (tags) => twinPart(tags, 'initialTwin.tags', largestTags)),
    ...member(twin, 'properties', (properties) =>
      member(object(properties, 'initialTwin.properties'), 'desired', (desired) =>
        twinPart(desired, 'initialTwin.properties.desired', largestDesired),
      ),
    ),
  };
}

function twinPart(value: unknown, name: string, largest: number): Members {
  const part = object(value, name);
  checkTwinPart(part, name, largest);
  return part;
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
