/** Enrollment files of any size, of devices that do not exist. */
import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { EK_PUBLIC_PREFIX, rsaKeyObject } from '../src/tpm/endorsement-key.ts';
import { makeEkCertificate, type CertificateIssuer } from '../test/fakes/ek-certificates.ts';
import { makeVendor, pem } from '../test/fakes/tpm-vendor.ts';

/** `deviceId`, `endorsementKey`, `serialNumber` and a tag. */
export async function writeKeyRows(path: string, rows: number): Promise<void> {
  await writeRows(path, 'deviceId,endorsementKey,serialNumber,tags.site', rows, (number) => {
    const key = Buffer.concat([EK_PUBLIC_PREFIX, randomModulus()]).toString('base64');
    return `pump-${number},${key},SN-${number},Linz`;
  });
}

/** What every client can read: `registrationId`, `endorsementKey` and `deviceId`. */
export async function writeEnrollmentRows(path: string, rows: number): Promise<void> {
  await writeRows(path, 'registrationId,endorsementKey,deviceId', rows, (number) => {
    const key = Buffer.concat([EK_PUBLIC_PREFIX, randomModulus()]).toString('base64');
    return `press-${String(number).padStart(7, '0')},${key},pump-${number}`;
  });
}

/** A vendor's delivery list: `serialNumber` and `ekCertificate`, base64 of the DER. */
export async function writeCertificateRows(path: string, rows: number): Promise<void> {
  await writeRows(path, 'serialNumber,ekCertificate', rows, (number) => {
    const certificate = makeEkCertificate(rsaKeyObject(randomModulus()), (number % 127) + 1);
    return `SN-${number},${certificate.toString('base64')}`;
  });
}

/**
 * The same with certificates that lead to a root by way of one of three intermediates.
 * @param roots directory, which is there, for the certificates of the vendor
 */
export async function writeVerifiableRows(path: string, roots: string, rows: number): Promise<void> {
  const root = await makeVendor('Bench root');
  const issuers: CertificateIssuer[] = [];
  const authorities = [root.der];
  for (const number of [1, 2, 3]) {
    const intermediate = await root.issueVendor(`Bench intermediate ${number} of a vendor of chips`);
    authorities.push(intermediate.der);
    issuers.push({ name: intermediate.name, key: intermediate.key });
  }
  await writeFile(join(roots, 'vendor.pem'), pem(...authorities));
  await writeRows(path, 'serialNumber,ekCertificate', rows, (number) => {
    const issuer = issuers[number % issuers.length];
    const key = rsaKeyObject(randomModulus());
    const certificate = makeEkCertificate(key, (number % 127) + 1, issuer === undefined ? {} : { issuer });
    return `SN-${number},${certificate.toString('base64')}`;
  });
}

function randomModulus(): Buffer {
  const modulus = randomBytes(256);
  modulus.writeUInt8(modulus.readUInt8(0) | 0x80, 0);
  modulus.writeUInt8(modulus.readUInt8(255) | 1, 255);
  return modulus;
}

async function writeRows(
  path: string,
  header: string,
  rows: number,
  row: (number: number) => string,
): Promise<void> {
  function* lines(): Generator<string> {
    yield `${header}\n`;
    for (let number = 1; number <= rows; number += 1) yield `${row(number)}\n`;
  }
  await pipeline(Readable.from(lines()), createWriteStream(path));
}
