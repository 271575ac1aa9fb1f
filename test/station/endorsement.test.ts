import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { makeCredential } from '../../src/credential.ts';
import {
  assessEndorsement,
  type EndorsementAssessment,
  type EndorsementCheck,
} from '../../src/station/endorsement.ts';
import { rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import type { TpmOptions } from '../../src/tpm/tss.ts';
import { nobody, readTrustedCertificates, trustedCertificates } from '../../src/trust/roots.ts';
import { makeVendor, NOW, pem } from '../fakes/tpm-vendor.ts';
import { bareResponse } from '../fakes/transports.ts';
import { iotdm, scratchDirectory, softwareTpm, type Lifetime, type SoftwareTpm } from '../lab/lab.ts';

/** Certificates of swtpm-localca begin when the chip is made, which no fixed date comes after. */
const now = new Date('2900-01-01T00:00:00Z');

const lifetime: Lifetime & { cleanUps: (() => Promise<void> | void)[] } = {
  cleanUps: [],
  after(cleanUp) {
    this.cleanUps.push(cleanUp);
  },
};
after(async () => {
  for (const cleanUp of lifetime.cleanUps.reverse()) await cleanUp();
});

/** All that a chip holds for programs: what these tests may not change. */
function holdings(chip: SoftwareTpm): string {
  return (['persistent', 'transient', 'loaded-session', 'nv-index'] as const)
    .map((kind) => chip.handles(kind))
    .join('');
}

async function assess(
  chip: SoftwareTpm,
  check: Partial<EndorsementCheck>,
  options?: TpmOptions,
): Promise<EndorsementAssessment> {
  const untouched = holdings(chip);
  try {
    return await chip.use((tpm) => assessEndorsement({ trusted: nobody, now, ...check, tpm }), options);
  } finally {
    assert.equal(holdings(chip), untouched);
  }
}

describe('a chip with a certificate of its maker', () => {
  let chip: SoftwareTpm;
  let other: SoftwareTpm;
  before(async () => {
    [chip, other] = await Promise.all([softwareTpm(lifetime), softwareTpm(lifetime)]);
  });
  const makerOf = (of: SoftwareTpm) => readTrustedCertificates([join(of.dir, 'ca')]);

  it('is genuine to who trusts the maker, and proves it', async () => {
    const assessment = await assess(chip, { trusted: await makerOf(chip), prove: true });
    assert.equal(assessment.verdict, 'genuine', assessment.reason);
    assert.equal(assessment.proved, true);
    assert.deepEqual(
      assessment.chain.slice(1).map(({ subject }) => subject),
      ['CN=swtpm-localca', 'CN=swtpm-localca-rootca'],
    );
    assert.deepEqual([assessment.model, assessment.version], ['swtpm', 'id:20191023']);
  });

  it('is untrusted to who trusts another maker, or nobody', async () => {
    assert.equal((await assess(chip, { trusted: await makerOf(other) })).verdict, 'untrusted');
    const { verdict, reason, proved } = await assess(chip, {});
    assert.deepEqual(
      [verdict, reason, proved],
      ['untrusted', 'no root certificates were given to trust', null],
    );
  });

  it('with the certificate of another chip is mismatched', async () => {
    const dir = await scratchDirectory(lifetime);
    other.tool('tpm2_nvread', '0x1c00002', '-o', join(dir, 'other.der'));
    const theirs = readFileSync(join(dir, 'other.der'));
    const assessment = await assess(chip, { trusted: await makerOf(other), certificate: theirs });
    assert.equal(assessment.verdict, 'mismatched');
  });

  it('costs as many commands as it must', async () => {
    const trusted = await makerOf(chip);
    await chip.use(async (tpm) => {
      await assessEndorsement({ tpm, trusted, now });
      assert.deepEqual(tpm.commandsSent, ['NV_ReadPublic', 'NV_Read', 'NV_Read', 'ReadPublic']);
    });
  });

  it('that returns another secret has not proved anything', async () => {
    const transport = await chip.transport();
    const lying = altering(transport, ACTIVATE_CREDENTIAL, (response) => {
      response.writeUInt8(response.readUInt8(16) ^ 1, 16);
      return response;
    });
    const trusted = await makerOf(chip);
    const assessment = await using(lying, (tpm) => assessEndorsement({ tpm, trusted, now, prove: true }));
    assert.deepEqual([assessment.verdict, assessment.proved], ['proof-failed', false]);
  });

  it("that shows another chip's EK and certificate cannot prove it", async () => {
    const [front, back] = await Promise.all([chip.transport(), other.transport()]);
    // Reads come from the genuine chip, everything else is answered by the one that hides behind it.
    const hiding: TpmTransport = {
      name: 'hiding TPM',
      send: (command) =>
        [NV_READ_PUBLIC, NV_READ, READ_PUBLIC].includes(command.readUInt32BE(6))
          ? front.send(command)
          : back.send(command),
      close: async () => {
        await front.close();
        await back.close();
      },
    };
    const trusted = await makerOf(chip);
    const assessment = await using(hiding, async (tpm) => {
      assert.equal((await assessEndorsement({ tpm, trusted, now })).verdict, 'genuine');
      return assessEndorsement({ tpm, trusted, now, prove: true });
    });
    assert.deepEqual([assessment.verdict, assessment.proved], ['proof-failed', false]);
    assert.equal(other.handles('loaded-session') + other.handles('transient'), '');
  });

  it('in failure mode is not taken for one with another key', async () => {
    const transport = await chip.transport();
    let failed = false;
    const failing: TpmTransport = {
      name: 'failing TPM',
      send: (command) => {
        failed ||= command.readUInt32BE(6) === ACTIVATE_CREDENTIAL;
        return failed ? Promise.resolve(bareResponse(0x101)) : transport.send(command);
      },
      close: () => transport.close(),
    };
    await assert.rejects(
      using(failing, (tpm) => assessEndorsement({ tpm, trusted: nobody, now, prove: true })),
      { code: 'tpm-unavailable.failure-mode' },
    );
    // Nobody could flush anything then.
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_flushcontext', '-l');
  });

  it('opens a credential of tpm2_makecredential, and tpm2_activatecredential one of ours', async () => {
    const dir = await scratchDirectory(lifetime);
    const file = (name: string): string => join(dir, name);
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'rsa2048', '-c', file('srk.ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', file('srk.ctx'), '0x81000001');
    chip.tool('tpm2_flushcontext', '-t');
    chip.tool('tpm2_readpublic', '-c', '0x81010001', '-f', 'tss', '-o', file('ek.pub'));
    const [ek, srk] = await chip.use(async (tpm) => [
      await tpm.readEndorsementKey(),
      await tpm.readStorageRootKey(),
    ]);

    const secret = randomBytes(32);
    writeFileSync(file('secret'), secret);
    chip.tool(
      'tpm2_makecredential',
      ...['-T', 'none', '-u', file('ek.pub'), '-s', file('secret')],
      ...['-n', srk.name.toString('hex'), '-o', file('theirs')],
    );
    const theirs = unpackCredential(readFileSync(file('theirs')));
    assert.deepEqual(await chip.use((tpm) => tpm.activateCredential(0x81000001, 0x81010001, theirs)), secret);

    for (const length of [1, 20, 32]) {
      const ours = randomBytes(length);
      writeFileSync(file('ours'), packCredential(makeCredential(rsaKeyObject(ek.modulus), srk.name, ours)));
      chip.tool('tpm2_startauthsession', '--policy-session', '-S', file('session'));
      chip.tool('tpm2_policysecret', '-S', file('session'), '-c', 'e');
      chip.tool(
        'tpm2_activatecredential',
        ...['-c', '0x81000001', '-C', '0x81010001', '-i', file('ours')],
        ...['-o', file('opened'), '-P', `session:${file('session')}`],
      );
      chip.tool('tpm2_flushcontext', file('session'));
      assert.deepEqual(readFileSync(file('opened')), ours);
    }
    // With both keys in place nothing is derived.
    await chip.use(async (tpm) => {
      assert.equal((await assessEndorsement({ tpm, trusted: nobody, now, prove: true })).proved, true);
      assert.deepEqual(
        tpm.commandsSent.filter((command) => /Create|Flush/.test(command)),
        [],
      );
    });
  });

  it('refuses a credential for another object, and one that is cut short', async () => {
    const { ek, srk } = await chip.use(async (tpm) => ({
      ek: await tpm.readEndorsementKey(),
      srk: await tpm.readStorageRootKey(),
    }));
    const key = rsaKeyObject(ek.modulus);
    const elsewhere = makeCredential(
      key,
      Buffer.concat([Buffer.from('000b', 'hex'), randomBytes(32)]),
      srk.name.subarray(0, 8),
    );
    const untouched = holdings(chip);
    await assert.rejects(
      chip.use((tpm) => tpm.activateCredential(0x81000001, 0x81010001, elsewhere)),
      { code: 'tpm.refused', message: /TPM_RC_INTEGRITY/ },
    );
    const short = { ...elsewhere, credentialBlob: elsewhere.credentialBlob.subarray(0, 34) };
    await assert.rejects(
      chip.use((tpm) => tpm.activateCredential(0x81000001, 0x81010001, short)),
      { code: 'input.invalid' },
    );
    assert.equal(holdings(chip), untouched);
    assert.throws(() => makeCredential(key, srk.name, Buffer.alloc(33)), RangeError);
  });

  it('leaves nothing behind when it is interrupted or refuses', async () => {
    for (const moment of ['StartAuthSession', 'PolicySecret']) {
      const interrupt = new AbortController();
      await assert.rejects(
        assess(
          chip,
          { prove: true },
          {
            signal: interrupt.signal,
            onCommand: ({ command }) => {
              if (command === moment) interrupt.abort();
            },
          },
        ),
        { code: 'interrupted.signal' },
      );
    }
    chip.tool('tpm2_changeauth', '-c', 'e', 'endorsed');
    await assert.rejects(assess(chip, { prove: true }), { code: 'tpm.authorization' });
    const auth = { endorsement: Buffer.from('endorsed') };
    assert.equal((await assess(chip, { prove: true }, { auth })).proved, true);
  });
});

describe('the commands', () => {
  let chip: SoftwareTpm;
  let roots: string;
  before(async () => {
    chip = await softwareTpm(lifetime);
    roots = join(chip.dir, 'ca');
  });
  const run = (...args: string[]) => iotdm([...args, '--tpm', chip.tcti]);

  it('ek verify reports a genuine chip with exit code 0', async () => {
    const { code, stdout, stderr } = await run('ek', 'verify', '--roots', roots, '--prove', '--json');
    assert.equal(code, 0, stderr);
    // The authority keeps its keys beside its certificates.
    for (const line of stderr.trimEnd().split('\n')) {
      assert.match(
        line,
        /^iotdm: warning: .*\.pem is passed over: a private key, which does not belong here$/,
      );
    }
    const result = JSON.parse(stdout) as EndorsementAssessment;
    assert.deepEqual(Object.keys(result).sort(), [
      ...[
        'chain',
        'issuer',
        'manufacturer',
        'model',
        'passedOver',
        'proved',
        'reason',
        'serialNumber',
        'verdict',
        'version',
      ],
    ]);
    assert.deepEqual([result.verdict, result.proved, result.chain.length], ['genuine', true, 3]);
    const env = { IOTDM_EK_ROOTS: `${roots}:${roots}`, IOTDM_TPM: chip.tcti };
    assert.match((await iotdm(['ek', 'verify'], { env })).stdout, /^✔ Genuine: .*\nVerdict +genuine\n/);
  });

  it('ek verify ends with exit code 9 and the whole result, unless it is to warn', async () => {
    const refused = await run('ek', 'verify', '--json');
    assert.equal(refused.code, 9);
    assert.equal((JSON.parse(refused.stdout) as EndorsementAssessment).verdict, 'untrusted');
    const { error } = JSON.parse(refused.stderr) as { error: { code: string; details: { verdict: string } } };
    assert.deepEqual([error.code, error.details.verdict], ['verify.ek', 'untrusted']);
    const warned = await run('ek', 'verify', '--policy', 'warn');
    assert.equal(warned.code, 0);
    assert.match(
      warned.stderr,
      /^iotdm: warning: the EK is not verified \(untrusted\): no root certificates/,
    );
    const silent = await run('ek', 'verify', '--policy', 'off');
    assert.deepEqual([silent.code, silent.stderr], [0, '']);
  });

  it('ek cert gives what openssl reads, and ek verify --cert takes it', async () => {
    const dir = await scratchDirectory(lifetime);
    for (const [format, file] of [
      ['pem', join(dir, 'ek.pem')],
      ['der', join(dir, 'ek.der')],
    ] as const) {
      const { code } = await run('ek', 'cert', '--format', format, '--out', file);
      assert.equal(code, 0);
      const seen = chip.tool('openssl', 'x509', '-inform', format, '-in', file, '-noout', '-issuer');
      assert.match(seen, /swtpm-localca/);
      assert.equal((await run('ek', 'verify', '--cert', file, '--roots', roots)).code, 0);
    }
    const { stdout } = await run('ek', 'cert');
    assert.match(stdout, /Model +swtpm\n/);
    assert.match(stdout, /Valid until +no expiry\n/);
    writeFileSync(join(dir, 'nothing'), 'nothing');
    const unusable = await run('ek', 'verify', '--cert', join(dir, 'nothing'));
    assert.equal(unusable.code, 2);
    assert.match(unusable.stderr, /holds no X\.509 certificate/);
  });

  it('harvest records the verdict, and with require nothing but genuine chips', async () => {
    const manifest = join(await scratchDirectory(lifetime), 'shift.ndjson');
    const harvest = (...more: string[]) =>
      run('harvest', '--manifest', manifest, '--serial', 'SN-1', '--json', ...more);
    const refused = await harvest('--verify', 'require');
    assert.deepEqual([refused.code, refused.stdout], [9, '']);
    assert.match(refused.stderr, /verify\.ek/);
    assert.ok(!existsSync(manifest));
    const dry = await harvest('--verify', 'warn', '--dry-run');
    assert.match(dry.stdout, /"ekVerdict": "untrusted"/);
    assert.match(dry.stderr, /warning/);
    assert.match((await harvest('--dry-run')).stdout, /"ekVerdict": null/);
    assert.equal((await harvest('--verify', 'require', '--roots', roots)).code, 0);
    assert.match(readFileSync(manifest, 'utf8'), /"ekVerdict":"genuine"/);
  });

  it('say what to do about a chip without a certificate', async () => {
    chip.tool('tpm2_nvundefine', '-C', 'p', '0x1c00002');
    const shown = await run('ek', 'cert', '--json');
    assert.equal(shown.code, 4);
    const { error } = JSON.parse(shown.stderr) as { error: { code: string; hint: string } };
    assert.equal(error.code, 'tpm.no-ek-certificate');
    assert.match(error.hint, /Intel and AMD/);
    const verified = await run('ek', 'verify', '--roots', roots);
    assert.equal(verified.code, 9);
    assert.match(verified.stderr, /no-certificate.*\n.*tpm2_getekcertificate/);
  });
});

describe('a blank chip', () => {
  let chip: SoftwareTpm;
  let dir: string;
  before(async () => {
    chip = await softwareTpm(lifetime, { blank: true });
    dir = await scratchDirectory(lifetime);
  });

  it('has no certificate, and proves all the same that it holds its EK', async () => {
    const assessment = await assess(chip, { prove: true });
    assert.deepEqual([assessment.verdict, assessment.proved, assessment.chain], ['no-certificate', true, []]);
  });

  it('shows a certificate that is padded, or has a TCG header', async () => {
    const vendor = await makeVendor('Vendor');
    const { modulus } = await chip.use((tpm) => tpm.readEndorsementKey());
    const der = await vendor.issueEk(rsaKeyObject(modulus));
    const header = Buffer.from('1001000000', 'hex');
    header.writeUInt16BE(der.length, 3);
    const areas = [
      der,
      Buffer.concat([der, Buffer.alloc(200)]),
      Buffer.concat([der, Buffer.alloc(700, 0xff)]),
      Buffer.concat([header, der, Buffer.alloc(10, 0xff)]),
    ];
    const trusted = trustedCertificates([vendor.der]);
    for (const area of areas) {
      writeCertificate(area);
      const assessment = await assess(chip, { trusted, now: NOW });
      assert.equal(assessment.verdict, 'genuine', assessment.reason);
      assert.equal(assessment.manufacturer, 'IFX');
      const shown = await iotdm(['ek', 'cert', '--tpm', chip.tcti, '--format', 'pem']);
      assert.deepEqual([shown.code, shown.stdout], [0, pem(der)]);
    }
    for (const area of [Buffer.alloc(1000), Buffer.alloc(1000, 0xff)]) {
      writeCertificate(area);
      assert.equal((await assess(chip, { trusted, now: NOW })).verdict, 'no-certificate');
    }
    writeCertificate(Buffer.concat([der.subarray(0, 300), randomBytes(der.length - 300)]));
    const damaged = await assess(chip, { trusted, now: NOW });
    assert.notEqual(damaged.verdict, 'genuine');
  });

  it('with a certificate that is cut short is not taken for one without', async () => {
    const vendor = await makeVendor('Vendor');
    const { modulus } = await chip.use((tpm) => tpm.readEndorsementKey());
    const der = await vendor.issueEk(rsaKeyObject(modulus));
    const trusted = trustedCertificates([vendor.der]);
    for (const area of [der.subarray(0, 200), Buffer.from('nothing that begins like one')]) {
      writeCertificate(area);
      const { verdict, reason } = await assess(chip, { trusted, now: NOW });
      assert.deepEqual([verdict, reason.split(':')[0]], ['untrusted', 'the EK certificate is damaged']);
      const shown = await iotdm(['ek', 'cert', '--tpm', chip.tcti, '--json']);
      assert.equal(shown.code, 9);
      assert.match(shown.stderr, /"verify\.ek-certificate"/);
      const raw = await iotdm(['ek', 'cert', '--tpm', chip.tcti, '--format', 'pem']);
      assert.deepEqual([raw.code, raw.stdout], [0, pem(area)]);
      // A record holds a certificate or none.
      const manifest = join(dir, `${area.length}.ndjson`);
      const harvested = await iotdm([
        ...['harvest', '--tpm', chip.tcti, '--manifest', manifest, '--verify', 'warn'],
      ]);
      assert.equal(harvested.code, 0);
      assert.match(readFileSync(manifest, 'utf8'), /"ekCertificate":null,"ekVerdict":"untrusted"/);
    }
  });

  it('is told from one in which another program keeps another EK', async () => {
    const vendor = await makeVendor('Vendor');
    const { modulus } = await chip.use((tpm) => tpm.readEndorsementKey());
    const certificate = await vendor.issueEk(rsaKeyObject(modulus));
    // The template of Azure's SDKs differs in its unique field alone.
    chip.tool(
      'tpm2_createprimary',
      ...['-C', 'e', '-G', 'rsa2048:aes128cfb', '-g', 'sha256', '-L', policyFile(dir)],
      ...['-a', 'fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt'],
      ...['-c', join(dir, 'ek.ctx')],
    );
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'ek.ctx'), '0x81010001');
    chip.tool('tpm2_flushcontext', '-t');
    const { verdict, reason } = await assess(chip, {
      trusted: trustedCertificates([vendor.der]),
      now: NOW,
      certificate,
    });
    assert.equal(verdict, 'mismatched');
    assert.match(reason, /another program keeps another EK at 0x81010001/);
  });

  function writeCertificate(area: Buffer): void {
    if (chip.handles('nv-index').includes('0x1C00002')) chip.tool('tpm2_nvundefine', '-C', 'o', '0x1c00002');
    writeFileSync(join(dir, 'area'), area);
    const attributes = 'ownerwrite|ownerread|authread|no_da';
    chip.tool('tpm2_nvdefine', '0x1c00002', '-C', 'o', '-s', String(area.length), '-a', attributes);
    chip.tool('tpm2_nvwrite', '0x1c00002', '-C', 'o', '-i', join(dir, 'area'));
  }
});

const NV_READ = 0x14e;
const NV_READ_PUBLIC = 0x169;
const READ_PUBLIC = 0x173;
const ACTIVATE_CREDENTIAL = 0x147;

/** swtpm serves one client at a time: a connection left open by a failed test would block all others. */
async function using<T>(transport: TpmTransport, task: (tpm: Tpm) => Promise<T>): Promise<T> {
  const tpm = new Tpm(transport);
  try {
    return await task(tpm);
  } finally {
    await tpm.close();
  }
}

/** Passes commands on and changes the responses to one of them. */
function altering(
  inner: TpmTransport,
  commandCode: number,
  change: (response: Buffer) => Buffer,
): TpmTransport {
  return {
    name: 'lying TPM',
    send: async (command) => {
      const response = await inner.send(command);
      return command.readUInt32BE(6) === commandCode ? change(response) : response;
    },
    close: () => inner.close(),
  };
}

/** The file format of tpm2-tools: a magic number, a version, TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET. */
const TOOLS_HEADER = Buffer.from('badcc0de00000001', 'hex');

function packCredential({ credentialBlob, encryptedSeed }: ReturnType<typeof makeCredential>): Buffer {
  const sized = (bytes: Buffer): Buffer =>
    Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 0xff]), bytes]);
  return Buffer.concat([TOOLS_HEADER, sized(credentialBlob), sized(encryptedSeed)]);
}

function unpackCredential(file: Buffer): ReturnType<typeof makeCredential> {
  assert.deepEqual(file.subarray(0, TOOLS_HEADER.length), TOOLS_HEADER);
  const blobEnd = 10 + file.readUInt16BE(8);
  return {
    credentialBlob: file.subarray(10, blobEnd),
    encryptedSeed: file.subarray(blobEnd + 2, blobEnd + 2 + file.readUInt16BE(blobEnd)),
  };
}

/** PolicySecret(TPM_RH_ENDORSEMENT) as a file. */
function policyFile(dir: string): string {
  const file = join(dir, 'policy');
  writeFileSync(file, '837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa', 'hex');
  return file;
}
