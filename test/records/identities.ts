/** Identities for the manifest's tests; nothing there looks into an EK. */
import type { HarvestedIdentity } from '../../src/records/manifest.ts';

/** The identity of a device that has this serial number and, unless told otherwise, an EK of its own. */
export function identity(
  serialNumber: string | null,
  endorsementKey = `ek of ${String(serialNumber)}`,
): HarvestedIdentity {
  return {
    registrationId: endorsementKey.replaceAll(' ', '-'),
    endorsementKey,
    ekName: '000b',
    ekCertificate: null,
    ekVerdict: null,
    tpm: { manufacturer: 'IBM', vendorString: 'SW', firmware: '1.2', revision: '1.64' },
    serialNumber,
    deviceId: null,
    station: 'linz-1',
    operator: null,
    lot: null,
    tags: { site: 'Linz' },
    harvestedAt: '2024-05-01T06:00:00.000Z',
    tool: 'iotdm 0.1.0',
    tpmCommands: ['TPM2_ReadPublic'],
  };
}
