/**
 * As much of IoT Hub over HTTPS as shows that a device has its identity: who it is, its modules, one message, its twin.
 * Every hub that devices were assigned to is served; which one is meant, the caller's token says.
 *
 * Sources: "IoT Hub device HTTPS endpoints", "Control access to IoT Hub using Shared Access Signatures", and the REST
 * reference of module identities, api-version 2021-04-12. Twins are for services at the real hub; here the device
 * itself may read its own.
 */

import { randomBytes, randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { decodeBase64 } from '../encoding.ts';
import { isCurrent, thumbprint } from './certificate-info.ts';
import { newGenerationId, type DeviceStore, type HubIdentity } from './device-store.ts';
import { isSameEtag, newEtag, unquoted } from './etags.ts';
import { object } from './members.ts';
import type { Asked, Route, ServiceAnswer, ServiceApi, ServiceRequest } from './router.ts';
import { decoded, expiryProblem, isSignedWith, presentedToken, type PresentedToken } from './sas.ts';
import { ServiceError } from './service-error.ts';
import { ownHub } from './tls.ts';

const apiVersions = [
  '2018-06-30',
  '2019-10-01',
  '2020-03-13',
  '2020-05-31-preview',
  '2020-09-30',
  '2021-04-12',
];
const largestMessage = 256 * 1024;
const keyLength = { least: 16, most: 64, made: 32 } as const;
const idPattern = /^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$/;

/** How paths of the hub begin, also those that are not emulated. */
const hubCollections = [
  'devices',
  'twins',
  'configurations',
  'jobs',
  'statistics',
  'digitaltwins',
  'messages',
];

/** Six digits and the names of IoT Hub's own errors. */
const hubErrors = {
  argumentInvalid: [400004, 'ArgumentInvalid'],
  unauthorized: [401003, 'IotHubUnauthorizedAccess'],
  moduleNotFound: [404010, 'ModuleNotFound'],
  moduleExists: [409301, 'ModuleAlreadyExistsOnDevice'],
  preconditionFailed: [412001, 'PreconditionFailed'],
  messageTooLarge: [413001, 'MessageTooLarge'],
  notEmulated: [501001, 'NotImplemented'],
} as const satisfies Record<string, readonly [number, string]>;

/** For refusals that are not the hub's own: of the router, and faults. */
const nameOfStatus: Readonly<Record<number, string>> = {
  400: 'ArgumentInvalid',
  401: 'IotHubUnauthorizedAccess',
  404: 'NotFound',
  413: 'MessageTooLarge',
  429: 'ThrottlingException',
  500: 'ServerError',
  501: 'NotImplemented',
  503: 'ServiceUnavailable',
};

class HubError extends ServiceError {
  readonly errorName: string;

  constructor([errorCode, errorName]: readonly [number, string], message: string) {
    super(errorCode, message);
    this.errorName = errorName;
  }
}

export function hubApi(devices: DeviceStore, clock: () => Date): ServiceApi {
  const api = new HubApi(devices, clock);
  const device = '/devices/:id';
  const module = `${device}/modules/:moduleId`;
  const identityRoutes: readonly Route[] = [
    { method: 'GET', path: module, body: 'ignored', handle: (request) => api.module(request) },
    { method: 'PUT', path: module, body: 'json', handle: (request) => api.putModule(request) },
  ];
  const own = ['', '/modules/:moduleId'].flatMap((part): Route[] => [
    {
      method: 'POST',
      path: `${device}${part}/messages/events`,
      body: 'any',
      handle: ({ body }) => receivedMessage(body),
    },
    {
      method: 'GET',
      path: `${device}${part}/messages/devicebound`,
      body: 'ignored',
      // Nobody sends anything to a device of the emulator.
      handle: () => ({ status: 204 }),
    },
    { method: 'GET', path: `/twins/:id${part}`, body: 'ignored', handle: (request) => api.twin(request) },
  ]);
  return {
    extent: 'of IoT Hub there is what devices and modules do over HTTPS, and nothing for operators',
    apiVersions,
    serves: ([first = ''], host) =>
      host === ownHub || devices.hasHub(host) || hubCollections.includes(first.toLowerCase()),
    authorize: (request, { path }) => {
      // Modules are made and looked up by their device; all else is done by whom it concerns.
      if (path === module) api.device(request);
      else api.caller(request);
    },
    routes: [...identityRoutes, ...own],
    refuse: hubRefusal,
  };
}

class HubApi {
  readonly #devices: DeviceStore;
  readonly #clock: () => Date;

  constructor(devices: DeviceStore, clock: () => Date) {
    this.#devices = devices;
    this.#clock = clock;
  }

  /** The device in the path, whose key the request is signed with. Throws HubError 401. */
  device(asked: Asked): HubIdentity {
    const [deviceId = '', moduleId = ''] = asked.parameters;
    // A token for just this module covers the request too, if the device has signed it.
    return (
      this.#certified(asked, deviceId) ??
      this.#signer(asked.headers, deviceId, undefined, [deviceId, `${deviceId}/modules/${moduleId}`])
    );
  }

  /** The device or module in the path, whose key the request is signed with. Throws HubError 401. */
  caller(asked: Asked): HubIdentity {
    const [deviceId = '', moduleId] = asked.parameters;
    if (moduleId !== undefined) {
      return this.#signer(asked.headers, deviceId, moduleId, [`${deviceId}/modules/${moduleId}`]);
    }
    return this.#certified(asked, deviceId) ?? this.#signer(asked.headers, deviceId, undefined, [deviceId]);
  }

  module(request: ServiceRequest): ServiceAnswer {
    const { hub, deviceId } = this.device(request);
    const moduleId = request.parameters[1] ?? '';
    const module = this.#devices.identity(hub, deviceId, moduleId);
    if (module === undefined) {
      throw new HubError(hubErrors.moduleNotFound, `module ${moduleId} of device ${deviceId} does not exist`);
    }
    return identityAnswer(200, module);
  }

  putModule(request: ServiceRequest): ServiceAnswer {
    const { hub, deviceId } = this.device(request);
    const wanted = moduleContent(request.body, deviceId, request.parameters[1] ?? '');
    const existing = this.#devices.identity(hub, deviceId, wanted.moduleId);
    const ifMatch = request.headers['if-match'];
    if (ifMatch === undefined && existing !== undefined) {
      throw new HubError(hubErrors.moduleExists, `module ${wanted.moduleId} exists already`);
    }
    if (ifMatch !== undefined && ifMatch !== '*' && !isSameEtag(ifMatch, existing?.etag ?? '')) {
      throw new HubError(hubErrors.preconditionFailed, 'the etag is not that of the module');
    }
    const now = this.#clock();
    const fresh = (): string => randomBytes(keyLength.made).toString('base64');
    const identity: HubIdentity = {
      kind: 'module',
      hub,
      deviceId,
      moduleId: wanted.moduleId,
      primaryKey: wanted.primaryKey ?? existing?.primaryKey ?? fresh(),
      secondaryKey: wanted.secondaryKey ?? existing?.secondaryKey ?? fresh(),
      generationId: existing?.generationId ?? newGenerationId(now),
      etag: newEtag(),
      createdDateTimeUtc: existing?.createdDateTimeUtc ?? now.toISOString(),
      ...(wanted.managedBy === undefined ? {} : { managedBy: wanted.managedBy }),
      twin: existing?.twin ?? { tags: {}, desired: {} },
    };
    this.#devices.commit({ identity });
    return identityAnswer(existing === undefined ? 201 : 200, identity);
  }

  twin(request: ServiceRequest): ServiceAnswer {
    const identity = this.caller(request);
    const { deviceId, moduleId, twin, createdDateTimeUtc, iotEdge } = identity;
    const metadata = { $metadata: { $lastUpdated: createdDateTimeUtc }, $version: 1 };
    return {
      status: 200,
      json: JSON.stringify({
        deviceId,
        ...(moduleId === undefined ? {} : { moduleId }),
        etag: Buffer.from(unquoted(identity.etag)).toString('base64'),
        version: 2,
        status: 'enabled',
        connectionState: 'Disconnected',
        lastActivityTime: noTime,
        cloudToDeviceMessageCount: 0,
        authenticationType: identity.thumbprint === undefined ? 'sas' : 'selfSigned',
        ...(moduleId === undefined ? { capabilities: { iotEdge: iotEdge === true } } : {}),
        tags: twin.tags,
        properties: { desired: { ...twin.desired, ...metadata }, reported: metadata },
      }),
    };
  }

  /**
   * The device, where it shows a certificate and no token. At the emulator's address, which stands for every hub, that of
   * any hub is meant that knows this certificate under this id.
   * @throws HubError 401 when no hub does
   */
  #certified({ headers, certificates }: Asked, deviceId: string): HubIdentity | undefined {
    if (headers.authorization !== undefined) return undefined;
    const [own] = certificates();
    if (own === undefined) return undefined;
    const identity = [...this.#devices.hubs]
      .filter((hub) => isAddressedTo(headers.host, hub))
      .map((hub) => this.#devices.identity(hub, deviceId))
      .find((found) => found?.thumbprint === thumbprint(own));
    if (identity === undefined || !isCurrent(own, this.#clock())) {
      throw unauthorized('the client certificate is not that of this device, or not valid now');
    }
    return identity;
  }

  /** @param covering what the token may be for, without `HUB/devices/` */
  #signer(
    headers: IncomingHttpHeaders,
    deviceId: string,
    moduleId: string | undefined,
    covering: readonly string[],
  ): HubIdentity {
    const token = presentedToken(headers.authorization);
    if (typeof token === 'string') throw unauthorized(token);
    if (isOfPolicy(token)) {
      throw new HubError(
        hubErrors.notEmulated,
        'tokens of shared access policies are not emulated: the hub is for devices',
      );
    }
    // As it is documented, URL-encoded, and as Limpet writes it, plainly.
    const hub = [decoded(token.sr), token.sr]
      .map((sr) => hubIn(sr, covering))
      .find((name) => name !== undefined);
    if (hub === undefined) throw unauthorized('the SharedAccessSignature is for another resource (sr)');
    if (!isAddressedTo(headers.host, hub)) {
      throw unauthorized('the SharedAccessSignature is for another hub than was asked (sr)');
    }
    const identity = this.#devices.identity(hub, deviceId, moduleId);
    const keys = [identity?.primaryKey, identity?.secondaryKey].filter((key) => key !== undefined);
    if (identity === undefined || !keys.some((key) => isSignedWith(token, Buffer.from(key, 'base64')))) {
      // Who does not hold the key is not told whether there is such a device.
      throw unauthorized('the SharedAccessSignature is not signed with a key of this device or module (sig)');
    }
    const problem = expiryProblem(token, this.#clock());
    if (problem !== undefined) throw unauthorized(problem);
    return identity;
  }
}

/** Whether a token is for all of a hub, signed in the name of a policy: those of operators are. */
function isOfPolicy({ sr, skn }: PresentedToken): boolean {
  return skn !== undefined && decoded(sr)?.includes('/') === false;
}

/** The hub in a resource `HUB/devices/…`, or undefined when it is none of those that cover the request. */
function hubIn(resource: string | undefined, covering: readonly string[]): string | undefined {
  const [hub, devices, ...path] = resource?.split('/') ?? [];
  if (hub === undefined || hub === '' || devices !== 'devices') return undefined;
  return covering.includes(path.join('/')) ? hub.toLowerCase() : undefined;
}

/** The emulator's address stands for every hub; a hub's name only for itself. */
function isAddressedTo(host: string | undefined, hub: string): boolean {
  const name = (host ?? '').replace(/:[0-9]*$/, '').toLowerCase();
  return ['', '127.0.0.1', '[::1]', 'localhost', hub].includes(name);
}

function receivedMessage(body: unknown): ServiceAnswer {
  if (Buffer.isBuffer(body) && body.length > largestMessage) {
    throw new HubError(hubErrors.messageTooLarge, 'the message is larger than 256 KiB');
  }
  return { status: 204 };
}

interface ModuleContent {
  readonly moduleId: string;
  readonly managedBy: string | undefined;
  readonly primaryKey: string | undefined;
  readonly secondaryKey: string | undefined;
}

function moduleContent(body: unknown, deviceId: string, moduleId: string): ModuleContent {
  const members = object(body, 'the module');
  if ((members['deviceId'] ?? deviceId) !== deviceId) throw invalid('deviceId is not the one in the path');
  if ((members['moduleId'] ?? moduleId) !== moduleId) throw invalid('moduleId is not the one in the path');
  if (!idPattern.test(moduleId)) throw invalid('moduleId is not 1 to 128 characters that IoT Hub allows');
  const managedBy = members['managedBy'] ?? undefined;
  if (managedBy !== undefined && typeof managedBy !== 'string') throw invalid('managedBy is not a text');
  const authentication = object(members['authentication'] ?? {}, 'authentication');
  if ((authentication['type'] ?? 'sas') !== 'sas') throw invalid('authentication.type is not sas');
  const keys = object(authentication['symmetricKey'] ?? {}, 'authentication.symmetricKey');
  const [primaryKey, secondaryKey] = ['primaryKey', 'secondaryKey'].map((name) => {
    const text = keys[name] ?? undefined;
    if (text === undefined) return undefined;
    const bytes = typeof text === 'string' ? decodeBase64(text) : undefined;
    if (bytes !== undefined && bytes.length >= keyLength.least && bytes.length <= keyLength.most) {
      return text as string;
    }
    throw invalid(`authentication.symmetricKey.${name} is not base64 of 16 to 64 bytes`);
  });
  if ((primaryKey === undefined) !== (secondaryKey === undefined)) {
    throw invalid('authentication.symmetricKey has one key only');
  }
  return { moduleId, managedBy, primaryKey, secondaryKey };
}

/** What the service gives for "never". */
const noTime = '0001-01-01T00:00:00Z';

function identityAnswer(status: number, identity: HubIdentity): ServiceAnswer {
  const { deviceId, moduleId, etag, generationId, primaryKey, secondaryKey, managedBy } = identity;
  return {
    status,
    json: JSON.stringify({
      moduleId,
      managedBy: managedBy ?? null,
      deviceId,
      generationId,
      etag: Buffer.from(unquoted(etag)).toString('base64'),
      connectionState: 'Disconnected',
      connectionStateUpdatedTime: noTime,
      lastActivityTime: noTime,
      cloudToDeviceMessageCount: 0,
      authentication: {
        symmetricKey: { primaryKey, secondaryKey },
        x509Thumbprint: { primaryThumbprint: null, secondaryThumbprint: null },
        type: 'sas',
      },
    }),
    headers: { etag },
  };
}

function hubRefusal(error: ServiceError, now: Date): Omit<ServiceAnswer, 'status'> {
  const name = error instanceof HubError ? error.errorName : (nameOfStatus[error.status] ?? 'GenericError');
  const [date = '', time = ''] = now.toISOString().slice(0, 19).split('T');
  const [year = '', month = '', day = ''] = date.split('-');
  const tracking = `${randomUUID().replaceAll('-', '')}-G:0-TimeStamp:${month}/${day}/${year} ${time}`;
  return {
    json: JSON.stringify({
      Message: `ErrorCode:${name};${error.message}`,
      ExceptionMessage: `Tracking ID:${tracking}`,
    }),
    headers: { 'iothub-errorcode': name },
  };
}

function unauthorized(problem: string): HubError {
  return new HubError(hubErrors.unauthorized, `Unauthorized: ${problem}`);
}

function invalid(message: string): HubError {
  return new HubError(hubErrors.argumentInvalid, message);
}
