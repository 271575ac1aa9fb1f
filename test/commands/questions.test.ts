import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { Console } from '../../commands/shared/console.ts';

/** A console at a terminal where these keys are typed. */
function at(keys: string): { console: Console; shown: () => string } {
  const stdin = Object.assign(new PassThrough(), { isTTY: true });
  const stderr = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
  let shown = '';
  stderr.on('data', (bytes: Buffer) => (shown += bytes.toString('utf8')));
  const console = new Console(
    { stdin, stdout: new PassThrough(), stderr },
    { quiet: false, verbose: 0, color: false },
  );
  stdin.write(keys);
  return { console, shown: () => shown };
}

const never = new AbortController().signal;

describe('a question at the terminal', () => {
  it('takes only y and yes for an affirmative answer', async () => {
    for (const [keys, expected] of [
      ['y\r', true],
      ['YES\r', true],
      ['n\r', false],
      ['\r', false],
      ['yep\r', false],
    ] as const) {
      assert.equal(await at(keys).console.confirm('Destroy it?', never), expected, keys);
    }
  });

  it('ends as interrupted on Ctrl-C, which is a key then', async () => {
    await assert.rejects(at('\u0003').console.confirm('Destroy it?', never), { code: 'interrupted.signal' });
    await assert.rejects(at('\u0003').console.askSecret('Connection string', never), {
      code: 'interrupted.signal',
    });
  });

  it('for a secret does not show what is typed', async () => {
    const { console, shown } = at('HostName=h;SharedAccessKey=abc\r');
    assert.equal(await console.askSecret('Connection string', never), 'HostName=h;SharedAccessKey=abc');
    assert.equal(shown(), 'Connection string (not shown): \n');
  });
});
