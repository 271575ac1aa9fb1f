/** The blobs in which devices get their keys: tpm2-tools and swtpm open them, and nothing else does. */

import assert from 'node:assert/strict';
import { createDecipheriv, createHmac, generateKeyPairSync, randomBytes, type KeyObject } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import fc from 'fast-check';
import { authenticationKey } from '../../src/emulator/authentication-key.ts';
import { tpmKey, type TpmKey } from '../../src/emulator/tpm-key.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import { openCredential, openDuplicate, structures } from '../fakes/chip-in-software.ts';
import { syntheticEndorsementKey, vectorEndorsementKey } from '../fakes/endorsement-keys.ts';
import { lifetimeOfFile, scratchDirectory, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

const lifetime = lifetimeOfFile();
const hmacKey = randomBytes(32);
const uri = 'hub.example/device';

let chip: SoftwareTpm;
let dir = '';
let endorsementKey: TpmKey;
let storageRootKey: TpmKey;
let storageRootKeyBytes: Buffer;

before(async () => {
  [chip, dir] = await Promise.all([softwareTpm(lifetime), scratchDirectory(lifetime)]);
  chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'rsa2048', '-c', at('srk.ctx'));
  chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', at('srk.ctx'), '0x81000001');
  chip.tool('tpm2_flushcontext', '-t');
  endorsementKey = keyOf(publicAreaOf('0x81010001', 'ek'));
  storageRootKeyBytes = publicAreaOf('0x81000001', 'srk');
  storageRootKey = keyOf(storageRootKeyBytes);
});

const at = (name: string): string => join(dir, name);

function publicAreaOf(handle: string, name: string): Buffer {
  chip.tool('tpm2_readpublic', '-c', handle, '-f', 'tss', '-o', at(name));
  return readFileSync(at(name));
}

function keyOf(bytes: Buffer): TpmKey {
  const key = tpmKey(bytes.toString('base64'));
  assert.ok(key);
  return key;
}

function sized(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
}

/** A file of tpm2-tools that holds a credential: magic number, version, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET. */
const credentialHeader = Buffer.from('badcc0de00000001', 'hex');

/** Has tpm2-tools activate and import a blob; what they say no to is thrown. */
function importWithTools(blob: Buffer): void {
  const [credential, seed, duplicate, duplicateSeed, publicArea] = structures(blob).map(sized);
  writeFileSync(
    at('credential'),
    Buffer.concat([credentialHeader, credential ?? '', seed ?? ''] as Buffer[]),
  );
  chip.tool('tpm2_startauthsession', '--policy-session', '-S', at('session'));
  try {
    chip.tool('tpm2_policysecret', '-S', at('session'), '-c', 'e');
    chip.tool(
      'tpm2_activatecredential',
      ...['-c', '0x81000001', '-C', '0x81010001', '-i', at('credential'), '-o', at('inner')],
      ...['-P', `session:${at('session')}`],
    );
  } finally {
    chip.tool('tpm2_flushcontext', at('session'));
  }
  for (const [name, bytes] of Object.entries({ duplicate, duplicateSeed, publicArea })) {
    writeFileSync(at(name), bytes ?? '');
  }
  chip.tool(
    'tpm2_import',
    ...['-C', '0x81000001', '-k', at('inner'), '-s', at('duplicateSeed')],
    ...['-i', at('duplicate'), '-u', at('publicArea'), '-r', at('private')],
  );
  chip.tool(
    'tpm2_load',
    '-C',
    '0x81000001',
    '-u',
    at('publicArea'),
    '-r',
    at('private'),
    '-c',
    at('key.ctx'),
  );
  chip.tool('tpm2_flushcontext', '-t');
}

/** An RSA key pair outside of any TPM, as a key of one: TPM2B_PUBLIC after the form of another. */
function softwareKey(form: Buffer): { privateKey: KeyObject; key: TpmKey } {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const modulus = Buffer.from(publicKey.export({ format: 'jwk' }).n ?? '', 'base64url');
  return { privateKey, key: keyOf(Buffer.concat([form.subarray(0, -256), modulus])) };
}

describe('an authentication key', () => {
  it('is activated, imported and used by tpm2-tools', () => {
    const blob = Buffer.from(authenticationKey(endorsementKey, storageRootKey, hmacKey, uri), 'base64');
    assert.equal(structures(blob).length, 6);
    importWithTools(blob);
    writeFileSync(at('data'), 'a challenge');
    const signature = chip.tool('tpm2_hmac', '-c', at('key.ctx'), at('data'), '--hex');
    assert.equal(signature.trim(), createHmac('sha256', hmacKey).update('a challenge').digest('hex'));
    const attributes = chip.tool('tpm2_readpublic', '-c', at('key.ctx'));
    assert.match(attributes, /value: userwithauth\|noda\|sign\n/);
    chip.tool('tpm2_flushcontext', '-t');
  });

  it('is refused by the TPM for another endorsement key, and for another storage root key', () => {
    const other = softwareKey(storageRootKeyBytes).key;
    const foreign = softwareKey(endorsementKey.bytes).key;
    const blobs = [
      authenticationKey(foreign, storageRootKey, hmacKey, uri),
      authenticationKey(endorsementKey, other, hmacKey, uri),
      authenticationKey(endorsementKey, { ...storageRootKey, name: other.name }, hmacKey, uri),
    ];
    for (const blob of blobs) {
      assert.throws(() => {
        importWithTools(Buffer.from(blob, 'base64'));
      }, /tpm2_activatecredential/);
    }
    const mixed = authenticationKey(endorsementKey, { ...storageRootKey, key: other.key }, hmacKey, uri);
    assert.throws(() => {
      importWithTools(Buffer.from(mixed, 'base64'));
    }, /tpm2_import/);
  });

  it('is refused by the TPM with any one byte changed', async () => {
    const blob = Buffer.from(authenticationKey(endorsementKey, storageRootKey, hmacKey, uri), 'base64');
    // Behind them is the URI, which no TPM is given.
    const end = structures(blob)
      .slice(0, 5)
      .reduce((length, part) => length + 2 + part.length, 0);
    const transport = await chip.transport();
    const tpm = new BareTpm(transport);
    const cut = (bytes: Buffer): readonly Buffer[] => {
      let start = 0;
      return structures(blob).map(({ length }) => bytes.subarray(start, (start += 2 + length)));
    };
    try {
      assert.equal(await tpm.imports(cut(blob)), true);
      for (const position of positions(blob, end)) {
        const changed = Buffer.from(blob);
        changed.writeUInt8((changed[position] ?? 0) ^ 0x01, position);
        assert.equal(await tpm.imports(cut(changed)), false, `byte ${position}`);
      }
      assert.equal(await tpm.imports(cut(blob)), true);
    } finally {
      await transport.close();
    }
    assert.equal(chip.handles('loaded-session'), '');
    assert.equal(chip.handles('transient'), '');
  });

  it('is read from its bytes as tpm2-tools write such blobs', () => {
    const ek = softwareKey(endorsementKey.bytes);
    writeFileSync(at('ek.pub'), ek.key.bytes);
    writeFileSync(at('secret'), 'sixteen bytes ok');
    const name = storageRootKey.name.toString('hex');
    const tool = ['-u', at('ek.pub'), '-s', at('secret'), '-n', name, '-o', at('made')];
    chip.tool('tpm2_makecredential', '-T', 'none', ...tool);
    const made = readFileSync(at('made'));
    assert.deepEqual(made.subarray(0, 8), credentialHeader);
    const [credential = Buffer.alloc(0), seed = Buffer.alloc(0)] = structures(made.subarray(8));
    const opened = openCredential(ek.privateKey, storageRootKey.name, credential, seed);
    assert.equal(opened?.toString('utf8'), 'sixteen bytes ok');
    assert.equal(openCredential(ek.privateKey, endorsementKey.name, credential, seed), undefined);

    const parent = softwareKey(storageRootKeyBytes);
    writeFileSync(at('parent.pub'), parent.key.bytes);
    writeFileSync(at('inner'), randomBytes(16));
    writeFileSync(at('hmac'), hmacKey);
    // The policy that allows TPM2_Duplicate.
    chip.tool('tpm2_startauthsession', '-S', at('trial'));
    chip.tool('tpm2_policycommandcode', '-S', at('trial'), '-L', at('policy'), 'TPM2_CC_Duplicate');
    chip.tool('tpm2_flushcontext', at('trial'));
    chip.tool(
      'tpm2_import',
      ...['-C', '0x81000001', '-G', 'hmac', '-i', at('hmac'), '-L', at('policy')],
      ...['-u', at('hmac.pub'), '-r', at('hmac.priv')],
    );
    chip.tool(
      'tpm2_load',
      '-C',
      '0x81000001',
      '-u',
      at('hmac.pub'),
      '-r',
      at('hmac.priv'),
      '-c',
      at('hmac.ctx'),
    );
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_loadexternal', '-C', 'o', '-u', at('parent.pub'), '-c', at('parent.ctx'));
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_startauthsession', '--policy-session', '-S', at('session'));
    chip.tool('tpm2_policycommandcode', '-S', at('session'), 'TPM2_CC_Duplicate');
    chip.tool(
      'tpm2_duplicate',
      ...['-C', at('parent.ctx'), '-c', at('hmac.ctx'), '-G', 'aes', '-i', at('inner')],
      ...['-p', `session:${at('session')}`, '-r', at('dup'), '-s', at('dup.seed')],
    );
    chip.tool('tpm2_flushcontext', at('session'));
    chip.tool('tpm2_flushcontext', '-t');
    const [duplicate = Buffer.alloc(0), dupSeed = Buffer.alloc(0), area = Buffer.alloc(0)] = [
      'dup',
      'dup.seed',
      'hmac.pub',
    ].flatMap((file) => structures(readFileSync(at(file))));
    const innerKey = readFileSync(at('inner'));
    const key = openDuplicate(parent.privateKey, innerKey, area, duplicate, dupSeed);
    assert.deepEqual(key?.key, hmacKey);
    assert.equal(key.type, 8);
    assert.equal(openDuplicate(parent.privateKey, randomBytes(16), area, duplicate, dupSeed), undefined);
    // And ours, read the same way.
    const ours = structures(Buffer.from(authenticationKey(ek.key, parent.key, hmacKey, uri), 'base64')) as [
      Buffer,
      Buffer,
      Buffer,
      Buffer,
      Buffer,
      Buffer,
    ];
    const inner = openCredential(ek.privateKey, parent.key.name, ours[0], ours[1]);
    const own = openDuplicate(parent.privateKey, inner, ours[4], ours[2], ours[3]);
    assert.deepEqual([own?.key, own?.authValue, own?.seed.length], [hmacKey, Buffer.alloc(0), 32]);
    const clear = createDecipheriv('aes-128-cfb', inner ?? '', Buffer.alloc(16)).update(ours[5]);
    assert.equal(clear.toString('utf8'), uri);
  });
});

/** Each structure's size, first and last bytes, and every twentieth byte of all. */
function positions(blob: Buffer, end: number): readonly number[] {
  const found = new Set<number>();
  let start = 0;
  for (const { length } of structures(blob)) {
    for (const offset of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, length, length + 1]) found.add(start + offset);
    start += 2 + length;
  }
  for (let position = 0; position < end; position += 20) found.add(position);
  return [...found].filter((position) => position < end);
}

/** Commands of TPM 2.0 (Part 3) as bytes: what is sent is what the blob holds, whatever that is. */
class BareTpm {
  readonly #transport: TpmTransport;

  constructor(transport: TpmTransport) {
    this.#transport = transport;
  }

  /**
   * Whether the TPM activates and imports a blob; it keeps nothing of it.
   * @param parts the blob, cut where its structures ended before it was changed
   */
  async imports(parts: readonly Buffer[]): Promise<boolean> {
    const [credential, seed, duplicate, duplicateSeed, area] = parts;
    if (!credential || !seed || !duplicate || !duplicateSeed || !area) throw new Error('five parts');
    const policy = await this.#policySession();
    try {
      const activated = await this.#send(
        0x147,
        [srk, ek],
        [password, Buffer.concat([policy, zeros(5)])],
        [credential, seed],
      );
      if (activated === undefined) return false;
      const aes = Buffer.from('000600800043', 'hex');
      const parameters = [activated, area, duplicate, duplicateSeed, aes];
      return (await this.#send(0x156, [srk], [password], parameters)) !== undefined;
    } finally {
      await this.#send(0x165, [policy], undefined, []);
    }
  }

  /** A policy session with PolicySecret(endorsement). */
  async #policySession(): Promise<Buffer> {
    const nothing = Buffer.from('40000007', 'hex');
    const nonce = sized(randomBytes(16));
    const kind = Buffer.from('0000' + '01' + '0010' + '000b', 'hex');
    const started = await this.#send(0x176, [nothing, nothing], undefined, [nonce, kind]);
    assert.ok(started);
    const policy = started.subarray(0, 4);
    const endorsement = Buffer.from('4000000b', 'hex');
    assert.ok(await this.#send(0x151, [endorsement, policy], [password], [zeros(10)]));
    return policy;
  }

  /** The parameters of the response, handles before them; undefined when the TPM refuses. */
  async #send(
    code: number,
    handles: readonly Buffer[],
    sessions: readonly Buffer[] | undefined,
    parameters: readonly Buffer[],
  ): Promise<Buffer | undefined> {
    const authorization = Buffer.concat(sessions ?? []);
    const body = Buffer.concat([
      ...handles,
      ...(sessions === undefined ? [] : [long(authorization.length), authorization]),
      ...parameters,
    ]);
    const tag = Buffer.from(sessions === undefined ? '8001' : '8002', 'hex');
    const response = await this.#transport.send(
      Buffer.concat([tag, long(10 + body.length), long(code), body]),
    );
    if (response.readUInt32BE(6) !== 0) return undefined;
    if (sessions === undefined) return response.subarray(10);
    return response.subarray(14, 14 + response.readUInt32BE(10));
  }
}

const srk = Buffer.from('81000001', 'hex');
const ek = Buffer.from('81010001', 'hex');
/** TPM_RS_PW, without a nonce, an attribute or a password. */
const password = Buffer.from('400000090000000000', 'hex');

function zeros(length: number): Buffer {
  return Buffer.alloc(length);
}

function long(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

describe('the keys that devices show', () => {
  it('are those of template L-1 and of storage root keys, and nothing else', () => {
    assert.ok(tpmKey(vectorEndorsementKey));
    assert.ok(tpmKey(syntheticEndorsementKey(1)));
    assert.ok(tpmKey(storageRootKeyBytes.toString('base64')));
    assert.equal(tpmKey(vectorEndorsementKey.slice(0, -4)), undefined);
    const ek = Buffer.from(vectorEndorsementKey, 'base64');
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 59 }), fc.integer({ min: 1, max: 255 }), (position, flip) => {
        const changed = Buffer.from(ek);
        changed.writeUInt8((changed[position] ?? 0) ^ flip, position);
        const key = tpmKey(changed.toString('base64'));
        // What is left to the key: attributes that vouch for nothing, the policy, and the exponent.
        const isFree = (position >= 6 && position < 44) || (position >= 54 && position < 58);
        assert.ok(key === undefined || isFree, `byte ${position} ^ ${flip}`);
      }),
    );
    fc.assert(
      fc.property(fc.oneof(fc.anything(), fc.string(), fc.base64String()), (value) => {
        assert.equal(tpmKey(value), undefined);
      }),
    );
  });
});
