/** HTTPS servers on 127.0.0.1: one for each port, also where several of the emulated services share one. */

import { constants } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createSecureContext, type SecureContext } from 'node:tls';
import { IotdmError, systemErrorCode } from '../errors.ts';
import type { ServerIdentity } from './tls.ts';

export const loopback = '127.0.0.1';

/** Longer than clients keep idle connections, so that it is never the emulator that closes one under a new request. */
const keepAliveMs = 75_000;
/** For requests that are being received when the emulator is closed. */
const closingMs = 1000;

export interface LoopbackServerOptions {
  readonly identity: ServerIdentity;
  /** Which names besides its own it has, for which it shows certificates of their own. */
  readonly hasName?: ((name: string) => boolean) | undefined;
  /** Whether clients are asked for a certificate. They need not have one, and any is taken: who asks for it judges it. */
  readonly asksForCertificate?: boolean;
}

/**
 * What TLS of all servers has in common. Sessions are not resumed: of a resumed one, the certificates that the client
 * has shown are not known any more.
 */
const tlsOptions = { minVersion: 'TLSv1.2', secureOptions: constants.SSL_OP_NO_TICKET } as const;

/** A server that can be closed whatever its clients do. */
export class LoopbackServer {
  readonly #server: Server;
  /** All TCP connections, also those whose TLS handshake never ends, which Node.js's HTTP server does not count. */
  readonly #sockets = new Set<Socket>();

  constructor({ identity, hasName = () => false, asksForCertificate = false }: LoopbackServerOptions) {
    const certificates = new NamedCertificates(identity);
    this.#server = createServer({
      key: identity.key,
      cert: identity.certificate,
      ...tlsOptions,
      keepAlive: true,
      requestCert: asksForCertificate,
      rejectUnauthorized: false,
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
        'usage.port-unavailable',
        `port ${wanted ?? 0} of ${loopback} cannot be used (${systemErrorCode(cause) ?? 'unknown reason'})`,
        { cause },
      );
    }
  }

  serve(listener: RequestListener): void {
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

export interface PortWish<Name> {
  readonly name: Name;
  /** The port that must be had; undefined or 0 where any will do. */
  readonly wanted: number | undefined;
  /** That of the last time, which is taken again if it is free. */
  readonly recorded: number | undefined;
}

export interface Listening<Name> {
  readonly server: LoopbackServer;
  readonly port: number;
  /** What is served there, in the order of the wishes. */
  readonly names: readonly Name[];
}

/**
 * Listens on the ports that are wished for: on one for those with the same.
 * @param make a server for those that share it
 * @throws IotdmError `usage.port-unavailable` for a wanted port that cannot be had
 */
export async function listenOn<Name>(
  wishes: readonly PortWish<Name>[],
  make: (names: readonly Name[]) => LoopbackServer,
): Promise<readonly Listening<Name>[]> {
  const shares = new Map<unknown, PortWish<Name>[]>();
  for (const wish of wishes) {
    // Who wishes for none shares with nobody.
    const port = wish.wanted || wish.recorded || wish.name;
    shares.set(port, [...(shares.get(port) ?? []), wish]);
  }
  const listening: Listening<Name>[] = [];
  // Those that must be had come first, or another might be given one of them by chance.
  const inOrder = [...shares.values()].sort((one, other) => rankOf(one) - rankOf(other));
  for (const share of inOrder) {
    const names = share.map(({ name }) => name);
    const server = make(names);
    const wanted = share.find((wish) => wish.wanted)?.wanted;
    const port = await server.listen(wanted, share[0]?.recorded);
    listening.push({ server, port, names });
  }
  return listening;
}

function rankOf(share: readonly PortWish<unknown>[]): number {
  if (share.some(({ wanted }) => wanted)) return 0;
  return share.some(({ recorded }) => recorded) ? 1 : 2;
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
      .then(({ key, certificate }) => createSecureContext({ key, cert: certificate, ...tlsOptions }));
    this.#contexts.set(name, made);
    return made;
  }
}
