/** Turns what a service answers, and what becomes of a connection to it, into iotdm's errors. */

import { IotdmError, systemErrorCode, type ErrorCode, type ErrorDetails } from '../errors.ts';
import { redact } from '../secret.ts';

/** The parts of an answer that an error is made of. */
export interface RefusedAnswer {
  readonly status: number;
  readonly contentType: string | undefined;
  /** Header `x-ms-error-code`. */
  readonly errorCodeHeader: string | undefined;
  /** Already turned into milliseconds. */
  readonly retryAfterMs: number | undefined;
  readonly body: string;
}

const longestMessage = 300;

/** The code for an HTTP status of 300 or above. */
export function errorCodeOfStatus(status: number): ErrorCode {
  if (status === 401 || status === 403) return 'auth.refused';
  if (status === 404) return 'service.not-found';
  if (status === 409) return 'service.conflict';
  if (status === 412) return 'service.changed-meanwhile';
  if (status === 429) return 'network.throttled';
  if (status >= 400 && status < 500) return 'service.invalid';
  if (status >= 500 && status < 600) return 'network.unavailable';
  return 'service.unexpected-answer';
}

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
  const meaning = `${host} ${meanings[code] ?? 'failed'} (${errorCode ?? answer.status})`;
  return new IotdmError(code, said.message === undefined ? meaning : `${meaning}: ${said.message}`, {
    details: {
      status: answer.status,
      ...(errorCode === undefined ? {} : { errorCode }),
      ...(said.trackingId === undefined ? {} : { trackingId: said.trackingId }),
      ...(answer.retryAfterMs === undefined ? {} : { retryAfterMs: answer.retryAfterMs }),
    },
  });
}

/** `status 200 and content type text/html`: what can be said of a body that must not be quoted. */
export function describeAnswer(status: number, contentType: string | undefined): string {
  const type = shownText((contentType ?? '').split(';')[0] ?? '', 60);
  return type === '' ? `status ${status} and no content type` : `status ${status} and content type ${type}`;
}

/** An answer that is not the provisioning service's: of another shape, truncated JSON, or a proxy's page. */
export function unexpectedAnswer(host: string, what: string, details?: ErrorDetails): IotdmError {
  const message = `${host} gave an answer that is not a provisioning service's: ${what}`;
  return new IotdmError('service.unexpected-answer', message, details === undefined ? {} : { details });
}

/** Text from outside, fit for one line of a message: no control or formatting characters, no secrets, bounded. */
export function shownText(text: string, longest: number): string {
  const cleaned = redact(text.replace(/[\p{C}\p{Z}]+/gu, ' ').trim());
  const characters = Array.from(cleaned);
  return characters.length <= longest ? cleaned : `${characters.slice(0, longest - 1).join('')}…`;
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
  const { errorCode, trackingId, message } = value as Record<string, unknown>;
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

const unreachable: Readonly<Record<string, string>> = {
  ENOTFOUND: 'its name is not known',
  EAI_AGAIN: 'its name cannot be looked up at the moment',
  ECONNREFUSED: 'nothing listens there',
  EHOSTUNREACH: 'there is no route to it',
  ENETUNREACH: 'there is no route to its network',
  ENETDOWN: 'the network is down',
  EADDRNOTAVAIL: 'this machine has no address to reach it from',
};

const certificateProblems: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: 'it is self-signed',
  SELF_SIGNED_CERT_IN_CHAIN: 'it comes from an unknown certificate authority',
  UNABLE_TO_GET_ISSUER_CERT: 'it comes from an unknown certificate authority',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'it comes from an unknown certificate authority',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'it comes from an unknown certificate authority',
  CERT_UNTRUSTED: 'it comes from an authority that is not trusted',
  INVALID_CA: 'one of its authorities is not allowed to issue certificates',
  CERT_SIGNATURE_FAILURE: "its signature is not its authority's",
  CERT_HAS_EXPIRED: "it has expired, or this machine's clock is wrong",
  CERT_NOT_YET_VALID: "it is not valid yet, or this machine's clock is wrong",
  CERT_REVOKED: 'it has been revoked',
  ERR_TLS_CERT_ALTNAME_INVALID: 'it was issued for another host',
};

/** A failure of the connection itself as an error; an IotdmError is returned as it is. */
export function connectionError(host: string, error: unknown): IotdmError {
  if (error instanceof IotdmError) return error;
  const cause = { cause: error };
  const code = systemErrorCode(error) ?? '';

  const reason = unreachable[code];
  if (reason !== undefined) {
    return new IotdmError('network.unreachable', `${host} cannot be reached: ${reason} (${code})`, cause);
  }
  if (code === 'ETIMEDOUT' || code === 'ESOCKETTIMEDOUT') {
    return new IotdmError('network.timeout', `${host} did not answer in time (${code})`, cause);
  }
  const problem = certificateProblems[code];
  if (problem !== undefined) {
    return new IotdmError(
      'network.tls',
      `the certificate of ${host} is refused: ${problem} (${code})`,
      cause,
    );
  }
  if (code === 'EPROTO' || /^(?:ERR_SSL_|ERR_TLS_|CERT_|CRL_|ERROR_IN_|UNABLE_TO_)/.test(code)) {
    return new IotdmError('network.tls', `no secure connection to ${host} (${code})`, cause);
  }
  if (code.startsWith('HPE_')) {
    return new IotdmError('service.unexpected-answer', `${host} does not speak HTTP (${code})`, cause);
  }
  if (code === 'ERR_INVALID_CHAR' || code === 'ERR_UNESCAPED_CHARACTERS') {
    return new IotdmError(
      'usage.invalid',
      'a value cannot be sent in an HTTP request: it has control characters',
      cause,
    );
  }
  if (['ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE'].includes(code)) {
    return new IotdmError('network.unavailable', `the connection to ${host} was cut (${code})`, cause);
  }
  return new IotdmError(
    'internal.unexpected',
    `the request to ${host} failed for an unforeseen reason`,
    cause,
  );
}
