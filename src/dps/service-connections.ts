/**
 * Connections to one service, directly or through a proxy: TLS that is always verified, kept as long as they are of use,
 * one request at a time on each.
 */
import { EventEmitter } from 'node:events';
import type { ClientRequest } from 'node:http';
import { isIP } from 'node:net';
import { checkServerIdentity, connect as connectTls, TLSSocket, type SecureContext } from 'node:tls';
import Client from 'undici/lib/dispatcher/client.js';
import { because, IotdmError } from '../errors.ts';
import { secureContextWith } from '../trusted-certificates.ts';
import { TunnelAgent } from './proxy-agent.ts';
import type { Proxy } from './proxy.ts';
import type { ServiceHost } from './service-host.ts';

export interface ConnectionOptions {
  readonly host: ServiceHost;
  /** How the host was written, for messages. */
  readonly hostText: string;
  /** PEM certificates, trusted in addition to Node's roots. */
  readonly ca: string | undefined;
  /** Through which the host is reached; undefined reaches it directly. */
  readonly proxy: Proxy | undefined;
  /** For the name lookup, the TCP connection and the TLS handshake together; for a proxy's tunnel once more. */
  readonly connectTimeoutMs: number;
  readonly maxSockets: number;
}

export type HttpConnection = Client;
type Use = (connection: HttpConnection) => void;
type Connected = (error: Error | null, socket: TLSSocket | null) => void;

/** Under the idle time after which load balancers drop connections silently. */
const idleSocketMs = 55_000;

/**
 * undici's own pool counts a connection as busy until a moment after its answer, and opens another for whoever asks for
 * one thing after the other.
 */
export class ServiceConnections {
  readonly #options: ConnectionOptions;
  readonly #secureContext: SecureContext | undefined;
  readonly #tunnels: TunnelAgent | undefined;
  readonly #clients = new Set<Client>();
  readonly #idle: Client[] = [];
  readonly #waiting: Use[] = [];
  readonly #connecting = new Set<TLSSocket>();
  readonly #sockets = new WeakMap<Client, TLSSocket>();

  /** Throws `input.invalid` when `ca` holds no usable certificate. */
  constructor(options: ConnectionOptions) {
    this.#options = options;
    const { ca, proxy, maxSockets, connectTimeoutMs } = options;
    // Made once: reading all roots for every connection is slow.
    this.#secureContext = ca === undefined ? undefined : secureContextWith(ca);
    if (proxy === undefined) return;
    const trust = this.#secureContext === undefined ? {} : { secureContext: this.#secureContext };
    const tunnel = { keepAlive: false, maxSockets, timeout: idleSocketMs, ...trust };
    this.#tunnels = new TunnelAgent({ ...tunnel, proxy, connectTimeoutMs });
  }

  /** Calls back with a connection, at once or when one has been given back; it is made when it is first used. */
  take(use: Use): void {
    const client = this.#idle.pop() ?? this.#another();
    if (client === undefined) this.#waiting.push(use);
    else use(client);
  }

  /** To be called when the request is over, whatever became of it. */
  giveBack(connection: HttpConnection): void {
    if (connection.destroyed) this.#clients.delete(connection);
    else this.#idle.push(connection);
    const next = this.#waiting.shift();
    if (next !== undefined) this.take(next);
  }

  /** The socket beneath a connection, once it is secure. */
  socketOf(connection: HttpConnection): TLSSocket | undefined {
    return this.#sockets.get(connection);
  }

  /** Ends all sockets, idle or not, and those that are being connected. */
  destroy(): void {
    for (const socket of this.#connecting) socket.destroy();
    this.#tunnels?.destroy();
    for (const client of this.#clients) void client.destroy();
  }

  #another(): Client | undefined {
    if (this.#clients.size >= this.#options.maxSockets) return undefined;
    const client: Client = new Client(originOf(this.#options.host), {
      pipelining: 1,
      keepAliveTimeout: idleSocketMs,
      keepAliveMaxTimeout: idleSocketMs,
      // What an answer may take is for whoever asks.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: (_options, callback) => {
        this.#connect(client, (error, socket) => {
          // One that cannot be made is not used again: undici cannot be given the next request while it reports this.
          if (error !== null) void client.destroy(error);
          (callback as Connected)(error, socket);
        });
      },
    });
    this.#clients.add(client);
    return client;
  }

  #connect(client: Client, connected: Connected): void {
    const { hostname, port } = this.#options.host;
    const options = {
      host: hostname,
      port,
      // An IP address must not be sent as a server name (RFC 6066, 3); Node.js then checks the certificate for it.
      servername: isIP(hostname) === 0 ? hostname : '',
      ALPNProtocols: ['http/1.1'],
      rejectUnauthorized: true,
      // Said here, as inside a tunnel nothing else knows for whom the certificate must be.
      checkServerIdentity: (...[, certificate]: Parameters<typeof checkServerIdentity>) =>
        checkServerIdentity(hostname, certificate),
      ...(this.#secureContext === undefined ? {} : { secureContext: this.#secureContext }),
    };
    if (this.#tunnels === undefined) {
      this.#secure(connectTls(options), client, connected);
      return;
    }
    this.#tunnels
      // Of the request the library wants to tell what the proxy has said, no more.
      .connect(new EventEmitter() as unknown as ClientRequest, { ...options, secureEndpoint: true })
      .then(
        (socket) => {
          // A proxy's own words are never taken for the service's.
          if (socket instanceof TLSSocket) this.#secure(socket, client, connected);
          else connected(new TypeError('a tunnel without TLS'), null);
        },
        (error: unknown) => {
          connected(error as Error, null);
        },
      );
  }

  /** Waits for the handshake, and sees to it that the client knows of what happens after it. */
  #secure(socket: TLSSocket, client: Client, connected: Connected): void {
    const { hostText, connectTimeoutMs } = this.#options;
    this.#connecting.add(socket);
    let error: Error = new IotdmError('network.unavailable', `the connection to ${hostText} was closed`);
    const timer = setTimeout(() => {
      const text = `${hostText} did not complete a secure connection within ${connectTimeoutMs / 1000} s`;
      socket.destroy(new IotdmError('network.timeout', text, { details: because('not-connected') }));
    }, connectTimeoutMs);
    const failed = (reason: Error): void => {
      error = reason;
      // Node.js leaves a socket open of which TLS has failed, and the client waits for its end.
      if (isHandedOver) socket.destroy();
    };
    const end = (): void => {
      clearTimeout(timer);
      this.#connecting.delete(socket);
    };
    let isHandedOver = false;
    let isTaken = false;
    const closed = (): void => {
      end();
      if (!isHandedOver) connected(error, null);
      // The client listens a moment later; of what ended before, it would wait for the end for ever.
      else if (!isTaken) void client.destroy(error);
    };
    const secured = (): void => {
      end();
      isHandedOver = true;
      this.#sockets.set(client, socket);
      client.once('connect', () => {
        isTaken = true;
      });
      // The last piece of a request must not wait until those before it are acknowledged.
      socket.setNoDelay(true);
      connected(null, socket);
    };
    socket.on('error', failed).once('close', closed).once('secureConnect', secured);
  }
}

function originOf({ hostname, port }: ServiceHost): string {
  return `https://${isIP(hostname) === 6 ? `[${hostname}]` : hostname}:${port}`;
}
