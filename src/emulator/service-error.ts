/** Refusals of the emulated services, in the shape that Azure's services give them. */

import { randomUUID } from 'node:crypto';

/**
 * Six digits: the HTTP status, then which error of that status. 400004 and 404201 are Azure's own; Azure does not
 * document the others, so of those only the first three digits are worth relying on.
 */
export const serviceErrorCodes = {
  invalidRequest: 400001,
  invalidEnrollment: 400002,
  invalidEndorsementKey: 400004,
  unauthorized: 401002,
  noSuchPath: 404001,
  noSuchEnrollment: 404201,
  noSuchRegistration: 404202,
  noSuchGroup: 404203,
  enrollmentExists: 409201,
  groupExists: 409202,
  etagMismatch: 412201,
  bodyTooLarge: 413001,
  unsupportedMediaType: 415001,
  tooManyRequests: 429001,
  internal: 500001,
  notEmulated: 501001,
} as const;

export type ServiceErrorCode = (typeof serviceErrorCodes)[keyof typeof serviceErrorCodes];

/** Thrown by handlers; the router turns it into an answer. The message goes to the caller and never holds a secret. */
export class ServiceError extends Error {
  /** Six digits: one of `serviceErrorCodes`, or of another service's. */
  readonly errorCode: number;
  readonly headers: Readonly<Record<string, string>>;

  constructor(errorCode: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.name = 'ServiceError';
    this.errorCode = errorCode;
    this.headers = headers;
  }

  /** The HTTP status. */
  get status(): number {
    return Math.trunc(this.errorCode / 1000);
  }
}

/** For what the real service may well do: an SDK takes 404 for an answer about a device, this it does not. */
export function notEmulated(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.notEmulated, message);
}

/** The JSON of definition ProvisioningServiceErrorDetails. */
export function errorDetails(
  error: { readonly errorCode: number; readonly message: string },
  now: Date,
): string {
  return JSON.stringify({
    errorCode: error.errorCode,
    trackingId: randomUUID(),
    message: error.message,
    info: {},
    timestampUtc: now.toISOString(),
  });
}
