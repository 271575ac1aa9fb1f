/**
 * Azure's Device Provisioning Service on loopback, for rehearsal and for tests: the operators' service API over TLS,
 * kept in a state directory. Started again on the same directory it is the same service. Never for production: its
 * keys are plain files.
 */

import { randomBytes, randomInt } from 'node:crypto';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { decodeBase64 } from '../encoding.ts';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { Secret } from '../secret.ts';
import { Disturbance } from './disturbance.ts';
import { EnrollmentStore } from './enrollment-store.ts';
import { knobReport, largestSeed, type KnobReport, type Knobs } from './knobs.ts';
import { requestListener, type AnsweredRequest } from './router.ts';
import type { SharedAccessPolicy } from './sas.ts';
import { serviceApi } from './service-api.ts';
import { lockStateDirectory, makeStateDirectory, readState, writeState } from './state-directory.ts';
import { caFile, serverIdentity, type ServerIdentity } from './tls.ts';

/** With knobs it misbehaves on purpose, for this run only. */
export interface EmulatorOptions extends Knobs {
  /** State directory, made with mode 0700. */
  readonly dir: string;
  /** TCP port. Without it, or with 0, the one that is recorded in the directory if it is free, else any free one. */
  readonly port?: number;
  /** Dates enrollments and certificates, and judges whether tokens have expired. */
  readonly clock?: () => Date;
  /** Called once for each request, as its answer is sent. */
  readonly onRequest?: (entry: AnsweredRequest) => void;
}

export interface EmulatorInfo {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly port: number;
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
    const store = EnrollmentStore.open(join(dir, enrollmentsFile));
    undo.push(() => {
      store.close();
    });

    const server = new LoopbackServer(identity);
    const port = await server.listen(options.port, settings?.port);
    try {
      const host = `${loopback}:${port}`;
      writeConnectionString(dir, host, key);
      const created = settings?.created ?? clock().toISOString();
      writeState(dir, settingsFile, `${JSON.stringify({ port, created })}\n`);
      const policy = { resource: host, keyName, key };
      const disturbance = report === undefined ? undefined : new Disturbance(knobs);
      return new Emulator(dir, port, report ?? null, {
        server,
        store,
        policy,
        clock,
        release,
        disturbance,
        onRequest: options.onRequest,
      });
    } catch (error) {
      await server.close();
      throw error;
    }
  } catch (error) {
    release();
    throw error;
  }
}

interface Parts {
  readonly server: LoopbackServer;
  readonly store: EnrollmentStore;
  readonly policy: SharedAccessPolicy;
  readonly clock: () => Date;
  readonly release: () => void;
  readonly disturbance: Disturbance | undefined;
  readonly onRequest: ((entry: AnsweredRequest) => void) | undefined;
}

class Emulator implements RunningEmulator {
  readonly info: EmulatorInfo;
  #requests = 0;
  readonly #parts: Parts;
  #closing: Promise<void> | undefined;

  constructor(dir: string, port: number, knobs: KnobReport | null, parts: Parts) {
    this.#parts = parts;
    this.info = {
      host: parts.policy.resource,
      port,
      connectionStringFile: join(dir, connectionStringFile),
      ca: join(dir, caFile),
      dir,
      knobs,
    };
    const { server, store, policy, clock, disturbance, onRequest } = parts;
    const onAnswer = (entry: AnsweredRequest): void => {
      this.#requests += 1;
      onRequest?.(entry);
    };
    server.serve(requestListener([serviceApi(store, policy, clock)], { clock, onAnswer, disturbance }));
  }

  get requests(): number {
    return this.#requests;
  }

  close(): Promise<void> {
    this.#closing ??= this.#parts.server.close().then(this.#parts.release);
    return this.#closing;
  }
}

/** An HTTPS server on 127.0.0.1 that can be closed whatever its clients do. */
class LoopbackServer {
  readonly #server: Server;
  /** All TCP connections, also those whose TLS handshake never ends, which Node.js's HTTP server does not count. */
  readonly #sockets = new Set<Socket>();

  constructor(identity: ServerIdentity) {
    this.#server = createServer({
      key: identity.key,
      cert: identity.certificate,
      minVersion: 'TLSv1.2',
      keepAlive: true,
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

function recordedSettings(dir: string): { port: number; created: string } | undefined {
  const text = readState(dir, settingsFile);
  if (text === undefined) return undefined;
  try {
    const { port, created } = JSON.parse(text) as Record<string, unknown>;
    if (typeof port === 'number' && Number.isSafeInteger(port) && port > 0 && port < 65536) {
      if (typeof created === 'string') return { port, created };
    }
  } catch {
    // Said below.
  }
  throw new IotdmError('input.invalid', `${join(dir, settingsFile)} is damaged`);
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
