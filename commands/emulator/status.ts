import { resolve } from 'node:path';
import type { EmulatorStatus } from '../../src/emulator/status.ts';
import type { Verb } from '../shared/verb.ts';
import { emulatorDirOption, emulatorTable } from './start.ts';

export const emulatorStatusVerb: Verb<[], { readonly dir: string }, EmulatorStatus> = {
  name: 'status',
  summary: 'say whether the emulator runs, and how to reach it',
  description: 'Says whether the emulator runs, and prints its host, connection-string file and CA file.',
  examples: ['iotdm emulator status', 'iotdm emulator status --json'],
  seeAlso: ['iotdm emulator start', 'iotdm emulator stop'],
  settings: [],
  options: [emulatorDirOption()],
  async run(_context, _args, { dir }) {
    const { emulatorStatus } = await import('../../src/emulator/status.ts');
    return emulatorStatus(resolve(dir));
  },
  describe: emulatorTable,
};
