/** A TLS server on loopback that answers whatever a test tells it to, down to the bytes. */

import { createServer, type TLSSocket } from 'node:tls';
import type { AddressInfo, Socket } from 'node:net';
import { makeAuthority } from './certificates.ts';

export interface ReceivedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Writes the answer to the socket, or does worse. */
export type Answerer = (socket: TLSSocket, request: ReceivedRequest) => void;

export interface LyingServer {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly port: number;
  /** PEM of the authority that issued its certificate. */
  readonly ca: string;
  readonly requests: ReceivedRequest[];
  /** TLS connections so far. */
  connections: number;
  /** Called with each connection as soon as it is secure. */
  greet: (socket: TLSSocket, beneath: Socket | undefined) => void;
  /** Takes the answers in order; the last one is repeated. */
  answer(...answerers: Answerer[]): void;
  close(): Promise<void>;
}

const authority = makeAuthority('lying authority');

export async function startLyingServer(
  identity: { cert: string; key: string; ca: string } = {
    ...authority.issue(['127.0.0.1', 'localhost']),
    ca: authority.pem,
  },
): Promise<LyingServer> {
  let answerers: Answerer[] = [];
  const sockets = new Set<TLSSocket>();
  /** By the port of the other side. */
  const beneath = new Map<number, Socket>();
  const requests: ReceivedRequest[] = [];

  const server = createServer({ cert: identity.cert, key: identity.key }, (socket) => {
    lying.connections += 1;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => undefined);
    lying.greet(socket, beneath.get(socket.remotePort ?? 0));
    let received = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      const request = parseRequest(received);
      if (request === undefined) return;
      received = Buffer.alloc(0);
      requests.push(request);
      const next = answerers.length > 1 ? answerers.shift() : answerers[0];
      next?.(socket, request);
    });
  });
  server.on('connection', (socket: Socket) => beneath.set(socket.remotePort ?? 0, socket));
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  const lying: LyingServer = {
    host: `127.0.0.1:${port}`,
    port,
    ca: identity.ca,
    requests,
    connections: 0,
    greet: () => undefined,
    answer(...given) {
      answerers = given;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return lying;
}

/** An honest answer: JSON, unless a content type is given. */
export function answering(
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): Answerer {
  return (socket) => {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const all: Record<string, string> = {
      'content-type': 'application/json; charset=utf-8',
      'content-length': String(Buffer.byteLength(text)),
      ...headers,
    };
    const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`HTTP/1.1 ${status} Status\r\n${lines.join('')}\r\n${text}`);
  };
}

function parseRequest(bytes: Buffer): ReceivedRequest | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end === -1) return undefined;
  const [requestLine = '', ...lines] = bytes.subarray(0, end).toString('latin1').split('\r\n');
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const body = bytes.subarray(end + 4);
  if (body.length < Number(headers['content-length'] ?? 0)) return undefined;
  const [method = '', path = ''] = requestLine.split(' ');
  return { method, path, headers, body: body.toString('utf8') };
}
