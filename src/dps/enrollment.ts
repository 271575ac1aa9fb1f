/**
 * An individual enrollment of Azure's Device Provisioning Service, as iotdm handles it: TPM attestation only, in the
 * service's own words (api-version 2026-11-01, definition IndividualEnrollment).
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

/** Which function the service asks for a hub; both members, but for the values of an update. */
export interface CustomAllocation {
  /** Holds, as a rule, the key of the function: `code=…`. */
  readonly webhookUrl?: string;
  readonly apiVersion?: string;
}

/** What a caller writes. Absent members are left to the service. */
export interface Enrollment {
  readonly registrationId: string;
  readonly deviceId?: string;
  readonly attestation: {
    readonly type: 'tpm';
    readonly tpm: { readonly endorsementKey: string; readonly storageRootKey?: string };
  };
  readonly capabilities?: { readonly iotEdge: boolean };
  readonly iotHubHostName?: string;
  readonly iotHubs?: readonly string[];
  readonly allocationPolicy?: AllocationPolicy;
  readonly customAllocationDefinition?: CustomAllocation;
  readonly initialTwin?: {
    readonly tags?: TwinObject;
    readonly properties?: { readonly desired?: TwinObject };
  };
  readonly provisioningStatus?: ProvisioningStatus;
  readonly reprovisionPolicy?: ReprovisionPolicy;
  readonly optionalDeviceInformation?: TwinObject;
  /** Of Azure Device Registry, with the two members below: who issues certificates to the device. */
  readonly namespaceName?: string;
  readonly certificateAuthorityName?: string;
  readonly certificatePolicyName?: string;
  readonly etag?: string;
}

/** How a device proves itself, as the service shows it; keys that several could use are left out. */
export interface StoredAttestation {
  /** One of `attestationTypes`, or whatever else the service says. */
  readonly type: string;
  readonly tpm?: { readonly endorsementKey: string; readonly storageRootKey?: string };
  /** Definition X509Attestation. */
  readonly x509?: TwinObject;
}

/** What the service answers: the enrollment and what only the service sets. Members that iotdm does not know are kept. */
export interface StoredEnrollment extends Omit<Enrollment, 'attestation'> {
  readonly attestation: StoredAttestation;
  readonly etag: string;
  readonly createdDateTimeUtc?: string;
  readonly lastUpdatedDateTimeUtc?: string;
  readonly registrationState?: Readonly<Record<string, unknown>>;
}

export const provisioningStatuses: readonly ProvisioningStatus[] = ['enabled', 'disabled'];
export const allocationPolicies: readonly AllocationPolicy[] = ['hashed', 'geoLatency', 'static', 'custom'];
export const attestationTypes = ['tpm', 'x509', 'symmetricKey', 'none'] as const;

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

/** Why a text is not the address of an allocation function, or undefined when it is one. Its key is not repeated. */
export function webhookUrlProblem(text: string): string | undefined {
  const isUsable = /^https:\/\/[\x21-\x7e]+$/i.test(text) && text.length <= 2048 && URL.canParse(text);
  return isUsable ? undefined : 'the address of a webhook has the form https://host/path';
}

/** Why a text is not the version that a webhook is spoken to in, or undefined when it is one. */
export function webhookApiVersionProblem(text: string): string | undefined {
  if (/^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$/.test(text)) return undefined;
  return 'the API version of a webhook has the form 2021-10-01';
}

/** Why a text is not the name of an Azure Device Registry namespace, or undefined when it is one. */
export function namespaceNameProblem(text: string): string | undefined {
  if (/^(?=.{3,64}$)[a-z0-9][a-z0-9-]*[a-z0-9]$/.test(text)) return undefined;
  return 'the name of a namespace is 3 to 64 lower-case letters, digits and -, with no - at either end';
}

/** Why a text is not the name of a certificate authority or certificate policy, or undefined when it is one. */
export function issuerNameProblem(text: string): string | undefined {
  if (/^(?=.{3,63}$)[0-9a-zA-Z][a-zA-Z0-9-]*$/.test(text)) return undefined;
  return 'the name of a certificate authority or policy is 3 to 63 letters, digits and -, without a - in front';
}

/** What does not go together in how a device is assigned to its hub. */
export interface AllocationProblem {
  readonly field: 'allocationPolicy' | 'iotHubs' | 'webhookUrl' | 'webhookApiVersion';
  readonly problem: string;
}

/** Why nothing could be assigned like this; for a whole enrollment, as it is to be written. */
export function allocationProblem(
  enrollment: Pick<
    Enrollment,
    'allocationPolicy' | 'iotHubHostName' | 'iotHubs' | 'customAllocationDefinition'
  >,
): AllocationProblem | undefined {
  const { allocationPolicy, iotHubHostName, iotHubs = [], customAllocationDefinition = {} } = enrollment;
  const { webhookUrl, apiVersion } = customAllocationDefinition;
  if (allocationPolicy === 'static') {
    const field = 'allocationPolicy';
    if (iotHubHostName === undefined && iotHubs.length === 0)
      return { field, problem: 'static allocation needs the hub in iotHubHostName' };
    if (iotHubs.length > 1) return { field, problem: 'static allocation takes one hub, iotHubs names more' };
  }
  if (allocationPolicy === undefined && iotHubs.length > 0)
    return { field: 'iotHubs', problem: 'iotHubs needs an allocationPolicy' };
  if (allocationPolicy === 'custom' && webhookUrl === undefined)
    return { field: 'allocationPolicy', problem: 'custom allocation needs its webhook in webhookUrl' };
  if (allocationPolicy !== 'custom' && webhookUrl !== undefined)
    return { field: 'webhookUrl', problem: 'a webhook is asked with the allocationPolicy custom only' };
  if (webhookUrl !== undefined && apiVersion === undefined)
    return { field: 'webhookUrl', problem: 'a webhook needs its webhookApiVersion, such as 2021-10-01' };
  if (webhookUrl === undefined && apiVersion !== undefined)
    return { field: 'webhookApiVersion', problem: 'webhookApiVersion needs the webhook in webhookUrl' };
  return undefined;
}
