/** One device on the line: its TPM read, and one more record in the manifest. */
import { appendRecord, type AppendedRecord, type HarvestedIdentity } from '../records/manifest.ts';
import { describeTpm } from '../tpm/description.ts';
import { trimCertificate } from '../certificate-bytes.ts';
import { registrationIdOf } from '../tpm/endorsement-key.ts';
import { EK_HANDLE, type PrimaryKey, type Tpm } from '../tpm/tpm.ts';
import { readEkCertificateIfAllowed } from './endorsement.ts';

/** What the station knows of the device and the TPM does not. */
export type HarvestLabels = Pick<
  HarvestedIdentity,
  'serialNumber' | 'deviceId' | 'station' | 'operator' | 'lot' | 'tags'
>;

export interface HarvestOptions {
  readonly tpm: Tpm;
  readonly labels: HarvestLabels;
  readonly now: Date;
  /** Name and version of this program. */
  readonly tool: string;
  /** Judges the EK certificate: what it returns is recorded, and where it throws nothing is. */
  readonly judge?: (key: PrimaryKey, certificate: Buffer | null) => string;
  /** Keep an EK that had to be derived, unless `judge` throws: whoever needs it next need not derive it again. */
  readonly keepKey?: boolean;
}

/**
 * Reads the identity of a TPM; changes nothing in it, unless a key is to be kept. Five TPM commands with an EK and its
 * certificate in place.
 */
export async function readIdentity(options: HarvestOptions): Promise<HarvestedIdentity> {
  const { tpm, labels, now, tool, judge, keepKey = false } = options;
  const sentBefore = tpm.commandsSent.length;
  const read = async (key: PrimaryKey): Promise<Omit<HarvestedIdentity, 'tpmCommands'>> => {
    const description = await describeTpm(tpm);
    const certificate = await readEkCertificateIfAllowed(tpm);
    return {
      registrationId: registrationIdOf(key.publicArea),
      endorsementKey: key.publicArea.toString('base64'),
      ekName: key.name.toString('hex'),
      ekCertificate: certificate === null ? null : (trimCertificate(certificate)?.toString('base64') ?? null),
      // Where nothing was verified, nothing is claimed.
      ekVerdict: judge === undefined ? null : judge(key, certificate),
      tpm: description,
      ...labels,
      harvestedAt: now.toISOString(),
      tool,
    };
  };
  const identity = keepKey
    ? await tpm.withEndorsementKey(async (key, handle) => {
        const found = await read(key);
        if (key.handle === null) await tpm.persist(handle, EK_HANDLE);
        return found;
      })
    : await read(await tpm.readEndorsementKey());
  return { ...identity, tpmCommands: tpm.commandsSent.slice(sentBefore) };
}

/**
 * Reads the identity of a TPM and appends it to the manifest, where it is on disk before this returns.
 * @throws IotdmError `verify.identity-conflict` where the manifest has this chip or serial number otherwise
 */
export async function harvest(manifest: string, options: HarvestOptions): Promise<AppendedRecord> {
  return appendRecord(manifest, await readIdentity(options));
}
