import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { parseKnobs } from '../../src/emulator/knobs.ts';
import { startConnectProxy } from '../fakes/connect-proxy.ts';
import { enroll } from '../fakes/enrolled-chip.ts';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  startIotdm,
  type EmulatedService,
  type Outcome,
  type SoftwareTpm,
} from '../lab/lab.ts';

const lifetime = lifetimeOfFile();
let chip: SoftwareTpm;
let service: EmulatedService;
let registrationId: string;
let dir: string;

before(async () => {
  [chip, service, dir] = await Promise.all([
    softwareTpm(lifetime),
    emulator(lifetime),
    scratchDirectory(lifetime),
  ]);
  registrationId = await enroll(chip, service, { deviceId: 'Press-17' });
});

const place = (at = service, { tcti } = chip): string[] => [
  ...['--tpm', tcti, '--ca', at.ca, '--state-dir', join(dir, 'state')],
  ...['--id-scope', at.idScope, '--device-host', at.deviceHost, '--hub-host', at.hubHost],
];

function register(args: readonly string[], at = service, nodeArgs: readonly string[] = []): Promise<Outcome> {
  const usual = place(at);
  // No option is given twice: what the test says comes in place of the usual one.
  const kept = usual.filter((_, index) => !args.includes(usual[index - (index % 2)] ?? ''));
  return iotdm(['device', 'register', ...kept, ...args], { nodeArgs });
}

interface Failed {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;
}

function errorIn({ stderr }: Outcome): Failed {
  return (JSON.parse(stderr.trim().split('\n').at(-1) ?? '') as { error: Failed }).error;
}

describe('iotdm device register', () => {
  it('gives the keys that scripts rely on, and says the same again', async () => {
    const outcome = await register(['--slot', '4', '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
    const { keyName, ...result } = JSON.parse(outcome.stdout) as Record<string, unknown>;
    assert.match(String(keyName), /^000b[0-9a-f]{64}$/);
    const common = {
      registrationId,
      deviceId: 'Press-17',
      assignedHub: service.hub,
      status: 'assigned',
      substatus: 'initialAssignment',
      payload: null,
      slot: 4,
      replaced: false,
    };
    assert.deepEqual(result, { ...common, alreadyRegistered: false, hubVerified: true });
    const again = await register(['--slot', '4', '--json']);
    assert.deepEqual(JSON.parse(again.stdout), {
      ...common,
      keyName,
      alreadyRegistered: true,
      hubVerified: null,
    });
    const text = await register(['--slot', '4']);
    assert.match(text.stdout, /^✔ Registered before; nothing to do\.\nRegistration id {2}[a-z2-7]{52}\n/);
    const dryRun = await register(['--slot', '4', '--dry-run', '--overwrite']);
    assert.match(dryRun.stdout, /^Would register, and write slot 4, replacing what it holds:\n/);
    const proved = await iotdm([
      'slot',
      'verify',
      '4',
      ...place().slice(0, 6),
      '--hub-host',
      service.hubHost,
    ]);
    assert.equal(proved.code, 0, proved.stdout);
  });

  it('leaves a key without a name alone, as an SDK keeps one, and says what replaces it', async () => {
    const key = Buffer.alloc(32, 7).toString('base64');
    const written = await iotdm(['slot', 'key', 'write', '3', '--key-file', '-', ...place().slice(0, 6)], {
      stdin: key,
    });
    assert.equal(written.code, 0, written.stderr);
    const refused = await register(['--slot', '3', '--json']);
    assert.equal(refused.code, 4);
    assert.equal(errorIn(refused).code, 'tpm.slot-incomplete');
    assert.equal(errorIn(refused).hint, 'pass --overwrite to replace it with what DPS gives to this device');
    const replaced = await register(['--slot', '3', '--json', '--overwrite']);
    assert.equal(replaced.code, 0, replaced.stderr);
  });

  it('warns of an ID scope that is of another cloud than the host', async () => {
    const args = ['device', 'register', '--id-scope', '0cn0000990D', '--tpm', 'swtpm:host=127.0.0.1,port=1'];
    const warned = await iotdm(args);
    assert.equal(warned.code, 3);
    assert.match(
      warned.stderr,
      /warning: the ID scope 0cn0000990D is one of Azure in China, .* pass --device-host global\.azure-devices-provisioning\.cn/,
    );
  });

  it('with the hub out of reach warns, unless it is to be asked', async () => {
    const there = ['--hub-host', '127.0.0.1:1'];
    const warned = await register(['--slot', '5', '--json', ...there]);
    assert.equal(warned.code, 0, warned.stderr);
    assert.equal((JSON.parse(warned.stdout) as { hubVerified: boolean }).hubVerified, false);
    assert.match(
      warned.stderr,
      /warning: the hub was not asked whether it accepts the identity: 127\.0\.0\.1:1/,
    );
    const required = await register(['--slot', '6', '--json', '--verify-hub', ...there]);
    assert.equal(required.code, 7);
    assert.equal(
      (await iotdm(['slot', 'show', '6', '--json', '--tpm', chip.tcti])).stdout.includes('"empty"'),
      true,
    );
    const unasked = await register(['--slot', '6', '--json', '--no-verify-hub', ...there]);
    assert.equal((JSON.parse(unasked.stdout) as { hubVerified: null }).hubVerified, null);
    assert.equal(unasked.stderr, '');
  });

  it('says of each refusal what mends it', async () => {
    const failures: readonly (readonly [
      args: readonly string[],
      code: number,
      error: string,
      hint: RegExp,
    ])[] = [
      [['--registration-id', 'unknown'], 6, 'service.not-found', /iotdm enrollment create/],
      [['--id-scope', '0neWRONG'], 6, 'service.not-found', /0neWRONG is the ID scope/],
      [
        ['--registration-id', 'disabled'],
        6,
        'service.not-assigned',
        /iotdm enrollment update disabled --provisioning-status enabled/,
      ],
      [['--device-host', '127.0.0.1:1'], 7, 'network.unreachable', /check host and port in --device-host/],
      [['--id-scope', '../x'], 2, 'usage.invalid', /device register --help/],
      [['--registration-id', 'a b'], 2, 'usage.invalid', /--help/],
      [['--deadline', '0'], 2, 'usage.invalid', /--help/],
      [['--payload', '[1]'], 2, 'input.unreadable', /./],
      [['--payload', '{"a"'], 2, 'input.invalid', /--payload FILE/],
      [['--slot', '10'], 2, 'usage.invalid', /--help/],
    ];
    await enroll(chip, service, { registrationId: 'disabled', provisioningStatus: 'disabled' });
    for (const [args, code, error, hint] of failures) {
      const outcome = await register(['--slot', '7', '--json', ...args]);
      assert.equal(outcome.code, code, `${args.join(' ')}: ${outcome.stderr}`);
      assert.equal(errorIn(outcome).code, error);
      assert.match(errorIn(outcome).hint, hint);
    }
    const unset = await iotdm(['device', 'register', '--tpm', chip.tcti, '--json']);
    assert.match(errorIn(unset).hint, /--id-scope SCOPE or set IOTDM_ID_SCOPE/);
    assert.equal((await register(['--slot', '7'])).code, 0, 'the slot is still empty');
  });

  it('with another EK than the enrolled one names what to compare', async (t) => {
    const other = await softwareTpm(t, { blank: true });
    const outcome = await register(['--tpm', other.tcti, '--registration-id', registrationId, '--json']);
    assert.equal(outcome.code, 6);
    assert.equal(errorIn(outcome).details['errorCode'], 400004);
    assert.match(errorIn(outcome).hint, /compare iotdm ek read .* with iotdm enrollment show/);
  });

  it('with a clock that is off by a day says so', async () => {
    for (const [days, says] of [
      [-1, /1 day behind/],
      [1, /1 day ahead/],
    ] as const) {
      const shift = `const now = Date.now; Date.now = () => now() + ${days * 86_400_000};`;
      const outcome = await register(['--slot', '8', '--json'], service, [
        '--import',
        `data:text/javascript,${encodeURIComponent(shift)}`,
      ]);
      assert.match(outcome.stderr, /warning: the clock of this machine/);
      if (days > 0) {
        // Tokens that are good for longer than they should be are taken.
        assert.equal(outcome.code, 0, outcome.stderr);
        continue;
      }
      assert.equal(outcome.code, 5, outcome.stderr);
      assert.equal(errorIn(outcome).code, 'auth.clock');
      assert.match(errorIn(outcome).message, says);
      assert.match(errorIn(outcome).hint, /set the clock .*timedatectl/);
    }
  });

  it('heeds the deadline, while the service throttles and while it assigns', async (t) => {
    const throttling = await emulator(
      t,
      parseKnobs({ fault: ['429,path=/*/registrations/*/register,retry-after=1'] }),
    );
    await enroll(chip, throttling);
    const throttled = await register(['--slot', '9', '--json', '--deadline', '1.5'], throttling);
    assert.deepEqual([throttled.code, errorIn(throttled).code], [7, 'network.throttled'], throttled.stderr);
    const slow = await emulator(t, parseKnobs({ assignDelay: '60000' }));
    await enroll(chip, slow);
    const late = await register(['--slot', '9', '--json', '--deadline', '1.5'], slow);
    assert.deepEqual([late.code, errorIn(late).code], [7, 'network.timeout'], late.stderr);
    assert.match(errorIn(late).hint, /--deadline/);
    assert.equal(chip.handles('transient') + chip.handles('loaded-session'), '');
  });

  it('goes through a proxy, to DPS and to the hub', async (t) => {
    const proxy = await startConnectProxy();
    t.after(() => proxy.close());
    const through = ['--proxy', `http://127.0.0.1:${proxy.port}`];
    const outcome = await register(['--slot', '1', '--json', ...through]);
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.equal((JSON.parse(outcome.stdout) as { hubVerified: boolean }).hubVerified, true);
    assert.deepEqual([...new Set(proxy.tunnels)], [service.deviceHost, service.hubHost]);
    proxy.answer = 'HTTP/1.1 403 Forbidden\r\n\r\n';
    const refused = await register(['--slot', '2', '--json', ...through]);
    assert.deepEqual([refused.code, errorIn(refused).code], [7, 'network.proxy']);
  });

  it('that is interrupted while it waits ends at once, and leaves nothing loaded', async (t) => {
    // Its EK is derived, and held while DPS takes its time.
    const other = await softwareTpm(t, { blank: true });
    const slow = await emulator(t, parseKnobs({ assignDelay: '60000' }));
    await enroll(other, slow);
    const running = startIotdm(['device', 'register', ...place(slow, other), '-vv']);
    await running.says(' 202 ');
    running.kill('SIGINT');
    const { code, stderr } = await running.outcome;
    assert.equal(code, 130, stderr);
    assert.equal(other.handles('transient') + other.handles('loaded-session'), '');
    const shown = await iotdm(['slot', 'show', '0', '--json', '--tpm', other.tcti]);
    assert.match(shown.stdout, /"empty"/);
  });
});

describe('iotdm module provision', () => {
  const provision = (chip: SoftwareTpm, args: readonly string[]): Promise<Outcome> =>
    iotdm(['module', 'provision', ...place(service, chip), ...args]);

  it("does what the Device Agent's configuration says: registers, then provisions, and says the same again", async (t) => {
    const other = await softwareTpm(t, { blank: true });
    await enroll(other, service, { deviceId: 'Press-18' });
    const config = join(dir, 'agent.json');
    writeFileSync(
      config,
      JSON.stringify({
        dpsUri: service.deviceHost,
        dpsScopeId: service.idScope,
        deviceSlotNumber: 0,
        dmModuleSlotNumber: 1,
        dmModuleId: 'dmModule',
        otherModuleIds: { AppB: 2 },
      }),
    );
    const args = ['--agent-config', config, '--json'];
    const preview = await provision(other, [...args, '--dry-run']);
    assert.equal(preview.code, 0, preview.stderr);
    assert.equal((JSON.parse(preview.stdout) as { dryRun: boolean }).dryRun, true);
    assert.equal(other.handles('persistent'), '');
    const first = await provision(other, args);
    assert.equal(first.code, 0, first.stderr);
    const { registration, modules, ...rest } = JSON.parse(first.stdout) as {
      registration: { deviceId: string; alreadyRegistered: boolean };
      modules: { keyName: string }[];
    };
    assert.deepEqual([registration.deviceId, registration.alreadyRegistered], ['Press-18', false]);
    assert.deepEqual(
      modules.map(({ keyName, ...module }) => ({ ...module, keyName: keyName.slice(0, 4) })),
      [
        { moduleId: 'dmModule', slot: 1, status: 'written', created: true, keyName: '000b' },
        { moduleId: 'AppB', slot: 2, status: 'written', created: true, keyName: '000b' },
      ],
    );
    assert.deepEqual(rest, { deviceId: 'Press-18', hostName: service.hub, deviceSlot: 0, failed: 0 });
    const again = await provision(other, ['--agent-config', config]);
    assert.equal(again.code, 0, again.stderr);
    assert.match(
      again.stdout,
      /^✔ 2 modules of Press-18 on .* provisioned\.\n {2}dmModule {2}slot 1 {2}unchanged\n/,
    );
  });

  it('with a module that fails says which, and keeps the others', async (t) => {
    const other = await softwareTpm(t, { blank: true });
    await enroll(other, service);
    const registered = await register(['--tpm', other.tcti]);
    assert.equal(registered.code, 0, registered.stderr);
    const string = `HostName=plant.azure-devices.net;DeviceId=x;SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`;
    const write = ['slot', 'write', '2', '--connection-string-file', '-', '--tpm', other.tcti];
    assert.equal((await iotdm(write, { stdin: string })).code, 0);
    const args = ['--module', 'A=1', '--module', 'B=2', '--module', 'C=3'];
    const outcome = await provision(other, [...args, '--json']);
    assert.equal(outcome.code, 8, outcome.stderr);
    const { modules, failed } = JSON.parse(outcome.stdout) as {
      modules: { status: string; code?: string; hint?: string }[];
      failed: number;
    };
    assert.equal(failed, 1);
    assert.deepEqual(
      modules.map(({ status, code }) => [status, code]),
      [
        ['written', undefined],
        ['failed', 'tpm.slot-not-empty'],
        ['written', undefined],
      ],
    );
    assert.match(modules[1]?.hint ?? '', /--overwrite/);
    assert.equal(errorIn(outcome).code, 'partial.rows-failed');
    const text = await provision(other, args);
    assert.match(
      text.stderr,
      / {2}B {2}slot 2 {2}failed: slot 2 is not empty: it holds plant.*; pass --overwrite/,
    );
    assert.match(text.stderr, /iotdm: error: 1 of 3 modules failed\n/);
    const mended = await provision(other, [...args, '--overwrite']);
    assert.equal(mended.code, 0, mended.stderr);
  });

  it('without a device, or with slots that cannot be, says what to do', async () => {
    for (const [args, code, hint] of [
      [[], 2, /--module ID=SLOT/],
      [['--module', 'A'], 2, /expected ID=SLOT/],
      [['--module', 'A=0'], 2, /--help/],
      [['--module', 'A=1', '--module', 'A=2'], 2, /--help/],
      [['--module', 'A=1', '--device-slot', '0'], 4, /iotdm device register --slot 0/],
      [['--agent-config', join(dir, 'absent.json')], 2, /./],
    ] as const) {
      const outcome = await provision(chip, [...args, '--json']);
      assert.equal(outcome.code, code, outcome.stderr);
      assert.match(errorIn(outcome).hint, hint);
    }
  });
});
