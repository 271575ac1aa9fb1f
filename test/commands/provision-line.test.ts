/** Many devices: racks, loops, and what happens to a line whose process is ended. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { before, describe, it, type TestContext } from 'node:test';
import {
  emulator,
  iotdm,
  lifetimeOfFile,
  softwareTpm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';
import { workplace, type Workplace } from '../lab/workplace.ts';

const lifetime = lifetimeOfFile();
let service: EmulatedService;

before(async () => {
  service = await emulator(lifetime);
});

interface Device {
  readonly registrationId: string | null;
  readonly deviceId: string | null;
  readonly assignedHub: string | null;
  readonly serialNumber: string | null;
  readonly passed: boolean;
  readonly steps: readonly { readonly step: string; readonly status: string }[];
  readonly error?: { readonly code: string; readonly message: string; readonly hint: string };
}

function ndjson(text: string): Device[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Device);
}

const RACK = 20;

describe('a rack', () => {
  it(`of ${RACK} devices at once: the service, the manifest, the record and the slots agree`, async (t) => {
    const chips = await Promise.all(Array.from({ length: RACK }, () => softwareTpm(t)));
    const place = await workplace(t, service, undefined, { station: 'EOL-3', modules: { AppB: 2 } });
    const rows = chips.map((chip, index) => `"${chip.tcti}",SN-${index},press-${index}`);
    writeFileSync(place.path('rack.csv'), ['tpm,serialNumber,deviceId', ...rows].join('\n'));
    const args = ['--targets', 'rack.csv', '--concurrency', '8', '--json'];
    const { code, stdout, stderr } = await place.provision(args);
    assert.equal(code, 0, stderr);
    const result = JSON.parse(stdout) as { total: number; passed: number; failed: number; devices: Device[] };
    assert.deepEqual([result.total, result.passed, result.failed], [RACK, RACK, 0]);
    const [manifest, record] = [place.lines(place.manifest), place.lines(place.record)];
    assert.equal(manifest.length, RACK);
    assert.equal(record.length, RACK);
    assert.equal((await iotdm(['manifest', 'verify', place.manifest], { cwd: place.dir })).code, 0);
    const enrollments = await iotdm(['enrollment', 'list', '--json'], { cwd: place.dir });
    const stored = JSON.parse(enrollments.stdout) as { registrationId: string; deviceId: string }[];
    for (const [index, device] of result.devices.entries()) {
      assert.equal(device.serialNumber, `SN-${index}`);
      const { registrationId } = device;
      const harvested = manifest.find((line) => line['registrationId'] === registrationId);
      const recorded = record.find((line) => line['registrationId'] === registrationId);
      const enrolled = stored.find((enrollment) => enrollment.registrationId === registrationId);
      assert.equal(harvested?.['serialNumber'], `SN-${index}`);
      assert.deepEqual([recorded?.['serialNumber'], recorded?.['result']], [`SN-${index}`, 'pass']);
      assert.equal(enrolled?.deviceId, `press-${index}`);
      const chip = chips[index];
      await chip?.use(async (tpm) => {
        const uri = await tpm.nvRead(0x01400100, `${service.hub}/press-${index}`.length);
        assert.equal(uri.toString(), `${service.hub}/press-${index}`);
        assert.equal((await tpm.readPublic(0x81000100))?.name.toString('hex'), recorded?.['keyName']);
        assert.deepEqual(await tpm.handles(0x80000000, 8), []);
      });
    }
    // With one device broken the others are not held up, and the next run does what is left.
    writeFileSync(
      place.path('rack.csv'),
      ['tpm,serialNumber,deviceId', ...rows.slice(0, 3), '"swtpm:host=127.0.0.1,port=1",SN-99,press-99'].join(
        '\n',
      ),
    );
    const broken = await place.provision(args);
    assert.equal(broken.code, 8, broken.stderr);
    const { devices } = JSON.parse(broken.stdout) as { devices: Device[] };
    assert.deepEqual(
      devices.map(({ passed, error }) => error?.code ?? passed),
      [true, true, true, 'tpm-unavailable.connection'],
    );
  });
});

async function bench(t: TestContext): Promise<{ chip: SoftwareTpm; place: Workplace }> {
  const chip = await softwareTpm(t);
  return { chip, place: await workplace(t, service, chip.tcti) };
}

describe('--loop', () => {
  it('takes a device a barcode, and says of each what came of it', async (t) => {
    const { chip, place } = await bench(t);
    const barcodes = [
      'SN-1',
      '',
      '\u001b[31mSN-2',
      'x'.repeat(300),
      'y'.repeat(5000),
      Buffer.from([0x53, 0xff, 0xfe]),
      '  SN-1\t',
      'SN-2',
      'SN-1',
    ];
    const stdin = Buffer.concat(
      barcodes.flatMap((barcode) => [Buffer.from(barcode as string), Buffer.from('\r\n')]),
    );
    const { code, stdout, stderr } = await place.provision(['--loop', '--json'], { stdin });
    assert.equal(code, 8, stderr);
    const devices = ndjson(stdout);
    assert.deepEqual(
      devices.map(({ serialNumber, error }) => [serialNumber, error?.code ?? 'pass']),
      [
        ['SN-1', 'pass'],
        [null, 'input.barcode'],
        [null, 'input.barcode'],
        [null, 'input.barcode'],
        [null, 'input.barcode'],
        ['SN-1', 'pass'],
        // Whoever forgets to change the device is told so.
        ['SN-2', 'verify.identity-conflict'],
        ['SN-1', 'pass'],
      ],
    );
    assert.ok(!(stdout + stderr).includes('\u001b'));
    assert.match(devices.find(({ serialNumber }) => serialNumber === 'SN-2')?.error?.message ?? '', /SN-1/);
    assert.deepEqual(
      place.lines(place.manifest).map((line) => line['serialNumber']),
      ['SN-1'],
    );
    assert.match(stderr, /"partial.rows-failed"/);
    assert.equal(chip.handles('transient'), '');
  });

  it('opens the TPM anew for each device: one that is swapped meanwhile is the next one', async (t) => {
    const first = await softwareTpm(t);
    const second = await softwareTpm(t);
    const place = await workplace(t, service, undefined);
    // The socket of the test station: which chip is behind it is up to who plugs it in.
    const plug = (chip: SoftwareTpm): void => {
      const [, port = ''] = /port=([0-9]+)/.exec(chip.tcti) ?? [];
      writeFileSync(place.path('port'), port, { mode: 0o600 });
    };
    plug(first);
    const send = `cmd:TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=$(cat ${place.path('port')}) tpm2_send`;
    const running = place.startProvision(['--loop', '--json', '--skip', 'check'], {
      stdin: null,
      env: { IOTDM_TPM: send },
    });
    await running.says('ready');
    running.stdin.write('SN-1\n');
    await running.saysTimes('ready', 2);
    plug(second);
    running.stdin.write('SN-2\n');
    await running.saysTimes('ready', 3);
    running.stdin.end();
    const { code, stdout, stderr } = await running.outcome;
    assert.equal(code, 0, stderr);
    const devices = ndjson(stdout);
    assert.deepEqual(
      devices.map(({ serialNumber, passed }) => [serialNumber, passed]),
      [
        ['SN-1', true],
        ['SN-2', true],
      ],
    );
    assert.notEqual(devices[0]?.registrationId, devices[1]?.registrationId);
  });

  it('one barcode on stdin, without a loop', async (t) => {
    const { place } = await bench(t);
    const outcome = await place.provision(['--serial', '-', '--json'], { stdin: '\n SN-7 \nSN-8\n' });
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.equal((JSON.parse(outcome.stdout) as Device).serialNumber, 'SN-7');
    for (const stdin of ['', '\u0007\n']) {
      const refused = await place.provision(['--serial', '-', '--json'], { stdin });
      assert.equal(refused.code, 2);
      assert.match(refused.stderr, /"input.barcode"/);
    }
  });
});

describe('a process that is ended', () => {
  it('by Ctrl-C: exit code 130, what was done is on stdout, and the next run completes', async (t) => {
    const slow = await emulator(t, { latency: { minMs: 300, maxMs: 300 } });
    const chip = await softwareTpm(t);
    const place = await workplace(t, slow, chip.tcti);
    const running = place.startProvision(['--serial', 'SN-1', '--json', '-v']);
    await running.says('enroll:');
    running.kill('SIGINT');
    const { code, stdout, stderr } = await running.outcome;
    assert.equal(code, 130, stderr);
    const steps = (JSON.parse(stdout) as Device).steps.map(({ step, status }) => `${step} ${status}`);
    assert.deepEqual(steps, [
      'check unchanged',
      'harvest done',
      'enroll done',
      'register failed',
      'record done',
    ]);
    assert.equal(chip.handles('transient'), '');
    assert.equal(chip.handles('loaded-session'), '');
    const again = await place.provision(['--serial', 'SN-1', '--json']);
    assert.equal(again.code, 0, again.stderr);
  });

  it('by kill -9 at any moment: the next run completes', async (t) => {
    const { chip, place } = await bench(t);
    place.configure({ modules: { AppB: 2 } });
    const began = performance.now();
    assert.equal((await place.provision(['--serial', 'SN-1'])).code, 0);
    const wholeMs = performance.now() - began;
    for (let round = 1; round <= 6; round += 1) {
      for (const slot of ['2', '0']) {
        await iotdm(['slot', 'clear', slot, '--yes', '--force', '--tpm', chip.tcti], { cwd: place.dir });
      }
      const running = place.startProvision(['--serial', 'SN-1']);
      const timer = setTimeout(
        () => {
          running.kill('SIGKILL');
        },
        wholeMs * (0.3 + 0.1 * round),
      );
      await running.outcome;
      clearTimeout(timer);
      // As a resource manager does when its client is gone.
      for (const kind of ['-t', '-l', '-s']) chip.tool('tpm2_flushcontext', kind);
      const again = await place.provision(['--serial', 'SN-1', '--json']);
      assert.equal(again.code, 0, `round ${round}: ${again.stderr}`);
      const verified = await iotdm(['slot', 'verify', '0', '--hub', '--tpm', chip.tcti], { cwd: place.dir });
      assert.equal(verified.code, 0, verified.stderr);
      assert.equal(chip.handles('transient'), '');
    }
  });
});
