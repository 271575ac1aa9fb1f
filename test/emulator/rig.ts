/** An emulator on a directory of its own and a caller that speaks plain HTTPS to it, for the emulator's tests. */

import { createHmac } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  startEmulator,
  type EmulatorInfo,
  type EmulatorOptions,
  type RunningEmulator,
} from '../../src/emulator/emulator.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The parsed body where it is an object: an enrollment, a bulk result or an error. */
  readonly json: AnswerBody;
  /** The parsed body where it is an array. */
  readonly items: readonly AnswerBody[];
}

/** Every member that some answer has; a test looks at those that its answer should have. */
export interface AnswerBody extends SentEnrollment {
  readonly deviceId: string;
  readonly etag: string;
  readonly createdDateTimeUtc: string;
  readonly lastUpdatedDateTimeUtc: string;
  readonly isSuccessful: boolean;
  readonly errors: readonly { registrationId: string; errorCode: number; errorStatus: string }[];
  readonly errorCode: number;
  readonly trackingId: string;
  readonly message: string;
  readonly info: unknown;
  readonly timestampUtc: string;
}

export interface SentEnrollment {
  readonly registrationId: string;
  readonly attestation: { readonly type: string; readonly tpm: { readonly endorsementKey: string } };
}

export interface CallOptions {
  readonly body?: unknown;
  /** Sent as it is instead of a JSON body. */
  readonly raw?: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
  /** The Authorization header; null sends none. */
  readonly authorization?: string | null;
  /** The query string; `api-version=2021-10-01` when absent. */
  readonly query?: string;
  /** With the client certificate that it shows; the caller's own, which shows none, when absent. */
  readonly agent?: Agent;
}

export interface Caller {
  readonly connectionString: string;
  readonly agent: Agent;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** Without authorization unless it is given; to `host:port`, or to its port under another name. */
  callAt(host: string, method: string, path: string, options?: CallOptions): Promise<Answer>;
}

export interface Rig extends Caller {
  readonly emulator: RunningEmulator;
  close(): Promise<void>;
}

export async function temporaryDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'iotdm-emulator-'));
}

export async function remove(dir: string): Promise<void> {
  await rm(dir, { recursive: true, force: true });
}

export async function startRig(options: EmulatorOptions): Promise<Rig> {
  const emulator = await startEmulator(options);
  const caller = await callerOf(emulator.info);
  return {
    ...caller,
    emulator,
    async close() {
      caller.agent.destroy();
      await emulator.close();
    },
  };
}

/** Destroy its agent when it is done with. */
export async function callerOf(info: EmulatorInfo): Promise<Caller> {
  const connectionString = await readFile(info.connectionStringFile, 'utf8');
  const agent = new Agent({ keepAlive: true, ca: await readFile(info.ca, 'utf8') });
  return {
    connectionString,
    agent,
    callAt: (host, method, path, given = {}) =>
      send(agent, Number(host.split(':')[1]), method, `${path}?${given.query ?? ''}`, given),
    call: (method, path, given = {}) =>
      send(agent, info.port, method, `${path}?${given.query ?? 'api-version=2021-10-01'}`, {
        ...given,
        authorization: given.authorization === undefined ? tokenFor(connectionString) : given.authorization,
      }),
  };
}

export interface TokenParts {
  readonly sr?: string;
  readonly key?: string;
  readonly se?: string;
  readonly skn?: string;
}

/** A token as Azure's SDKs make it, with parts replaced; good for an hour. */
export function tokenFor(connectionString: string, parts: TokenParts = {}): string {
  const [, host = '', keyName = '', key = ''] =
    /^HostName=(.*);SharedAccessKeyName=(.*);SharedAccessKey=(.*)$/.exec(connectionString) ?? [];
  const sr = parts.sr ?? encodeURIComponent(host);
  const se = parts.se ?? String(Math.ceil(Date.now() / 1000) + 3600);
  const signature = createHmac('sha256', Buffer.from(parts.key ?? key, 'base64'))
    .update(`${sr}\n${se}`)
    .digest('base64');
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(signature)}&skn=${parts.skn ?? keyName}&se=${se}`;
}

/** An enrollment with the synthetic endorsement key of that number. */
export function enrollment(
  registrationId: string,
  more: Readonly<Record<string, unknown>> = {},
): SentEnrollment {
  const number = Number(/[0-9]+/.exec(registrationId)?.[0] ?? 0);
  return {
    registrationId,
    attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(number) } },
    ...more,
  };
}

/** An object without members for what is no JSON: a test of that looks at the text. */
function parsed(text: string): AnswerBody {
  try {
    return JSON.parse(text) as AnswerBody;
  } catch {
    return {} as AnswerBody;
  }
}

async function send(
  agent: Agent,
  port: number,
  method: string,
  path: string,
  options: CallOptions,
): Promise<Answer> {
  const body = options.raw ?? (options.body === undefined ? undefined : JSON.stringify(options.body));
  const headers: Record<string, string> = {
    ...(body === undefined
      ? {}
      : {
          'content-type': 'application/json; charset=utf-8',
          'content-length': String(Buffer.byteLength(body)),
        }),
    ...(typeof options.authorization === 'string' ? { authorization: options.authorization } : {}),
    ...options.headers,
  };
  return new Promise((resolve, reject) => {
    const sent = request(
      { agent: options.agent ?? agent, host: '127.0.0.1', port, method, path, headers },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8');
          const json = parsed(text);
          const items = json as unknown as readonly AnswerBody[];
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json, items });
        });
      },
    );
    sent.on('error', reject);
    sent.end(body);
  });
}
