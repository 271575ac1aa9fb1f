/** Turns what becomes of a connection to a service, and the status of its answer, into iotdm's errors. */

import {
  because,
  IotdmError,
  systemErrorCode,
  type Effect,
  type ErrorCode,
  type ErrorReason,
} from './errors.ts';
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

type Problem = readonly [text: string, reason: ErrorReason];

const unreachable: Readonly<Record<string, Problem>> = {
  ENOTFOUND: ['its name is not known', 'name-unknown'],
  EAI_AGAIN: ['its name cannot be looked up at the moment', 'no-route'],
  ECONNREFUSED: ['nothing listens there', 'nothing-listens'],
  EHOSTUNREACH: ['there is no route to it', 'no-route'],
  ENETUNREACH: ['there is no route to its network', 'no-route'],
  ENETDOWN: ['the network is down', 'no-route'],
  EADDRNOTAVAIL: ['this machine has no address to reach it from', 'no-route'],
};

const unknownAuthority: Problem = [
  'it comes from an unknown certificate authority',
  'certificate-unknown-authority',
];

/** Of OpenSSL's X509_V_ERR_*, as Node.js names them (tls, "X509 certificate error codes"). */
const certificateProblems: Readonly<Record<string, Problem>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: ['it is self-signed', 'certificate-self-signed'],
  SELF_SIGNED_CERT_IN_CHAIN: unknownAuthority,
  UNABLE_TO_GET_ISSUER_CERT: unknownAuthority,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: unknownAuthority,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: unknownAuthority,
  CERT_UNTRUSTED: ['it comes from an authority that is not trusted', 'certificate-unknown-authority'],
  CERT_REJECTED: ['it comes from an authority that is not trusted', 'certificate-unknown-authority'],
  INVALID_CA: ['one of its authorities is not allowed to issue certificates', 'certificate-invalid'],
  INVALID_PURPOSE: ['it is not for servers', 'certificate-invalid'],
  PATH_LENGTH_EXCEEDED: ['there are more authorities in between than allowed', 'certificate-invalid'],
  CERT_CHAIN_TOO_LONG: ['there are more authorities in between than allowed', 'certificate-invalid'],
  CERT_SIGNATURE_FAILURE: ["its signature is not its authority's", 'certificate-invalid'],
  UNABLE_TO_DECRYPT_CERT_SIGNATURE: ["its signature is not its authority's", 'certificate-invalid'],
  UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY: ["its authority's key cannot be read", 'certificate-invalid'],
  ERROR_IN_CERT_NOT_BEFORE_FIELD: ['its dates cannot be read', 'certificate-invalid'],
  ERROR_IN_CERT_NOT_AFTER_FIELD: ['its dates cannot be read', 'certificate-invalid'],
  // What OpenSSL has a number for, and Node.js has no name: a key that is too short, a hash that is too weak.
  UNSPECIFIED: ['it does not meet what is asked of a certificate today', 'certificate-invalid'],
  CERT_HAS_EXPIRED: ["it has expired, or this machine's clock is wrong", 'certificate-expired'],
  CERT_NOT_YET_VALID: ["it is not valid yet, or this machine's clock is wrong", 'certificate-not-yet-valid'],
  CERT_REVOKED: ['it has been revoked', 'certificate-revoked'],
  HOSTNAME_MISMATCH: ['it was issued for another host', 'certificate-other-host'],
  ERR_TLS_CERT_ALTNAME_INVALID: ['it was issued for another host', 'certificate-other-host'],
};

const longestNames = 120;

/** What is wrong with a certificate, and why; undefined for an error that is about none. */
export function certificateProblem(error: unknown): Problem | undefined {
  const found = certificateProblems[systemErrorCode(error) ?? ''];
  if (found?.[1] !== 'certificate-other-host') return found;
  const names = namesOf(error);
  return names === '' ? found : [`${found[0]} (${names})`, found[1]];
}

/** The names in the certificate that Node.js has refused for not having the right one. */
function namesOf(error: unknown): string {
  const certificate = (error as { cert?: { subjectaltname?: unknown; subject?: { CN?: unknown } } }).cert;
  const { subjectaltname: names, subject } = certificate ?? {};
  const text = typeof names === 'string' ? names : subject?.CN;
  return typeof text === 'string' ? shownText(text.replace(/\b(?:DNS|IP Address):/g, ''), longestNames) : '';
}

/** What answers there does not speak TLS: Node.js hands OpenSSL's reasons on as codes, or in the text of EPROTO. */
function isWithoutTls(code: string, error: unknown): boolean {
  const words = `${code} ${error instanceof Error ? error.message : ''}`;
  return /wrong[ _]version[ _]number|packet[ _]length[ _]too[ _]long|http[ _]request|bad[ _]record[ _]type/i.test(
    words,
  );
}

/** A failure of the connection itself as an error; an IotdmError is returned as it is. */
export function connectionError(host: string, error: unknown): IotdmError {
  if (error instanceof IotdmError) return error;
  const code = systemErrorCode(error) ?? '';
  const failure = (of: ErrorCode, message: string, reason?: ErrorReason): IotdmError =>
    new IotdmError(of, message, {
      cause: error,
      ...(reason === undefined ? {} : { details: because(reason, { host }) }),
    });

  const missed = unreachable[code];
  if (missed !== undefined) {
    return failure('network.unreachable', `${host} cannot be reached: ${missed[0]} (${code})`, missed[1]);
  }
  if (code === 'ETIMEDOUT' || code === 'ESOCKETTIMEDOUT') {
    return failure('network.timeout', `${host} did not answer in time (${code})`, 'not-connected');
  }
  const refused = certificateProblem(error);
  if (refused !== undefined) {
    const message = `the certificate of ${host} is refused: ${refused[0]} (${code})`;
    return failure('network.tls', message, refused[1]);
  }
  if (code === 'EPROTO' || /^(?:ERR_SSL_|ERR_TLS_|CERT_|CRL_|ERROR_IN_|UNABLE_TO_)/.test(code)) {
    const message = `no secure connection to ${host} (${code})`;
    return failure('network.tls', message, isWithoutTls(code, error) ? 'no-tls' : 'tls-refused');
  }
  if (code.startsWith('HPE_')) {
    return failure('service.unexpected-answer', `${host} does not speak HTTP (${code})`);
  }
  if (['ERR_INVALID_CHAR', 'ERR_UNESCAPED_CHARACTERS', 'UND_ERR_INVALID_ARG'].includes(code)) {
    return failure('usage.invalid', 'a value cannot be sent in an HTTP request: it has control characters');
  }
  if (['ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE'].includes(code)) {
    return failure('network.unavailable', `the connection to ${host} was cut (${code})`);
  }
  return failure('internal.unexpected', `the request to ${host} failed for an unforeseen reason`);
}

/**
 * Names the proxy in what became of a connection through it: inside of a tunnel the proxy may be the one who answers, or
 * who cuts it.
 * @param proxy its name, or undefined for a connection without one
 */
export function throughProxy(failure: IotdmError, proxy: string | undefined): IotdmError {
  const { code, message, cause, details, effect } = failure;
  const isNamed = details?.['proxy'] !== undefined;
  if (proxy === undefined || isNamed || (code !== 'network.tls' && code !== 'network.unavailable'))
    return failure;
  return new IotdmError(code, `${message}, through the proxy ${proxy}`, {
    cause,
    details: { ...details, proxy },
    effect,
  });
}
