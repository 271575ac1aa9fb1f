import assert from 'node:assert/strict';
import { appendFile, link, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import {
  manifestLine,
  parseManifestLine,
  type HarvestedIdentity,
  type ManifestRecord,
} from '../../src/records/manifest.ts';
import { checkManifests, type ManifestCheck } from '../../src/station/manifest-check.ts';
import { withMergedManifest } from '../../src/station/manifest-merge.ts';
import { chunked, collect } from '../fakes/chunked-source.ts';
import { harvested, manifestOf } from '../fakes/harvested.ts';

let directory: string;
let count = 0;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'iotdm-merge-'));
});
after(async () => {
  await rm(directory, { recursive: true });
});

async function fileOf(content: string | readonly HarvestedIdentity[]): Promise<string> {
  count += 1;
  const file = join(directory, `${count}.ndjson`);
  await writeFile(file, typeof content === 'string' ? content : manifestOf(content));
  return file;
}

interface Merged {
  readonly text: string;
  readonly check: ManifestCheck;
  readonly records: number;
  readonly repeated: number;
}

function merge(...files: string[]): Promise<Merged> {
  return withMergedManifest(files, { out: join(directory, 'out') }, async (check, merged) => {
    assert(merged, JSON.stringify(check.faults));
    return { text: (await collect(merged.lines)).join(''), check, ...merged.progress };
  });
}

const recordsIn = (text: string): (ManifestRecord | undefined)[] =>
  text
    .split('\n')
    .slice(0, -1)
    .map((line) => parseManifestLine(line));

describe('withMergedManifest', () => {
  it('orders by time, keeps what a record says, and chains anew', async () => {
    const tagged = harvested(2, { tags: { site: 'Linz "ü"', __proto__: 'x' }, deviceId: 'press-2' });
    const { text } = await merge(
      await fileOf([harvested(3), harvested(1)]),
      await fileOf([tagged, harvested(4)]),
    );
    assert.equal(text, manifestOf([harvested(1), tagged, harvested(3), harvested(4)]));
  });

  it('keeps the order of files and lines among records of one moment', async () => {
    const at = (number: number) => harvested(number, { harvestedAt: '2024-05-01T06:00:00.000Z' });
    const { text } = await merge(await fileOf([at(5), at(1)]), await fileOf([at(3), at(2)]));
    assert.deepEqual(
      recordsIn(text).map((record) => record?.serialNumber),
      ['SN-5', 'SN-1', 'SN-3', 'SN-2'],
    );
  });

  it('keeps a device once, as it was recorded first, and counts the rest', async () => {
    const later = harvested(1, { harvestedAt: '2025-01-01T00:00:00Z', operator: 'second' });
    const { text, records, repeated } = await merge(
      await fileOf([later, harvested(2)]),
      await fileOf([harvested(1), harvested(3, { serialNumber: null })]),
      await fileOf([harvested(3, { serialNumber: null })]),
    );
    assert.deepEqual([records, repeated], [3, 2]);
    assert.equal(text, manifestOf([harvested(1), harvested(2), harvested(3, { serialNumber: null })]));
  });

  it('hands out nothing but the check when a file is broken or files disagree', async () => {
    const good = await fileOf([harvested(1), harvested(2)]);
    const changed = await fileOf(manifestOf([harvested(3), harvested(4)]).replace('EOL-3', 'EOL-4'));
    const other = await fileOf([harvested(5, { serialNumber: 'SN-2' })]);
    for (const files of [[good, changed], [good, other], [changed]]) {
      await withMergedManifest(files, { out: join(directory, 'out') }, (check, merged) => {
        assert.deepEqual([check.ok, merged], [false, undefined]);
        return Promise.resolve();
      });
    }
  });

  it('leaves out a torn last line and keeps a last record whose line feed is missing', async () => {
    const both = manifestOf([harvested(1), harvested(2)]);
    const torn = await merge(await fileOf(both.slice(0, -20)));
    assert.deepEqual([torn.records, torn.check.warnings.length], [1, 1]);
    assert.equal(torn.text, manifestOf([harvested(1)]));
    assert.equal((await merge(await fileOf(both.trimEnd()))).text, both);
  });

  it('keeps members that a later version has added', async () => {
    const line = manifestLine({ schema: 1, ...harvested(1), previous: null });
    const { text } = await merge(await fileOf(`${line.replace('"tags"', '"shift":{"a":[1]},"tags"')}\n`));
    assert.match(text, /^\{"schema":1,.*"shift":\{"a":\[1\]\},"previous":null\}\n$/);
  });

  it('refuses to write over one of its inputs, by whatever name', async () => {
    const file = await fileOf([harvested(1)]);
    await link(file, join(directory, 'alias'));
    for (const out of [file, join(directory, 'alias')]) {
      await assert.rejects(
        withMergedManifest([file], { out }, () => Promise.resolve()),
        { code: 'usage.invalid', message: /is both an input and the output$/ },
      );
    }
    await assert.rejects(merge(file, join(directory, 'none')), { code: 'input.unreadable' });
    await assert.rejects(merge(directory), { code: 'input.unreadable' });
  });

  it('notices a change between the check and the copy, and not what is appended', async () => {
    const file = await fileOf([harvested(1), harvested(2)]);
    const text = await readFile(file, 'utf8');
    const out = join(directory, 'out');
    await withMergedManifest([file], { out }, async (_, merged) => {
      await appendFile(file, 'more');
      assert(merged);
      assert.equal((await collect(merged.lines)).join(''), text);
    });
    await writeFile(file, text);
    await withMergedManifest([file], { out }, async (_, merged) => {
      await writeFile(file, text.replace('SN-2', 'SN-9'));
      assert(merged);
      await assert.rejects(collect(merged.lines), { code: 'verify.manifest', message: /was changed while/ });
    });
  });

  it('gives a manifest that is in order, whatever was dealt to the files', async () => {
    const dealt = fc.array(fc.tuple(fc.nat(2), fc.nat(30), fc.nat(5)), { maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(dealt, async (cards) => {
        const files = await Promise.all(
          [0, 1, 2].map((file) =>
            fileOf(
              cards
                .filter(([target]) => target === file)
                .map(([, number, second]) =>
                  harvested(number, { harvestedAt: new Date(second * 1000).toISOString() }),
                ),
            ),
          ),
        );
        const { text, records, repeated, check } = await merge(...files);
        assert.equal(records + repeated, cards.length);
        assert.equal(repeated, check.repeated);
        assert.equal(records, new Set(cards.map(([, number]) => number)).size);
        const again = await checkManifests([{ name: 'merged', open: () => chunked(text) }]);
        assert.deepEqual([again.faults, again.repeated], [[], 0]);
        const times = recordsIn(text).map((record) => record?.harvestedAt);
        assert.deepEqual(times, times.toSorted());
      }),
      { numRuns: 30 },
    );
  });
});
