/**
 * Azure's Device Provisioning Service and IoT Hub on loopback, for rehearsal and for tests, over TLS: the operators'
 * service API, the devices' API and a hub, each on a port of its own, kept in a state directory. Started again on the
 * same directory they are the same services. Never for production: their keys are plain files.
 */

import { randomBytes, randomInt } from 'node:crypto';
import { join, resolve } from 'node:path';
import { decodeBase64 } from '../encoding.ts';
import { because, IotdmError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { deviceApi } from './device-api.ts';
import { DeviceStore } from './device-store.ts';
import { Disturbance } from './disturbance.ts';
import { emulatorSettingsFile, recordedSettings, type EmulatorSettings } from './emulator-settings.ts';
import { EnrollmentStore } from './enrollment-store.ts';
import { hubApi } from './hub-api.ts';
import { knobReport, largestSeed, type KnobReport, type Knobs } from './knobs.ts';
import { listenOn, loopback, LoopbackServer, type PortWish } from './loopback-server.ts';
import { requestListener, type AnsweredRequest, type ServiceApi } from './router.ts';
import { serviceApi } from './service-api.ts';
import { lockStateDirectory, makeStateDirectory, readState, writeState } from './state-directory.ts';
import { caFile, ownHub, serverIdentity } from './tls.ts';

/** With knobs it misbehaves on purpose, for this run only. */
export interface EmulatorOptions extends Knobs {
  /** State directory, made with mode 0700. */
  readonly dir: string;
  /**
   * TCP port of the operators' API. Without it, or with 0, the recorded one if it is free, else any free one. Services
   * with the same port share it.
   */
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
  /** `127.0.0.1:PORT`, also where the connection string has no port, as it is the one of HTTPS. */
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

/** In the order in which they are asked, where they share a port, whether a request is theirs. */
type ServiceName = 'hub' | 'device' | 'service';

/** Azure's clients take `host:port` for the name of a host. */
const httpsPort = 443;
const keyName = 'provisioningserviceowner';
const keyBytes = 32;
const connectionStringFile = 'service-connection-string';
const enrollmentsFile = 'enrollments.ndjson';
const groupsFile = 'enrollment-groups.ndjson';
const devicesFile = 'devices.ndjson';

/**
 * Starts the service; it answers when the promise resolves.
 * @throws IotdmError `input.locked` when another emulator uses the directory, `input.invalid` naming a state file that
 * cannot be understood, `input.unreadable`, `usage.output-unwritable`, `usage.port-unavailable`
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

    const servers: LoopbackServer[] = [];
    const closeServers = async (): Promise<void> => {
      await Promise.all(servers.map((server) => server.close()));
    };
    try {
      const listening = await listenOn(portWishes(options, settings), (names) => {
        const server = new LoopbackServer({
          identity,
          hasName: names.includes('hub') ? (name) => name !== ownHub && devices.hasHub(name) : undefined,
          // Those at which devices prove who they are.
          asksForCertificate: names.some((name) => name !== 'service'),
        });
        servers.push(server);
        return server;
      });
      const portOf = (name: ServiceName): number =>
        listening.find(({ names }) => names.includes(name))?.port ?? 0;
      const [port, devicePort, hubPort] = [portOf('service'), portOf('device'), portOf('hub')];
      const host = `${loopback}:${port}`;
      const deviceHost = `${loopback}:${devicePort}`;
      const idScope = settings?.idScope ?? newIdScope();
      writeConnectionString(dir, port, key);
      const created = settings?.created ?? clock().toISOString();
      writeState(
        dir,
        emulatorSettingsFile,
        `${JSON.stringify({ port, devicePort, hubPort, idScope, hub: ownHub, created })}\n`,
      );
      // Azure's clients know no port: what they sign is for the host alone.
      const policy = { resources: [host, loopback], keyName, key };
      const apis: Readonly<Record<ServiceName, ServiceApi>> = {
        hub: hubApi(devices, clock),
        device: deviceApi({
          enrollments,
          groups,
          devices,
          clock,
          idScope,
          host: deviceHost,
          hub: ownHub,
          assignDelayMs: options.assignDelayMs ?? 0,
        }),
        service: serviceApi({ enrollments, groups, devices, policy, clock }),
      };
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
      const served = listening.map(({ server, names }) => ({
        server,
        apis: names.map((name) => apis[name]),
      }));
      return new Emulator(info, served, () => closeServers().then(release), {
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
    served: readonly { readonly server: LoopbackServer; readonly apis: readonly ServiceApi[] }[],
    end: () => Promise<void>,
    { clock, disturbance, onRequest }: Behaviour,
  ) {
    this.info = info;
    this.#end = end;
    const onAnswer = (entry: AnsweredRequest): void => {
      this.#requests += 1;
      onRequest?.(entry);
    };
    for (const { server, apis } of served) {
      server.serve(requestListener(apis, { clock, onAnswer, disturbance }));
    }
  }

  get requests(): number {
    return this.#requests;
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }
}

/** `0ne` and eight more, as those of the service look. */
function newIdScope(): string {
  return `0ne${randomBytes(4).toString('hex').toUpperCase()}`;
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
  throw new IotdmError('input.invalid', `${join(dir, connectionStringFile)} is damaged`, {
    details: because('emulator-state'),
  });
}

/** Only when it would change: a reader's view of the file stays the same file. */
function writeConnectionString(dir: string, port: number, key: Secret): void {
  const host = port === httpsPort ? loopback : `${loopback}:${port}`;
  const text = `HostName=${host};SharedAccessKeyName=${keyName};SharedAccessKey=${key.bytes.toString('base64')}`;
  if (readState(dir, connectionStringFile) !== text) writeState(dir, connectionStringFile, text);
}

function portWishes(
  options: EmulatorOptions,
  settings: EmulatorSettings | undefined,
): readonly PortWish<ServiceName>[] {
  return [
    { name: 'hub', wanted: options.hubPort, recorded: settings?.hubPort },
    { name: 'device', wanted: options.devicePort, recorded: settings?.devicePort },
    { name: 'service', wanted: options.port, recorded: settings?.port },
  ];
}
