import assert from 'node:assert/strict';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { IotdmError } from '../../src/errors.ts';
import { readOrCreateModule } from '../../src/hub/module-identities.ts';
import { parseConnectionString } from '../../src/slot/device-identity.ts';
import { clearSlot, showSlot, writeSlot } from '../../src/slot/slots.ts';
import {
  provisionModules,
  type ModuleHub,
  type ModuleOutcome,
  type ModulesJob,
} from '../../src/station/modules.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { assertAccepted, enroll, hubOptions, registerChip } from '../fakes/enrolled-chip.ts';
import { DyingTransport } from '../fakes/transports.ts';
import {
  emulator,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';

const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
const A = { moduleId: 'AppA', slot: 1 };
const B = { moduleId: 'AppB', slot: 2 };
const C = { moduleId: 'AppC', slot: 3 };

const lifetime = lifetimeOfFile();
let service: EmulatedService;
let chip: SoftwareTpm;
let deviceId: string;

before(async () => {
  [service, chip] = await Promise.all([emulator(lifetime), softwareTpm(lifetime)]);
  await enroll(chip, service);
  ({ deviceId } = await chip.use((tpm) => registerChip(chip, service, tpm)));
});

const hub = (): ModuleHub => ({
  moduleIdentity: (device, moduleId, token) =>
    readOrCreateModule(hubOptions(service), device.deviceId, moduleId, token),
});

async function provision(tpm: Tpm, job: Partial<ModulesJob> = {}): Promise<readonly ModuleOutcome[]> {
  const { modules } = await provisionModules({
    slots: chip.access(tpm),
    deviceSlot: 0,
    modules: [A, B, C],
    hub: hub(),
    now: () => new Date(),
    ...job,
  });
  return modules;
}

async function emptySlots(): Promise<void> {
  await chip.use(async (tpm) => {
    for (const { slot } of [A, B, C]) await clearSlot(chip.access(tpm), slot, { force: true });
  });
}

const summary = (outcomes: readonly ModuleOutcome[]): unknown[] =>
  outcomes.map(({ moduleId, status, error }) => `${moduleId} ${status} ${error?.code ?? ''}`.trim());

async function allAccepted(): Promise<void> {
  for (const { slot, moduleId } of [A, B, C]) {
    await chip.use(async (tpm) => {
      assert.equal((await showSlot(tpm, slot)).uri, `${service.hub}/${deviceId}/${moduleId}`);
      await assertAccepted(service, tpm, slot);
    });
  }
  assert.equal(chip.handles('transient') + chip.handles('loaded-session'), '');
}

describe('provisioning modules', () => {
  it('creates each in the hub, writes it into its slot, and leaves what is there', async () => {
    await emptySlots();
    await chip.use(async (tpm) => {
      const modules = [
        { moduleId: 'First', slot: 1 },
        { moduleId: 'Second', slot: 2 },
      ];
      const first = await provision(tpm, { modules });
      assert.deepEqual(
        first.map(({ status, created }) => [status, created]),
        [
          ['written', true],
          ['written', true],
        ],
      );
      const sent = tpm.commandsSent.length;
      const again = await provision(tpm, { modules });
      assert.deepEqual(
        again.map(({ status, created, keyName }) => [status, created, keyName]),
        first.map(({ keyName }) => ['unchanged', false, keyName]),
      );
      // Device: view and token; each module: view and proof.
      assert.equal(tpm.commandsSent.length - sent, 6 + 2 * 4);
    });
    assert.equal(chip.tool('tpm2_nvread', '0x1400101'), `${service.hub}/${deviceId}/First`);
  });

  it('mends a module whose slot has another key, and replaces nothing else without being told', async () => {
    await emptySlots();
    const stale = parseConnectionString(
      `HostName=${service.hub};DeviceId=${deviceId};ModuleId=AppA;SharedAccessKey=${KEY}`,
    );
    const foreign = parseConnectionString(
      `HostName=plant.azure-devices.net;DeviceId=x;SharedAccessKey=${KEY}`,
    );
    await chip.use(async (tpm) => {
      await writeSlot(chip.access(tpm), 1, stale);
      await writeSlot(chip.access(tpm), 2, foreign);
      assert.deepEqual(summary(await provision(tpm)), [
        'AppA written',
        'AppB failed tpm.slot-not-empty',
        'AppC written',
      ]);
      assert.equal((await showSlot(tpm, 2)).uri, 'plant.azure-devices.net/x');
      assert.deepEqual(summary(await provision(tpm, { overwrite: true })), [
        'AppA unchanged',
        'AppB written',
        'AppC unchanged',
      ]);
    });
    await allAccepted();
  });

  it('leaves a foreign object alone, whatever it is told', async (t) => {
    await emptySlots();
    const dir = await scratchDirectory(t);
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, 'ecc.ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'ecc.ctx'), '0x81000102');
    chip.tool('tpm2_flushcontext', '-t');
    await chip.use(async (tpm) => {
      assert.deepEqual(summary(await provision(tpm, { overwrite: true })), [
        'AppA written',
        'AppB failed tpm.slot-foreign',
        'AppC written',
      ]);
    });
    assert.match(chip.handles('persistent'), /0x81000102/);
  });

  it('says what ails all of them once, and does not try the others', async () => {
    await emptySlots();
    const tried: string[] = [];
    const broken =
      (code: 'network.unreachable' | 'service.invalid', except = ''): ModuleHub['moduleIdentity'] =>
      (device, moduleId, token) => {
        tried.push(moduleId);
        if (moduleId === except) return hub().moduleIdentity(device, moduleId, token);
        return Promise.reject(new IotdmError(code, 'no'));
      };
    await chip.use(async (tpm) => {
      const all = provision(tpm, { hub: { moduleIdentity: broken('network.unreachable') } });
      await assert.rejects(all, { code: 'network.unreachable' });
      assert.deepEqual(tried.splice(0), ['AppA']);
      const rest = await provision(tpm, { hub: { moduleIdentity: broken('network.unreachable', 'AppA') } });
      assert.deepEqual(summary(rest), [
        'AppA written',
        'AppB failed network.unreachable',
        'AppC failed network.unreachable',
      ]);
      assert.match(rest[2]?.error?.message ?? '', /^not tried: /);
      assert.deepEqual(tried.splice(0), ['AppA', 'AppB']);
      const own = await provision(tpm, { hub: { moduleIdentity: broken('service.invalid', 'AppA') } });
      assert.deepEqual(summary(own).slice(1), ['AppB failed service.invalid', 'AppC failed service.invalid']);
      assert.deepEqual(tried.splice(0), ['AppA', 'AppB', 'AppC']);
    });
  });

  it('needs a device, and slots that are different', async () => {
    await emptySlots();
    await chip.use(async (tpm) => {
      await assert.rejects(provision(tpm, { deviceSlot: 9 }), { code: 'tpm.slot-empty' });
      await provision(tpm, { modules: [A] });
      await assert.rejects(provision(tpm, { deviceSlot: 1, modules: [B] }), { code: 'usage.invalid' });
      await assert.rejects(provision(tpm, { modules: [{ moduleId: 'X', slot: 0 }] }), {
        code: 'usage.invalid',
      });
      await assert.rejects(provision(tpm, { modules: [A, A] }), { code: 'usage.invalid' });
    });
  });

  it('with the TPM lost at any command is completed by the next run', async () => {
    const modules = [B];
    let lethal = 0;
    for (; ; lethal += 1) {
      await emptySlots();
      const tpm = new Tpm(new DyingTransport(await chip.transport(), lethal, 'after'));
      try {
        await provision(tpm, { modules });
        break;
      } catch (error) {
        assert.ok(error instanceof IotdmError && error.code.startsWith('tpm'), String(error));
      } finally {
        await tpm.close();
      }
      await chip.use(async (next) => {
        assert.match(summary(await provision(next, { modules })).join(), /^AppB (?:written|unchanged)$/);
        assert.deepEqual(
          await next.handles(0x80000000, 9),
          [],
          `nothing is left loaded after command ${lethal}`,
        );
        await assertAccepted(service, next, 2);
      });
    }
    assert.ok(lethal > 15, String(lethal));
  });
});
