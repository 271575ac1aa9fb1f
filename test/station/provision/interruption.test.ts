/** The TPM or the network lost at every point that matters: run again, the same command completes. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { startEmulator, type RunningEmulator } from '../../../src/emulator/emulator.ts';
import { IotdmError } from '../../../src/errors.ts';
import { appendRecord } from '../../../src/records/manifest.ts';
import { Secret } from '../../../src/secret.ts';
import { clearSlot, showSlot, writeSlot } from '../../../src/slot/slots.ts';
import { provisionDevice, type DeviceProvisioned } from '../../../src/station/provision/device.ts';
import { Acquaintances } from '../../../src/station/provision/line.ts';
import { stepNames, type StepName } from '../../../src/station/provision/steps.ts';
import type { LineParts } from '../../../src/station/provision/work.ts';
import type { Tpm } from '../../../src/tpm/tpm.ts';
import type { TpmTransport } from '../../../src/tpm/transport.ts';
import { harvested } from '../../fakes/harvested.ts';
import { MemoryService } from '../../fakes/memory-service.ts';
import { lifetimeOfFile, scratchDirectory, softwareTpm, type SoftwareTpm } from '../../lab/lab.ts';
import { breaking, testJob, testLine } from '../../lab/line.ts';

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let scratch: string;
let emulatorDir: string;
let running: RunningEmulator;
/** Called for each request that the emulator has answered. */
let onRequest: (request: string) => void = () => undefined;

async function startService(): Promise<void> {
  running = await startEmulator({
    dir: emulatorDir,
    onRequest: ({ method, path }) => {
      onRequest(`${method} ${path}`);
    },
  });
}

before(async () => {
  chip = await softwareTpm(lifetime);
  scratch = await scratchDirectory(lifetime);
  emulatorDir = await scratchDirectory(lifetime);
  await startService();
  lifetime.after(() => running.close());
});

const oldKey = Buffer.alloc(32, 7);
const oldUri = 'plant.azure-devices.net/old';

/** Slots empty or with an old identity, nothing enrolled, no records: as on the first day. */
async function reset({ occupied = false, keepSrk = true } = {}): Promise<string> {
  const dir = mkdtempSync(join(scratch, 'line-'));
  await chip.use(async (tpm) => {
    const access = chip.access(tpm);
    for (const slot of [0, 2]) {
      if ((await showSlot(tpm, slot)).state !== 'empty') await clearSlot(access, slot, { force: true });
    }
    if (!keepSrk && (await tpm.readPublic(0x81000001)) !== undefined) await tpm.removePersistent(0x81000001);
    if (occupied) {
      const identity = { hostName: 'plant.azure-devices.net', deviceId: 'old', moduleId: null };
      await writeSlot(access, 0, { identity, key: Secret.fromBytes(Buffer.from(oldKey)) });
    }
  });
  const line = testLine({ dir, service: running.info, transport: () => chip.transport() });
  const service = await line.service?.();
  for await (const page of service?.list() ?? []) {
    for (const { registrationId } of page) await service?.delete(registrationId);
  }
  line.close();
  return dir;
}

async function provision(
  dir: string,
  { overwrite = false, wrap = (inner: TpmTransport): TpmTransport => inner } = {},
): Promise<DeviceProvisioned> {
  const transport = async (): Promise<TpmTransport> => wrap(await chip.transport());
  const line = testLine({ dir, service: running.info, transport });
  try {
    return await provisionDevice(testJob({ overwrite }), line);
  } finally {
    line.close();
  }
}

/** What a resource manager does when a client goes: neither the tests' swtpm nor a plain /dev/tpm0 has one. */
function flushAsResourceManager(): void {
  for (const kind of ['-t', '-l', '-s']) chip.tool('tpm2_flushcontext', kind);
}

function assertNothingLoaded(what: string): void {
  assert.equal(chip.handles('transient'), '', what);
  assert.equal(chip.handles('loaded-session'), '', what);
}

/** The slot is what it was, or what it is to be, or says what to run: never one identity's key under another's name. */
async function assertOldOrNew(tpm: Tpm, failure: IotdmError | undefined, what: string): Promise<void> {
  const view = await showSlot(tpm, 0, undefined);
  if (view.state === 'ready' && view.uri === oldUri) {
    const challenge = Buffer.from('whose key is it');
    const expected = createHmac('sha256', oldKey).update(challenge).digest('hex');
    assert.equal((await tpm.hmac(0x81000100, challenge)).toString('hex'), expected, what);
  } else if (view.state === 'incomplete') {
    assert.ok(failure?.code === 'tpm.slot-incomplete' || failure?.code.startsWith('tpm-unavailable'), what);
  }
}

const changing = ['EvictControl', 'NV_DefineSpace', 'NV_UndefineSpace', 'NV_Write', 'Import'];

describe('the TPM is lost', () => {
  for (const occupied of [false, true]) {
    it(`at every command that changes it, and at the first of each step, ${occupied ? 'over an old identity' : 'on a bare TPM'}`, async () => {
      const dir = await reset({ occupied, keepSrk: occupied });
      const names: string[] = [];
      const starts = new Map<StepName, number>();
      const line = testLine({
        dir,
        service: running.info,
        transport: () => chip.transport(),
        tpmOptions: { onCommand: ({ command }) => names.push(command) },
      });
      const whole = await provisionDevice(
        testJob({
          overwrite: occupied,
          onEvent: (event) => {
            if (event.kind === 'begun') starts.set(event.step, names.length + 1);
          },
        }),
        line,
      );
      line.close();
      assert.ok(whole.passed, whole.failure?.message);
      const isNotable = (_: string, index: number): boolean => changing.includes(names[index] ?? '');
      const changes = names.flatMap((name, index) => (isNotable(name, index) ? [index + 1] : []));
      assert.ok(changes.length >= 8, names.join(' '));
      const first = [...starts].filter(([step]) => step !== 'record').map(([, at]) => at);
      // Over an old identity each change is cut on both sides; on a bare TPM there is less to lose.
      const cuts = occupied
        ? changes.flatMap((at) => [
            { at, isDone: false },
            { at, isDone: true },
          ])
        : [...changes.filter((_, index) => index % 2 === 0), ...first].map((at) => ({ at, isDone: true }));
      for (const { at, isDone } of cuts) {
        const what = `${names[at - 1] ?? ''}, command ${at}, ${isDone ? 'answer' : 'command'} lost`;
        const place = await reset({ occupied, keepSrk: occupied });
        const lost = (): Error => new IotdmError('tpm-unavailable.connection', 'the cable was pulled');
        const cut = await provision(place, {
          overwrite: occupied,
          wrap: (inner) => breaking(inner, at, isDone, lost),
        });
        assert.ok(!cut.passed, what);
        flushAsResourceManager();
        await chip.use((tpm) => assertOldOrNew(tpm, cut.failure, what));
        const again = await provision(place, { overwrite: occupied });
        assert.ok(again.passed, `${what}: ${again.failure?.message ?? ''}`);
        assertNothingLoaded(what);
      }
    });
  }
});

describe('the service is lost', () => {
  it('after each of its answers', async () => {
    const whole = await reset();
    const requests: string[] = [];
    onRequest = (request) => requests.push(request);
    assert.ok((await provision(whole)).passed);
    assert.ok(requests.length >= 8, requests.join('\n'));
    // After the last answer nothing is asked of it any more.
    for (let last = 1; last < requests.length; last += 1) {
      const what = `after ${last}: ${requests[last - 1] ?? ''}`;
      onRequest = () => undefined;
      const place = await reset();
      let count = 0;
      let ended: Promise<void> | undefined;
      onRequest = () => {
        count += 1;
        if (count === last) ended = running.close();
      };
      const cut = await provision(place);
      await ended;
      assert.ok(!cut.passed, what);
      assert.match(cut.failure?.code ?? '', /^network\./, `${what}: ${cut.failure?.message ?? ''}`);
      assertNothingLoaded(what);
      onRequest = () => undefined;
      await startService();
      const again = await provision(place);
      assert.ok(again.passed, `${what}: ${again.failure?.message ?? ''}`);
      assertNothingLoaded(what);
    }
  });
});

describe('what is known of a device', () => {
  const only = (...steps: StepName[]): ReadonlySet<StepName> =>
    new Set(stepNames.filter((name) => !steps.includes(name)));

  it('is what the manifest has taken: a barcode that was the wrong one leaves nothing behind', async () => {
    const dir = await reset();
    const other = harvested(7, { serialNumber: 'SN-1' });
    await appendRecord(join(dir, 'manifest'), other);
    const known = new Acquaintances();
    const line = testLine({ dir, service: running.info, transport: () => chip.transport() });
    const parts: LineParts = {
      ...line,
      recognize: (serial, id) => {
        known.recognize(serial, id);
      },
      remember: (serial, id) => {
        known.remember(serial, id);
      },
    };
    const scan = async (serialNumber: string): Promise<DeviceProvisioned> => {
      const labels = { ...testJob().labels, serialNumber };
      return provisionDevice(testJob({ labels, skip: only('harvest') }), parts);
    };
    try {
      const wrong = await scan('SN-1');
      assert.equal(wrong.failure?.code, 'verify.identity-conflict');
      // Neither this device nor the one that the serial number belongs to is told of it.
      assert.equal((await scan('SN-2')).passed, true);
      known.recognize('SN-1', other.registrationId);
      const forgotten = await scan('SN-3');
      assert.match(forgotten.failure?.message ?? '', /still the TPM of "SN-2"/);
    } finally {
      line.close();
    }
  });

  it('is what the service says at the last: the slot’s identity is not replaced for what it said before', async () => {
    const dir = await reset({ occupied: true });
    const endorsementKey = await chip.use(async (tpm) => (await tpm.readEndorsementKey()).publicArea);
    const service = new MemoryService();
    const assignedTo = (assignedHub: string, deviceId: string) =>
      ({
        registrationId: 'reg-1',
        attestation: { type: 'tpm', tpm: { endorsementKey: endorsementKey.toString('base64') } },
        registrationState: { status: 'assigned', assignedHub, deviceId },
      }) as const;
    await service.create(assignedTo('plant.azure-devices.net', 'old'));
    let isMoved = false;
    service.intercept = async ({ operation }) => {
      if (operation !== 'replace' || isMoved) return;
      isMoved = true;
      await service.replace(assignedTo('elsewhere.azure-devices.net', 'other'), '*');
    };
    const line = testLine({ dir, service: running.info, transport: () => chip.transport() });
    const labels = { ...testJob().labels, deviceId: 'old' };
    const job = testJob({ labels, registrationId: 'reg-1', skip: only('enroll', 'register') });
    try {
      const outcome = await provisionDevice(job, { ...line, service: () => Promise.resolve(service) });
      assert.equal(outcome.failure?.code, 'tpm.slot-not-empty', outcome.failure?.message);
      assert.deepEqual(
        outcome.steps.find(({ step }) => step === 'enroll')?.status,
        'failed',
        'before anything is changed',
      );
    } finally {
      line.close();
    }
    await chip.use(async (tpm) => {
      assert.equal((await showSlot(tpm, 0)).uri, oldUri);
    });
  });
});
