/**
 * Writes the sample files fixtures/enrollments/* and fixtures/manifest.ndjson again:
 * `node --import tsx test/records/write-samples.ts`
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { lineHash, manifestLine, type HarvestedIdentity } from '../../src/records/manifest.ts';
import { registrationIdOf, rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import { makeEkCertificate } from '../fakes/ek-certificates.ts';
import { syntheticEndorsementKey, vectorEndorsementKey } from '../fakes/endorsement-keys.ts';

const fixtures = new URL('../../fixtures/', import.meta.url);
const keys = [vectorEndorsementKey, syntheticEndorsementKey(1), syntheticEndorsementKey(2)] as const;
const [first, second, third] = keys;

function idOf(key: string): string {
  return registrationIdOf(Buffer.from(key, 'base64'));
}

function limpetCsv(key: string): string {
  return `"Registration Id", "Endorsement Key"\r\n"${idOf(key)}", "${key}"\r\n`;
}

function limpetJson(key: string): string {
  const attestation = { type: 'tpm', tpm: { endorsementKey: key } };
  return `${JSON.stringify([{ attestation, registrationId: idOf(key) }])}\r\n`;
}

const fleet = `Registration ID,endorsement-key,Device_Id,iotHubHostName,provisioningStatus,allocationPolicy,iotEdge,reprovision,serialNumber,tags.site,tags.line.number,desired.interval,desired.label
,${first},pump-001,,enabled,hashed,no,migrate,SN-0001,Linz,4,60,"""5"""
PUMP-002,${second},pump-002,factory.azure-devices.net,disabled,STATIC,1,never,0002,"Linz, Halle 2",4,0.5,"pump ""two"""
pump-003,${third},,,,,,,,,,,
`;

const faulty = `registrationId,endorsementKey,deviceId,allocationPolicy,iotEdge,reprovision,tags.site
-bad-,${first},pump 1,static,maybe,sometimes,Linz
pump-002,AToAAQ==,,,,,
pump-003,${second},,
pump-004,${third},,,,,
PUMP-004,${syntheticEndorsementKey(3)},,,,,
pump-005,${third},,,,,
`;

const unknownColumns = `registrationId,endorsementKey,deviceIdd,tag.site,registration_id
pump-001,${first},,,
`;

function publicKeyOf(key: string): ReturnType<typeof rsaKeyObject> {
  return rsaKeyObject(Buffer.from(key, 'base64').subarray(60));
}

/** Delivery lists as TPM vendors send them: by the chip's serial number, with its certificate or its public key. */
function vendorCertificates(): string {
  const rows = keys.map((key, index) => {
    const certificate = makeEkCertificate(publicKeyOf(key), index + 1);
    return `TPM-700${index + 1},${certificate.toString('base64')}\r\n`;
  });
  return `Serial Number,EK Certificate\r\n${rows.join('')}`;
}

/** In each row another form: PEM over several lines, base64 of the DER, the modulus in hex. */
function vendorKeys(): readonly (readonly [serialNumber: string, publicKey: string])[] {
  return [
    ['TPM-7001', publicKeyOf(first).export({ type: 'spki', format: 'pem' }) as string],
    ['TPM-7002', publicKeyOf(second).export({ type: 'spki', format: 'der' }).toString('base64')],
    ['TPM-7003', Buffer.from(third, 'base64').subarray(60).toString('hex').toUpperCase()],
  ];
}

function manifest(): string {
  let previous: string | null = null;
  return keys
    .map((key, index) => {
      const line: string = manifestLine({ schema: 1, ...harvested(key, index + 1), previous });
      previous = lineHash(line);
      return `${line}\n`;
    })
    .join('');
}

function harvested(endorsementKey: string, number: number): HarvestedIdentity {
  return {
    registrationId: idOf(endorsementKey),
    endorsementKey,
    ekName: `000b${'00'.repeat(32)}`,
    ekCertificate: null,
    ekVerdict: 'no-certificate',
    tpm: { manufacturer: 'IBM', vendorString: 'SW   TPM', firmware: '8217.4131', revision: '1.64' },
    serialNumber: `SN-000${number}`,
    deviceId: `pump-00${number}`,
    station: 'linz-1',
    operator: null,
    lot: 'L7',
    tags: { shift: 'early' },
    harvestedAt: `2024-05-0${number}T06:00:00.000Z`,
    tool: 'iotdm 0.1.0',
    tpmCommands: ['TPM2_ReadPublic'],
  };
}

mkdirSync(new URL('enrollments/', fixtures), { recursive: true });
const files: Readonly<Record<string, string>> = {
  'enrollments/limpet.csv': limpetCsv(first),
  'enrollments/limpet-concatenated.csv': keys.map(limpetCsv).join(''),
  'enrollments/limpet.json': limpetJson(first),
  'enrollments/limpet-concatenated.json': keys.map(limpetJson).join(''),
  'enrollments/fleet.csv': fleet,
  'enrollments/faulty.csv': faulty,
  'enrollments/unknown-columns.csv': unknownColumns,
  'enrollments/vendor-certificates.csv': vendorCertificates(),
  'enrollments/vendor-keys.csv': `serial_number,Public Key\n${vendorKeys()
    .map(([serialNumber, publicKey]) => `${serialNumber},"${publicKey}"\n`)
    .join('')}`,
  'enrollments/vendor-keys.ndjson': vendorKeys()
    .map(([serialNumber, publicKey]) => `${JSON.stringify({ serialNumber, publicKey })}\n`)
    .join(''),
  'manifest.ndjson': manifest(),
};
for (const [name, text] of Object.entries(files)) writeFileSync(new URL(name, fixtures), text);
