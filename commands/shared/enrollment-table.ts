/** An enrollment for people. */
import type { StoredEnrollment } from '../../src/dps/enrollment.ts';
import { table } from './verb.ts';

export function enrollmentTable(enrollment: StoredEnrollment): string {
  const { initialTwin, reprovisionPolicy: reprovision } = enrollment;
  const rows: (readonly [string, string | undefined])[] = [
    ['Registration id', enrollment.registrationId],
    ['Device id', enrollment.deviceId ?? '(the registration id)'],
    ['Status', enrollment.provisioningStatus],
    ['Attestation', enrollment.attestation.type],
    ['Endorsement key', enrollment.attestation.tpm?.endorsementKey],
    ['IoT hub', enrollment.iotHubHostName],
    ['Allocation', enrollment.allocationPolicy],
    ['IoT Edge', enrollment.capabilities === undefined ? undefined : String(enrollment.capabilities.iotEdge)],
    ['Reprovision', reprovision === undefined ? undefined : JSON.stringify(reprovision)],
    ['Tags', initialTwin?.tags === undefined ? undefined : JSON.stringify(initialTwin.tags)],
    [
      'Desired',
      initialTwin?.properties === undefined ? undefined : JSON.stringify(initialTwin.properties.desired),
    ],
    ['Created', enrollment.createdDateTimeUtc],
    ['Last updated', enrollment.lastUpdatedDateTimeUtc],
    ['ETag', enrollment.etag],
  ];
  return table(
    rows
      .filter((row): row is readonly [string, string] => row[1] !== undefined)
      .map(([a, b]) => [a, clean(b)]),
  );
}

/** What a service answers goes to a terminal: control characters do not. */
export function clean(text: string, keepLines = false): string {
  return text.replace(keepLines ? /(?!\n)\p{Cc}/gu : /\p{Cc}/gu, '\uFFFD');
}
