import { Option } from 'commander';
import type { Verb } from '../shared/verb.ts';
import { simulatorDirOption } from './start.ts';

export interface SimulatorStopOptions {
  readonly dir: string;
  readonly wipe?: boolean;
}

export interface StopResult {
  readonly running: boolean;
  /** Whether there was one to stop. */
  readonly stopped: boolean;
  readonly wiped: boolean;
  readonly dir: string;
  readonly dryRun?: true;
}

export const simulatorStop: Verb<[], SimulatorStopOptions, StopResult> = {
  name: 'stop',
  summary: 'end the software TPM',
  description: 'Ends the software TPM. Its state stays, unless --wipe is given: then all its keys are lost.',
  examples: ['iotdm simulator stop', 'iotdm simulator stop --wipe'],
  seeAlso: ['iotdm simulator start'],
  settings: ['dry-run'],
  options: [simulatorDirOption(), new Option('--wipe', 'forget this TPM: delete its state')],
  async run(context, _args, { dir, wipe = false }) {
    const { simulatorStatus, stopSimulator } = await import('../../src/tpm/simulator.ts');
    if (context.settings.dryRun) {
      const { running } = await simulatorStatus(dir);
      return { running, stopped: false, wiped: false, dir, dryRun: true };
    }
    const stopped = await stopSimulator(dir, { wipe });
    return { running: false, stopped, wiped: wipe, dir };
  },
  describe: ({ running, stopped, wiped, dryRun }, _context, { wipe = false }) => {
    if (dryRun === true) {
      const what = running ? 'Would end the software TPM' : 'No software TPM runs';
      return `${what}${wipe ? '; would delete its state' : ''}.\n`;
    }
    return `${stopped ? 'The software TPM has ended' : 'No software TPM was running'}${wiped ? '; its state is deleted' : ''}.\n`;
  },
};
