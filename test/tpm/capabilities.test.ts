import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  lacksForDps,
  readCapabilities,
  toTpmInfo,
  type TpmCapabilities,
} from '../../src/tpm/capabilities.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import { ScriptedTransport } from '../fakes/transports.ts';
import { chipContents } from '../lab/chip-contents.ts';
import { iotdm, softwareTpm } from '../lab/lab.ts';

/** GetCapability's answer with these words behind moreData and the capability. */
function capability(moreData: number, kind: number, words: readonly number[], wordBytes = 4): Buffer {
  const body = Buffer.alloc(9 + words.length * wordBytes);
  body.writeUInt8(moreData, 0);
  body.writeUInt32BE(kind, 1);
  body.writeUInt32BE(words.length, 5);
  words.forEach((word, index) => body.writeUInt32BE(word, 9 + index * wordBytes));
  const header = Buffer.from('80010000000000000000', 'hex');
  header.writeUInt32BE(header.length + body.length, 2);
  return Buffer.concat([header, body]);
}

describe('tpm info', () => {
  it('says what tpm2-tools say, with six commands that change nothing', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    chip.tool('tpm2_changeauth', '-c', 'e', 'endorsed');
    chip.tool('tpm2_clearcontrol', '-C', 'l', 's');
    const before = chipContents(chip);
    const outcome = await iotdm(['tpm', 'info', '--json', '-vv'], { env: { IOTDM_TPM: chip.tcti } });
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.equal(chipContents(chip), before);
    assert.match(
      outcome.stderr,
      /6 TPM commands: GetCapability, GetCapability, GetCapability, GetCapability, TestParms, TestParms\n/,
    );
    const fixed = chip.tool('tpm2_getcap', 'properties-fixed');
    const raw = (name: string): number =>
      Number(new RegExp(`${name}:\\s+raw: (0x[0-9A-F]+)`).exec(fixed)?.[1]);
    const firmware = [raw('FIRMWARE_VERSION_1'), raw('FIRMWARE_VERSION_2')];
    assert.deepEqual(JSON.parse(outcome.stdout), {
      type: `0x${raw('VENDOR_TPM_TYPE').toString(16).padStart(8, '0')}`,
      family: '2.0',
      level: 0,
      revision: (raw('TPM2_PT_REVISION') / 100).toFixed(2),
      manufacturer: 'IBM',
      vendorString: 'SW   TPM',
      firmware: firmware.flatMap((word) => [word >>> 16, word & 0xffff]).join('.'),
      lockoutAuth: 'notSet',
      endorsementAuth: 'set',
      storageAuth: 'notSet',
      disableClear: true,
      inLockout: false,
      rsa: true,
      hmac: true,
      aes: true,
      ecc: true,
      suitableForDps: true,
    });
    const text = await iotdm(['tpm', 'info', '--tpm', chip.tcti]);
    assert.match(text.stdout, /Endorsement authorization\s+set\n.*Lockout authorization\s+not set\n/s);
    assert.match(text.stdout, /Suitable for DPS\s+yes\n/);
  });

  it('calls a TPM suitable only for what was seen in it', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const seen = await chip.use(readCapabilities);
    assert.deepEqual(lacksForDps(seen), []);
    const lacking: [Partial<TpmCapabilities>, RegExp][] = [
      [{ family: '1.2' }, /TPM 2\.0/],
      [{ storageKeys: false }, /RSA 2048 keys with AES-128-CFB/],
      [{ storageKeys: undefined }, /RSA 2048 keys with AES-128-CFB/],
      [{ hmacKeys: false }, /HMAC-SHA256/],
      [{ missingCommands: ['ActivateCredential'] }, /TPM2_ActivateCredential/],
    ];
    for (const [part, expected] of lacking) {
      const capabilities = { ...seen, ...part };
      assert.match(lacksForDps(capabilities).join(), expected);
      assert.equal(toTpmInfo(capabilities).suitableForDps, false);
    }
  });

  it('finds commands and key kinds missing where the TPM has them not', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const inner = await chip.transport();
    // Hides ActivateCredential in the list of commands, and refuses HMAC keys.
    const poor: TpmTransport = {
      name: 'poor TPM',
      send: async (command) => {
        if (command.readUInt32BE(6) === 0x18a && command.readUInt16BE(10) === 0x0008) {
          return Buffer.from('80010000000a000002c4', 'hex');
        }
        const response = await inner.send(command);
        if (command.readUInt32BE(6) === 0x17a && command.readUInt32BE(10) === 2) {
          for (let at = 19; at < response.length; at += 4) {
            if ((response.readUInt32BE(at) & 0xffff) === 0x147) response.writeUInt32BE(0x20000147, at);
          }
        }
        return response;
      },
      close: () => inner.close(),
    };
    const tpm = new Tpm(poor);
    const capabilities = await readCapabilities(tpm);
    await tpm.close();
    assert.deepEqual(lacksForDps(capabilities), ['HMAC-SHA256 keys', 'TPM2_ActivateCredential']);
  });
});

describe('a list that a TPM gives in pieces', () => {
  it('is put together', async () => {
    const pieces = new ScriptedTransport([
      capability(1, 1, [0x81000001, 0x81000100]),
      capability(1, 1, [0x81000101]),
      capability(0, 1, [0x81010001]),
    ]);
    const tpm = new Tpm(pieces);
    assert.deepEqual(await tpm.handles(0x81000000, 10), [0x81000001, 0x81000100, 0x81000101, 0x81010001]);
    assert.equal(pieces.sent.length, 3);
    // From the next handle on, and only as many as are wanted still.
    assert.equal(pieces.sent[1]?.readUInt32BE(14), 0x81000101);
    assert.equal(pieces.sent[1].readUInt32BE(18), 8);
  });

  it('is not asked for beyond what is wanted, and not for ever', async () => {
    const enough = new ScriptedTransport([capability(1, 1, [0x81000001, 0x81000002])]);
    assert.equal((await new Tpm(enough).handles(0x81000000, 2)).length, 2);
    const empty = new ScriptedTransport([capability(1, 1, [])]);
    assert.deepEqual(await new Tpm(empty).handles(0x81000000, 2), []);
    const circling = new ScriptedTransport([capability(1, 1, [0x81000005]), capability(1, 1, [0x81000001])]);
    await assert.rejects(new Tpm(circling).handles(0x81000000, 10), { code: 'tpm-unavailable.protocol' });
    const neither = new ScriptedTransport([capability(2, 1, [0x81000005])]);
    await assert.rejects(new Tpm(neither).handles(0x81000000, 10), { code: 'tpm-unavailable.protocol' });
  });
});
