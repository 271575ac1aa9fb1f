/**
 * The devices' side of the Device Provisioning Service: registration over HTTPS. A device with a TPM shows its
 * endorsement key and storage root key, is given a session key that only a TPM with both can use, and signs with it;
 * others sign with a symmetric key that is enrolled, or show a certificate. Then they are assigned to a hub.
 *
 * Sources: the service's specification of its device API, api-version 2021-10-01; Azure's "TPM attestation".
 */

import { randomBytes, randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { Assignments, type AssignmentOptions } from './assignments.ts';
import type { TpmAttestation } from './attestation-rules.ts';
import { authenticationKey } from './authentication-key.ts';
import type { Registration } from './device-store.ts';
import { registrationId, type EnrollmentContent } from './enrollment-rules.ts';
import type { EnrollmentStore } from './enrollment-store.ts';
import {
  deviceByCertificate,
  deviceBySymmetricKey,
  groupDeviceByCertificate,
  groupDeviceBySymmetricKey,
} from './key-and-certificate-proofs.ts';
import { object, present, type Members } from './members.ts';
import type { RegisteredDevice } from './registered-device.ts';
import { operationState, registrationResult, type OperationState } from './registration-json.ts';
import type { Asked, ServiceAnswer, ServiceApi, ServiceRequest } from './router.ts';
import { decoded, expiryProblem, isSignedWith, presentedToken, type PresentedToken } from './sas.ts';
import { notEmulated, ServiceError, serviceErrorCodes } from './service-error.ts';
import { TpmChallenges } from './tpm-challenges.ts';
import { tpmKey, type TpmKey } from './tpm-key.ts';

/** The Node.js SDK speaks 2019-03-31; the others are versions of the same requests. */
const apiVersions = [
  '2017-11-15',
  '2018-04-01',
  '2018-11-01',
  '2019-03-31',
  '2021-06-01',
  '2021-10-01',
  '2026-11-01',
];
/** The name that every registration's key has. */
const keyName = 'registration';
const keyBytes = 32;

export interface DeviceApiOptions extends AssignmentOptions {
  readonly enrollments: EnrollmentStore;
  readonly groups: EnrollmentStore;
  readonly idScope: string;
  /** `host:port` of this API. */
  readonly host: string;
}

export function deviceApi(options: DeviceApiOptions): ServiceApi {
  const api = new DeviceApi(options);
  const registration = '/:idScope/registrations/:id';
  return {
    extent: 'of DPS for devices there is registration over HTTPS, by TPM, symmetric key and certificate',
    apiVersions,
    serves: ([first = '', second = '', id]) =>
      id !== undefined && second.toLowerCase() === 'registrations' && !isOperators(first),
    authorize: (request) => {
      api.authorize(request);
    },
    routes: [
      {
        method: 'PUT',
        path: `${registration}/register`,
        body: 'json',
        handle: (request) => api.register(request),
        failToAssign: (request) => api.register(request, { fails: true }),
        // What the service limits is registrations, and a challenge is none yet.
        quota: (asked) => (isChallenge(asked) ? undefined : 'registrations'),
      },
      { method: 'POST', path: registration, body: 'json', handle: (request) => api.status(request) },
      {
        method: 'GET',
        path: `${registration}/operations/:operationId`,
        body: 'ignored',
        handle: (request) => api.operation(request),
      },
    ],
  };
}

/** Whether a path that begins so is one of the operators' API, where a group may be called `registrations`. */
function isOperators(first: string): boolean {
  return ['enrollments', 'enrollmentgroups', 'registrations'].includes(first.toLowerCase());
}

/** Who shows nothing can only be a device with a TPM, and is to be put to a challenge. */
function isChallenge({ headers, certificates }: Asked): boolean {
  return headers.authorization === undefined && certificates().length === 0;
}

/** What a device with a TPM shows. */
interface ShownTpm {
  readonly enrollment: EnrollmentContent;
  readonly endorsementKey: TpmKey;
  readonly storageRootKey: TpmKey;
}

class DeviceApi {
  readonly #options: DeviceApiOptions;
  readonly #challenges: TpmChallenges;
  readonly #assignments: Assignments;

  constructor(options: DeviceApiOptions) {
    this.#options = options;
    this.#challenges = new TpmChallenges(options.clock);
    this.#assignments = new Assignments(options);
  }

  /** Tokens are checked here; that a request has none is for its handler to judge. */
  authorize(asked: Asked): void {
    const [idScope, id] = asked.parameters;
    if (idScope !== this.#options.idScope) {
      throw new ServiceError(serviceErrorCodes.noSuchPath, 'there is no such ID scope');
    }
    if (asked.headers.authorization === undefined) return;
    const wanted = registrationId(id);
    const token = this.#token(wanted, asked.headers);
    if (this.#challenges.answeredBy(wanted, token) !== undefined) return;
    if (isSignedInSession(token, this.#options.devices.registration(wanted))) return;
    if (this.#keyHolder(wanted, token) !== undefined) return;
    throw unauthorized(
      'the SharedAccessSignature is not signed with a key that was given to this device (sig)',
    );
  }

  /** @param fails whether the assignment is to fail; a challenge is put all the same */
  register(request: ServiceRequest, { fails = false } = {}): ServiceAnswer {
    const { id, members } = bodyOf(request);
    const payload = members['payload'] ?? undefined;
    const given = payload === undefined ? undefined : object(payload, 'payload');
    // Of api-version 2026-11-01: a device that asks for a certificate must not take the answer for a refusal of it.
    if (present(members['csr'])) throw notEmulated('certificates are not issued by the emulator (csr)');
    const device = this.#proved(request, id);
    if (device !== undefined) return this.#assigned({ ...device, payload: given }, fails);

    const shown = this.#shownTpm(id, members);
    if (request.headers.authorization === undefined) return this.#challenge(shown);
    const challenge = this.#challenges.answeredBy(id, this.#token(id, request.headers));
    if (challenge === undefined) throw unauthorized('this answer to a challenge has been used already');
    if (!challenge.storageRootKey.equals(shown.storageRootKey.bytes)) {
      throw unauthorized('the storage root key is not the one that the challenge was for');
    }
    const answer = this.#assigned({ ...registeredTpm(shown, challenge.key), payload: given }, fails);
    this.#challenges.close(id, challenge);
    return answer;
  }

  operation(request: ServiceRequest): ServiceAnswer {
    const id = registrationId(request.parameters[1]);
    const registration = this.#options.devices.registration(id);
    if (isChallenge(request)) throw unauthorized('the request has no Authorization header');
    if (registration === undefined || registration.operationId !== request.parameters[2]) {
      throw new ServiceError(serviceErrorCodes.noSuchRegistration, 'there is no such operation');
    }
    const { authorization } = request.headers;
    const isItsSession =
      authorization !== undefined && isSignedInSession(this.#token(id, request.headers), registration);
    if (!isItsSession && this.#proved(request, id) === undefined) {
      throw unauthorized('the SharedAccessSignature is that of another registration (sig)');
    }
    return this.#operationAnswer(registration, operationState(registration, this.#options.clock()));
  }

  /** Answered as the registration itself, and with the same challenge. */
  status(request: ServiceRequest): ServiceAnswer {
    const { id, members } = bodyOf(request);
    if (this.#proved(request, id) === undefined) {
      const shown = this.#shownTpm(id, members);
      if (request.headers.authorization === undefined) return this.#challenge(shown);
    }
    const registration = this.#options.devices.registration(id);
    if (registration === undefined) {
      throw new ServiceError(serviceErrorCodes.noSuchRegistration, `no device has registered as ${id}`);
    }
    return { status: 200, json: JSON.stringify(registrationResult(registration, this.#options.clock())) };
  }

  /**
   * The device, where it is one without TPM that has proved who it is; undefined for one that may have a TPM.
   * @throws ServiceError 401 for a certificate that will not do
   */
  #proved({ headers, certificates }: ServiceRequest, id: string): RegisteredDevice | undefined {
    if (headers.authorization !== undefined) return this.#keyHolder(id, this.#token(id, headers));
    const { groups, clock } = this.#options;
    const enrollment = this.#enrollment(id);
    const chain = certificates();
    if (enrollment === undefined) {
      return chain.length === 0 ? undefined : groupDeviceByCertificate(chain, id, groups, clock());
    }
    switch (enrollment.attestation.type) {
      case 'tpm':
        return undefined;
      case 'x509':
        return deviceByCertificate(chain, enrollment, clock());
      case 'symmetricKey':
        throw unauthorized('the request has no Authorization header');
      case 'none':
        throw unauthorized('the enrollment has no attestation by which a device could register');
    }
  }

  /** The device whose symmetric key has signed the token. An enrollment of its own goes before a group. */
  #keyHolder(id: string, token: PresentedToken): RegisteredDevice | undefined {
    const enrollment = this.#enrollment(id);
    return enrollment === undefined
      ? groupDeviceBySymmetricKey(token, id, this.#options.groups)
      : deviceBySymmetricKey(token, enrollment);
  }

  #enrollment(id: string): EnrollmentContent | undefined {
    const record = this.#options.enrollments.find(id);
    return record === undefined ? undefined : (JSON.parse(record.json) as EnrollmentContent);
  }

  /** The enrollment, and the keys that the device shows: the endorsement key is the enrolled one. */
  #shownTpm(id: string, members: Members): ShownTpm {
    const enrollment = this.#enrollment(id);
    if (enrollment === undefined) {
      throw new ServiceError(serviceErrorCodes.noSuchEnrollment, `enrollment ${id} does not exist`);
    }
    if (enrollment.attestation.type !== 'tpm')
      throw unauthorized('the enrollment of this device is not for a TPM');
    const enrolled: TpmAttestation['tpm'] = enrollment.attestation.tpm;
    const tpm = object(members['tpm'], 'tpm');
    if (tpm['endorsementKey'] !== enrolled.endorsementKey) {
      throw new ServiceError(
        serviceErrorCodes.invalidEndorsementKey,
        'the endorsement key is not the enrolled one',
      );
    }
    const endorsementKey = tpmKey(tpm['endorsementKey']);
    if (endorsementKey === undefined) {
      throw new ServiceError(
        serviceErrorCodes.invalidEndorsementKey,
        'the enrolled endorsement key is not one of an RSA 2048 TPM',
      );
    }
    const storageRootKey = tpmKey(tpm['storageRootKey']);
    if (storageRootKey === undefined) {
      throw invalidRequest('tpm.storageRootKey is not the TPM2B_PUBLIC of an RSA 2048 storage key');
    }
    return { enrollment, endorsementKey, storageRootKey };
  }

  #challenge({
    enrollment: { registrationId: id },
    endorsementKey,
    storageRootKey,
  }: ShownTpm): ServiceAnswer {
    const { key } = this.#challenges.open(id, storageRootKey.bytes);
    const uri = `${this.#options.host}/${this.#options.idScope}/registrations/${id}`;
    return {
      status: 401,
      json: JSON.stringify({
        authenticationKey: authenticationKey(endorsementKey, storageRootKey, key, uri),
        keyName,
        message: 'Authorization required, resend request using supplied key',
        trackingId: randomUUID(),
      }),
    };
  }

  /** The token of a request, for this registration and not expired; who signed it is not known yet. */
  #token(id: string, headers: IncomingHttpHeaders): PresentedToken {
    const token = presentedToken(headers.authorization);
    if (typeof token === 'string') throw unauthorized(token);
    const resource = `${this.#options.idScope}/registrations/${id}`;
    if (decoded(token.sr)?.toLowerCase() !== resource.toLowerCase()) {
      throw unauthorized('the SharedAccessSignature is for another resource (sr)');
    }
    if (token.skn === undefined || decoded(token.skn) !== keyName) {
      throw unauthorized('the SharedAccessSignature names an unknown policy (skn)');
    }
    const problem = expiryProblem(token, this.#options.clock());
    if (problem !== undefined) throw unauthorized(problem);
    return token;
  }

  /** Never done at once, as at the service: the device asks for the outcome. */
  #assigned(proved: RegisteredDevice, fails: boolean): ServiceAnswer {
    const device = this.#asKnown(proved);
    const registration = fails
      ? this.#assignments.leaveUnassigned(device, 'failed')
      : this.#assignments.assign(device);
    return this.#operationAnswer(registration, 'assigning');
  }

  /** A device of a group stays under the id as it was first written: the id has no case, the device id has. */
  #asKnown(device: RegisteredDevice): RegisteredDevice {
    if (device.proof?.enrollmentGroupId === undefined) return device;
    const known = this.#options.devices.registration(device.registrationId)?.registrationId;
    return known === undefined ? device : { ...device, registrationId: known };
  }

  #operationAnswer(registration: Registration, state: OperationState): ServiceAnswer {
    const now = this.#options.clock();
    const { operationId, registrationId: id } = registration;
    const json = JSON.stringify({
      operationId,
      status: state,
      ...(state === 'assigning' ? {} : { registrationState: registrationResult(registration, now) }),
    });
    if (state !== 'assigning') return { status: 200, json };
    const { host, idScope } = this.#options;
    return {
      status: 202,
      json,
      headers: {
        location: `https://${host}/${idScope}/registrations/${id}/operations/${operationId}`,
        'retry-after': String(Math.max(0, Math.ceil((registration.doneAt - now.getTime()) / 1000))),
      },
    };
  }
}

/** The registration id of the path, which the body may repeat. */
function bodyOf({ parameters, body }: ServiceRequest): { readonly id: string; readonly members: Members } {
  const id = registrationId(parameters[1]);
  const members = object(body, 'the body');
  const named = members['registrationId'];
  if (named !== undefined && registrationId(named).toLowerCase() !== id.toLowerCase()) {
    throw invalidRequest('registrationId is not the one in the path');
  }
  return { id, members };
}

/** With a new key of its own, which leaves for the TPM only. */
function registeredTpm(
  { enrollment, endorsementKey, storageRootKey }: ShownTpm,
  sessionKey: Buffer,
): RegisteredDevice {
  const deviceKey = randomBytes(keyBytes);
  return {
    registrationId: enrollment.registrationId,
    content: enrollment,
    sessionKey: sessionKey.toString('base64'),
    credentials: {
      primaryKey: deviceKey.toString('base64'),
      secondaryKey: randomBytes(keyBytes).toString('base64'),
    },
    authenticationKey: (uri) => authenticationKey(endorsementKey, storageRootKey, deviceKey, uri),
  };
}

/** Whether the token is signed with the session key of the registration, as devices with a TPM do. */
function isSignedInSession(token: PresentedToken, registration: Registration | undefined): boolean {
  const sessionKey = registration?.sessionKey;
  return sessionKey !== undefined && isSignedWith(token, Buffer.from(sessionKey, 'base64'));
}

function unauthorized(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.unauthorized, message);
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}
