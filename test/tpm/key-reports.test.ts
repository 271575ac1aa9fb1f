import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { EK_PUBLIC_PREFIX, rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import { convertToEndorsementKey, recognizeEndorsementKey } from '../../src/tpm/endorsement-key-forms.ts';
import { nameOfArea } from '../../src/tpm/key-reports.ts';
import { enrollmentInfo } from '../../commands/limpet/enrollment-info.ts';
import { element, xmlDocument } from '../../commands/limpet/xml.ts';
import { table } from '../../commands/shared/verb.ts';
import { makeEkCertificate } from '../fakes/ek-certificates.ts';
import {
  syntheticEndorsementKey,
  vectorEndorsementKey,
  vectorRegistrationId,
} from '../fakes/endorsement-keys.ts';

const ek = vectorEndorsementKey;
const area = Buffer.from(ek, 'base64');
const modulus = area.subarray(EK_PUBLIC_PREFIX.length);
const keyObject = rsaKeyObject(modulus);
const pkcs1 = keyObject.export({ type: 'pkcs1', format: 'der' });
const spki = keyObject.export({ type: 'spki', format: 'der' });
const otherEk = syntheticEndorsementKey(3);
/** A storage root key: the same with the attributes of one. */
const srk = Buffer.from(area);
srk.writeUInt32BE(0x00030472, 6);

const pairs = (bytes: Buffer): string[] => bytes.toString('hex').toUpperCase().match(/../g) ?? [];
const rows = (bytes: Buffer): Buffer[] =>
  Array.from({ length: Math.ceil(bytes.length / 16) }, (_, row) => bytes.subarray(row * 16, row * 16 + 16));
const characters = (bytes: Buffer, dot: string): string =>
  bytes.toString('latin1').replaceAll(/[^ -~\u00a1-\u00ff]/g, dot);

const powershell5 = (bytes: Buffer): string =>
  '\r\n\r\n           00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F\r\n\r\n' +
  rows(bytes)
    .map((row, index) => {
      const offset = (index * 16).toString(16).toUpperCase().padStart(8, '0');
      return `${offset}   ${pairs(row).join(' ').padEnd(47)}  ${characters(row, '.')}\r\n`;
    })
    .join('');
const powershell7 = (bytes: Buffer): string =>
  '\n   Label: Byte[] (System.Byte[]) <2944BEC3>\n\n' +
  '          Offset Bytes                                           Ascii\n' +
  '                 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F\n' +
  '          ------ ----------------------------------------------- -----\n' +
  rows(bytes)
    .map((row, index) => {
      const offset = (index * 16).toString(16).toUpperCase().padStart(16, '0');
      return `${offset} ${pairs(row).join(' ').padEnd(47)} ${characters(row, '\ufffd')}\n`;
    })
    .join('');
const xxd = (bytes: Buffer): string =>
  rows(bytes)
    .map((row, index) => {
      const words = row.toString('hex').match(/.{1,4}/g) ?? [];
      return `${(index * 16).toString(16).padStart(8, '0')}: ${words.join(' ').padEnd(39)}  ${characters(row, '.')}\n`;
    })
    .join('');
const hexdumpC = (bytes: Buffer): string =>
  rows(bytes)
    .map((row, index) => {
      const [left, right] = [row.subarray(0, 8), row.subarray(8)].map((half) =>
        pairs(half).join(' ').toLowerCase(),
      );
      const both = `${left ?? ''}  ${right ?? ''}`.padEnd(48);
      return `${(index * 16).toString(16).padStart(8, '0')}  ${both}  |${characters(row, '.')}|\n`;
    })
    .join('') + `${bytes.length.toString(16).padStart(8, '0')}\n`;

interface Printed {
  readonly name?: string;
  readonly attributes?: string;
  readonly bits?: number;
  readonly exponent?: number;
  readonly policy?: string;
  readonly nameAlg?: string;
  readonly keyBits?: number;
  readonly rsa?: Buffer;
}

/** As tpm2-tools 5 print it. */
function tpm2(printed: Printed = {}): string {
  const {
    name = nameOfArea(area.subarray(2)),
    attributes = '0x300b2',
    bits = 2048,
    exponent = 65537,
  } = printed;
  const { nameAlg = '0xb', keyBits = 128, rsa = modulus } = printed;
  const { policy = '837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa' } = printed;
  const pair = (key: string, value: string, raw: string): string =>
    `${key}:\n  value: ${value}\n  raw: ${raw}\n`;
  return (
    (name === '' ? '' : `name: ${name}\nqualified name: 000b${'70'.repeat(32)}\n`) +
    pair('name-alg', 'sha256', nameAlg) +
    pair(
      'attributes',
      'fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt',
      attributes,
    ) +
    `${pair('type', 'rsa', '0x1')}exponent: ${exponent}\nbits: ${bits}\n` +
    `${pair('scheme', 'null', '0x10')}${pair('scheme-halg', '(null)', '0x0')}` +
    `${pair('sym-alg', 'aes', '0x6')}${pair('sym-mode', 'cfb', '0x43')}sym-keybits: ${keyBits}\n` +
    `rsa: ${rsa.toString('hex')}\n${policy === '' ? '' : `authorization policy: ${policy}\n`}`
  );
}

const utf16 = (text: string): Buffer => Buffer.from(`\ufeff${text}`, 'utf16le');
const converted = (content: string | Buffer): string => {
  const { endorsementKey, input } = convertToEndorsementKey(Buffer.from(content));
  assert.equal(endorsementKey.toString('base64'), ek, input);
  return input;
};
const refused = (content: string | Buffer): string => {
  try {
    convertToEndorsementKey(Buffer.from(content));
  } catch (error) {
    assert.ok(error instanceof IotdmError);
    return `${error.code}: ${error.message}`;
  }
  return assert.fail('was not refused');
};

describe('what programs print about an endorsement key', () => {
  it('is read where it is Limpet', () => {
    const info = { registrationId: vectorRegistrationId, endorsementKey: ek };
    assert.equal(converted(xmlDocument(element('ERKPub', ek))), 'TPM2B_PUBLIC (base64, in XML)');
    converted(utf16(xmlDocument(element('ERKPub', ek)).replaceAll('\n', '\r\n')));
    converted(`<ERKPub>\n${(ek.match(/.{1,76}/g) ?? []).join('\r\n  ')}\n</ERKPub>`);
    converted(xmlDocument(element('SRKPub', srk.toString('base64'))) + xmlDocument(element('ERKPub', ek)));
    for (const format of ['csv', 'json', 'txt']) {
      converted(enrollmentInfo(info, [format]));
      converted(utf16(enrollmentInfo(info, [format])));
    }
    assert.equal(converted(enrollmentInfo(info, ['json'])), 'TPM2B_PUBLIC (base64, in JSON)');
    converted(enrollmentInfo(info, ['csv', 'json', 'txt']));
    assert.match(refused('<?xml version="1.0"?>\n<ERKPub/>\n'), /Limpet has printed an empty element here/);
    assert.equal(
      refused(xmlDocument(element('SRKPub', srk.toString('base64')))),
      'input.key-unsuitable: this TPM2B_PUBLIC is a storage root key (SRK), not an endorsement key',
    );
  });

  it('is read where it is iotdm', () => {
    const text = table([
      ['Registration id', vectorRegistrationId],
      ['Endorsement key', ek],
      ['Key name', `000b${'90'.repeat(32)}`],
    ]);
    assert.equal(converted(text), 'TPM2B_PUBLIC (base64, in text)');
    converted(`✔ Read.\n${text}`);
    // As it is copied from a terminal of eighty columns.
    converted(
      text
        .split('\n')
        .map((line) => (line.match(/.{1,80}/g) ?? []).join('\n'))
        .join('\n'),
    );
    const members = { registrationId: vectorRegistrationId, endorsementKey: ek };
    converted(JSON.stringify(members));
    converted(JSON.stringify([{ ...members, tags: { größe: 'ä' } }], null, 2));
    converted(JSON.stringify(members).replaceAll('/', '\\/').replaceAll('+', '\\u002B'));
    const ekCertificate = makeEkCertificate(keyObject, 7).toString('base64');
    converted(`${JSON.stringify({ schema: 1, ...members, ekCertificate, serialNumber: 'SN-1' })}\n`);
    assert.equal(converted(JSON.stringify({ ekCertificate })), 'EK certificate (DER, base64, in JSON)');
  });

  it('is read where it is PowerShell or another dump, of a key or certificate', () => {
    const forms: [Buffer, RegExp][] = [
      [area, /^TPM2B_PUBLIC \(hex dump\)$/],
      [pkcs1, /^PKCS#1 public key \(DER, hex dump\)$/],
      [spki, /^public key \(DER, hex dump\)$/],
      [makeEkCertificate(keyObject, 7), /^EK certificate \(DER, hex dump\)$/],
      [modulus, /^bare modulus \(hex dump\)$/],
    ];
    for (const [bytes, input] of forms) {
      for (const dump of [powershell5, powershell7, xxd, hexdumpC]) {
        const text = dump(bytes);
        assert.match(converted(text), input, text);
        converted(utf16(text));
        converted(text.replaceAll('\n', '\r\n'));
        const [first = '', ...rest] = text.split('\n').filter((line) => /^0+[1-9a-f]0:?\s/i.test(line));
        assert.match(
          refused(text.replace(`${rest[0] ?? first}\n`, '')),
          /^input\.invalid: /,
          'a line is missing',
        );
      }
    }
    converted(Buffer.from(powershell5(pkcs1), 'latin1'));
    // What PowerShell prints of an array of bytes without Format-Hex.
    assert.equal(converted(`${[...pkcs1].join('\r\n')}\r\n`), 'PKCS#1 public key (DER, decimal)');
    converted(utf16([...area].join('\r\n')));
    assert.match(refused([...area].slice(0, 99).join('\n')), /^input\.invalid: /);
    converted(pkcs1.toString('base64'));
    converted(utf16(`${pkcs1.toString('base64')}\r\n`));
  });

  it('is read where it is tpm2_readpublic, which says that it is an endorsement key', () => {
    assert.equal(converted(tpm2()), 'TPM2B_PUBLIC (printed by tpm2_readpublic)');
    converted(tpm2({ name: '' }));
    converted(tpm2().replaceAll('\n', '\r\n'));
    converted(`WARN: something\n${tpm2()}`);
    const cases: [Printed, RegExp][] = [
      [{ name: '', attributes: '0x30472' }, /a storage root key/],
      [{ name: '', attributes: '0x30072' }, /its attributes are 0x00030072, not 0x000300b2/],
      [{ name: '', policy: '00'.repeat(32) }, /it has another authorization policy/],
      [{ name: '', policy: '' }, /it has another authorization policy/],
      [{ name: '', exponent: 3 }, /the exponent 3/],
      [{ name: '', bits: 1024, rsa: modulus.subarray(128) }, /an RSA 1024 key/],
      [{ name: '', nameAlg: '0xc' }, /it has other algorithms/],
      [{ name: '', keyBits: 256 }, /it has other algorithms/],
      [{ rsa: modulus.subarray(1) }, /cut off or damaged/],
      [{ name: `000b${'00'.repeat(32)}` }, /its name is not that of its contents/],
    ];
    for (const [printed, problem] of cases) assert.match(refused(tpm2(printed)), problem);
    const ecc = tpm2({ name: '' }).replace(
      'value: rsa\n  raw: 0x1\n',
      'value: ecc\n  raw: 0x23\ncurve-id:\n  value: NIST p256\n  raw: 0x3\n',
    );
    assert.match(refused(ecc), /^input\.key-unsuitable: .* an ECC key \(NIST P-256\)/);
  });

  it('is refused where there are several keys, and one twice is one', () => {
    const several = 'input.invalid: this holds 2 different endorsement keys: give one';
    const other = Buffer.from(otherEk, 'base64');
    for (const text of [
      `${ek}\n${otherEk}\n`,
      xmlDocument(element('ERKPub', ek)) + xmlDocument(element('ERKPub', otherEk)),
      JSON.stringify([{ endorsementKey: ek }, { endorsementKey: otherEk }]),
      powershell7(area) + powershell7(other),
      tpm2() + tpm2({ name: '', rsa: other.subarray(EK_PUBLIC_PREFIX.length) }),
      tpm2() + otherEk,
    ]) {
      assert.equal(refused(text), several);
    }
    converted(`${ek}\n${ek}\n`);
    converted(tpm2() + tpm2() + powershell5(pkcs1) + xmlDocument(element('ERKPub', ek)));
  });

  it('is told from what only names a key', () => {
    const thumbprint = '3FC82CD5A9B1E0C43D7F1F1EE7F1B9B0E0D5C4A1';
    for (const text of [
      thumbprint,
      `\u200e${thumbprint.toLowerCase()}\r\n`,
      (thumbprint.match(/../g) ?? []).join(' '),
      `Thumbprint : ${thumbprint}`,
      `SHA1 Fingerprint=${(thumbprint.match(/../g) ?? []).join(':')}`,
    ])
      assert.match(
        refused(text),
        /^input\.invalid: this is a thumbprint, by which Windows names a certificate: no key follows/,
      );
    assert.match(
      refused('70769c52b6e24ef683693c2a0208da68d77e94192e1f4080ed7c9b97c6caa681'),
      /a SHA-256 digest/,
    );
    assert.match(refused(vectorRegistrationId), /this is a registration id/);
    const shown =
      'IsPresent                : True\nPublicKey                : System.Security.Cryptography.AsnEncodedData\n' +
      'PublicKeyHash            : 70769c52b6e24ef683693c2a0208da68d77e94192e1f4080ed7c9b97c6caa681\n' +
      'ManufacturerCertificates : {[Subject]\n                             OID.2.23.133.2.3=1.2\n';
    assert.match(
      refused(shown),
      /this is what Get-TpmEndorsementKeyInfo shows, .*RawData \| Format-Hex gives the key/,
    );
  });

  it('is never a private key, and is not taken for a cell of a file', () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const der = privateKey.export({ type: 'pkcs8', format: 'der' });
    for (const text of [
      powershell7(der),
      JSON.stringify({ key: der.toString('base64') }),
      `${ek}\n${der.toString('base64')}`,
    ])
      assert.match(refused(text), /^input\.private-key: /);
    assert.match(
      refused(`Endorsement key  ${ek.slice(0, 400)}\n`),
      /^input\.invalid: this is a TPM2B_PUBLIC of 300 bytes, where an endorsement key has 316/,
    );
    for (const text of [xmlDocument(element('ERKPub', ek)), tpm2(), powershell5(pkcs1)])
      assert.equal(recognizeEndorsementKey(Buffer.from(text)).kind, 'unrecognized');
  });

  it('makes nothing but errors of anything else, in no time', () => {
    const pieces = fc.array(
      fc.oneof(
        fc.string(),
        fc.constantFrom(
          ek,
          ek.slice(0, 99),
          '<ERKPub>',
          '</ERKPub>',
          'name-alg:\n',
          '  raw: 0x1\n',
          'rsa: ',
          '\n',
          '00000000 ',
          '00000010: 30 82',
          'name: ',
        ),
      ),
    );
    fc.assert(
      fc.property(pieces, (parts) => {
        try {
          convertToEndorsementKey(Buffer.from(parts.join('')));
        } catch (error) {
          assert.ok(error instanceof IotdmError, String(error));
        }
      }),
      { numRuns: 1000 },
    );
    for (const piece of [
      'name-alg:\n',
      'AToAAQALAAMAsgAg',
      '00000000 30\n',
      '<ERKPub>',
      'ab ',
      '0 ',
      'name: x\n',
      '\r\n',
      ' ',
    ]) {
      const began = performance.now();
      assert.match(refused(piece.repeat(65_000 / piece.length)), /^input/);
      assert.ok(performance.now() - began < 5000, piece);
    }
  });
});
