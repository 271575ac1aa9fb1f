import assert from 'node:assert/strict';
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { parseManifestLine } from '../../src/records/manifest.ts';
import { iotdm, scratchDirectory, softwareTpm, type SoftwareTpm } from '../lab/lab.ts';

/** Starts chips with nothing in them, a few at a time. */
async function rack(t: TestContext, count: number): Promise<SoftwareTpm[]> {
  const chips: SoftwareTpm[] = [];
  const start = async (): Promise<void> => {
    for (let begun = next(); begun < count; begun = next())
      chips[begun] = await softwareTpm(t, { blank: true });
  };
  let number = -1;
  const next = (): number => (number += 1);
  await Promise.all([start(), start(), start(), start()]);
  return chips;
}

/** A listener that takes connections and never says a word. */
async function silentTpm(t: TestContext): Promise<string> {
  const server: Server = createServer((socket) => {
    socket.on('error', () => undefined);
    t.after(() => {
      socket.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
  });
  const address = server.address();
  return `swtpm:host=127.0.0.1,port=${typeof address === 'object' ? String(address?.port) : ''}`;
}

const row = (tpm: string, serial: string): string => `"${tpm}",${serial},rev-c\n`;
const HEADER = 'tpm,serialNumber,tags.board\n';

interface Summary {
  readonly total: number;
  readonly recorded: number;
  readonly repeated: number;
  readonly failed: number;
  readonly failures: readonly {
    line: number;
    tpm: string;
    serialNumber: string;
    code: string;
    message: string;
  }[];
  readonly elapsedMs: number;
  readonly manifest: string;
}

function summaryOf(stdout: string): Summary {
  return JSON.parse(stdout) as Summary;
}

describe('harvest --targets', () => {
  let dir: string;
  let file: string;
  let manifest: string;
  const fresh = async (t: TestContext, name: string): Promise<void> => {
    dir = await scratchDirectory(t);
    file = join(dir, `${name}.csv`);
    manifest = join(dir, `${name}.ndjson`);
  };

  it('records thirty-two chips past one that is not there and one that never answers', async (t) => {
    await fresh(t, 'rack');
    const [chips, silent] = await Promise.all([rack(t, 32), silentTpm(t)]);
    const rows = chips.map(({ tcti }, index) => row(tcti, `SN-${index}`));
    rows.splice(3, 0, row('swtpm:host=127.0.0.1,port=1', 'SN-absent'), row(silent, 'SN-silent'));
    writeFileSync(file, HEADER + rows.join(''));
    const args = ['harvest', '--targets', file, '--manifest', manifest, '--station', 'EOL-3', '--json'];

    const first = await iotdm([...args, '--timeout', '8', '--concurrency', '6']);
    assert.equal(first.code, 8, first.stderr);
    const { failures, elapsedMs, ...counts } = summaryOf(first.stdout);
    assert.deepEqual(counts, { total: 34, recorded: 32, repeated: 0, failed: 2, manifest });
    assert(Number.isInteger(elapsedMs));
    assert.deepEqual(
      failures.map(({ line, serialNumber, code }) => [line, serialNumber, code]),
      [
        [5, 'SN-absent', 'tpm-unavailable.connection'],
        [6, 'SN-silent', 'tpm-unavailable.timeout'],
      ],
    );
    assert.equal(failures[1]?.tpm, silent);
    const progress = first.stderr.trimEnd().split('\n');
    const error = JSON.parse(progress.pop() ?? '') as { error: { code: string; details: object } };
    assert.equal(error.error.code, 'partial.rows-failed');
    assert.deepEqual(error.error.details, { total: 34, recorded: 32, repeated: 0, failed: 2 });
    assert.deepEqual(
      progress.map((line) => /^iotdm: (\d+)\/34 SN-\w+: (recorded, line \d+$|failed: )/.exec(line)?.[1]),
      Array.from({ length: 34 }, (_, index) => String(index + 1)),
    );

    const records = readFileSync(manifest, 'utf8').trimEnd().split('\n').map(parseManifestLine);
    assert.equal(new Set(records.map((record) => record?.endorsementKey)).size, 32);
    assert.equal(new Set(records.map((record) => record?.serialNumber)).size, 32);
    for (const record of records) {
      assert.deepEqual([record?.station, record?.tags], ['EOL-3', { board: 'rev-c' }]);
      assert.deepEqual(record?.tpmCommands, [
        ...['ReadPublic', 'CreatePrimary', 'FlushContext'],
        ...['GetCapability', 'NV_ReadPublic'],
      ]);
    }
    assert.equal((await iotdm(['manifest', 'verify', manifest])).code, 0);
    for (const chip of [chips[0], chips[31]]) {
      assert.equal(`${chip?.handles('persistent') ?? ''}${chip?.handles('transient') ?? ''}`, '');
    }

    writeFileSync(file, HEADER + rows.slice(0, 3).join(''));
    const lines = readFileSync(manifest, 'utf8');
    const second = await iotdm(['harvest', '--targets', file, '--manifest', manifest]);
    assert.equal(second.code, 0, second.stderr);
    assert.match(
      second.stdout,
      /^✔ 3 devices harvested\.\nRecorded {2}0\nEarlier {3}3 \(recorded before; nothing to do\)\n/,
    );
    assert.equal(readFileSync(manifest, 'utf8'), lines);
  });

  it('waits for more than ten at once without a warning of Node.js', async (t) => {
    await fresh(t, 'many');
    const silent = await Promise.all(Array.from({ length: 12 }, () => silentTpm(t)));
    writeFileSync(file, HEADER + silent.map((tpm, index) => row(tpm, `SN-${index}`)).join(''));
    const args = ['harvest', '--targets', file, '--manifest', manifest, '--timeout', '1'];
    const { code, stderr } = await iotdm([...args, '--concurrency', '12']);
    assert.equal(code, 8);
    assert.match(stderr, /12 of 12 devices failed/);
    assert.doesNotMatch(stderr, /Warning/);
  });

  it('takes a chip under a wrong label for a failed row, and the next ones all the same', async (t) => {
    await fresh(t, 'labels');
    const [one, two] = await rack(t, 2);
    const args = ['harvest', '--targets', file, '--manifest', manifest];
    writeFileSync(
      file,
      HEADER + row(one?.tcti ?? '', 'SN-1') + row(`cmd:tpm2_send -T ${two?.tcti ?? ''}`, 'SN-2'),
    );
    chmodSync(file, 0o622);
    const first = await iotdm([...args, '--concurrency', '1']);
    assert.equal(first.code, 0, first.stderr);
    assert.match(
      first.stderr,
      /^iotdm: warning: other users can write .*labels\.csv, and its cmd: targets run commands/,
    );
    assert.equal(statSync(manifest).mode & 0o777, 0o600);
    writeFileSync(file, HEADER + row(one?.tcti ?? '', 'SN-2') + row(two?.tcti ?? '', 'SN-2b'));
    const swapped = await iotdm(['harvest', '--targets', '-', '--manifest', manifest], {
      stdin: readFileSync(file),
    });
    assert.equal(swapped.code, 8);
    assert.equal(swapped.stdout, '');
    assert.match(
      swapped.stderr,
      /^line 2: SN-2: this TPM is already recorded with the serial number "SN-1"/m,
    );
    assert.match(
      swapped.stderr,
      /^line 3: SN-2b: this TPM is already recorded with the serial number "SN-2"/m,
    );
    assert.match(swapped.stderr, /^iotdm: error: 2 of 2 devices failed; 0 recorded, 0 recorded earlier$/m);
  });

  it('ends at once where the manifest is some other file', async (t) => {
    await fresh(t, 'other');
    const [chip] = await rack(t, 1);
    writeFileSync(manifest, 'a letter\n');
    writeFileSync(file, HEADER + row(chip?.tcti ?? '', 'SN-1') + row('swtpm:host=127.0.0.1,port=1', 'SN-2'));
    const { code, stdout, stderr } = await iotdm([
      'harvest',
      '--targets',
      file,
      '--manifest',
      manifest,
      '--concurrency',
      '1',
    ]);
    assert.equal(code, 9);
    assert.equal(stdout, '');
    assert.match(stderr, /^iotdm: error: .*other\.ndjson:1: this line is not a manifest record$/m);
    assert.equal(readFileSync(manifest, 'utf8'), 'a letter\n');
  });

  it('checks every row before it touches a TPM or the manifest', async (t) => {
    await fresh(t, 'faulty');
    const witness = join(dir, 'witness');
    const command = `cmd:touch ${witness}`;
    writeFileSync(file, HEADER + row(command, 'SN-1') + row('usb:1', 'SN-1'));
    for (const flags of [[], ['--dry-run']]) {
      const { code, stdout, stderr } = await iotdm([
        'harvest',
        '--targets',
        file,
        '--manifest',
        manifest,
        ...flags,
      ]);
      assert.deepEqual([code, stdout], [2, '']);
      assert.match(stderr, /faulty\.csv:3:1: tpm: "usb:1" does not name a TPM/);
      assert.match(stderr, /faulty\.csv:3:9: serialNumber: "SN-1" stands in line 2 already/);
    }
    writeFileSync(file, HEADER + row(command, 'SN-1'));
    const dry = await iotdm(['harvest', '--targets', file, '--manifest', manifest, '--dry-run', '--json']);
    assert.deepEqual(JSON.parse(dry.stdout), { total: 1, manifest, dryRun: true });
    for (const path of [witness, manifest]) assert.throws(() => statSync(path), { code: 'ENOENT' });
  });

  it('refuses options that name a single device, and takes no notice of a TPM in the environment', async (t) => {
    await fresh(t, 'options');
    writeFileSync(file, HEADER + row('swtpm:path=/nonexistent', 'SN-1'));
    const args = ['harvest', '--targets', file, '--manifest', manifest];
    const cases = [
      ['--tpm', 'swtpm:port=1'],
      ['--serial', 'SN-1'],
      ['--device-id', 'press-1'],
      ['--concurrency', '0'],
      ['--concurrency', '65'],
    ];
    for (const flags of cases) {
      const { code, stderr } = await iotdm([...args, ...flags]);
      assert.equal(code, 2, flags.join(' '));
      assert.match(stderr, new RegExp(flags[0] ?? ''));
    }
    const { code, stderr } = await iotdm(args, { env: { IOTDM_TPM: 'swtpm:port=1' } });
    assert.equal(code, 8);
    assert.match(stderr, /^iotdm: 1\/1 SN-1: failed: cannot connect to a TPM at \/nonexistent \(ENOENT\)$/m);
  });
});
