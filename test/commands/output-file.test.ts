import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { printWhole, writeOutputFile } from '../../commands/shared/output-file.ts';
import type { Context } from '../../commands/shared/context.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { scratchDirectory } from '../lab/lab.ts';
import { failing } from './failing.ts';

describe('an output file', () => {
  let dir: string;
  let path: string;
  const fresh = async (t: TestContext): Promise<void> => {
    dir = await scratchDirectory(t);
    path = join(dir, 'out');
  };

  /** Lines that are made while the file is written: a process that is killed meanwhile leaves what is there then. */
  // eslint-disable-next-line @typescript-eslint/require-await -- a stream, as the merged manifest is one
  async function* lines(look: () => void): AsyncGenerator<string> {
    yield 'one\n';
    look();
    yield 'two\n';
  }

  it('is not there before it is whole, and is for its owner only', async (t) => {
    await fresh(t);
    await writeOutputFile(
      path,
      lines(() => {
        assert.ok(!existsSync(path));
      }),
    );
    assert.equal(readFileSync(path, 'utf8'), 'one\ntwo\n');
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(dir), ['out']);
  });

  it('is not written over one that is there, or comes meanwhile', async (t) => {
    await fresh(t);
    writeFileSync(path, 'mine');
    const asked = lines(() => assert.fail('nothing is made for a file that cannot be written'));
    await assert.rejects(writeOutputFile(path, asked), { code: 'usage.output-exists' });
    const later = join(dir, 'later');
    const meanwhile = lines(() => {
      writeFileSync(later, 'mine too');
    });
    await assert.rejects(writeOutputFile(later, meanwhile), { code: 'usage.output-exists' });
    const link = join(dir, 'link');
    symlinkSync('nowhere', link);
    await assert.rejects(writeOutputFile(link, 'x'), { code: 'usage.output-exists' });
    assert.deepEqual([readFileSync(path, 'utf8'), readFileSync(later, 'utf8')], ['mine', 'mine too']);
    assert.deepEqual(readdirSync(dir).sort(), ['later', 'link', 'out']);
  });

  it('leaves no draft where making it fails, and what was there when it was to be replaced', async (t) => {
    await fresh(t);
    const broken = (): AsyncGenerator<string> =>
      lines(() => {
        throw new Error('no more');
      });
    await assert.rejects(writeOutputFile(path, broken()), /no more/);
    assert.deepEqual(readdirSync(dir), []);
    writeFileSync(path, 'mine');
    await assert.rejects(writeOutputFile(path, broken(), { overwrite: true }), /no more/);
    assert.equal(readFileSync(path, 'utf8'), 'mine');
    await writeOutputFile(path, 'new', { overwrite: true });
    assert.equal(readFileSync(path, 'utf8'), 'new');
    assert.deepEqual(readdirSync(dir), ['out']);
  });

  it('is never put in the place of a pipe or a device', async (t) => {
    await fresh(t);
    execFileSync('mkfifo', [path]);
    await assert.rejects(writeOutputFile(path, 'new', { overwrite: true }), {
      code: 'usage.output-unwritable',
      message: `cannot write ${path}: it is there, and is no file`,
    });
    assert.equal(lstatSync(path).isFIFO(), true, 'it is what it was');
    assert.deepEqual(readdirSync(dir), ['out'], 'no draft stays beside it');
  });
});

describe('what is printed as a whole', () => {
  const printed: Buffer[] = [];
  const context = {
    hasNoReader: false,
    print: (piece: Buffer) => Promise.resolve(printed.push(Buffer.from(piece))),
  } as unknown as Context;

  it('is all there, in its order, or not begun', async () => {
    // eslint-disable-next-line @typescript-eslint/require-await -- a stream, as an export is one
    async function* pieces(failure?: Error): AsyncGenerator<string> {
      for (let line = 0; line < 20_000; line += 1) yield `line ${line} ü\n`;
      if (failure !== undefined) throw failure;
    }
    await assert.rejects(printWhole(context, pieces(new Error('the input has changed'))), /has changed/);
    assert.equal(printed.length, 0);
    await printWhole(context, pieces());
    const text = Buffer.concat(printed).toString('utf8');
    assert.equal(text, Array.from({ length: 20_000 }, (_, line) => `line ${line} ü\n`).join(''));
  });

  it('is a script that cannot be run by half: an export that fails midway has printed nothing', async (t) => {
    const dir = await scratchDirectory(t);
    const path = join(dir, 'rows.json');
    const rows = [true, true, false].map((updateHubAssignment, n) => ({
      registrationId: `row-${n}`,
      attestation: { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(n) } },
      reprovisionPolicy: { updateHubAssignment, migrateDeviceData: true },
    }));
    writeFileSync(path, JSON.stringify(rows));
    const shown = await failing(['enrollment', 'export', path, '--format', 'az']);
    assert.deepEqual([shown.exitCode, shown.code], [2, 'usage.unsupported']);
    assert.match(shown.hint, /--format dps-json/);
    assert.doesNotMatch(shown.hint, /tpmrm0/);
  });
});
