/**
 * ProvisioningService over Azure's own ProvisioningServiceClient, with our HTTP layer beneath it and its oddities kept
 * in here: a bulk request without a callback never settles, a mode is misspelt in its types, an empty continuation
 * token never ends, and nothing is retried.
 */

import { createHash, createHmac } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import httpBase, { type RestApiClient } from 'azure-iot-http-base';
import provisioningService, { type ProvisioningServiceClient } from 'azure-iot-provisioning-service';
import { IotdmError, mayHaveTakenEffect, withDetails, withEffect, type Effect } from '../errors.ts';
import { AzureHttp, type HttpTrace } from './azure-http.ts';
import type { BearerToken } from './bearer-token.ts';
import { clouds, cloudOfHost } from './clouds.ts';
import { groupIdProblem, type EnrollmentGroup } from './enrollment-group.ts';
import { isEtag } from './etag.ts';
import { registrationIdProblem, type Enrollment, type StoredEnrollment } from './enrollment.ts';
import type { Proxy } from './proxy.ts';
import {
  AnswerShapeError,
  bulkResult,
  enrollmentGroup,
  enrollmentPage,
  groupPage,
  storedEnrollment,
} from './service-answers.ts';
import type { ServiceCredentials } from './service-connection-string.ts';
import { connectionError, unexpectedAnswer } from './service-errors.ts';
import { parseServiceHost } from './service-host.ts';
import { backoffMs } from './service-retry.ts';
import {
  bulkLimit,
  type BulkMode,
  type BulkResult,
  type EnrollmentGroups,
  type ProvisioningService,
} from './service.ts';

export type { HttpTrace } from './azure-http.ts';

export interface AzureServiceOptions {
  /** Of a shared access policy, which stay the caller's (wipe the key after `close()`), or a token. */
  readonly credentials: ServiceCredentials | TokenAccess;
  /** Where to connect, when it is not the host that the credentials are for. */
  readonly host?: string;
  /** Through which it is reached. */
  readonly proxy?: Proxy;
  /** PEM certificates, trusted in addition to Node's roots. */
  readonly ca?: string;
  /** For one request, from its socket to the answer's last byte; 30 s when absent. */
  readonly timeoutMs?: number;
  /** For name lookup, TCP and TLS of one connection; 5 s when absent. */
  readonly connectTimeoutMs?: number;
  /** Connections at a time; 16 when absent. */
  readonly maxSockets?: number;
  readonly userAgent: string;
  /** How often a request is sent that is answered with 429 or 503; 5 when absent, 1 for a caller that sees to it itself. */
  readonly attempts?: number;
  /** Called once for each HTTP request, when its outcome is known. */
  readonly onRequest?: (trace: HttpTrace) => void;
  /** Milliseconds since 1970: dates tokens and reads `retry-after`. */
  readonly clock?: () => number;
  /** Replaces the wait between attempts and the jitter, in tests. */
  readonly delay?: (ms: number, signal: AbortSignal) => Promise<unknown>;
  readonly random?: () => number;
}

const defaultAttempts = 5;
/** Access to a service by a token. */
export interface TokenAccess {
  /** As `ServiceCredentials.host`. */
  readonly host: string;
  readonly token: BearerToken;
}

/**
 * Newest first. An enrollment has members that the older version does not show, and that a write in it takes away; a
 * service that does not know the newer version has none of them.
 */
const apiVersions = { newer: '2026-11-01', older: '2021-10-01' } as const;
type ApiVersion = (typeof apiVersions)[keyof typeof apiVersions];

type Query = ReturnType<ProvisioningServiceClient['createEnrollmentGroupQuery']>;

const retriedStatuses: readonly unknown[] = [429, 503];
const tokenLifetimeSeconds = 3600;
const largestPage = 1000;
/** Ten times what a service may hold by Azure's limits, and more pages without anything than any filter would leave. */
const mostListed = 10_000_000;
const mostEmptyPages = 100;

/** Nothing is sent before the first call. Throws `usage.invalid` for a host and `input.invalid` for a `ca` that will not do. */
export function openAzureService(options: AzureServiceOptions): ProvisioningService & EnrollmentGroups {
  return new AzureService(options);
}

class AzureService implements ProvisioningService, EnrollmentGroups {
  readonly host: string;
  requests = 0;
  throttled = 0;

  readonly #credentials: ServiceCredentials | TokenAccess;
  readonly #http: AzureHttp;
  readonly #rest: RestApiClient;
  readonly #client: ProvisioningServiceClient;
  readonly #closed = new AbortController();
  readonly #attempts: number;
  /** Undefined until the service has shown which one it knows. */
  #version: ApiVersion | undefined;
  /** Of the request that is being made. */
  #speaking: ApiVersion = apiVersions.newer;
  #signed: { readonly expiry: number; readonly token: string } | undefined;
  readonly #clock: () => number;
  readonly #delay: (ms: number, signal: AbortSignal) => Promise<unknown>;
  readonly #random: () => number;

  constructor(options: AzureServiceOptions) {
    this.host = options.host ?? options.credentials.host;
    this.#credentials = options.credentials;
    this.#attempts = options.attempts ?? defaultAttempts;
    this.#clock = options.clock ?? Date.now;
    this.#delay = options.delay ?? ((ms, signal) => wait(ms, undefined, { signal }));
    this.#random = options.random ?? Math.random;
    this.#http = new AzureHttp({
      host: parseServiceHost(this.host),
      hostText: this.host,
      ca: options.ca,
      proxy: options.proxy,
      timeoutMs: options.timeoutMs ?? 30_000,
      connectTimeoutMs: options.connectTimeoutMs ?? 5_000,
      maxSockets: options.maxSockets ?? 16,
      clock: this.#clock,
      apiVersion: () => this.#speaking,
      onRequest: (trace) => {
        this.requests += 1;
        if (trace.status === 429) this.throttled += 1;
        options.onRequest?.(trace);
      },
    });
    // What goes into the header Authorization, set anew before each request.
    const config = { host: this.host, sharedAccessSignature: 'none' };
    this.#rest = new httpBase.RestApiClient(config, options.userAgent, this.#http);
    this.#client = new provisioningService.ProvisioningServiceClient(config, this.#rest);
  }

  async create(enrollment: Enrollment): Promise<StoredEnrollment> {
    return this.#put(withoutEtag(enrollment));
  }

  async replace(enrollment: Enrollment, etag: string): Promise<StoredEnrollment> {
    // The client sends the etag as If-Match.
    return this.#put({ ...enrollment, etag: usableEtag(etag) });
  }

  async #put(enrollment: Enrollment): Promise<StoredEnrollment> {
    const id = usableId(enrollment.registrationId);
    const answer = await this.#call(
      id,
      (done) => {
        this.#client.createOrUpdateIndividualEnrollment(asAzures(enrollment), done);
      },
      { newerMembers: newerMembersOf([enrollment]) },
    );
    return this.#read(() => storedEnrollment(answer, id));
  }

  async find(registrationId: string): Promise<StoredEnrollment | undefined> {
    const id = usableId(registrationId);
    return this.#unlessMissing(async () => {
      const answer = await this.#call(id, (done) => {
        this.#client.getIndividualEnrollment(id, done);
      });
      return this.#read(() => storedEnrollment(answer, id));
    });
  }

  async delete(registrationId: string, etag?: string): Promise<void> {
    const id = usableId(registrationId);
    const ifMatch = etag === undefined ? undefined : usableEtag(etag);
    await this.#call(id, (done) => {
      if (ifMatch === undefined) this.#client.deleteIndividualEnrollment(id, done);
      else this.#client.deleteIndividualEnrollment(id, ifMatch, done);
    });
  }

  async *list(options: { pageSize?: number } = {}): AsyncIterable<readonly StoredEnrollment[]> {
    const pageSize = Math.min(Math.max(Math.trunc(options.pageSize ?? largestPage), 1), largestPage);
    const query = { query: 'SELECT * FROM enrollments' };
    yield* this.#pages(this.#client.createIndividualEnrollmentQuery(query, pageSize), enrollmentPage);
  }

  async *listGroups(): AsyncIterable<readonly EnrollmentGroup[]> {
    // As the Azure CLI asks: a name for what is selected is documented for individual enrollments only.
    const query = { query: 'SELECT *' };
    yield* this.#pages(this.#client.createEnrollmentGroupQuery(query, largestPage), groupPage);
  }

  async findGroup(groupId: string): Promise<EnrollmentGroup | undefined> {
    const problem = groupIdProblem(groupId);
    if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
    return this.#unlessMissing(async () => {
      const answer = await this.#call(undefined, (done) => {
        this.#client.getEnrollmentGroup(groupId, done);
      });
      return this.#read(() => enrollmentGroup(answer, groupId));
    });
  }

  async *#pages<T>(query: Query, read: (answer: unknown) => readonly T[]): AsyncIterable<readonly T[]> {
    const seen = new Set<string>();
    let items = 0;
    let emptyInARow = 0;
    for (;;) {
      const next = (done: Done): void => {
        query.next(done);
      };
      // A page that fails ends the whole list, so whoever reads one cannot see to it.
      const answer = await this.#call(undefined, next, { attempts: defaultAttempts });
      const page = this.#read(() => read(answer));
      yield page;
      items += page.length;
      emptyInARow = page.length === 0 ? emptyInARow + 1 : 0;
      // An empty token, which the client would go on with, is none.
      const token = query.continuationToken || undefined;
      if (token === undefined) return;
      const mark = createHash('sha256').update(token).digest('base64');
      if (seen.has(mark)) throw unexpectedAnswer(this.host, 'a list that comes back to the same page');
      seen.add(mark);
      if (items > mostListed || emptyInARow > mostEmptyPages) {
        throw unexpectedAnswer(this.host, 'a list without an end');
      }
    }
  }

  async #unlessMissing<T>(find: () => Promise<T>): Promise<T | undefined> {
    try {
      return await find();
    } catch (error) {
      if (error instanceof IotdmError && error.code === 'service.not-found') return undefined;
      throw error;
    }
  }

  async bulk(mode: BulkMode, enrollments: readonly Enrollment[]): Promise<BulkResult> {
    const ids = enrollments.map((enrollment) => usableId(enrollment.registrationId));
    if (
      ids.length < 1 ||
      ids.length > bulkLimit ||
      new Set(ids.map((id) => id.toLowerCase())).size < ids.length
    ) {
      // The service refuses the whole request, so that nobody knows which enrollment is at fault.
      throw new IotdmError(
        'internal.unexpected',
        `a bulk request takes 1 to ${bulkLimit} distinct enrollments`,
      );
    }
    const start = (done: Done): void => {
      this.#client.runBulkEnrollmentOperation(
        {
          // The client's type says updateIfMatchEtag, which the service does not know.
          mode: mode as 'update',
          enrollments: enrollments.map((enrollment) =>
            asAzures(mode === 'updateIfMatchETag' ? enrollment : withoutEtag(enrollment)),
          ),
        },
        done,
      );
    };
    const newerMembers = mode === 'delete' ? [] : newerMembersOf(enrollments);
    const answer = await this.#call(undefined, start, { newerMembers });
    return this.#read(() => bulkResult(answer, ids));
  }

  close(): void {
    const error = interrupted();
    this.#closed.abort(error);
    this.#http.close(error);
  }

  /**
   * One call with its repetitions. Only 429 and 503 are repeated: they say that the request was not taken up, although not
   * always in the name of all that it went through. So the effect of the call is unknown once that of one request was.
   */
  async #call(
    registrationId: string | undefined,
    start: (done: Done) => void,
    { attempts = this.#attempts, newerMembers = [] }: CallOptions = {},
  ): Promise<unknown> {
    let effect: Effect = 'none';
    let version: ApiVersion = this.#version ?? apiVersions.newer;
    if (version === apiVersions.older) this.#refuseUnspeakable(newerMembers);
    for (let attempt = 1; ; attempt += 1) {
      const authorization = await this.#authorization(effect);
      if (this.#closed.signal.aborted) throw interrupted(effect);
      this.#rest.updateSharedAccessSignature(authorization);
      try {
        // The request is built before this returns.
        this.#speaking = version;
        const answer = await answerOf(start);
        this.#version ??= version;
        return answer;
      } catch (error) {
        let failure = this.#failure(error, registrationId);
        if (effect === 'unknown') failure = withEffect(failure, effect);
        if (mayHaveTakenEffect(failure)) effect = 'unknown';
        if (refusesVersion(failure) && this.#version === undefined && version === apiVersions.newer) {
          // Not a repetition: the request was not understood. Whether it is the version, the next answer shows.
          this.#refuseUnspeakable(newerMembers, failure);
          version = apiVersions.older;
          attempt -= 1;
          continue;
        }
        if (isAboutContent(failure)) this.#version ??= version;
        if (attempt >= attempts || !retriedStatuses.includes(failure.details?.['status'])) throw failure;
        const asked = failure.details?.['retryAfterMs'];
        const isAsked = typeof asked === 'number' && asked > 0;
        await this.#pause(isAsked ? asked : backoffMs(attempt, this.#random), effect);
      }
    }
  }

  /** What the older version has no words for would be lost without a word. */
  #refuseUnspeakable(members: readonly string[], cause?: IotdmError): void {
    if (members.length === 0) return;
    throw new IotdmError(
      'service.invalid',
      `${this.host} does not know ${members.join(', ')}: it does not speak API version ${apiVersions.newer}`,
      { effect: cause === undefined ? 'none' : 'refused', details: { status: 400 }, cause },
    );
  }

  async #pause(ms: number, effect: Effect): Promise<void> {
    try {
      await this.#delay(ms, this.#closed.signal);
    } catch (error) {
      throw this.#closed.signal.aborted ? interrupted(effect) : error;
    }
  }

  #failure(error: unknown, registrationId: string | undefined): IotdmError {
    // The parser's own message quotes the answer.
    const failure =
      error instanceof SyntaxError
        ? unexpectedAnswer(this.host, 'it is not valid JSON')
        : connectionError(this.host, error);
    const isTokenRefused = failure.code === 'auth.refused' && 'token' in this.#credentials;
    if (isTokenRefused) this.#credentials.token.forget();
    if (registrationId === undefined && !isTokenRefused) return failure;
    return withDetails(failure, {
      ...(registrationId === undefined ? {} : { registrationId }),
      ...(isTokenRefused ? { credentials: 'entra' } : {}),
    });
  }

  #read<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      if (error instanceof AnswerShapeError) throw unexpectedAnswer(this.host, error.message);
      throw error;
    }
  }

  /**
   * For the next request. Never one that expires midway.
   * @param effect of what the call has sent so far
   * @throws IotdmError `auth.no-token`, `interrupted.signal`
   */
  async #authorization(effect: Effect): Promise<string> {
    const credentials = this.#credentials;
    const { signal } = this.#closed;
    try {
      signal.throwIfAborted();
      if (!('token' in credentials)) return this.#signature(credentials);
      return await credentials.token.authorization(signal);
    } catch (error) {
      if (signal.aborted) throw interrupted(effect);
      if (!(error instanceof IotdmError)) throw error;
      const cloud = cloudOfHost(parseServiceHost(this.host).hostname);
      const isElsewhere = cloud !== undefined && cloud !== clouds[0];
      throw withEffect(isElsewhere ? withDetails(error, { cliCloud: cloud.cliName }) : error, effect);
    }
  }

  /** For the host that the key belongs to, wherever the request goes. */
  #signature({ host, keyName, key }: ServiceCredentials): string {
    const resource = encodeURIComponent(host);
    const expiry = Math.ceil(this.#clock() / 1000) + tokenLifetimeSeconds;
    // Within one second it would be the same again.
    if (this.#signed?.expiry === expiry) return this.#signed.token;
    const signature = createHmac('sha256', key.bytes).update(`${resource}\n${expiry}`).digest('base64');
    const token =
      `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}` +
      `&skn=${encodeURIComponent(keyName)}&se=${expiry}`;
    this.#signed = { expiry, token };
    return token;
  }
}

interface CallOptions {
  readonly attempts?: number;
  /** What is sent that the older version does not know. */
  readonly newerMembers?: readonly string[];
}

const newerMembers = ['namespaceName', 'certificateAuthorityName', 'certificatePolicyName'] as const;

function newerMembersOf(enrollments: readonly Enrollment[]): readonly string[] {
  return newerMembers.filter((name) => enrollments.some((enrollment) => enrollment[name] !== undefined));
}

/**
 * "Unsupported API version 2026-11-01." (400004), or "Unknown api version", as Azure says it. The version of a webhook is
 * written in one word.
 */
function refusesVersion({ code, message }: IotdmError): boolean {
  return code === 'service.invalid' && /\bapi[- ]version\b/i.test(message);
}

/** Only who has understood the request can say this of it. */
function isAboutContent({ code }: IotdmError): boolean {
  return code === 'service.conflict' || code === 'service.not-found' || code === 'service.changed-meanwhile';
}

type Done = (error: unknown, body?: unknown) => void;

async function answerOf(start: (done: Done) => void): Promise<unknown> {
  return new Promise((resolve, reject) => {
    start((error, body) => {
      if (error instanceof Error) reject(error);
      else resolve(body);
    });
  });
}

type AzuresEnrollment = Parameters<ProvisioningServiceClient['createOrUpdateIndividualEnrollment']>[0];

/** The client's type demands members that only the service sets. */
function asAzures(enrollment: Enrollment): AzuresEnrollment {
  return enrollment as unknown as AzuresEnrollment;
}

function withoutEtag(enrollment: Enrollment): Enrollment {
  if (enrollment.etag === undefined) return enrollment;
  const copy: { -readonly [Name in keyof Enrollment]: Enrollment[Name] } = { ...enrollment };
  delete copy.etag;
  return copy;
}

function usableId(registrationId: string): string {
  const problem = registrationIdProblem(registrationId.toLowerCase());
  if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
  return registrationId;
}

function usableEtag(etag: string): string {
  if (!isEtag(etag)) {
    throw new IotdmError('usage.invalid', 'an etag is printable ASCII without spaces, in quotes or not');
  }
  return etag;
}

function interrupted(effect?: Effect): IotdmError {
  return new IotdmError('interrupted.signal', 'interrupted before the service had answered', { effect });
}
