/**
 * Connections through an HTTPS proxy: a tunnel (CONNECT, RFC 9110, 9.3.6), and TLS with the service inside of it, so
 * that the proxy can neither read nor answer in its place.
 */
import type { ClientRequest } from 'node:http';
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { HttpsProxyAgent } from 'https-proxy-agent';
import { because, IotdmError, systemErrorCode, type ErrorReason } from '../errors.ts';
import { certificateProblem, connectionError } from '../http-errors.ts';
import type { Proxy } from './proxy.ts';

export interface TunnelOptions {
  readonly proxy: Proxy;
  readonly keepAlive: boolean;
  readonly maxSockets: number;
  /** After which an idle socket is closed, in milliseconds. */
  readonly timeout: number;
  /** For the connection to the proxy and its answer, in milliseconds. */
  readonly connectTimeoutMs: number;
  /** For an `https:` proxy; the service's is named by the request. */
  readonly secureContext?: SecureContext;
}

type ConnectOptions = Parameters<HttpsProxyAgent<string>['connect']>[1];

export class TunnelAgent extends HttpsProxyAgent<string> {
  readonly #name: string;
  readonly #connectTimeoutMs: number;
  readonly #connectOptions: object;
  readonly #underWay = new Set<AbortController>();

  constructor({ proxy, connectTimeoutMs, secureContext, ...options }: TunnelOptions) {
    // The password is not in the URL, which the library writes into its own debugging output.
    super(proxy.url.href, {
      ...options,
      ...(secureContext === undefined ? {} : { secureContext }),
      headers: () => authorizationHeader(proxy),
    });
    this.#name = proxy.name;
    this.#connectTimeoutMs = connectTimeoutMs;
    this.#connectOptions = this.connectOpts;
  }

  /** Told: the library guesses it from the call stack, and guesses otherwise when a socket is given back to the pool. */
  override isSecureEndpoint(): boolean {
    return true;
  }

  override async connect(request: ClientRequest, options: ConnectOptions): Promise<Socket> {
    const abort = new AbortController();
    const expire = setTimeout(() => {
      abort.abort();
    }, this.#connectTimeoutMs);
    this.#underWay.add(abort);
    let status: number | undefined;
    request.once('proxyConnect', (answer: { readonly statusCode: number }) => {
      status = answer.statusCode;
    });
    try {
      // Taken up before the first await of `connect`: each connection has a signal of its own.
      this.connectOpts = { ...this.#connectOptions, signal: abort.signal } as typeof this.connectOpts;
      const socket = await super.connect(request, options);
      if (status === 200) return socket;
      // The library would hand out the proxy's own answer as if it were the service's.
      socket.destroy();
      throw refusedBy(this.#name, `${options.host ?? ''}:${options.port}`, status ?? 0);
    } catch (error) {
      throw this.#failure(error, abort.signal.aborted);
    } finally {
      clearTimeout(expire);
      this.#underWay.delete(abort);
    }
  }

  /** Also ends connections that are being made. */
  override destroy(): void {
    for (const abort of this.#underWay) abort.abort();
    super.destroy();
  }

  #failure(error: unknown, isTooLate: boolean): IotdmError {
    if (error instanceof IotdmError) return error;
    const [why, reason] = isTooLate
      ? ([`it did not answer within ${this.#connectTimeoutMs / 1000} s`, 'not-connected'] as const)
      : whyNot(this.#name, error);
    return new IotdmError('network.proxy', `the proxy ${this.#name} cannot be used: ${why}`, {
      cause: error,
      details: { ...(reason === undefined ? {} : because(reason)), proxy: this.#name },
      // A tunnel is asked for before anything is sent through it.
      effect: 'none',
    });
  }
}

/** Why there is no connection to the proxy itself. */
function whyNot(proxy: string, error: unknown): readonly [why: string, reason: ErrorReason | undefined] {
  const code = systemErrorCode(error);
  const shownCode = code === undefined ? '' : ` (${code})`;
  const refused = certificateProblem(error);
  if (refused !== undefined) return [`its certificate is refused: ${refused[0]}${shownCode}`, refused[1]];
  const reason = connectionError(proxy, error).details?.['reason'];
  return [`the connection failed${shownCode}`, reason as ErrorReason | undefined];
}

function authorizationHeader({ credentials }: Proxy): Record<string, string> {
  if (credentials === undefined) return {};
  const { username, password } = credentials;
  const encoded = Buffer.concat([Buffer.from(`${username}:`), password.bytes]).toString('base64');
  return { 'Proxy-Authorization': `Basic ${encoded}` };
}

function refusedBy(proxy: string, host: string, status: number): IotdmError {
  const isAboutUser = status === 407;
  const why = isAboutUser ? 'it wants other credentials, or any' : `it does not connect to ${host}`;
  return new IotdmError('network.proxy', `the proxy ${proxy} refuses: ${why} (${status})`, {
    details: because(isAboutUser ? 'proxy-credentials' : 'proxy-refuses', {
      host,
      proxyStatus: status,
      proxy,
    }),
    effect: 'none',
  });
}
