#!/usr/bin/env node
/** The process: argv, streams and signals in, exit code out. */
import { setMaxListeners } from 'node:events';
import manifest from '../package.json' with { type: 'json' };
import { isCalledLimpet } from '../commands/limpet/command-line.ts';
import { main } from '../commands/main.ts';

const interrupt = new AbortController();
// Each TPM of a rack listens while a command is under way; Node.js would take more than ten for a leak.
setMaxListeners(0, interrupt.signal);
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // The second time the user means it: what the TPM still holds is then left to the next command.
    if (interrupt.signal.aborted) process.exit(130);
    interrupt.abort();
  });
}

// A reader that goes away (`iotdm … 2>&1 | head`) ends no command midway, and changes no exit code: what has begun is
// finished. Where the result itself cannot be written, `Context.print` says so.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

const args = process.argv.slice(2);
const exitCode = await main(isCalledLimpet(process.argv[1]) ? ['limpet', ...args] : args, {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  environment: process.env,
  signal: interrupt.signal,
  clock: () => new Date(),
  tool: `iotdm/${manifest.version}`,
  self: [process.execPath, ...process.execArgv, process.argv[1] ?? ''],
  ...(process.send === undefined ? {} : { notifyParent: process.send.bind(process) }),
});
// Who interrupts does not wait for a connection attempt that is still under way.
if (interrupt.signal.aborted) process.exit(exitCode);
process.exitCode = exitCode;
