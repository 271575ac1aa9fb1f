/** What an import ends with, whatever happens to its journal afterwards. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { withJournal } from '../../commands/shared/import-outcome.ts';
import type { ImportOptions } from '../../commands/shared/import-options.ts';
import { IotdmError } from '../../src/errors.ts';
import type { ImportJournal } from '../../src/records/import-journal.ts';
import { scratchDirectory } from '../lab/lab.ts';

const identity = { input: 'x', rows: 1, mode: 'upsert', host: 'memory' };
const options = {} as ImportOptions;

describe('a journal that fails to close', () => {
  const failing = (journal: ImportJournal): void => {
    const close = journal.close.bind(journal);
    journal.close = async () => {
      await close();
      throw new Error('input/output error');
    };
  };

  it('hides neither the error nor the result of the import', async (t) => {
    const path = join(await scratchDirectory(t), 'journal');
    const refused = new IotdmError('auth.refused', 'no');
    const ending = withJournal(path, identity, options, (journal) => {
      failing(journal);
      return Promise.reject(refused);
    });
    await assert.rejects(ending, refused);
    const result = await withJournal(path, identity, options, (journal) => {
      failing(journal);
      return Promise.resolve('done');
    });
    assert.equal(result, 'done');
  });
});
