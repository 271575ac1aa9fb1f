/**
 * HTTP for the emulated services: finds the route, checks api-version, authorization and body, and answers in Azure's
 * shapes. What a service does is in its route table; another service is another table.
 */

import type { X509Certificate } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { systemErrorCode } from '../errors.ts';
import { deliver, type ServiceAnswer } from './delivery.ts';
import type { Disturbance, QuotaKind } from './disturbance.ts';
import { formatFault, type Fault } from './fault-spec.ts';
import { errorDetails, notEmulated, ServiceError, serviceErrorCodes } from './service-error.ts';
import { shownCertificates } from './shown-certificates.ts';

export type { ServiceAnswer } from './delivery.ts';

export interface ServiceRequest {
  /** What stands for the `:name` parts of the route's path, decoded, in order. */
  readonly parameters: readonly string[];
  readonly headers: IncomingHttpHeaders;
  /** The JSON document that was sent; undefined where the route takes none. */
  readonly body: unknown;
  /** The certificates that the caller has shown, his own first; none where he has none. His key is proved by TLS. */
  readonly certificates: () => readonly X509Certificate[];
}

/** Who asks, as far as it is known before the body is read. */
export type Asked = Pick<ServiceRequest, 'parameters' | 'headers' | 'certificates'>;

export interface Route {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** `/enrollments/:id`: parts that begin with a colon stand for any text, others are compared without their case. */
  readonly path: string;
  /** A body is required to be JSON, or JSON if there is one, or may be anything, or is not read at all. */
  readonly body: 'json' | 'optional json' | 'any' | 'ignored';
  /** Throws ServiceError to refuse. */
  readonly handle: (request: ServiceRequest) => ServiceAnswer;
  /** What a request counts towards; without one it is not throttled. */
  readonly quota?: (request: Asked) => QuotaKind | undefined;
  /** How many enrollments a bulk request is about; what is not bulk has none. Must not throw. */
  readonly bulkSize?: (body: unknown) => number;
  /** The member by which the answer to a bulk request names what failed. */
  readonly bulkIdName?: string;
  /** Does what another writer would do who came just before; what changes nothing has none. Must not throw. */
  readonly anotherWriter?: (request: ServiceRequest) => void;
  /** Instead of `handle`, for a device that cannot be assigned; only where devices register. */
  readonly failToAssign?: (request: ServiceRequest) => ServiceAnswer;
}

/** Routes that share their versions and their credentials. */
export interface ServiceApi {
  /** What of a service there is, for those who ask for something else: the end of a sentence. */
  readonly extent: string;
  readonly apiVersions: readonly string[];
  /** Throws ServiceError 401 for who may not ask at all. */
  readonly authorize: (request: Asked, route: Route) => void;
  readonly routes: readonly Route[];
  /** The body and headers of a refusal; those of DPS when absent. */
  readonly refuse?: (error: ServiceError, now: Date) => Omit<ServiceAnswer, 'status'>;
  /** Whether a request is for this API, where several share a port; the last one takes what is for none. */
  readonly serves?: (parts: readonly string[], host: string) => boolean;
}

/** One request that was answered; nothing in it is secret. */
export interface AnsweredRequest {
  readonly method: string;
  /** Without the query string. */
  readonly path: string;
  /** That of the answer as it was meant, also where a fault kept it from the caller. */
  readonly status: number;
  /** What was done to it on purpose. */
  readonly fault?: string;
  readonly elapsedMs: number;
}

export interface RouterOptions {
  readonly clock: () => Date;
  /** Called once for each request, as its answer is sent. */
  readonly onAnswer: (entry: AnsweredRequest) => void;
  /** Nothing is disturbed when absent. */
  readonly disturbance?: Disturbance | undefined;
}

const largestBody = 4 * 1024 * 1024;
/** Deep enough for every twin, which IoT Hub limits to ten levels; what is deeper is meant to break something. */
const deepestNesting = 32;

interface CompiledRoute extends Route {
  readonly parts: readonly string[];
}

interface CompiledApi extends ServiceApi {
  readonly routes: readonly CompiledRoute[];
  readonly refuse: Refuse;
}

type Refuse = NonNullable<ServiceApi['refuse']>;

/** What has been decided about a request. */
interface Outcome {
  readonly answer: ServiceAnswer;
  readonly fault: Fault | undefined;
}

/** A listener for Node's HTTP servers, for one API or several that share a port. */
export function requestListener(apis: readonly ServiceApi[], options: RouterOptions): RequestListener {
  const { clock, onAnswer, disturbance } = options;
  const compiled = apis.map(compile);

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const startedAt = performance.now();
    const [path = '/', query = ''] = splitOnce(request.url ?? '/', '?');
    const host = hostName(request.headers.host);
    const api = compiled.find(({ serves }) => serves?.(partsOf(path), host) === true) ?? compiled.at(-1);
    if (api === undefined) return;
    let outcome: Outcome | undefined;
    try {
      outcome = await outcomeOf(api, request, path, query, options);
    } catch (error) {
      outcome = { answer: refusal(error, clock(), api.refuse), fault: undefined };
    }
    if (outcome === undefined) return;
    const { answer, fault } = outcome;
    const sent = deliver(response, answer, fault, disturbance?.nextDelayMs() ?? 0);
    const tell = (): void => {
      onAnswer({
        method: request.method ?? '',
        path,
        status: answer.status,
        ...(fault === undefined ? {} : { fault: formatFault(fault) }),
        elapsedMs: performance.now() - startedAt,
      });
    };
    if (disturbance === undefined) tell();
    else await sent.then(tell);
  }

  return (request, response) => {
    // A caller that goes away early is no fault of the emulator's.
    request.on('error', () => undefined);
    response.on('error', () => undefined);
    void respond(request, response);
  };
}

function compile(api: ServiceApi): CompiledApi {
  const routes = api.routes.map((route) => ({ ...route, parts: partsOf(route.path) }));
  return { ...api, routes, refuse: api.refuse ?? serviceRefusal };
}

/** Undefined when the caller has gone away before its request was complete. */
async function outcomeOf(
  api: CompiledApi,
  request: IncomingMessage,
  path: string,
  query: string,
  { clock, disturbance }: RouterOptions,
): Promise<Outcome | undefined> {
  const { refuse } = api;
  const { route, parameters } = find(api, request.method ?? '', path);
  checkApiVersion(query, api.apiVersions);
  const { headers } = request;
  const asked: Asked = { parameters, headers, certificates: () => shownCertificates(request.socket) };
  api.authorize(asked, route);
  const received = await receive(route, request);
  if (received === undefined) return undefined;
  const handled = (handle = route.handle): ServiceAnswer => {
    if ('problem' in received) throw received.problem;
    return handle({ ...asked, body: received.body });
  };
  if (disturbance === undefined) return { answer: handled(), fault: undefined };

  const body = 'body' in received ? received.body : undefined;
  const quota = route.quota?.(asked);
  if (quota !== undefined) {
    const wait = disturbance.throttle(quota, route.bulkSize?.(body) ?? 1, clock());
    if (wait !== undefined) throw tooManyRequests(wait);
  }
  const fault = disturbance.faultFor({
    method: route.method,
    path: withoutTrailingSlash(path),
    isBulk: route.bulkSize !== undefined,
    isWrite: route.anotherWriter !== undefined,
    isRegistration: route.failToAssign !== undefined,
  });
  const regular = (handle?: Route['handle']): ServiceAnswer => {
    try {
      return handled(handle);
    } catch (error) {
      return refusal(error, clock(), refuse);
    }
  };
  switch (fault?.kind) {
    case 'cut-before':
      // Nobody will see it.
      return { answer: { status: 503 }, fault };
    case 'status':
      if (fault.applied === true) regular();
      return { answer: faultAnswer(fault, refuse, clock()), fault };
    case 'etag-race':
      route.anotherWriter?.({ ...asked, body });
      return { answer: regular(), fault };
    case 'assign-fail':
      return { answer: regular(route.failToAssign), fault };
    case 'unknown-ids':
      return { answer: withUnknownIds(regular(), route.bulkIdName ?? 'registrationId'), fault };
    default:
      return { answer: regular(), fault };
  }
}

function faultAnswer(
  { status, retryAfter }: Extract<Fault, { kind: 'status' }>,
  refuse: Refuse,
  now: Date,
): ServiceAnswer {
  // The first error of that status, as far as errors have been given numbers.
  const error = new ServiceError(status * 1000 + 1, 'the emulator was told to refuse this request');
  const { headers, ...rest } = refuse(error, now);
  const retry = retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) };
  return { status, ...rest, headers: { ...headers, ...retry } };
}

/** A bulk result that blames enrollments which nobody has sent. */
function withUnknownIds(answer: ServiceAnswer, idName: string): ServiceAnswer {
  if (answer.status !== 200 || answer.json === undefined) return answer;
  const { errors } = JSON.parse(answer.json) as { errors: readonly unknown[] };
  const unknown = ['nobody-sent-this-1', 'nobody-sent-this-2'].map((id) => ({
    [idName]: id,
    errorCode: serviceErrorCodes.internal,
    errorStatus: 'the emulator was told to name an enrollment that was not sent',
  }));
  return { ...answer, json: JSON.stringify({ isSuccessful: false, errors: [...errors, ...unknown] }) };
}

type Received = { readonly body: unknown } | { readonly problem: unknown };

/** The body as far as the route takes one, or what is wrong with it; undefined when the caller has gone away. */
async function receive(route: Route, request: IncomingMessage): Promise<Received | undefined> {
  if (route.body === 'ignored') {
    request.resume();
    return { body: undefined };
  }
  try {
    if (route.body === 'json') checkContentType(request.headers['content-type']);
    const bytes = await readBody(request);
    if (bytes === undefined) return undefined;
    if (route.body === 'any') return { body: bytes };
    if (route.body === 'optional json') {
      if (bytes.length === 0) return { body: undefined };
      checkContentType(request.headers['content-type']);
    }
    return { body: parseJson(bytes) };
  } catch (problem) {
    return { problem };
  }
}

/** @throws ServiceError 501 for all that is not in the table, which says nothing about what the service would do */
function find(
  { routes, extent }: CompiledApi,
  method: string,
  path: string,
): { route: CompiledRoute; parameters: readonly string[] } {
  const parts = partsOf(path);
  const route = routes.find((one) => one.method === method && matches(one.parts, parts));
  if (route === undefined) {
    const shown = /^[\x21-\x7e]{1,200}$/.test(path) ? path : 'of this path';
    throw notEmulated(`${method} ${shown} is not emulated: ${extent}`);
  }
  return {
    route,
    parameters: parts.filter((_, index) => route.parts[index]?.startsWith(':')).map(decoded),
  };
}

function partsOf(path: string): readonly string[] {
  return withoutTrailingSlash(path).split('/').slice(1);
}

/** Of a `host` header, in lower case and without its port. */
function hostName(header: string | undefined): string {
  return (header ?? '').replace(/:[0-9]*$/, '').toLowerCase();
}

/** Azure's own Node.js client posts bulk requests to `/enrollments/`. */
function withoutTrailingSlash(path: string): string {
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

function matches(pattern: readonly string[], parts: readonly string[]): boolean {
  return (
    pattern.length === parts.length &&
    pattern.every((part, index) =>
      part.startsWith(':') ? parts[index] !== '' : part.toLowerCase() === parts[index]?.toLowerCase(),
    )
  );
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw invalidRequest('the path is not URL-encoded');
  }
}

function checkApiVersion(query: string, known: readonly string[]): void {
  const given = new URLSearchParams(query).getAll('api-version');
  if (given.length === 1 && known.includes(given[0] ?? '')) return;
  throw invalidRequest(
    given.length === 0
      ? 'the query parameter api-version is missing'
      : `the api-version is not one that is supported here: ${known.join(', ')}`,
  );
}

function checkContentType(contentType: string | undefined): void {
  if (/^application\/json *(?:; *charset="?utf-8"? *)?$/i.test(contentType ?? '')) return;
  throw new ServiceError(serviceErrorCodes.unsupportedMediaType, 'the content type is not application/json');
}

/** The whole body. What is too much is read and thrown away, because many clients read no answer before they are done. */
async function readBody(request: IncomingMessage): Promise<Buffer | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= largestBody) chunks.push(chunk);
      else chunks.length = 0;
    });
    request.on('end', () => {
      if (size <= largestBody) resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
      else reject(new ServiceError(serviceErrorCodes.bodyTooLarge, 'the body is larger than 4 MiB'));
    });
    // Comes after 'end' as well, when it no longer changes anything.
    request.on('close', () => {
      resolve(undefined);
    });
  });
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function parseJson(bytes: Buffer): unknown {
  let body: unknown;
  try {
    body = JSON.parse(utf8.decode(bytes));
  } catch {
    // The parser's own message would quote the body.
    throw invalidRequest('the body is not valid JSON in UTF-8');
  }
  checkNesting(body);
  return body;
}

/** JSON.parse takes any depth; whatever handles its result would exhaust the stack. */
function checkNesting(value: unknown, depth = 0): void {
  if (depth > deepestNesting) {
    throw invalidRequest(`the body is nested more than ${deepestNesting} levels deep`);
  }
  if (typeof value !== 'object' || value === null) return;
  const items: readonly unknown[] = Array.isArray(value) ? value : Object.values(value);
  for (const item of items) checkNesting(item, depth + 1);
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}

function tooManyRequests(seconds: number): ServiceError {
  return new ServiceError(serviceErrorCodes.tooManyRequests, 'the quota of operations is used up', {
    'retry-after': String(seconds),
  });
}

function refusal(error: unknown, now: Date, refuse: Refuse): ServiceAnswer {
  const refused =
    error instanceof ServiceError
      ? error
      : new ServiceError(
          serviceErrorCodes.internal,
          // A full disk is worth knowing about; any other message might quote what must not be seen.
          `the emulator failed (${systemErrorCode(error) ?? (error instanceof Error ? error.name : typeof error)})`,
        );
  const { headers, ...rest } = refuse(refused, now);
  return { status: refused.status, ...rest, headers: { ...refused.headers, ...headers } };
}

function serviceRefusal(error: ServiceError, now: Date): Omit<ServiceAnswer, 'status'> {
  return {
    json: errorDetails(error, now),
    headers: { 'x-ms-error-code': String(error.errorCode) },
  };
}

function splitOnce(text: string, separator: string): readonly string[] {
  const at = text.indexOf(separator);
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}
