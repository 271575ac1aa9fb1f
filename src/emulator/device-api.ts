/**
 * The devices' side of the Device Provisioning Service: registration with TPM attestation. A device shows its
 * endorsement key and storage root key, is given a session key that only a TPM with both can use, signs with it, and
 * is assigned to a hub.
 *
 * Sources: the service's specification of its device API, api-version 2021-10-01; Azure's "TPM attestation" and
 * "IoT Hub Device reprovisioning concepts".
 */

import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { authenticationKey } from './authentication-key.ts';
import {
  newGenerationId,
  type Assignment,
  type DeviceStore,
  type HubIdentity,
  type Registration,
  type Twin,
} from './device-store.ts';
import { registrationId, type EnrollmentContent } from './enrollment-rules.ts';
import { newEtag } from './etags.ts';
import { object } from './members.ts';
import type { EnrollmentStore } from './enrollment-store.ts';
import { operationState, registrationResult, type OperationState } from './registration-json.ts';
import type { ServiceAnswer, ServiceApi, ServiceRequest } from './router.ts';
import { decoded, expiryProblem, isSignedWith, presentedToken, type PresentedToken } from './sas.ts';
import { notEmulated, ServiceError, serviceErrorCodes } from './service-error.ts';
import { tpmKey, type TpmKey } from './tpm-key.ts';

/** The Node.js SDK speaks 2019-03-31; the others are versions of the same requests. */
const apiVersions = ['2017-11-15', '2018-04-01', '2018-11-01', '2019-03-31', '2021-06-01', '2021-10-01'];
/** The name that every registration's key has. */
const keyName = 'registration';
const keyBytes = 32;
/** Challenges to one device that may be open at a time: who asks for more does not close those of the device. */
const mostSessions = 4;
const sessionLifetimeMs = 60 * 60 * 1000;

export interface DeviceApiOptions {
  readonly enrollments: EnrollmentStore;
  readonly devices: DeviceStore;
  readonly clock: () => Date;
  readonly idScope: string;
  /** `host:port` of this API. */
  readonly host: string;
  /** The hub of devices whose enrollments name none. */
  readonly hub: string;
  readonly assignDelayMs: number;
}

/** A challenge that was put to a device. */
interface Session {
  readonly key: Buffer;
  /** The storage root key that it was made for: the device's own key goes to no other. */
  readonly storageRootKey: Buffer;
  readonly expiresAt: number;
}

export function deviceApi(options: DeviceApiOptions): ServiceApi {
  const api = new DeviceApi(options);
  const registration = '/:idScope/registrations/:id';
  return {
    extent: 'of DPS for devices there is registration over HTTPS',
    apiVersions,
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
        quota: ({ headers: { authorization } }) =>
          authorization === undefined ? undefined : 'registrations',
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

class DeviceApi {
  readonly #options: DeviceApiOptions;
  /** By lower-case registration id. They are not kept over a restart: the device is put to another challenge then. */
  readonly #sessions = new Map<string, Session[]>();

  constructor(options: DeviceApiOptions) {
    this.#options = options;
  }

  /** Tokens are checked here; that a request has none is for its handler to judge. */
  authorize({ parameters, headers }: Pick<ServiceRequest, 'parameters' | 'headers'>): void {
    const [idScope, id] = parameters;
    if (idScope !== this.#options.idScope) {
      throw new ServiceError(serviceErrorCodes.noSuchPath, 'there is no such ID scope');
    }
    if (headers.authorization === undefined) return;
    const wanted = registrationId(id);
    const token = this.#token(wanted, headers);
    const sessionKey = this.#options.devices.registration(wanted)?.sessionKey;
    if (this.#sessionOf(wanted, token) !== undefined) return;
    if (sessionKey !== undefined && isSignedWith(token, Buffer.from(sessionKey, 'base64'))) return;
    throw unauthorized(
      'the SharedAccessSignature is not signed with a key that was given to this device (sig)',
    );
  }

  /** @param fails whether the assignment is to fail; a challenge is put all the same */
  register(request: ServiceRequest, { fails = false } = {}): ServiceAnswer {
    const { enrollment, endorsementKey, storageRootKey, payload } = this.#attested(request);
    const { registrationId: id } = enrollment;
    if (request.headers.authorization === undefined) {
      return this.#challenge(id, endorsementKey, storageRootKey);
    }
    const session = this.#sessionOf(id, this.#token(id, request.headers));
    if (session === undefined) throw unauthorized('this answer to a challenge has been used already');
    if (!session.storageRootKey.equals(storageRootKey.bytes)) {
      throw unauthorized('the storage root key is not the one that the challenge was for');
    }
    const registration = fails
      ? this.#unassigned(enrollment, session.key, 'failed')
      : this.#registered(enrollment, endorsementKey, storageRootKey, session.key, payload);
    // An answer counts once: whoever has recorded it cannot register with it.
    this.#sessions.set(
      id.toLowerCase(),
      this.#openSessions(id).filter((other) => other !== session),
    );
    // Never done at once, as at the service: the device asks for the outcome.
    return this.#operationAnswer(registration, 'assigning');
  }

  operation({ parameters, headers }: ServiceRequest): ServiceAnswer {
    const id = registrationId(parameters[1]);
    const registration = this.#options.devices.registration(id);
    if (headers.authorization === undefined) throw unauthorized('the request has no Authorization header');
    if (registration === undefined || registration.operationId !== parameters[2]) {
      throw new ServiceError(serviceErrorCodes.noSuchRegistration, 'there is no such operation');
    }
    const { sessionKey } = registration;
    const token = this.#token(id, headers);
    if (sessionKey === undefined || !isSignedWith(token, Buffer.from(sessionKey, 'base64')))
      throw unauthorized('the SharedAccessSignature is that of another registration (sig)');
    return this.#operationAnswer(registration, operationState(registration, this.#options.clock()));
  }

  /** Answered as the registration itself, and with the same challenge. */
  status(request: ServiceRequest): ServiceAnswer {
    const { enrollment, endorsementKey, storageRootKey } = this.#attested(request);
    const { registrationId: id } = enrollment;
    if (request.headers.authorization === undefined) {
      return this.#challenge(id, endorsementKey, storageRootKey);
    }
    const registration = this.#options.devices.registration(id);
    if (registration === undefined) {
      throw new ServiceError(serviceErrorCodes.noSuchRegistration, `no device has registered as ${id}`);
    }
    return { status: 200, json: JSON.stringify(registrationResult(registration, this.#options.clock())) };
  }

  /** The enrollment, and the keys that the device shows: the endorsement key is the enrolled one. */
  #attested({ parameters, body }: ServiceRequest): {
    enrollment: EnrollmentContent;
    endorsementKey: TpmKey;
    storageRootKey: TpmKey;
    payload: object | undefined;
  } {
    const id = registrationId(parameters[1]);
    const members = object(body, 'the body');
    const named = members['registrationId'];
    if (named !== undefined && registrationId(named).toLowerCase() !== id.toLowerCase()) {
      throw invalidRequest('registrationId is not the one in the path');
    }
    const record = this.#options.enrollments.find(id);
    if (record === undefined) {
      throw new ServiceError(serviceErrorCodes.noSuchEnrollment, `enrollment ${id} does not exist`);
    }
    const enrollment = JSON.parse(record.json) as EnrollmentContent;
    const { attestation } = enrollment;
    if (attestation.type !== 'tpm') {
      throw notEmulated(`registration by ${attestation.type} is not emulated: by TPM it is`);
    }
    const tpm = object(members['tpm'], 'tpm');
    if (tpm['endorsementKey'] !== attestation.tpm.endorsementKey) {
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
    const payload = members['payload'];
    return {
      enrollment,
      endorsementKey,
      storageRootKey,
      payload: payload === undefined || payload === null ? undefined : object(payload, 'payload'),
    };
  }

  #challenge(id: string, endorsementKey: TpmKey, storageRootKey: TpmKey): ServiceAnswer {
    const key = randomBytes(keyBytes);
    const session: Session = {
      key,
      storageRootKey: storageRootKey.bytes,
      expiresAt: this.#options.clock().getTime() + sessionLifetimeMs,
    };
    this.#sessions.set(id.toLowerCase(), [...this.#openSessions(id), session].slice(-mostSessions));
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

  #sessionOf(id: string, token: PresentedToken): Session | undefined {
    return this.#openSessions(id).find(({ key }) => isSignedWith(token, key));
  }

  #openSessions(id: string): readonly Session[] {
    const now = this.#options.clock().getTime();
    return (this.#sessions.get(id.toLowerCase()) ?? []).filter(({ expiresAt }) => expiresAt > now);
  }

  /** Registers the device as its enrollment says, and gives it a new key. */
  #registered(
    enrollment: EnrollmentContent,
    endorsementKey: TpmKey,
    storageRootKey: TpmKey,
    sessionKey: Buffer,
    payload: object | undefined,
  ): Registration {
    if (enrollment['provisioningStatus'] === 'disabled') {
      return this.#unassigned(enrollment, sessionKey, 'disabled');
    }
    const { devices, clock } = this.#options;
    const previous = devices.registration(enrollment.registrationId)?.assignment;
    const deviceKey = randomBytes(keyBytes);
    const place = this.#allocate(enrollment, previous);
    const identity = this.#identity(enrollment, place, previous, deviceKey, clock());
    const registration: Registration = {
      ...this.#operationOf(enrollment, sessionKey),
      outcome: 'assigned',
      assignment: {
        ...place,
        authenticationKey: authenticationKey(
          endorsementKey,
          storageRootKey,
          deviceKey,
          `${place.assignedHub}/${place.deviceId}`,
        ),
        // Azure hands the payload to the function of a custom allocation, and what that returns to the device.
        ...(payload !== undefined && enrollment['allocationPolicy'] === 'custom' ? { payload } : {}),
      },
    };
    devices.commit({
      registration,
      identity,
      remove:
        previous !== undefined && hasMoved(previous, place)
          ? { hub: previous.assignedHub, deviceId: previous.deviceId }
          : undefined,
    });
    return registration;
  }

  /** A registration that ends without a hub; a device that has one keeps it. */
  #unassigned(
    enrollment: EnrollmentContent,
    sessionKey: Buffer,
    outcome: 'disabled' | 'failed',
  ): Registration {
    const { devices } = this.#options;
    const previous = devices.registration(enrollment.registrationId)?.assignment;
    const registration: Registration = {
      ...this.#operationOf(enrollment, sessionKey),
      outcome,
      ...(previous === undefined ? {} : { assignment: previous }),
    };
    devices.commit({ registration });
    return registration;
  }

  /** What every registration has, however it ends. */
  #operationOf({ registrationId: id }: EnrollmentContent, sessionKey: Buffer): Omit<Registration, 'outcome'> {
    const { devices, clock, assignDelayMs } = this.#options;
    const now = clock();
    return {
      kind: 'registration',
      registrationId: id,
      createdDateTimeUtc: devices.registration(id)?.createdDateTimeUtc ?? now.toISOString(),
      lastUpdatedDateTimeUtc: now.toISOString(),
      etag: newEtag(),
      operationId: `4.${randomBytes(8).toString('hex')}.${randomUUID()}`,
      sessionKey: sessionKey.toString('base64'),
      doneAt: now.getTime() + assignDelayMs,
    };
  }

  /** Which hub, under which name, and what that means for a device that has been assigned before. */
  #allocate(
    enrollment: EnrollmentContent,
    previous: Assignment | undefined,
  ): Pick<Assignment, 'assignedHub' | 'deviceId' | 'substatus'> {
    const { updateHubAssignment, migrateDeviceData } = enrollment['reprovisionPolicy'] as {
      readonly updateHubAssignment: boolean;
      readonly migrateDeviceData: boolean;
    };
    const deviceId = (enrollment['deviceId'] as string | undefined) ?? enrollment.registrationId;
    const wanted = this.#hubFor(enrollment);
    if (previous === undefined) {
      return { assignedHub: wanted, deviceId, substatus: 'initialAssignment' };
    }
    const assignedHub = updateHubAssignment ? wanted : previous.assignedHub;
    const isSame = !hasMoved(previous, { assignedHub, deviceId });
    const moved = migrateDeviceData ? 'deviceDataMigrated' : 'deviceDataReset';
    return { assignedHub, deviceId, substatus: isSame ? 'reprovisionedToInitialAssignment' : moved };
  }

  #hubFor(enrollment: EnrollmentContent): string {
    const single = enrollment['iotHubHostName'] as string | undefined;
    const hubs = (enrollment['iotHubs'] as readonly string[] | undefined) ?? [];
    if (single !== undefined) return single.toLowerCase();
    if (hubs.length === 0) return this.#options.hub;
    // Hashed: evenly, and the same for the same device. The others depend on places and functions that are not here.
    const isHashed = enrollment['allocationPolicy'] === 'hashed';
    const digest = createHash('sha256').update(enrollment.registrationId.toLowerCase()).digest();
    const index = isHashed ? digest.readUInt32BE(0) % hubs.length : 0;
    return (hubs[index] ?? this.#options.hub).toLowerCase();
  }

  #identity(
    enrollment: EnrollmentContent,
    { assignedHub, deviceId, substatus }: Pick<Assignment, 'assignedHub' | 'deviceId' | 'substatus'>,
    previous: Assignment | undefined,
    deviceKey: Buffer,
    now: Date,
  ): HubIdentity {
    const { devices } = this.#options;
    const existing = devices.identity(assignedHub, deviceId);
    const migrated =
      previous !== undefined && substatus === 'deviceDataMigrated'
        ? devices.identity(previous.assignedHub, previous.deviceId)?.twin
        : undefined;
    const capabilities = enrollment['capabilities'] as { readonly iotEdge?: boolean } | undefined;
    return {
      kind: 'device',
      hub: assignedHub,
      deviceId,
      primaryKey: deviceKey.toString('base64'),
      secondaryKey: randomBytes(keyBytes).toString('base64'),
      generationId: existing?.generationId ?? newGenerationId(now),
      etag: newEtag(),
      createdDateTimeUtc: existing?.createdDateTimeUtc ?? now.toISOString(),
      iotEdge: capabilities?.iotEdge === true,
      twin:
        migrated ?? (substatus === 'deviceDataReset' ? undefined : existing?.twin) ?? initialTwin(enrollment),
    };
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

function hasMoved(
  previous: Assignment,
  { assignedHub, deviceId }: Pick<Assignment, 'assignedHub' | 'deviceId'>,
): boolean {
  return previous.assignedHub !== assignedHub || previous.deviceId !== deviceId;
}

function initialTwin(enrollment: EnrollmentContent): Twin {
  const { tags = {}, properties } = (enrollment['initialTwin'] ?? {}) as {
    readonly tags?: object;
    readonly properties?: { readonly desired?: object };
  };
  return { tags, desired: properties?.desired ?? {} };
}

function unauthorized(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.unauthorized, message);
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}
