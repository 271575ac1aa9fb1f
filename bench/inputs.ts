/** Enrollment files of any size, of devices that do not exist. */
import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { EK_PUBLIC_PREFIX, rsaKeyObject } from '../src/tpm/endorsement-key.ts';
import { makeEkCertificate } from '../test/fakes/ek-certificates.ts';

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
