import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { createReadStream, writeFileSync, type ReadStream } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Secret } from '../../src/secret.ts';
import { parseConnectionString, type DeviceCredentials } from '../../src/slot/device-identity.ts';
import {
  clearSlot,
  clearSlotKey,
  clearSlotUri,
  listSlots,
  readSlotUri,
  showSlot,
  slotDeviceId,
  slotSign,
  slotToken,
  writeSlot,
  writeSlotKey,
  writeSlotUri,
} from '../../src/slot/slots.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { CommandCode, refusingAt } from '../fakes/transports.ts';
import { scratchDirectory, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

/** The HMAC vector that Limpet's documentation gives. */
const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
const VECTOR_DATA = Buffer.from('abcdefghijklmnopqrstuvwxyz \r\n');
const VECTOR_HMAC = 'ILKZDBZZ9aQLr3XFswjgEuTs+N2O2A1JtduBFwXWeEc=';
const OTHER_KEY = Buffer.alloc(32, 9).toString('base64');

function identity(deviceId: string, key = KEY): DeviceCredentials {
  return parseConnectionString(
    `HostName=plant.azure-devices.net;DeviceId=${deviceId};SharedAccessKey=${key}`,
  );
}

/** Everything that a slot command could have changed. */
function contents(chip: SoftwareTpm): string {
  return ['persistent', 'transient', 'nv-index', 'loaded-session']
    .map((kind) => chip.handles(kind as 'persistent'))
    .join('');
}

async function refusedForRoom(chip: SoftwareTpm, why: string): Promise<void> {
  const before = contents(chip);
  const longest = identity('d'.repeat(128), Buffer.alloc(64, 5).toString('base64'));
  await assert.rejects(
    chip.use((tpm) => writeSlot(chip.access(tpm), 3, longest)),
    { code: 'tpm.no-room' },
    why,
  );
  assert.equal(contents(chip), before, why);
}

function fillNv(chip: SoftwareTpm): void {
  let index = 0x1500000;
  for (const size of [1024, 256, 64, 8]) {
    try {
      for (; ; index += 1)
        chip.tool('tpm2_nvdefine', `0x${index.toString(16)}`, '-C', 'o', '-s', String(size));
    } catch {
      // Full for this size.
    }
  }
}

async function sign(tpm: Tpm, slot: number, data: Buffer): Promise<string> {
  async function* pieces(): AsyncGenerator<Buffer> {
    await Promise.resolve();
    yield data;
  }
  return (await slotSign(tpm, slot, pieces())).toString('base64');
}

describe('writing a slot', () => {
  it('leaves what Limpet would leave, as tpm2-tools see it', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    const written = await chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17')));
    assert.deepEqual(
      { ...written, keyName: '' },
      { slot: 3, uri: 'plant.azure-devices.net/press-17', keyName: '', replaced: false },
    );
    assert.equal(chip.tool('tpm2_nvread', '0x1400103'), 'plant.azure-devices.net/press-17');
    const area = chip.tool('tpm2_nvreadpublic', '0x1400103');
    assert.match(area, /friendly: authwrite\|authread\|no_da\|written\n/);
    assert.match(area, /hash algorithm:\s+friendly: sha256/);
    assert.match(area, /size: 32\n/);
    const key = chip.tool('tpm2_readpublic', '-c', '0x81000103');
    assert.match(key, /value: userwithauth\|noda\|sign\n/);
    assert.match(key, /value: keyedhash/);
    assert.match(key, /value: hmac/);
    assert.ok(key.includes(written.keyName));
    writeFileSync(join(dir, 'data'), VECTOR_DATA);
    chip.tool('tpm2_hmac', '-c', '0x81000103', '-o', join(dir, 'hmac'), join(dir, 'data'));
    assert.equal(execFileSync('base64', ['-w0', join(dir, 'hmac')], { encoding: 'utf8' }), VECTOR_HMAC);
    assert.equal(chip.handles('transient') + chip.handles('loaded-session'), '');
  });

  it('takes at most 14 TPM commands where a storage root key stands', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    await chip.use(async (tpm) => {
      await writeSlot(chip.access(tpm), 0, identity('press-17'));
      assert.ok(tpm.commandsSent.length <= 14, tpm.commandsSent.join(' '));
    });
  });

  it('is refused for a slot in use, and changes nothing', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17')));
    const before = contents(chip);
    await assert.rejects(
      chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-18', OTHER_KEY))),
      { code: 'tpm.slot-not-empty', message: /press-17/ },
    );
    assert.equal(contents(chip), before);
    assert.equal(chip.tool('tpm2_nvread', '0x1400103'), 'plant.azure-devices.net/press-17');
    assert.equal(await chip.use((tpm) => sign(tpm, 3, VECTOR_DATA)), VECTOR_HMAC);
  });

  it('replaces the identity when told to', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17')));
    const before = contents(chip);
    const written = await chip.use((tpm) =>
      writeSlot(chip.access(tpm), 3, identity('a-longer-name-than-before', OTHER_KEY), { overwrite: true }),
    );
    assert.equal(written.replaced, true);
    assert.equal(contents(chip), before);
    assert.equal(chip.tool('tpm2_nvread', '0x1400103'), 'plant.azure-devices.net/a-longer-name-than-before');
    assert.equal(
      await chip.use((tpm) => sign(tpm, 3, VECTOR_DATA)),
      createHmac('sha256', Buffer.from(OTHER_KEY, 'base64')).update(VECTOR_DATA).digest('base64'),
    );
  });

  it('proves the slot: a TPM that signs with another key is found out', async (t) => {
    const chip = await softwareTpm(t);
    const transport = await chip.transport();
    const tpm = new (class extends Tpm {
      override async hmac(handle: number, data: Buffer): Promise<Buffer> {
        const signature = await super.hmac(handle, data);
        return handle >= 0x81000000 ? Buffer.from(signature).reverse() : signature;
      }
    })(transport);
    await assert.rejects(writeSlot(chip.access(tpm), 3, identity('press-17')), { code: 'verify.slot' });
    await tpm.close();
  });

  it('with a key of 16 and of 64 bytes works', async (t) => {
    const chip = await softwareTpm(t);
    for (const [slot, bytes] of [
      [1, 16],
      [2, 64],
    ] as const) {
      const key = randomBytes(bytes);
      await chip.use((tpm) => writeSlot(chip.access(tpm), slot, identity('d', key.toString('base64'))));
      const expected = createHmac('sha256', key).update('x').digest('base64');
      assert.equal(await chip.use((tpm) => sign(tpm, slot, Buffer.from('x'))), expected);
    }
  });

  it('on a chip without room for the key or for the name changes nothing', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    chip.tool('tpm2_createprimary', '-C', 'o', '-c', join(dir, 'filler.ctx'));
    chip.tool('tpm2_flushcontext', '-t');
    const isFull = (handle: number): boolean => {
      try {
        chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'filler.ctx'), `0x${handle.toString(16)}`);
        return false;
      } catch {
        return true;
      } finally {
        chip.tool('tpm2_flushcontext', '-t');
      }
    };
    let filled = 0;
    while (!isFull(0x81020000 + filled)) filled += 1;
    assert.ok(filled > 20);
    await refusedForRoom(chip, 'the name fits and the key does not');
    fillNv(chip);
    await refusedForRoom(chip, 'neither fits');
  });

  it('over another on a chip that is full takes the place that the old one leaves, or changes nothing', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17')));
    fillNv(chip);
    const rejected = contents(chip);
    await assert.rejects(
      chip.use((tpm) =>
        writeSlot(chip.access(tpm), 3, identity('d'.repeat(120), OTHER_KEY), { overwrite: true }),
      ),
      { code: 'tpm.no-room' },
    );
    assert.equal(contents(chip), rejected);
    assert.equal(chip.tool('tpm2_nvread', '0x1400103'), 'plant.azure-devices.net/press-17');
    assert.equal(await chip.use((tpm) => sign(tpm, 3, VECTOR_DATA)), VECTOR_HMAC);
    for (const deviceId of ['press-18', 'p']) {
      await chip.use((tpm) =>
        writeSlot(chip.access(tpm), 3, identity(deviceId, OTHER_KEY), { overwrite: true }),
      );
      assert.equal(chip.tool('tpm2_nvread', '0x1400103'), `plant.azure-devices.net/${deviceId}`);
    }
  });

  it('on a chip that says it has no room for a key is refused before anything is made', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    const transport = await chip.transport();
    const tpm = new (class extends Tpm {
      override persistentLeft(): Promise<number | undefined> {
        return Promise.resolve(0);
      }
    })(transport);
    await assert.rejects(writeSlot(chip.access(tpm), 3, identity('press-17')), { code: 'tpm.no-room' });
    assert.ok(!tpm.commandsSent.includes('Create'));
    await tpm.close();
    const silent = new (class extends Tpm {
      override persistentLeft(): Promise<number | undefined> {
        return Promise.resolve(undefined);
      }
    })(await chip.transport());
    await writeSlot(chip.access(silent), 3, identity('press-17'));
    await silent.close();
  });

  it('with owner authorization set needs it, and without it changes nothing', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    chip.tool('tpm2_changeauth', '-c', 'o', 'owned');
    const before = contents(chip);
    await assert.rejects(
      chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17'))),
      { code: 'tpm.authorization' },
    );
    assert.equal(contents(chip), before);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17')), {
      auth: { owner: Buffer.from('owned') },
    });
    assert.equal((await chip.use((tpm) => showSlot(tpm, 3))).state, 'ready');
  });
});

describe('a slot that something else uses', () => {
  it('is foreign, and is left alone without force', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    chip.tool('tpm2_createprimary', '-C', 'o', '-c', join(dir, 'other.ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'other.ctx'), '0x81000104');
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_nvdefine', '0x1400105', '-C', 'o', '-s', '8', '-a', 'ownerread|ownerwrite');
    const before = contents(chip);
    for (const slot of [4, 5]) {
      assert.equal((await chip.use((tpm) => showSlot(tpm, slot))).state, 'foreign');
      await assert.rejects(
        chip.use((tpm) => writeSlot(chip.access(tpm), slot, identity('press-17'), { overwrite: true })),
        { code: 'tpm.slot-foreign' },
      );
      await assert.rejects(
        chip.use((tpm) => clearSlot(chip.access(tpm), slot)),
        { code: 'tpm.slot-foreign' },
      );
    }
    assert.equal(contents(chip), before);
    for (const slot of [4, 5]) {
      await chip.use((tpm) => writeSlot(chip.access(tpm), slot, identity('press-17'), { force: true }));
      assert.equal((await chip.use((tpm) => showSlot(tpm, slot))).state, 'ready');
    }
  });

  it('is one too where only attributes, hash or contents differ from those of a slot', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    const define = (index: string, size: number, attributes: string, ...more: string[]): void => {
      chip.tool('tpm2_nvdefine', index, '-C', 'o', '-s', String(size), '-a', attributes, ...more);
    };
    const fill = (index: string, text: string): void => {
      writeFileSync(join(dir, 'content'), text);
      chip.tool('tpm2_nvwrite', index, '-i', join(dir, 'content'));
    };
    define('0x1400101', 8, 'authread|authwrite|no_da|ownerread');
    define('0x1400102', 8, 'authread|authwrite|no_da', '-g', 'sha1');
    define('0x1400103', 512, 'authread|authwrite|no_da');
    define('0x1400104', 8, 'authread|authwrite|no_da');
    fill('0x1400104', 'host dev');
    define('0x1400105', 9, 'authread|authwrite|no_da');
    fill('0x1400105', 'host/d\u00e9v');
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    for (const [slot, attributes] of [
      [6, 'userwithauth|noda|sign|fixedtpm|fixedparent|sensitivedataorigin'],
      [7, 'userwithauth|sign'],
    ] as const) {
      chip.tool(
        ...(['tpm2_create', '-C', '0x81000001', '-G', 'hmac', '-c', join(dir, 'key')] as const),
        ...['-a', attributes.includes('origin') ? attributes : `${attributes}|sensitivedataorigin`],
      );
      chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'key'), `0x8100010${slot}`);
      chip.tool('tpm2_flushcontext', '-t');
    }
    const slots = await chip.use((tpm) => listSlots(tpm));
    assert.deepEqual(
      slots.map(({ state }) => state),
      ['empty', ...Array<string>(7).fill('foreign'), 'empty', 'empty'],
    );
    for (const { slot, state, remark } of slots) {
      if (state === 'empty') continue;
      assert.match(remark ?? '', /^(?:NV index|the key at) 0x/);
      await assert.rejects(
        chip.use((tpm) => writeSlot(chip.access(tpm), slot, identity('d'), { overwrite: true })),
        { code: 'tpm.slot-foreign' },
      );
    }
  });

  it('written by tpm2-tools in the same layout is a slot like any other', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    const file = (name: string): string => join(dir, name);
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    writeFileSync(file('key'), Buffer.from(KEY, 'base64'));
    chip.tool(
      'tpm2_import',
      ...['-C', '0x81000001', '-G', 'hmac', '-i', file('key'), '-u', file('pub'), '-r', file('priv')],
      ...['-a', 'userwithauth|noda|sign'],
    );
    chip.tool('tpm2_load', '-C', '0x81000001', '-u', file('pub'), '-r', file('priv'), '-c', file('ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', file('ctx'), '0x81000107');
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_nvdefine', '0x1400107', '-C', 'o', '-s', '8', '-a', 'authread|authwrite|no_da');
    writeFileSync(file('uri'), 'host/dev');
    chip.tool('tpm2_nvwrite', '0x1400107', '-i', file('uri'));
    const view = await chip.use((tpm) => showSlot(tpm, 7));
    assert.equal(view.uri, 'host/dev');
    assert.equal(view.state, 'ready');
    assert.equal(await chip.use((tpm) => sign(tpm, 7, VECTOR_DATA)), VECTOR_HMAC);
    await chip.use((tpm) => clearSlot(chip.access(tpm), 7));
    assert.equal((await chip.use((tpm) => showSlot(tpm, 7))).state, 'empty');
  });
});

describe('showing, listing and clearing', () => {
  it('tells empty, ready and incomplete slots apart', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 1, identity('one')));
    await chip.use((tpm) => writeSlot(chip.access(tpm), 2, identity('two')));
    await chip.use((tpm) => writeSlot(chip.access(tpm), 9, identity('nine')));
    chip.tool('tpm2_nvundefine', '0x1400101');
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', '0x81000102');
    const slots = await chip.use((tpm) => listSlots(tpm));
    assert.equal(slots.length, 10);
    assert.deepEqual(
      slots.filter(({ state }) => state !== 'empty').map(({ slot, state, uri }) => [slot, state, uri]),
      [
        [1, 'incomplete', null],
        [2, 'incomplete', 'plant.azure-devices.net/two'],
        [9, 'ready', 'plant.azure-devices.net/nine'],
      ],
    );
    for (const slot of [1, 2, 9]) await chip.use((tpm) => clearSlot(chip.access(tpm), slot));
    const after = await chip.use((tpm) => listSlots(tpm));
    assert.ok(after.every(({ state }) => state === 'empty'));
    await chip.use(async (tpm) => {
      await clearSlot(chip.access(tpm), 9);
      assert.deepEqual(tpm.commandsSent, ['ReadPublic', 'NV_ReadPublic']);
    });
  });
});

describe('signing', () => {
  it("gives openssl's HMAC for data of every size, and leaves no sequence behind", async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 0, identity('press-17')));
    const hexKey = Buffer.from(KEY, 'base64').toString('hex');
    for (const size of [0, 1, 511, 512, 513, 1023, 1024, 1025, 2048, 100_000]) {
      const data = randomBytes(size);
      writeFileSync(join(dir, 'data'), data);
      const openssl = execFileSync('openssl', [
        ...['dgst', '-sha256', '-mac', 'HMAC', '-macopt', `hexkey:${hexKey}`, '-binary', join(dir, 'data')],
      ]);
      assert.equal(await chip.use((tpm) => sign(tpm, 0, data)), openssl.toString('base64'), `${size} bytes`);
    }
    assert.equal(chip.handles('transient'), '');
  });

  it('that breaks off leaves no sequence behind', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 0, identity('press-17')));
    async function* breakingOff(): AsyncGenerator<Buffer> {
      await Promise.resolve();
      yield Buffer.alloc(5000);
      throw new Error('the file vanished');
    }
    await assert.rejects(
      chip.use((tpm) => slotSign(tpm, 0, breakingOff())),
      /the file vanished/,
    );
    assert.equal(chip.handles('transient'), '');
  });

  it('that the TPM refuses at any command closes its file, and leaves no sequence behind', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 0, identity('press-17')));
    const file = join(await scratchDirectory(t), 'data');
    writeFileSync(file, Buffer.alloc(100_000));
    for (const [code, skip] of [
      [CommandCode.GetCapability, 0],
      [CommandCode.HMAC_Start, 0],
      [CommandCode.SequenceUpdate, 0],
      [CommandCode.SequenceUpdate, 7],
      [CommandCode.SequenceComplete, 0],
    ] as const) {
      const streams: ReadStream[] = [];
      const source = async function* (): AsyncGenerator<Buffer> {
        const stream = createReadStream(file, { highWaterMark: 5000 });
        streams.push(stream);
        yield* stream as AsyncIterable<Buffer>;
      };
      const tpm = new Tpm(refusingAt(await chip.transport(), code, 0x14b, skip));
      await assert.rejects(slotSign(tpm, 0, source()), { code: 'tpm.no-room' });
      await tpm.close();
      assert.ok(
        streams.every(({ destroyed }) => destroyed),
        `refused at 0x${code.toString(16)}`,
      );
      assert.equal(streams.length, code === CommandCode.GetCapability ? 0 : 1);
    }
    assert.equal(chip.handles('transient'), '');
  });

  it('with an empty slot says so', async (t) => {
    const chip = await softwareTpm(t);
    await assert.rejects(
      chip.use((tpm) => sign(tpm, 0, VECTOR_DATA)),
      { code: 'tpm.slot-empty' },
    );
    await assert.rejects(
      chip.use((tpm) => slotToken(tpm, 0, 1893456000)),
      { code: 'tpm.slot-empty' },
    );
  });

  it('of a token takes three TPM commands', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 0, identity('press-17')));
    await chip.use(async (tpm) => {
      const token = await slotToken(tpm, 0, 1893456000);
      assert.deepEqual(tpm.commandsSent, ['NV_ReadPublic', 'NV_Read', 'HMAC']);
      assert.equal(token.expiresAt, '2030-01-01T00:00:00.000Z');
      const resource = 'plant.azure-devices.net%2Fdevices%2Fpress-17';
      const signature = createHmac('sha256', Buffer.from(KEY, 'base64'))
        .update(`${resource}\n1893456000`)
        .digest('base64');
      assert.equal(
        token.sharedAccessSignature,
        `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=1893456000`,
      );
      assert.equal(
        token.connectionString,
        `HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessSignature=${token.sharedAccessSignature}`,
      );
    });
  });
});

describe('a slot with the longest and the strangest names', () => {
  it('is written, read and used', async (t) => {
    const chip = await softwareTpm(t);
    const hostName = `${`${'a'.repeat(62)}.`.repeat(4)}b`;
    const deviceId = "%25%-:.+_#*?!(),=@;$'";
    for (const [slot, identity] of [
      [1, { hostName, deviceId: 'd'.repeat(128), moduleId: 'm'.repeat(128) }],
      [2, { hostName: 'h.azure-devices.net', deviceId, moduleId: null }],
      [3, { hostName: 'h.azure-devices.net', deviceId, moduleId: deviceId }],
    ] as const) {
      const key = Secret.fromBytes(Buffer.from(KEY, 'base64'));
      const { uri } = await chip.use((tpm) => writeSlot(chip.access(tpm), slot, { identity, key }));
      assert.equal(chip.tool('tpm2_nvread', `0x140010${slot}`), uri);
      if (slot === 1) assert.equal(uri.length, 511);
      const token = await chip.use((tpm) => slotToken(tpm, slot, 1893456000));
      const [, resource = '', signature = ''] =
        /sr=(.*)&sig=(.*)&se=/.exec(token.sharedAccessSignature) ?? [];
      const module = identity.moduleId === null ? '' : `/modules/${identity.moduleId}`;
      assert.equal(
        decodeURIComponent(resource),
        `${identity.hostName}/devices/${identity.deviceId}${module}`,
      );
      assert.match(resource, /^[A-Za-z0-9%._~-]+$/, 'nothing in it is left that a query could not hold');
      const openssl = execFileSync(
        'openssl',
        [
          ...['dgst', '-sha256', '-mac', 'HMAC', '-binary', '-macopt'],
          `hexkey:${Buffer.from(KEY, 'base64').toString('hex')}`,
        ],
        { input: `${resource}\n1893456000` },
      );
      assert.equal(decodeURIComponent(signature), openssl.toString('base64'));
    }
  });
});

describe('fifty writes and clears, and then ten slots', () => {
  it('leave the TPM as it was', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => tpm.ensureStorageRootKey());
    const memory = (): string => chip.tool('tpm2_getcap', 'properties-variable');
    const before = [contents(chip), memory()];
    await chip.use(async (tpm) => {
      const access = chip.access(tpm);
      for (let round = 0; round < 50; round += 1) {
        const slot = round % 10;
        await writeSlot(access, slot, identity(`device-${'x'.repeat(round)}`));
        if (round % 3 === 0) await writeSlot(access, slot, identity('again', OTHER_KEY), { overwrite: true });
        await clearSlot(access, slot);
      }
    });
    assert.deepEqual([contents(chip), memory()], before);
    await chip.use(async (tpm) => {
      const access = chip.access(tpm);
      for (let slot = 0; slot < 10; slot += 1) await writeSlot(access, slot, identity(`device-${slot}`));
      const full = await listSlots(tpm);
      assert.ok(full.every(({ state }) => state === 'ready'));
      for (let slot = 0; slot < 10; slot += 1) await clearSlot(access, slot);
    });
    assert.deepEqual([contents(chip), memory()], before);
  });
});

describe('the halves of a slot', () => {
  it('make a slot together, as tpm2-tools see it, whichever comes first', async (t) => {
    const chip = await softwareTpm(t);
    const key = (): Secret => Secret.fromBytes(Buffer.from(KEY, 'base64'));
    await chip.use(async (tpm) => {
      const access = chip.access(tpm);
      await assert.rejects(readSlotUri(tpm, 1), { code: 'tpm.slot-empty' });
      const uri = await writeSlotUri(access, 1, 'h.azure-devices.net/press-17/axis');
      assert.equal((await showSlot(tpm, 1)).remark, 'it has a URI but no key');
      await writeSlotKey(access, 1, key());
      await writeSlotKey(access, 2, key());
      assert.equal((await showSlot(tpm, 2)).remark, 'it has a key but no URI');
      await assert.rejects(readSlotUri(tpm, 2), { code: 'tpm.slot-incomplete' });
      await writeSlotUri(access, 2, 'h.azure-devices.net/press-18');
      assert.deepEqual(await readSlotUri(tpm, 1), {
        slot: 1,
        uri: 'h.azure-devices.net/press-17/axis',
        storageName: uri.storageName,
      });
    });
    // The name that tpm2-tools give the NV index.
    const { storageName } = await chip.use((tpm) => readSlotUri(tpm, 2));
    const area = chip.tool('tpm2_nvreadpublic', '0x1400102');
    assert.match(area, new RegExp(`name: ${storageName}`, 'i'));
    assert.equal(chip.tool('tpm2_nvread', '0x1400102'), 'h.azure-devices.net/press-18');
    for (const slot of [1, 2]) {
      assert.equal((await chip.use((tpm) => showSlot(tpm, slot))).state, 'ready');
      assert.equal(await chip.use((tpm) => sign(tpm, slot, VECTOR_DATA)), VECTOR_HMAC);
    }
  });

  it('are replaced only when told to, and go alone', async (t) => {
    const chip = await softwareTpm(t);
    await chip.use((tpm) => writeSlot(chip.access(tpm), 4, identity('press-17')));
    const before = contents(chip);
    const other = (): Secret => Secret.fromBytes(Buffer.from(OTHER_KEY, 'base64'));
    await chip.use(async (tpm) => {
      const access = chip.access(tpm);
      await assert.rejects(writeSlotUri(access, 4, 'h/d'), { code: 'tpm.slot-not-empty' });
      await assert.rejects(writeSlotKey(access, 4, other()), { code: 'tpm.slot-not-empty' });
      for (const text of [
        '',
        'h',
        'h/',
        'h/d/m/x',
        'h /d',
        'h/\u00e4',
        `${'h'.repeat(64)}/d`,
        `h/${'d'.repeat(129)}`,
      ]) {
        await assert.rejects(writeSlotUri(access, 4, text, { overwrite: true }), { code: 'input.invalid' });
      }
      // A key in base64, which has the form of a URI.
      await assert.rejects(
        writeSlotUri(access, 4, `${'a'.repeat(20)}/${'b'.repeat(21)}A=`, { overwrite: true }),
        {
          code: 'usage.secret-in-argv',
        },
      );
      for (const bytes of [0, 15, 65]) {
        const key = Secret.fromBytes(Buffer.alloc(bytes));
        await assert.rejects(writeSlotKey(access, 4, key, { overwrite: true }), { code: 'input.invalid' });
      }
    });
    assert.equal(contents(chip), before);
    await chip.use(async (tpm) => {
      const access = chip.access(tpm);
      assert.equal((await writeSlotUri(access, 4, 'h/d', { overwrite: true })).replaced, true);
      assert.equal((await writeSlotKey(access, 4, other(), { overwrite: true })).replaced, true);
      assert.equal((await clearSlotUri(access, 4)).uri, 'h/d');
      assert.equal((await clearSlotUri(access, 4)).cleared, false);
      assert.equal((await showSlot(tpm, 4)).state, 'incomplete');
      assert.equal((await clearSlotKey(access, 4)).cleared, true);
      assert.equal((await clearSlotKey(access, 4)).cleared, false);
      assert.equal((await showSlot(tpm, 4)).state, 'empty');
    });
    assert.equal(chip.handles('transient'), '');
  });

  it('have a logical device id of the TPM and the number alone', async (t) => {
    const chip = await softwareTpm(t);
    const { name } = await chip.use((tpm) => tpm.readStorageRootKey());
    const expected = createHash('sha256')
      .update(Buffer.from([3, 0, 0, 0]))
      .update(name)
      .digest();
    const { deviceId } = await chip.use((tpm) => slotDeviceId(tpm, 3));
    assert.doesNotMatch(deviceId, /[+/=]|%[0-9A-F]*[A-F]/, 'URL-encoded in lower case');
    assert.equal(
      Buffer.from(decodeURIComponent(deviceId), 'base64').toString('hex'),
      `000b${expected.toString('hex')}`,
    );
    await chip.use((tpm) => writeSlot(chip.access(tpm), 3, identity('press-17')));
    assert.equal((await chip.use((tpm) => slotDeviceId(tpm, 3))).deviceId, deviceId);
  });
});
