/** A TPM behind a program that takes raw commands on stdin and answers on stdout, such as `ssh dut tpm2_send`. */
import { spawn } from 'node:child_process';
import { IotdmError } from '../../errors.ts';
import type { TpmTransport } from '../transport.ts';
import { StreamExchange } from './stream.ts';

/** How much of what the program prints on stderr is kept for the error message. */
const STDERR_TAIL_BYTES = 2000;

/** How long the program may take to end once its input is closed, or once it was told to. */
const END_GRACE_MS = 1000;

/**
 * @param commandLine run by the system's shell, as tpm2-tools' cmd TCTI does
 * @param timeoutMs time limit of one command
 */
export function openCommandTransport(commandLine: string, timeoutMs: number): Promise<TpmTransport> {
  const name = `cmd:${commandLine}`;
  const exchange = new StreamExchange(name, timeoutMs);
  const child = spawn(commandLine, { shell: true, stdio: ['pipe', 'pipe', 'pipe'] });
  let stderr = '';
  child.stdout.on('data', (bytes: Buffer) => {
    exchange.receive(bytes);
  });
  child.stderr.on('data', (bytes: Buffer) => {
    stderr = (stderr + bytes.toString('utf8')).slice(-STDERR_TAIL_BYTES);
  });
  // Writing to a program that has ended: its end, reported below, says more than EPIPE does.
  child.stdin.on('error', () => undefined);
  child.on('error', (cause) => {
    exchange.fail(new IotdmError('tpm-unavailable.connection', `${name} cannot be started`, { cause }));
  });
  const ended = new Promise<void>((resolve) => {
    child.on('close', (code, signal) => {
      const lastLine = stderr.trim().split('\n').at(-1)?.trim() ?? '';
      const said = lastLine === '' ? '' : `: ${lastLine}`;
      exchange.fail(
        new IotdmError(
          'tpm-unavailable.connection',
          `${name} ended with ${signal ?? `status ${code ?? 'unknown'}`}${said}`,
        ),
      );
      resolve();
    });
  });
  const end = (signal: NodeJS.Signals): void => {
    child.kill(signal);
    // What the shell has started outlives it and keeps the pipes open: they are not waited for.
    child.stdout.destroy();
    child.stderr.destroy();
  };
  return Promise.resolve({
    name,
    send: async (command) => {
      try {
        return await exchange.send(child.stdin, command);
      } catch (error) {
        end('SIGTERM');
        throw error;
      }
    },
    abandon: (error) => {
      exchange.fail(error);
    },
    close: async () => {
      child.stdin.end();
      const timer = setTimeout(() => {
        end('SIGKILL');
      }, END_GRACE_MS);
      await ended;
      clearTimeout(timer);
    },
  });
}
