/** Judges the shared access signatures that callers present. Source: Azure's "Control access to DPS with SAS". */

import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Secret } from '../secret.ts';

export interface SharedAccessPolicy {
  /** What the signature must be for: the service's `host:port`, compared without regard to case. */
  readonly resource: string;
  /** Compared exactly, as `skn`. */
  readonly keyName: string;
  /** The key's bytes, base64 removed. */
  readonly key: Secret;
}

const parameterNames = ['sr', 'sig', 'se', 'skn'] as const;
type ParameterName = (typeof parameterNames)[number];

/**
 * Why an `Authorization` header is refused, or undefined when it is good:
 * `SharedAccessSignature sr=…&sig=…&se=…&skn=…`, parameters in any order, `sig` being the URL-encoded base64 of
 * HMAC-SHA256 over `sr`, as it stands in the header, a line feed and `se`, in seconds since 1970.
 * What is returned quotes nothing from the header.
 */
export function signatureProblem(
  authorization: string | undefined,
  policy: SharedAccessPolicy,
  now: Date,
): string | undefined {
  if (authorization === undefined) return 'the request has no Authorization header';
  const token = /^SharedAccessSignature +(\S+)$/i.exec(authorization)?.[1];
  if (token === undefined) return 'the Authorization header is not a SharedAccessSignature';
  const parameters = parse(token);
  if (parameters === undefined) return 'the SharedAccessSignature does not consist of sr, sig, se and skn';

  const { sr, sig, se, skn } = parameters;
  if (decode(sr)?.toLowerCase() !== policy.resource.toLowerCase()) {
    return 'the SharedAccessSignature is for another resource (sr)';
  }
  if (decode(skn) !== policy.keyName) return 'the SharedAccessSignature names an unknown policy (skn)';
  const expected = createHmac('sha256', policy.key.bytes).update(`${sr}\n${se}`).digest();
  const presented = Buffer.from(decode(sig) ?? '', 'base64');
  if (presented.length !== expected.length || !timingSafeEqual(presented, expected)) {
    return 'the SharedAccessSignature is not signed with the key of this policy (sig)';
  }
  // Only now: whether a forged token has expired is of no interest.
  if (!/^[0-9]{1,15}$/.test(se)) return 'the SharedAccessSignature has no expiry in whole seconds (se)';
  if (Number(se) * 1000 <= now.getTime()) return 'the SharedAccessSignature has expired (se)';
  return undefined;
}

/** Each parameter exactly once and no others, still URL-encoded. */
function parse(token: string): Readonly<Record<ParameterName, string>> | undefined {
  const found = new Map<string, string>();
  for (const part of token.split('&')) {
    const equals = part.indexOf('=');
    const name = part.slice(0, equals);
    if (equals < 1 || found.has(name)) return undefined;
    found.set(name, part.slice(equals + 1));
  }
  const [sr, sig, se, skn] = parameterNames.map((name) => found.get(name));
  if (found.size !== parameterNames.length || !sr || !sig || !se || !skn) return undefined;
  return { sr, sig, se, skn };
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
