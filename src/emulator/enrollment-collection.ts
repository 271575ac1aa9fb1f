/**
 * The operators' requests about enrollments: to read, write and delete one, several at once, or list all. Individual
 * enrollments and enrollment groups have the same requests, and differ in what `CollectionKind` says.
 */

import { shownAttestation, type Attestation } from './attestation-rules.ts';
import { attestation, groupScope, individualScope, type AttestationScope } from './attestation-rules.ts';
import { anyEtag, checkEtag } from './etags.ts';
import {
  enrollmentContent,
  groupContent,
  groupId,
  registrationId,
  type EnrollmentContent,
  type GroupContent,
} from './enrollment-rules.ts';
import type { EnrollmentChange, EnrollmentRecord, EnrollmentStore, IdName } from './enrollment-store.ts';
import { object, type Members } from './members.ts';
import { checkQuery, pageHeaders, wantedPage } from './query-pages.ts';
import type { Route, ServiceAnswer, ServiceRequest } from './router.ts';
import { ServiceError, serviceErrorCodes, type ServiceErrorCode } from './service-error.ts';

const largestBulk = 10;
const bulkModes = ['create', 'update', 'updateIfMatchETag', 'delete'] as const;
type BulkMode = (typeof bulkModes)[number];

type Content = EnrollmentContent | GroupContent;

export interface CollectionKind {
  /** In paths, in bulk operations and in queries. */
  readonly name: 'enrollments' | 'enrollmentGroups';
  /** What Azure calls an item in the header of a page. */
  readonly itemType: string;
  readonly idName: IdName;
  /** What an item is called in messages. */
  readonly what: string;
  readonly scope: AttestationScope;
  readonly noSuch: ServiceErrorCode;
  readonly exists: ServiceErrorCode;
  /** Throws ServiceError 400. */
  readonly id: (value: unknown) => string;
  /** Throws ServiceError 400. */
  readonly content: (body: unknown, existing: Attestation | undefined) => Content;
  /** A member that nothing else of the emulator touches, with another value for each number. */
  readonly changed: (content: Content, number: number) => Members;
}

export const individualEnrollments: CollectionKind = {
  name: 'enrollments',
  itemType: 'enrollment',
  idName: 'registrationId',
  what: 'enrollment',
  scope: individualScope,
  noSuch: serviceErrorCodes.noSuchEnrollment,
  exists: serviceErrorCodes.enrollmentExists,
  id: registrationId,
  content: enrollmentContent,
  changed: (content, anotherWriter) => ({
    optionalDeviceInformation: {
      ...(content['optionalDeviceInformation'] as object | undefined),
      anotherWriter,
    },
  }),
};

export const enrollmentGroups: CollectionKind = {
  name: 'enrollmentGroups',
  itemType: 'enrollmentGroup',
  idName: 'enrollmentGroupId',
  what: 'enrollment group',
  scope: groupScope,
  noSuch: serviceErrorCodes.noSuchGroup,
  exists: serviceErrorCodes.groupExists,
  id: groupId,
  content: groupContent,
  changed: (content, anotherWriter) => {
    const twin = content['initialTwin'] as { readonly tags?: object } | undefined;
    return { initialTwin: { ...twin, tags: { ...twin?.tags, anotherWriter } } };
  },
};

export interface CollectionOptions {
  readonly kind: CollectionKind;
  readonly store: EnrollmentStore;
  readonly clock: () => Date;
  /** What became of the device with that id, as JSON; undefined where it has not registered. */
  readonly stateOf?: (id: string) => string | undefined;
  /** Told of each one that was deleted. */
  readonly onDelete: (id: string) => void;
}

/** The routes of a collection; nothing is kept outside of its store. */
export function collectionRoutes(options: CollectionOptions): readonly Route[] {
  const collection = new EnrollmentCollection(options);
  const { name, idName } = options.kind;
  const anotherWriter: Route['anotherWriter'] = ({ parameters, body }) => {
    collection.changeByAnotherWriter(parameters.length > 0 ? parameters : collection.sentIds(body));
  };
  return [
    {
      method: 'POST',
      path: `/${name}/query`,
      body: 'json',
      handle: (request) => collection.query(request),
    },
    {
      method: 'POST',
      path: `/${name}`,
      body: 'json',
      handle: (request) => collection.bulk(request),
      bulkSize: (body) => Math.max(1, collection.sentIds(body).length),
      bulkIdName: idName,
      anotherWriter,
    },
    { method: 'GET', path: `/${name}/:id`, body: 'ignored', handle: (request) => collection.get(request) },
    {
      method: 'PUT',
      path: `/${name}/:id`,
      body: 'json',
      handle: (request) => collection.put(request),
      anotherWriter,
    },
    {
      method: 'DELETE',
      path: `/${name}/:id`,
      body: 'ignored',
      handle: (request) => collection.delete(request),
      anotherWriter,
    },
    {
      method: 'POST',
      path: `/${name}/:id/attestationmechanism`,
      body: 'ignored',
      handle: (request) => collection.attestationMechanism(request),
    },
  ];
}

class EnrollmentCollection {
  readonly #kind: CollectionKind;
  readonly #store: EnrollmentStore;
  readonly #options: CollectionOptions;
  #otherChanges = 0;

  constructor(options: CollectionOptions) {
    this.#kind = options.kind;
    this.#store = options.store;
    this.#options = options;
  }

  get(request: ServiceRequest): ServiceAnswer {
    return { status: 200, json: this.#shown(this.#existing(this.#pathId(request))) };
  }

  put(request: ServiceRequest): ServiceAnswer {
    const id = this.#pathId(request);
    const existing = this.#store.find(id);
    const content = this.#kind.content(request.body, attestationOf(existing));
    if (this.#idOf(content).toLowerCase() !== id.toLowerCase()) {
      throw invalidRequest(`${this.#kind.idName} is not the one in the path`);
    }
    const ifMatch = request.headers['if-match'];
    if (ifMatch === undefined) {
      if (existing !== undefined) throw this.#alreadyExists(id);
    } else if (ifMatch !== anyEtag) {
      // Azure's table of errors has 412 for the ETag of an existing resource and 404 for one that does not exist.
      this.#check(this.#existing(id), ifMatch);
    }
    const put = this.#record(content, existing, this.#now());
    this.#store.commit([{ put }]);
    return { status: 200, json: this.#shown(put, { withKeys: true }) };
  }

  delete(request: ServiceRequest): ServiceAnswer {
    const existing = this.#existing(this.#pathId(request));
    const ifMatch = request.headers['if-match'];
    if (ifMatch !== undefined && ifMatch !== anyEtag) this.#check(existing, ifMatch);
    this.#commit([{ delete: existing.id }]);
    return { status: 204 };
  }

  attestationMechanism(request: ServiceRequest): ServiceAnswer {
    const { attestation } = JSON.parse(this.#existing(this.#pathId(request)).json) as Content;
    return { status: 200, json: JSON.stringify(shownAttestation(attestation, { withKeys: true })) };
  }

  bulk(request: ServiceRequest): ServiceAnswer {
    const { mode, items } = this.#bulkOperation(request.body);
    const now = this.#now();
    const changes: EnrollmentChange[] = [];
    const errors: Members[] = [];
    for (const item of items) {
      try {
        changes.push(this.#bulkChange(mode, item.members, now));
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        errors.push({
          [this.#kind.idName]: item.id,
          errorCode: error.errorCode,
          errorStatus: error.message,
        });
      }
    }
    this.#commit(changes);
    return { status: 200, json: JSON.stringify({ isSuccessful: errors.length === 0, errors }) };
  }

  query(request: ServiceRequest): ServiceAnswer {
    checkQuery(request.body, this.#kind.name);
    const wanted = wantedPage(request.headers);
    const page = this.#store.page(wanted.after, wanted.limit);
    return {
      status: 200,
      json: `[${page.records.map((record) => this.#shown(record)).join(',')}]`,
      headers: pageHeaders(this.#kind.itemType, wanted, page.next),
    };
  }

  /**
   * Changes those of the enrollments that exist as another client would, so that whoever overwrites the change can be
   * found out.
   */
  changeByAnotherWriter(ids: readonly string[]): void {
    const now = this.#now();
    const changes = ids.flatMap((id) => {
      const existing = this.#store.find(id);
      if (existing === undefined) return [];
      const content = JSON.parse(existing.json) as Content;
      this.#otherChanges += 1;
      const changed = { ...content, ...this.#kind.changed(content, this.#otherChanges) };
      return [{ put: this.#record(changed, existing, now) }];
    });
    this.#store.commit(changes);
  }

  /** The ids in a bulk operation, as far as it can be understood. */
  sentIds(body: unknown): readonly string[] {
    const { [this.#kind.name]: items } = (body ?? {}) as Members;
    if (!Array.isArray(items)) return [];
    return items.flatMap((item: unknown) => {
      const { [this.#kind.idName]: id } = (item ?? {}) as Members;
      return typeof id === 'string' ? [id] : [];
    });
  }

  #bulkChange(mode: BulkMode, members: Members, now: string): EnrollmentChange {
    const { kind } = this.#options;
    const found = this.#store.find(kind.id(members[kind.idName]));
    if (mode === 'delete') {
      // What else it holds is of no interest: it goes.
      attestation(members['attestation'], kind.scope, attestationOf(found));
      return { delete: this.#existing(kind.id(members[kind.idName])).id };
    }
    const content = kind.content(members, attestationOf(found));
    const id = this.#idOf(content);
    if (mode === 'create') {
      if (found !== undefined) throw this.#alreadyExists(id);
      return { put: this.#record(content, undefined, now) };
    }
    const existing = this.#existing(id);
    if (mode === 'updateIfMatchETag') {
      const etag = members['etag'];
      this.#check(existing, typeof etag === 'string' ? etag : '');
    }
    return { put: this.#record(content, existing, now) };
  }

  /** Definition BulkEnrollmentOperation. What makes it impossible to say which one failed fails the whole request. */
  #bulkOperation(body: unknown): {
    readonly mode: BulkMode;
    readonly items: readonly { readonly id: string; readonly members: Members }[];
  } {
    const { name, idName, id } = this.#kind;
    const { mode, [name]: sent } = object(body, 'the body');
    const knownMode = bulkModes.find((known) => known === mode);
    if (knownMode === undefined) throw invalidRequest(`mode is not one of ${bulkModes.join(', ')}`);
    if (!Array.isArray(sent)) throw invalidRequest(`${name} is not an array`);
    if (sent.length < 1 || sent.length > largestBulk) {
      throw invalidRequest(`${name} holds ${sent.length} items, not 1 to ${largestBulk}`);
    }
    const items = sent.map((item: unknown, index) => {
      const members = object(item, `${name}[${index}]`);
      return { id: id(members[idName]), members };
    });
    if (new Set(items.map((item) => item.id.toLowerCase())).size < items.length) {
      throw invalidRequest(`${name} holds the same ${idName} twice`);
    }
    return { mode: knownMode, items };
  }

  /** One as the service answers it: without its secrets, and with what became of its device. */
  #shown({ id, attestationType, json: kept }: EnrollmentRecord, { withKeys = false } = {}): string {
    const json = hasHiddenParts(attestationType) ? withoutHiddenParts(kept, { withKeys }) : kept;
    const state = this.#options.stateOf?.(id);
    return state === undefined ? json : `${json.slice(0, -1)},"registrationState":${state}}`;
  }

  #commit(changes: readonly EnrollmentChange[]): void {
    this.#store.commit(changes);
    for (const change of changes) if ('delete' in change) this.#options.onDelete(change.delete);
  }

  #existing(id: string): EnrollmentRecord {
    const record = this.#store.find(id);
    if (record !== undefined) return record;
    throw new ServiceError(this.#kind.noSuch, `${this.#kind.what} ${id} does not exist`);
  }

  #check(existing: EnrollmentRecord, etag: string): void {
    checkEtag(etag, existing.etag, `${this.#kind.what} ${existing.id}`);
  }

  #alreadyExists(id: string): ServiceError {
    return new ServiceError(this.#kind.exists, `${this.#kind.what} ${id} exists already`);
  }

  #pathId(request: ServiceRequest): string {
    return this.#kind.id(request.parameters[0]);
  }

  #idOf(content: Content): string {
    return content[this.#kind.idName] as string;
  }

  #now(): string {
    return this.#options.clock().toISOString();
  }

  #record(content: Content, existing: EnrollmentRecord | undefined, now: string): EnrollmentRecord {
    const id = existing?.id ?? this.#idOf(content);
    const etag = this.#store.nextEtag();
    const createdDateTimeUtc = existing?.createdDateTimeUtc ?? now;
    const written = id === this.#idOf(content) ? content : { ...content, [this.#kind.idName]: id };
    const added = `"etag":${JSON.stringify(etag)},"createdDateTimeUtc":"${createdDateTimeUtc}","lastUpdatedDateTimeUtc":"${now}"`;
    const json = `${JSON.stringify(written).slice(0, -1)},${added}}`;
    return { id, etag, createdDateTimeUtc, attestationType: content.attestation.type, json };
  }
}

function hasHiddenParts(type: Attestation['type']): boolean {
  return type === 'symmetricKey' || type === 'x509';
}

function withoutHiddenParts(json: string, options: { readonly withKeys: boolean }): string {
  const content = JSON.parse(json) as Content;
  return JSON.stringify({ ...content, attestation: shownAttestation(content.attestation, options) });
}

/** That of an enrollment of which a caller cannot know all; others need not be read for it. */
function attestationOf(record: EnrollmentRecord | undefined): Attestation | undefined {
  if (record === undefined || !hasHiddenParts(record.attestationType)) return undefined;
  return (JSON.parse(record.json) as Content).attestation;
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}
