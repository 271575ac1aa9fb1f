/**
 * The plain text of `-azuredps`. That of `-enrollmentinfo` is Limpet's byte for byte: factories keep it, and `enrollment
 * import` reads it.
 */

export interface EnrollmentInfo {
  readonly registrationId: string;
  /** Base64 of the TPM2B_PUBLIC. */
  readonly endorsementKey: string;
}

type Format = 'csv' | 'json' | 'txt';

/** @param formats any of `csv`, `json` and `txt`, one after the other in Limpet's order; `txt` where none is given */
export function enrollmentInfo(info: EnrollmentInfo, formats: readonly string[]): string {
  const order: readonly Format[] = ['csv', 'json', 'txt'];
  const wanted = order.filter((format) => formats.includes(format));
  return (wanted.length === 0 ? (['txt'] as const) : wanted)
    .map((format) => lines[format](info).join('\r\n'))
    .join('');
}

const lines: Readonly<Record<Format, (info: EnrollmentInfo) => string[]>> = {
  csv: ({ registrationId, endorsementKey }) => [
    '"Registration Id", "Endorsement Key"',
    `"${registrationId}", "${endorsementKey}"`,
    '',
  ],
  json: ({ registrationId, endorsementKey }) => {
    const enrollment = { attestation: { type: 'tpm', tpm: { endorsementKey } }, registrationId };
    return ['[', ...JSON.stringify(enrollment, null, '\t').split('\n'), ']', ''];
  },
  txt: ({ registrationId, endorsementKey }) => [
    '',
    'Provisioning information',
    '',
    '\tRegistration Id:',
    `\t${registrationId}`,
    '',
    '\tEndorsement Key:',
    `\t${endorsementKey}`,
    '',
    '',
  ],
};

export interface Registered {
  readonly registrationId: string;
  readonly deviceId: string | null;
  readonly assignedHub: string | null;
}

/** What `-register` prints, in the form of the `txt` of `-enrollmentinfo`. */
export function registered({ registrationId, deviceId, assignedHub }: Registered): string {
  const entries = [
    ['Registration Id', registrationId],
    ['Device Id', deviceId],
    ['Assigned Hub', assignedHub],
  ];
  const lines = entries.flatMap(([name, value]) => [`\t${name ?? ''}:`, `\t${value ?? ''}`, '']);
  return ['', 'Device registered', '', ...lines, ''].join('\r\n');
}
