/**
 * HTTP for the emulated services: finds the route, checks api-version, authorization and body, and answers in Azure's
 * shapes. What a service does is in its route table; another service is another table.
 */

import type { IncomingHttpHeaders, IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { systemErrorCode } from '../errors.ts';
import { errorDetails, ServiceError, serviceErrorCodes } from './service-error.ts';

export interface ServiceRequest {
  /** What stands for the `:name` parts of the route's path, decoded, in order. */
  readonly parameters: readonly string[];
  readonly headers: IncomingHttpHeaders;
  /** The JSON document that was sent; undefined where the route takes none. */
  readonly body: unknown;
}

export interface ServiceAnswer {
  readonly status: number;
  /** A JSON document. */
  readonly json?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Route {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** `/enrollments/:id`: parts that begin with a colon stand for any text. */
  readonly path: string;
  /** A body is required to be JSON, or is ignored. */
  readonly body: 'json' | 'ignored';
  /** Throws ServiceError to refuse. */
  readonly handle: (request: ServiceRequest) => ServiceAnswer;
}

/** Routes that share their versions and their credentials. */
export interface ServiceApi {
  readonly apiVersions: readonly string[];
  /** Throws ServiceError 401. */
  readonly authorize: (headers: IncomingHttpHeaders) => void;
  readonly routes: readonly Route[];
}

/** One request that was answered; nothing in it is secret. */
export interface AnsweredRequest {
  readonly method: string;
  /** Without the query string. */
  readonly path: string;
  readonly status: number;
  readonly elapsedMs: number;
}

const largestBody = 4 * 1024 * 1024;
/** Deep enough for every twin, which IoT Hub limits to ten levels; what is deeper is meant to break something. */
const deepestNesting = 32;

interface CompiledRoute extends Route {
  readonly api: ServiceApi;
  readonly parts: readonly string[];
}

/** A listener for Node's HTTP servers. `onAnswer` is called once for each request, as its answer is sent. */
export function requestListener(
  apis: readonly ServiceApi[],
  clock: () => Date,
  onAnswer: (entry: AnsweredRequest) => void,
): RequestListener {
  const routes = apis.flatMap((api) =>
    api.routes.map((route) => ({ ...route, api, parts: route.path.split('/').slice(1) })),
  );

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const startedAt = performance.now();
    const [path = '/', query = ''] = splitOnce(request.url ?? '/', '?');
    let answer: ServiceAnswer | undefined;
    try {
      answer = await answerTo(routes, request, path, query);
    } catch (error) {
      answer = refusal(error, clock());
    }
    if (answer === undefined) return;
    send(response, answer);
    onAnswer({
      method: request.method ?? '',
      path,
      status: answer.status,
      elapsedMs: performance.now() - startedAt,
    });
  }

  return (request, response) => {
    // A caller that goes away early is no fault of the emulator's.
    request.on('error', () => undefined);
    void respond(request, response);
  };
}

/** Undefined when the caller has gone away before its request was complete. */
async function answerTo(
  routes: readonly CompiledRoute[],
  request: IncomingMessage,
  path: string,
  query: string,
): Promise<ServiceAnswer | undefined> {
  const { route, parameters } = find(routes, request.method ?? '', path);
  checkApiVersion(query, route.api.apiVersions);
  route.api.authorize(request.headers);
  if (route.body === 'ignored') {
    request.resume();
    return route.handle({ parameters, headers: request.headers, body: undefined });
  }
  checkContentType(request.headers['content-type']);
  const bytes = await readBody(request);
  if (bytes === undefined) return undefined;
  return route.handle({ parameters, headers: request.headers, body: parseJson(bytes) });
}

function find(
  routes: readonly CompiledRoute[],
  method: string,
  path: string,
): { route: CompiledRoute; parameters: readonly string[] } {
  const parts = path.split('/').slice(1);
  // Azure's own Node.js client posts bulk requests to `/enrollments/`.
  if (parts.length > 1 && parts.at(-1) === '') parts.pop();
  const allowed: string[] = [];
  for (const route of routes) {
    if (!matches(route.parts, parts)) continue;
    if (route.method !== method) {
      allowed.push(route.method);
      continue;
    }
    return {
      route,
      parameters: parts.filter((_, index) => route.parts[index]?.startsWith(':')).map(decoded),
    };
  }
  if (allowed.length === 0) throw new ServiceError(serviceErrorCodes.noSuchPath, 'there is no such path');
  throw new ServiceError(serviceErrorCodes.methodNotAllowed, 'the path does not have this method', {
    allow: [...new Set(allowed)].join(', '),
  });
}

function matches(pattern: readonly string[], parts: readonly string[]): boolean {
  return (
    pattern.length === parts.length &&
    pattern.every((part, index) => (part.startsWith(':') ? parts[index] !== '' : part === parts[index]))
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
function checkNesting(value: unknown): void {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > deepestNesting) {
      throw invalidRequest(`the body is nested more than ${deepestNesting} levels deep`);
    }
    level = level.flatMap((item) =>
      typeof item === 'object' && item !== null ? (Object.values(item) as unknown[]) : [],
    );
  }
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}

function refusal(error: unknown, now: Date): ServiceAnswer {
  const refused =
    error instanceof ServiceError
      ? error
      : new ServiceError(
          serviceErrorCodes.internal,
          // A full disk is worth knowing about; any other message might quote what must not be seen.
          `the emulator failed (${systemErrorCode(error) ?? (error instanceof Error ? error.name : typeof error)})`,
        );
  return {
    status: refused.status,
    json: errorDetails(refused, now),
    headers: { ...refused.headers, 'x-ms-error-code': String(refused.errorCode) },
  };
}

function send(response: ServerResponse, answer: ServiceAnswer): void {
  if (answer.json === undefined) {
    response.writeHead(answer.status, { ...answer.headers }).end();
    return;
  }
  const body = Buffer.from(answer.json, 'utf8');
  response
    .writeHead(answer.status, {
      'content-type': 'application/json; charset=utf-8',
      'content-length': body.length,
      ...answer.headers,
    })
    .end(body);
}

function splitOnce(text: string, separator: string): readonly string[] {
  const at = text.indexOf(separator);
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}
