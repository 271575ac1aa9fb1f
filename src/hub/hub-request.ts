/** Requests to an IoT Hub over HTTPS, by whoever the token stands for. */
import type { Agent, IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { checkServerIdentity } from 'node:tls';
import { because, IotdmError, systemErrorCode, withDetails, withEffect, type ErrorCode } from '../errors.ts';
import { clockOffsetSeconds, describeClock, isClockToBlame } from '../http-clock.ts';
import {
  connectionError,
  effectOfStatus,
  errorCodeOfStatus,
  shownText,
  throughProxy,
} from '../http-errors.ts';
import { isPage, privateAuthority, proxyPage } from '../intermediary.ts';
import { secureContextWith } from '../trusted-certificates.ts';

export interface HubTrace {
  readonly method: string;
  readonly path: string;
  readonly status?: number;
  readonly elapsedMs: number;
  readonly error?: string;
}

export interface HubOptions {
  /** For the socket: an IPv6 address without its brackets. */
  readonly hostname: string;
  readonly port: number;
  /** PEM certificates, trusted in addition to Node's roots. */
  readonly ca?: string;
  /** Whose connections lead there, such as through a proxy; without one, each request has its own connection. */
  readonly agent?: Agent;
  /** Name of the proxy that they lead through. */
  readonly proxy?: string;
  /** From the first byte sent to the last one received. */
  readonly timeoutMs: number;
  /** Such as `iotdm/0.1.0`. */
  readonly userAgent: string;
  readonly signal?: AbortSignal;
  readonly onRequest?: (trace: HubTrace) => void;
  /** Milliseconds since 1970, as tokens are dated. */
  readonly clock?: () => number;
}

const API_VERSION = '2021-04-12';

/** A message to a device has at most 256 KB. */
const LARGEST_ANSWER = 1024 * 1024;

export interface HubAnswer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  /** May hold keys. */
  readonly body: string;
  /** Of an answer that is a page, as `privateAuthority` finds it. */
  readonly authority?: string | undefined;
}

export interface HubRequest {
  readonly method: string;
  /** The path, without the query. */
  readonly resource: string;
  /** Shared access signature. */
  readonly token: string;
  /** Sent as JSON. */
  readonly json?: unknown;
}

/**
 * A status of any kind is an answer.
 * @throws IotdmError `network.*`, `service.unexpected-answer`, `interrupted.signal`, each with its effect
 */
export async function send(options: HubOptions, request: HubRequest): Promise<HubAnswer> {
  const { method, resource } = request;
  const path = `${resource}?api-version=${API_VERSION}`;
  const started = performance.now();
  const trace = (more: { readonly status: number } | { readonly error: string }): void => {
    options.onRequest?.({ method, path, elapsedMs: performance.now() - started, ...more });
  };
  const progress = { isSent: false };
  try {
    const answer = await exchange(options, request, path, progress);
    trace({ status: answer.status });
    return answer;
  } catch (cause) {
    const failure =
      options.signal?.aborted === true
        ? new IotdmError('interrupted.signal', 'interrupted', { cause })
        : withDetails(throughProxy(connectionError(hostText(options), cause), options.proxy), {
            service: 'hub',
          });
    const error = withEffect(failure, progress.isSent ? 'unknown' : 'none');
    trace({ error: systemErrorCode(error.cause) ?? error.code });
    throw error;
  }
}

function exchange(
  options: HubOptions,
  { method, token, json }: HubRequest,
  path: string,
  progress: { isSent: boolean },
): Promise<HubAnswer> {
  const body = json === undefined ? undefined : Buffer.from(JSON.stringify(json));
  const { hostname, port, ca, agent, timeoutMs, userAgent, signal } = options;
  return new Promise((resolve, reject) => {
    const request = httpsRequest({
      host: hostname,
      port,
      // An IP address must not be sent as a server name (RFC 6066, 3); Node.js then checks the certificate for it.
      servername: isIP(hostname) === 0 ? hostname : '',
      method,
      path,
      headers: {
        Authorization: token,
        'User-Agent': userAgent,
        'Content-Length': body?.length ?? 0,
        ...(body === undefined ? {} : { 'Content-Type': 'application/json; charset=utf-8' }),
      },
      agent: agent ?? false,
      rejectUnauthorized: true,
      // Said here, as inside a proxy's tunnel nothing else knows for whom the certificate must be.
      checkServerIdentity: (_, certificate) => checkServerIdentity(hostname, certificate),
      ...(ca === undefined ? {} : { secureContext: secureContextWith(ca) }),
      ...(signal === undefined ? {} : { signal }),
    });
    const timer = setTimeout(() => {
      const text = `${hostText(options)} did not answer within ${timeoutMs / 1000} s`;
      request.destroy(new IotdmError('network.timeout', text));
    }, timeoutMs);
    request.on('close', () => {
      clearTimeout(timer);
      reject(new IotdmError('network.unavailable', `the connection to ${hostText(options)} was closed`));
    });
    request.on('error', reject);
    request.on('socket', (socket) => {
      // Written to a socket that is not secure yet, the request waits in this process.
      if (!isBecomingSecure(socket)) progress.isSent = true;
      else {
        socket.once('secureConnect', () => {
          progress.isSent = true;
        });
      }
    });
    request.on('response', (response) => {
      const { statusCode: status = 0, headers } = response;
      // Asked now, as the connection may be gone with the answer.
      const authority = isPage({ status, headers }) ? privateAuthority(response.socket) : undefined;
      let size = 0;
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => {
        size += chunk.length;
        chunks.push(chunk);
        if (size > LARGEST_ANSWER) response.destroy(unexpected(options, 'it is larger than 1 MiB'));
      });
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8');
        for (const chunk of chunks) chunk.fill(0);
        resolve({ status, headers, body: text, authority });
      });
    });
    request.end(body);
  });
}

function isBecomingSecure(socket: object): boolean {
  return 'secureConnecting' in socket && socket.secureConnecting === true;
}

const meanings: Partial<Record<ErrorCode, string>> = {
  'auth.refused': 'refused the token',
  'service.not-found': 'does not know the device',
  'service.invalid': 'refused the request',
  'network.throttled': 'is throttling requests',
  'network.unavailable': 'is not available at the moment',
};

/** The error for an answer that is no success. */
export function refusal(options: HubOptions, answer: HubAnswer): IotdmError {
  const page = pageInPlace(options, answer);
  if (page !== undefined) return page;
  const { status, headers } = answer;
  const header = headers['iothub-errorcode'];
  const said = typeof header === 'string' ? shownText(header, 60) : undefined;
  // IoT Hub says 403 also when a quota is used up, which has nothing to do with who asks.
  const isQuota = /quota/i.test(said ?? '');
  const code = isQuota ? 'network.throttled' : errorCodeOfStatus(status);
  const isHtml = /html/i.test(headers['content-type'] ?? '');
  const seconds = clockOffsetSeconds(headers.date, (options.clock ?? Date.now)());
  if (code === 'auth.refused' && isClockToBlame(seconds, said)) {
    return new IotdmError(
      'auth.clock',
      `${hostText(options)} refused the token, and the clock of this machine is ${describeClock(seconds)}`,
      { effect: 'refused', details: { status, service: 'hub', clockOffsetSeconds: seconds } },
    );
  }
  const meaning = meanings[code];
  if (meaning === undefined || isHtml) return unexpected(options, `status ${status}`);
  return new IotdmError(
    code,
    `${hostText(options)} ${meaning} (${said === undefined ? status : `${status} ${said}`})`,
    {
      effect: effectOfStatus(status),
      details: {
        ...(isQuota ? because('quota') : {}),
        status,
        service: 'hub',
        ...(said === undefined ? {} : { hubErrorCode: said }),
      },
    },
  );
}

/** The error for a page that a proxy gave in place of the hub, or undefined. */
export function pageInPlace(
  options: HubOptions,
  { status, headers, authority }: HubAnswer,
): IotdmError | undefined {
  const route = { proxy: options.proxy, authority };
  const page = proxyPage(hostText(options), { status, headers }, route, `status ${status}`);
  return page === undefined ? undefined : withDetails(page, { service: 'hub' });
}

/** The error for an answer that no hub gives. @param what is wrong with it, without a value from it */
export function unexpected(options: HubOptions, what: string): IotdmError {
  return new IotdmError(
    'service.unexpected-answer',
    `${hostText(options)} gave an answer that is not an IoT Hub's: ${what}`,
    { effect: 'unknown', details: { service: 'hub' } },
  );
}

function hostText({ hostname, port }: HubOptions): string {
  const host = hostname.includes(':') ? `[${hostname}]` : hostname;
  return port === 443 ? host : `${host}:${port}`;
}
