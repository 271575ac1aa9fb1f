/** An enrollment, or a group of them, for people. */
import type { StoredEnrollment, TwinObject } from '../../src/dps/enrollment.ts';
import type { EnrollmentGroup } from '../../src/dps/enrollment-group.ts';
import { table } from './verb.ts';

type Row = readonly [label: string, text: string | undefined];

export function enrollmentTable(enrollment: StoredEnrollment): string {
  const { tpm } = enrollment.attestation;
  return shownTable([
    ['Registration id', enrollment.registrationId],
    ['Device id', enrollment.deviceId ?? '(the registration id)'],
    ['Status', enrollment.provisioningStatus],
    ['Attestation', enrollment.attestation.type],
    ['Endorsement key', tpm?.endorsementKey],
    ['Storage root key', tpm?.storageRootKey],
    ...certificateRows(enrollment),
    ...settingRows(enrollment),
    ['Device info', jsonOf(enrollment.optionalDeviceInformation)],
    ...registrationRows(enrollment.registrationState),
    ...versionRows(enrollment),
  ]);
}

export function groupTable(group: EnrollmentGroup): string {
  return shownTable([
    ['Group', group.enrollmentGroupId],
    ['Status', group.provisioningStatus],
    ['Attestation', group.attestation.type],
    ...certificateRows(group),
    ...settingRows(group),
    ...versionRows(group),
  ]);
}

/** What a service answers goes to a terminal: control characters do not. */
export function clean(text: string, keepLines = false): string {
  return text.replace(keepLines ? /(?!\n)\p{Cc}/gu : /\p{Cc}/gu, '\uFFFD');
}

/** As JSON, for people: without the key of a webhook, which --json gives to scripts. */
export function shownJson(enrollment: Pick<StoredEnrollment, 'customAllocationDefinition'>): string {
  const { customAllocationDefinition: webhook } = enrollment;
  const shown =
    webhook?.webhookUrl === undefined
      ? enrollment
      : {
          ...enrollment,
          customAllocationDefinition: { ...webhook, webhookUrl: withoutKey(webhook.webhookUrl) },
        };
  return clean(JSON.stringify(shown, null, 2), true);
}

function shownTable(rows: readonly Row[]): string {
  const given = rows.filter((row): row is readonly [string, string] => row[1] !== undefined);
  return table(given.map(([label, text]) => [label, clean(text)]));
}

/** What enrollments and groups have in common. */
function settingRows(shown: StoredEnrollment | EnrollmentGroup): readonly Row[] {
  const { capabilities, iotHubs = [], initialTwin, customAllocationDefinition: webhook } = shown;
  return [
    ['IoT hub', shown.iotHubHostName],
    ['IoT hubs', iotHubs.length === 0 ? undefined : iotHubs.join(', ')],
    ['Allocation', shown.allocationPolicy],
    ['Webhook', webhook?.webhookUrl === undefined ? undefined : withoutKey(webhook.webhookUrl)],
    ['Webhook API', webhook?.apiVersion],
    ['IoT Edge', capabilities === undefined ? undefined : String(capabilities.iotEdge)],
    ['Reprovision', jsonOf(shown.reprovisionPolicy)],
    ['Namespace', shown.namespaceName],
    ['Issuer', shown.certificateAuthorityName],
    ['Issuing policy', shown.certificatePolicyName],
    ['Tags', jsonOf(initialTwin?.tags)],
    ['Desired', jsonOf(initialTwin?.properties?.desired)],
  ];
}

function versionRows(shown: StoredEnrollment | EnrollmentGroup): readonly Row[] {
  return [
    ['Created', shown.createdDateTimeUtc],
    ['Last updated', shown.lastUpdatedDateTimeUtc],
    ['ETag', shown.etag],
  ];
}

/** What became of the device. */
function registrationRows(state: StoredEnrollment['registrationState']): readonly Row[] {
  if (state === undefined) return [];
  const texts = (name: string): string | undefined => textOf(state[name]);
  const failure = [texts('errorCode'), texts('errorMessage')].filter((part) => part !== undefined);
  return [
    ['Registration', [texts('status'), texts('substatus')].filter((part) => part !== undefined).join(', ')],
    ['Assigned hub', texts('assignedHub')],
    ['Assigned id', texts('deviceId')],
    ['Failure', failure.length === 0 ? undefined : failure.join(': ')],
    ['Registered', texts('createdDateTimeUtc')],
    ['Last change', texts('lastUpdatedDateTimeUtc')],
  ];
}

/** Definition X509Attestation: the certificates that are known, and the names of those that are kept elsewhere. */
function certificateRows({ attestation }: Pick<StoredEnrollment, 'attestation'>): readonly Row[] {
  const { x509 } = attestation;
  const rows: Row[] = [];
  for (const [kind, label] of [
    ['clientCertificates', 'Certificate'],
    ['signingCertificates', 'Signing certificate'],
  ] as const) {
    for (const which of ['primary', 'secondary']) {
      const info = memberOf(memberOf(memberOf(x509, kind), which), 'info');
      if (info === undefined) continue;
      const text = (name: string): string => textOf(info[name]) ?? '-';
      rows.push(
        [`${label} (${which})`, text('subjectName')],
        ['  issued by', text('issuerName')],
        ['  serial number', text('serialNumber')],
        ['  SHA-1 thumbprint', text('sha1Thumbprint')],
        ['  SHA-256 thumbprint', text('sha256Thumbprint')],
        ['  valid', `${text('notBeforeUtc')} to ${text('notAfterUtc')}`],
      );
    }
  }
  const references = memberOf(x509, 'caReferences');
  for (const which of ['primary', 'secondary'])
    rows.push([`Authority (${which})`, textOf(references?.[which])]);
  return rows;
}

function memberOf(owner: TwinObject | undefined, name: string): TwinObject | undefined {
  const value = owner?.[name];
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? (value as TwinObject) : undefined;
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : undefined;
}

function jsonOf(value: unknown): string | undefined {
  return value === undefined ? undefined : JSON.stringify(value);
}

/** Every value in the query of an address may be a key: `code` of Azure Functions, `sig` of Logic Apps. */
function withoutKey(url: string): string {
  return url.replace(/\/\/[^/@?#]*@/, '//***@').replace(/([?&][^=&#]*=)[^&#]+/g, '$1***');
}
