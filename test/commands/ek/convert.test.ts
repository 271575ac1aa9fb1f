import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { hexRegistrationIdOf, rsaKeyObject } from '../../../src/tpm/endorsement-key.ts';
import { vectorEndorsementKey, vectorRegistrationId } from '../../fakes/endorsement-keys.ts';
import { iotdm, scratchDirectory } from '../../lab/lab.ts';

const vector = Buffer.from(vectorEndorsementKey, 'base64');
const pem = rsaKeyObject(vector.subarray(60)).export({ type: 'spki', format: 'pem' }) as string;

describe('iotdm ek convert', () => {
  it('gives the DPS value and both registration ids', async (t) => {
    const file = join(await scratchDirectory(t), 'ek.pem');
    writeFileSync(file, pem);
    const json = await iotdm(['ek', 'convert', file, '--json', '--quiet']);
    assert.deepEqual([json.code, json.stderr], [0, '']);
    assert.deepEqual(JSON.parse(json.stdout), {
      endorsementKey: vectorEndorsementKey,
      registrationId: vectorRegistrationId,
      hexRegistrationId: hexRegistrationIdOf(vector),
      input: 'public key (PEM)',
    });
    const text = await iotdm(['ek', 'convert', '-'], { stdin: vector });
    assert.deepEqual([text.code, text.stderr], [0, '']);
    assert.match(text.stdout, /^Input +TPM2B_PUBLIC \(binary\)$/m);
    assert.match(text.stdout, /^Registration id +y5wivfci/m);
    assert.match(text.stdout, /IoT Edge documentation shows it in hex\.$/m);
  });

  it('gives what enrollment import takes', async () => {
    const { stdout } = await iotdm(['ek', 'convert', '-', '--json'], { stdin: pem });
    const { code, stdout: result } = await iotdm(['enrollment', 'import', '-', '--dry-run', '--json'], {
      stdin: stdout,
    });
    assert.equal(code, 0);
    assert.equal((JSON.parse(result) as { total: number }).total, 1);
  });

  it('takes what another command has printed, and tells a thumbprint from a key', async () => {
    const stdin = `\ufeff<?xml version="1.0" encoding="utf-8"?>\r\n<ERKPub>\r\n  ${vectorEndorsementKey}\r\n</ERKPub>\r\n`;
    const xml = await iotdm(['ek', 'convert', '-'], { stdin: Buffer.from(stdin, 'utf16le') });
    assert.deepEqual([xml.code, xml.stderr], [0, '']);
    assert.match(xml.stdout, /^Input +TPM2B_PUBLIC \(base64, in XML\)$/m);
    const again = await iotdm(['ek', 'convert', '-', '--json'], { stdin: xml.stdout });
    assert.equal(
      (JSON.parse(again.stdout) as { endorsementKey: string }).endorsementKey,
      vectorEndorsementKey,
    );
    const thumbprint = await iotdm(['ek', 'convert', '-'], {
      stdin: '3FC82CD5A9B1E0C43D7F1F1EE7F1B9B0E0D5C4A1\n',
    });
    assert.deepEqual([thumbprint.code, thumbprint.stdout], [2, '']);
    assert.match(
      thumbprint.stderr,
      /^iotdm: error: this is a thumbprint, by which Windows names a certificate/,
    );
  });

  it('refuses another key with exit code 2, a reason and a hint', async () => {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const stdin = publicKey.export({ type: 'spki', format: 'pem' }) as string;
    const { code, stdout, stderr } = await iotdm(['ek', 'convert', '-'], { stdin });
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(stderr, /^iotdm: error: this public key is an ECC key \(prime256v1\)/);
    assert.match(stderr, /^iotdm: hint: DPS knows a TPM by its RSA 2048 endorsement key/m);
  });

  it('shows nothing of a private key, wherever it is given', async () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const text = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
    const bare = text.replaceAll(/-----.*-----|\n/g, '');
    const runs = [
      await iotdm(['ek', 'convert', '-', '-vv'], { stdin: text }),
      await iotdm(['ek', 'convert', '-', '--json'], { stdin: bare }),
      await iotdm(['ek', 'convert', text]),
      await iotdm(['ek', 'convert', bare]),
      await iotdm(['ek', 'convert', '--', text]),
      await iotdm([text, '--json']),
      await iotdm(['enrollment', 'import', '-', '--format', 'ndjson'], {
        stdin: JSON.stringify({ publicKey: text }),
      }),
      await iotdm(['enrollment', 'import', '-', '--format', 'ndjson'], {
        stdin: JSON.stringify({ endorsementKey: bare }),
      }),
    ];
    const pieces = text.split('\n').filter((line) => line.length === 64);
    for (const { code, stdout, stderr } of runs) {
      assert.equal(code, 2, stderr);
      assert.equal(stdout, '');
      for (const piece of pieces) assert(!stderr.includes(piece.slice(4, 40)), stderr);
    }
    assert.match(runs[0]?.stderr ?? '', /error: this is a private key/);
    assert.match(runs[1]?.stderr ?? '', /"code":"input.private-key"/);
  });

  it('reads no more than a key can be', async () => {
    const { code, stderr } = await iotdm(['ek', 'convert', '-'], { stdin: Buffer.alloc(200_000, 0x30) });
    assert.equal(code, 2);
    assert.match(stderr, /the key is longer than 65536 bytes/);
  });
});
