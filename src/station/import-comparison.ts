/** A row of an import beside what the service holds: what there is to do, and why it may not be done. */

import type { Enrollment, StoredEnrollment } from '../dps/enrollment.ts';
import { isSameVersion } from '../dps/etag.ts';
import { bulkErrorCode, shownText } from '../dps/service-errors.ts';
import type { BulkFailure } from '../dps/service.ts';
import { IotdmError, type ErrorCode } from '../errors.ts';
import type { RowFailure, RowOperation } from '../records/import-journal.ts';
import { holdsSameKey, mergeEnrollment } from './enrollment-merge.ts';

/** What stands against a row. */
export interface Objection {
  readonly code: ErrorCode;
  readonly message: string;
  /** The service's own six digits. */
  readonly errorCode?: number;
  /** The enrollment that has what the row would get. */
  readonly other?: string;
}

export type Comparison =
  | { readonly action: 'unchanged' }
  /** The whole enrollment to write, with the etag of the version that was compared. */
  | { readonly action: 'update'; readonly enrollment: Enrollment }
  | { readonly action: 'conflict'; readonly objection: Objection };

/**
 * Compares a row with what is enrolled under its id. An enrollment with another endorsement key is never to be
 * overwritten: two devices with one identity is the mistake that cannot be mended later. A row with an etag is meant for
 * that version alone, unless it is forced; one that is as the row says is unchanged whatever its version.
 */
export function compare(row: Enrollment, stored: StoredEnrollment, force: boolean): Comparison {
  if (!holdsSameKey(stored, row)) {
    return { action: 'conflict', objection: { code: 'service.conflict', message: whoseKey(stored) } };
  }
  const { enrollment, unchanged } = mergeEnrollment(stored, row);
  if (unchanged) return { action: 'unchanged' };
  if (!force && row.etag !== undefined && !isSameVersion(row.etag, stored.etag)) {
    return { action: 'conflict', objection: changedMeanwhile };
  }
  return { action: 'update', enrollment };
}

export const changedMeanwhile: Objection = {
  code: 'service.changed-meanwhile',
  message: 'was changed by somebody else meanwhile and is not as the row says',
};

/** What is to be deleted is not what the row was made from. */
export const anotherVersion: Objection = {
  code: 'service.changed-meanwhile',
  message: 'was changed by somebody else meanwhile: it is not the version with the etag of the row',
};

/** The service contradicts itself: nothing can be done for the row but to leave it as it is. */
export const refusedAsChanged: Objection = {
  code: 'service.unexpected-answer',
  message: 'the service refuses it as changed meanwhile, and shows it unchanged',
};

/** A row that was sent, and that nobody could look up afterwards. */
export function inDoubt({ code, message, errorCode }: Objection): Objection {
  const said = `was sent, and what became of it cannot be looked up: ${message}`;
  return { code, message: said, ...(errorCode === undefined ? {} : { errorCode }) };
}

export const notEnrolled: Objection = { code: 'service.not-found', message: 'is not enrolled' };

export const enrolledAlready: Objection = { code: 'service.conflict', message: 'is enrolled already' };

function whoseKey(stored: StoredEnrollment): string {
  return stored.attestation.type === 'tpm'
    ? 'holds another endorsement key'
    : `is enrolled with ${shownText(stored.attestation.type, 30)} attestation, not with a TPM`;
}

/** What the service has against a request's content; undefined for whatever would befall every other request too. */
export function objectionOf(error: unknown): Objection | undefined {
  if (!(error instanceof IotdmError)) return undefined;
  const isAboutContent =
    error.code === 'service.invalid' ||
    error.code === 'service.conflict' ||
    error.code === 'service.not-found' ||
    error.code === 'service.changed-meanwhile' ||
    error.code === 'usage.invalid';
  return isAboutContent ? asObjection(error) : undefined;
}

export function asObjection({ code, message, details }: IotdmError): Objection {
  const errorCode = details?.['errorCode'];
  return { code, message, ...(typeof errorCode === 'number' ? { errorCode } : {}) };
}

export function bulkObjection({ errorCode, errorStatus }: BulkFailure): Objection {
  const said = shownText(errorStatus, 300).replace(/\.$/, '');
  const message = `the service refused it (${errorCode})`;
  return {
    code: bulkErrorCode(errorCode),
    message: said === '' ? message : `${message}: ${said}`,
    errorCode,
  };
}

/** A row that failed, for the journal. `sent` as there. */
export function rowFailure(
  index: number,
  row: {
    readonly file?: string;
    readonly line: number;
    readonly enrollment: { readonly registrationId: string };
  },
  { code, message, errorCode, other }: Objection,
  sent?: RowOperation,
): RowFailure {
  return {
    row: index,
    ...(row.file === undefined ? {} : { file: row.file }),
    line: row.line,
    registrationId: row.enrollment.registrationId,
    code,
    message,
    ...(errorCode === undefined ? {} : { errorCode }),
    ...(other === undefined ? {} : { other }),
    ...(sent === undefined ? {} : { sent }),
  };
}
