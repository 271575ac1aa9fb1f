/**
 * Judges the shared access signatures that callers present. Sources: Azure's "Control access to DPS with SAS" and
 * "Control access to IoT Hub using Shared Access Signatures". No problem that is reported quotes from the header.
 */

import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Secret } from '../secret.ts';

export interface SharedAccessPolicy {
  /** What the signature may be for: names of the service, compared without regard to case. */
  readonly resources: readonly string[];
  /** Compared exactly, as `skn`. */
  readonly keyName: string;
  /** The key's bytes, base64 removed. */
  readonly key: Secret;
}

/** A shared access signature as it stands in a header, still URL-encoded. Nothing about it has been verified. */
export interface PresentedToken {
  readonly sr: string;
  readonly sig: string;
  readonly se: string;
  /** Absent in the tokens of devices. */
  readonly skn: string | undefined;
}

const parameterNames = ['sr', 'sig', 'se', 'skn'] as const;

/**
 * Why an `Authorization` header is refused by a service with one policy, or undefined when it is good:
 * `SharedAccessSignature sr=…&sig=…&se=…&skn=…`, parameters in any order.
 */
export function signatureProblem(
  authorization: string | undefined,
  policy: SharedAccessPolicy,
  now: Date,
): string | undefined {
  const token = presentedToken(authorization);
  if (typeof token === 'string') return token;
  if (token.skn === undefined) return 'the SharedAccessSignature does not consist of sr, sig, se and skn';
  const resource = decoded(token.sr)?.toLowerCase();
  if (!policy.resources.some((name) => name.toLowerCase() === resource)) {
    return 'the SharedAccessSignature is for another resource (sr)';
  }
  if (decoded(token.skn) !== policy.keyName) {
    return 'the SharedAccessSignature names an unknown policy (skn)';
  }
  if (!isSignedWith(token, policy.key.bytes)) {
    return 'the SharedAccessSignature is not signed with the key of this policy (sig)';
  }
  return expiryProblem(token, now);
}

/** The token in an `Authorization` header, each parameter exactly once and no others, or what is wrong with it. */
export function presentedToken(authorization: string | undefined): PresentedToken | string {
  if (authorization === undefined) return 'the request has no Authorization header';
  const text = /^SharedAccessSignature +(\S+)$/i.exec(authorization)?.[1];
  if (text === undefined) return 'the Authorization header is not a SharedAccessSignature';
  const found = new Map<string, string>();
  for (const part of text.split('&')) {
    const equals = part.indexOf('=');
    const name = part.slice(0, Math.max(0, equals));
    if (!parameterNames.some((known) => known === name) || found.has(name)) {
      return 'the SharedAccessSignature does not consist of sr, sig, se and skn';
    }
    found.set(name, part.slice(equals + 1));
  }
  const [sr, sig, se, skn] = parameterNames.map((name) => found.get(name));
  // An empty skn is what some clients of devices send.
  if (!sr || !sig || !se) return 'the SharedAccessSignature does not consist of sr, sig, se and skn';
  return { sr, sig, se, skn: skn === '' ? undefined : skn };
}

/** `sig` is the URL-encoded base64 of HMAC-SHA256 over `sr`, as it stands in the header, a line feed and `se`. */
export function isSignedWith({ sr, sig, se }: PresentedToken, key: Buffer): boolean {
  const expected = createHmac('sha256', key).update(`${sr}\n${se}`).digest();
  const presented = Buffer.from(decoded(sig) ?? '', 'base64');
  return presented.length === expected.length && timingSafeEqual(presented, expected);
}

/** To be asked about tokens with a good signature only: whether a forged token has expired is of no interest. */
export function expiryProblem({ se }: PresentedToken, now: Date): string | undefined {
  if (!/^[0-9]{1,15}$/.test(se)) return 'the SharedAccessSignature has no expiry in whole seconds (se)';
  if (Number(se) * 1000 <= now.getTime()) return 'the SharedAccessSignature has expired (se)';
  return undefined;
}

/** URL-decoded; undefined where that is not possible. */
export function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
