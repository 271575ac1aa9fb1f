import { InvalidArgumentError, Option } from 'commander';
import { join, resolve } from 'node:path';
import { IotdmError } from '../../src/errors.ts';
import type { EmulatorOptions } from '../../src/emulator/emulator.ts';
import type { KnobReport, KnobTexts } from '../../src/emulator/knobs.ts';
import type { EmulatorStatus } from '../../src/emulator/status.ts';
import { startInBackground, type BackgroundMessage } from '../shared/background.ts';
import type { Context } from '../shared/context.ts';
import { table, type Verb } from '../shared/verb.ts';
import { faultNotes, knobArguments, knobOptions, knobRows } from './knob-options.ts';

const notice = 'DPS emulator for rehearsal, never for production: its keys are plain files.';

export const emulatorDirOption = (): Option =>
  new Option('--dir <dir>', 'where it keeps its state').default(join('.iotdm', 'emulator'));

function portOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text) => {
    const port = Number(text);
    if (!Number.isInteger(port) || port < 1 || port > 65535)
      throw new InvalidArgumentError('expected 1 to 65535.');
    return port;
  });
}

export interface EmulatorStartOptions extends KnobTexts {
  readonly dir: string;
  readonly port?: number;
  readonly devicePort?: number;
  readonly hubPort?: number;
  readonly foreground?: boolean;
}

export const emulatorStart: Verb<[], EmulatorStartOptions, EmulatorStatus> = {
  name: 'start',
  summary: 'start a provisioning service on loopback in the background',
  description:
    "Starts an emulator of Azure's Device Provisioning Service and IoT Hub for rehearsal, never for production, and " +
    'returns once it answers. It serves the operators’ API, the API at which devices register by TPM, symmetric key or ' +
    'certificate, and the hub, over HTTPS on 127.0.0.1 (neither MQTT nor AMQP), with a certificate authority and keys of ' +
    'its own. Started again on the same directory it is the same service. It is well-behaved, unless quota, latency and ' +
    'faults are asked for, which make the rehearsal harder. The services may have the same port; Azure’s own clients ' +
    'know none but 443, and the connection string is without a port then.',
  examples: [
    'iotdm emulator start',
    'export IOTDM_CA=.iotdm/emulator/ca.pem',
    'iotdm enrollment list --dps-connection-string-file .iotdm/emulator/service-connection-string',
    'iotdm emulator start --port 443 --device-port 443 --hub-port 443',
    'iotdm emulator start --quota 1000 --latency 20-80 --assign-delay 3000',
    'iotdm emulator start --fault 503,rate=5% --fault cut-after,method=POST,path=/enrollments,nth=3 --fault-seed 7',
  ],
  notes: faultNotes,
  seeAlso: ['iotdm emulator stop', 'iotdm enrollment create', 'iotdm simulator start'],
  settings: ['dry-run'],
  options: [
    emulatorDirOption(),
    portOption(
      '--port <port>',
      'TCP port of the operators’ API (default: the same as last time, or any free one)',
    ),
    portOption('--device-port <port>', 'the same for the API at which devices register'),
    portOption('--hub-port <port>', 'the same for the hub'),
    new Option('--foreground', 'stay until it is ended with Ctrl-C'),
    ...knobOptions(),
  ],
  async run(context, _args, { dir: given, foreground = false, port, devicePort, hubPort, ...knobTexts }) {
    const dir = resolve(given);
    const [{ emulatorStatus }, { parseKnobs, knobReport }] = await Promise.all([
      import('../../src/emulator/status.ts'),
      import('../../src/emulator/knobs.ts'),
    ]);
    const knobs = parseKnobs(knobTexts);
    if (context.settings.json) context.console.warn(notice);
    const ports = {
      ...(port === undefined ? {} : { port }),
      ...(devicePort === undefined ? {} : { devicePort }),
      ...(hubPort === undefined ? {} : { hubPort }),
    };
    if (context.settings.dryRun) {
      const before = emulatorStatus(dir);
      if (!before.running) context.console.note(`would start an emulator in ${dir}`);
      return before;
    }
    if (foreground) return serve(context, { dir, ...ports, ...knobs });
    const before = emulatorStatus(dir);
    if (before.running) {
      checkSameKnobs(before, knobReport(knobs));
      return before;
    }
    const progress = await context.console.progress('Starting the emulator');
    try {
      const args = ['emulator', 'start', '--foreground', '--dir', dir];
      const portArguments = Object.entries({ port, 'device-port': devicePort, 'hub-port': hubPort }).flatMap(
        ([name, value]) => (value === undefined ? [] : [`--${name}=${value}`]),
      );
      await startInBackground(context.host, [...args, ...portArguments, ...knobArguments(knobTexts)], dir);
    } finally {
      progress.done();
    }
    return emulatorStatus(dir);
  },
  describe,
};

/** Runs until it is told to end; tells the process that started it in the background, if there is one, how it went. */
async function serve(context: Context, options: EmulatorOptions): Promise<EmulatorStatus> {
  const { dir } = options;
  const { notifyParent, signal } = context.host;
  const tell = (message: BackgroundMessage): void => {
    notifyParent?.(message);
  };
  const [{ startEmulator }, { emulatorStatus }] = await Promise.all([
    import('../../src/emulator/emulator.ts'),
    import('../../src/emulator/status.ts'),
  ]);
  try {
    const emulator = await startEmulator({
      ...options,
      onRequest: ({ method, path, status, elapsedMs, fault }) => {
        const disturbed = fault === undefined ? '' : ` (fault ${fault})`;
        context.console.trace(`emulator: ${method} ${path} ${status} ${elapsedMs.toFixed(0)} ms${disturbed}`);
      },
    });
    const status = emulatorStatus(dir);
    if (notifyParent === undefined) {
      await context.print(context.settings.json ? `${JSON.stringify(status)}\n` : describe(status));
    }
    tell({ ready: true });
    await new Promise<void>((ended) => {
      if (signal.aborted) ended();
      signal.addEventListener('abort', () => {
        ended();
      });
    });
    await emulator.close();
  } catch (error) {
    const { code, message, details } =
      error instanceof IotdmError
        ? error
        : { code: 'internal.unexpected', message: String(error), details: undefined };
    tell({ failed: { code, message, details } });
    throw error;
  }
  return emulatorStatus(dir);
}

/** One that runs keeps its knobs: to say that it has others would be a lie. */
function checkSameKnobs({ knobs, pid, dir }: EmulatorStatus, wanted: KnobReport | undefined): void {
  if (wanted === undefined) return;
  const faultSeed = wanted.faultSeed ?? knobs?.faultSeed ?? null;
  if (JSON.stringify({ ...wanted, faultSeed }) === JSON.stringify(knobs)) return;
  throw new IotdmError(
    'usage.emulator-running',
    `an emulator runs in ${dir} already (process ${pid ?? 'unknown'}), and not with this quota, latency and faults`,
  );
}

function describe(status: EmulatorStatus): string {
  return `${notice}\n${emulatorTable(status)}`;
}

export function emulatorTable(status: EmulatorStatus): string {
  const { running, pid, host, deviceHost, idScope, hub, hubHost, connectionStringFile, ca, dir, knobs } =
    status;
  if (!running) {
    return table([
      ['Running', 'no'],
      ['State', dir],
    ]);
  }
  return table([
    ['Running', `yes, process ${pid ?? '-'}`],
    ['DPS host', host ?? '-'],
    ['Device host', `--device-host ${deviceHost ?? '-'} --id-scope ${idScope ?? '-'}`],
    ['Hub', `${hub ?? '-'}, at ${hubHost ?? '-'}`],
    ['Credentials', `--dps-connection-string-file ${connectionStringFile ?? '-'}`],
    ['Trust', `--ca ${ca ?? '-'}`],
    ['State', dir],
    ...knobRows(knobs),
  ]);
}
