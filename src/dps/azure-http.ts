/**
 * The HTTP layer that Azure's REST client is given in place of its own: ports, extra certificate authorities, proxies,
 * timeouts, bounded answers, keep-alive, one callback per request, and errors that are iotdm's.
 */

import type { Agent as HttpAgent, ClientRequest, IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { checkServerIdentity, TLSSocket, type SecureContext } from 'node:tls';
// CommonJS whose exports Node.js cannot name.
import httpBase, { type Http } from 'azure-iot-http-base';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { secureContextWith } from '../trusted-certificates.ts';
import { TunnelAgent } from './proxy-agent.ts';
import type { Proxy } from './proxy.ts';
import { connectionError, describeAnswer, refusalError, unexpectedAnswer } from './service-errors.ts';
import type { ServiceHost } from './service-host.ts';
import { retryAfterMs } from './service-retry.ts';

/** One HTTP exchange, for `-vv`: nothing in it is secret. */
export interface HttpTrace {
  readonly method: string;
  /** With the query string, which holds the api-version only. */
  readonly path: string;
  readonly status?: number;
  readonly elapsedMs: number;
  /** A system error code (`ECONNRESET`) or an error code of iotdm's. */
  readonly error?: string;
  /** The `Request-Id` that was sent, for Azure's support. */
  readonly requestId?: string;
}

export interface HttpOptions {
  readonly host: ServiceHost;
  /** How the host was written, for messages. */
  readonly hostText: string;
  /** PEM certificates, trusted in addition to Node's roots. */
  readonly ca: string | undefined;
  /** Through which the host is reached; undefined reaches it directly. */
  readonly proxy: Proxy | undefined;
  /** From the moment a socket is there to the answer's last byte. */
  readonly timeoutMs: number;
  /** For the name lookup, the TCP connection and the TLS handshake together; for a proxy's tunnel once more. */
  readonly connectTimeoutMs: number;
  readonly maxSockets: number;
  readonly clock: () => number;
  readonly onRequest: (trace: HttpTrace) => void;
  /**
   * Refusals with this status are handed over as Azure's own layer does it, with body and response, in place of an error
   * of iotdm's: part of a protocol, and no failure.
   */
  readonly handedOver?: number;
}

type BuildRequest = Parameters<Http['buildRequest']>;
type Done = (error: Error | null, body?: string, response?: IncomingMessage) => void;
type Outcome =
  | { readonly error: unknown; readonly status: number | undefined }
  | { readonly response: IncomingMessage; readonly body: string; readonly refused?: true };
type Settle = (outcome: Outcome) => void;
/** Settles with an error and gives the socket up. */
type Fail = (error: unknown, status?: number) => void;

const largestAnswer = 16 * 1024 * 1024;

/** Under the idle time after which load balancers drop connections silently. */
const idleSocketMs = 55_000;

export class AzureHttp extends httpBase.Http {
  readonly #options: HttpOptions;
  readonly #agent: HttpAgent;
  readonly #secureContext: SecureContext | undefined;
  readonly #connected = new WeakSet<Socket>();
  readonly #underWay = new Set<Fail>();

  /** Throws `input.invalid` when `ca` holds no usable certificate. */
  constructor(options: HttpOptions) {
    super();
    this.#options = options;
    const { ca, proxy, maxSockets, connectTimeoutMs } = options;
    // Made once: reading all roots for every connection is slow.
    this.#secureContext = ca === undefined ? undefined : secureContextWith(ca);
    const pool = { keepAlive: true, maxSockets, timeout: idleSocketMs };
    const trust = this.#secureContext === undefined ? {} : { secureContext: this.#secureContext };
    this.#agent =
      proxy === undefined ? new Agent(pool) : new TunnelAgent({ ...pool, ...trust, proxy, connectTimeoutMs });
  }

  /**
   * Called by RestApiClient, which writes the body and ends the request itself. `done` is called once, with an
   * IotdmError or with the text of an answer that is below 300 and JSON or empty.
   */
  override buildRequest(
    method: BuildRequest[0],
    path: BuildRequest[1],
    headers: BuildRequest[2],
    _host: BuildRequest[3],
    optionsOrDone: BuildRequest[4],
    lastDone?: BuildRequest[5],
  ): ClientRequest {
    const done = (lastDone ?? optionsOrDone) as Done;
    const { host, hostText, clock, onRequest } = this.#options;
    const startedAt = clock();
    const requestId = headers['Request-Id'];

    const request = httpsRequest({
      host: host.hostname,
      port: host.port,
      // An IP address must not be sent as a server name (RFC 6066, 3); Node.js then checks the certificate for it.
      servername: isIP(host.hostname) === 0 ? host.hostname : '',
      method,
      path,
      // A copy, because RestApiClient goes on writing into its own.
      headers: { ...headers },
      agent: this.#agent,
      rejectUnauthorized: true,
      // Said here, as inside a tunnel nothing else knows for whom the certificate must be.
      checkServerIdentity: (_, certificate) => checkServerIdentity(host.hostname, certificate),
      ...(this.#secureContext === undefined ? {} : { secureContext: this.#secureContext }),
    });

    let settled = false;
    const settle: Settle = (outcome) => {
      if (settled) return;
      settled = true;
      stopTimers();
      this.#underWay.delete(fail);
      const failed = 'error' in outcome ? connectionError(hostText, outcome.error) : undefined;
      const status = 'error' in outcome ? outcome.status : outcome.response.statusCode;
      onRequest({
        method,
        path,
        ...(status === undefined ? {} : { status }),
        elapsedMs: Math.max(0, clock() - startedAt),
        ...(failed === undefined ? {} : { error: systemErrorCode(failed.cause) ?? failed.code }),
        ...(requestId === undefined ? {} : { requestId: String(requestId) }),
      });
      if ('error' in outcome) done(failed ?? null);
      else done(outcome.refused ? new Error('refused') : null, outcome.body, outcome.response);
    };

    const fail: Fail = (error, status) => {
      if (settled) return;
      settle({ error, status });
      request.destroy();
    };
    this.#underWay.add(fail);

    const stopTimers = this.#startTimers(request, fail);
    request.on('error', fail);
    // Comes last always; before it, an answer or an error should have come.
    request.on('close', () => {
      if (!settled) fail(new IotdmError('network.unavailable', `the connection to ${hostText} was closed`));
    });
    request.on('response', (response) => {
      this.#receive(response, settle, fail);
    });
    return request;
  }

  /** Ends all sockets, idle or not; requests under way, and those that wait for a socket, fail with `error`. */
  close(error: IotdmError): void {
    for (const fail of [...this.#underWay]) fail(error);
    this.#agent.destroy();
  }

  /** Both timers begin with the socket: waiting for a free one says nothing about the service. */
  #startTimers(request: ClientRequest, fail: Fail): () => void {
    const { hostText, timeoutMs, connectTimeoutMs } = this.#options;
    let connecting: NodeJS.Timeout | undefined;
    let whole: NodeJS.Timeout | undefined;
    const expire = (ms: number, what: string) =>
      setTimeout(() => {
        fail(new IotdmError('network.timeout', `${hostText} ${what} within ${ms / 1000} s`));
      }, ms);

    request.on('socket', (socket) => {
      whole = expire(timeoutMs, 'did not answer completely');
      if (this.#connected.has(socket)) return;
      connecting = expire(connectTimeoutMs, 'did not complete a secure connection');
      socket.once('secureConnect', () => {
        this.#connected.add(socket);
        clearTimeout(connecting);
      });
    });
    return () => {
      clearTimeout(connecting);
      clearTimeout(whole);
    };
  }

  #receive(response: IncomingMessage, settle: Settle, fail: Fail): void {
    const { hostText } = this.#options;
    const status = response.statusCode ?? 0;
    // A proxy's own words are never the service's.
    if (!(response.socket instanceof TLSSocket)) {
      fail(unexpectedAnswer(hostText, 'it did not come over a secure connection'));
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;

    response.on('data', (chunk: Buffer) => {
      size += chunk.length;
      chunks.push(chunk);
      if (size > largestAnswer)
        fail(unexpectedAnswer(hostText, 'it is larger than 16 MiB', { status }), status);
    });
    // Also emitted, with ECONNRESET, when the connection ends before the answer does.
    response.on('error', (error) => {
      fail(error, status);
    });
    response.on('end', () => {
      const body = Buffer.concat(chunks).toString('utf8');
      const error = this.#problem(response, status, body);
      if (status === this.#options.handedOver) settle({ response, body, refused: true });
      else if (error === undefined) settle({ response, body });
      else settle({ error, status });
    });
  }

  /** Why a complete answer is no success. */
  #problem(response: IncomingMessage, status: number, body: string): IotdmError | undefined {
    const { hostText, clock } = this.#options;
    const contentType = response.headers['content-type'];
    if (status >= 300) {
      const header = response.headers['x-ms-error-code'];
      return refusalError(hostText, {
        status,
        contentType,
        errorCodeHeader: Array.isArray(header) ? header[0] : header,
        retryAfterMs: retryAfterMs(response.headers['retry-after'], clock()),
        body,
      });
    }
    if (body !== '' && !(contentType ?? '').includes('application/json')) {
      return unexpectedAnswer(hostText, describeAnswer(status, contentType), { status });
    }
    return undefined;
  }
}
