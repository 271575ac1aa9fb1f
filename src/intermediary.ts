/**
 * Tells the page that a proxy has put in place of an answer from an answer of the service. A proxy that reads what goes
 * through it shows a certificate of its own authority, which no browser and no Node.js knows by itself; so who answers
 * below a root of Node's own is the host that was asked, whatever it says.
 */
import { rootCertificates, TLSSocket, type DetailedPeerCertificate } from 'node:tls';
import { because, IotdmError, type ErrorReason } from './errors.ts';
import { shownText } from './http-errors.ts';

/** An answer, as far as it shows who gave it. Names of headers are in lower case. */
export interface AnswerHead {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

export interface Route {
  /** Name of the proxy that was asked for the connection. */
  readonly proxy: string | undefined;
  /** As `privateAuthority` finds it. */
  readonly authority: string | undefined;
}

const longestName = 60;

/** Longer than any chain that is in use; some have an authority that has issued itself through another. */
const longestChain = 10;

/**
 * The name of the root authority that whoever answers has its certificate from, where Node's own roots do not have it.
 * Asks the socket, so it must be open still.
 */
export function privateAuthority(socket: unknown): string | undefined {
  if (!(socket instanceof TLSSocket)) return undefined;
  let certificate = socket.getPeerCertificate(true) as Shown;
  for (let length = 0; length < longestChain; length += 1) {
    const issuer = certificate?.issuerCertificate as Shown;
    if (issuer == null || issuer.fingerprint256 === certificate?.fingerprint256) break;
    certificate = issuer;
  }
  if (certificate?.raw === undefined) return undefined;
  const body = certificate.raw.toString('base64');
  if (rootCertificates.some((pem) => pem.replace(/-----[^-]+-----|\s/g, '') === body)) return undefined;
  const { CN, O } = (certificate.issuer ?? {}) as Partial<Record<'CN' | 'O', string | string[]>>;
  return shownText([CN ?? O ?? 'an authority without a name'].flat()[0] ?? '', longestName);
}

/** Null or empty where the connection has ended, whatever the types say. */
type Shown = Partial<DetailedPeerCertificate> | null | undefined;

/** Whether an answer is for a person at a browser, or from a proxy by its very status: no service with an API says that. */
export function isPage({ status, headers }: AnswerHead): boolean {
  if (status === 407 || status === 511) return true;
  if (status >= 300 && status < 400 && headers['location'] !== undefined) return true;
  // A service that answers in plain text gives the number of its error besides.
  if (headers['x-ms-error-code'] !== undefined) return false;
  return /^\s*(?:text\/|application\/xhtml)/i.test(String(headers['content-type'] ?? ''));
}

/**
 * The error for an answer that a proxy gave in place of the service; undefined where nothing shows that it was one.
 * Whether the service had the request all the same, nobody knows, but where the proxy wants something first.
 * @param what describes the answer, without a word of it
 */
export function proxyPage(
  host: string,
  answer: AnswerHead,
  route: Route,
  what: string,
): IotdmError | undefined {
  if (!isPage(answer)) return undefined;
  const { status } = answer;
  const { proxy, authority } = route;
  const via = viaOf(answer);
  const isProxys = status === 407 || status === 511;
  // A host of the world has proxies of its own in front, which call themselves something as well.
  if (authority === undefined && !isProxys) return undefined;
  const named = proxy === undefined ? `a proxy between here and ${host}` : `the proxy ${proxy}`;
  const signs = [
    ...(via === undefined ? [] : [`it calls itself ${via}`]),
    ...(authority === undefined ? [] : [`its certificate comes from "${authority}"`]),
  ];
  const shown = signs.length === 0 ? '' : ` (${signs.join(', ')})`;
  return new IotdmError('network.proxy', `${named}${shown} answered in place of ${host}: ${what}`, {
    details: because(reasonOf(status), {
      host,
      status,
      proxyStatus: status,
      proxy: proxy ?? null,
    }),
    effect: isProxys ? 'refused' : 'unknown',
  });
}

function reasonOf(status: number): ErrorReason {
  if (status === 407) return 'proxy-credentials';
  if (status === 511 || (status >= 300 && status < 400)) return 'proxy-login';
  return status >= 500 ? 'proxy-gateway' : 'proxy-page';
}

/** What proxies are obliged to add (RFC 9110, 7.6.3), or Squid adds to its own pages. */
function viaOf({ headers }: AnswerHead): string | undefined {
  const via = [headers['via'] ?? headers['x-squid-error'] ?? []].flat()[0];
  if (via === undefined || via.trim() === '') return undefined;
  return `"${shownText(headers['via'] === undefined ? 'squid' : via, longestName)}"`;
}
