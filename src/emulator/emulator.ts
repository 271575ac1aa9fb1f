/**
 * Azure's Device Provisioning Service and IoT Hub on loopback, for rehearsal and for tests, over TLS: the operators'
 * service API, the devices' API and a hub, each on a port of its own, kept in a state directory. Started again on the
 * same directory they are the same services. Never for production: their keys are plain files.
 */

import { randomBytes, randomInt } from 'node:crypto';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { createSecureContext, type SecureContext } from 'node:tls';
import { decodeBase64 } from '../encoding.ts';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { Secret } from '../secret.ts';
import { deviceApi } from './device-api.ts';
import { DeviceStore } from './device-store.ts';
import { Disturbance } from './disturbance.ts';
import { EnrollmentStore } from './enrollment-store.ts';
import { hubApi } from './hub-api.ts';
import { knobReport, largestSeed, type KnobReport, type Knobs } from './knobs.ts';
import { requestListener, type AnsweredRequest, type ServiceApi } from './router.ts';
import { serviceApi } from './service-api.ts';
import { lockStateDirectory, makeStateDirectory, readState, writeState } from './state-directory.ts';
import { caFile, ownHub, serverIdentity, type ServerIdentity } from './tls.ts';

/** With knobs it misbehaves on purpose, for this run only. */
export interface EmulatorOptions extends Knobs {
  /** State directory, made with mode 0700. */
  readonly dir: string;
  /** TCP port of the operators' API. Without it, or with 0, the recorded one if it is free, else any free one. */
  readonly port?: number;
  /** The same for the devices' API. */
  readonly devicePort?: number;
  /** The same for the hub. */
  readonly hubPort?: number;
  /** Dates enrollments and certificates, and judges whether tokens have expired. */
  readonly clock?: () => Date;
  /** Called once for each request, as its answer is sent. */
  readonly onRequest?: (entry: AnsweredRequest) => void;
}

export interface EmulatorInfo {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly port: number;
  /** Where devices register, `127.0.0.1:PORT`. */
  readonly deviceHost: string;
  readonly idScope: string;
  /** Where all hubs answer that devices are assigned to, `127.0.0.1:PORT`. */
  readonly hubHost: string;
  /** Name of the hub that devices are assigned to whose enrollments name none; its certificate is for this name. */
  readonly hub: string;
  /** The file, readable for its owner only, that holds the service's connection string. */
  readonly connectionStringFile: string;
  /** The file that holds the PEM certificate to trust. */
  readonly ca: string;
  readonly dir: string;
  /** Null when nothing makes it misbehave. */
  readonly knobs: KnobReport | null;
}

export interface RunningEmulator {
  readonly info: EmulatorInfo;
  /** How many requests have been answered since the start, refusals included. */
  readonly requests: number;
  /** Stops listening, lets requests under way end, flushes the state and frees the directory; may be called again. */
  close(): Promise<void>;
}

const loopback = '127.0.0.1';
const keyName = 'provisioningserviceowner';
const keyBytes = 32;
const connectionStringFile = 'service-connection-string';
const settingsFile = 'emulator.json';
const enrollmentsFile = 'enrollments.ndjson';
const groupsFile = 'enrollment-groups.ndjson';
const devicesFile = 'devices.ndjson';

/** Longer than clients keep idle connections, so that it is never the emulator that closes one under a new request. */
const keepAliveMs = 75_000;
/** For requests that are being received when the emulator is closed. */
const closingMs = 1000;

/**
 * Starts the service; it answers when the promise resolves.
 * @throws IotdmError `input.locked` when another emulator uses the directory, `input.invalid` naming a state file that
 * cannot be understood, `input.unreadable`, `usage.output-unwritable`, `usage.invalid` for a port that cannot be had
 */
export async function startEmulator(options: EmulatorOptions): Promise<RunningEmulator> {
  const dir = resolve(options.dir);
  makeStateDirectory(dir);
  const undo: (() => void)[] = [];
  const release = (): void => {
    for (const step of undo.splice(0).reverse()) step();
  };
  try {
    const knobs = { ...options, faultSeed: options.faultSeed ?? randomInt(largestSeed + 1) };
    const report = knobReport(knobs);
    const lock = lockStateDirectory(dir, report === undefined ? {} : { knobs: report });
    undo.push(() => {
      lock.release();
    });
    const key = Secret.fromBytes(recordedKey(dir) ?? randomBytes(keyBytes));
    undo.push(() => {
      key.wipe();
    });
    const clock = options.clock ?? (() => new Date());
    const settings = recordedSettings(dir);
    const identity = await serverIdentity(dir, clock());
    const enrollments = EnrollmentStore.open(join(dir, enrollmentsFile), 'registrationId');
    undo.push(() => {
      enrollments.close();
    });
    const groups = EnrollmentStore.open(join(dir, groupsFile), 'enrollmentGroupId');
    undo.push(() => {
      groups.close();
    });
    const devices = DeviceStore.open(join(dir, devicesFile));
    undo.push(() => {
      devices.close();
    });
    devices.forgetOrphans(({ registrationId, proof }) =>
      proof?.enrollmentGroupId === undefined
        ? enrollments.find(registrationId) !== undefined
        : groups.find(proof.enrollmentGroupId) !== undefined,
    );

    const service = new LoopbackServer(identity);
    const registration = new LoopbackServer(identity);
    const hub = new LoopbackServer(identity, (name) => name !== ownHub && devices.hasHub(name));
    const servers = [service, registration, hub];
    const closeServers = async (): Promise<void> => {
      await Promise.all(servers.map((server) => server.close()));
    };
    try {
      const port = await service.listen(options.port, settings?.port);
      const devicePort = await registration.listen(options.devicePort, settings?.devicePort);
      const hubPort = await hub.listen(options.hubPort, settings?.hubPort);
      const host = `${loopback}:${port}`;
      const deviceHost = `${loopback}:${devicePort}`;
      const idScope = settings?.idScope ?? newIdScope();
      writeConnectionString(dir, host, key);
      const created = settings?.created ?? clock().toISOString();
      writeState(
        dir,
        settingsFile,
        `${JSON.stringify({ port, devicePort, hubPort, idScope, hub: ownHub, created })}\n`,
      );
      const policy = { resource: host, keyName, key };
      const apis: readonly (readonly [LoopbackServer, ServiceApi])[] = [
        [service, serviceApi({ enrollments, groups, devices, policy, clock })],
        [
          registration,
          deviceApi({
            enrollments,
            devices,
            clock,
            idScope,
            host: deviceHost,
            hub: ownHub,
            assignDelayMs: options.assignDelayMs ?? 0,
          }),
        ],
        [hub, hubApi(devices, clock)],
      ];
      const info: EmulatorInfo = {
        host,
        port,
        deviceHost,
        idScope,
        hubHost: `${loopback}:${hubPort}`,
        hub: ownHub,
        connectionStringFile: join(dir, connectionStringFile),
        ca: join(dir, caFile),
        dir,
        knobs: report ?? null,
      };
      const disturbance = report === undefined ? undefined : new Disturbance(knobs);
      return new Emulator(info, apis, () => closeServers().then(release), {
        clock,
        disturbance,
        onRequest: options.onRequest,
      });
    } catch (error) {
      await closeServers();
      throw error;
    }
  } catch (error) {
    release();
    throw error;
  }
}

interface Behaviour {
  readonly clock: () => Date;
  readonly disturbance: Disturbance | undefined;
  readonly onRequest: ((entry: AnsweredRequest) => void) | undefined;
}

class Emulator implements RunningEmulator {
  readonly info: EmulatorInfo;
  #requests = 0;
  readonly #end: () => Promise<void>;
  #closing: Promise<void> | undefined;

  constructor(
    info: EmulatorInfo,
    apis: readonly (readonly [LoopbackServer, ServiceApi])[],
    end: () => Promise<void>,
    { clock, disturbance, onRequest }: Behaviour,
  ) {
    this.info = info;
    this.#end = end;
    const onAnswer = (entry: AnsweredRequest): void => {
      this.#requests += 1;
      onRequest?.(entry);
    };
    for (const [server, api] of apis) server.serve(requestListener([api], { clock, onAnswer, disturbance }));
  }

  get requests(): number {
    return this.#requests;
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }
}

/** An HTTPS server on 127.0.0.1 that can be closed whatever its clients do. */
class LoopbackServer {
  readonly #server: Server;
  /** All TCP connections, also those whose TLS handshake never ends, which Node.js's HTTP server does not count. */
  readonly #sockets = new Set<Socket>();

  /** @param hasName which names besides its own it has, for which it shows certificates of their own */
  constructor(identity: ServerIdentity, hasName: (name: string) => boolean = () => false) {
    const certificates = new NamedCertificates(identity);
    this.#server = createServer({
      key: identity.key,
      cert: identity.certificate,
      minVersion: 'TLSv1.2',
      keepAlive: true,
      SNICallback: (name, done) => {
        // Without a context, the server's own certificate is shown.
        if (!hasName(name)) done(null);
        else
          certificates.contextFor(name.toLowerCase()).then((context) => {
            done(null, context);
          }, done);
      },
    });
    this.#server.keepAliveTimeout = keepAliveMs;
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  /** The port that it listens on: the wanted one, or else the recorded one if it is free, or else any. */
  async listen(wanted: number | undefined, recorded: number | undefined): Promise<number> {
    try {
      return await this.#listenOn(wanted || recorded || 0);
    } catch (cause) {
      if (!wanted && recorded !== undefined) return this.#listenOn(0);
      throw new IotdmError(
        'usage.invalid',
        `port ${wanted ?? 0} of ${loopback} cannot be used (${systemErrorCode(cause) ?? 'unknown reason'})`,
        { cause },
      );
    }
  }

  serve(listener: ReturnType<typeof requestListener>): void {
    this.#server.on('request', listener);
    // Without a listener, a connection that cannot be accepted, for want of descriptors say, would end the process.
    this.#server.on('error', () => undefined);
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const impatience = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy();
    }, closingMs);
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
      this.#server.closeIdleConnections();
    });
    clearTimeout(impatience);
  }

  async #listenOn(port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ port, host: loopback }, () => {
        this.#server.off('error', reject);
        resolve((this.#server.address() as AddressInfo).port);
      });
    });
  }
}

/** Certificates for the names of hubs, issued when they are first asked for. */
class NamedCertificates {
  readonly #identity: ServerIdentity;
  readonly #contexts = new Map<string, Promise<SecureContext>>();

  constructor(identity: ServerIdentity) {
    this.#identity = identity;
  }

  contextFor(name: string): Promise<SecureContext> {
    const known = this.#contexts.get(name);
    if (known !== undefined) return known;
    const made = this.#identity
      .issueFor(name)
      .then(({ key, certificate }) => createSecureContext({ key, cert: certificate, minVersion: 'TLSv1.2' }));
    this.#contexts.set(name, made);
    return made;
  }
}

/** `0ne` and eight more, as those of the service look. */
function newIdScope(): string {
  return `0ne${randomBytes(4).toString('hex').toUpperCase()}`;
}

interface Settings {
  readonly port: number;
  readonly created: string;
  /** Those of earlier versions have none of these. */
  readonly devicePort?: number;
  readonly hubPort?: number;
  readonly idScope?: string;
}

function recordedSettings(dir: string): Settings | undefined {
  const text = readState(dir, settingsFile);
  if (text === undefined) return undefined;
  try {
    const { port, devicePort, hubPort, idScope, created } = JSON.parse(text) as Record<string, unknown>;
    const isWhole =
      isPort(port) &&
      typeof created === 'string' &&
      (devicePort === undefined || isPort(devicePort)) &&
      (hubPort === undefined || isPort(hubPort)) &&
      (idScope === undefined || (typeof idScope === 'string' && /^0ne[0-9A-F]{8}$/.test(idScope)));
    if (isWhole) {
      return {
        port,
        created,
        ...(devicePort === undefined ? {} : { devicePort }),
        ...(hubPort === undefined ? {} : { hubPort }),
        ...(idScope === undefined ? {} : { idScope }),
      };
    }
  } catch {
    // Said below.
  }
  throw new IotdmError('input.invalid', `${join(dir, settingsFile)} is damaged`);
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 && value < 65536;
}

/** The key in the recorded connection string: the host in it may be an earlier one. No message quotes the file. */
function recordedKey(dir: string): Buffer | undefined {
  const text = readState(dir, connectionStringFile);
  if (text === undefined) return undefined;
  const found = /^HostName=[^;]+;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=([^;]+)$/.exec(
    text.trim(),
  );
  const key = decodeBase64(found?.[1] ?? '');
  if (key !== undefined && key.length >= keyBytes) return key;
  throw new IotdmError('input.invalid', `${join(dir, connectionStringFile)} is damaged`);
}

/** Only when it would change: a reader's view of the file stays the same file. */
function writeConnectionString(dir: string, host: string, key: Secret): void {
  const text = `HostName=${host};SharedAccessKeyName=${keyName};SharedAccessKey=${key.bytes.toString('base64')}`;
  if (readState(dir, connectionStringFile) !== text) writeState(dir, connectionStringFile, text);
}
