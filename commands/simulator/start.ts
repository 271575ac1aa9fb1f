import { InvalidArgumentError, Option } from 'commander';
import { join } from 'node:path';
import type { SimulatorStatus } from '../../src/tpm/simulator.ts';
import { table, type Verb } from '../shared/verb.ts';

export const simulatorNotice =
  'Software TPM for rehearsal, never for production: its secrets are plain files.';

export const simulatorDirOption = (): Option =>
  new Option('--dir <dir>', 'where it keeps its state').default(join('.iotdm', 'simulator'));

export interface SimulatorStartOptions {
  readonly dir: string;
  readonly port?: number;
  readonly blank?: boolean;
  readonly foreground?: boolean;
}

export const simulatorStart: Verb<[], SimulatorStartOptions, SimulatorStatus> = {
  name: 'start',
  summary: 'start a software TPM in the background',
  description:
    'Starts a software TPM (swtpm) for rehearsal, never for production, and returns once it answers. The first time ' +
    'it is manufactured like a chip: with an endorsement key and a certificate of a local authority for it. Started ' +
    'again on the same directory it is the same TPM.',
  examples: [
    'iotdm simulator start',
    'export IOTDM_TPM=$(iotdm simulator start --json | jq -r .tcti)',
    'iotdm simulator start --dir /tmp/empty-chip --blank',
  ],
  seeAlso: ['iotdm simulator stop', 'iotdm ek read', 'iotdm emulator start'],
  settings: ['dry-run'],
  options: [
    simulatorDirOption(),
    new Option(
      '--port <port>',
      'TCP port; its control channel takes the next one (default: any free pair)',
    ).argParser((text) => {
      const port = Number(text);
      if (!Number.isInteger(port) || port < 1 || port > 65534)
        throw new InvalidArgumentError('expected 1 to 65534.');
      return port;
    }),
    new Option('--blank', 'a chip with nothing in it: no EK at its handle, no certificate'),
    new Option('--foreground', 'stay until it is ended with Ctrl-C'),
  ],
  async run(context, _args, { dir, port, blank = false, foreground = false }) {
    if (context.settings.json) context.console.warn(simulatorNotice);
    const { startSimulator, simulatorStatus, stopSimulator } = await import('../../src/tpm/simulator.ts');
    if (context.settings.dryRun) {
      const before = await simulatorStatus(dir);
      if (!before.running) context.console.note(`would start a software TPM in ${before.dir}`);
      return before;
    }
    const progress = await context.console.progress('Starting swtpm');
    const { manufactured, withoutCertificate, ...status } = await startSimulator({
      dir,
      blank,
      ...(port === undefined ? {} : { port }),
    }).finally(() => {
      progress.done();
    });
    if (withoutCertificate) {
      context.console.warn(
        'swtpm_setup is not installed: this TPM is blank, without an EK and its certificate',
      );
    }
    context.console.detail(manufactured ? 'a new TPM was made' : 'the TPM was there before');
    if (!foreground) return status;
    await context.print(context.settings.json ? `${JSON.stringify(status)}\n` : describe(status));
    await new Promise<void>((resolve) => {
      context.host.signal.addEventListener('abort', () => {
        resolve();
      });
    });
    await stopSimulator(dir);
    return simulatorStatus(dir);
  },
  describe,
};

function describe(status: SimulatorStatus): string {
  return `${simulatorNotice}\n${simulatorTable(status)}`;
}

export function simulatorTable({ running, tcti, dir, pid }: SimulatorStatus): string {
  return table([
    ['Running', running ? `yes, process ${pid ?? '-'}` : 'no'],
    ...(tcti === null ? [] : ([['TPM', `--tpm ${tcti}`]] as const)),
    ['State', dir],
  ]);
}
