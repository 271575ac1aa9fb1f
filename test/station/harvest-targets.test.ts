import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { csvLine } from '../../src/records/csv.ts';
import { describeFault } from '../../src/station/enrollment-input.ts';
import {
  harvestTargets,
  readTargets,
  type HarvestTarget,
  type HarvestTargetsOptions,
  type TargetDefaults,
  type TargetsCheck,
  type TargetsSummary,
} from '../../src/station/harvest-targets.ts';
import { chunked } from '../fakes/chunked-source.ts';

const nothing: TargetDefaults = { station: null, operator: null, lot: null, tags: {} };

function read(text: string, defaults = nothing): Promise<TargetsCheck> {
  return readTargets({ name: 'rack.csv', open: () => chunked(text, 7) }, defaults);
}

async function targetsOf(text: string, defaults = nothing): Promise<readonly HarvestTarget[]> {
  const { targets, faults, faultCount, rows } = await read(text, defaults);
  assert.deepEqual([faults, faultCount, rows], [[], 0, targets.length]);
  return targets;
}

async function faultsOf(text: string): Promise<string[]> {
  const { faults, faultCount } = await read(text);
  assert.equal(faultCount, faults.length);
  return faults.map(describeFault);
}

describe('a file of targets', () => {
  it('names TPMs and what is known of their devices, in any order of columns', async () => {
    const text =
      '\ufeffSerial Number,TPM,Device-Id,tags.board,lot\r\n' +
      'SN-1,"swtpm:host=10.0.0.7,port=2321",press-1,rev-c,\r\n' +
      ',,,,\r\n' +
      'SN-2,"cmd:ssh -o ""BatchMode yes"" dut2 tpm2_send",,,W49\r\n';
    const targets = await targetsOf(text, {
      station: 'EOL-3',
      operator: null,
      lot: 'W48',
      tags: { board: 'rev-a', site: 'Linz' },
    });
    assert.deepEqual(targets, [
      {
        line: 2,
        tpm: 'swtpm:host=10.0.0.7,port=2321',
        tcti: { kind: 'swtpm-tcp', host: '10.0.0.7', port: 2321 },
        labels: {
          serialNumber: 'SN-1',
          deviceId: 'press-1',
          station: 'EOL-3',
          operator: null,
          lot: 'W48',
          tags: { board: 'rev-c', site: 'Linz' },
        },
      },
      {
        line: 4,
        tpm: 'cmd:ssh -o "BatchMode yes" dut2 tpm2_send',
        tcti: { kind: 'command', command: 'ssh -o "BatchMode yes" dut2 tpm2_send' },
        labels: {
          serialNumber: 'SN-2',
          deviceId: null,
          station: 'EOL-3',
          operator: null,
          lot: 'W49',
          tags: { board: 'rev-a', site: 'Linz' },
        },
      },
    ]);
  });

  it('is refused with every fault at its place', async () => {
    const text =
      'tpm,serialNumber,deviceId,tags.note\n' +
      'swtpm:path=/run/a,SN-1,press-1,\n' +
      'usb:1,SN-2,press 2,\n' +
      'swtpm:path=/run/c,,,\n' +
      ',SN-4,,\n' +
      'swtpm:path=/run/e,SN-5\n' +
      'swtpm:path=/run/f,SN-1,press-1,"a\u001bb"\n' +
      'swtpm:path=/run/a,SN-7,,\n' +
      `swtpm:path=/run/h,${'9'.repeat(257)},,\n`;
    assert.deepEqual(await faultsOf(text), [
      'rack.csv:3:1: tpm: "usb:1" does not name a TPM: expected device:PATH, swtpm:host=HOST,port=PORT, ' +
        'swtpm:path=SOCKET, mssim:host=HOST,port=PORT, cmd:COMMAND or tbs',
      'rack.csv:3:12: deviceId: ' +
        "a device id is 1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
      'rack.csv:4:19: serialNumber: the serial number is missing',
      'rack.csv:5:1: tpm: the TPM is missing',
      'rack.csv:6:23: the row has 2 cells, the header has 4',
      'rack.csv:7:19: serialNumber: "SN-1" stands in line 2 already',
      'rack.csv:7:24: deviceId: "press-1" stands in line 2 already',
      'rack.csv:7:32: tags.note: control characters stand in this cell',
      'rack.csv:8:1: tpm: this TPM stands in line 2 already',
      'rack.csv:9:19: serialNumber: this has more than 256 characters',
    ]);
    const { targets } = await read(text);
    assert.deepEqual(
      targets.map(({ line }) => line),
      [2],
    );
  });

  it('names one TPM twice also when it is written in two ways', async () => {
    assert.deepEqual(
      await faultsOf('tpm,serialNumber\n"swtpm:host=127.0.0.1,port=2321",A\nswtpm:port=2321,B\n'),
      ['rack.csv:3:1: tpm: this TPM stands in line 2 already'],
    );
  });

  it('must have a header that is understood', async () => {
    assert.deepEqual(await faultsOf('tpm,serialnumer,tags.,tpm,\nx,y,z,a,b\n'), [
      'rack.csv:1: serialNumber: the column serialNumber is missing',
      'rack.csv:1:5: serialnumer: unknown column "serialnumer"; did you mean serialNumber?',
      'rack.csv:1:17: tags.: unknown column "tags."; did you mean tags.NAME?',
      'rack.csv:1:23: tpm: the column tpm stands here a second time',
    ]);
    assert.deepEqual(await faultsOf('tpm;serialNumber\nswtpm:host=a,port=1;b\n'), []);
    assert.deepEqual(await faultsOf('SN-1,/dev/tpm0\n'), [
      'rack.csv:1:1: the first line does not name the columns (tpm, serialNumber, …)',
    ]);
    for (const text of ['', 'tpm,serialNumber\n', 'tpm,serialNumber\n,\n']) {
      await assert.rejects(read(text), { code: 'input.invalid', message: 'rack.csv holds no rows' });
    }
  });

  it('lists the first hundred faults and counts the rest', async () => {
    const { faults, faultCount } = await read(`tpm,serialNumber\n${'usb:1,\n'.repeat(120)}`);
    assert.deepEqual([faults.length, faultCount], [100, 240]);
  });

  it('keeps any text that CSV can carry', async () => {
    const label = fc
      .string({ unit: 'grapheme', minLength: 1, maxLength: 60 })
      .map((text) => text.trim())
      .filter((text) => text !== '' && !/[\p{Cc}\p{Cs}]/u.test(text));
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.tuple(label, label), { selector: ([serial]) => serial, minLength: 1 }),
        async (rows) => {
          const lines = rows.map(([serial, note], index) =>
            csvLine([`swtpm:path=/run/${index}`, serial, note]),
          );
          const targets = await targetsOf(`tpm,serialNumber,tags.note\n${lines.join('')}`);
          assert.deepEqual(
            targets.map(({ labels }) => [labels.serialNumber, labels.tags['note']]),
            rows,
          );
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe('harvestTargets', () => {
  async function run(count: number, changes: Partial<HarvestTargetsOptions>): Promise<TargetsSummary> {
    const rows = Array.from({ length: count }, (_, index) => `swtpm:path=/run/${index},SN-${index}\n`);
    return harvestTargets({
      targets: await targetsOf(`tpm,serialNumber\n${rows.join('')}`),
      manifest: '/nonexistent/manifest',
      reading: { tool: 'iotdm/0.1.0' },
      concurrency: 2,
      openTpm: () => Promise.reject(new IotdmError('tpm-unavailable.connection', 'nobody there')),
      clock: () => new Date(0),
      ...changes,
    });
  }

  it('goes on behind devices that fail, no more than so many at once', async () => {
    let open = 0;
    let most = 0;
    const done: number[] = [];
    const summary = await run(7, {
      concurrency: 3,
      openTpm: async ({ line }) => {
        open += 1;
        most = Math.max(most, open);
        for (let turn = 0; turn < 20 - line; turn += 1) await Promise.resolve();
        open -= 1;
        throw new IotdmError('tpm-unavailable.timeout', `SharedAccessKey=abc${line} did not answer`);
      },
      onOutcome: (outcome) => done.push(outcome.done),
    });
    const { failures, elapsedMs, total, recorded, repeated, failed } = summary;
    assert(elapsedMs >= 0);
    assert.deepEqual([total, recorded, repeated, failed], [7, 0, 0, 7]);
    assert.deepEqual([most, done], [3, [1, 2, 3, 4, 5, 6, 7]]);
    assert.deepEqual(
      failures.map(({ line }) => line),
      [2, 3, 4, 5, 6, 7, 8],
    );
    assert.doesNotMatch(JSON.stringify(failures), /abc/);
  });

  it('stops at a fault that every device would meet', async () => {
    let opened = 0;
    const openTpm = (): Promise<never> => {
      opened += 1;
      return Promise.reject(new IotdmError('input.unreadable', 'cannot read the authorization value'));
    };
    await assert.rejects(run(9, { openTpm }), {
      code: 'input.unreadable',
      details: { total: 9, recorded: 0, repeated: 0, failed: 0 },
    });
    assert.equal(opened, 2);
    await assert.rejects(run(9, { openTpm: () => Promise.reject(new TypeError('a bug')) }), TypeError);
  });

  it('begins no new device when it is interrupted', async () => {
    const interrupt = new AbortController();
    await assert.rejects(
      run(9, {
        signal: interrupt.signal,
        concurrency: 1,
        onOutcome: ({ done }) => {
          if (done === 4) interrupt.abort();
        },
      }),
      {
        code: 'interrupted.signal',
        message: 'interrupted: 0 of 9 devices are recorded',
        details: { total: 9, recorded: 0, repeated: 0, failed: 4 },
      },
    );
  });
});
