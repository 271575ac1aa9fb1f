import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';

const lifetime = lifetimeOfFile();
const key = Buffer.from('bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=', 'base64');
const connectionString = `HostName=plant.azure-devices.net;DeviceId=press-17;ModuleId=axis;SharedAccessKey=${key.toString('base64')}`;

let chip: SoftwareTpm;
let blank: SoftwareTpm;
let service: EmulatedService;
let dir: string;

before(async () => {
  chip = await softwareTpm(lifetime);
  blank = await softwareTpm(lifetime, { blank: true });
  service = await emulator(lifetime);
  dir = await scratchDirectory(lifetime);
});

async function run(args: readonly string[], stdin = ''): Promise<string> {
  const { code, stdout, stderr } = await iotdm(args, { cwd: dir, stdin });
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** The one JSON document on stdout, whose keys are exactly these. */
async function json<Key extends string>(
  args: readonly string[],
  keys: readonly Key[],
  stdin = '',
): Promise<Record<Key, unknown>> {
  const document = JSON.parse(await run([...args, '--json'], stdin)) as Record<Key, unknown>;
  for (const name of keys) assert.ok(Object.hasOwn(document, name), `${args.join(' ')} lacks ${name}`);
  return document;
}

const ekKeys = ['registrationId', 'endorsementKey', 'name', 'algorithm', 'persistent', 'handle'] as const;

describe('ek read', () => {
  it('gives what tpm2_readpublic reads, and leaves the TPM as it was', async () => {
    const handles = (): string =>
      chip.handles('persistent') + chip.handles('transient') + chip.handles('loaded-session');
    const before = handles();
    const result = await json(['ek', 'read', '--tpm', chip.tcti], ekKeys);
    assert.deepEqual(Object.keys(result), ekKeys);
    chip.tool(
      'tpm2_readpublic',
      '-c',
      '0x81010001',
      '-f',
      'tss',
      '-o',
      join(dir, 'ek.tss'),
      '-n',
      join(dir, 'ek.name'),
    );
    assert.equal(result.endorsementKey, readFileSync(join(dir, 'ek.tss'), 'base64'));
    assert.equal(result.name, readFileSync(join(dir, 'ek.name'), 'hex'));
    assert.deepEqual([result.persistent, result.handle, result.algorithm], [true, '0x81010001', 'rsa2048']);
    assert.match(String(result.registrationId), /^[a-z2-7]{52}$/);
    assert.equal(handles(), before);
  });

  it('derives what tpm2_createek makes on a blank chip, and leaves nothing in it', async () => {
    const result = await json(['ek', 'read', '--tpm', blank.tcti], ekKeys);
    assert.deepEqual([result.persistent, result.handle], [false, null]);
    assert.equal(blank.handles('persistent') + blank.handles('transient'), '');
    blank.tool(
      'tpm2_createek',
      '-G',
      'rsa',
      '-f',
      'tss',
      '-u',
      join(dir, 'created'),
      '-c',
      join(dir, 'ek.ctx'),
    );
    blank.tool('tpm2_flushcontext', '-t');
    assert.equal(result.endorsementKey, readFileSync(join(dir, 'created'), 'base64'));
  });

  it('in every format, to stdout and to a file for the owner only', async () => {
    const { registrationId, endorsementKey } = await json(['ek', 'read', '--tpm', chip.tcti], ekKeys);
    for (const format of ['text', 'json', 'csv', 'tpm2b', 'pem']) {
      const name = `ek.${format}`;
      const args = ['ek', 'read', '--format', format, '--tpm', chip.tcti];
      const shown = await run(args);
      assert.equal(await run([...args, '--out', name]), '', 'the file has it, and stdout nothing');
      const path = join(dir, name);
      assert.equal(statSync(path).mode & 0o777, 0o600);
      if (format !== 'tpm2b') assert.equal(readFileSync(path, 'utf8'), shown);
    }
    assert.equal(
      await run(['ek', 'read', '--json', '--tpm', chip.tcti]),
      readFileSync(join(dir, 'ek.json'), 'utf8'),
    );
    assert.match(
      readFileSync(join(dir, 'ek.text'), 'utf8'),
      new RegExp(`^Registration id +${String(registrationId)}$`, 'm'),
    );
    assert.equal(
      readFileSync(join(dir, 'ek.csv'), 'utf8'),
      `registrationId,endorsementKey\n${String(registrationId)},${String(endorsementKey)}\n`,
    );
    assert.equal(readFileSync(join(dir, 'ek.tpm2b'), 'base64'), endorsementKey);
    const text = execFileSync('openssl', ['pkey', '-pubin', '-in', join(dir, 'ek.pem'), '-noout', '-text'], {
      encoding: 'utf8',
    });
    assert.match(text, /2048 bit/);
    assert.match(text, /Exponent: 65537/);
    const modulus = execFileSync(
      'openssl',
      ['rsa', '-pubin', '-in', join(dir, 'ek.pem'), '-noout', '-modulus'],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
    );
    assert.equal(
      modulus.trim().toLowerCase(),
      `modulus=${readFileSync(join(dir, 'ek.tpm2b')).subarray(-256).toString('hex')}`,
    );
    await run(['enrollment', 'import', 'ek.csv', '--dry-run']);
    await run(['enrollment', 'import', 'ek.json', '--dry-run']);
  });

  it('replaces a file only when told to, as a whole, and leaves no draft behind', async () => {
    const path = join(dir, 'kept');
    writeFileSync(path, 'mine', { mode: 0o644 });
    const refused = await iotdm(['ek', 'read', '--out', path, '--tpm', chip.tcti]);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /kept exists already\n.*--overwrite/);
    assert.equal(readFileSync(path, 'utf8'), 'mine');
    await run(['ek', 'read', '--out', path, '--overwrite', '--dry-run', '--tpm', chip.tcti]);
    assert.equal(readFileSync(path, 'utf8'), 'mine');
    await run(['ek', 'read', '--out', path, '--overwrite', '--tpm', chip.tcti]);
    assert.match(readFileSync(path, 'utf8'), /^Registration id/);
    assert.equal(statSync(path).mode & 0o777, 0o600);

    const before = readdirSync(dir).sort();
    for (const out of [dir, join(dir, 'absent', 'file'), join(path, 'below')]) {
      const { code, stderr } = await iotdm(['ek', 'read', '--out', out, '--overwrite', '--tpm', chip.tcti]);
      assert.equal(code, 2, stderr);
      assert.match(stderr, /cannot write/);
    }
    assert.deepEqual(readdirSync(dir).sort(), before);
  });
});

describe('srk read', () => {
  it('has its keys', async () => {
    const result = await json(
      ['srk', 'read', '--tpm', blank.tcti],
      ['storageRootKey', 'name', 'persistent', 'handle'],
    );
    assert.deepEqual([result.persistent, result.handle], [false, null]);
    assert.equal(blank.handles('persistent') + blank.handles('transient'), '');
  });
});

describe('slot', () => {
  const slotKeys = ['slot', 'state', 'uri', 'hostName', 'deviceId', 'moduleId', 'keyName'] as const;

  it('list, show, write, token and sign have their keys, and tpm2-tools agrees with them', async () => {
    const tpm = ['--tpm', chip.tcti];
    assert.equal(await run(['slot', 'list', '--json', ...tpm]), '[]\n');
    const empty = await json(['slot', 'show', '4', ...tpm], slotKeys);
    assert.deepEqual(
      slotKeys.map((name) => empty[name]),
      [4, 'empty', null, null, null, null, null],
    );

    const write = ['slot', 'write', '4', '--connection-string-file', '-', ...tpm];
    const planned = await json(
      [...write, '--dry-run'],
      ['slot', 'uri', 'keyName', 'replaced'],
      connectionString,
    );
    assert.deepEqual([planned.keyName, planned.replaced], [null, false]);
    assert.equal(
      (await json(['slot', 'show', '4', ...tpm], slotKeys)).state,
      'empty',
      'a dry run writes nothing',
    );
    const written = await json(write, ['slot', 'uri', 'keyName', 'replaced'], connectionString);
    const uri = 'plant.azure-devices.net/press-17/axis';
    assert.deepEqual([written.slot, written.uri, written.replaced], [4, uri, false]);

    const shown = await json(['slot', 'show', '4', ...tpm], slotKeys);
    assert.deepEqual(
      slotKeys.map((name) => shown[name]),
      [4, 'ready', uri, 'plant.azure-devices.net', 'press-17', 'axis', written.keyName],
    );
    assert.deepEqual(JSON.parse(await run(['slot', 'list', '--json', ...tpm])), [shown]);
    assert.equal(
      (JSON.parse(await run(['slot', 'list', '--all', '--json', ...tpm])) as unknown[]).length,
      10,
    );
    assert.equal(chip.tool('tpm2_nvread', '0x1400104'), uri);

    const token = await json(
      ['slot', 'token', '4', '--ttl', '60', ...tpm],
      ['connectionString', 'sharedAccessSignature', 'expiresAt'],
    );
    const [, resource = '', signature = '', expiry = ''] =
      /sr=([^&]+)&sig=([^&]+)&se=(\d+)$/.exec(String(token.sharedAccessSignature)) ?? [];
    assert.equal(
      decodeURIComponent(signature),
      createHmac('sha256', key).update(`${resource}\n${expiry}`).digest('base64'),
    );
    assert.equal(resource, encodeURIComponent('plant.azure-devices.net/devices/press-17/modules/axis'));
    assert.equal(token.expiresAt, new Date(Number(expiry) * 1000).toISOString());
    assert.ok(
      String(token.connectionString).endsWith(`SharedAccessSignature=${String(token.sharedAccessSignature)}`),
    );

    const signed = await json(
      ['slot', 'sign', '4', '-', ...tpm],
      ['hmac'],
      'abcdefghijklmnopqrstuvwxyz \r\n',
    );
    assert.equal(signed.hmac, 'ILKZDBZZ9aQLr3XFswjgEuTs+N2O2A1JtduBFwXWeEc=');
    const long = 'x'.repeat(5000);
    const hmac = await run(['slot', 'sign', '4', '-', ...tpm], long);
    assert.equal(hmac.trim(), createHmac('sha256', key).update(long).digest('base64'));

    const again = await json(
      [...write, '--overwrite'],
      ['slot', 'uri', 'keyName', 'replaced'],
      connectionString,
    );
    assert.equal(again.replaced, true);
    await json(['slot', 'clear', '4', '--dry-run', ...tpm], ['slot', 'uri', 'cleared']);
    assert.equal((await json(['slot', 'show', '4', ...tpm], slotKeys)).state, 'ready');
    assert.equal(
      (await json(['slot', 'clear', '4', '--yes', ...tpm], ['slot', 'uri', 'cleared'])).cleared,
      true,
    );
    assert.equal(
      (await json(['slot', 'clear', '4', '--yes', ...tpm], ['slot', 'uri', 'cleared'])).cleared,
      false,
    );
    assert.equal(chip.handles('transient'), '');
  });
});

describe('enrollment', () => {
  it('create reads the key from the TPM, show and delete find it', async () => {
    const tpm = ['--tpm', chip.tcti];
    const { registrationId, endorsementKey } = await json(['ek', 'read', ...tpm], ekKeys);
    const planned = await json(
      ['enrollment', 'create', '--dry-run', '--device-id', 'press-17', ...tpm],
      ['registrationId', 'attestation'],
    );
    assert.equal(planned.registrationId, registrationId);
    assert.deepEqual(planned.attestation, { type: 'tpm', tpm: { endorsementKey } });
    assert.deepEqual(service.requests, []);
    await run([
      'enrollment',
      'create',
      '--device-id',
      'press-17',
      '--tag',
      'site=north',
      ...tpm,
      ...service.options,
    ]);
    const shown = await json(
      ['enrollment', 'show', String(registrationId).toUpperCase(), ...service.options],
      ['deviceId', 'etag', 'initialTwin'],
    );
    assert.equal(shown.deviceId, 'press-17');
    assert.deepEqual(shown.initialTwin, { tags: { site: 'north' } });
    const id = String(registrationId);
    const wouldDelete = await json(
      ['enrollment', 'delete', id, '--dry-run', ...service.options],
      ['deleted'],
    );
    assert.equal(wouldDelete.deleted, false);
    assert.equal(
      (await json(['enrollment', 'delete', id, '--yes', ...service.options], ['deleted'])).deleted,
      true,
    );
    assert.equal(await run(['enrollment', 'list', '--json', ...service.options]), '[]\n');
    assert.equal(
      await run(['enrollment', 'list', ...service.options]),
      'There are no individual enrollments.\n',
    );
  });
});

describe('harvest', () => {
  it('records once, and nothing on a dry run', async () => {
    const args = ['harvest', '--manifest', 'h.ndjson', '--serial', 'SN-1', '--tpm', chip.tcti];
    const planned = await json([...args, '--dry-run'], ['registrationId', 'repeated', 'dryRun']);
    assert.equal(planned.dryRun, true);
    assert.equal(readdirSync(dir).includes('h.ndjson'), false);
    assert.equal((await json(args, ['repeated'])).repeated, false);
    const content = readFileSync(join(dir, 'h.ndjson'));
    assert.equal((await json(args, ['repeated'])).repeated, true);
    assert.deepEqual(readFileSync(join(dir, 'h.ndjson')), content);
    assert.equal(statSync(join(dir, 'h.ndjson')).mode & 0o777, 0o600);
  });
});
