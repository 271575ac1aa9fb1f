/** An HTTPS proxy on loopback that tunnels (CONNECT), or refuses to as a test tells it. */
import { createServer } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';

export interface ConnectProxy {
  readonly port: number;
  /** `host:port` of each tunnel that was asked for. */
  readonly tunnels: string[];
  /** `Proxy-Authorization` of each. */
  readonly authorizations: (string | undefined)[];
  /** Bytes that it has passed on towards the service, as they went by. */
  readonly seen: () => Buffer;
  /** Answers with these bytes in place of a tunnel; null says nothing at all; undefined tunnels. */
  answer: string | null | undefined;
  /** Where every tunnel leads, `host:port`; undefined leads where it was asked for. */
  route: string | undefined;
  close(): Promise<void>;
}

export async function startConnectProxy(): Promise<ConnectProxy> {
  const sockets = new Set<Socket>();
  const passed: Buffer[] = [];
  const server = createServer();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  server.on('connect', (request, client: Socket, head: Buffer) => {
    const target = request.url ?? '';
    proxy.tunnels.push(target);
    proxy.authorizations.push(request.headers['proxy-authorization']);
    if (proxy.answer === null) return;
    if (proxy.answer !== undefined) {
      client.end(proxy.answer);
      return;
    }
    const [host = '', port = ''] = (proxy.route ?? target).split(':');
    const upstream = connect({ host, port: Number(port) }, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      upstream.write(head);
      client.on('data', (bytes: Buffer) => passed.push(bytes));
      client.pipe(upstream).pipe(client);
    });
    sockets.add(upstream);
    upstream.on('error', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const proxy: ConnectProxy = {
    port: (server.address() as AddressInfo).port,
    tunnels: [],
    authorizations: [],
    seen: () => Buffer.concat(passed),
    answer: undefined,
    route: undefined,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
