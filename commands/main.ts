/** The command tree, and the only place where errors end: one line, one hint, one exit code. */
import { Command, CommanderError, Option } from 'commander';
import { IotdmError } from '../src/errors.ts';
import { nearest } from '../src/nearest.ts';
import { redact } from '../src/secret.ts';
import { Console } from './shared/console.ts';
import type { Host } from './shared/context.ts';
import { exitCodes } from './catalogue/exit-codes.ts';
import { CommandError, toFailure } from './shared/failure.ts';
import { refuseRepeatedOptions } from './shared/repeated-options.ts';
import { declareSharedOptions, resolveSettings, type Settings } from './shared/settings.ts';
import { declare, footer, fullName } from './shared/verb.ts';
import { completionBash } from './completion/bash.ts';
import { completionFish } from './completion/fish.ts';
import { completionPowershell } from './completion/powershell.ts';
import { completionZsh } from './completion/zsh.ts';
import { deviceRegister } from './device/register.ts';
import { ekCert } from './ek/cert.ts';
import { ekConvert } from './ek/convert.ts';
import { ekRead } from './ek/read.ts';
import { ekVerify } from './ek/verify.ts';
import { emulatorStart } from './emulator/start.ts';
import { emulatorStatusVerb } from './emulator/status.ts';
import { emulatorStop } from './emulator/stop.ts';
import { enrollmentCreate } from './enrollment/create.ts';
import { enrollmentDelete } from './enrollment/delete.ts';
import { enrollmentExport } from './enrollment/export.ts';
import { enrollmentGroupList } from './enrollment/group/list.ts';
import { enrollmentGroupShow } from './enrollment/group/show.ts';
import { enrollmentImport } from './enrollment/import.ts';
import { enrollmentList } from './enrollment/list.ts';
import { enrollmentShow } from './enrollment/show.ts';
import { enrollmentUpdate } from './enrollment/update.ts';
import { explainVerb } from './explain.ts';
import { harvestVerb } from './harvest.ts';
import { fenceLimpet } from './limpet/command-line.ts';
import { limpetVerb } from './limpet/limpet.ts';
import { manifestMerge } from './manifest/merge.ts';
import { manifestVerify } from './manifest/verify.ts';
import { moduleProvision } from './module/provision.ts';
import { provisionVerb } from './provision/provision.ts';
import { simulatorStart } from './simulator/start.ts';
import { simulatorStatusVerb } from './simulator/status.ts';
import { simulatorStop } from './simulator/stop.ts';
import { slotClear } from './slot/clear.ts';
import { slotDeviceIdVerb } from './slot/device-id.ts';
import { slotKeyClear } from './slot/key/clear.ts';
import { slotKeyWrite } from './slot/key/write.ts';
import { slotList } from './slot/list.ts';
import { slotRepair } from './slot/repair.ts';
import { slotShow } from './slot/show.ts';
import { slotSignVerb } from './slot/sign.ts';
import { slotTokenVerb } from './slot/token.ts';
import { slotUriClear } from './slot/uri/clear.ts';
import { slotUriRead } from './slot/uri/read.ts';
import { slotUriWrite } from './slot/uri/write.ts';
import { slotVerify } from './slot/verify.ts';
import { slotWrite } from './slot/write.ts';
import { srkRead } from './srk/read.ts';
import { tpmCheck } from './tpm/check.ts';
import { tpmClear } from './tpm/clear.ts';
import { tpmInfo } from './tpm/info.ts';
import { tpmList } from './tpm/list.ts';

/**
 * Runs one command line.
 * @param args without the program's own name
 * @returns the exit code
 */
export async function main(args: readonly string[], host: Host): Promise<number> {
  const program = buildProgram(host);
  try {
    await program.parseAsync(fenceLimpet(args), { from: 'user' });
    return host.signal.aborted ? 130 : 0;
  } catch (error) {
    return report(error, args, program, host);
  }
}

/** The whole tree; a parsing test builds it with a host of its own. */
export function buildProgram(host: Host): Command {
  const program = new Command('iotdm')
    .description(
      'Gives devices their identity: reads the endorsement key of a TPM 2.0, enrolls it with ' +
        "Azure's Device Provisioning Service (DPS), and writes connection strings into TPM slots.",
    )
    .version(host.tool.replace('iotdm/', ''), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help for a command')
    .helpCommand(false)
    .configureHelp({
      // The shared options stand in the help of the commands that heed them.
      visibleOptions: ({ options }) => [
        ...options.filter(({ long }) => long === '--version'),
        new Option('-h, --help', 'print help for a command'),
      ],
    })
    .showSuggestionAfterError(true)
    .addHelpText(
      'after',
      footer(
        [
          'iotdm provision --serial SN-0001                         the whole line, one device',
          'iotdm ek read                                            the EK and its registration id',
          'iotdm harvest --serial SN-0001 --manifest shift.ndjson   record a device on the line',
          'iotdm enrollment import shift.ndjson                     enroll what was recorded',
          'iotdm slot write 0 --connection-string-file cs.txt       give the device its identity',
        ],
        ['iotdm <command> --help', 'iotdm help exit-codes'],
      ),
    );
  declareSharedOptions(program);

  program.commandsGroup('The TPM of a device:');
  program.addCommand(
    noun('tpm', 'the TPM itself: what it is, and whether it will do', [
      declare(tpmList, host),
      declare(tpmInfo, host),
      declare(tpmCheck, host),
      declare(tpmClear, host),
    ]),
  );
  program.addCommand(
    noun('ek', 'the endorsement key', [
      declare(ekRead, host),
      declare(ekCert, host),
      declare(ekVerify, host),
      declare(ekConvert, host),
    ]),
  );
  program.addCommand(noun('srk', 'the storage root key', [declare(srkRead, host)]));
  program.addCommand(
    noun('slot', 'identities in the TPM: ten slots, each with a key and the name it belongs to', [
      declare(slotList, host),
      declare(slotShow, host),
      declare(slotWrite, host),
      declare(slotVerify, host),
      declare(slotRepair, host),
      declare(slotTokenVerb, host),
      declare(slotSignVerb, host),
      declare(slotDeviceIdVerb, host),
      declare(slotClear, host),
      noun('slot uri', 'the URI of a slot by itself', [
        declare(slotUriRead, host),
        declare(slotUriWrite, host),
        declare(slotUriClear, host),
      ]),
      noun('slot key', 'the key of a slot by itself', [
        declare(slotKeyWrite, host),
        declare(slotKeyClear, host),
      ]),
    ]),
  );
  program.commandsGroup('From the line to the service:');
  program.addCommand(declare(provisionVerb, host));
  program.addCommand(declare(harvestVerb, host));
  program.addCommand(
    noun('manifest', 'what harvest has recorded', [
      declare(manifestVerify, host),
      declare(manifestMerge, host),
    ]),
  );
  program.addCommand(
    noun('enrollment', "individual enrollments of Azure's Device Provisioning Service", [
      declare(enrollmentCreate, host),
      declare(enrollmentShow, host),
      declare(enrollmentList, host),
      declare(enrollmentUpdate, host),
      declare(enrollmentDelete, host),
      declare(enrollmentImport, host),
      declare(enrollmentExport, host),
      noun('enrollment group', 'groups of enrollments, read only', [
        declare(enrollmentGroupList, host),
        declare(enrollmentGroupShow, host),
      ]),
    ]),
  );
  program.addCommand(
    noun('device', 'the device at the Device Provisioning Service', [declare(deviceRegister, host)]),
  );
  program.addCommand(
    noun('module', 'modules of the device in its IoT Hub', [declare(moduleProvision, host)]),
  );
  program.commandsGroup('In place of Limpet.exe:');
  program.addCommand(declare(limpetVerb, host));
  program.commandsGroup('Rehearsal, never production:');
  program.addCommand(
    noun('simulator', 'a software TPM (swtpm)', [
      declare(simulatorStart, host),
      declare(simulatorStatusVerb, host),
      declare(simulatorStop, host),
    ]),
  );
  program.addCommand(
    noun('emulator', 'a Device Provisioning Service on loopback', [
      declare(emulatorStart, host),
      declare(emulatorStatusVerb, host),
      declare(emulatorStop, host),
    ]),
  );
  program.commandsGroup('Help:');
  program.addCommand(declare(explainVerb, host));
  program.addCommand(
    noun('completion', 'completion with the tab key, for a shell', [
      declare(completionBash(program), host),
      declare(completionZsh(program), host),
      declare(completionFish(program), host),
      declare(completionPowershell(program), host),
    ]),
  );
  program.addCommand(helpCommand(program, host));
  refuseRepeatedOptions(program);
  quietCommander(program, host);
  return program;
}

/** @param path such as `slot`, or `slot uri` inside of it */
function noun(path: string, summary: string, verbs: readonly Command[]): Command {
  const command = new Command(path.split(' ').at(-1))
    .summary(summary)
    .description(`${sentence(summary)}.`)
    .helpCommand(false);
  for (const verb of verbs) command.addCommand(verb);
  command.addHelpText('after', `\nNext: iotdm ${path} <command> --help`);
  return command;
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** `iotdm help exit-codes`, and `iotdm help slot write` for those who type it that way. */
function helpCommand(program: Command, host: Host): Command {
  return new Command('help')
    .summary('help on a command or on exit-codes')
    .description('Prints the help of a command, or the table of exit codes.')
    .argument('[topic...]', 'a command, or exit-codes')
    .action((topic: string[]) => {
      if (topic.join(' ') === 'exit-codes') {
        host.stdout.write(exitCodeTable());
        return;
      }
      let command = program;
      for (const name of topic) {
        const next = command.commands.find((candidate) => candidate.name() === name);
        if (next === undefined) {
          throw new CommandError(
            'usage.invalid',
            `there is no help on "${topic.join(' ')}"`,
            'run: iotdm --help',
          );
        }
        command = next;
      }
      command.outputHelp();
    });
}

function exitCodeTable(): string {
  const rows = exitCodes.map(([code, meaning, family]) => {
    const prefix = family === '' ? '' : `   (error.code: ${family})`;
    return `${String(code).padStart(4)}  ${meaning}${prefix}\n`;
  });
  return `Exit codes of iotdm:\n\n${rows.join('')}`;
}

/** Commander throws in place of exiting, and leaves the printing of errors to `report`. */
function quietCommander(command: Command, host: Host): void {
  command.exitOverride();
  command.configureOutput({
    writeOut: (text) => {
      host.stdout.write(text);
    },
    writeErr: () => undefined,
  });
  for (const child of command.commands) quietCommander(child, host);
}

function report(error: unknown, args: readonly string[], program: Command, host: Host): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0;
  if (error instanceof CommanderError && error.code === 'commander.help') {
    commandOf(args, program).outputHelp();
    return 0;
  }
  const command = commandOf(args, program);
  const known = error instanceof CommanderError ? usageError(error, command) : error;
  const failure = toFailure(host.signal.aborted ? interrupted(known) : known, fullName(command));
  const { json, verbose, color } = presentation(args, program, host);
  if (json) {
    const { code, message, hint, details } = failure;
    const document = { error: { code, message, hint, ...(details === undefined ? {} : { details }) } };
    host.stderr.write(`${JSON.stringify(document)}\n`);
  } else {
    const console = new Console(host, { quiet: false, verbose, color });
    console.error(failure.message, failure.hint);
    if (failure.stack !== undefined) console.stack(failure.stack);
  }
  return failure.exitCode;
}

/** The failure of a command that was interrupted; what it says about work half done is kept. */
function interrupted(known: unknown): IotdmError {
  if (!(known instanceof IotdmError))
    return new IotdmError('interrupted.signal', 'interrupted', { cause: known });
  if (known.code.startsWith('interrupted')) return known;
  return new IotdmError('interrupted.signal', `interrupted: ${known.message}`, {
    cause: known,
    ...(known.details === undefined ? {} : { details: known.details }),
  });
}

/** How an error is shown. Where the settings themselves are at fault, the plain words and the environment decide. */
function presentation(
  args: readonly string[],
  program: Command,
  host: Host,
): Pick<Settings, 'json' | 'verbose' | 'color'> {
  const words = {
    json: args.includes('--json') || /^(1|true|yes)$/i.test(host.environment['IOTDM_JSON'] ?? ''),
    verbose: args.some((argument) => /^-v+$/.test(argument) || argument === '--verbose') ? 1 : 0,
    color: !args.includes('--no-color') && (host.environment['NO_COLOR'] ?? '') === '',
  };
  try {
    // What was parsed until it failed; the rest may stand behind it.
    const { json, verbose, color } = resolveSettings(program.opts(), host.environment);
    return {
      json: json || words.json,
      verbose: Math.max(verbose, words.verbose),
      color: color && words.color,
    };
  } catch {
    return words;
  }
}

/** `error: unknown option '--foo'\n(Did you mean --force?)` in our own form. */
function usageError(error: CommanderError, command: Command): IotdmError {
  // What was not recognized is quoted, and may be a secret: a private key, or what stands behind an option's `=`.
  const [first = '', ...rest] = redact(error.message)
    .replace(/^error: /, '')
    .split('\n');
  const message = first.replace(/('--?[A-Za-z-]+)=[^']*'/, "$1'").replace(/\.$/, '');
  const suggestion = rest.join(' ').trim() || suggestedOption(message, command);
  const text = (suggestion === '' ? message : `${message} ${suggestion}`)
    .replace('. Allowed choices', ': allowed choices')
    .replace('. Expected', ': expected')
    .replace('. expected', ': expected')
    .replace('(Did', '(did');
  return new IotdmError('usage.invalid', text);
}

/** Commander looks only among the options that the program's own help lists. */
function suggestedOption(message: string, command: Command): string {
  const unknown = /^unknown option '(--[^']+)'/.exec(message)?.[1];
  const options: string[] = [];
  for (let at: Command | null = command; at !== null; at = at.parent) {
    options.push(...at.options.flatMap(({ long, hidden }) => (long === undefined || hidden ? [] : [long])));
  }
  const found = unknown === undefined ? undefined : nearest(unknown, options);
  return found === undefined ? '' : `(did you mean ${found}?)`;
}

/** The command that the words of a command line name, as far as they name one. */
function commandOf(args: readonly string[], program: Command): Command {
  let command = program;
  for (const argument of args) {
    command = command.commands.find((candidate) => candidate.name() === argument) ?? command;
  }
  return command;
}
