/* The commands on slots as they are typed: what they print, refuse and note. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { join } from 'node:path';
import { writeFileSync } from 'node:fs';
import { before, describe, it } from 'node:test';
import { expiryOf } from '../../../commands/slot/token.ts';
import { iotdm, lifetimeOfFile, scratchDirectory, softwareTpm, type SoftwareTpm } from '../../lab/lab.ts';
import { failing } from '../failing.ts';

const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
const CONNECTION_STRING = `HostName=plant.azure-devices.net;DeviceId=press-17;SharedAccessKey=${KEY}`;

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let env: Record<string, string>;
let dir: string;

before(async () => {
  chip = await softwareTpm(lifetime);
  dir = await scratchDirectory(lifetime);
  env = { IOTDM_TPM: chip.tcti };
});

async function json(args: readonly string[], options = {}): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await iotdm([...args, '--json'], { env, ...options });
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Record<string, unknown>;
}

describe('slot uri and slot key', () => {
  it('write, read and clear one half, and say what is missing', async () => {
    const uri = 'plant.azure-devices.net/press-17/axis';
    const written = await json(['slot', 'uri', 'write', '3', uri]);
    assert.deepEqual([written['slot'], written['uri'], written['replaced']], [3, uri, false]);
    const half = await iotdm(['slot', 'show', '3'], { env });
    assert.match(
      half.stdout,
      /^State +incomplete: it has a URI but no key\n[^]*^Next +iotdm slot key write 3 --key-file FILE, or: iotdm slot clear 3$/m,
    );
    writeFileSync(join(dir, 'key'), `${KEY}\n`, { mode: 0o600 });
    const key = await json(['slot', 'key', 'write', '3', '--key-file', join(dir, 'key')]);
    assert.deepEqual([key['slot'], key['replaced']], [3, false]);
    const ready = await json(['slot', 'show', '3']);
    assert.deepEqual(
      [ready['state'], ready['moduleId'], ready['keyName']],
      ['ready', 'axis', key['keyName']],
    );
    assert.equal((await iotdm(['slot', 'uri', 'read', '3'], { env })).stdout, `${uri}\n`);
    const signed = await iotdm(['slot', 'sign', '3', '-'], { env, stdin: 'abcdefghijklmnopqrstuvwxyz \r\n' });
    assert.equal(signed.stdout, 'ILKZDBZZ9aQLr3XFswjgEuTs+N2O2A1JtduBFwXWeEc=\n');

    assert.equal((await failing(['slot', 'uri', 'write', '3', 'h/d'], { env })).code, 'tpm.slot-not-empty');
    assert.equal(
      (await failing(['slot', 'key', 'write', '3', '--key-file', '-'], { env, stdin: KEY })).code,
      'tpm.slot-not-empty',
    );
    for (const half of ['uri', 'key']) {
      assert.equal((await failing(['slot', half, 'clear', '3'], { env })).code, 'usage.needs-confirmation');
      assert.equal((await json(['slot', half, 'clear', '3', '--dry-run']))['dryRun'], true);
    }
    assert.equal((await json(['slot', 'show', '3']))['state'], 'ready');
    const planned = await json(['slot', 'uri', 'write', '3', 'h/d', '--overwrite', '--dry-run']);
    assert.deepEqual([planned['uri'], planned['replaced'], planned['storageName']], ['h/d', true, null]);
    const environment = { env: { ...env, IOTDM_SLOT_KEY: KEY } };
    assert.equal(
      (await json(['slot', 'key', 'write', '3', '--overwrite', '--dry-run'], environment))['keyName'],
      null,
    );
    assert.equal((await json(['slot', 'key', 'write', '3', '--overwrite'], environment))['replaced'], true);
    assert.equal((await json(['slot', 'key', 'clear', '3', '--yes']))['cleared'], true);
    assert.equal((await json(['slot', 'uri', 'clear', '3', '--yes']))['uri'], uri);
    assert.equal((await json(['slot', 'uri', 'clear', '3', '--yes']))['cleared'], false);
    assert.equal((await json(['slot', 'show', '3']))['state'], 'empty');
  });

  it('refuse a key on the command line, and one that is none, without repeating it', async () => {
    const write = ['slot', 'key', 'write', '3'];
    const flagged = await failing([...write, '--key', KEY], { env });
    assert.deepEqual([flagged.exitCode, flagged.code], [2, 'usage.secret-in-argv']);
    assert.match(flagged.message, /--key-file FILE or IOTDM_SLOT_KEY/);
    assert.ok(!flagged.text.includes(KEY.slice(0, 12)));
    for (const [given, message] of [
      ['', /not base64/],
      ['***', /not base64/],
      [KEY.slice(0, -1), /not base64/],
      [CONNECTION_STRING, /not base64/],
      [Buffer.alloc(15).toString('base64'), /has 15 bytes, and a slot takes 16 to 64/],
      [Buffer.alloc(65).toString('base64'), /has 65 bytes/],
    ] as const) {
      const shown = await failing([...write, '--key-file', '-'], { env, stdin: given });
      assert.deepEqual([shown.exitCode, shown.code], [2, 'input.invalid'], given);
      assert.match(shown.message, message);
      assert.ok(!shown.text.includes(KEY.slice(0, 12)));
    }
    const none = await failing(write, { env });
    assert.match(none.hint, /--key-file FILE .* or IOTDM_SLOT_KEY/);
    assert.equal((await failing(['slot', 'uri', 'write', '3', 'no-uri'], { env })).code, 'input.invalid');
  });

  it('device-id is the same whatever the slot holds', async () => {
    const { deviceId } = await json(['slot', 'device-id', '3']);
    assert.match(String(deviceId), /^AA[stuv](?:[A-Za-z0-9]|%2b|%2f)+%3d%3d$/);
    assert.notEqual((await json(['slot', 'device-id', '4']))['deviceId'], deviceId);
    assert.equal((await iotdm(['slot', 'device-id', '3'], { env })).stdout, `${String(deviceId)}\n`);
  });
});

describe('slot token', () => {
  it('is good for as long, or until when, it is told', async () => {
    const clock = new Date('2029-12-31T23:00:00.500Z');
    const now = clock.getTime() / 1000 - 0.5;
    assert.equal(expiryOf({}, clock), now + 3600);
    assert.equal(expiryOf({ ttl: '60' }, clock), now + 60);
    for (const expiresAt of [
      '2030-01-01T00:00:00Z',
      '2030-01-01T00:00Z',
      '2030-01-01t01:00:00.250+01:00',
      '2029-12-31T19:30:00-0430',
      '1893456000',
    ]) {
      assert.equal(expiryOf({ expiresAt }, clock), 1893456000, expiresAt);
    }
    for (const wrong of [
      { ttl: '0' },
      { ttl: '-1' },
      { ttl: '1.5' },
      { ttl: '' },
      { ttl: '315360001' },
      { expiresAt: '' },
      { expiresAt: '2030-01-01' },
      { expiresAt: '2030-01-01T00:00:00' },
      { expiresAt: '2030-13-01T00:00:00Z' },
      { expiresAt: '2029-12-31T23:00:00Z' },
      { expiresAt: '2060-01-01T00:00:00Z' },
      { expiresAt: 'tomorrow' },
    ]) {
      assert.throws(() => expiryOf(wrong, clock), { code: 'usage.invalid' }, JSON.stringify(wrong));
    }
    await iotdm(['slot', 'write', '4', '--connection-string-file', '-'], { env, stdin: CONNECTION_STRING });
    const expiresAt = new Date(Math.ceil(Date.now() / 1000 + 7200) * 1000).toISOString();
    const token = await json(['slot', 'token', '4', '--expires-at', expiresAt]);
    assert.equal(token['expiresAt'], expiresAt);
    const [, sr = '', sig = '', se = ''] =
      /sr=(.*)&sig=(.*)&se=(\d+)$/.exec(String(token['sharedAccessSignature'])) ?? [];
    assert.equal(Number(se) * 1000, Date.parse(expiresAt));
    const signature = createHmac('sha256', Buffer.from(KEY, 'base64'))
      .update(`${sr}\n${se}`)
      .digest('base64');
    assert.equal(decodeURIComponent(sig), signature);
    const both = await failing(['slot', 'token', '4', '--ttl', '5', '--expires-at', expiresAt], { env });
    assert.equal(both.code, 'usage.invalid');
  });
});

describe('slot 0', () => {
  it("says once that it is Azure's as well, and nothing with -q", async () => {
    const write = ['slot', 'write', '0', '--overwrite', '--connection-string-file', '-'];
    const uri = ['slot', 'uri', 'write', '0', 'h/d', '--overwrite'];
    const key = ['slot', 'key', 'write', '0', '--key-file', '-', '--overwrite'];
    for (const [args, stdin] of [
      [write, CONNECTION_STRING],
      [uri, ''],
      [key, KEY],
    ] as const) {
      const loud = await iotdm(args, { env, stdin });
      assert.equal(loud.code, 0, loud.stderr);
      assert.equal(loud.stderr.match(/Azure's device SDKs/g)?.length, 1, args.join(' '));
      const quiet = await iotdm([...args, '-q'], { env, stdin });
      assert.deepEqual([quiet.code, quiet.stderr], [0, '']);
    }
    const other = await iotdm(write.with(2, '8'), { env, stdin: CONNECTION_STRING });
    assert.equal(other.stderr, '');
  });
});
