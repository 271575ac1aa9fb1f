/** ProvisioningService in memory: what the service does, without HTTP, and with faults on demand. */

import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import type { BulkFailure, BulkMode, BulkResult, ProvisioningService } from '../../src/dps/service.ts';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';

export interface ServiceRequest {
  readonly operation: 'create' | 'replace' | 'find' | 'delete' | 'list' | `bulk ${BulkMode}`;
  readonly ids: readonly string[];
}

export class MemoryService implements ProvisioningService {
  readonly host = 'memory';
  requests = 0;
  throttled = 0;
  readonly log: ServiceRequest[] = [];
  /** Runs before each request, which fails with what it throws. */
  intercept: (request: ServiceRequest) => void | Promise<void> = () => undefined;
  /** Runs after each request has taken effect; when it throws, that is all the caller hears. */
  interceptAnswer: (request: ServiceRequest) => void | Promise<void> = () => undefined;

  readonly #stored = new Map<string, StoredEnrollment>();
  #version = 0;

  async create(enrollment: Enrollment): Promise<StoredEnrollment> {
    await this.#request('create', [enrollment]);
    return this.#apply('create', enrollment);
  }

  async replace(enrollment: Enrollment, etag: string): Promise<StoredEnrollment> {
    await this.#request('replace', [enrollment]);
    if (etag === '*') return this.#write(enrollment);
    return this.#apply('updateIfMatchETag', { ...enrollment, etag });
  }

  async find(registrationId: string): Promise<StoredEnrollment | undefined> {
    const request = await this.#request('find', [{ registrationId }]);
    const stored = structuredClone(this.#stored.get(registrationId.toLowerCase()));
    await this.interceptAnswer(request);
    return stored;
  }

  async delete(registrationId: string, etag?: string): Promise<void> {
    const request = await this.#request('delete', [{ registrationId }]);
    const stored = this.#stored.get(registrationId.toLowerCase());
    if (stored === undefined) throw refusal(404201, 'no such enrollment');
    if (etag !== undefined && etag !== '*' && etag !== stored.etag)
      throw refusal(412001, 'precondition failed');
    this.#stored.delete(registrationId.toLowerCase());
    await this.interceptAnswer(request);
  }

  async *list({ pageSize = 1000 } = {}): AsyncIterable<readonly StoredEnrollment[]> {
    const all = [...this.#stored.values()];
    for (let at = 0; at === 0 || at < all.length; at += pageSize) {
      await this.#request('list', []);
      yield structuredClone(all.slice(at, at + pageSize));
    }
  }

  async bulk(mode: BulkMode, enrollments: readonly Enrollment[]): Promise<BulkResult> {
    const request = await this.#request(`bulk ${mode}`, enrollments);
    const errors: BulkFailure[] = [];
    for (const enrollment of enrollments) {
      try {
        this.#apply(mode, enrollment);
      } catch (error) {
        if (!(error instanceof IotdmError)) throw error;
        const errorCode = Number(error.details?.['errorCode']);
        errors.push({ registrationId: enrollment.registrationId, errorCode, errorStatus: error.message });
      }
    }
    await this.interceptAnswer(request);
    return { isSuccessful: errors.length === 0, errors };
  }

  /** Everything that is enrolled, by id. */
  get all(): ReadonlyMap<string, StoredEnrollment> {
    return this.#stored;
  }

  close(): void {
    this.intercept = () => {
      throw new IotdmError('interrupted.signal', 'closed');
    };
  }

  async #request(
    operation: ServiceRequest['operation'],
    enrollments: readonly { readonly registrationId: string }[],
  ): Promise<ServiceRequest> {
    this.requests += 1;
    const request = { operation, ids: enrollments.map(({ registrationId }) => registrationId) };
    this.log.push(request);
    // An answer never comes within the same turn.
    await new Promise((resolve) => setImmediate(resolve));
    await this.intercept(request);
    return request;
  }

  #apply(mode: BulkMode, enrollment: Enrollment): StoredEnrollment {
    const id = enrollment.registrationId.toLowerCase();
    const stored = this.#stored.get(id);
    if (mode === 'create') {
      if (stored !== undefined) throw refusal(409001, 'enrollment already exists');
      return this.#write(enrollment);
    }
    if (stored === undefined) throw refusal(404201, 'no such enrollment');
    if (mode === 'delete') {
      this.#stored.delete(id);
      return stored;
    }
    if (mode === 'updateIfMatchETag' && enrollment.etag !== stored.etag) {
      throw refusal(412001, 'precondition failed');
    }
    return this.#write(enrollment);
  }

  #write(enrollment: Enrollment): StoredEnrollment {
    const id = enrollment.registrationId.toLowerCase();
    this.#version += 1;
    const stored: StoredEnrollment = {
      provisioningStatus: 'enabled',
      ...structuredClone(enrollment),
      etag: `"${this.#version}"`,
      createdDateTimeUtc: this.#stored.get(id)?.createdDateTimeUtc ?? '2026-01-02T03:04:05Z',
      lastUpdatedDateTimeUtc: '2026-01-02T03:04:05Z',
    };
    this.#stored.set(id, stored);
    return structuredClone(stored);
  }
}

const codes: Readonly<Record<number, ErrorCode>> = {
  400: 'service.invalid',
  401: 'auth.refused',
  404: 'service.not-found',
  409: 'service.conflict',
  412: 'service.changed-meanwhile',
  429: 'network.throttled',
  500: 'network.unavailable',
};

/** What the Azure adapter throws for an answer with this six-digit code. */
export function refusal(errorCode: number, message: string): IotdmError {
  const status = Math.trunc(errorCode / 1000);
  return new IotdmError(codes[status] ?? 'internal.unexpected', message, { details: { status, errorCode } });
}
