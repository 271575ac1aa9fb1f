import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { toFailure } from '../../commands/shared/failure.ts';
import { parseConnectionString } from '../../src/slot/device-identity.ts';
import { repairSlot, writeSlot } from '../../src/slot/slots.ts';
import { openTransport } from '../../src/tpm/open.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { gateTpm, type TpmGate } from '../fakes/tpm-gate.ts';
import { softwareTpm } from '../lab/lab.ts';

const SLOT = 3;
const LIMIT_MS = 20_000;

function credentials(deviceId: string): ReturnType<typeof parseConnectionString> {
  const key = Buffer.from(deviceId.padEnd(32, '.')).toString('base64');
  const text = `HostName=plant.azure-devices.net;DeviceId=${deviceId};SharedAccessKey=${key}`;
  return parseConnectionString(text);
}

describe('a connection that is lost while a slot is changed', () => {
  it('leads to slot repair from the moment on that there is something to repair', async (t) => {
    const chip = await softwareTpm(t);
    const recovery = join(chip.dir, 'recovery');
    await chip.use((tpm) => writeSlot(chip.access(tpm), SLOT, credentials('device-0')));
    let repaired = 0;
    for (let cut = 0; ; cut += 1) {
      const gate: TpmGate = await gateTpm(chip.tcti, (number) => {
        if (number !== cut) return 'pass';
        void gate.close();
        return 'drop';
      });
      const tpm = new Tpm(await openTransport(parseTcti(gate.tcti), LIMIT_MS));
      const error: unknown = await writeSlot(chip.access(tpm), SLOT, credentials(`device-${cut + 1}`), {
        overwrite: true,
      }).then(
        () => undefined,
        (failure: unknown) => failure,
      );
      await tpm.close();
      if (error === undefined) {
        await gate.close();
        break;
      }
      const { hint, code } = toFailure(error, 'iotdm slot write');
      const isToRepair = existsSync(recovery) && readdirSync(recovery).length > 0;
      assert.equal(hint.includes(`iotdm slot repair ${SLOT}`), isToRepair, `cut ${cut}, ${code}: ${hint}`);
      if (!isToRepair) continue;
      repaired += 1;
      await chip.use((again) => repairSlot(chip.access(again), SLOT));
      assert.deepEqual(readdirSync(recovery), []);
    }
    assert.ok(repaired > 5, `${repaired} cuts with something to repair`);
  });
});
