import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { writeOutputFile } from '../../commands/shared/output-file.ts';
import { scratchDirectory } from '../lab/lab.ts';

describe('writing over what is there', () => {
  it('replaces a file', async (t) => {
    const file = join(await scratchDirectory(t), 'out');
    writeFileSync(file, 'old');
    await writeOutputFile(file, 'new', { overwrite: true });
    assert.equal(readFileSync(file, 'utf8'), 'new');
    assert.equal(lstatSync(file).mode & 0o777, 0o600);
  });

  it('never puts a file in the place of a pipe or a device', async (t) => {
    const dir = await scratchDirectory(t);
    const pipe = join(dir, 'pipe');
    execFileSync('mkfifo', [pipe]);
    await assert.rejects(writeOutputFile(pipe, 'new', { overwrite: true }), {
      code: 'usage.output-unwritable',
      message: `cannot write ${pipe}: it is there, and is no file`,
    });
    assert.equal(lstatSync(pipe).isFIFO(), true, 'it is what it was');
    assert.deepEqual(readdirSync(dir), ['pipe'], 'no draft stays beside it');
  });
});
