/** Stands between a device and the emulated service, with a certificate that the device trusts, and changes answers. */
import { readFileSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import type { EmulatedService, Lifetime } from '../lab/lab.ts';
import { answering, startLyingServer, type LyingServer, type ReceivedRequest } from './lying-server.ts';

export interface PassingAnswer {
  readonly request: ReceivedRequest;
  readonly status: number;
  readonly json: Record<string, unknown>;
}

/** What the device gets: the same answer, changed, or nothing at all where it is undefined. */
export type Change = (answer: PassingAnswer) => Omit<PassingAnswer, 'request'> | undefined;

export interface ManInTheMiddle extends Pick<LyingServer, 'host' | 'ca' | 'requests'> {
  change: Change;
  /** Changes a request before the service sees it. */
  changeRequest: (request: ReceivedRequest) => ReceivedRequest;
}

export async function manInTheMiddle(lifetime: Lifetime, service: EmulatedService): Promise<ManInTheMiddle> {
  const server = await startLyingServer();
  lifetime.after(() => server.close());
  const [hostname, port] = service.deviceHost.split(':');
  const ca = readFileSync(service.ca, 'utf8');
  const middle: ManInTheMiddle = {
    host: server.host,
    ca: server.ca,
    requests: server.requests,
    change: (answer) => answer,
    changeRequest: (request) => request,
  };
  server.answer((socket, received) => {
    const { method, path, headers, body } = middle.changeRequest(received);
    const own = {
      host: service.deviceHost,
      connection: 'close',
      'content-length': String(Buffer.byteLength(body)),
    };
    const outgoing = httpsRequest(
      { hostname, port, ca, method, path, headers: { ...headers, ...own }, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => {
          const json = JSON.parse(Buffer.concat(chunks).toString('utf8') || '{}') as Record<string, unknown>;
          const changed = middle.change({ request: received, status: response.statusCode ?? 0, json });
          if (changed === undefined) socket.destroy();
          else answering(changed.status, changed.json)(socket, received);
        });
      },
    );
    outgoing.on('error', () => socket.destroy());
    outgoing.end(body);
  });
  return middle;
}
