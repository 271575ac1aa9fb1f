/**
 * How devices may prove who they are: the attestation of an individual enrollment or of an enrollment group (definition
 * AttestationMechanism), as it is sent, kept and shown.
 */

import { randomBytes } from 'node:crypto';
import { decodeBase64 } from '../encoding.ts';
import { certificateInfo, sentCertificate, type CertificateInfo } from './certificate-info.ts';
import { member, object, present, refused, type Members } from './members.ts';
import { ServiceError, serviceErrorCodes, type ServiceErrorCode } from './service-error.ts';

export interface TpmAttestation {
  readonly type: 'tpm';
  readonly tpm: { readonly endorsementKey: string; readonly storageRootKey?: string };
}

/** Both base64. */
export interface SymmetricKeys {
  readonly primaryKey: string;
  readonly secondaryKey: string;
}

export interface SymmetricKeyAttestation {
  readonly type: 'symmetricKey';
  readonly symmetricKey: SymmetricKeys;
}

export interface KeptCertificate {
  /** As it was sent. */
  readonly certificate: string;
  readonly info: CertificateInfo;
}

export interface KeptCertificates {
  readonly primary: KeptCertificate;
  readonly secondary?: KeptCertificate;
}

export interface X509Attestation {
  readonly type: 'x509';
  readonly x509: {
    /** Of the device; in individual enrollments. */
    readonly clientCertificates?: KeptCertificates;
    /** Of those who issue the devices' certificates; in groups. */
    readonly signingCertificates?: KeptCertificates;
    readonly caReferences?: Members;
  };
}

export type Attestation =
  TpmAttestation | X509Attestation | SymmetricKeyAttestation | { readonly type: 'none' };

/** What a kind of enrollment may have. */
export interface AttestationScope {
  readonly types: readonly Attestation['type'][];
  readonly certificates: 'clientCertificates' | 'signingCertificates';
}

export const individualScope: AttestationScope = {
  types: ['tpm', 'x509', 'symmetricKey', 'none'],
  certificates: 'clientCertificates',
};

/** TPM attestation is for individual enrollments only, and without any a group would have no members. */
export const groupScope: AttestationScope = {
  types: ['x509', 'symmetricKey'],
  certificates: 'signingCertificates',
};

/** Keys that the service makes have 64 bytes; those that it is given, 16 to 64. */
const madeKeyBytes = 64;
const leastKeyBytes = 16;
const mostKeyBytes = 64;

/**
 * Checks what a caller sends. What no answer shows, symmetric keys and certificates, need not be sent again when an
 * enrollment is updated: where it is left out, that of `existing` stays.
 * @throws ServiceError 400 naming the member
 */
export function attestation(
  value: unknown,
  scope: AttestationScope,
  existing: Attestation | undefined,
): Attestation {
  if (!present(value)) throw refused('attestation is missing');
  const members = object(value, 'attestation');
  const type = scope.types.find((known) => known === members['type']);
  if (type === undefined) throw refused(`attestation.type is not one of ${scope.types.join(', ')}`);
  for (const other of ['tpm', 'x509', 'symmetricKey']) {
    if (other !== type && present(members[other])) {
      throw refused(`attestation.${other} does not go with attestation.type ${type}`);
    }
  }
  switch (type) {
    case 'tpm':
      return { type, tpm: tpm(members['tpm']) };
    case 'symmetricKey':
      return { type, symmetricKey: symmetricKeys(members['symmetricKey'], existing) };
    case 'x509':
      return { type, x509: x509(members['x509'], scope, existing) };
    case 'none':
      return { type };
  }
}

/** The answer to a PUT shows symmetric keys, as they may have been made just then; no other answer does. */
export function shownAttestation(kept: Attestation, { withKeys }: { readonly withKeys: boolean }): Members {
  if (kept.type === 'symmetricKey') return withKeys ? { ...kept } : { type: kept.type };
  if (kept.type !== 'x509') return { ...kept };
  const shown = Object.entries(kept.x509).map(([name, value]) => [
    name,
    name === 'caReferences' ? value : withoutCertificates(value as KeptCertificates),
  ]);
  return { type: kept.type, x509: Object.fromEntries(shown) as Members };
}

function withoutCertificates({ primary, secondary }: KeptCertificates): Members {
  return {
    primary: { info: primary.info },
    ...(secondary === undefined ? {} : { secondary: { info: secondary.info } }),
  };
}

function tpm(value: unknown): TpmAttestation['tpm'] {
  if (!present(value)) throw refused('attestation.tpm is missing');
  const members = object(value, 'attestation.tpm');
  return {
    endorsementKey: publicArea(
      members['endorsementKey'],
      'endorsementKey',
      serviceErrorCodes.invalidEndorsementKey,
    ),
    ...member(members, 'storageRootKey', (key, name) =>
      publicArea(key, name, serviceErrorCodes.invalidEnrollment),
    ),
  };
}

/** Type, name algorithm, attributes and an empty policy: no TPMT_PUBLIC is shorter (TPM 2.0 Part 2, 12.2.4). */
const shortestPublicArea = 10;

/** Canonical base64 of a TPM2B_PUBLIC (TPM 2.0 Part 2, 12.2.5): two bytes of size, then as many bytes. */
function publicArea(value: unknown, name: string, errorCode: ServiceErrorCode): string {
  const at = `attestation.tpm.${name}`;
  if (!present(value)) throw new ServiceError(errorCode, `${at} is missing`);
  const bytes = typeof value === 'string' ? decodeBase64(value) : undefined;
  if (bytes === undefined) throw new ServiceError(errorCode, `${at} is not base64`);
  const size = bytes.length - 2;
  if (size < shortestPublicArea || bytes.readUInt16BE(0) !== size) {
    throw new ServiceError(errorCode, `${at} is not a TPM2B_PUBLIC: its size does not match`);
  }
  return value as string;
}

function symmetricKeys(value: unknown, existing: Attestation | undefined): SymmetricKeys {
  const members = present(value) ? object(value, 'attestation.symmetricKey') : {};
  const [primaryKey, secondaryKey] = (['primaryKey', 'secondaryKey'] as const).map((name) => {
    const key = members[name] ?? '';
    return key === '' ? undefined : symmetricKey(key, `attestation.symmetricKey.${name}`);
  });
  if (primaryKey !== undefined && secondaryKey !== undefined) return { primaryKey, secondaryKey };
  if (primaryKey !== undefined || secondaryKey !== undefined) {
    throw refused('attestation.symmetricKey has one key only');
  }
  if (existing?.type === 'symmetricKey') return existing.symmetricKey;
  const made = (): string => randomBytes(madeKeyBytes).toString('base64');
  return { primaryKey: made(), secondaryKey: made() };
}

function symmetricKey(value: unknown, name: string): string {
  const bytes = typeof value === 'string' ? decodeBase64(value) : undefined;
  if (bytes !== undefined && bytes.length >= leastKeyBytes && bytes.length <= mostKeyBytes) {
    return value as string;
  }
  throw refused(`${name} is not base64 of ${leastKeyBytes} to ${mostKeyBytes} bytes`);
}

function x509(
  value: unknown,
  { certificates: wanted }: AttestationScope,
  existing: Attestation | undefined,
): X509Attestation['x509'] {
  if (!present(value)) throw refused('attestation.x509 is missing');
  const members = object(value, 'attestation.x509');
  const foreign = wanted === 'clientCertificates' ? 'signingCertificates' : 'clientCertificates';
  if (present(members[foreign])) {
    throw refused(`attestation.x509.${foreign} is not for this kind of enrollment: ${wanted} are`);
  }
  if (present(members[wanted]) === present(members['caReferences'])) {
    throw refused(`attestation.x509 needs either ${wanted} or caReferences`);
  }
  const before = existing?.type === 'x509' ? existing.x509[wanted] : undefined;
  return {
    ...member(members, wanted, (given) => certificates(given, `attestation.x509.${wanted}`, before)),
    ...member(members, 'caReferences', caReferences),
  };
}

function certificates(
  value: unknown,
  name: string,
  existing: KeptCertificates | undefined,
): KeptCertificates {
  const members = object(value, name);
  const known = [existing?.primary, existing?.secondary].flatMap((kept) =>
    kept === undefined ? [] : [kept],
  );
  if (!present(members['primary'])) throw refused(`${name}.primary is missing`);
  return {
    primary: certificate(members['primary'], `${name}.primary`, known),
    ...member(members, 'secondary', (given) => certificate(given, `${name}.secondary`, known)),
  };
}

function certificate(value: unknown, name: string, known: readonly KeptCertificate[]): KeptCertificate {
  const members = object(value, name);
  const text = members['certificate'] ?? '';
  if (text === '') {
    const info = present(members['info']) ? object(members['info'], `${name}.info`) : {};
    const kept = known.find(
      ({ info: { sha256Thumbprint } }) => sha256Thumbprint === info['sha256Thumbprint'],
    );
    if (kept !== undefined) return kept;
    throw refused(`${name}.certificate is missing`);
  }
  const read = typeof text === 'string' ? sentCertificate(text) : undefined;
  if (read === undefined) throw refused(`${name}.certificate is not an X.509 certificate in PEM or base64`);
  return { certificate: text as string, info: certificateInfo(read) };
}

/** Names of certificates that were uploaded to the service: it is not known here whether there are such. */
function caReferences(value: unknown): Members {
  const name = 'attestation.x509.caReferences';
  const members = object(value, name);
  if (!present(members['primary'])) throw refused(`${name}.primary is missing`);
  const text = (given: unknown, at: string): string => {
    if (typeof given === 'string' && given !== '') return given;
    throw refused(`${name}.${at} is not a name`);
  };
  return { ...member(members, 'primary', text), ...member(members, 'secondary', text) };
}
