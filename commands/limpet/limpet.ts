import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import type { Context } from '../shared/context.ts';
import { CommandError } from '../shared/failure.ts';
import type { Verb } from '../shared/verb.ts';
import { parseLimpet, type LimpetCommand } from './parse.ts';
import { limpetSwitches, notation, type SlotSwitchName } from './switches.ts';
import { limpetHelpTable, limpetUsage } from './usage.ts';
import { element, xmlDocument } from './xml.ts';

export const limpetVerb: Verb<[readonly string[]], object, void> = {
  name: 'limpet',
  arguments: [['[arguments...]', "Limpet's own arguments, in upper or lower case"]],
  summary: 'run a script that was written for Limpet.exe',
  description:
    'Takes the arguments of Limpet.exe and answers as it does: XML on stdout, plain text for -azuredps, -AST and a ' +
    'bad command line, and the empty element and a non-zero exit code on failure. The reason stands on stderr. A link ' +
    'or a copy of iotdm with the name limpet behaves like this by itself. As in Limpet, -FCT, -DLD, -DUR and -EHK ' +
    'destroy without asking; -PCS, -SUR and -CHK never replace what is there.',
  notes: limpetHelpTable(),
  examples: [
    'iotdm limpet -ERK ek.pub',
    'iotdm limpet 0 -AST 600',
    'iotdm limpet -azuredps -enrollmentinfo csv >> devices.csv',
    'ln -s "$(command -v iotdm)" /usr/local/bin/limpet',
  ],
  seeAlso: ['iotdm slot write', 'iotdm ek read', 'iotdm enrollment import'],
  settings: ['tpm', 'device', 'timeout', 'change'],
  async run(context, [words]) {
    const command = parseLimpet(words);
    switch (command.kind) {
      case 'help':
        await context.print(limpetUsage());
        return;
      case 'wrong':
        await context.print(limpetUsage());
        throw new CommandError('usage.invalid', command.problem, 'run: iotdm limpet --help');
      case 'planned':
        throw new CommandError(
          'usage.unsupported',
          `-${command.name} is not available yet`,
          'iotdm has no identity certificates, hostage keys and protected payloads so far; iotdm limpet --help lists what it has',
        );
      case 'tpm':
      case 'slot':
        await perform(context, command);
    }
  },
  describe: () => '',
};

type Performed = Extract<LimpetCommand, { kind: 'tpm' | 'slot' }>;

async function perform(context: Context, command: Performed): Promise<void> {
  const row = limpetSwitches[command.name];
  let output: string;
  try {
    if (context.settings.dryRun) refuseDryRun(command);
    const [{ tpmHandlers }, { slotHandlers }] = await Promise.all([
      import('./tpm-handlers.ts'),
      import('./slot-handlers.ts'),
    ]);
    const { parameters } = command;
    const result =
      command.kind === 'tpm'
        ? await tpmHandlers[command.name](context, parameters)
        : await slotHandlers[command.name](context, command.slot, parameters);
    output = typeof result === 'string' ? result : xmlDocument(result);
  } catch (error) {
    if (row.element !== null) await context.print(xmlDocument(element(row.element, '')));
    throw command.kind === 'slot' ? withLimpetsHint(error, command) : error;
  }
  await context.print(output);
}

/** A hint that names an option of iotdm's own commands is of no use where the arguments are Limpet's. */
function withLimpetsHint(error: unknown, { name, slot }: Extract<Performed, { kind: 'slot' }>): unknown {
  if (!(error instanceof IotdmError) || error instanceof CommandError) return error;
  const hints: Readonly<Partial<Record<ErrorCode, string>>> = {
    'tpm.slot-not-empty': replaceHint(name, slot),
    'tpm.slot-foreign': `choose another slot, or destroy what another program keeps there with: iotdm slot clear ${slot} --force`,
  };
  const hint = hints[error.code];
  return hint === undefined ? error : new CommandError(error.code, error.message, hint, error.details);
}

function replaceHint(name: SlotSwitchName, slot: number): string {
  const [destroy, replace] =
    name === 'SUR'
      ? ['DUR', `uri write ${slot} HOST/DEVICE --overwrite`]
      : name === 'CHK'
        ? ['EHK', `key write ${slot} --overwrite --key-file FILE`]
        : ['DLD', `write ${slot} --overwrite --connection-string-file FILE`];
  return `destroy what it holds with ${slot} -${destroy} first, or replace it with: iotdm slot ${replace}`;
}

/** Limpet has no dry run, and a command that only looks as if it had done its work would mislead a script. */
function refuseDryRun({ name, parameters }: Performed): void {
  const row = limpetSwitches[name];
  const writesFile = row.optional?.includes('file') === true && parameters.length > 0;
  if (!row.changes && !writesFile) return;
  throw new CommandError(
    'usage.invalid',
    `Limpet's commands have no dry run, and ${notation(row)} changes something; nothing was done`,
    `run: ${row.iotdm.replace(/ FILE$/, '')} --help`,
  );
}
