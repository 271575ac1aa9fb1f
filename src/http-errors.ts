/** Turns what becomes of a connection to a service, and the status of its answer, into iotdm's errors. */

import { IotdmError, systemErrorCode, type Effect, type ErrorCode } from './errors.ts';
import { redact } from './secret.ts';

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
 * What became of a request that was answered with a status of 300 or above. With 5xx, also 503, whoever answered may have
 * passed the request on before.
 */
export function effectOfStatus(status: number): Effect {
  return status >= 400 && status < 500 ? 'refused' : 'unknown';
}

/** Text from outside, fit for one line of a message: no control or formatting characters, no secrets, bounded. */
export function shownText(text: string, longest: number): string {
  const cleaned = redact(text.replace(/[\p{C}\p{Z}]+/gu, ' ').trim());
  const characters = Array.from(cleaned);
  return characters.length <= longest ? cleaned : `${characters.slice(0, longest - 1).join('')}…`;
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
  if (['ERR_INVALID_CHAR', 'ERR_UNESCAPED_CHARACTERS', 'UND_ERR_INVALID_ARG'].includes(code)) {
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
