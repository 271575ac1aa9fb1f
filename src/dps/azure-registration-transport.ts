/**
 * The transport that Azure's registration is given. It sends its requests with Azure's own HTTP transport, and does what
 * that leaves to chance:
 *
 * - answers are checked before the state machine sees them, which trips over a member that is missing;
 * - a refusal keeps what the service said: Azure's transport reports every failed challenge as the same error;
 * - `retry-after` is heeded, and throttling is answered with waiting, until a deadline and not for ever;
 * - waiting can be interrupted. The state machine would wait in a timer of its own, which keeps the process alive, and
 *   gives up a request after 30 s; so it is told every few seconds that nothing has happened yet, and waits here.
 */
import type { IncomingMessage } from 'node:http';
import type provisioningDevice from 'azure-iot-provisioning-device';
import type provisioningDeviceHttp from 'azure-iot-provisioning-device-http';
import { IotdmError, mayHaveTakenEffect } from '../errors.ts';
import { clockOffsetSeconds, isClockOff } from '../http-clock.ts';
import { challengeOf, registrationAnswer, type Assigned, type Assigning } from './registration-answers.ts';
import type { RegistrationEvent } from './registration.ts';
import { AnswerShapeError } from './service-answers.ts';
import { connectionError, refusalError, unexpectedAnswer } from './service-errors.ts';
import { backoffMs, retryAfterMs } from './service-retry.ts';

export interface TransportOptions {
  readonly inner: InstanceType<typeof provisioningDeviceHttp.Http>;
  /** How the host was written, for messages. */
  readonly hostText: string;
  readonly registrationId: string;
  /** Aborted with an IotdmError: every wait and request ends with it. */
  readonly ended: AbortSignal;
  readonly onEvent: (event: RegistrationEvent) => void;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
  readonly random: () => number;
  readonly delay: (ms: number, signal: AbortSignal) => Promise<unknown>;
  /** How often the state machine hears from us; it gives up after 30 s. */
  readonly sliceMs: number;
}

type Request = Parameters<provisioningDevice.TpmProvisioningTransport['registrationRequest']>[0];
type Answered = Parameters<provisioningDevice.TpmProvisioningTransport['registrationRequest']>[1];
type Result = provisioningDevice.DeviceRegistrationResult;

/** Where the service does not say; Azure's SDKs poll as often. */
const POLLING_MS = 2000;
const LEAST_POLLING_MS = 100;

/** Of a service that is not available, or cuts the connection; throttling ends with the deadline only. */
const UNAVAILABLE_LIMIT = 5;

export class RegistrationTransport implements provisioningDevice.TpmProvisioningTransport {
  readonly #options: TransportOptions;
  /** Goes on while the state machine asks for it again and again. */
  #work: Promise<Result> | undefined;
  #polls = 0;
  #waitMs = 0;
  /** Told what the state machine throws when it is called back, which nobody could catch. */
  onFault: (error: unknown) => void = () => undefined;
  /** Why the request is being repeated, for when there is no time left. */
  repeating: IotdmError | undefined;
  /** The connection was cut when the challenge had been answered, perhaps for good: the next try wants a new one. */
  isAnswerSpent = false;
  /** What the service assigned, as it was checked. */
  assigned: Assigned | undefined;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  setTpmInformation(endorsementKey: Buffer, storageRootKey: Buffer): void {
    this.#options.inner.setTpmInformation(endorsementKey, storageRootKey);
  }

  getAuthenticationChallenge(request: Request, callback: (error: Error, blob?: Buffer) => void): void {
    this.#challenge(request)
      .then(
        (blob) => {
          callback(null as unknown as Error, blob);
        },
        (error: unknown) => {
          callback(error as Error);
        },
      )
      .catch(this.onFault);
  }

  respondToAuthenticationChallenge(request: Request, token: string, callback: (error?: Error) => void): void {
    this.#options.inner.respondToAuthenticationChallenge(request, token, callback);
  }

  registrationRequest(request: Request, callback: Answered): void {
    // Without an operation id there is nothing to ask for yet.
    const unchanged = { status: 'registering' } as unknown as Result;
    this.#answer(() => this.#register(request), unchanged, callback);
  }

  queryOperationStatus(request: Request, operationId: string, callback: Answered): void {
    this.#answer(() => this.#query(request, operationId), { status: 'assigning', operationId }, callback);
  }

  cancel(callback: (error?: Error) => void): void {
    callback();
  }

  disconnect(callback: (error?: Error) => void): void {
    callback();
  }

  /** Calls back with what the work gives, or that nothing has changed if it takes longer than a slice. */
  #answer(start: () => Promise<Result>, unchanged: Result, callback: Answered): void {
    const work = (this.#work ??= start());
    let slice: NodeJS.Timeout | undefined;
    const pause = new Promise<undefined>((resolve) => {
      slice = setTimeout(resolve, this.#options.sliceMs, undefined);
    });
    Promise.race([work, pause])
      .finally(() => {
        clearTimeout(slice);
      })
      .then(
        (result) => {
          if (result !== undefined) this.#work = undefined;
          callback(undefined, result ?? unchanged, undefined, 0);
        },
        (error: unknown) => {
          this.#work = undefined;
          callback(error as Error);
        },
      )
      .catch(this.onFault);
  }

  async #challenge(request: Request): Promise<Buffer> {
    try {
      await this.#exchange((done) => {
        this.#options.inner.registrationRequest(request, done);
      }, 'may be repeated');
    } catch (error) {
      const refused = refusedAnswer(error);
      const blob = refused === undefined ? undefined : this.#read(() => challengeOf(refused.body));
      if (refused === undefined || blob === undefined) throw this.#failure(error);
      const seconds = this.#clockOffset(refused.response);
      if (isClockOff(seconds)) this.#options.onEvent({ kind: 'clock-off', seconds });
      this.#options.onEvent({ kind: 'challenged' });
      return blob;
    }
    throw unexpectedAnswer(this.#options.hostText, 'it wants no proof of the TPM');
  }

  async #register(request: Request): Promise<Result> {
    try {
      return this.#understand(
        await this.#signed((done) => {
          this.#options.inner.registrationRequest(request, done);
        }, 'counts once'),
      );
    } catch (error) {
      this.isAnswerSpent = error instanceof IotdmError && isCut(error);
      throw error;
    }
  }

  async #query(request: Request, operationId: string): Promise<Result> {
    await this.#pause(this.#waitMs);
    return this.#understand(
      await this.#signed((done) => {
        this.#options.inner.queryOperationStatus(request, operationId, done);
      }, 'may be repeated'),
    );
  }

  async #signed(send: (done: Answered) => void, effect: Effect): Promise<Exchanged> {
    try {
      return await this.#exchange(send, effect);
    } catch (error) {
      throw this.#failure(error);
    }
  }

  /** One request with its repetitions. */
  async #exchange(send: (done: Answered) => void, effect: Effect): Promise<Exchanged> {
    for (let attempt = 1; ; attempt += 1) {
      this.#options.ended.throwIfAborted();
      try {
        const exchanged = await answerOf(send);
        this.repeating = undefined;
        return exchanged;
      } catch (error) {
        if (!(error instanceof IotdmError) || !mayRepeat(error, attempt)) throw error;
        if (effect === 'counts once' && isCut(error)) throw error;
        this.repeating = error;
        const asked = error.details?.['retryAfterMs'];
        // Who asks for no pause, and refuses all the same, gets one.
        const isAsked = typeof asked === 'number' && asked > 0;
        const waitMs = isAsked ? asked : backoffMs(attempt, this.#options.random);
        this.#options.onEvent({ kind: 'repeating', waitMs, code: error.code });
        await this.#pause(waitMs);
      }
    }
  }

  /** What is asked for; that nothing is, is believed once, and then less and less. */
  #pollingMs(askedMs: number | undefined): number {
    const least = this.#polls === 0 ? 0 : Math.min(POLLING_MS, LEAST_POLLING_MS * 2 ** (this.#polls - 1));
    this.#polls += 1;
    return Math.max(askedMs ?? POLLING_MS, least);
  }

  async #pause(ms: number): Promise<void> {
    const { delay, ended } = this.#options;
    try {
      await delay(ms, ended);
    } catch (error) {
      throw ended.aborted ? ended.reason : error;
    }
  }

  #understand({ body, response }: Exchanged): Result {
    const { registrationId, hostText, clock, onEvent } = this.#options;
    const answer = this.#read(() => registrationAnswer(body, registrationId));
    switch (answer.status) {
      case 'assigning':
        this.#waitMs = this.#pollingMs(retryAfterMs(response?.headers['retry-after'], clock()));
        onEvent({ kind: 'assigning', waitMs: this.#waitMs });
        return answer satisfies Assigning;
      case 'assigned':
        this.assigned = answer;
        return azuresForm(answer);
      default: {
        const { status, errorCode, errorMessage } = answer;
        const said = errorMessage === undefined ? '' : `: ${errorMessage.slice(0, 300).replace(/\.$/, '')}`;
        const number = errorCode === undefined ? '' : ` (${errorCode})`;
        throw new IotdmError(
          'service.not-assigned',
          `${hostText} did not assign ${registrationId} to a hub: the registration is ${status}${number}${said}`,
          { details: { status, ...(errorCode === undefined ? {} : { errorCode }) } },
        );
      }
    }
  }

  #read<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      if (error instanceof AnswerShapeError) throw unexpectedAnswer(this.#options.hostText, error.message);
      throw error;
    }
  }

  #failure(error: unknown): unknown {
    const { hostText } = this.#options;
    const refused = refusedAnswer(error);
    if (refused === undefined) {
      return error instanceof SyntaxError
        ? unexpectedAnswer(hostText, 'it is not valid JSON')
        : connectionError(hostText, error);
    }
    const { response, body } = refused;
    const header = response.headers['x-ms-error-code'];
    return refusalError(hostText, {
      status: response.statusCode ?? 401,
      contentType: response.headers['content-type'],
      errorCodeHeader: Array.isArray(header) ? header[0] : header,
      retryAfterMs: undefined,
      clockOffsetSeconds: this.#clockOffset(response),
      body,
    });
  }

  #clockOffset(response: IncomingMessage): number {
    return clockOffsetSeconds(response.headers.date, this.#options.clock());
  }
}

interface Exchanged {
  readonly body: unknown;
  readonly response: IncomingMessage | undefined;
}

function answerOf(send: (done: Answered) => void): Promise<Exchanged> {
  return new Promise((resolve, reject) => {
    send((error, body, response: IncomingMessage | undefined) => {
      // Azure's types know null and undefined as one.
      if ((error as Error | null | undefined) == null) resolve({ body, response });
      else reject(error instanceof Error ? error : new Error('refused'));
    });
  });
}

/** The 401 that our HTTP layer hands over, as Azure's REST client passes it on. */
function refusedAnswer(error: unknown): { response: IncomingMessage; body: string } | undefined {
  if (!(error instanceof Error) || !('response' in error) || !('responseBody' in error)) return undefined;
  return { response: error.response as IncomingMessage, body: String(error.responseBody) };
}

/** An answer to a challenge counts once, and whether it has is not known when the connection is cut. */
type Effect = 'may be repeated' | 'counts once';

/** Whether the connection ended between request and answer. */
function isCut(error: IotdmError): boolean {
  const isAnswered = error.details?.['status'] !== undefined;
  return error.code === 'network.unavailable' && !isAnswered && mayHaveTakenEffect(error);
}

function mayRepeat(error: IotdmError, attempt: number): boolean {
  if (error.code === 'network.throttled') return true;
  // Whoever is in between may reach the service the next time.
  const isUnavailable = error.code === 'network.unavailable' || error.details?.['reason'] === 'proxy-gateway';
  return isUnavailable && attempt < UNAVAILABLE_LIMIT;
}

/** As the state machine wants it; the type of the key's member is not the one that it reads. */
function azuresForm({ deviceId, assignedHub, authenticationKey }: Assigned): Result {
  const tpm = { authenticationKey: authenticationKey.toString('base64') };
  const registrationState = { deviceId, assignedHub, status: 'assigned', tpm };
  return { operationId: '', status: 'assigned', registrationState } as unknown as Result;
}
