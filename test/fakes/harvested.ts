/** Records of devices that do not exist, right in themselves: every EK has its registration id and its name. */
import { createHash } from 'node:crypto';
import { lineHash, manifestLine, type HarvestedIdentity } from '../../src/records/manifest.ts';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { syntheticEndorsementKey } from './endorsement-keys.ts';

/** The record of device `number`, which has the serial number `SN-number`, harvested `number` seconds after six. */
export function harvested(number: number, changes: Partial<HarvestedIdentity> = {}): HarvestedIdentity {
  return { ...identityOf(syntheticEndorsementKey(number), number), ...changes };
}

/** The same with this EK. */
export function identityOf(endorsementKey: string, number: number): HarvestedIdentity {
  const key = Buffer.from(endorsementKey, 'base64');
  return {
    registrationId: registrationIdOf(key),
    endorsementKey,
    ekName: `000b${createHash('sha256').update(key.subarray(2)).digest('hex')}`,
    ekCertificate: null,
    ekVerdict: null,
    tpm: { manufacturer: 'IBM', vendorString: 'SW   TPM', firmware: '8217.4131.22.13878', revision: '1.64' },
    serialNumber: `SN-${number}`,
    deviceId: null,
    station: 'EOL-3',
    operator: null,
    lot: null,
    tags: {},
    harvestedAt: new Date(Date.UTC(2024, 4, 1, 6, 0, number)).toISOString(),
    tool: 'iotdm/0.1.0',
    tpmCommands: ['ReadPublic'],
  };
}

/** A manifest of these records, chained. */
export function manifestOf(identities: readonly HarvestedIdentity[]): string {
  let previous: string | null = null;
  let text = '';
  for (const identity of identities) {
    const line: string = manifestLine({ schema: 1, ...identity, previous });
    previous = lineHash(line);
    text += `${line}\n`;
  }
  return text;
}
