import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it, mock } from 'node:test';
import { Console } from '../../commands/shared/console.ts';
import { ProgressReport } from '../../commands/shared/import-progress.ts';

function consoleWithout(terminal: { readonly quiet: boolean }): { console: Console; said: () => string } {
  const stderr = new PassThrough();
  let text = '';
  stderr.on('data', (bytes: Buffer) => (text += bytes.toString('utf8')));
  const streams = { stdin: new PassThrough(), stdout: new PassThrough(), stderr };
  return { console: new Console(streams, { ...terminal, verbose: 0, color: false }), said: () => text };
}

const rows = { total: 1000, failed: 0, skipped: 0, throttled: 0 };

describe('the progress of an import where there is no terminal', () => {
  it('is one line a minute, with rate, time left, refusals and failures', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      const { console, said } = consoleWithout({ quiet: false });
      let now = 0;
      const progress = await ProgressReport.start(console, 1000, () => now);
      for (let done = 0; done <= 240; done += 1) {
        now = done * 500;
        progress.update({ ...rows, done, throttled: done > 200 ? 3 : 0, failed: done > 200 ? 1 : 0 });
        if (now % 60_000 === 0 && now > 0) mock.timers.tick(60_000);
      }
      progress.done();
      mock.timers.tick(600_000);
      assert.deepEqual(said().trimEnd().split('\n'), [
        'iotdm: 120 of 1000 rows done, 2.0 rows/s, 8 min left',
        'iotdm: 240 of 1000 rows done, 2.0 rows/s, 7 min left, throttled 3 times, 1 failed',
      ]);
    } finally {
      mock.timers.reset();
    }
  });

  it('does not count rows of earlier runs into the rate', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      const { console, said } = consoleWithout({ quiet: false });
      let now = 0;
      const progress = await ProgressReport.start(console, 1000, () => now);
      for (let second = 0; second <= 60; second += 1) {
        now = second * 1000;
        progress.update({ ...rows, done: 900 + second, skipped: 900 });
      }
      mock.timers.tick(60_000);
      progress.done();
      assert.equal(said(), 'iotdm: 960 of 1000 rows done, 1.0 rows/s, 40 s left\n');
    } finally {
      mock.timers.reset();
    }
  });

  it('is nothing with -q', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      const { console, said } = consoleWithout({ quiet: true });
      const progress = await ProgressReport.start(console, 1000);
      mock.timers.tick(120_000);
      progress.done();
      assert.equal(said(), '');
    } finally {
      mock.timers.reset();
    }
  });
});
