/** Certificates for servers on loopback, right and wrong ones: X.509 v3 in DER (RFC 5280) from node:crypto alone. */

import { generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';
import { isIPv4 } from 'node:net';

export interface TestAuthority {
  /** Its certificate, PEM. */
  readonly pem: string;
  /** The private key of that certificate, PEM. */
  readonly key: string;
  /** `names` are DNS names or IPv4 addresses; the dates default to yesterday and tomorrow. */
  issue(names: readonly string[], validity?: { from?: Date; to?: Date }): { cert: string; key: string };
}

export function makeAuthority(name: string): TestAuthority {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const basicConstraints = extension('551d13', sequence(Buffer.from('0101ff', 'hex')), true);
  const own = certificate(
    name,
    name,
    pair.publicKey,
    pair.privateKey,
    [basicConstraints],
    dayAgo(),
    dayAhead(),
  );
  return {
    pem: own,
    key: pair.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    issue(names, { from = dayAgo(), to = dayAhead() } = {}) {
      const leaf = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const alternatives = names.map((host) =>
        isIPv4(host) ? der(0x87, Buffer.from(host.split('.').map(Number))) : der(0x82, Buffer.from(host)),
      );
      const cert = certificate(
        'server',
        name,
        leaf.publicKey,
        pair.privateKey,
        [extension('551d11', sequence(...alternatives), false)],
        from,
        to,
      );
      return { cert, key: leaf.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string };
    },
  };
}

function certificate(
  subject: string,
  issuer: string,
  publicKey: KeyObject,
  signer: KeyObject,
  extensions: readonly Buffer[],
  from: Date,
  to: Date,
): string {
  const ecdsaWithSha256 = sequence(oid('2a8648ce3d040302'));
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(15)])),
    ecdsaWithSha256,
    commonName(issuer),
    sequence(time(from), time(to)),
    commonName(subject),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions)),
  );
  const signature = sign('sha256', body, signer);
  const whole = sequence(body, ecdsaWithSha256, der(0x03, Buffer.concat([Buffer.from([0]), signature])));
  const lines = whole.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

export function commonName(name: string): Buffer {
  return sequence(der(0x31, sequence(oid('550403'), der(0x0c, Buffer.from(name)))));
}

export function extension(id: string, value: Buffer, critical: boolean): Buffer {
  return sequence(oid(id), ...(critical ? [Buffer.from('0101ff', 'hex')] : []), der(0x04, value));
}

export function time(date: Date): Buffer {
  const text = date.toISOString().replace(/[-:T]|\.\d+/g, '');
  return der(0x18, Buffer.from(text));
}

export function oid(hex: string): Buffer {
  return der(0x06, Buffer.from(hex, 'hex'));
}

export function sequence(...items: readonly Buffer[]): Buffer {
  return der(0x30, Buffer.concat(items));
}

export function der(tag: number, content: Buffer): Buffer {
  const length =
    content.length < 0x80
      ? [content.length]
      : content.length < 0x100
        ? [0x81, content.length]
        : [0x82, content.length >> 8, content.length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

function dayAgo(): Date {
  return new Date(Date.now() - 86_400_000);
}

function dayAhead(): Date {
  return new Date(Date.now() + 86_400_000);
}
