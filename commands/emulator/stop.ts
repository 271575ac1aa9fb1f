import { resolve } from 'node:path';
import { Option } from 'commander';
import type { Verb } from '../shared/verb.ts';
import { emulatorDirOption } from './start.ts';

export interface EmulatorStopOptions {
  readonly dir: string;
  readonly wipe?: boolean;
}

export interface EmulatorStopResult {
  readonly running: false;
  /** Whether there was one to stop. */
  readonly stopped: boolean;
  readonly wiped: boolean;
  readonly dir: string;
}

export const emulatorStop: Verb<[], EmulatorStopOptions, EmulatorStopResult> = {
  name: 'stop',
  summary: 'end the emulator',
  description: 'Ends the emulator. Its enrollments and keys stay, unless --wipe is given.',
  examples: ['iotdm emulator stop', 'iotdm emulator stop --wipe'],
  seeAlso: ['iotdm emulator start'],
  settings: [],
  options: [
    emulatorDirOption(),
    new Option('--wipe', 'forget this service: delete its enrollments and keys'),
  ],
  async run(_context, _args, { dir: given, wipe = false }) {
    const dir = resolve(given);
    const { stopEmulator } = await import('../../src/emulator/status.ts');
    const stopped = await stopEmulator(dir, { wipe });
    return { running: false, stopped, wiped: wipe, dir };
  },
  describe: ({ stopped, wiped }) =>
    `${stopped ? 'The emulator has ended' : 'No emulator was running'}${wiped ? '; its state is deleted' : ''}.\n`,
};
