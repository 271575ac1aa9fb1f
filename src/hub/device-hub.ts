/**
 * What a device does at its IoT Hub by itself, over HTTPS. Just enough to see whether the hub takes a device's token.
 *
 * Source: IoT Hub REST API, "Device - Receive Device Bound Notification" and "Device - Abandon Device Bound
 * Notification", api-version 2021-04-12.
 */
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { IotdmError, systemErrorCode, type ErrorCode } from '../errors.ts';
import { connectionError, errorCodeOfStatus, shownText } from '../http-errors.ts';
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
  /** From the first byte sent to the last one received. */
  readonly timeoutMs: number;
  /** Such as `iotdm/0.1.0`. */
  readonly userAgent: string;
  readonly signal?: AbortSignal;
  readonly onRequest?: (trace: HubTrace) => void;
}

export interface HubDevice {
  readonly deviceId: string;
  readonly moduleId: string | null;
}

/** `waiting`: a message to the device was waiting, and has been given back. `none`: there was none. */
export type WaitingMessage = 'none' | 'waiting';

const API_VERSION = '2021-04-12';

/** A message to a device has at most 256 KB. */
const LARGEST_ANSWER = 1024 * 1024;

/**
 * Looks for a message to the device, as devices do, and gives back what it finds: it stays in the queue, with one more
 * delivery counted.
 * @param sharedAccessSignature the device's token
 * @throws IotdmError `auth.refused` where the hub does not take the token, `service.*`, `network.*`, `interrupted.signal`
 */
export async function lookForMessage(
  options: HubOptions,
  { deviceId, moduleId }: HubDevice,
  sharedAccessSignature: string,
): Promise<WaitingMessage> {
  const module = moduleId === null ? '' : `/modules/${encodeURIComponent(moduleId)}`;
  const queue = `/devices/${encodeURIComponent(deviceId)}${module}/messages/devicebound`;
  const answer = await send(options, 'GET', queue, sharedAccessSignature);
  if (answer.status === 204) return 'none';
  if (answer.status !== 200) throw refusal(options, answer);
  const etag = answer.headers.etag?.replace(/^"|"$/g, '');
  if (etag !== undefined) {
    const path = `${queue}/${encodeURIComponent(etag)}/abandon`;
    // Where that fails, the message comes back by itself when its lock ends.
    await send(options, 'POST', path, sharedAccessSignature).catch(() => undefined);
  }
  return 'waiting';
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
}

async function send(
  options: HubOptions,
  method: string,
  resource: string,
  authorization: string,
): Promise<Answer> {
  const path = `${resource}?api-version=${API_VERSION}`;
  const started = performance.now();
  const trace = (more: { readonly status: number } | { readonly error: string }): void => {
    options.onRequest?.({ method, path, elapsedMs: performance.now() - started, ...more });
  };
  try {
    const answer = await exchange(options, method, path, authorization);
    trace({ status: answer.status });
    return answer;
  } catch (cause) {
    const error =
      options.signal?.aborted === true
        ? new IotdmError('interrupted.signal', 'interrupted', { cause })
        : connectionError(hostText(options), cause);
    trace({ error: systemErrorCode(error.cause) ?? error.code });
    throw error;
  }
}

function exchange(options: HubOptions, method: string, path: string, authorization: string): Promise<Answer> {
  const { hostname, port, ca, timeoutMs, userAgent, signal } = options;
  return new Promise((resolve, reject) => {
    const request = httpsRequest({
      host: hostname,
      port,
      // An IP address must not be sent as a server name (RFC 6066, 3); Node.js then checks the certificate for it.
      servername: isIP(hostname) === 0 ? hostname : '',
      method,
      path,
      headers: { Authorization: authorization, 'User-Agent': userAgent, 'Content-Length': 0 },
      agent: false,
      rejectUnauthorized: true,
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
    request.on('response', (response) => {
      let size = 0;
      response.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > LARGEST_ANSWER) response.destroy(unexpected(options, 'it is larger than 1 MiB'));
      });
      response.on('error', reject);
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers });
      });
    });
    request.end();
  });
}

const meanings: Partial<Record<ErrorCode, string>> = {
  'auth.refused': 'refused the token',
  'service.not-found': 'does not know the device',
  'service.invalid': 'refused the request',
  'network.throttled': 'is throttling requests',
  'network.unavailable': 'is not available at the moment',
};

function refusal(options: HubOptions, { status, headers }: Answer): IotdmError {
  const header = headers['iothub-errorcode'];
  const said = typeof header === 'string' ? shownText(header, 60) : undefined;
  // IoT Hub says 403 also when a quota is used up, which has nothing to do with who asks.
  const code = /quota/i.test(said ?? '') ? 'network.throttled' : errorCodeOfStatus(status);
  const isPage = /html/i.test(headers['content-type'] ?? '');
  const meaning = meanings[code];
  if (meaning === undefined || isPage) return unexpected(options, `status ${status}`);
  return new IotdmError(
    code,
    `${hostText(options)} ${meaning} (${said === undefined ? status : `${status} ${said}`})`,
    {
      details: { status, service: 'hub', ...(said === undefined ? {} : { hubErrorCode: said }) },
    },
  );
}

function unexpected(options: HubOptions, what: string): IotdmError {
  return new IotdmError(
    'service.unexpected-answer',
    `${hostText(options)} gave an answer that is not an IoT Hub's: ${what}`,
    { details: { service: 'hub' } },
  );
}

function hostText({ hostname, port }: HubOptions): string {
  const host = hostname.includes(':') ? `[${hostname}]` : hostname;
  return port === 443 ? host : `${host}:${port}`;
}
