/*
 * The connection to the TPM is lost at every command of every change, before the TPM has seen the command or after it
 * has carried it out. What stands in the TPM then is what a loss of power would leave; whoever comes next must see the
 * truth, and must be able to finish or to take back what was begun without the secret. And the user leaves at every
 * command: while the TPM answers, and while it does not.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import { before, describe, it } from 'node:test';
import { IotdmError } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';
import { parseConnectionString } from '../../src/slot/device-identity.ts';
import { keyHandle, ROOM_PROBE_INDEX, SRK_HANDLE } from '../../src/slot/layout.ts';
import {
  clearSlot,
  repairSlot,
  showSlot,
  writeSlot,
  writeSlotKey,
  writeSlotUri,
  writeWrappedSlot,
  type SlotAccess,
  type SlotView,
} from '../../src/slot/slots.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { DyingTransport, SilentTransport } from '../fakes/transports.ts';
import { lifetimeOfFile, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

const SLOT = 3;
const OLD_KEY = Buffer.alloc(32, 1);
const NEW_KEY = Buffer.alloc(48, 2);
const OLD_URI = 'plant.azure-devices.net/press-17';

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;

before(async () => {
  chip = await softwareTpm(lifetime);
  mkdirSync(`${chip.dir}/recovery`);
  await chip.use((tpm) => tpm.ensureStorageRootKey());
});

function credentials(deviceId: string, key: Buffer): ReturnType<typeof parseConnectionString> {
  return parseConnectionString(
    `HostName=plant.azure-devices.net;DeviceId=${deviceId};SharedAccessKey=${key.toString('base64')}`,
  );
}

interface Scenario {
  readonly name: string;
  /** The record is signed in the TPM, and until then only tells what is to be freed. */
  readonly isSignedLate?: boolean;
  readonly prepare: (access: SlotAccess) => Promise<unknown>;
  readonly change: (access: SlotAccess) => Promise<unknown>;
  /** What the slot holds before and after. */
  readonly old: { readonly uri: string | null; readonly key: Buffer | null };
  readonly new: { readonly uri: string | null; readonly key: Buffer | null };
}

const empty = { uri: null, key: null };
const full = { uri: OLD_URI, key: OLD_KEY };

function write(deviceId: string, options = {}): (access: SlotAccess) => Promise<unknown> {
  return (access) => writeSlot(access, SLOT, credentials(deviceId, NEW_KEY), options);
}

function prepareFull(access: SlotAccess): Promise<unknown> {
  return writeSlot(access, SLOT, credentials('press-17', OLD_KEY));
}

function over(deviceId: string, name: string): Scenario {
  return {
    name,
    prepare: prepareFull,
    change: write(deviceId, { overwrite: true }),
    old: full,
    new: { uri: `plant.azure-devices.net/${deviceId}`, key: NEW_KEY },
  };
}

const scenarios: readonly Scenario[] = [
  {
    name: 'a first write',
    prepare: () => Promise.resolve(),
    change: write('press-18'),
    old: empty,
    new: { uri: 'plant.azure-devices.net/press-18', key: NEW_KEY },
  },
  over('press-18', 'an overwrite with a name of the same length'),
  over('press-17', 'an overwrite with another key under the same name'),
  over('p', 'an overwrite with a shorter name'),
  over('press-17-of-hall-4', 'an overwrite with a longer name'),
  {
    ...over('press-18', 'an overwrite with a key that the TPM has wrapped already'),
    isSignedLate: true,
    change: async (access) => {
      const key = await access.tpm.createHmacKey(SRK_HANDLE, Buffer.from(NEW_KEY));
      const { identity } = credentials('press-18', NEW_KEY);
      return writeWrappedSlot(access, SLOT, { identity, key }, { overwrite: true });
    },
  },
  {
    name: 'clearing',
    prepare: prepareFull,
    change: (access) => clearSlot(access, SLOT),
    old: full,
    new: empty,
  },
  {
    name: 'writing another URI',
    prepare: prepareFull,
    change: (access) =>
      writeSlotUri(access, SLOT, 'plant.azure-devices.net/press-17/axis', { overwrite: true }),
    old: full,
    new: { uri: 'plant.azure-devices.net/press-17/axis', key: OLD_KEY },
  },
  {
    name: 'writing another key',
    prepare: prepareFull,
    change: (access) =>
      writeSlotKey(access, SLOT, Secret.fromBytes(Buffer.from(NEW_KEY)), { overwrite: true }),
    old: full,
    new: { uri: OLD_URI, key: NEW_KEY },
  },
];

function records(): string[] {
  return readdirSync(`${chip.dir}/recovery`);
}

async function holds(tpm: Tpm, view: SlotView, wanted: Scenario['old'], why: string): Promise<void> {
  assert.equal(view.state, wanted.key === null ? 'empty' : 'ready', why);
  assert.equal(view.uri, wanted.uri, why);
  if (wanted.key === null) return;
  const nonce = Buffer.from(why);
  const expected = createHmac('sha256', wanted.key).update(nonce).digest();
  assert.ok((await tpm.hmac(keyHandle(SLOT), nonce)).equals(expected), `${why}: signs with its key`);
}

/** The change with its connection cut at this command. @returns whether it went through */
async function cutAt(scenario: Scenario, lethal: number, moment: 'before' | 'after'): Promise<boolean> {
  await chip.use((tpm) => clearSlot(chip.access(tpm), SLOT));
  await chip.use((tpm) => scenario.prepare(chip.access(tpm)));
  assert.deepEqual(records(), []);
  const transport = new DyingTransport(await chip.transport(), lethal, moment);
  const tpm = new Tpm(transport);
  try {
    await scenario.change(chip.access(tpm));
    return true;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    assert.match(error.code, /^tpm-unavailable\.connection$|^tpm\.slot-incomplete$/);
    return false;
  } finally {
    await tpm.close();
  }
}

/** What whoever comes next sees, before anything is repaired. */
async function isTruthful(scenario: Scenario, why: string): Promise<SlotView> {
  return chip.use(async (tpm) => {
    const view = await showSlot(tpm, SLOT, chip.access(tpm).recovery);
    if (view.state === 'incomplete') {
      assert.notEqual(view.interrupted, null, `${why}: says that it can be repaired`);
      assert.match(view.remark ?? '', /^it has .*; .* was interrupted$/, why);
      return view;
    }
    const is = view.uri === scenario.new.uri && view.interrupted !== null ? scenario.new : scenario.old;
    const same = scenario.old.uri === scenario.new.uri;
    // Where the names are the same, the key tells which it is.
    const nonce = Buffer.alloc(4);
    const signed = view.state === 'ready' ? await tpm.hmac(keyHandle(SLOT), nonce) : undefined;
    const isNew = signed?.equals(createHmac('sha256', NEW_KEY).update(nonce).digest()) === true;
    await holds(tpm, view, same ? (isNew ? scenario.new : scenario.old) : is, why);
    return view;
  });
}

/** The change, which the user leaves once this command is answered. @returns what it was refused with, if it was */
async function leftAfter(scenario: Scenario, last: number, sent: string[]): Promise<IotdmError | undefined> {
  const user = new AbortController();
  const tpm = new Tpm(await chip.transport(), {
    signal: user.signal,
    onCommand: ({ command }) => {
      sent.push(command);
      if (sent.length > last) user.abort();
    },
  });
  try {
    await scenario.change(chip.access(tpm));
    return undefined;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    return error;
  } finally {
    await tpm.close();
  }
}

/** The change, which the user leaves while this command is not answered. @returns whether it went through */
async function leftInSilence(
  scenario: Scenario,
  silent: number,
  moment: 'before' | 'after',
): Promise<boolean> {
  await made(scenario);
  const user = new AbortController();
  const transport = new SilentTransport(await chip.transport(), silent, moment, () => {
    user.abort();
  });
  const tpm = new Tpm(transport, { signal: user.signal, graceMs: 0 });
  try {
    await scenario.change(chip.access(tpm));
    return true;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    const cause = error.code === 'tpm.slot-incomplete' ? error.details?.['causeCode'] : error.code;
    assert.equal(cause, 'interrupted.signal');
    return false;
  } finally {
    await tpm.close();
  }
}

/** The slot as the change finds it. */
async function made(scenario: Scenario): Promise<SlotView> {
  await chip.use((tpm) => clearSlot(chip.access(tpm), SLOT));
  await chip.use((tpm) => scenario.prepare(chip.access(tpm)));
  return chip.use((tpm) => showSlot(tpm, SLOT, chip.access(tpm).recovery));
}

async function nothingIsLeft(tpm: Tpm, why: string): Promise<void> {
  assert.deepEqual(records(), [], `${why}: no record is left`);
  assert.deepEqual(await tpm.handles(0x80000000, 9), [], `${why}: nothing is left loaded`);
  assert.equal(await tpm.nvReadPublic(ROOM_PROBE_INDEX), undefined, `${why}: no probe is left`);
}

const changing = /^(EvictControl|NV_DefineSpace|NV_UndefineSpace|NV_Write)$/;

for (const scenario of scenarios) {
  describe(`${scenario.name}, left by its user`, () => {
    it('before anything is changed has done nothing, and after that is finished', async () => {
      let before = await made(scenario);
      let refusals = 0;
      for (let last = 0; ; last += 1) {
        const why = `${scenario.name}, left after command ${last}`;
        const sent: string[] = [];
        const error = await leftAfter(scenario, last, sent);
        await chip.use(async (tpm) => {
          const view = await showSlot(tpm, SLOT, chip.access(tpm).recovery);
          if (error === undefined) await holds(tpm, view, scenario.new, why);
          else assert.deepEqual(view, before, why);
          await nothingIsLeft(tpm, why);
        });
        if (error === undefined) {
          if (sent.length <= last) break;
          before = await made(scenario);
        } else {
          refusals += 1;
          assert.deepEqual([error.code, error.effect], ['interrupted.signal', 'none'], why);
          assert.ok(!sent.some((command) => changing.test(command)), why);
        }
      }
      assert.ok(refusals >= 5, `there is much before the first changing command: ${refusals}`);
    });

    it('while the TPM is silent is as it was, or can be finished, and nothing stays loaded', async () => {
      for (let silent = 0; ; silent += 1) {
        const moment = silent % 2 === 0 ? 'before' : 'after';
        const why = `${scenario.name}, silent ${moment} command ${silent}`;
        if (await leftInSilence(scenario, silent, moment)) break;
        const loaded = await chip.use((tpm) => tpm.handles(0x80000000, 9));
        assert.ok(loaded.length === 0 || records().length === 1, `${why}: what is loaded has a record`);
        const view = await isTruthful(scenario, why);
        await chip.use(async (tpm) => {
          const { outcome, ...after } = await repairSlot(chip.access(tpm), SLOT);
          const isUnsigned = scenario.isSignedLate === true && outcome === 'undone';
          if (!isUnsigned) assert.equal(outcome, view.interrupted === null ? 'nothing' : 'finished', why);
          await holds(tpm, after, outcome === 'finished' ? scenario.new : scenario.old, why);
          await nothingIsLeft(tpm, why);
        });
      }
    });
  });

  describe(`${scenario.name}, cut off at any command`, () => {
    for (const moment of ['before', 'after'] as const) {
      it(`(${moment} the TPM has done it) is shown as it is, and finished by a repair`, async () => {
        let lethal = 0;
        for (; ; lethal += 1) {
          const why = `${scenario.name}, ${moment} command ${lethal}`;
          if (await cutAt(scenario, lethal, moment)) break;
          const view = await isTruthful(scenario, why);
          await chip.use(async (tpm) => {
            const { outcome, ...after } = await repairSlot(chip.access(tpm), SLOT);
            const isUnsigned = scenario.isSignedLate === true && outcome === 'undone';
            if (!isUnsigned) assert.equal(outcome, view.interrupted === null ? 'nothing' : 'finished', why);
            await holds(tpm, after, outcome === 'finished' ? scenario.new : scenario.old, why);
            assert.equal(after.remark, null);
            await nothingIsLeft(tpm, why);
          });
        }
        assert.ok(lethal >= 6, `the change takes several commands: ${lethal}`);
        await chip.use(async (tpm) => holds(tpm, await showSlot(tpm, SLOT), scenario.new, 'uncut'));
      });

      it(`(${moment} the TPM has done it) is taken back as long as the old key is there`, async () => {
        let undone = 0;
        for (let lethal = 0; ; lethal += 1) {
          const why = `${scenario.name}, ${moment} command ${lethal}`;
          if (await cutAt(scenario, lethal, moment)) break;
          await chip.use(async (tpm) => {
            const access = chip.access(tpm);
            const before = await showSlot(tpm, SLOT, access.recovery);
            try {
              const { outcome, ...after } = await repairSlot(access, SLOT, { undo: true });
              if (outcome === 'undone') undone += 1;
              else assert.equal(outcome, 'nothing', why);
              await holds(tpm, after, scenario.old, why);
            } catch (error) {
              assert.ok(error instanceof IotdmError, String(error));
              assert.equal(error.code, 'tpm.cannot-undo', why);
              assert.deepEqual(await showSlot(tpm, SLOT, access.recovery), before, 'nothing was changed');
              // What cannot be taken back can still be finished.
              await holds(tpm, await repairSlot(access, SLOT), scenario.new, why);
            }
            await nothingIsLeft(tpm, why);
          });
        }
        assert.ok(undone > 0);
      });
    }
  });
}
