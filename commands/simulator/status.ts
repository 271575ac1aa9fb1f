import type { SimulatorStatus } from '../../src/tpm/simulator.ts';
import type { Verb } from '../shared/verb.ts';
import { simulatorDirOption, simulatorTable } from './start.ts';

export const simulatorStatusVerb: Verb<[], { readonly dir: string }, SimulatorStatus> = {
  name: 'status',
  summary: 'say whether the software TPM runs, and how to reach it',
  description: 'Says whether the software TPM runs, and prints the value for --tpm.',
  examples: ['iotdm simulator status', 'iotdm simulator status --json'],
  seeAlso: ['iotdm simulator start', 'iotdm simulator stop'],
  settings: [],
  options: [simulatorDirOption()],
  async run(_context, _args, { dir }) {
    const { simulatorStatus } = await import('../../src/tpm/simulator.ts');
    return simulatorStatus(dir);
  },
  describe: simulatorTable,
};
