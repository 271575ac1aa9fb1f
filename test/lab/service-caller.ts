/** The service of an emulator, asked past iotdm: to put into it, and to see, what iotdm is not to be asked for. */
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import type { EmulatedService } from './lab.ts';

/** What it answers, as JSON; throws where that is a refusal. */
export type ServiceCall = (method: string, path: string, body?: unknown) => Promise<unknown>;

export function serviceCaller(service: EmulatedService): ServiceCall {
  const [host = '', port = ''] = service.host.split(':');
  const ca = readFileSync(service.ca, 'utf8');
  const headers = {
    authorization: tokenOf(readFileSync(service.connectionStringFile, 'utf8')),
    'content-type': 'application/json',
    'x-ms-max-item-count': '1000',
  };
  return async (method, path, body) =>
    new Promise((resolve, reject) => {
      const options = { host, port, method, path: `${path}?api-version=2026-11-01`, ca, headers };
      const sent = request(options, (answer) => {
        let text = '';
        answer.setEncoding('utf8').on('data', (piece: string) => (text += piece));
        answer.on('end', () => {
          if ((answer.statusCode ?? 0) < 300) resolve(text === '' ? undefined : JSON.parse(text));
          else reject(new Error(`${method} ${path}: ${answer.statusCode} ${text}`));
        });
      });
      sent.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
    });
}

function tokenOf(connectionString: string): string {
  const parts = new Map(
    connectionString
      .trim()
      .split(';')
      .map((part) => [part.slice(0, part.indexOf('=')), part.slice(part.indexOf('=') + 1)]),
  );
  const resource = encodeURIComponent(parts.get('HostName') ?? '');
  const expiry = Math.ceil(Date.now() / 1000) + 3600;
  const signature = createHmac('sha256', Buffer.from(parts.get('SharedAccessKey') ?? '', 'base64'))
    .update(`${resource}\n${expiry}`)
    .digest('base64');
  const name = parts.get('SharedAccessKeyName') ?? '';
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${name}`;
}
