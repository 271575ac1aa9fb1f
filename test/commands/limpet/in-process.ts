/** The command line in this process, for tests that run very many of them. */
import { PassThrough } from 'node:stream';
import { main } from '../../../commands/main.ts';
import type { Outcome } from '../../lab/lab.ts';

export async function runInProcess(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  const texts = { stdout: '', stderr: '' };
  const sink = (name: keyof typeof texts): PassThrough => {
    const stream = new PassThrough();
    stream.on('data', (bytes: Buffer) => (texts[name] += bytes.toString('utf8')));
    return stream;
  };
  const code = await main(args, {
    stdin: new PassThrough().end(),
    stdout: sink('stdout'),
    stderr: sink('stderr'),
    environment,
    signal: new AbortController().signal,
    clock: () => new Date(),
    tool: 'iotdm/1.2.3',
    self: [],
  });
  return { code, ...texts };
}
