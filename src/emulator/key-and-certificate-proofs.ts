/**
 * Devices that prove who they are without a TPM: by a token that is signed with a symmetric key, or by a client
 * certificate. Both are judged by an enrollment of the device's own or, where there is none, by an enrollment group.
 *
 * Sources: Azure's "Symmetric key attestation", "X.509 certificate attestation" and "Provisioning devices: service
 * concepts" for how a device is found in a group.
 */

import { createHmac, type X509Certificate } from 'node:crypto';
import type { SymmetricKeys, X509Attestation } from './attestation-rules.ts';
import { certificateInfo, commonName, isCurrent, sentCertificate, thumbprint } from './certificate-info.ts';
import type { EnrollmentContent, GroupContent } from './enrollment-rules.ts';
import type { EnrollmentStore } from './enrollment-store.ts';
import type { RegisteredDevice } from './registered-device.ts';
import { isSignedWith, type PresentedToken } from './sas.ts';
import { notEmulated, ServiceError, serviceErrorCodes } from './service-error.ts';

const caReferencesMissing =
  'certificates that were uploaded to the service (caReferences) are not emulated: enroll with the certificates themselves';

/** The device whose enrollment has a key by which the token is signed; undefined when none has. */
export function deviceBySymmetricKey(
  token: PresentedToken,
  enrollment: EnrollmentContent,
): RegisteredDevice | undefined {
  const { attestation, registrationId } = enrollment;
  if (attestation.type !== 'symmetricKey') return undefined;
  const keys = attestation.symmetricKey;
  if (!isSignedWithEither(token, keys)) return undefined;
  return { registrationId, content: enrollment, proof: { kind: 'symmetricKey' }, credentials: { ...keys } };
}

/** The same for a device of a group: its keys are derived from the group's. */
export function groupDeviceBySymmetricKey(
  token: PresentedToken,
  registrationId: string,
  groups: EnrollmentStore,
): RegisteredDevice | undefined {
  for (const group of groupsOf(groups, 'symmetricKey')) {
    const { attestation, enrollmentGroupId } = group;
    if (attestation.type !== 'symmetricKey') continue;
    const { primaryKey, secondaryKey } = attestation.symmetricKey;
    // Devices derive their key from the id as they write it; the id itself has no case.
    for (const id of new Set([registrationId, registrationId.toLowerCase()])) {
      const keys = { primaryKey: derivedKey(primaryKey, id), secondaryKey: derivedKey(secondaryKey, id) };
      if (!isSignedWithEither(token, keys)) continue;
      const proof = { kind: 'symmetricKey', enrollmentGroupId } as const;
      return { registrationId, content: group, proof, credentials: keys };
    }
  }
  return undefined;
}

/**
 * The device whose enrollment has the certificate that it shows.
 * @param chain what was shown, the device's own first; its key has been proved
 * @throws ServiceError 401 saying what is wrong with the certificate, 501
 */
export function deviceByCertificate(
  chain: readonly X509Certificate[],
  enrollment: EnrollmentContent,
  now: Date,
): RegisteredDevice {
  const { attestation, registrationId } = enrollment;
  if (attestation.type !== 'x509')
    throw unauthorized('the enrollment of this device is not for certificates');
  const own = ownCertificate(chain, registrationId, now);
  const { clientCertificates } = attestation.x509;
  if (clientCertificates === undefined) throw notEmulated(caReferencesMissing);
  const { primary, secondary } = clientCertificates;
  if (![primary, secondary].some((kept) => kept?.info.sha256Thumbprint === thumbprint(own))) {
    throw unauthorized('the client certificate is not the one that is enrolled');
  }
  return {
    registrationId,
    content: enrollment,
    proof: { kind: 'x509', certificateInfo: certificateInfo(own) },
    credentials: { thumbprint: thumbprint(own) },
  };
}

/** The same for a device of a group: its certificate leads to the group's, and of several to the nearest. */
export function groupDeviceByCertificate(
  chain: readonly X509Certificate[],
  registrationId: string,
  groups: EnrollmentStore,
  now: Date,
): RegisteredDevice {
  const own = ownCertificate(chain, registrationId, now);
  const candidates = [...groupsOf(groups, 'x509')].map((group) => ({
    group,
    signing: signingCertificates(group),
  }));
  for (const [index, certificate] of chain.entries()) {
    for (const { group, signing } of candidates) {
      const signer = signing.find((one) => isIssuedBy(certificate, one) && isCurrent(one, now));
      if (signer === undefined) continue;
      return {
        registrationId,
        content: group,
        proof: {
          kind: 'x509',
          enrollmentGroupId: group.enrollmentGroupId,
          certificateInfo: certificateInfo(own),
          signingCertificateInfo: certificateInfo(signer),
        },
        credentials: { thumbprint: thumbprint(own) },
      };
    }
    const next = chain[index + 1];
    if (next === undefined || !isIssuedBy(certificate, next) || !isCurrent(next, now)) break;
  }
  if (candidates.some(({ signing }) => signing.length === 0)) throw notEmulated(caReferencesMissing);
  throw unauthorized('the client certificate leads to the certificate of no enrollment group');
}

function isSignedWithEither(token: PresentedToken, { primaryKey, secondaryKey }: SymmetricKeys): boolean {
  return [primaryKey, secondaryKey].some((key) => isSignedWith(token, Buffer.from(key, 'base64')));
}

/** Both base64: HMAC-SHA256 of the registration id with the group's key. */
function derivedKey(groupKey: string, registrationId: string): string {
  return createHmac('sha256', Buffer.from(groupKey, 'base64'))
    .update(registrationId, 'utf8')
    .digest('base64');
}

function* groupsOf(
  groups: EnrollmentStore,
  type: GroupContent['attestation']['type'],
): Iterable<GroupContent> {
  for (const record of groups.page(undefined, groups.size).records) {
    if (record.attestationType === type) yield JSON.parse(record.json) as GroupContent;
  }
}

/** None where the group has names of uploaded certificates only. */
function signingCertificates({ attestation }: GroupContent): readonly X509Certificate[] {
  const { signingCertificates: kept } = (attestation as X509Attestation).x509;
  return [kept?.primary, kept?.secondary].flatMap((one) => sentCertificate(one?.certificate ?? '') ?? []);
}

/** Shown, current, and for this registration id. */
function ownCertificate(
  chain: readonly X509Certificate[],
  registrationId: string,
  now: Date,
): X509Certificate {
  const [own] = chain;
  if (own === undefined)
    throw unauthorized('the request has no Authorization header and no client certificate');
  if (!isCurrent(own, now)) throw unauthorized('the client certificate has expired or is not valid yet');
  if (commonName(own)?.toLowerCase() !== registrationId.toLowerCase()) {
    throw unauthorized('the common name (CN) of the client certificate is not the registration id');
  }
  return own;
}

function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  try {
    return issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
  } catch {
    // A key of a kind that is not known here has signed nothing that could be checked.
    return false;
  }
}

function unauthorized(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.unauthorized, message);
}
