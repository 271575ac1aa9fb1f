import { Option } from 'commander';
import type { Verb } from '../shared/verb.ts';
import { simulatorDirOption } from './start.ts';

export interface SimulatorStopOptions {
  readonly dir: string;
  readonly wipe?: boolean;
}

export interface StopResult {
  readonly running: false;
  /** Whether there was one to stop. */
  readonly stopped: boolean;
  readonly wiped: boolean;
  readonly dir: string;
}

export const simulatorStop: Verb<[], SimulatorStopOptions, StopResult> = {
  name: 'stop',
  summary: 'end the software TPM',
  description: 'Ends the software TPM. Its state stays, unless --wipe is given: then all its keys are lost.',
  examples: ['iotdm simulator stop', 'iotdm simulator stop --wipe'],
  seeAlso: ['iotdm simulator start'],
  settings: [],
  options: [simulatorDirOption(), new Option('--wipe', 'forget this TPM: delete its state')],
  async run(_context, _args, { dir, wipe = false }) {
    const { stopSimulator } = await import('../../src/tpm/simulator.ts');
    const stopped = await stopSimulator(dir, { wipe });
    return { running: false, stopped, wiped: wipe, dir };
  },
  describe: ({ stopped, wiped }) =>
    `${stopped ? 'The software TPM has ended' : 'No software TPM was running'}${wiped ? '; its state is deleted' : ''}.\n`,
};
