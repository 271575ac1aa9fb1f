/**
 * Registration over Azure's own ProvisioningDeviceClient, which leads through the protocol: its state machine is given a
 * security client that stores nothing (Azure's own writes each key over the identity in slot 0) and a transport of ours.
 */
import { setTimeout as wait } from 'node:timers/promises';
import provisioningDevice from 'azure-iot-provisioning-device';
import provisioningDeviceHttp from 'azure-iot-provisioning-device-http';
import { IotdmError, withDetails } from '../errors.ts';
import { AzureHttp, type HttpTrace } from './azure-http.ts';
import { RegistrationTransport } from './azure-registration-transport.ts';
import { registrationIdProblem, type TwinObject } from './enrollment.ts';
import {
  idScopeProblem,
  type AttestingTpm,
  type Registered,
  type RegistrationEvent,
} from './registration.ts';
import type { Proxy } from './proxy.ts';
import { connectionError } from './service-errors.ts';
import { parseServiceHost } from './service-host.ts';

export interface RegistrationOptions<Key> {
  readonly tpm: AttestingTpm<Key>;
  /** Device endpoint: `global.azure-devices-provisioning.net`, or `host:port`. */
  readonly host: string;
  readonly idScope: string;
  readonly registrationId: string;
  /** For a custom allocation. */
  readonly payload?: TwinObject;
  /** PEM certificates, trusted in addition to Node's roots. */
  readonly ca?: string;
  /** Through which the host is reached; directly when absent. */
  readonly proxy?: Proxy;
  /** For one request, from its socket to the answer's last byte; 30 s when absent. */
  readonly timeoutMs?: number;
  /** For name lookup, TCP and TLS of one connection; 5 s when absent. */
  readonly connectTimeoutMs?: number;
  /** For all of it; 5 minutes when absent. */
  readonly deadlineMs?: number;
  /** Aborted: ends with `interrupted.signal`. */
  readonly signal?: AbortSignal;
  readonly onRequest?: (trace: HttpTrace) => void;
  readonly onEvent?: (event: RegistrationEvent) => void;
  /** Milliseconds since 1970: reads `retry-after` and compares the clocks. */
  readonly clock?: () => number;
  /** Replaces the jitter, the wait between requests and the patience with one of them, in tests. */
  readonly random?: () => number;
  readonly sliceMs?: number;
  readonly delay?: (ms: number, signal: AbortSignal) => Promise<unknown>;
}

const DEFAULT_DEADLINE_MS = 300_000;

/** Of the whole protocol, where the connection is cut at the moment after which only a new challenge helps. */
const ATTEMPTS = 3;

/**
 * Registers a device. Nothing is stored: the device's key comes back as the TPM took it over.
 * @throws IotdmError `auth.clock`, `auth.refused`, `service.*`, `network.*`, `verify.identity-key`, `tpm.*`, `usage.invalid`
 */
export async function registerWithDps<Key>(options: RegistrationOptions<Key>): Promise<Registered<Key>> {
  const { host, idScope, registrationId, signal } = options;
  const problem = idScopeProblem(idScope) ?? registrationIdProblem(registrationId);
  if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
  const http = new AzureHttp({
    host: parseServiceHost(host),
    hostText: host,
    ca: options.ca,
    proxy: options.proxy,
    timeoutMs: options.timeoutMs ?? 30_000,
    connectTimeoutMs: options.connectTimeoutMs ?? 5_000,
    maxSockets: 1,
    clock: options.clock ?? Date.now,
    onRequest: options.onRequest ?? (() => undefined),
    handedOver: 401,
  });
  const ended = new AbortController();
  const end = (error: IotdmError): void => {
    ended.abort(error);
    http.close(error);
  };
  const interrupt = (): void => {
    end(new IotdmError('interrupted.signal', 'interrupted before DPS had answered'));
  };
  let transport = newTransport(options, http, ended.signal);
  const deadlineMs = options.deadlineMs ?? DEFAULT_DEADLINE_MS;
  const deadline = setTimeout(() => {
    end(transport.repeating ?? tooLate(host, registrationId, deadlineMs));
  }, deadlineMs);
  if (signal?.aborted === true) interrupt();
  signal?.addEventListener('abort', interrupt);
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await lead(options, transport);
      } catch (error) {
        if (!transport.isAnswerSpent || attempt >= ATTEMPTS || ended.signal.aborted) throw error;
        transport = newTransport(options, http, ended.signal);
      }
    }
  } catch (error) {
    throw withDetails(connectionError(host, error), { registrationId, idScope });
  } finally {
    clearTimeout(deadline);
    signal?.removeEventListener('abort', interrupt);
    http.close(new IotdmError('interrupted.signal', 'the registration has ended'));
  }
}

function newTransport<Key>(
  options: RegistrationOptions<Key>,
  http: AzureHttp,
  ended: AbortSignal,
): RegistrationTransport {
  return new RegistrationTransport({
    inner: new provisioningDeviceHttp.Http(http),
    hostText: options.host,
    registrationId: options.registrationId,
    ended,
    onEvent: options.onEvent ?? (() => undefined),
    clock: options.clock ?? Date.now,
    random: options.random ?? Math.random,
    sliceMs: options.sliceMs ?? 10_000,
    delay: options.delay ?? ((ms, signal) => wait(ms, undefined, { signal })),
  });
}

/** Has Azure's client go through the protocol once. */
async function lead<Key>(
  { tpm, host, idScope, registrationId, payload, onEvent }: RegistrationOptions<Key>,
  transport: RegistrationTransport,
): Promise<Registered<Key>> {
  const security = new SecurityClient(tpm, registrationId);
  const client = provisioningDevice.ProvisioningDeviceClient.create(host, idScope, transport, security);
  if (payload !== undefined) client.setProvisioningPayload(payload);
  await new Promise<void>((resolve, reject) => {
    transport.onFault = reject;
    security.onFault = reject;
    void client.register((error) => {
      if ((error as Error | null | undefined) == null) resolve();
      else reject(error instanceof Error ? error : new Error('refused'));
    });
  });
  const { assigned } = transport;
  const key = security.current;
  if (assigned === undefined || key === undefined) throw new Error('registered without a result');
  const { deviceId, assignedHub, status, substatus } = assigned;
  onEvent?.({ kind: 'assigned', deviceId, assignedHub });
  return { registrationId, deviceId, assignedHub, status, substatus, payload: assigned.payload, key };
}

/** What Azure's registration calls a TpmSecurityClient, with both keys in hand and neither in the TPM. */
class SecurityClient<Key> {
  readonly #tpm: AttestingTpm<Key>;
  readonly #registrationId: string;
  /** Told what the state machine throws when it is called back, which nobody could catch. */
  onFault: (error: unknown) => void = () => undefined;
  /** The key of the registration, and later the device's. */
  current: Key | undefined;

  constructor(tpm: AttestingTpm<Key>, registrationId: string) {
    this.#tpm = tpm;
    this.#registrationId = registrationId;
  }

  getEndorsementKey(callback: Answer<Buffer>): void {
    callback(none, this.#tpm.endorsementKey);
  }

  getStorageRootKey(callback: Answer<Buffer>): void {
    callback(none, this.#tpm.storageRootKey);
  }

  getRegistrationId(callback: Answer<string>): void {
    callback(none, this.#registrationId);
  }

  activateIdentityKey(blob: Buffer, callback: (error: Error) => void): void {
    this.#answer(
      this.#tpm.takeOver(blob).then((key) => {
        this.current = key;
      }),
      callback,
    );
  }

  signWithIdentity(data: Buffer, callback: Answer<Buffer>): void {
    const key = this.current;
    this.#answer(
      key === undefined ? Promise.reject(new Error('no key to sign with')) : this.#tpm.sign(key, data),
      callback,
    );
  }

  #answer<T>(work: Promise<T>, callback: Answer<T>): void {
    work
      .then(
        (value) => {
          callback(none, value);
        },
        (error: unknown) => {
          callback(error as Error);
        },
      )
      .catch(this.onFault);
  }
}

type Answer<T> = (error: Error, value?: T) => void;

/** The error of a success: Azure's types have none. */
const none = null as unknown as Error;

function tooLate(host: string, registrationId: string, deadlineMs: number): IotdmError {
  const deadlineSeconds = deadlineMs / 1000;
  return new IotdmError(
    'network.timeout',
    `${host} has not assigned ${registrationId} to a hub within ${deadlineSeconds} s`,
    { details: { deadlineSeconds } },
  );
}
