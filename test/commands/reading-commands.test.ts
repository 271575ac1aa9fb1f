import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { tapTpm } from '../fakes/tpm-tap.ts';
import { iotdm, scratchDirectory, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

/**
 * TPM_CC (Part 2, section 6.5.2) of what commands that only read may send: none of these changes what a TPM keeps.
 * CreatePrimary makes a transient key, and the FlushContext behind it removes that; SequenceComplete removes the
 * sequence that HMAC_Start makes.
 */
const reading: Readonly<Record<number, string>> = {
  0x173: 'ReadPublic',
  0x17a: 'GetCapability',
  0x169: 'NV_ReadPublic',
  0x14e: 'NV_Read',
  0x155: 'HMAC',
  0x15b: 'HMAC_Start',
  0x15c: 'SequenceUpdate',
  0x13e: 'SequenceComplete',
  0x131: 'CreatePrimary',
  0x165: 'FlushContext',
  0x18a: 'TestParms',
};

/** Everything that a TPM keeps, as tpm2-tools see it, and what is loaded. */
function contents(chip: SoftwareTpm): string {
  const kinds = ['persistent', 'transient', 'nv-index', 'loaded-session'] as const;
  return kinds.map((kind) => `${kind}\n${chip.handles(kind)}`).join('') + chip.tool('tpm2_nvreadpublic');
}

function count(names: readonly string[], name: string): number {
  return names.filter((sent) => sent === name).length;
}

for (const blank of [false, true]) {
  describe(`commands that read, on ${blank ? 'an empty chip' : 'a chip with an EK and a slot'}`, () => {
    it('never send a TPM command that changes it', async (t) => {
      const chip = await softwareTpm(t, { blank });
      const dir = await scratchDirectory(t);
      const file = (name: string, content: string | Buffer): string => {
        writeFileSync(join(dir, name), content, { mode: 0o600 });
        return join(dir, name);
      };
      const tap = await tapTpm(Number(/port=(\d+)/.exec(chip.tcti)?.[1]));
      t.after(() => tap.close());
      const key = Buffer.alloc(32, 7).toString('base64');
      const credentials = file(
        'device',
        `HostName=plant.azure-devices.net;DeviceId=d;SharedAccessKey=${key}`,
      );
      if (!blank) {
        const written = await iotdm([
          'slot',
          'write',
          '3',
          '--connection-string-file',
          credentials,
          '--tpm',
          tap.tcti,
        ]);
        assert.equal(written.code, 0, written.stderr);
        // The tap sees what changes a TPM: EvictControl, NV_DefineSpace, NV_Write.
        const seen = new Set(tap.taken());
        for (const code of [0x120, 0x12a, 0x137]) assert(seen.has(code), code.toString(16));
      }
      const targets = file('rack.csv', `tpm,serialNumber\n"${tap.tcti}",SN-2\n`);
      const manifest = join(dir, 'shift.ndjson');
      // What the slot is needed for is refused on the empty chip, and that changes nothing either.
      const slotCode = blank ? 4 : 0;
      const commands: [args: string[], code: number][] = [
        [['ek', 'read'], 0],
        [['ek', 'read', '--persist', '--dry-run'], 0],
        [['srk', 'read'], 0],
        [['harvest', '--manifest', manifest, '--serial', 'SN-1'], 0],
        [['harvest', '--manifest', manifest, '--serial', 'SN-1', '--dry-run'], 0],
        [['harvest', '--manifest', join(dir, 'rack.ndjson'), '--targets', targets], 0],
        [['slot', 'show', '3'], 0],
        [['slot', 'list'], 0],
        [['slot', 'list', '--all'], 0],
        [['slot', 'device-id', '3'], 0],
        [['slot', 'uri', 'read', '3'], slotCode],
        [['slot', 'verify', '3'], slotCode],
        [['slot', 'repair', '3', '--dry-run'], 0],
        [['slot', 'clear', '3', '--dry-run'], 0],
        [['slot', 'uri', 'write', '3', 'h/d', '--overwrite', '--dry-run'], 0],
        [['slot', 'token', '3'], slotCode],
        [['slot', 'sign', '3', file('short', 'abc')], slotCode],
        [['slot', 'sign', '3', file('long', Buffer.alloc(5000, 1))], slotCode],
        [['limpet', '-GTI'], 0],
        [['limpet', '-LLD'], 0],
        [['limpet', '-ERK', join(dir, 'ek.pub')], 0],
        [['limpet', '-SRK'], 0],
        [['limpet', '-azuredps', '-enrollmentinfo', 'csv'], 0],
        [['limpet', '3', '-RID'], 0],
        [['limpet', '3', '-RUR'], slotCode],
        [['limpet', '3', '-AST'], slotCode],
        [['limpet', '3', '-SHK', join(dir, 'short')], slotCode],
      ];
      const before = contents(chip);
      for (const [args, code] of commands) {
        const name = args.join(' ');
        tap.taken();
        const tpm = args.includes('--targets') ? [] : ['--tpm', tap.tcti];
        // What stands behind `limpet` is Limpet's.
        const run = await iotdm(args[0] === 'limpet' ? [...tpm, '-vv', ...args] : [...args, ...tpm, '-vv']);
        assert.equal(run.code, code, `${name}: ${run.stderr}`);
        const onTheWire = tap
          .taken()
          .map((sent) => reading[sent] ?? `0x${sent.toString(16)}, which is not allowed`);
        const trace = [...run.stderr.matchAll(/^iotdm: tpm[^:]*: (\w+) (\w+)/gm)];
        const traced = trace.map(([, sent]) => sent);
        const done = trace.filter(([, , answer]) => answer === 'ok').map(([, sent = '']) => sent);
        assert(onTheWire.length > 0, name);
        assert.deepEqual(
          onTheWire.filter((sent) => !Object.values(reading).includes(sent)),
          [],
          name,
        );
        assert.deepEqual(traced, onTheWire, `${name}: the trace is what was sent`);
        assert.equal(count(done, 'CreatePrimary'), count(done, 'FlushContext'), name);
        assert.equal(count(done, 'HMAC_Start'), count(done, 'SequenceComplete'), name);
      }
      assert.equal(contents(chip), before);
    });
  });
}
