/** Turns what a service answers, and what becomes of a connection to it, into iotdm's errors. */

import { because, IotdmError, type ErrorCode, type ErrorDetails, type ErrorReason } from '../errors.ts';
import { describeClock, isClockToBlame } from '../http-clock.ts';
import { effectOfStatus, errorCodeOfStatus, shownText } from '../http-errors.ts';

export { connectionError, errorCodeOfStatus, shownText } from '../http-errors.ts';

/** The parts of an answer that an error is made of. */
export interface RefusedAnswer {
  readonly status: number;
  readonly contentType: string | undefined;
  /** Header `x-ms-error-code`. */
  readonly errorCodeHeader: string | undefined;
  /** Already turned into milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** As `clockOffsetSeconds` has it from the answer, where the refused token was dated by this machine. */
  readonly clockOffsetSeconds?: number;
  readonly body: string;
}

const longestMessage = 300;

/**
 * The code for the `errorCode` of one enrollment in a bulk result: six digits of which the first three are an HTTP
 * status (404201); a bare status is understood as well.
 */
export function bulkErrorCode(errorCode: number): ErrorCode {
  return errorCodeOfStatus(errorCode >= 1000 ? Math.trunc(errorCode / 1000) : errorCode);
}

const meanings: Partial<Record<ErrorCode, string>> = {
  'auth.refused': 'refused the credentials',
  'service.not-found': 'does not have it',
  'service.conflict': 'reports a conflict',
  'service.changed-meanwhile': 'holds a newer version than the one to be written',
  'service.invalid': 'refused the request',
  'network.throttled': 'is throttling requests',
  'network.unavailable': 'is not available at the moment',
};

/**
 * An answer with status 300 or above as an error. Its details: `status`, and when they are known `errorCode`,
 * `trackingId`, `retryAfterMs`.
 */
export function refusalError(host: string, answer: RefusedAnswer): IotdmError {
  const code = errorCodeOfStatus(answer.status);
  const isPage = /html/i.test(answer.contentType ?? '');
  // A 403 or 404 in HTML is a portal's or a proxy's: the service itself has not been reached.
  if (
    code === 'service.unexpected-answer' ||
    (isPage && answer.status < 500 && code !== 'network.throttled')
  ) {
    return unexpectedAnswer(host, describeAnswer(answer.status, answer.contentType), {
      status: answer.status,
    });
  }
  const said = errorBody(answer.body);
  const errorCode = said.errorCode ?? headerErrorCode(answer.errorCodeHeader);
  const details = {
    status: answer.status,
    ...(errorCode === undefined ? {} : { errorCode }),
    ...(said.trackingId === undefined ? {} : { trackingId: said.trackingId }),
    ...(answer.retryAfterMs === undefined ? {} : { retryAfterMs: answer.retryAfterMs }),
  };
  const words = said.message === undefined ? '' : `: ${said.message}`;
  const { clockOffsetSeconds = 0 } = answer;
  if (code === 'auth.refused' && isClockToBlame(clockOffsetSeconds, said.message)) {
    return new IotdmError(
      'auth.clock',
      `${host} refused the token, and the clock of this machine is ${describeClock(clockOffsetSeconds)}`,
      { effect: effectOfStatus(answer.status), details: { ...details, clockOffsetSeconds } },
    );
  }
  const reason = reasonOf(code, answer.status, said.message);
  const meaning = `${host} ${meanings[code] ?? 'failed'} (${errorCode ?? answer.status})`;
  return new IotdmError(code, `${meaning}${words}`, {
    effect: effectOfStatus(answer.status),
    details: reason === undefined ? details : because(reason, details),
  });
}

/**
 * What the service objects to, by its own words: it gives 400004 for all of these ("Endorsement key is invalid, or does
 * not match the Enrollment.", "Unsupported API version 2019-04-15.", both seen in public reports).
 */
const objections: readonly [RegExp, ErrorReason][] = [
  [/\bapi[- ]?version\b/i, 'api-version-refused'],
  [/\bendorsement ?key\b/i, 'endorsement-key-refused'],
  [/\bregistration ?id\b/i, 'registration-id-refused'],
  [/\bdevice ?id\b/i, 'device-id-refused'],
];

function reasonOf(code: ErrorCode, status: number, message: string | undefined): ErrorReason | undefined {
  if (code === 'service.invalid') {
    return objections.find(([words]) => words.test(message ?? ''))?.[1];
  }
  if (
    code === 'auth.refused' &&
    status === 403 &&
    /\b(?:ip|address|network|firewall)\b/i.test(message ?? '')
  ) {
    return 'firewall';
  }
  return undefined;
}

/** `status 200 and content type text/html`: what can be said of a body that must not be quoted. */
export function describeAnswer(status: number, contentType: string | undefined): string {
  const type = shownText((contentType ?? '').split(';')[0] ?? '', 60);
  return type === '' ? `status ${status} and no content type` : `status ${status} and content type ${type}`;
}

/** An answer that is not the provisioning service's: of another shape, truncated JSON, or a proxy's page. */
export function unexpectedAnswer(host: string, what: string, details?: ErrorDetails): IotdmError {
  const message = `${host} gave an answer that is not a provisioning service's: ${what}`;
  return new IotdmError('service.unexpected-answer', message, { details, effect: 'unknown' });
}

interface ErrorBody {
  readonly errorCode?: number;
  readonly trackingId?: string;
  readonly message?: string;
}

/** Definition ProvisioningServiceErrorDetails, of which a peer may send anything at all. */
function errorBody(body: string): ErrorBody {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return {};
  }
  if (typeof value !== 'object' || value === null) return {};
  // What stands before the service proper begins the name with a capital.
  const { errorCode, trackingId, Message, message = Message } = value as Record<string, unknown>;
  const said = typeof message === 'string' ? shownText(message, longestMessage).replace(/\.$/, '') : '';
  return {
    ...(Number.isSafeInteger(errorCode) ? { errorCode: errorCode as number } : {}),
    ...(typeof trackingId === 'string' && trackingId !== ''
      ? { trackingId: shownText(trackingId, 100) }
      : {}),
    ...(said === '' ? {} : { message: said }),
  };
}

function headerErrorCode(header: string | undefined): number | undefined {
  return header !== undefined && /^[0-9]{3,9}$/.test(header) ? Number(header) : undefined;
}
