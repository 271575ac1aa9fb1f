/** The emulator's own certificate authority and the server certificates that it issues. */

import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  randomBytes,
  webcrypto,
  X509Certificate,
  type KeyObject,
} from 'node:crypto';
import { join } from 'node:path';
import { because, IotdmError } from '../errors.ts';
import { loadX509 } from '../x509.ts';
import { readState, writePublicState, writeState } from './state-directory.ts';

/** PEM texts for a TLS server. */
export interface ServerCredentials {
  readonly key: string;
  readonly certificate: string;
}

export interface ServerIdentity extends ServerCredentials {
  /** Issues a certificate for another host name, which is kept nowhere. */
  issueFor(hostName: string): Promise<ServerCredentials>;
}

/**
 * The hub that devices are assigned to whose enrollments name none. A name that no resolver can lead to another machine
 * (RFC 6761, 6.3): what is signed for it cannot be used anywhere else.
 */
export const ownHub = 'iotdm-hub.localhost';

/** The authority's certificate, which clients are given to trust. */
export const caFile = 'ca.pem';

const caKeyFile = 'ca-key.pem';
const serverFile = 'server.pem';
const serverKeyFile = 'server-key.pem';

const day = 24 * 60 * 60 * 1000;
const caLifetime = 20 * 365 * day;
/** No longer than public authorities may issue for: some clients insist on it. */
const serverLifetime = 397 * day;
const renewBefore = 7 * day;
/** For clients whose clocks are a little slow. */
const backdated = 60 * 60 * 1000;

interface Signer {
  readonly key: KeyObject;
  readonly certificate: X509Certificate;
}

/**
 * The server's key and certificate from the state directory, made where there are none. The authority stays the same;
 * the server certificate is renewed in the last week of its life.
 * @throws IotdmError `input.invalid` naming a file that cannot be understood
 */
export async function serverIdentity(dir: string, now: Date): Promise<ServerIdentity> {
  const existing = existingAuthority(dir);
  const ca =
    existing !== undefined && isCurrent(existing.certificate, now) ? existing : await newAuthority(dir, now);
  const credentials = existingServer(dir, ca, now) ?? (await newServer(dir, ca, now));
  return {
    ...credentials,
    issueFor: (hostName) => issue(ca, now, hostName, [{ type: 'dns', value: hostName }]),
  };
}

function existingAuthority(dir: string): Signer | undefined {
  const certificateText = readState(dir, caFile);
  // A key without a certificate is a first start that was cut short: nobody has trusted it yet.
  if (certificateText === undefined) return undefined;
  const keyText = readState(dir, caKeyFile);
  if (keyText === undefined) {
    throw new IotdmError(
      'input.invalid',
      `${join(dir, caKeyFile)} is missing, the key of ${join(dir, caFile)}`,
      { details: because('emulator-state') },
    );
  }
  const certificate = readCertificate(dir, caFile, certificateText);
  const key = readKey(dir, caKeyFile, keyText);
  if (!certificate.checkPrivateKey(key)) {
    throw new IotdmError('input.invalid', `${join(dir, caKeyFile)} is not the key of ${join(dir, caFile)}`, {
      details: because('emulator-state'),
    });
  }
  return { key, certificate };
}

async function newAuthority(dir: string, now: Date): Promise<Signer> {
  const x509 = await loadX509();
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  // A name of its own: whoever trusts several emulators' authorities can tell them apart, and so can OpenSSL.
  const name = `CN=iotdm emulator CA ${randomBytes(4).toString('hex')}`;
  const signer = await importPrivate(privateKey);
  const subject = await importPublic(publicKey);
  const generated = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: name,
    issuer: name,
    notBefore: new Date(now.getTime() - backdated),
    notAfter: new Date(now.getTime() + caLifetime),
    publicKey: subject,
    signingKey: signer,
    signingAlgorithm: ecdsaSha256,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(subject),
      await x509.AuthorityKeyIdentifierExtension.create(subject),
    ],
  });
  const certificateText = `${generated.toString('pem')}\n`;
  // The key first: see existingAuthority.
  writeState(dir, caKeyFile, pem(privateKey));
  writePublicState(dir, caFile, certificateText);
  return { key: privateKey, certificate: new X509Certificate(certificateText) };
}

/** The recorded certificate and key, unless they must be issued (again). */
function existingServer(dir: string, ca: Signer, now: Date): ServerCredentials | undefined {
  const certificateText = readState(dir, serverFile);
  const keyText = readState(dir, serverKeyFile);
  if (certificateText === undefined || keyText === undefined) return undefined;
  const certificate = readCertificate(dir, serverFile, certificateText);
  const key = readKey(dir, serverKeyFile, keyText);
  const usable =
    isCurrent(certificate, now) &&
    // A renewal that was cut short leaves a new key with an old certificate.
    certificate.checkPrivateKey(key) &&
    certificate.verify(ca.certificate.publicKey) &&
    // Those of earlier versions were for loopback addresses only.
    certificate.checkHost(ownHub) !== undefined;
  return usable ? { key: keyText, certificate: certificateText } : undefined;
}

async function newServer(dir: string, ca: Signer, now: Date): Promise<ServerCredentials> {
  const credentials = await issue(ca, now, '127.0.0.1', [
    { type: 'ip', value: '127.0.0.1' },
    { type: 'ip', value: '::1' },
    { type: 'dns', value: 'localhost' },
    { type: 'dns', value: ownHub },
  ]);
  writeState(dir, serverKeyFile, credentials.key);
  writePublicState(dir, serverFile, credentials.certificate);
  return credentials;
}

interface SubjectName {
  readonly type: 'dns' | 'ip';
  readonly value: string;
}

async function issue(
  ca: Signer,
  now: Date,
  commonName: string,
  names: readonly SubjectName[],
): Promise<ServerCredentials> {
  const x509 = await loadX509();
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const subject = await importPublic(publicKey);
  const generated = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    // RFC 5280, A.1: a common name has 64 characters at most; what clients look at is the alternative names.
    subject: [{ CN: [commonName.slice(0, 64)] }],
    issuer: ca.certificate.subject,
    notBefore: new Date(now.getTime() - backdated),
    notAfter: new Date(now.getTime() + serverLifetime),
    publicKey: subject,
    signingKey: await importPrivate(ca.key),
    signingAlgorithm: ecdsaSha256,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension([...names]),
      await x509.SubjectKeyIdentifierExtension.create(subject),
      await x509.AuthorityKeyIdentifierExtension.create(await importPublic(createPublicKey(ca.key))),
    ],
  });
  return { key: pem(privateKey), certificate: `${generated.toString('pem')}\n` };
}

function isCurrent(certificate: X509Certificate, now: Date): boolean {
  const time = now.getTime();
  return Date.parse(certificate.validFrom) <= time && time < Date.parse(certificate.validTo) - renewBefore;
}

function readCertificate(dir: string, name: string, text: string): X509Certificate {
  try {
    return new X509Certificate(text);
  } catch (cause) {
    throw new IotdmError('input.invalid', `${join(dir, name)} is not a PEM certificate`, {
      cause,
      details: because('emulator-state'),
    });
  }
}

function readKey(dir: string, name: string, text: string): KeyObject {
  try {
    return createPrivateKey(text);
  } catch (cause) {
    throw new IotdmError('input.invalid', `${join(dir, name)} is not a PEM private key`, {
      cause,
      details: because('emulator-state'),
    });
  }
}

function pem(privateKey: KeyObject): string {
  return privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** 127 random bits, positive (RFC 5280, 4.1.2.2). */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes.writeUInt8((bytes.readUInt8(0) & 0x7f) | 0x40, 0);
  return bytes.toString('hex');
}

const ecdsaP256 = { name: 'ECDSA', namedCurve: 'P-256' };
const ecdsaSha256 = { name: 'ECDSA', hash: 'SHA-256' };

async function importPrivate(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const der = key.export({ type: 'pkcs8', format: 'der' });
  return webcrypto.subtle.importKey('pkcs8', der, ecdsaP256, true, ['sign']);
}

async function importPublic(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const der = key.export({ type: 'spki', format: 'der' });
  return webcrypto.subtle.importKey('spki', der, ecdsaP256, true, ['verify']);
}
