/**
 * A station for the manifest's tests, as a process of its own:
 * `manifest-writer.ts append FILE NAME COUNT` appends that many records and prints each line number;
 * `manifest-writer.ts hold FILE` takes the lock, prints `held`, and keeps it until it is killed.
 */
import { appendRecord } from '../../src/records/manifest.ts';
import { withFileLock } from '../../src/records/file-lock.ts';
import { identity } from './identities.ts';

const [verb, file = '', name = '', count = '0'] = process.argv.slice(2);
if (verb === 'hold') {
  await withFileLock(file, async () => {
    process.stdout.write('held\n');
    await new Promise((resolve) => setTimeout(resolve, 2 ** 30));
  });
}
for (let number = 0; number < Number(count); number += 1) {
  const { line } = await appendRecord(file, identity(`${name}-${number}`));
  process.stdout.write(`${line}\n`);
}
