/* Records of interrupted changes that are damaged, false, outdated or another TPM's; and repairs that are interrupted. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';
import { parseConnectionString, type DeviceCredentials } from '../../src/slot/device-identity.ts';
import { keyHandle } from '../../src/slot/layout.ts';
import { formatRecord, parseRecord, recordBody, signedOfRecord } from '../../src/slot/record.ts';
import { RecoveryFiles } from '../../src/slot/recovery-files.ts';
import {
  checkRepair,
  clearSlot,
  clearSlotKey,
  clearSlotUri,
  listSlots,
  repairSlot,
  showSlot,
  writeSlot,
  writeSlotKey,
  writeSlotUri,
  type SlotAccess,
} from '../../src/slot/slots.ts';
import type { RegistrationRecord, RegistrationRecords } from '../../src/station/registration-records.ts';
import { takeUpRegistration } from '../../src/station/registration.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { CommandCode, DyingTransport, dyingAt, refusingAt } from '../fakes/transports.ts';
import { lifetimeOfFile, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

const SLOT = 3;
const OLD_KEY = Buffer.alloc(32, 1);
const NEW_KEY = Buffer.alloc(32, 2);

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let dir: string;

before(async () => {
  chip = await softwareTpm(lifetime);
  dir = join(chip.dir, 'recovery');
  mkdirSync(dir);
  await chip.use((tpm) => tpm.ensureStorageRootKey());
});

beforeEach(async () => {
  rmSync(dir, { recursive: true });
  mkdirSync(dir);
  // The records are gone, so nobody knows any more what interrupted writes have left loaded.
  chip.tool('tpm2_flushcontext', '-t');
  await chip.use((tpm) => clearSlot(chip.access(tpm), SLOT, { force: true }));
});

function credentials(deviceId: string, key: Buffer): DeviceCredentials {
  return parseConnectionString(
    `HostName=plant.azure-devices.net;DeviceId=${deviceId};SharedAccessKey=${key.toString('base64')}`,
  );
}

const slots = <T>(task: (access: SlotAccess, tpm: Tpm) => Promise<T>): Promise<T> =>
  chip.use((tpm) => task(chip.access(tpm), tpm));

const old = (): Promise<unknown> => slots((access) => writeSlot(access, SLOT, credentials('old', OLD_KEY)));

/** A write of `new` that loses its connection before the first command with this code. */
async function interruptedWrite(code: number): Promise<void> {
  const tpm = new Tpm(dyingAt(await chip.transport(), code));
  const access = chip.access(tpm);
  await assert.rejects(writeSlot(access, SLOT, credentials('new', NEW_KEY), { overwrite: true }));
  await tpm.close();
}

function recordFile(): string {
  const [name = '', ...more] = readdirSync(dir);
  assert.deepEqual(more, []);
  return join(dir, name);
}

async function signsWith(key: Buffer): Promise<void> {
  const hmac = await chip.use((tpm) => tpm.hmac(keyHandle(SLOT), Buffer.from('x')));
  assert.ok(hmac.equals(createHmac('sha256', key).update('x').digest()));
}

async function refused(code: ErrorCode, message: RegExp, options = {}): Promise<void> {
  const before = await slots((access) => showSlot(access.tpm, SLOT, access.recovery));
  await assert.rejects(
    slots((access) => repairSlot(access, SLOT, options)),
    (error) => {
      assert.ok(error instanceof IotdmError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, message);
      assert.equal(error.details?.['slot'], SLOT);
      return true;
    },
  );
  assert.deepEqual(await slots((access) => showSlot(access.tpm, SLOT, access.recovery)), before);
}

describe('the record of a change under way', () => {
  it('is for its owner only, names this TPM, and holds no key', async () => {
    await old();
    await interruptedWrite(CommandCode.NV_Write);
    const file = recordFile();
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const name = await chip.use(async (tpm) => (await tpm.readStorageRootKey()).name.toString('hex'));
    assert.ok(file.endsWith(`recovery-${SLOT}-${name}`));
    const text = readFileSync(file, 'latin1');
    for (const key of [OLD_KEY, NEW_KEY]) {
      for (const form of ['base64', 'hex', 'latin1'] as const) assert.ok(!text.includes(key.toString(form)));
    }
    await slots((access) => repairSlot(access, SLOT));
    await signsWith(NEW_KEY);
    assert.deepEqual(readdirSync(dir), []);
  });

  it('that is cut short, changed in any way, or none, is found out and changes nothing', async () => {
    await old();
    await interruptedWrite(CommandCode.NV_Write);
    const file = recordFile();
    const text = readFileSync(file, 'utf8');
    const [body = '', signature = ''] = text.split('\n');
    const fields = JSON.parse(body) as Record<string, Record<string, unknown>>;
    const variants: Record<string, string> = {
      empty: '',
      'cut short': text.slice(0, 100),
      'without its signature': `${body}\n`,
      'without a signature': `${body}\n-\n`,
      'with an addition': `${text}more\n`,
      'with another signature': `${body}\n${'0'.repeat(64)}\n`,
      'with another URI': `${body.replace('/new"', '/nex"')}\n${signature}\n`,
      'with a URI that is none': `${body.replace('/new"', '/n/e/w"')}\n${signature}\n`,
      'of another slot': `${body.replace('"slot":3', '"slot":4')}\n${signature}\n`,
      'of another kind': `${body.replace('"kind":"write"', '"kind":"clear"')}\n${signature}\n`,
      'not JSON': `{${body}\n${signature}\n`,
      'of another TPM': `${JSON.stringify({ ...fields, tpm: `000b${'0'.repeat(64)}` })}\n${signature}\n`,
      'a clear that was never asked for': `${JSON.stringify({ ...fields, kind: 'clear', target: { uri: null, key: null } })}\n-\n`,
      'with a key that another TPM wrapped': `${JSON.stringify({
        ...fields,
        target: {
          ...fields['target'],
          key: { ...(fields['target']?.['key'] as object), private: Buffer.alloc(100, 7).toString('base64') },
        },
      })}\n${signature}\n`,
    };
    for (const [what, content] of Object.entries(variants)) {
      writeFileSync(file, content);
      const view = await slots((access) => showSlot(access.tpm, SLOT, access.recovery));
      assert.equal(view.state, 'incomplete', what);
      for (const undo of [false, true]) {
        await assert.rejects(
          slots((access) => repairSlot(access, SLOT, { undo })),
          (error) => {
            assert.ok(error instanceof IotdmError, `${what}: ${String(error)}`);
            assert.ok(
              ['input.recovery-damaged', 'tpm.cannot-undo', 'tpm.slot-incomplete'].includes(error.code),
              `${what}: ${error.message}`,
            );
            return true;
          },
        );
      }
      const after = await slots((access) => showSlot(access.tpm, SLOT, access.recovery));
      assert.deepEqual(after, view, what);
    }
    assert.equal(chip.handles('transient'), '');
    writeFileSync(file, text);
    await slots((access) => repairSlot(access, SLOT));
    await signsWith(NEW_KEY);
  });

  it('that cannot be this user’s own is not believed', async () => {
    await old();
    await interruptedWrite(CommandCode.NV_Write);
    const file = recordFile();
    chmodSync(file, 0o666);
    await refused('input.recovery-damaged', /others than you can have written it/);
    chmodSync(file, 0o600);
    renameSync(file, join(chip.dir, 'elsewhere'));
    symlinkSync(join(chip.dir, 'elsewhere'), file);
    await refused('input.recovery-damaged', /it is a link/);
    rmSync(file);
    mkdirSync(file);
    await refused('input.recovery-damaged', /no file of the size of a record/);
    rmSync(file, { recursive: true });
    writeFileSync(file, '', { mode: 0o600 });
    truncateSync(file, 10_000_000);
    await refused('input.recovery-damaged', /no file of the size of a record/);
  });

  it('that is damaged can be dropped where the slot is whole, and is replaced by the next write', async () => {
    await old();
    await interruptedWrite(CommandCode.NV_UndefineSpace);
    const file = recordFile();
    writeFileSync(file, 'damaged');
    const view = await slots((access) => showSlot(access.tpm, SLOT, access.recovery));
    assert.deepEqual([view.state, view.interrupted], ['ready', null]);
    assert.match(view.remark ?? '', /damaged/);
    await refused('input.recovery-damaged', /cut short/);
    const dropped = await slots((access) => repairSlot(access, SLOT, { undo: true }));
    assert.deepEqual([dropped.outcome, dropped.state, dropped.remark], ['outdated', 'ready', null]);
    writeFileSync(file, 'damaged', { mode: 0o600 });
    await slots((access) => writeSlot(access, SLOT, credentials('new', NEW_KEY), { overwrite: true }));
    assert.deepEqual(readdirSync(dir), []);
  });

  it('is taken apart without a fault, whatever it holds', () => {
    const tpmName = Buffer.concat([Buffer.from('000b', 'hex'), Buffer.alloc(32, 5)]);
    const publicPart = Buffer.concat([
      Buffer.from('0008000b0004044000000005000b0020', 'hex'),
      Buffer.alloc(32, 3),
    ]);
    const record = {
      kind: 'write',
      slot: SLOT,
      tpmName,
      before: { keyName: tpmName, uri: { name: tpmName, text: 'h/d', size: 3 } },
      target: { uri: 'h/e', key: { publicPart, privatePart: Buffer.alloc(90, 1) } },
    } as const;
    const body = recordBody(record);
    const text = formatRecord(body, Buffer.alloc(32, 4));
    assert.deepEqual(parseRecord(text, tpmName, SLOT).record, record);
    assert.notEqual(recordBody(record), body, 'no two records are the same');
    assert.doesNotMatch(signedOfRecord(body).toString(), /devices/, 'it is no text of a token');
    const isDamaged = (content: string): void => {
      try {
        parseRecord(content, tpmName, SLOT);
      } catch (error) {
        assert.ok(error instanceof IotdmError && error.code === 'input.recovery-damaged', String(error));
      }
    };
    fc.assert(fc.property(fc.string(), isDamaged));
    fc.assert(
      fc.property(fc.json(), (json) => {
        isDamaged(`${json}\n-\n`);
      }),
    );
    const edit = fc.tuple(fc.nat(text.length), fc.nat(8), fc.string({ maxLength: 4 }));
    fc.assert(
      fc.property(edit, ([at, removed, added]) => {
        isDamaged(text.slice(0, at) + added + text.slice(at + removed));
      }),
    );
  });
});

describe('a slot that was interrupted', () => {
  it('is not taken for interrupted on another TPM that is reached the same way', async (t) => {
    await old();
    await interruptedWrite(CommandCode.NV_Write);
    const other = await softwareTpm(t);
    await other.use(async (tpm) => {
      const access = { tpm, recovery: new RecoveryFiles(dir) };
      assert.equal(
        (await repairSlot(access, SLOT)).outcome,
        'nothing',
        'not even a storage root key is made',
      );
      await tpm.ensureStorageRootKey();
      await writeSlot(access, SLOT, credentials('other', OLD_KEY));
      await clearSlot(access, SLOT);
    });
    assert.equal((await slots((access) => repairSlot(access, SLOT))).outcome, 'finished');
  });

  it('has nothing to repair once its TPM was cleared', async (t) => {
    const cleared = await softwareTpm(t);
    const access = (tpm: Tpm): SlotAccess => cleared.access(tpm);
    await cleared.use((tpm) => tpm.ensureStorageRootKey());
    const tpm = new Tpm(dyingAt(await cleared.transport(), CommandCode.NV_Write));
    await assert.rejects(writeSlot(access(tpm), SLOT, credentials('new', NEW_KEY)));
    await tpm.close();
    assert.equal(
      (await cleared.use((next) => showSlot(next, SLOT, access(next).recovery))).interrupted,
      'write',
    );
    cleared.tool('tpm2_clear');
    await cleared.use(async (next) => {
      await next.ensureStorageRootKey();
      const view = await showSlot(next, SLOT, access(next).recovery);
      assert.deepEqual([view.state, view.remark], ['empty', null]);
      assert.equal((await repairSlot(access(next), SLOT)).outcome, 'nothing');
    });
  });

  it('and written by somebody else since is left as it is, and its record goes', async () => {
    await interruptedWrite(CommandCode.NV_Write);
    const elsewhere = join(chip.dir, 'another-station');
    await chip.use((tpm) =>
      writeSlot({ tpm, recovery: new RecoveryFiles(elsewhere) }, SLOT, credentials('third', OLD_KEY), {
        overwrite: true,
      }),
    );
    const view = await slots((access) => showSlot(access.tpm, SLOT, access.recovery));
    assert.deepEqual([view.state, view.remark, view.interrupted], ['ready', null, null]);
    const { outcome, deviceId } = await slots((access) => repairSlot(access, SLOT));
    assert.deepEqual([outcome, deviceId], ['outdated', 'third']);
    assert.deepEqual(readdirSync(dir), []);
    await signsWith(OLD_KEY);
  });

  it('and half changed by somebody else since is not touched', async () => {
    await interruptedWrite(CommandCode.NV_Write);
    chip.tool('tpm2_nvundefine', '0x1400103');
    chip.tool('tpm2_nvdefine', '0x1400103', '-C', 'o', '-s', '9', '-a', 'authread|authwrite|no_da');
    await refused('tpm.slot-incomplete', /has neither a key nor a written URI|has a key but no URI/);
    assert.equal(readdirSync(dir).length, 1);
  });

  it('keeps its halves from being changed by themselves', async () => {
    await old();
    await interruptedWrite(CommandCode.NV_Write);
    const before = await slots((access) => showSlot(access.tpm, SLOT, access.recovery));
    const key = Secret.fromBytes(Buffer.alloc(32, 9));
    const changes: ((access: SlotAccess) => Promise<unknown>)[] = [
      (access: SlotAccess) => writeSlotUri(access, SLOT, 'h/d', { overwrite: true, force: true }),
      (access: SlotAccess) => clearSlotUri(access, SLOT, { force: true }),
      (access: SlotAccess) => writeSlotKey(access, SLOT, key, { overwrite: true, force: true }),
      (access: SlotAccess) => clearSlotKey(access, SLOT, { force: true }),
    ];
    for (const change of changes) {
      await assert.rejects(slots(change), {
        code: 'tpm.slot-incomplete',
        message: /writing .*\/new was interrupted/,
      });
    }
    assert.deepEqual(await slots((access) => showSlot(access.tpm, SLOT, access.recovery)), before);
  });

  it('is written again or cleared all the same, and then nothing is left of it', async () => {
    await old();
    const changes: ((access: SlotAccess) => Promise<unknown>)[] = [
      (access: SlotAccess) => writeSlot(access, SLOT, credentials('third', OLD_KEY), { overwrite: true }),
      (access: SlotAccess) => clearSlot(access, SLOT),
    ];
    for (const change of changes) {
      await interruptedWrite(CommandCode.NV_Write);
      await slots(change);
      assert.deepEqual(readdirSync(dir), []);
      assert.equal(chip.handles('transient'), '');
      assert.equal((await slots((access) => repairSlot(access, SLOT))).outcome, 'nothing');
    }
  });

  it('can be taken back to what stood there before two interruptions', async () => {
    await old();
    await interruptedWrite(CommandCode.EvictControl);
    await interruptedWrite(CommandCode.EvictControl);
    const { outcome, deviceId } = await slots((access) => repairSlot(access, SLOT, { undo: true }));
    assert.deepEqual([outcome, deviceId], ['undone', 'old']);
    await signsWith(OLD_KEY);
  });

  it('is finished as before after another write to it that changed nothing', async () => {
    await old();
    await interruptedWrite(CommandCode.NV_Write);
    const before = readFileSync(recordFile(), 'utf8');
    const user = new AbortController();
    const failing: readonly [ErrorCode, Tpm][] = [
      ['tpm.transient-full', new Tpm(refusingAt(await chip.transport(), CommandCode.Load, 0x902))],
      [
        'interrupted.signal',
        new Tpm(await chip.transport(), {
          signal: user.signal,
          onCommand: ({ command }) => {
            if (command === 'Load') user.abort();
          },
        }),
      ],
    ];
    for (const [code, tpm] of failing) {
      await assert.rejects(
        writeSlot(chip.access(tpm), SLOT, credentials('third', OLD_KEY), { overwrite: true }),
        { code },
      );
      await tpm.close();
      assert.equal(readFileSync(recordFile(), 'utf8'), before, code);
    }
    const { outcome, deviceId } = await slots((access) => repairSlot(access, SLOT));
    assert.deepEqual([outcome, deviceId], ['finished', 'new']);
    await signsWith(NEW_KEY);
    assert.equal(chip.handles('transient'), '');
  });

  it('says what a repair would do, and does nothing on a dry run', async () => {
    await old();
    await interruptedWrite(CommandCode.EvictControl);
    const before = readFileSync(recordFile(), 'utf8');
    await slots(async (access, tpm) => {
      assert.equal((await checkRepair(access, SLOT)).outcome, 'finished');
      assert.equal((await checkRepair(access, SLOT, { undo: true })).outcome, 'undone');
      const changing = /Evict|NV_(Define|Undefine|Write)|Create|Load/;
      assert.deepEqual(
        tpm.commandsSent.filter((name) => changing.test(name)),
        [],
      );
    });
    assert.equal(readFileSync(recordFile(), 'utf8'), before);
  });

  it('is finished as a registration’s by the name of its key, and not because the identity has the same name', async () => {
    await old();
    await interruptedWrite(CommandCode.EvictControl);
    await slots(async (access, tpm) => {
      const { change } = await checkRepair(access, SLOT);
      const [hub = '', deviceId = ''] = change?.uri?.split('/') ?? [];
      assert.deepEqual([change?.kind, hub], ['write', 'plant.azure-devices.net']);
      const recorded = (keyName: string): Pick<RegistrationRecords, 'all'> => ({
        all: () => [{ assignedHub: hub, deviceId, keyName } as RegistrationRecord],
      });
      const takeUp = async (keyName: string): Promise<string | null> => {
        const records = recorded(keyName) as RegistrationRecords;
        await takeUpRegistration({ slots: { tpm, recovery: access.recovery }, slot: SLOT, records });
        return (await showSlot(tpm, SLOT, access.recovery)).interrupted;
      };
      assert.notEqual(await takeUp(`000b${'00'.repeat(32)}`), null);
      assert.equal(await takeUp(change?.keyName ?? ''), null);
    });
  });

  it('without a record says so, and names no repair', async () => {
    await old();
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', '0x81000103');
    await refused('tpm.slot-incomplete', /^slot 3 is incomplete: it has a URI but no key$/);
    const listed = await slots((access) => listSlots(access.tpm, access.recovery));
    assert.equal(listed[SLOT]?.interrupted, null);
  });

  it('frees the key that a killed process has left loaded, and nobody else’s', async () => {
    await old();
    // The connection goes with the key loaded: as it is with a process that is killed.
    await interruptedWrite(CommandCode.NV_UndefineSpace);
    chip.tool('tpm2_createprimary', '-C', 'o', '-c', join(chip.dir, 'foreign.ctx'));
    const loaded = await chip.use((tpm) => tpm.handles(0x80000000, 9));
    assert.equal(loaded.length, 2, 'one of ours, one of theirs');
    await slots((access) => repairSlot(access, SLOT, { undo: true }));
    assert.equal((await chip.use((tpm) => tpm.handles(0x80000000, 9))).length, 1);
    chip.tool('tpm2_flushcontext', '-t');
  });

  it('stays repairable when the repair itself is cut off at any command', async () => {
    for (const undo of [false, true]) {
      for (let lethal = 0; ; lethal += 1) {
        await slots((access) => clearSlot(access, SLOT));
        await old();
        await interruptedWrite(undo ? CommandCode.EvictControl : CommandCode.NV_Write);
        const tpm = new Tpm(
          new DyingTransport(await chip.transport(), lethal, lethal % 2 === 0 ? 'before' : 'after'),
        );
        const isDone = await repairSlot(chip.access(tpm), SLOT, { undo }).then(
          () => true,
          (error: unknown) => {
            assert.ok(error instanceof IotdmError, String(error));
            return false;
          },
        );
        await tpm.close();
        const { state, deviceId } = await slots((access) => repairSlot(access, SLOT, { undo }));
        assert.deepEqual([state, deviceId], ['ready', undo ? 'old' : 'new'], `cut at ${lethal}`);
        await signsWith(undo ? OLD_KEY : NEW_KEY);
        assert.deepEqual(readdirSync(dir), []);
        if (isDone) break;
      }
    }
    assert.equal(chip.handles('transient'), '');
  });
});

describe('a TPM that refuses in the middle of a write', () => {
  const NV_SPACE = 0x14b;

  it('while the old key is there leaves the slot as it was', async () => {
    await old();
    const before = [chip.handles('persistent'), chip.handles('nv-index')];
    for (const [code, skip] of [
      [CommandCode.NV_UndefineSpace, 0],
      [CommandCode.NV_DefineSpace, 0],
      [CommandCode.EvictControl, 0],
    ] as const) {
      const tpm = new Tpm(refusingAt(await chip.transport(), code, NV_SPACE, skip));
      await assert.rejects(
        writeSlot(chip.access(tpm), SLOT, credentials('new', NEW_KEY), { overwrite: true }),
        { code: 'tpm.no-room' },
      );
      await tpm.close();
      assert.deepEqual([chip.handles('persistent'), chip.handles('nv-index')], before);
      assert.equal(chip.tool('tpm2_nvread', '0x1400103'), 'plant.azure-devices.net/old');
      assert.equal(chip.handles('transient'), '');
      assert.deepEqual(readdirSync(dir), []);
      await signsWith(OLD_KEY);
    }
  });

  it('after the old key is gone leaves a slot that says so, and a repair that finishes it', async () => {
    for (const [code, skip] of [
      [CommandCode.EvictControl, 1],
      [CommandCode.NV_Write, 0],
    ] as const) {
      await slots((access) => clearSlot(access, SLOT));
      await old();
      const tpm = new Tpm(refusingAt(await chip.transport(), code, NV_SPACE, skip));
      await assert.rejects(
        writeSlot(chip.access(tpm), SLOT, credentials('new', NEW_KEY), { overwrite: true }),
        (error) => {
          assert.ok(error instanceof IotdmError);
          assert.equal(error.code, 'tpm.slot-incomplete');
          assert.match(error.message, /may no longer hold plant.azure-devices.net\/old: .*NV_SPACE/);
          assert.equal(error.details?.['causeCode'], 'tpm.no-room');
          return true;
        },
      );
      await tpm.close();
      const { outcome, deviceId } = await slots((access) => repairSlot(access, SLOT));
      assert.deepEqual([outcome, deviceId], ['finished', 'new']);
      await signsWith(NEW_KEY);
    }
  });

  it('for a first write leaves nothing', async () => {
    const before = [chip.handles('persistent'), chip.handles('nv-index')];
    for (const code of [CommandCode.NV_DefineSpace, CommandCode.EvictControl, CommandCode.NV_Write]) {
      const tpm = new Tpm(refusingAt(await chip.transport(), code, NV_SPACE));
      await assert.rejects(writeSlot(chip.access(tpm), SLOT, credentials('new', NEW_KEY)), {
        code: 'tpm.no-room',
      });
      await tpm.close();
      assert.deepEqual([chip.handles('persistent'), chip.handles('nv-index')], before);
      assert.deepEqual(readdirSync(dir), []);
    }
    assert.equal(chip.handles('transient'), '');
  });
});
