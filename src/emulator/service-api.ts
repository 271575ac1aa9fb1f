/** The operators' side of the Device Provisioning Service: its service API, for TPM enrollments. */

import type { DeviceStore, Registration } from './device-store.ts';
import type { EnrollmentChange, EnrollmentRecord, EnrollmentStore } from './enrollment-store.ts';
import { enrollmentContent, object, registrationId, type EnrollmentContent } from './enrollment-rules.ts';
import { registrationState } from './registration-json.ts';
import type { Route, ServiceAnswer, ServiceApi, ServiceRequest } from './router.ts';
import { presentedToken, signatureProblem, type SharedAccessPolicy } from './sas.ts';
import { ServiceError, serviceErrorCodes } from './service-error.ts';

const apiVersions = ['2021-10-01', '2026-11-01'];
const largestBulk = 10;
const bulkModes = ['create', 'update', 'updateIfMatchETag', 'delete'] as const;
type BulkMode = (typeof bulkModes)[number];

/** Azure documents no page sizes: what most of its query APIs have. A larger wish is capped, as a wish it is. */
const defaultPage = 100;
const largestPage = 1000;

/** The route table over the stores; nothing is kept elsewhere. */
export function serviceApi(
  store: EnrollmentStore,
  devices: DeviceStore,
  policy: SharedAccessPolicy,
  clock: () => Date,
): ServiceApi {
  const service = new ProvisioningServiceApi(store, devices, clock);
  const anotherWriter: Route['anotherWriter'] = ({ parameters, body }) => {
    service.changeByAnotherWriter(parameters.length > 0 ? parameters : sentIds(body));
  };
  const routes: readonly Route[] = [
    {
      method: 'POST',
      path: '/enrollments/query',
      body: 'json',
      handle: (request) => service.query(request),
    },
    {
      method: 'POST',
      path: '/enrollments',
      body: 'json',
      handle: (request) => service.bulk(request),
      bulkSize: (body) => Math.max(1, sentIds(body).length),
      anotherWriter,
    },
    { method: 'GET', path: '/enrollments/:id', body: 'ignored', handle: (request) => service.get(request) },
    {
      method: 'PUT',
      path: '/enrollments/:id',
      body: 'json',
      handle: (request) => service.put(request),
      anotherWriter,
    },
    {
      method: 'DELETE',
      path: '/enrollments/:id',
      body: 'ignored',
      handle: (request) => service.delete(request),
      anotherWriter,
    },
    {
      method: 'POST',
      path: '/enrollments/:id/attestationmechanism',
      body: 'ignored',
      handle: (request) => service.attestationMechanism(request),
    },
    {
      method: 'GET',
      path: '/registrations/:id',
      body: 'ignored',
      handle: (request) => service.registration(request),
    },
    {
      method: 'DELETE',
      path: '/registrations/:id',
      body: 'ignored',
      handle: (request) => service.deleteRegistration(request),
    },
  ];
  /** Clients send the same token again and again; that it was signed with the key does not change. */
  let verified: { readonly authorization: string; readonly expiresAtMs: number } | undefined;
  return {
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

class ProvisioningServiceApi {
  readonly #store: EnrollmentStore;
  readonly #devices: DeviceStore;
  readonly #clock: () => Date;
  #otherChanges = 0;

  constructor(store: EnrollmentStore, devices: DeviceStore, clock: () => Date) {
    this.#store = store;
    this.#devices = devices;
    this.#clock = clock;
  }

  get(request: ServiceRequest): ServiceAnswer {
    return { status: 200, json: this.#shown(this.#existing(pathId(request))) };
  }

  put(request: ServiceRequest): ServiceAnswer {
    const id = pathId(request);
    const content = enrollmentContent(request.body);
    if (content.registrationId.toLowerCase() !== id.toLowerCase()) {
      throw invalidRequest('registrationId is not the one in the path');
    }
    const existing = this.#store.find(id);
    const ifMatch = request.headers['if-match'];
    if (ifMatch === undefined) {
      if (existing !== undefined) throw alreadyExists(id);
    } else if (ifMatch !== anyEtag) {
      // Azure's table of errors has 412 for the ETag of an existing resource and 404 for one that does not exist.
      checkEtag(this.#existing(id), ifMatch);
    }
    const put = this.#record(content, existing, this.#now());
    this.#store.commit([{ put }]);
    return { status: 200, json: this.#shown(put) };
  }

  delete(request: ServiceRequest): ServiceAnswer {
    const existing = this.#existing(pathId(request));
    const ifMatch = request.headers['if-match'];
    if (ifMatch !== undefined && ifMatch !== anyEtag) checkEtag(existing, ifMatch);
    this.#delete([existing.registrationId], [{ delete: existing.registrationId }]);
    return { status: 204 };
  }

  registration(request: ServiceRequest): ServiceAnswer {
    const registration = this.#registered(pathId(request));
    return {
      status: 200,
      json: JSON.stringify(registrationState(registration, this.#clock())),
      headers: { etag: registration.etag },
    };
  }

  /** The device must register again; what it has on its hub stays. */
  deleteRegistration(request: ServiceRequest): ServiceAnswer {
    const { registrationId, etag } = this.#registered(pathId(request));
    const ifMatch = request.headers['if-match'];
    if (ifMatch !== undefined && ifMatch !== anyEtag && unquoted(ifMatch) !== unquoted(etag)) {
      throw new ServiceError(serviceErrorCodes.etagMismatch, 'the etag is not that of the registration');
    }
    this.#devices.commit({ forget: { registrationId } });
    return { status: 204 };
  }

  attestationMechanism(request: ServiceRequest): ServiceAnswer {
    const { attestation } = JSON.parse(this.#existing(pathId(request)).json) as EnrollmentContent;
    return { status: 200, json: JSON.stringify(attestation) };
  }

  bulk(request: ServiceRequest): ServiceAnswer {
    const { mode, items } = bulkOperation(request.body);
    const now = this.#now();
    const changes: EnrollmentChange[] = [];
    const errors: { registrationId: string; errorCode: number; errorStatus: string }[] = [];
    for (const item of items) {
      try {
        changes.push(this.#bulkChange(mode, item.members, now));
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        errors.push({
          registrationId: item.registrationId,
          errorCode: error.errorCode,
          errorStatus: error.message,
        });
      }
    }
    const gone = changes.flatMap((change) => ('delete' in change ? [change.delete] : []));
    this.#delete(gone, changes);
    return { status: 200, json: JSON.stringify({ isSuccessful: errors.length === 0, errors }) };
  }

  query(request: ServiceRequest): ServiceAnswer {
    const { query } = object(request.body, 'the body');
    if (typeof query !== 'string') throw invalidRequest('query is missing or not a text');
    if (!/^\s*select\s+\*\s+from\s+enrollments\s*;?\s*$/i.test(query)) {
      throw invalidRequest('the query is not SELECT * FROM enrollments, the only one that is supported here');
    }
    const limit = pageSize(request.headers['x-ms-max-item-count']);
    const after = continuation(request.headers['x-ms-continuation']);
    const page = this.#store.page(after, limit);
    return {
      status: 200,
      json: `[${page.records.map((record) => this.#shown(record)).join(',')}]`,
      headers: {
        'x-ms-item-type': 'enrollment',
        'x-ms-max-item-count': String(limit),
        ...(page.next === undefined
          ? {}
          : { 'x-ms-continuation': Buffer.from(page.next, 'utf8').toString('base64url') }),
      },
    };
  }

  /**
   * Changes those of the enrollments that exist as another client would: a member that nothing else of the emulator
   * touches, so that whoever overwrites the change can be found out.
   */
  changeByAnotherWriter(ids: readonly string[]): void {
    const now = this.#now();
    const changes = ids.flatMap((id) => {
      const existing = this.#store.find(id);
      if (existing === undefined) return [];
      const content = JSON.parse(existing.json) as EnrollmentContent;
      this.#otherChanges += 1;
      const information = content['optionalDeviceInformation'] as object | undefined;
      const changed = {
        ...content,
        optionalDeviceInformation: { ...information, anotherWriter: this.#otherChanges },
      };
      return [{ put: this.#record(changed, existing, now) }];
    });
    this.#store.commit(changes);
  }

  #bulkChange(mode: BulkMode, members: Readonly<Record<string, unknown>>, now: string): EnrollmentChange {
    const content = enrollmentContent(members);
    const { registrationId } = content;
    if (mode === 'create') {
      if (this.#store.find(registrationId) !== undefined) throw alreadyExists(registrationId);
      return { put: this.#record(content, undefined, now) };
    }
    const existing = this.#existing(registrationId);
    if (mode === 'delete') return { delete: existing.registrationId };
    if (mode === 'updateIfMatchETag') {
      const etag = members['etag'];
      checkEtag(existing, typeof etag === 'string' ? etag : '');
    }
    return { put: this.#record(content, existing, now) };
  }

  /** An enrollment with what became of its device, where it has registered. */
  #shown({ registrationId, json }: EnrollmentRecord): string {
    const registration = this.#devices.registration(registrationId);
    if (registration === undefined) return json;
    const state = JSON.stringify(registrationState(registration, this.#clock()));
    return `${json.slice(0, -1)},"registrationState":${state}}`;
  }

  /** Changes of which some are deletions: with an enrollment goes the registration of its device. */
  #delete(registrationIds: readonly string[], changes: readonly EnrollmentChange[]): void {
    this.#store.commit(changes);
    for (const registrationId of registrationIds) this.#devices.commit({ forget: { registrationId } });
  }

  #registered(id: string): Registration {
    const registration = this.#devices.registration(id);
    if (registration !== undefined) return registration;
    throw new ServiceError(serviceErrorCodes.noSuchRegistration, `no device has registered as ${id}`);
  }

  #existing(id: string): EnrollmentRecord {
    const record = this.#store.find(id);
    if (record !== undefined) return record;
    throw new ServiceError(serviceErrorCodes.noSuchEnrollment, `enrollment ${id} does not exist`);
  }

  #now(): string {
    return this.#clock().toISOString();
  }

  #record(content: EnrollmentContent, existing: EnrollmentRecord | undefined, now: string): EnrollmentRecord {
    const registrationId = existing?.registrationId ?? content.registrationId;
    const etag = this.#store.nextEtag();
    const createdDateTimeUtc = existing?.createdDateTimeUtc ?? now;
    const written = registrationId === content.registrationId ? content : { ...content, registrationId };
    const added = `"etag":${JSON.stringify(etag)},"createdDateTimeUtc":"${createdDateTimeUtc}","lastUpdatedDateTimeUtc":"${now}"`;
    const json = `${JSON.stringify(written).slice(0, -1)},${added}}`;
    return { registrationId, etag, createdDateTimeUtc, json };
  }
}

interface BulkOperation {
  readonly mode: BulkMode;
  readonly items: readonly {
    readonly registrationId: string;
    readonly members: Readonly<Record<string, unknown>>;
  }[];
}

/** Definition BulkEnrollmentOperation. What makes it impossible to say which enrollment failed fails the whole request. */
function bulkOperation(body: unknown): BulkOperation {
  const { mode, enrollments } = object(body, 'the body');
  const knownMode = bulkModes.find((known) => known === mode);
  if (knownMode === undefined) throw invalidRequest(`mode is not one of ${bulkModes.join(', ')}`);
  if (!Array.isArray(enrollments)) throw invalidRequest('enrollments is not an array');
  if (enrollments.length < 1 || enrollments.length > largestBulk) {
    throw invalidRequest(`enrollments holds ${enrollments.length} items, not 1 to ${largestBulk}`);
  }
  const items = enrollments.map((item: unknown, index) => {
    const members = object(item, `enrollments[${index}]`);
    return { registrationId: registrationId(members['registrationId']), members };
  });
  if (new Set(items.map((item) => item.registrationId.toLowerCase())).size < items.length) {
    throw invalidRequest('enrollments holds the same registrationId twice');
  }
  return { mode: knownMode, items };
}

/** The ids in a bulk operation, as far as it can be understood. */
function sentIds(body: unknown): readonly string[] {
  const { enrollments } = (body ?? {}) as { readonly enrollments?: unknown };
  if (!Array.isArray(enrollments)) return [];
  return enrollments.flatMap((item: unknown) => {
    const { registrationId: id } = (item ?? {}) as { readonly registrationId?: unknown };
    return typeof id === 'string' ? [id] : [];
  });
}

const anyEtag = '*';

/** ETags are compared with or without their quotation marks: Azure's SDKs send both. */
function checkEtag(existing: EnrollmentRecord, etag: string): void {
  if (unquoted(etag) === unquoted(existing.etag)) return;
  throw new ServiceError(
    serviceErrorCodes.etagMismatch,
    `the etag is not that of enrollment ${existing.registrationId}`,
  );
}

function unquoted(etag: string): string {
  return /^"(.*)"$/.exec(etag)?.[1] ?? etag;
}

function pathId(request: ServiceRequest): string {
  return registrationId(request.parameters[0]);
}

function pageSize(header: string | readonly string[] | undefined): number {
  if (header === undefined) return defaultPage;
  if (typeof header === 'string' && /^[0-9]{1,9}$/.test(header) && Number(header) > 0) {
    return Math.min(Number(header), largestPage);
  }
  throw invalidRequest('x-ms-max-item-count is not a number from 1');
}

/** The id in a continuation token, which is that of the last enrollment on the page before. */
function continuation(header: string | readonly string[] | undefined): string | undefined {
  if (header === undefined || header === '') return undefined;
  if (typeof header === 'string') {
    const id = Buffer.from(header, 'base64url').toString('utf8');
    const isOurs = Buffer.from(id, 'utf8').toString('base64url') === header;
    if (isOurs && /^[a-z0-9._:-]{1,128}$/.test(id)) return id;
  }
  throw invalidRequest('x-ms-continuation is not a token of this service');
}

function alreadyExists(id: string): ServiceError {
  return new ServiceError(serviceErrorCodes.enrollmentExists, `enrollment ${id} exists already`);
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}
