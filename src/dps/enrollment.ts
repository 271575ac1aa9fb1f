/**
 * An individual enrollment of Azure's Device Provisioning Service, as iotdm handles it: TPM attestation only, in the
 * service's own words (api-version 2021-10-01, definition IndividualEnrollment).
 */

export type ProvisioningStatus = 'enabled' | 'disabled';
export type AllocationPolicy = 'hashed' | 'geoLatency' | 'static' | 'custom';

export type TwinValue = string | number | boolean | null | TwinObject | readonly TwinValue[];
export interface TwinObject {
  readonly [key: string]: TwinValue;
}

export interface ReprovisionPolicy {
  readonly updateHubAssignment: boolean;
  readonly migrateDeviceData: boolean;
}

/** What a caller writes. Absent members are left to the service. */
export interface Enrollment {
  readonly registrationId: string;
  readonly deviceId?: string;
  readonly attestation: {
    readonly type: 'tpm';
    readonly tpm: { readonly endorsementKey: string };
  };
  readonly capabilities?: { readonly iotEdge: boolean };
  readonly iotHubHostName?: string;
  readonly iotHubs?: readonly string[];
  readonly allocationPolicy?: AllocationPolicy;
  readonly initialTwin?: {
    readonly tags?: TwinObject;
    readonly properties?: { readonly desired?: TwinObject };
  };
  readonly provisioningStatus?: ProvisioningStatus;
  readonly reprovisionPolicy?: ReprovisionPolicy;
  readonly optionalDeviceInformation?: TwinObject;
  readonly etag?: string;
}

/** What the service answers: the enrollment and what only the service sets. */
export interface StoredEnrollment extends Omit<Enrollment, 'attestation'> {
  readonly attestation: {
    readonly type: string;
    readonly tpm?: { readonly endorsementKey: string; readonly storageRootKey?: string };
  };
  readonly etag: string;
  readonly createdDateTimeUtc?: string;
  readonly lastUpdatedDateTimeUtc?: string;
  readonly registrationState?: Readonly<Record<string, unknown>>;
}

export const provisioningStatuses: readonly ProvisioningStatus[] = ['enabled', 'disabled'];
export const allocationPolicies: readonly AllocationPolicy[] = ['hashed', 'geoLatency', 'static', 'custom'];

/** The service matches registration ids without regard to case; iotdm writes them in lower case. */
const registrationIdPattern = /^[a-z0-9](?:[a-z0-9._:-]{0,126}[a-z0-9])?$/;

/** Why a text is not a registration id, or undefined when it is one. */
export function registrationIdProblem(text: string): string | undefined {
  if (registrationIdPattern.test(text)) return undefined;
  return 'a registration id is 1 to 128 lower-case letters, digits and - . _ : and begins and ends with a letter or digit';
}

const deviceIdPattern = /^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$/;

/** Why a text is not a device id, or undefined when it is one. Device ids are case-sensitive. */
export function deviceIdProblem(text: string): string | undefined {
  if (deviceIdPattern.test(text)) return undefined;
  return "a device id is 1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '";
}

const hostLabel = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?';
const hostNamePattern = new RegExp(`^${hostLabel}(?:\\.${hostLabel})*$`);

/** Why a text is not a host name (no scheme, no port), or undefined when it is one. */
export function hostNameProblem(text: string): string | undefined {
  if (text.length <= 253 && hostNamePattern.test(text)) return undefined;
  return 'a host name has the form name.azure-devices.net, without https:// and without a port';
}
