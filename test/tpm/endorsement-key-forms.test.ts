import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it, after } from 'node:test';
import fc from 'fast-check';
import { EK_PUBLIC_PREFIX, hexRegistrationIdOf, rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import {
  convertToEndorsementKey,
  MAX_KEY_INPUT_BYTES,
  recognizeEndorsementKey,
  type Recognition,
} from '../../src/tpm/endorsement-key-forms.ts';
import { forOaep, makeEkCertificate } from '../fakes/ek-certificates.ts';
import { syntheticEndorsementKey, vectorEndorsementKey } from '../fakes/endorsement-keys.ts';
import { scratchDirectory, softwareTpm, type Lifetime, type SoftwareTpm } from '../lab/lab.ts';

const vector = Buffer.from(vectorEndorsementKey, 'base64');
const modulus = vector.subarray(60);

function wrapped(text: string, width: number, end = '\n'): string {
  return (text.match(new RegExp(`.{1,${width}}`, 'g')) ?? []).join(end) + end;
}

/** The same bytes as people send them on. */
function writings(bytes: Buffer): Record<string, Buffer> {
  const hex = bytes.toString('hex');
  const pairs = hex.match(/../g) ?? [];
  const base64 = bytes.toString('base64');
  return {
    raw: bytes,
    hex: Buffer.from(hex),
    'upper-case hex': Buffer.from(`${hex.toUpperCase()}\n`),
    '0x hex': Buffer.from(`0x${hex}`),
    'wrapped hex': Buffer.from(wrapped(hex, 61, '\r\n')),
    'hex with colons': Buffer.from(wrapped(pairs.join(':'), 45, '\n    ')),
    'hex of .NET': Buffer.from(pairs.join('-').toUpperCase()),
    'hex of a C array': Buffer.from(pairs.map((pair) => `0x${pair}`).join(', ')),
    base64: Buffer.from(base64),
    'wrapped base64': Buffer.from(wrapped(base64, 76)),
    'base64 with CR LF and a mark': Buffer.from(`\ufeff${wrapped(base64, 64, '\r\n')}`),
    'base64 from PowerShell': Buffer.from(`\ufeff${base64}\r\n`, 'utf16le'),
    base64url: Buffer.from(bytes.toString('base64url')),
    'unpadded base64': Buffer.from(base64.replace(/=+$/, '')),
  };
}

function accepted(found: Recognition): Buffer {
  if (found.kind !== 'endorsement-key') assert.fail(JSON.stringify(found));
  return found.endorsementKey;
}

function assertAllGive(expected: Buffer, forms: Readonly<Record<string, Buffer>>): void {
  for (const [form, bytes] of Object.entries(forms)) {
    for (const [writing, content] of Object.entries(writings(bytes))) {
      const found = recognizeEndorsementKey(content);
      assert.equal(found.kind, 'endorsement-key', `${form}, ${writing}: ${JSON.stringify(found)}`);
      assert.deepEqual(accepted(found), expected);
    }
  }
}

function problemOf(content: Buffer | string): string {
  const found = recognizeEndorsementKey(Buffer.from(content));
  return found.kind === 'endorsement-key' ? `accepted: ${found.input}` : `${found.kind}: ${found.problem}`;
}

function inputOf(content: Buffer | string): string {
  return convertToEndorsementKey(Buffer.from(content)).input;
}

const spki = (key: KeyObject): Buffer => key.export({ type: 'spki', format: 'der' });
const pem = (key: KeyObject): string => key.export({ type: 'spki', format: 'pem' }) as string;

describe('forms of one endorsement key, made by other programs', () => {
  const cleanUps: (() => Promise<void> | void)[] = [];
  const lifetime: Lifetime = { after: (cleanUp) => cleanUps.push(cleanUp) };
  after(async () => {
    for (const cleanUp of cleanUps) await cleanUp();
  });
  let chip: SoftwareTpm;
  let dir = '';
  let expected: Buffer;
  const path = (name: string): string => join(dir, name);
  const openssl = (...args: string[]): Buffer =>
    execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'ignore'] });

  before(async () => {
    chip = await softwareTpm(lifetime);
    dir = await scratchDirectory(lifetime);
    expected = await chip.use(async (tpm) => (await tpm.readEndorsementKey()).publicArea);
  });

  it('those of tpm2_readpublic and tpm2_createek', () => {
    const forms: Record<string, Buffer> = {};
    for (const format of ['tss', 'tpmt', 'pem', 'der']) {
      chip.tool('tpm2_readpublic', '-c', '0x81010001', '-f', format, '-o', path(format));
      forms[`readpublic -f ${format}`] = readFileSync(path(format));
    }
    chip.tool('tpm2_createek', '-G', 'rsa', '-c', path('ek.ctx'), '-u', path('createek'));
    chip.tool('tpm2_flushcontext', '-t');
    forms['createek'] = readFileSync(path('createek'));
    assertAllGive(expected, forms);
  });

  it('those that tpm2_readpublic and hexdump print, for a command', () => {
    const printed = chip.tool('tpm2_readpublic', '-c', '0x81010001', '-o', path('ek.tss'));
    assert.deepEqual(convertToEndorsementKey(Buffer.from(printed)).endorsementKey, expected);
    const area = convertToEndorsementKey(execFileSync('tpm2_print', ['-t', 'TPM2B_PUBLIC', path('ek.tss')]));
    assert.deepEqual(area.endorsementKey, expected);
    const dump = execFileSync('od', ['-A', 'x', '-t', 'x1z', path('ek.tss')]);
    assert.deepEqual(convertToEndorsementKey(dump).endorsementKey, expected);
    chip.tool('tpm2_createprimary', '-C', 'e', '-G', 'ecc', '-c', path('printed.ctx'));
    const ecc = chip.tool('tpm2_readpublic', '-c', path('printed.ctx'));
    chip.tool('tpm2_flushcontext', '-t');
    assert.throws(() => convertToEndorsementKey(Buffer.from(ecc)), {
      code: 'input.key-unsuitable',
      message: /is an ECC key \(NIST P-256\), and DPS takes RSA 2048 endorsement keys only$/,
    });
  });

  it('those of openssl', () => {
    chip.tool('tpm2_readpublic', '-c', '0x81010001', '-f', 'pem', '-o', path('ek.pem'));
    const from = ['rsa', '-pubin', '-in', path('ek.pem')];
    assertAllGive(expected, {
      'SPKI PEM': openssl(...from, '-pubout'),
      'SPKI DER': openssl(...from, '-pubout', '-outform', 'der'),
      'SPKI DER for RSAES-OAEP': forOaep(openssl(...from, '-pubout', '-outform', 'der')),
      'PKCS#1 PEM': openssl(...from, '-RSAPublicKey_out'),
      'PKCS#1 DER': openssl(...from, '-RSAPublicKey_out', '-outform', 'der'),
      'printed modulus': openssl(...from, '-noout', '-modulus'),
      'printed key': openssl(...from, '-noout', '-text'),
      'printed modulus and PEM': openssl(...from, '-modulus'),
      'bare modulus': expected.subarray(60),
      'bare modulus with a leading 00': Buffer.concat([Buffer.alloc(1), expected.subarray(60)]),
    });
    const printed = openssl(...from, '-noout', '-text').toString();
    const digits = /Modulus:([0-9a-f:\s]+)/.exec(printed)?.[1] ?? '';
    assert.deepEqual(accepted(recognizeEndorsementKey(Buffer.from(digits))), expected);
  });

  it('the EK certificate in the TPM, padded, with a TCG header, as openssl writes it', () => {
    chip.tool('tpm2_nvread', '0x1c00002', '-o', path('ek.crt'));
    const der = readFileSync(path('ek.crt'));
    const length = Buffer.alloc(2);
    length.writeUInt16BE(der.length);
    const header = Buffer.concat([Buffer.from('100100', 'hex'), length]);
    const forms = {
      DER: der,
      'padded with 00': Buffer.concat([der, Buffer.alloc(300)]),
      'padded with ff': Buffer.concat([der, Buffer.alloc(300, 0xff)]),
      'with a TCG header': Buffer.concat([header, der]),
      'with a TCG header and padded': Buffer.concat([header, der, Buffer.alloc(99)]),
      'with both TCG headers': Buffer.concat([header, Buffer.from('1002', 'hex'), der]),
      'with a TCG header that has no length': Buffer.concat([header.subarray(0, 3), der, Buffer.alloc(9)]),
      'with its key marked as one for RSAES-OAEP': forOaep(der),
      PEM: openssl('x509', '-inform', 'der', '-in', path('ek.crt')),
      'PEM with text': openssl('x509', '-inform', 'der', '-in', path('ek.crt'), '-text'),
    };
    assertAllGive(expected, forms);
    assert.equal(inputOf(forms['padded with ff']), 'EK certificate (DER, padded)');
    assert.equal(
      inputOf(forms['with a TCG header and padded'].toString('hex')),
      'EK certificate (DER, TCG header, padded, hex)',
    );
  });

  it('refuses the storage root key, and what else the TPM holds', () => {
    const problems: [tool: string[], problem: RegExp][] = [
      [
        [
          'tpm2_createprimary',
          '-C',
          'o',
          '-G',
          'rsa2048:aes128cfb',
          '-a',
          'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt',
        ],
        /^other-key: this TPM2B_PUBLIC is a storage root key \(SRK\), not an endorsement key$/,
      ],
      [
        ['tpm2_createprimary', '-C', 'e', '-G', 'rsa2048:aes128cfb'],
        /its attributes are 0x00030072, not 0x000300b2$/,
      ],
      [
        ['tpm2_createprimary', '-C', 'e', '-G', 'ecc'],
        /is an ECC key \(NIST P-256\), and DPS takes RSA 2048/,
      ],
      [['tpm2_createprimary', '-C', 'e', '-G', 'rsa3072'], /is an RSA 3072 key, and DPS takes RSA 2048/],
      [
        [
          'tpm2_createprimary',
          '-C',
          'e',
          '-G',
          'rsa2048:aes128cfb',
          '-a',
          'fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt',
        ],
        /it has another authorization policy$/,
      ],
    ];
    for (const [[program = '', ...args], problem] of problems) {
      chip.tool(program, ...args, '-c', path('key.ctx'));
      chip.tool('tpm2_readpublic', '-c', path('key.ctx'), '-f', 'tss', '-o', path('tss'));
      chip.tool('tpm2_readpublic', '-c', path('key.ctx'), '-f', 'tpmt', '-o', path('tpmt'));
      chip.tool('tpm2_flushcontext', '-t');
      const found = problemOf(readFileSync(path('tss')));
      assert.match(found, problem);
      for (const writing of Object.values(writings(readFileSync(path('tss')))))
        assert.equal(problemOf(writing), found);
      assert.equal(problemOf(readFileSync(path('tpmt'))), found.replace('TPM2B', 'TPMT'));
    }
  });
});

describe('what the input was', () => {
  it('is said with its container and its encoding', () => {
    const key = rsaKeyObject(modulus);
    const cases: [content: Buffer | string, input: string][] = [
      [vector, 'TPM2B_PUBLIC (binary)'],
      [vectorEndorsementKey, 'TPM2B_PUBLIC (base64)'],
      [vector.toString('base64url'), 'TPM2B_PUBLIC (base64url)'],
      [vector.subarray(2).toString('hex'), 'TPMT_PUBLIC (hex)'],
      [pem(key), 'public key (PEM)'],
      [Buffer.from(pem(key)).toString('base64'), 'public key (PEM, base64)'],
      [pem(key).replaceAll('\n', '\\n'), 'public key (PEM)'],
      [`# Schlüssel\n${pem(key)}`, 'public key (PEM)'],
      [spki(key), 'public key (DER)'],
      [key.export({ type: 'pkcs1', format: 'der' }), 'PKCS#1 public key (DER)'],
      [makeEkCertificate(key, 1).toString('base64'), 'EK certificate (DER, base64)'],
      [modulus, 'bare modulus (binary)'],
      [`00${modulus.toString('hex')}`, 'bare modulus (leading 00, hex)'],
      [`Modulus=${modulus.toString('hex').toUpperCase()}\n`, 'bare modulus (printed by openssl)'],
    ];
    for (const [content, input] of cases) assert.equal(inputOf(content), input);
  });

  it('takes a certificate out of its chain', () => {
    const key = rsaKeyObject(modulus);
    const block = (der: Buffer): string =>
      `-----BEGIN CERTIFICATE-----\n${wrapped(der.toString('base64'), 64)}-----END CERTIFICATE-----\n`;
    const own = block(makeEkCertificate(key, 1));
    const other = block(
      makeEkCertificate(rsaKeyObject(Buffer.from(syntheticEndorsementKey(1), 'base64').subarray(60)), 2),
    );
    const authority = block(
      makeEkCertificate(generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey, 3, {
        authority: true,
      }),
    );
    for (const text of [own + authority, authority + own, own + authority + own])
      assert.deepEqual(accepted(recognizeEndorsementKey(Buffer.from(text))), vector);
    assert.match(problemOf(own + other), /^unrecognized: this holds 2 PEM blocks/);
    assert.match(problemOf(authority), /^other-key: this is the certificate of a certificate authority/);
    assert.match(problemOf(authority + authority), /2 PEM blocks/);
  });

  it('knows the hex form of the registration id', () => {
    // The base32 of the public vector, written in hex.
    const bits = Array.from('y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa')
      .map((letter) => 'abcdefghijklmnopqrstuvwxyz234567'.indexOf(letter).toString(2).padStart(5, '0'))
      .join('');
    const hex = (bits.slice(0, 256).match(/.{4}/g) ?? [])
      .map((four) => Number.parseInt(four, 2).toString(16))
      .join('');
    assert.equal(hexRegistrationIdOf(vector), hex);
  });
});

describe('what is refused', () => {
  const keys = {
    rsa3072: generateKeyPairSync('rsa', { modulusLength: 3072 }),
    rsa1024: generateKeyPairSync('rsa', { modulusLength: 1024 }),
    exponent3: generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 }),
    pss: generateKeyPairSync('rsa-pss', { modulusLength: 2048 }),
    ec: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    ed25519: generateKeyPairSync('ed25519'),
  };

  it('public keys and certificates of other kinds, with the reason', () => {
    const reasons: [keyof typeof keys, RegExp][] = [
      ['rsa3072', /an RSA 3072 key, and DPS takes RSA 2048 endorsement keys only$/],
      ['rsa1024', /an RSA 1024 key, and DPS takes RSA 2048 endorsement keys only$/],
      ['exponent3', /an RSA key with the exponent 3, and that of an endorsement key is 65537$/],
      ['pss', /an RSA-PSS key, which only signs/],
      ['ec', /an ECC key \(prime256v1\), and DPS takes RSA 2048 endorsement keys only$/],
      ['ed25519', /a key of another kind \(ed25519\)/],
    ];
    for (const [name, reason] of reasons) {
      const { publicKey } = keys[name];
      const forms = [spki(publicKey), Buffer.from(pem(publicKey))];
      if (name.startsWith('rsa') || name === 'exponent3')
        forms.push(publicKey.export({ type: 'pkcs1', format: 'der' }));
      for (const form of forms)
        for (const writing of Object.values(writings(form))) assert.match(problemOf(writing), reason);
      const certificate = problemOf(makeEkCertificate(publicKey, 1));
      assert.match(certificate, reason);
      assert.match(certificate, /^other-key: this certificate is for /);
    }
  });

  it('moduli of other lengths, and numbers that are no modulus', () => {
    const of = (bits: number): Buffer => Buffer.alloc(bits / 8, 0xa5);
    assert.match(problemOf(`Modulus=${of(3072).toString('hex')}`), /^other-key: .*RSA 3072 key/);
    assert.match(problemOf(of(1024).toString('hex')), /128 bytes, maybe the modulus of an RSA 1024 key/);
    assert.match(problemOf(of(3072)), /384 bytes, maybe the modulus of an RSA 3072 key/);
    const even = Buffer.from(modulus);
    even[255] = 2;
    const low = Buffer.from(modulus);
    low[0] = 1;
    for (const number of [even, low])
      assert.match(
        problemOf(number.toString('hex')),
        /256 bytes that are not the modulus of an RSA 2048 key$/,
      );
    assert.match(problemOf(`Modulus=${modulus.toString('hex')}\nExponent: 3 (0x3)`), /exponent 3,/);
    assert.match(problemOf(modulus.toString('hex').slice(1)), /hexadecimal digits is missing/);
  });

  it('private keys, loudly, whatever form they have, and shows nothing of them', () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const ec = keys.ec.privateKey;
    const cipher = { cipher: 'aes-256-cbc', passphrase: 'x' };
    const forms: (string | Buffer)[] = [
      privateKey.export({ type: 'pkcs8', format: 'pem' }),
      privateKey.export({ type: 'pkcs1', format: 'pem' }),
      privateKey.export({ type: 'pkcs8', format: 'pem', ...cipher }),
      privateKey.export({ type: 'pkcs1', format: 'pem', ...cipher }),
      privateKey.export({ type: 'pkcs8', format: 'der' }),
      privateKey.export({ type: 'pkcs1', format: 'der' }),
      privateKey.export({ type: 'pkcs8', format: 'der', ...cipher }),
      ec.export({ type: 'sec1', format: 'pem' }),
      ec.export({ type: 'sec1', format: 'der' }),
      ec.export({ type: 'pkcs8', format: 'der' }),
      `-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n`,
      `-----BEGIN TSS2 PRIVATE KEY-----\nMIIB\n-----END TSS2 PRIVATE KEY-----\n`,
      pem(keys.rsa3072.publicKey) + String(privateKey.export({ type: 'pkcs8', format: 'pem' })),
    ];
    const text = String(forms[0]);
    forms.push(text.slice(0, 400), text.replaceAll('\n', '\\n'), text.replaceAll('\n', '\r\n'));
    for (const form of forms) {
      for (const [name, writing] of Object.entries(writings(Buffer.from(form)))) {
        const found = recognizeEndorsementKey(writing);
        assert.deepEqual(
          found,
          {
            kind: 'private-key',
            problem: 'this is a private key: it does not belong here, and was not read',
          },
          `${name} of ${Buffer.from(form).subarray(0, 40).toString('latin1')}: ${JSON.stringify(found)}`,
        );
      }
    }
    assert.throws(() => convertToEndorsementKey(Buffer.from(text)), { code: 'input.private-key' });
  });

  it('what openssl prints of a private key', async (t) => {
    const dir = await scratchDirectory(t);
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    writeFileSync(join(dir, 'key.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    const printed = execFileSync('openssl', ['rsa', '-in', join(dir, 'key.pem'), '-text', '-noout']);
    assert.match(problemOf(printed), /^private-key:/);
  });

  it('what is damaged, cut off or something else, saying which', () => {
    const key = rsaKeyObject(modulus);
    const certificate = makeEkCertificate(key, 1);
    const cases: [content: Buffer | string, problem: RegExp][] = [
      ['', /^unrecognized: there is nothing in it$/],
      [' \n', /there is nothing in it/],
      ['hello, world!', /text that is neither PEM nor hexadecimal nor base64/],
      [vector.subarray(0, 300), /a TPM2B_PUBLIC of 300 bytes, where an endorsement key has 316$/],
      [vector.subarray(0, 300).toString('base64'), /base64 of a TPM2B_PUBLIC of 300 bytes/],
      [vectorEndorsementKey.slice(0, -3), /looks like base64, but its base64 is cut off or damaged/],
      [spki(key).subarray(0, 200), /DER that is cut off: 200 of 294 bytes/],
      [Buffer.concat([spki(key), Buffer.alloc(1)]), /1 bytes follow the public key/],
      [
        Buffer.concat([certificate, Buffer.from([0, 0, 1])]),
        /3 bytes follow the certificate that are no padding/,
      ],
      [Buffer.concat([certificate, Buffer.from([0, 0xff])]), /no padding/],
      [certificate.subarray(0, 500), /cut off/],
      [pem(key).slice(0, 300), /PEM text that is cut off or damaged/],
      [pem(key).replace('MII', 'M!I'), /PEM text that is cut off or damaged/],
      ['-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----', /PEM text of another kind \(PKCS7\)/],
      [Buffer.from('3003020103', 'hex'), /PKCS#12/],
      [Buffer.alloc(MAX_KEY_INPUT_BYTES + 1, 0x20), /longer than 65536 bytes/],
      [Buffer.from('89504e470d0a1a0a', 'hex'), /8 bytes that are no key or certificate/],
    ];
    for (const [content, problem] of cases) assert.match(problemOf(content), problem);
    assert.throws(() => convertToEndorsementKey(Buffer.from('?')), { code: 'input.invalid' });
    assert.throws(() => convertToEndorsementKey(spki(keys.ec.publicKey)), { code: 'input.key-unsuitable' });
  });

  it('a certificate request', async (t) => {
    const dir = await scratchDirectory(t);
    const args = [
      'req',
      '-new',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-subj',
      '/CN=x',
      '-keyout',
      join(dir, 'k'),
    ];
    const request = execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'ignore'] });
    assert.match(problemOf(request), /^unrecognized: /);
  });

  it('takes no longer over text made to confuse it', () => {
    const size = MAX_KEY_INPUT_BYTES;
    const fill = (piece: string): string => piece.repeat(Math.ceil(size / piece.length)).slice(0, size);
    const confusing = [
      `Modulus=a${' '.repeat(size - 20)}x`,
      `Modulus=${fill('a:')}`.slice(0, size),
      fill('\n '),
      fill('\nprime1'),
      fill('0x'),
      fill('-----BEGIN A-----'),
      fill('-----BEGIN '),
      `-----BEGIN ${fill('PRIVATE KE')}`.slice(0, size),
      `${fill('A=').slice(0, size - 1)}!`,
      Buffer.from('30'.repeat(size / 2), 'hex'),
      Buffer.from('3084ffffffff'.repeat(1000), 'hex'),
    ];
    // Quadratic time would be minutes; the runner's own limit ends the test then.
    for (const content of confusing)
      assert.notEqual(recognizeEndorsementKey(Buffer.from(content)).kind, 'endorsement-key');
  });
});

describe('whatever comes in', () => {
  const key = rsaKeyObject(modulus);
  const certificate = makeEkCertificate(key, 1);
  const valid = [
    vector,
    vector.subarray(2),
    spki(key),
    key.export({ type: 'pkcs1', format: 'der' }),
    certificate,
    Buffer.concat([Buffer.from('1001000400', 'hex'), certificate, Buffer.alloc(40, 0xff)]),
    modulus,
    Buffer.concat([Buffer.alloc(1), modulus]),
    Buffer.from(pem(key)),
    Buffer.from(`Modulus=${modulus.toString('hex').toUpperCase()}\n`),
  ];
  const writing = fc.constantFrom(
    ...['raw', 'hex', '0x hex', 'hex with colons', 'hex of .NET', 'base64', 'wrapped base64', 'base64url'],
  );

  /** What was accepted holds its modulus, byte for byte, in the input or in what the input encodes. */
  function check(content: Buffer, inner: Buffer): void {
    const found = recognizeEndorsementKey(content);
    if (found.kind !== 'endorsement-key') return;
    const { endorsementKey } = found;
    assert.equal(endorsementKey.length, 316);
    assert.deepEqual(endorsementKey.subarray(0, 60), EK_PUBLIC_PREFIX);
    const number = endorsementKey.subarray(60);
    assert(((number[0] ?? 0) & 0x80) !== 0 && ((number[255] ?? 0) & 1) === 1);
    const text = inner.toString('latin1').replaceAll(/\\n|[\s:]/g, '');
    const bodies = [...text.matchAll(/-----BEGIN[A-Z0-9#]+-----([^-]*)/g)].map(([, body = '']) => body);
    const holds =
      inner.includes(number) ||
      text.toLowerCase().includes(number.toString('hex')) ||
      [text, ...bodies].some((body) => Buffer.from(body, 'base64').includes(number));
    assert(holds, found.input);
  }

  it('random bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 700 }), writing, (array, name) => {
        const bytes = Buffer.from(array);
        check(writings(bytes)[name] ?? bytes, bytes);
      }),
      { numRuns: 2000 },
    );
  });

  it('random bytes of the lengths that keys have', () => {
    const length = fc.constantFrom(128, 256, 257, 270, 294, 314, 316, 384);
    const start = fc.constantFrom('', '00', '80', '30820122', '3082010a02820101', '013a0001000b', '0001000b');
    fc.assert(
      fc.property(
        length.chain((n) => fc.uint8Array({ minLength: n, maxLength: n })),
        start,
        writing,
        (array, head, name) => {
          const bytes = Buffer.from(array);
          Buffer.from(head, 'hex').copy(bytes);
          check(writings(bytes)[name] ?? bytes, bytes);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('random text', () => {
    const scrap = fc.constantFrom(
      ...[
        '-----BEGIN PUBLIC KEY-----',
        '-----END PUBLIC KEY-----',
        '-----BEGIN CERTIFICATE-----',
        '-----END CERTIFICATE-----',
      ],
      ...[
        'Modulus=',
        'Exponent: 65537 (0x10001)',
        '\n',
        ' ',
        ':',
        '0x',
        '00',
        'MIIB',
        '=',
        '\\n',
        '\ufeff',
        'ü',
        '-',
        '_',
      ],
      ...[modulus.toString('hex'), vectorEndorsementKey, spki(key).toString('base64')],
    );
    fc.assert(
      fc.property(fc.array(scrap, { maxLength: 8 }), (scraps) => {
        const content = Buffer.from(scraps.join(''));
        check(content, content);
      }),
      { numRuns: 2000 },
    );
  });

  it('valid inputs with something changed, cut or added', () => {
    const change = fc.record({
      at: fc.nat(2000),
      value: fc.nat(255),
      kind: fc.constantFrom('set', 'cut', 'insert', 'flip'),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(...valid),
        fc.array(change, { maxLength: 3 }),
        writing,
        fc.boolean(),
        (bytes, changes, name, outside) => {
          let inner: Buffer = Buffer.from(bytes);
          const mutate = (start: Buffer): Buffer => {
            let target = start;
            for (const { at, value, kind } of changes) {
              const place = at % (target.length + 1);
              if (kind === 'set') target[place] = value;
              else if (kind === 'flip') target[place] = (target[place] ?? 0) ^ (1 << (value & 7));
              else if (kind === 'cut') target = target.subarray(0, place);
              else
                target = Buffer.concat([
                  target.subarray(0, place),
                  Buffer.from([value]),
                  target.subarray(place),
                ]);
            }
            return target;
          };
          if (!outside) inner = mutate(inner);
          let content = writings(inner)[name] ?? inner;
          if (outside) {
            content = mutate(Buffer.from(content));
            inner = content;
            const hex = content.toString('latin1').replaceAll(/0x|[\s:,-]/gi, '');
            if (/^[0-9a-f]+$/i.test(hex)) inner = Buffer.from(hex, 'hex');
            else if (name.includes('base64')) inner = Buffer.from(content.toString('latin1'), 'base64');
          }
          check(content, inner);
        },
      ),
      { numRuns: 4000 },
    );
  });

  it('the DPS value of a synthetic key, from every form of it', () => {
    for (let number = 1; number <= 20; number += 1) {
      const expected = Buffer.from(syntheticEndorsementKey(number), 'base64');
      const object = rsaKeyObject(expected.subarray(60));
      assert.deepEqual(
        createPublicKey(pem(object)).export({ format: 'jwk' }),
        object.export({ format: 'jwk' }),
      );
      assertAllGive(expected, {
        spki: spki(object),
        pem: Buffer.from(pem(object)),
        pkcs1: object.export({ type: 'pkcs1', format: 'der' }),
        certificate: makeEkCertificate(object, number),
      });
    }
  });
});
