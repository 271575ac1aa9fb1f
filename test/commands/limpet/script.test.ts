/*
 * What was written for Limpet.exe runs on iotdm: by `iotdm limpet`, by a link and by a copy. tpm2-tools, an XML parser
 * and the HMAC of Node.js say whether it is right.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { createHash, createHmac } from 'node:crypto';
import { chmodSync, cpSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { before, describe, it, type TestContext } from 'node:test';
import { limpetSwitches } from '../../../commands/limpet/switches.ts';
import { chipContents } from '../../lab/chip-contents.ts';
import {
  executable,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type Outcome,
  type SoftwareTpm,
} from '../../lab/lab.ts';
import { parseXml, textsOf, type ParsedElement } from '../../lab/xml.ts';

/** Limpet's own test vector. */
const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
const VECTOR_DATA = 'abcdefghijklmnopqrstuvwxyz \r\n';
const VECTOR_HMAC = 'ILKZDBZZ9aQLr3XFswjgEuTs+N2O2A1JtduBFwXWeEc=';
const OTHER_KEY = Buffer.alloc(32, 7).toString('base64');

const connectionString = `hostname=plant.azure-devices.net;DEVICEID=press-17;SharedAccesskey=${KEY}`;

const script = `
set -e
limpet -erk ek.pub > erk.xml
limpet -SRK srk.pub > srk.xml
limpet -gti > gti.xml
limpet 0 -PCS '${connectionString}' > pcs.xml
limpet 0 -AST > ast.txt
limpet 0 -ast 600 > ast600.txt
limpet -Lld > lld.xml
limpet 0 -SHK data > shk.xml
limpet 0 -rur > rur.xml
limpet 0 -RID > rid.xml
limpet 0 -DLD > dld.xml
limpet -LLD > after.xml
limpet -azuredps -enrollmentinfo csv > info.csv
limpet -AzureDps -EnrollmentInfo json > info.json
limpet -azuredps -enrollmentinfo txt > info.txt
`;

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
before(async () => {
  chip = await softwareTpm(lifetime);
});

/** A folder for the PATH in which `limpet` is this. */
const ways: Readonly<Record<string, (bin: string) => void>> = {
  'iotdm limpet': (bin) => {
    writeFileSync(join(bin, 'limpet'), `#!/bin/sh\nexec '${process.execPath}' '${executable}' limpet "$@"\n`);
    chmodSync(join(bin, 'limpet'), 0o755);
  },
  'a link': (bin) => {
    symlinkSync(executable, join(bin, 'limpet'));
  },
};

async function runScript(
  t: TestContext,
  way: (bin: string) => void,
): Promise<{ dir: string; stderr: string }> {
  const dir = await scratchDirectory(t);
  const bin = join(dir, 'bin');
  mkdirSync(bin);
  way(bin);
  writeFileSync(join(dir, 'data'), VECTOR_DATA);
  const PATH = [bin, dirname(process.execPath), process.env['PATH'] ?? ''].join(delimiter);
  const stderr = await new Promise<string>((resolve, reject) => {
    execFile(
      '/bin/sh',
      ['-c', script],
      { cwd: dir, env: { ...process.env, PATH, IOTDM_TPM: chip.tcti } },
      (error, _stdout, text) => {
        if (error === null) resolve(text);
        else reject(new Error(text, { cause: error }));
      },
    );
  });
  return { dir, stderr };
}

function limpetName(hex: string): string {
  // As it is documented: base64, and then every byte but letters, digits and !()*-._ in lower-case hex.
  return Buffer.from(hex, 'hex')
    .toString('base64')
    .replaceAll('+', '%2b')
    .replaceAll('/', '%2f')
    .replaceAll('=', '%3d');
}

/** `name: 000b…` as tpm2_readpublic and tpm2_nvreadpublic print it. */
function nameIn(text: string): string {
  return /name: ?([0-9a-f]{68})/.exec(text)?.[1] ?? '';
}

/** By tpm2-tools' name of the storage root key. */
function logicalDeviceId(slot: number): string {
  const srkName = nameIn(chip.tool('tpm2_readpublic', '-c', '0x81000001'));
  assert.match(srkName, /^000b/);
  const digest = createHash('sha256')
    .update(Buffer.from([slot, 0, 0, 0]))
    .update(srkName, 'hex')
    .digest('hex');
  return limpetName(`000b${digest}`);
}

describe('a script that was written for Limpet', () => {
  for (const [name, way] of Object.entries(ways)) {
    it(`runs by ${name}`, async (t) => {
      const { dir, stderr } = await runScript(t, way);
      const read = (file: string): string => readFileSync(join(dir, file), 'utf8');
      const xml = (file: string): ParsedElement => parseXml(read(file));

      const ek = readFileSync(join(dir, 'ek.pub'));
      assert.deepEqual(textsOf(xml('erk.xml')), { ERKPub: ek.toString('base64') });
      chip.tool('tpm2_readpublic', '-c', '0x81010001', '-o', join(dir, 'tools.pub'));
      assert.deepEqual(ek, readFileSync(join(dir, 'tools.pub')), 'the raw bytes of the key');
      assert.deepEqual(textsOf(xml('srk.xml')), {
        SRKPub: readFileSync(join(dir, 'srk.pub')).toString('base64'),
      });

      const provisioned = textsOf(xml('pcs.xml'));
      assert.deepEqual(Object.keys(provisioned), ['Provisioned/StorageName', 'Provisioned/KeyName']);
      const storageName = provisioned['Provisioned/StorageName'];
      const keyName = provisioned['Provisioned/KeyName'];
      const names = { StorageName: storageName, HmacKeyName: keyName };
      const list = xml('lld.xml');
      assert.equal(list.name, 'LogicalDevices');
      assert.deepEqual(
        list.children.map(({ name: child, attributes }) => [child, attributes]),
        [['LogicalDevice', { id: '0' }]],
      );
      assert.deepEqual(
        textsOf(list),
        Object.fromEntries(
          Object.entries(names).map(([child, text]) => [`LogicalDevices/LogicalDevice/${child}`, text]),
        ),
      );
      assert.deepEqual(
        textsOf(xml('dld.xml')),
        Object.fromEntries(Object.entries(names).map(([child, text]) => [`Destroyed/${child}`, text])),
      );
      assert.deepEqual(xml('after.xml'), { name: 'LogicalDevices', attributes: {}, text: '', children: [] });
      assert.deepEqual(textsOf(xml('shk.xml')), { Sha256Hmac: VECTOR_HMAC });

      assert.deepEqual(textsOf(xml('rur.xml')), { ServiceURI: 'plant.azure-devices.net/press-17' });
      assert.deepEqual(textsOf(xml('rid.xml')), { DevId: logicalDeviceId(0) });

      checkToken(read('ast.txt'), 3600);
      checkToken(read('ast600.txt'), 600);

      const info = xml('gti.xml');
      assert.equal(info.name, 'TpmInfo');
      const elements =
        'TpmType TpmFamily TpmLevel TpmRevision TpmManufacturer TpmVendorString TpmFirmware LockoutAuth ' +
        'EndorsementAuth StorageAuth DisableClear InLockout RSA HMAC AES ECC TcgLogSize';
      assert.equal(info.children.map((child) => child.name).join(' '), elements);

      await checkEnrollmentInfo(read, ek);
      assert.doesNotMatch(stderr, /bZD|ptz9/i);
      assert.equal(stderr.match(/^iotdm: warning: /gm)?.length, 1, stderr);
      assert.match(stderr, /iotdm slot write 0 --connection-string-file FILE/);
    });
  }

  it('runs by a copy of the folder, whatever ending its name has; by another name it is iotdm', async (t) => {
    const dir = await scratchDirectory(t);
    cpSync(dirname(executable), dir, { recursive: true });
    const run = (name: string, ...args: string[]): string => {
      cpSync(executable, join(dir, name));
      const env = { ...process.env, IOTDM_TPM: chip.tcti };
      return execFileSync(process.execPath, [join(dir, name), ...args], { encoding: 'utf8', env });
    };
    const { stdout } = await iotdm(['limpet', '-ERK'], { env: { IOTDM_TPM: chip.tcti } });
    for (const name of ['limpet', 'Limpet.js']) assert.equal(run(name, '-erk'), stdout, name);
    const version = await iotdm(['--version']);
    assert.equal(run('iotdm', '--version'), version.stdout);
  });
});

describe('what -enrollmentinfo prints', () => {
  it('goes into enrollment import, also behind that of another device, as factories keep it', async (t) => {
    const dir = await scratchDirectory(t);
    const fixtures = new URL('../../../fixtures/enrollments/', import.meta.url);
    for (const format of ['csv', 'json']) {
      const { stdout } = await limpet('-azuredps', '-enrollmentinfo', format);
      const other = readFileSync(new URL(`limpet.${format}`, fixtures), 'utf8');
      for (const [text, rows] of [
        [stdout, 1],
        [other + stdout, 2],
        [stdout + other, 2],
      ] as const) {
        writeFileSync(join(dir, `info.${format}`), text);
        const args = ['enrollment', 'import', join(dir, `info.${format}`), '--dry-run', '--json'];
        const imported = await iotdm(args);
        assert.equal(imported.code, 0, imported.stderr);
        assert.equal((JSON.parse(imported.stdout) as { total: number }).total, rows);
      }
    }
  });
});

function checkToken(line: string, validity: number): void {
  const parts =
    /^HostName=(.+);DeviceId=(.+);SharedAccessSignature=SharedAccessSignature sr=(.+)&sig=([^&]+)&se=(\d+)\n$/.exec(
      line,
    );
  assert.ok(parts, line);
  const [, host, device, resource = '', signature, expiry = ''] = parts;
  assert.deepEqual([host, device], ['plant.azure-devices.net', 'press-17']);
  assert.equal(resource, 'plant.azure-devices.net/devices/press-17', 'not encoded');
  const expected = createHmac('sha256', Buffer.from(KEY, 'base64'))
    .update(`${resource}\n${expiry}`)
    .digest('hex');
  assert.equal(signature, limpetName(expected));
  const left = Number(expiry) - Date.now() / 1000;
  assert.ok(left <= validity && left > validity - 60, String(left));
}

async function checkEnrollmentInfo(read: (file: string) => string, ek: Buffer): Promise<void> {
  const { stdout } = await iotdm(['ek', 'read', '--json', '--tpm', chip.tcti]);
  const { registrationId } = JSON.parse(stdout) as { registrationId: string };
  assert.match(registrationId, /^[a-z2-7]{52}$/);
  const endorsementKey = ek.toString('base64');
  const csv = `"Registration Id", "Endorsement Key"\r\n"${registrationId}", "${endorsementKey}"\r\n`;
  assert.equal(read('info.csv'), csv);
  const enrollment = { attestation: { type: 'tpm', tpm: { endorsementKey } }, registrationId };
  assert.deepEqual(JSON.parse(read('info.json')), [enrollment]);
  assert.match(read('info.json'), /^\[\r\n\{\r\n\t"attestation": \{\r\n/);
  assert.doesNotMatch(read('info.json'), /[^\r]\n/);
  assert.equal(
    read('info.txt'),
    `\r\nProvisioning information\r\n\r\n\tRegistration Id:\r\n\t${registrationId}\r\n\r\n` +
      `\tEndorsement Key:\r\n\t${endorsementKey}\r\n\r\n`,
  );
}

function limpet(...words: string[]): Promise<Outcome> {
  return iotdm(['limpet', ...words], { env: { IOTDM_TPM: chip.tcti } });
}

async function succeeds(...words: string[]): Promise<Record<string, string>> {
  const { code, stdout, stderr } = await limpet(...words);
  assert.equal(code, 0, stderr);
  return textsOf(parseXml(stdout));
}

async function fails(words: readonly string[], elementName: string, code: number): Promise<string> {
  const outcome = await limpet(...words);
  assert.equal(outcome.stdout, `<?xml version="1.0" encoding="utf-8"?>\n<${elementName}/>\n`);
  assert.equal(outcome.code, code, outcome.stderr);
  return outcome.stderr;
}

describe('a slot', () => {
  it('in use is not overwritten, and stays what it is', async () => {
    const { 'Provisioned/StorageName': storageName, 'Provisioned/KeyName': keyName } = await succeeds(
      '1',
      '-PCS',
      connectionString,
    );
    assert.equal(storageName, limpetName(nameIn(chip.tool('tpm2_nvreadpublic', '0x1400101'))));
    assert.equal(keyName, limpetName(nameIn(chip.tool('tpm2_readpublic', '-c', '0x81000101'))));
    const contents = chipContents(chip);
    const other = `HostName=other.azure-devices.net;DeviceId=press-18;SharedAccessKey=${OTHER_KEY}`;
    const stderr = await fails(['1', '-PCS', other], 'Provisioned', 4);
    assert.match(stderr, /^iotdm: error: slot 1 is not empty: it holds plant.azure-devices.net\/press-17$/m);
    assert.match(stderr, /^iotdm: hint: .*-DLD.*iotdm slot write 1 --overwrite/m);
    assert.equal(chipContents(chip), contents);
    assert.equal(chip.tool('tpm2_nvread', '0x1400101'), 'plant.azure-devices.net/press-17');
    await succeeds('1', '-DLD');
  });

  it('that is empty, or that another program uses, fails in every command', async () => {
    chip.tool('tpm2_nvdefine', '0x1400105', '-C', 'o', '-s', '8', '-a', 'ownerread|ownerwrite');
    writeFileSync(join(chip.dir, 'data'), VECTOR_DATA);
    const contents = chipContents(chip);
    for (const slot of ['5', '6']) {
      for (const [name, ...more] of [
        ['AST'],
        ['SHK', join(chip.dir, 'data')],
        ['RUR'],
        ['DUR'],
        ['DLD'],
      ] as const) {
        const stderr = await fails([slot, `-${name}`, ...more], String(limpetSwitches[name].element), 4);
        assert.match(stderr, slot === '5' ? /slot 5 is foreign/ : /slot 6 (is empty|has no URI)/);
      }
    }
    await fails(['5', '-PCS', connectionString], 'Provisioned', 4);
    assert.equal(chipContents(chip), contents, 'nothing was touched');
    const listed = textsOf(parseXml((await limpet('-LLD')).stdout));
    const foreign = limpetName(nameIn(chip.tool('tpm2_nvreadpublic', '0x1400105')));
    assert.deepEqual(listed, { 'LogicalDevices/LogicalDevice/StorageName': foreign });
    chip.tool('tpm2_nvundefine', '0x1400105', '-C', 'o');
  });

  it('is made and taken apart in halves', async (t) => {
    const uri = 'plant.azure-devices.net/press-17/vision';
    const { StorageName } = await succeeds('3', '-SUR', uri);
    assert.equal(chip.tool('tpm2_nvread', '0x1400103'), uri);
    assert.equal(StorageName, limpetName(nameIn(chip.tool('tpm2_nvreadpublic', '0x1400103'))));
    assert.deepEqual(await succeeds('3', '-RUR'), { ServiceURI: uri });
    const uriRefused = await fails(['3', '-SUR', 'plant.azure-devices.net/press-18'], 'StorageName', 4);
    assert.match(uriRefused, /^iotdm: hint: .* 3 -DUR .* iotdm slot uri write 3 /m);
    assert.equal(chip.tool('tpm2_nvread', '0x1400103'), uri, 'it stays what it was');
    await fails(['3', '-EHK'], 'KeyName', 4);
    await fails(['3', '-AST'], 'SASToken', 4);

    const { KeyName } = await succeeds('3', '-CHK', KEY);
    assert.equal(KeyName, limpetName(nameIn(chip.tool('tpm2_readpublic', '-c', '0x81000103'))));
    const keyRefused = await fails(['3', '-CHK', OTHER_KEY], 'KeyName', 4);
    assert.match(keyRefused, /^iotdm: hint: .* 3 -EHK .* iotdm slot key write 3 /m);
    const file = join(await scratchDirectory(t), 'vector.txt');
    writeFileSync(file, VECTOR_DATA);
    assert.deepEqual(await succeeds('3', '-SHK', file), { Sha256Hmac: VECTOR_HMAC }, 'with the first key');

    assert.deepEqual(await succeeds('3', '-EHK'), { KeyName });
    assert.deepEqual(await succeeds('3', '-DUR'), { StorageName });
    await fails(['3', '-DUR'], 'StorageName', 4);
    await fails(['3', '-RUR'], 'ServiceURI', 4);
    assert.deepEqual(await succeeds('-LLD'), { LogicalDevices: '' });

    // One half by itself is a logical device too.
    const again = await succeeds('3', '-CHK', KEY);
    assert.deepEqual(await succeeds('-LLD'), {
      'LogicalDevices/LogicalDevice/HmacKeyName': again['KeyName'],
    });
    assert.deepEqual(await succeeds('3', '-DLD'), { 'Destroyed/HmacKeyName': again['KeyName'] });
  });

  it('takes keys of 16 to 64 bytes, and URIs of a host and a device', async () => {
    const contents = chipContents(chip);
    for (const key of [Buffer.alloc(15, 1), Buffer.alloc(65, 1)]) {
      await fails(['3', '-CHK', key.toString('base64')], 'KeyName', 2);
    }
    for (const key of ['', 'x', 'bZD+qa+2VxMAX7yi6Ar2lQ', '<key>'])
      await fails(['3', '-CHK', key], 'KeyName', 2);
    for (const uri of ['', 'x', 'a.b/c/d/e', 'a.b/<c>', `a.b/${'d'.repeat(600)}`]) {
      await fails(['3', '-SUR', uri], 'StorageName', 2);
    }
    assert.equal(chipContents(chip), contents);
    for (const key of [Buffer.alloc(16, 1), Buffer.alloc(64, 1)]) {
      await succeeds('3', '-CHK', key.toString('base64'));
      await succeeds('3', '-EHK');
    }
  });

  it('has a logical device id, whatever it holds', async (t) => {
    const blank = await softwareTpm(t, { blank: true });
    const env = { IOTDM_TPM: blank.tcti };
    const idOf = async (slot: string): Promise<string> => {
      const { code, stdout, stderr } = await iotdm(['limpet', slot, '-RID'], { env });
      assert.equal(code, 0, stderr);
      return textsOf(parseXml(stdout))['DevId'] ?? '';
    };
    const derived = await idOf('7');
    assert.doesNotMatch(blank.handles('persistent'), /0x81000001/);
    await iotdm(['limpet', '7', '-PCS', connectionString], { env });
    assert.match(blank.handles('persistent'), /0x81000001/);
    assert.equal(await idOf('7'), derived, 'the same before the storage root key stands and after');
    const shown = await iotdm(['slot', 'device-id', '7', '--json'], { env });
    assert.equal((JSON.parse(shown.stdout) as { deviceId: string }).deviceId, derived);
    assert.notEqual(await idOf('8'), derived);
  });

  it('of a module has the module in its token', async () => {
    await succeeds('2', '-PCS', `${connectionString};ModuleId=vision`);
    const { stdout } = await limpet('2', '-AST');
    const module =
      /^HostName=plant.azure-devices.net;DeviceId=press-17;ModuleId=vision;SharedAccessSignature=SharedAccessSignature sr=plant.azure-devices.net\/devices\/press-17\/modules\/vision&sig=/;
    assert.match(stdout, module);
    await succeeds('2', '-DLD');
  });

  it('signs files of any size', async (t) => {
    const file = join(await scratchDirectory(t), 'large');
    const data = Buffer.alloc(200_001, 'limpet');
    writeFileSync(file, data);
    await succeeds('2', '-PCS', connectionString);
    const { Sha256Hmac } = await succeeds('2', '-SHK', file);
    assert.equal(Sha256Hmac, createHmac('sha256', Buffer.from(KEY, 'base64')).update(data).digest('base64'));
    await fails(['2', '-SHK', `${file}-missing`], 'Sha256Hmac', 2);
    await succeeds('2', '-DLD');
  });

  it('gives tokens for as long as a script asks', async () => {
    await succeeds('2', '-PCS', connectionString);
    for (const seconds of [1, 2_147_483_647, 9_999_999_999]) {
      const { code, stdout, stderr } = await limpet('2', '-AST', String(seconds));
      assert.equal(code, 0, stderr);
      checkToken(stdout, seconds);
    }
    await succeeds('2', '-DLD');
  });

  it('gives no token for a time that is none', async () => {
    for (const seconds of ['0', '-1', 'soon', '1e3', '99999999999', '']) {
      await fails(['2', '-AST', seconds], 'SASToken', 2);
    }
  });

  it('does not take a connection string that is none', async () => {
    const contents = chipContents(chip);
    for (const text of ['', 'x', KEY, connectionString.replace('DEVICEID', 'Device'), '<&>']) {
      const stderr = await fails(['2', '-PCS', text], 'Provisioned', 2);
      assert.doesNotMatch(stderr, /bZD|ptz9/i);
      assert.match(stderr, /^iotdm: hint: expected HostName=/m);
    }
    assert.equal(chipContents(chip), contents);
  });
});

describe('the TPM', () => {
  it('is cleared without a question', async (t) => {
    const other = await softwareTpm(t);
    const env = { IOTDM_TPM: other.tcti };
    await iotdm(['limpet', '0', '-PCS', connectionString], { env });
    assert.match(other.handles('persistent'), /0x81000100/);
    const { code, stdout, stderr } = await iotdm(['limpet', '-FCT'], { env });
    assert.equal(code, 0, stderr);
    assert.deepEqual(textsOf(parseXml(stdout)), { TpmClear: 'OK' });
    assert.doesNotMatch(other.handles('persistent'), /0x81000100/);
  });

  it('says which authorizations are set, and whether they are at hand', async (t) => {
    const other = await softwareTpm(t);
    other.tool('tpm2_changeauth', '-c', 'o', 'owner');
    other.tool('tpm2_changeauth', '-c', 'l', 'lockout');
    const { stdout } = await iotdm(['limpet', '-GTI'], {
      env: { IOTDM_TPM: other.tcti, IOTDM_OWNER_AUTH: 'owner' },
    });
    const {
      'TpmInfo/LockoutAuth': lockout,
      'TpmInfo/EndorsementAuth': endorsement,
      ...rest
    } = textsOf(parseXml(stdout));
    assert.deepEqual(
      [lockout, endorsement, rest['TpmInfo/StorageAuth']],
      ['Unavailable', 'NotSet', 'Available'],
    );
  });

  it('is chosen by the settings that all commands share', async (t) => {
    const dir = await scratchDirectory(t);
    const { stdout: expected } = await limpet('-ERK');
    writeFileSync(join(dir, 'iotdm.config.json'), JSON.stringify({ tpm: chip.tcti }));
    const wrong = 'swtpm:host=127.0.0.1,port=1';
    for (const [args, options] of [
      [['limpet', '-ERK'], { cwd: dir }],
      [['limpet', '--tpm', chip.tcti, '-ERK'], { env: { IOTDM_TPM: wrong } }],
      [['--tpm', chip.tcti, 'limpet', '-ERK'], { env: { IOTDM_TPM: wrong } }],
      [['limpet', `--tpm=${chip.tcti}`, '-v', '-ERK'], {}],
      [['limpet', '-ERK'], { env: { TPM2TOOLS_TCTI: chip.tcti } }],
    ] as const) {
      const { code, stdout, stderr } = await iotdm(args, options);
      assert.equal(code, 0, stderr);
      assert.equal(stdout, expected);
    }
  });

  it('gives its key to a file that is there already, and to no other user', async (t) => {
    const dir = await scratchDirectory(t);
    const file = join(dir, 'ek.pub');
    writeFileSync(file, 'that of the device before');
    const { ERKPub } = await succeeds('-ERK', file);
    assert.equal(readFileSync(file).toString('base64'), ERKPub);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const stderr = await fails(['-ERK', join(dir, 'missing', 'ek.pub')], 'ERKPub', 2);
    assert.match(stderr, /cannot write/);
  });
});

describe('an add-on TPM', () => {
  it('is the simulator, which is started and ended again', async (t) => {
    let dir = '';
    // Before the directory, by which it is found, goes.
    t.after(async () => {
      await iotdm(['simulator', 'stop', '--wipe'], { cwd: dir });
    });
    dir = await scratchDirectory(t);
    const run = (...words: string[]): Promise<Outcome> => iotdm(['limpet', ...words], { cwd: dir });
    const list = parseXml((await run('-LAT')).stdout);
    assert.equal(list.name, 'TpmAddInSupport');
    const entries = list.children.flatMap(({ children }) => children);
    assert.deepEqual(
      entries.map(({ attributes, text }) => [attributes['index'], text]),
      [
        ['0', 'none'],
        ['1', 'simulator'],
      ],
    );
    const installed = await run('-IAT', '1');
    assert.deepEqual(textsOf(parseXml(installed.stdout)), { Installed: 'simulator' });
    assert.match(installed.stderr, /never for production/);
    const tcti = /export IOTDM_TPM=(\S+)/.exec(installed.stderr)?.[1] ?? '';
    const key = await iotdm(['limpet', '-ERK'], { cwd: dir, env: { IOTDM_TPM: tcti } });
    assert.equal(key.code, 0, key.stderr);
    const removed = await run('-IAT', '0');
    assert.deepEqual(textsOf(parseXml(removed.stdout)), { Installed: 'none' });
    const { stdout } = await iotdm(['simulator', 'status', '--json'], { cwd: dir });
    assert.equal((JSON.parse(stdout) as { running: boolean }).running, false);
  });
});
