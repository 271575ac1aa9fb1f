/**
 * The operators' side of the Device Provisioning Service: its service API, api-version 2021-10-01 (and those with the
 * same requests): individual enrollments, enrollment groups, and what became of their devices.
 */

import type { DeviceStore, Registration } from './device-store.ts';
import { collectionRoutes, enrollmentGroups, individualEnrollments } from './enrollment-collection.ts';
import type { EnrollmentStore } from './enrollment-store.ts';
import { groupId, registrationId } from './enrollment-rules.ts';
import { anyEtag, checkEtag } from './etags.ts';
import { checkQuery, pageHeaders, wantedPage } from './query-pages.ts';
import { registrationState } from './registration-json.ts';
import type { Route, ServiceAnswer, ServiceApi, ServiceRequest } from './router.ts';
import { presentedToken, signatureProblem, type SharedAccessPolicy } from './sas.ts';
import { ServiceError, serviceErrorCodes } from './service-error.ts';

/** The one that Azure's clients speak, the one before it, and the one that adds certificates which the service issues. */
const apiVersions = ['2019-03-31', '2021-10-01', '2026-11-01'];

export interface ServiceApiOptions {
  readonly enrollments: EnrollmentStore;
  readonly groups: EnrollmentStore;
  readonly devices: DeviceStore;
  readonly policy: SharedAccessPolicy;
  readonly clock: () => Date;
}

/** The route table over the stores; nothing is kept elsewhere. */
export function serviceApi(options: ServiceApiOptions): ServiceApi {
  const { enrollments, groups, devices, policy, clock } = options;
  const registrations = new Registrations(options);
  const routes: readonly Route[] = [
    ...collectionRoutes({
      kind: individualEnrollments,
      store: enrollments,
      clock,
      stateOf: (id) => registrations.stateOf(id),
      onDelete: (id) => {
        // With an enrollment goes the registration of its device.
        devices.commit({ forget: [id] });
      },
    }),
    ...collectionRoutes({
      kind: enrollmentGroups,
      store: groups,
      clock,
      onDelete: (id) => {
        devices.commit({ forget: devices.registrationsOf(id).map((one) => one.registrationId) });
      },
    }),
    {
      method: 'GET',
      path: '/registrations/:id',
      body: 'ignored',
      handle: (request) => registrations.get(request),
    },
    {
      method: 'DELETE',
      path: '/registrations/:id',
      body: 'ignored',
      handle: (request) => registrations.delete(request),
    },
    {
      method: 'POST',
      path: '/registrations/:id/query',
      body: 'optional json',
      handle: (request) => registrations.query(request),
    },
  ];
  /** Clients send the same token again and again; that it was signed with the key does not change. */
  let verified: { readonly authorization: string; readonly expiresAtMs: number } | undefined;
  return {
    extent: 'of DPS for operators there are enrollments, enrollment groups and registrations, over HTTPS',
    apiVersions,
    authorize({ headers: { authorization } }) {
      const now = clock();
      if (verified?.authorization === authorization && now.getTime() < (verified?.expiresAtMs ?? 0)) return;
      const problem = signatureProblem(authorization, policy, now);
      if (problem !== undefined) throw new ServiceError(serviceErrorCodes.unauthorized, problem);
      const token = presentedToken(authorization);
      if (authorization === undefined || typeof token === 'string') return;
      verified = { authorization, expiresAtMs: Number(token.se) * 1000 };
    },
    routes: routes.map((route) => ({ ...route, quota: () => 'operations' })),
  };
}

/** What operators see of the registrations of devices. */
class Registrations {
  readonly #groups: EnrollmentStore;
  readonly #devices: DeviceStore;
  readonly #clock: () => Date;

  constructor({ groups, devices, clock }: ServiceApiOptions) {
    this.#groups = groups;
    this.#devices = devices;
    this.#clock = clock;
  }

  /** As JSON; undefined where no device has registered under the id. */
  stateOf(id: string): string | undefined {
    const registration = this.#devices.registration(id);
    return registration === undefined ? undefined : this.#json(registration);
  }

  get({ parameters: [id] }: ServiceRequest): ServiceAnswer {
    const registration = this.#registered(registrationId(id));
    return { status: 200, json: this.#json(registration), headers: { etag: registration.etag } };
  }

  /** The device must register again; what it has on its hub stays. */
  delete({ parameters: [id], headers }: ServiceRequest): ServiceAnswer {
    const registration = this.#registered(registrationId(id));
    const ifMatch = headers['if-match'];
    if (ifMatch !== undefined && ifMatch !== anyEtag)
      checkEtag(ifMatch, registration.etag, 'the registration');
    this.#devices.commit({ forget: [registration.registrationId] });
    return { status: 204 };
  }

  /** Of the devices that have registered by an enrollment group. The query is optional: the specification has none. */
  query({ parameters: [id], headers, body }: ServiceRequest): ServiceAnswer {
    const group = this.#groups.find(groupId(id));
    if (group === undefined) {
      throw new ServiceError(serviceErrorCodes.noSuchGroup, `enrollment group ${id ?? ''} does not exist`);
    }
    if (body !== undefined) checkQuery(body);
    const wanted = wantedPage(headers);
    const all = this.#devices
      .registrationsOf(group.id)
      .map((registration) => ({ registration, key: registration.registrationId.toLowerCase() }))
      .filter(({ key }) => wanted.after === undefined || key > wanted.after)
      .sort((one, other) => (one.key < other.key ? -1 : 1));
    const page = all.slice(0, wanted.limit);
    return {
      status: 200,
      json: `[${page.map(({ registration }) => this.#json(registration)).join(',')}]`,
      headers: pageHeaders(
        'deviceRegistration',
        wanted,
        all.length > page.length ? page.at(-1)?.key : undefined,
      ),
    };
  }

  #registered(id: string): Registration {
    const registration = this.#devices.registration(id);
    if (registration !== undefined) return registration;
    throw new ServiceError(serviceErrorCodes.noSuchRegistration, `no device has registered as ${id}`);
  }

  #json(registration: Registration): string {
    return JSON.stringify(registrationState(registration, this.#clock()));
  }
}
