/**
 * The Device Provisioning Service as its operators see it (api-version 2026-11-01): individual enrollments, one at a
 * time, in pages and in bulk, and groups of enrollments, to read. Everything above src/dps knows these ports only;
 * azure-service.ts implements them.
 */

import type { EnrollmentGroup } from './enrollment-group.ts';
import type { Enrollment, StoredEnrollment } from './enrollment.ts';

/** In the service's own spelling, which Azure's Node SDK types differently (`updateIfMatchEtag`). */
export type BulkMode = 'create' | 'update' | 'updateIfMatchETag' | 'delete';

/** What one bulk request may carry. */
export const bulkLimit = 10;

/** One enrollment of a bulk request that the service did not accept. */
export interface BulkFailure {
  /** As the caller wrote it. */
  readonly registrationId: string;
  /** Six digits, of which the first three are an HTTP status: 404201, 409001. */
  readonly errorCode: number;
  readonly errorStatus: string;
}

export interface BulkResult {
  readonly isSuccessful: boolean;
  readonly errors: readonly BulkFailure[];
}

/** Groups of enrollments, to read them. Throws as ProvisioningService does. */
export interface EnrollmentGroups {
  /** All of them, a page per request. */
  listGroups(): AsyncIterable<readonly EnrollmentGroup[]>;

  /** Undefined when there is no such group. */
  findGroup(groupId: string): Promise<EnrollmentGroup | undefined>;
}

/** Every method throws IotdmError with a code in `auth`, `service`, `network`, or `usage.invalid`. */
export interface ProvisioningService {
  /** `name.azure-devices-provisioning.net` or `host:port`, as it was given. */
  readonly host: string;
  /** HTTP requests sent so far, retries included. */
  readonly requests: number;
  /** Answers with status 429 so far. */
  readonly throttled: number;

  /** Fails with `service.conflict` when the registration id is enrolled already. An etag in the enrollment is ignored. */
  create(enrollment: Enrollment): Promise<StoredEnrollment>;

  /**
   * Writes the whole enrollment over the one whose etag is given, else `service.changed-meanwhile`; `*` stands for
   * whatever is there. What the enrollment leaves out is not kept: merge first.
   */
  replace(enrollment: Enrollment, etag: string): Promise<StoredEnrollment>;

  /** Registration ids are matched without regard to case. Undefined when there is no such enrollment. */
  find(registrationId: string): Promise<StoredEnrollment | undefined>;

  /** Fails with `service.not-found` when there is nothing to delete. */
  delete(registrationId: string, etag?: string): Promise<void>;

  /** All enrollments, a page per request, TPM or not. `pageSize` is 1 to 1000 and 1000 when it is absent. */
  list(options?: { pageSize?: number }): AsyncIterable<readonly StoredEnrollment[]>;

  /**
   * One request for 1 to 10 enrollments with distinct registration ids. Failures of single enrollments are in the
   * result; what is thrown concerns the request as a whole.
   */
  bulk(mode: BulkMode, enrollments: readonly Enrollment[]): Promise<BulkResult>;

  /** Ends keep-alive sockets and waits between attempts; calls still under way fail with `interrupted.signal`. */
  close(): void;
}
