import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { activateIdentityKey, parseIdentityKeyBlob } from '../../src/tpm/identity-key.ts';
import {
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type Lifetime,
  type SoftwareTpm,
} from '../lab/lab.ts';

const SRK = 0x81000001;
const EK = 0x81010001;

interface Witnessed {
  readonly blob: Buffer;
  readonly key: Buffer;
}

function sized(bytes: Buffer): Buffer {
  const size = Buffer.alloc(2);
  size.writeUInt16BE(bytes.length);
  return Buffer.concat([size, bytes]);
}

/**
 * A blob for this chip from tpm2_makecredential and tpm2_duplicate, which another chip runs. That one wants a policy in
 * the keys it duplicates; the service's have none.
 */
async function blobByTools(t: Lifetime, chip: SoftwareTpm, maker: SoftwareTpm): Promise<Witnessed> {
  const dir = await scratchDirectory(t);
  const at = (name: string): string => join(dir, name);
  await chip.use((tpm) => tpm.ensureStorageRootKey());
  chip.tool('tpm2_readpublic', '-c', '0x81000001', '-o', at('srk.pub'), '-n', at('srk.name'));
  chip.tool('tpm2_readpublic', '-c', '0x81010001', '-o', at('ek.pub'));

  const key = randomBytes(32);
  const innerKey = randomBytes(16);
  writeFileSync(at('key'), key);
  writeFileSync(at('inner'), innerKey);
  const tools = (program: string, ...args: string[]): void => {
    maker.tool(program, ...args);
    maker.tool('tpm2_flushcontext', '-t');
  };
  maker.tool('tpm2_startauthsession', '-S', at('session'));
  maker.tool('tpm2_policycommandcode', '-S', at('session'), '-L', at('policy'), 'TPM2_CC_Duplicate');
  maker.tool('tpm2_flushcontext', at('session'));
  tools('tpm2_createprimary', '-C', 'o', '-c', at('parent'));
  tools(
    'tpm2_import',
    ...['-C', at('parent'), '-G', 'hmac', '-i', at('key'), '-L', at('policy')],
    ...['-a', 'userwithauth|noda|sign', '-u', at('key.pub'), '-r', at('key.priv')],
  );
  tools('tpm2_load', '-C', at('parent'), '-u', at('key.pub'), '-r', at('key.priv'), '-c', at('key.ctx'));
  tools('tpm2_loadexternal', '-C', 'o', '-u', at('srk.pub'), '-c', at('srk.ctx'));
  maker.tool('tpm2_startauthsession', '--policy-session', '-S', at('session'));
  maker.tool('tpm2_policycommandcode', '-S', at('session'), 'TPM2_CC_Duplicate');
  tools(
    'tpm2_duplicate',
    ...['-C', at('srk.ctx'), '-c', at('key.ctx'), '-G', 'aes', '-i', at('inner')],
    ...['-r', at('duplicate'), '-s', at('seed'), '-p', `session:${at('session')}`],
  );
  maker.tool('tpm2_flushcontext', at('session'));
  const name = readFileSync(at('srk.name')).toString('hex');
  tools(
    'tpm2_makecredential',
    ...['-u', at('ek.pub'), '-n', name, '-s', at('inner'), '-o', at('credential')],
  );

  // tpm2_makecredential puts a magic number and a version before TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
  const credential = readFileSync(at('credential')).subarray(8);
  const blob = Buffer.concat([
    credential,
    ...['duplicate', 'seed', 'key.pub'].map((file) => readFileSync(at(file))),
    sized(Buffer.from('an encrypted URI')),
  ]);
  return { blob, key };
}

function left(chip: SoftwareTpm): string {
  return chip.handles('transient') + chip.handles('loaded-session');
}

describe('a key that was made for this TPM with tpm2-tools', () => {
  const lifetime = lifetimeOfFile();
  const handles = { ekHandle: EK, srkHandle: SRK };
  let chip: SoftwareTpm;
  let maker: SoftwareTpm;
  let blob: Buffer;
  let key: Buffer;
  before(async () => {
    [chip, maker] = await Promise.all([softwareTpm(lifetime), softwareTpm(lifetime)]);
    ({ blob, key } = await blobByTools(lifetime, chip, maker));
  });

  it('is taken over with four commands, and signs as the original', async () => {
    await chip.use(async (tpm) => {
      const wrapped = await activateIdentityKey(tpm, blob, handles);
      assert.deepEqual(tpm.commandsSent, [
        'StartAuthSession',
        'PolicySecret',
        'ActivateCredential',
        'Import',
      ]);
      const signature = await tpm.withLoaded(SRK, wrapped, ({ handle }) =>
        tpm.hmac(handle, Buffer.from('x')),
      );
      assert.deepEqual(signature, createHmac('sha256', key).update('x').digest());
    });
    assert.equal(left(chip), '');
  });

  it('is refused by another TPM', async () => {
    await maker.use((tpm) => tpm.ensureStorageRootKey());
    await assert.rejects(
      maker.use((tpm) => activateIdentityKey(tpm, blob, handles)),
      { code: 'verify.identity-key' },
    );
    assert.equal(left(maker), '');
  });

  it('is refused after any change', async () => {
    // The last 18 bytes are the URI, which nobody reads; its size belongs to the form.
    const refused = new Set<string>();
    await chip.use(async (tpm) => {
      for (let at = 0; at < blob.length - 16; at += 1) {
        const changed = Buffer.from(blob);
        changed.writeUInt8(changed.readUInt8(at) ^ (1 << (at % 8)), at);
        await assert.rejects(
          activateIdentityKey(tpm, changed, handles),
          (error) => {
            refused.add(error instanceof IotdmError ? error.code : String(error));
            return true;
          },
          `byte ${at}`,
        );
      }
    });
    assert.deepEqual([...refused], ['verify.identity-key']);
    assert.equal(left(chip), '');
  });

  it('needs the authorization of the endorsement hierarchy where one is set', async () => {
    chip.tool('tpm2_changeauth', '-c', 'e', 'endorsed');
    await assert.rejects(
      chip.use((tpm) => activateIdentityKey(tpm, blob, handles)),
      { code: 'tpm.authorization' },
    );
    assert.equal(left(chip), '');
    await chip.use((tpm) => activateIdentityKey(tpm, blob, handles), {
      auth: { endorsement: Buffer.from('endorsed') },
    });
    assert.equal(left(chip), '');
  });
});

describe('the blob of a key', () => {
  it('is refused in one way, whatever its bytes are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        assert.throws(() => parseIdentityKeyBlob(Buffer.from(bytes)), { code: 'verify.identity-key' });
      }),
    );
  });

  it('that holds another kind of key is refused', () => {
    const blob = (publicPart: string): Buffer =>
      Buffer.concat([
        ...Array.from({ length: 4 }, () => sized(Buffer.alloc(4))),
        sized(Buffer.from(publicPart, 'hex')),
        sized(Buffer.alloc(0)),
      ]);
    const unique = '00'.repeat(32);
    parseIdentityKeyBlob(blob(`0008000b0004044000000005000b0020${unique}`));
    for (const other of [
      `0001000b0004044000000005000b0020${unique}`,
      `00080004000404400000000500040020${unique}`,
      `0008000b0004044000000005000b0020${unique}00`,
      `0008000b0004044000ff0005000b0020${unique}`,
      '',
    ]) {
      assert.throws(() => parseIdentityKeyBlob(blob(other)), { code: 'verify.identity-key' });
    }
  });
});
