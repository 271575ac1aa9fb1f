/** ETags of the emulated services, and what `If-Match` says about them. */

import { randomBytes } from 'node:crypto';
import { ServiceError, serviceErrorCodes } from './service-error.ts';

/** Stands in `If-Match` for whatever version there is. */
export const anyEtag = '*';

/** Eight random bytes in base64, in quotation marks, as ETags of DPS look. */
export function newEtag(): string {
  return `"${randomBytes(8).toString('base64')}"`;
}

/** ETags are compared with or without their quotation marks: Azure's SDKs send both. */
export function isSameEtag(one: string, other: string): boolean {
  return unquoted(one) === unquoted(other);
}

export function unquoted(etag: string): string {
  return /^"(.*)"$/.exec(etag)?.[1] ?? etag;
}

/**
 * @param presented what a caller takes for the version that stands
 * @param what stands for the message: `enrollment press-17`
 * @throws ServiceError 412 when it is another
 */
export function checkEtag(presented: string, standing: string, what: string): void {
  if (isSameEtag(presented, standing)) return;
  throw new ServiceError(serviceErrorCodes.etagMismatch, `the etag is not that of ${what}`);
}
