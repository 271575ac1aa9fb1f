import { join } from 'node:path';
import type { NamedTpm, OfferedTpm } from '../../src/tpm/machine.ts';
import type { Context } from '../shared/context.ts';
import { toFailure } from '../shared/failure.ts';
import type { Verb } from '../shared/verb.ts';

export interface ListedTpm {
  /** The value for `--tpm`. */
  readonly tpm: string;
  readonly usable: boolean;
  readonly source: string;
  readonly problem?: string;
  readonly hint?: string;
  readonly manufacturer?: string;
  readonly vendorString?: string;
  readonly firmware?: string;
  readonly revision?: string;
}

/** Enough for a TPM that does something else meanwhile; `--timeout` gives more. */
const DEFAULT_TIMEOUT_S = 5;

export const tpmList: Verb<[], object, readonly ListedTpm[]> = {
  name: 'list',
  summary: 'list the TPMs that this machine offers, and why one is not usable',
  description:
    'Lists the TPMs that this machine offers, with the value for --tpm: its devices, the one that --tpm or the ' +
    'environment names, and a software TPM in .iotdm/simulator. Asks each who made it, with one command that changes nothing.',
  examples: ['iotdm tpm list', "iotdm tpm list --json | jq -r '.[] | select(.usable) | .tpm'"],
  seeAlso: ['iotdm tpm info', 'iotdm tpm check', 'iotdm simulator start'],
  settings: ['tpm', 'timeout'],
  async run(context) {
    const { listTpms, thisMachine } = await import('../../src/tpm/machine.ts');
    const machine = thisMachine((context.settings.timeout ?? DEFAULT_TIMEOUT_S) * 1000);
    const offered = await listTpms(machine, await named(context), context.host.signal);
    if (offered.length === 0) {
      context.console.note(
        'no TPM found: enable it in the firmware settings, or rehearse with: iotdm simulator start',
      );
    }
    return offered.map(toListed);
  },
  describe(tpms, { console: { style } }) {
    const width = Math.max(0, ...tpms.map(({ tpm }) => tpm.length));
    const lines = tpms.flatMap(
      ({ tpm, usable, source, problem, hint, manufacturer, vendorString, firmware }) => {
        const mark = usable ? style.green('✔') : style.red('✖');
        const what = usable
          ? `${[manufacturer, vendorString].filter((part) => part !== '').join(' ')}, firmware ${firmware ?? ''}`
          : (problem ?? '');
        return [
          `${mark} ${tpm.padEnd(width)}  ${what} ${style.dim(`(${source})`)}\n`,
          ...(hint === undefined ? [] : [`  ${' '.repeat(width)}  ${style.cyan('→')} ${hint}\n`]),
        ];
      },
    );
    return lines.join('');
  },
};

async function named({ settings, host: { environment } }: Context): Promise<NamedTpm[]> {
  const { simulatorStatus } = await import('../../src/tpm/simulator.ts');
  const simulator = await simulatorStatus(join('.iotdm', 'simulator'));
  const variables = ['IOTDM_TPM', 'TPM2TOOLS_TCTI'].map((source) => ({
    tcti: environment[source] ?? '',
    source,
  }));
  const isVariable = variables.some(({ tcti }) => tcti === settings.tpm);
  return [
    ...(settings.tpm === undefined || isVariable ? [] : [{ tcti: settings.tpm, source: 'setting' }]),
    ...variables.filter(({ tcti }) => tcti !== ''),
    ...(simulator.tcti === null ? [] : [{ tcti: simulator.tcti, source: 'iotdm simulator' }]),
  ];
}

function toListed({ tcti, source, description, error, withoutResourceManager }: OfferedTpm): ListedTpm {
  if (error !== undefined || description === undefined) {
    const { message, hint } = toFailure(error, 'iotdm tpm list');
    return { tpm: tcti, usable: false, source, problem: message, hint };
  }
  const hint = withoutResourceManager
    ? {
        hint: 'the kernel has no resource manager for it (/dev/tpmrm*): only one program can use it at a time',
      }
    : {};
  return { tpm: tcti, usable: true, source, ...description, ...hint };
}
