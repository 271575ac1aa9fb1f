import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { parseConnectionString } from '../../src/slot/device-identity.ts';
import {
  checkSlotClearable,
  clearSlot,
  listSlots,
  showSlot,
  slotToken,
  writeSlot,
} from '../../src/slot/slots.ts';
import { harvest } from '../../src/station/harvest.ts';
import { verifySlot } from '../../src/station/slot-verify.ts';
import type { Tpm } from '../../src/tpm/tpm.ts';
import { scratchDirectory, softwareTpm } from '../lab/lab.ts';

const credentials = (deviceId = 'd') =>
  parseConnectionString(
    `HostName=h.azure-devices.net;DeviceId=${deviceId};SharedAccessKey=bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=`,
  );

/** The table "TPM commands by job" of docs/ARCHITECTURE.md, in its order. */
describe('the number of TPM commands', () => {
  it('of each job is what the documentation says', async (t) => {
    const chip = await softwareTpm(t);
    const blank = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    const count = (job: (tpm: Tpm) => Promise<unknown>, on = chip): Promise<number> =>
      on.use(async (tpm) => {
        await job(tpm);
        return tpm.commandsSent.length;
      });
    const labels = { serialNumber: 'SN', deviceId: null, station: null, operator: null, lot: null, tags: {} };
    const counted = {
      'ek read': await count((tpm) => tpm.readEndorsementKey()),
      'ek read, empty handle': await count((tpm) => tpm.readEndorsementKey(), blank),
      'ek read --persist': await count((tpm) => tpm.readEndorsementKey({ persist: true }), blank),
      'srk read, empty handle': await count((tpm) => tpm.readStorageRootKey()),
      harvest: await count((tpm) =>
        harvest(join(dir, 'm.ndjson'), { tpm, labels, now: new Date(0), tool: 'iotdm/test' }),
      ),
      'slot show, empty': await count((tpm) => showSlot(tpm, 3)),
      'slot write, no SRK': await count((tpm) => writeSlot(chip.access(tpm), 3, credentials())),
      'srk read': await count((tpm) => tpm.readStorageRootKey()),
      'slot write': await count((tpm) => writeSlot(chip.access(tpm), 4, credentials())),
      'slot write --overwrite': await count((tpm) =>
        writeSlot(chip.access(tpm), 4, credentials(), { overwrite: true }),
      ),
      'slot write --overwrite, longer': await count((tpm) =>
        writeSlot(chip.access(tpm), 4, credentials('longer'), { overwrite: true }),
      ),
      'slot verify': await count((tpm) => verifySlot(chip.access(tpm), 4, { now: 0 })),
      'slot verify, connection string': await count((tpm) =>
        verifySlot(chip.access(tpm), 4, { now: 0, credentials: credentials('longer') }),
      ),
      'slot show': await count((tpm) => showSlot(tpm, 3)),
      'slot list, two in use': await count((tpm) => listSlots(tpm)),
      'slot token': await count((tpm) => slotToken(tpm, 3, 1893456000)),
      'slot sign, short': await count((tpm) => tpm.hmac(0x81000103, Buffer.alloc(512))),
      'slot clear': await count(async (tpm) => {
        await checkSlotClearable(chip.access(tpm), 3);
        await clearSlot(chip.access(tpm), 3);
      }),
    };
    assert.deepEqual(counted, {
      'ek read': 1,
      'ek read, empty handle': 3,
      'ek read --persist': 4,
      'srk read, empty handle': 3,
      harvest: 5,
      'slot show, empty': 2,
      'slot write, no SRK': 14,
      'srk read': 1,
      'slot write': 13,
      'slot write --overwrite': 16,
      'slot write --overwrite, longer': 18,
      'slot verify': 4,
      'slot verify, connection string': 5,
      'slot show': 3,
      'slot list, two in use': 8,
      'slot token': 3,
      'slot sign, short': 1,
      'slot clear': 10,
    });
  });
});
