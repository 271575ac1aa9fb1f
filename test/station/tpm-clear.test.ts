import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { clearTpm, planClear } from '../../src/station/tpm-clear.ts';
import { chipContents } from '../lab/chip-contents.ts';
import { iotdm, scratchDirectory, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

const stdin =
  'HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';

async function filled(chip: SoftwareTpm): Promise<void> {
  const written = await iotdm(['slot', 'write', '3', '--connection-string-file', '-'], {
    env: { IOTDM_TPM: chip.tcti },
    stdin,
  });
  assert.equal(written.code, 0, written.stderr);
  chip.tool('tpm2_nvdefine', '0x1800001', '-C', 'o', '-s', '8', '-a', 'ownerread|ownerwrite');
}

describe('tpm clear', () => {
  it('destroys what it listed, and the endorsement key comes back', async (t) => {
    const chip = await softwareTpm(t);
    await filled(chip);
    const env = { IOTDM_TPM: chip.tcti };
    const before = chipContents(chip);
    const registrationId = await chip.use(async (tpm) =>
      registrationIdOf((await tpm.readEndorsementKey()).publicArea),
    );

    const rehearsal = await iotdm(['tpm', 'clear', '--dry-run', '--json'], { env });
    assert.equal(rehearsal.code, 0, rehearsal.stderr);
    const plan = JSON.parse(rehearsal.stdout) as Record<string, unknown> & {
      slots: { slot: number; uri: string }[];
    };
    assert.deepEqual(
      { ...plan, slots: plan.slots.map(({ slot, uri }) => [slot, uri]) },
      {
        cleared: false,
        slots: [[3, 'h.azure-devices.net/d']],
        persistentHandles: ['0x81000001', '0x81010001', '0x81010016'],
        nvIndexes: ['0x01800001'],
        dryRun: true,
      },
    );
    const unconfirmed = await iotdm(['tpm', 'clear'], { env });
    assert.equal(unconfirmed.code, 2);
    assert.match(unconfirmed.stderr, /will be lost: slot 3: h\.azure-devices\.net\/d\n/);
    assert.match(unconfirmed.stderr, /1 slot, 3 other keys, 1 other NV index will be lost/);
    assert.match(unconfirmed.stderr, /hint: pass --yes/);
    assert.equal(chipContents(chip), before);

    const outcome = await iotdm(['tpm', 'clear', '--yes', '--json'], { env });
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.equal((JSON.parse(outcome.stdout) as { cleared: boolean }).cleared, true);
    assert.equal(chip.handles('persistent') + chip.handles('transient'), '');
    // The certificates, which the platform made, stay.
    assert.doesNotMatch(chip.handles('nv-index'), /0x1800001|0x1400103/);
    assert.match(chip.handles('nv-index'), /0x1C00002/i);
    const derived = await chip.use((tpm) => tpm.readEndorsementKey());
    assert.equal(derived.handle, null);
    assert.equal(registrationIdOf(derived.publicArea), registrationId);
  });

  it('makes another storage root key', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const before = await chip.use((tpm) => tpm.readStorageRootKey());
    await chip.use(async (tpm) => {
      await clearTpm(tpm, await planClear(tpm));
    });
    const after = await chip.use((tpm) => tpm.readStorageRootKey());
    assert.notDeepEqual(after.publicArea, before.publicArea);
  });

  it('uses the lockout authorization where one is set, and tries no other', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await filled(chip);
    chip.tool('tpm2_changeauth', '-c', 'l', 'locked');
    const before = chipContents(chip);
    const env = { IOTDM_TPM: chip.tcti };
    const without = await iotdm(['tpm', 'clear', '--yes'], { env });
    assert.equal(without.code, 4);
    assert.match(without.stderr, /no value for it was given\n.*hint: .*--lockout-auth-file/);
    assert.equal(chipContents(chip), before);

    const withIt = await iotdm(['tpm', 'clear', '--yes', '--json'], {
      env: { ...env, IOTDM_LOCKOUT_AUTH: 'locked' },
    });
    assert.equal(withIt.code, 0, withIt.stderr);
    assert.equal(chip.handles('persistent'), '');
    // It is empty now: a value that was given all the same would be a wrong one, and is not sent.
    const again = await iotdm(['tpm', 'clear', '--yes'], { env: { ...env, IOTDM_LOCKOUT_AUTH: 'locked' } });
    assert.equal(again.code, 0, again.stderr);
    assert.match(again.stderr, /warning: .* not used/);
  });

  it('says how long a wrong value shuts the lockout authorization, and destroys nothing', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await filled(chip);
    chip.tool('tpm2_changeauth', '-c', 'l', 'l0cked-secret');
    const held = [chip.handles('persistent'), chip.handles('nv-index')];
    for (const [value, code, hint] of [
      ['wr0ng-secret', 'tpm.authorization', /--lockout-auth-file/],
      ['l0cked-secret', 'tpm.lockout', /again after 1000 s/],
    ] as const) {
      const outcome = await iotdm(['tpm', 'clear', '--yes', '--json'], {
        env: { IOTDM_TPM: chip.tcti, IOTDM_LOCKOUT_AUTH: value },
      });
      assert.equal(outcome.code, 4);
      const line = outcome.stderr.split('\n').find((text) => text.startsWith('{')) ?? '';
      const { error } = JSON.parse(line) as { error: { code: string; message: string; hint: string } };
      assert.equal(error.code, code);
      assert.match(error.message, /before 1000 s have passed/);
      assert.match(error.hint, hint);
      assert.doesNotMatch(outcome.stderr, /wr0ng|l0cked/);
      assert.deepEqual([chip.handles('persistent'), chip.handles('nv-index')], held);
    }
  });

  it('is refused where the owner may not clear, with the fix', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    chip.tool('tpm2_clearcontrol', '-C', 'l', 's');
    const before = chipContents(chip);
    const outcome = await iotdm(['tpm', 'clear', '--yes'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(outcome.code, 4);
    assert.match(outcome.stderr, /disableClear.*\n.*hint: .*tpm2_clearcontrol -C p c/);
    assert.equal(chipContents(chip), before);
    chip.tool('tpm2_clearcontrol', '-C', 'p', 'c');
    assert.equal((await iotdm(['tpm', 'clear', '--yes'], { env: { IOTDM_TPM: chip.tcti } })).code, 0);
  });

  it('warns where the registration id may become another one, and lists incomplete slots', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, 'key'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'key'), '0x81010001');
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_nvdefine', '0x1400102', '-C', 'o', '-s', '8', '-a', 'authread|authwrite|no_da');
    const outcome = await iotdm(['tpm', 'clear', '--dry-run'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.match(outcome.stderr, /warning: .*registration id will be another one/);
    assert.match(outcome.stdout, /Would be lost:\n {2}slot 2: incomplete, .*\n {2}key 0x81010001/);
  });
});
