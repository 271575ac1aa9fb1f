import { resolve } from 'node:path';
import { Option } from 'commander';
import type { Verb } from '../shared/verb.ts';
import { emulatorDirOption } from './start.ts';

export interface EmulatorStopOptions {
  readonly dir: string;
  readonly wipe?: boolean;
}

export interface EmulatorStopResult {
  readonly running: boolean;
  /** Whether there was one to stop. */
  readonly stopped: boolean;
  readonly wiped: boolean;
  readonly dir: string;
  readonly dryRun?: true;
}

export const emulatorStop: Verb<[], EmulatorStopOptions, EmulatorStopResult> = {
  name: 'stop',
  summary: 'end the emulator',
  description: 'Ends the emulator. Its enrollments and keys stay, unless --wipe is given.',
  examples: ['iotdm emulator stop', 'iotdm emulator stop --wipe'],
  seeAlso: ['iotdm emulator start'],
  settings: ['dry-run'],
  options: [
    emulatorDirOption(),
    new Option('--wipe', 'forget this service: delete its enrollments and keys'),
  ],
  async run(context, _args, { dir: given, wipe = false }) {
    const dir = resolve(given);
    const { emulatorStatus, stopEmulator } = await import('../../src/emulator/status.ts');
    if (context.settings.dryRun) {
      const { running } = emulatorStatus(dir);
      return { running, stopped: false, wiped: false, dir, dryRun: true };
    }
    const stopped = await stopEmulator(dir, { wipe });
    return { running: false, stopped, wiped: wipe, dir };
  },
  describe: ({ running, stopped, wiped, dryRun }, _context, { wipe = false }) => {
    if (dryRun === true) {
      const what = running ? 'Would end the emulator' : 'No emulator runs';
      return `${what}${wipe ? '; would delete its state' : ''}.\n`;
    }
    return `${stopped ? 'The emulator has ended' : 'No emulator was running'}${wiped ? '; its state is deleted' : ''}.\n`;
  },
};
