/**
 * A station that waits for a word on stdin and then appends records: `crashing-station.ts FILE FIRST COUNT STALE`.
 * Prints the number of each record when it is recorded. Takes a lock for dead that was not touched for STALE ms.
 */
import { once } from 'node:events';
import { appendRecord } from '../../src/records/manifest.ts';
import { harvested } from '../fakes/harvested.ts';

const [file = '', first = '0', count = '0', stale = ''] = process.argv.slice(2);
await once(process.stdin, 'data');
process.stdin.destroy();
for (let number = Number(first); number < Number(first) + Number(count); number += 1) {
  await appendRecord(file, harvested(number), { staleMs: Number(stale) });
  process.stdout.write(`${number}\n`);
}
