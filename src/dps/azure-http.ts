/**
 * The HTTP layer that Azure's REST client is given in place of its own: ports, extra certificate authorities, proxies,
 * timeouts, bounded answers, keep-alive, one callback per request, and errors that are iotdm's.
 */

import type { ClientRequest, IncomingHttpHeaders } from 'node:http';
// CommonJS whose exports Node.js cannot name.
import httpBase, { type Http } from 'azure-iot-http-base';
import type { Dispatcher } from 'undici';
import { because, IotdmError, systemErrorCode, withEffect } from '../errors.ts';
import { clockOffsetSeconds } from '../http-clock.ts';
import { throughProxy } from '../http-errors.ts';
import { isPage, privateAuthority, proxyPage } from '../intermediary.ts';
import { ServiceConnections, type ConnectionOptions, type HttpConnection } from './service-connections.ts';
import { connectionError, describeAnswer, refusalError, unexpectedAnswer } from './service-errors.ts';
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

export interface HttpOptions extends ConnectionOptions {
  /** From the moment a socket is there to the answer's last byte. */
  readonly timeoutMs: number;
  readonly clock: () => number;
  readonly onRequest: (trace: HttpTrace) => void;
  /**
   * Refusals with this status are handed over as Azure's own layer does it, with body and response, in place of an error
   * of iotdm's: part of a protocol, and no failure.
   */
  readonly handedOver?: number;
  /** The api-version to speak, asked for each request; absent, the one that Azure's client writes. */
  readonly apiVersion?: () => string;
}

type BuildRequest = Parameters<Http['buildRequest']>;
/** Of a response, RestApiClient and those above it read no more than this. */
interface Response {
  readonly statusCode: number;
  readonly headers: IncomingHttpHeaders;
}
type Done = (error: Error | null, body?: string, response?: Response) => void;
type Outcome =
  | { readonly error: IotdmError; readonly status: number | undefined }
  | { readonly response: Response; readonly body: string; readonly refused?: true };

const largestAnswer = 16 * 1024 * 1024;

/** For connections that end as soon as they are made, and are made again. */
const connectingMs = 1000;

export class AzureHttp extends httpBase.Http {
  readonly #options: HttpOptions;
  readonly #connections: ServiceConnections;
  readonly #underWay = new Set<Exchange>();

  /** Throws `input.invalid` when `ca` holds no usable certificate. */
  constructor(options: HttpOptions) {
    super();
    this.#options = options;
    this.#connections = new ServiceConnections(options);
  }

  /**
   * Called by RestApiClient, which writes the body and ends the request itself. `done` is called once, with an
   * IotdmError, which has its effect, or with the text of an answer that is below 300 and JSON or empty.
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
    let body: string | null = null;
    const version = this.#options.apiVersion?.();
    const spoken = version === undefined ? path : path.replace(/([?&]api-version=)[^&]*/, `$1${version}`);
    const request = {
      write: (text: string): void => {
        body = text;
      },
      end: (): void => {
        // A copy, because RestApiClient goes on writing into its own.
        const sent = {
          method,
          path: spoken,
          headers: { ...headers },
          body,
        } as Dispatcher.DispatchOptions;
        this.#send(sent, String(headers['Request-Id'] ?? ''), done);
      },
    };
    // All that RestApiClient calls.
    return request as unknown as ClientRequest;
  }

  #send(sent: Dispatcher.DispatchOptions, requestId: string, done: Done): void {
    const { clock, onRequest } = this.#options;
    const startedAt = clock();
    let used: HttpConnection | undefined;
    // A token of somebody else's is dated by somebody else's clock.
    const headers = sent.headers as Readonly<Record<string, unknown>>;
    const isDatedHere = String(headers['Authorization']).startsWith('SharedAccessSignature');
    const exchange = new Exchange(this.#options, isDatedHere, (outcome) => {
      this.#underWay.delete(exchange);
      if (used !== undefined) this.#connections.giveBack(used);
      const failed = 'error' in outcome ? outcome.error : undefined;
      const status = 'error' in outcome ? outcome.status : outcome.response.statusCode;
      onRequest({
        method: sent.method,
        path: sent.path,
        ...(status === undefined ? {} : { status }),
        elapsedMs: Math.max(0, clock() - startedAt),
        ...(failed === undefined ? {} : { error: systemErrorCode(failed.cause) ?? failed.code }),
        ...(requestId === '' ? {} : { requestId }),
      });
      if ('error' in outcome) done(failed ?? null);
      else done(outcome.refused ? new Error('refused') : null, outcome.body, outcome.response);
    });
    this.#underWay.add(exchange);
    this.#connections.take((connection) => {
      if (exchange.isOver) this.#connections.giveBack(connection);
      else {
        used = connection;
        exchange.begin(connection, () => privateAuthority(this.#connections.socketOf(connection)));
        connection.dispatch(sent, exchange);
      }
    });
  }

  /** Ends all sockets, idle or not; requests under way, and those that wait for a socket, fail with `error`. */
  close(error: IotdmError): void {
    for (const exchange of [...this.#underWay]) exchange.fail(error);
    this.#connections.destroy();
  }
}

/** One request and its answer. */
class Exchange implements Dispatcher.DispatchHandlers {
  readonly #options: HttpOptions;
  readonly #isDatedHere: boolean;
  readonly #chunks: Buffer[] = [];
  #settle: ((outcome: Outcome) => void) | undefined;
  #abort: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Whether anything of it may have reached the service. */
  #isSent = false;
  #size = 0;
  #response: Response | undefined;
  #askAuthority: () => string | undefined = () => undefined;
  /** Of an answer that is a page, as `privateAuthority` finds it. */
  #authority: string | undefined;

  /**
   * @param isDatedHere whether its token was dated by the clock of this machine
   * @param settle called once
   */
  constructor(options: HttpOptions, isDatedHere: boolean, settle: (outcome: Outcome) => void) {
    this.#options = options;
    this.#isDatedHere = isDatedHere;
    this.#settle = settle;
  }

  /**
   * To be called before it is sent. A connection that is never made would keep it for ever.
   * @param askAuthority finds the `privateAuthority` of whoever answers
   */
  begin(connection: HttpConnection, askAuthority: () => string | undefined): void {
    this.#askAuthority = askAuthority;
    const { hostText, connectTimeoutMs, proxy } = this.#options;
    this.#abort = () => {
      void connection.destroy();
    };
    // After the limits of the connection itself, which say more.
    const limitMs = connectTimeoutMs * (proxy === undefined ? 1 : 2) + connectingMs;
    this.#expire(limitMs, `${hostText} cannot be connected to within ${limitMs / 1000} s`, true);
  }

  get isOver(): boolean {
    return this.#settle === undefined;
  }

  /** Ends it with an error and gives the socket up. The answer, if there is one, is not whole. */
  fail(error: IotdmError): void {
    this.#end(this.#unanswered(error), this.#abort);
  }

  #unanswered(error: IotdmError): Outcome {
    return {
      error: withEffect(error, this.#isSent ? 'unknown' : 'none'),
      status: this.#response?.statusCode,
    };
  }

  /** The timer begins with the socket: waiting for a free one says nothing about the service. */
  onConnect(abort: () => void): void {
    this.#abort = abort;
    if (this.isOver) {
      abort();
      return;
    }
    this.#isSent = true;
    const { hostText, timeoutMs } = this.#options;
    this.#expire(timeoutMs, `${hostText} did not answer completely within ${timeoutMs / 1000} s`);
  }

  #expire(limitMs: number, message: string, isConnecting = false): void {
    clearTimeout(this.#timer);
    const details = isConnecting ? because('not-connected') : undefined;
    this.#timer = setTimeout(() => {
      this.fail(new IotdmError('network.timeout', message, { details }));
    }, limitMs);
  }

  onHeaders(statusCode: number, rawHeaders: Buffer[]): boolean {
    // After 1xx the answer is still to come.
    if (statusCode >= 200) {
      this.#response = { statusCode, headers: headersOf(rawHeaders) };
      // Asked now, as the connection may be gone with the answer.
      if (isPage({ status: statusCode, headers: this.#response.headers }))
        this.#authority = this.#askAuthority();
    }
    return true;
  }

  onData(chunk: Buffer): boolean {
    this.#size += chunk.length;
    this.#chunks.push(chunk);
    if (this.#size <= largestAnswer) return true;
    const status = this.#response?.statusCode ?? 0;
    this.fail(unexpectedAnswer(this.#options.hostText, 'it is larger than 16 MiB', { status }));
    return false;
  }

  onComplete(): void {
    const response = this.#response;
    if (response === undefined) {
      this.fail(cutOff(this.#options.hostText));
      return;
    }
    const body = Buffer.concat(this.#chunks).toString('utf8');
    const status = response.statusCode;
    const page = this.#page(response);
    if (page !== undefined) {
      this.#end({ error: page, status });
      return;
    }
    if (status === this.#options.handedOver) {
      this.#end({ response, body, refused: true });
      return;
    }
    const error = this.#problem(response, body);
    this.#end(error === undefined ? { response, body } : { error, status });
  }

  onError(error: Error): void {
    const { hostText, proxy } = this.#options;
    const failure = failureOf(this.#options, error);
    // What has been sent may have been taken up, whatever became of the route since.
    const isUnknown = this.#isSent && failure.code === 'network.unreachable';
    this.#end(this.#unanswered(isUnknown ? throughProxy(cutOff(hostText, error), proxy?.name) : failure));
  }

  #end(outcome: Outcome, abort?: () => void): void {
    const settle = this.#settle;
    // From here on, nothing that is heard of it counts.
    this.#settle = undefined;
    clearTimeout(this.#timer);
    if (settle !== undefined) abort?.();
    settle?.(outcome);
  }

  #page({ statusCode: status, headers }: Response): IotdmError | undefined {
    const { hostText, proxy } = this.#options;
    const route = { proxy: proxy?.name, authority: this.#authority };
    return proxyPage(hostText, { status, headers }, route, describeAnswer(status, headers['content-type']));
  }

  /** Why a complete answer is no success. */
  #problem({ statusCode: status, headers }: Response, body: string): IotdmError | undefined {
    const { hostText, clock } = this.#options;
    const contentType = headers['content-type'];
    if (status >= 300) {
      const header = headers['x-ms-error-code'];
      return refusalError(hostText, {
        status,
        contentType,
        errorCodeHeader: Array.isArray(header) ? header[0] : header,
        retryAfterMs: retryAfterMs(headers['retry-after'], clock()),
        clockOffsetSeconds: this.#isDatedHere ? clockOffsetSeconds(headers.date, clock()) : 0,
        body,
      });
    }
    if (body !== '' && !(contentType ?? '').includes('application/json')) {
      return unexpectedAnswer(hostText, describeAnswer(status, contentType), { status });
    }
    return undefined;
  }
}

/** By lower-case name; of a header that is given twice the first counts. */
function headersOf(raw: readonly Buffer[]): IncomingHttpHeaders {
  const headers = Object.create(null) as IncomingHttpHeaders;
  for (let index = 0; index + 1 < raw.length; index += 2) {
    const name = (raw[index]?.toString('latin1') ?? '').toLowerCase();
    headers[name] ??= raw[index + 1]?.toString('latin1');
  }
  return headers;
}

/** undici's own codes say how it noticed, not what happened. */
const cutCodes = [
  'UND_ERR_SOCKET',
  'UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
  'UND_ERR_CLOSED',
  'UND_ERR_DESTROYED',
  // The end came where more was announced.
  'HPE_INVALID_EOF_STATE',
];

function failureOf({ hostText, proxy }: HttpOptions, error: unknown): IotdmError {
  const code = systemErrorCode(error) ?? '';
  // A check of undici's own, which a status below 100 does not pass.
  if (code === 'ERR_ASSERTION') return unexpectedAnswer(hostText, 'its status is no status of HTTP');
  // The rest of the answer, in which anything may be.
  if (error instanceof Error && code.startsWith('HPE_')) Reflect.deleteProperty(error, 'data');
  if (cutCodes.includes(code)) return throughProxy(cutOff(hostText, error), proxy?.name);
  if (code === 'UND_ERR_HEADERS_OVERFLOW') return unexpectedAnswer(hostText, 'its headers are too long');
  return throughProxy(connectionError(hostText, error), proxy?.name);
}

function cutOff(hostText: string, cause?: unknown): IotdmError {
  return new IotdmError('network.unavailable', `the connection to ${hostText} was closed`, {
    ...(cause === undefined ? {} : { cause }),
  });
}
