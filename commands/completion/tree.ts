/** What a shell needs to know of the command tree to complete a command line. */
import type { Command, Option } from 'commander';

export interface CompletedOption {
  /** With its dashes: `--format`, `-q`. */
  readonly names: readonly string[];
  readonly description: string;
  /** What may follow; undefined for a switch. */
  readonly value: CompletedValue | undefined;
}

/** A fixed list, names of files, or something that a shell cannot know. */
export type CompletedValue = readonly string[] | 'file' | 'unknown';

export interface CompletedCommand {
  /** The words that lead to it, such as `slot write`; empty for the program itself. */
  readonly path: string;
  readonly words: readonly { readonly name: string; readonly description: string }[];
  readonly options: readonly CompletedOption[];
  /** Whether files may stand on its command line. */
  readonly takesFiles: boolean;
}

/** All commands, each after the one that it belongs to. */
export function completedCommands(program: Command): CompletedCommand[] {
  const topics = ['exit-codes', ...program.commands.map((command) => command.name())];
  return below(program, []).map((command) =>
    // It takes its words as arguments.
    command.path === 'help'
      ? { ...command, words: topics.map((name) => ({ name, description: `help on ${name}` })) }
      : command,
  );
}

function below(command: Command, path: readonly string[]): CompletedCommand[] {
  const help = command.createHelp();
  const options = [...help.visibleOptions(command), ...help.visibleGlobalOptions(command)];
  const described: CompletedCommand = {
    path: path.join(' '),
    words: command.commands.map((child) => ({ name: child.name(), description: child.summary() })),
    options: options.map(completedOption),
    takesFiles: command.registeredArguments.some((argument) => isFile(argument.name())),
  };
  return [described, ...command.commands.flatMap((child) => below(child, [...path, child.name()]))];
}

function completedOption(option: Option): CompletedOption {
  const { short, long, description, argChoices, required, optional, flags } = option;
  const names = [long, short].filter((name) => name !== undefined);
  if (!required && !optional) return { names, description, value: undefined };
  const placeholder = /<([^>]+)>/.exec(flags)?.[1] ?? '';
  return { names, description, value: argChoices ?? (isFile(placeholder) ? 'file' : 'unknown') };
}

function isFile(placeholder: string): boolean {
  return /^(file|dir|path|pem|manifest)$/.test(placeholder);
}

/** Options that a value follows, of all commands. */
export function namesWithValue(commands: readonly CompletedCommand[]): string[] {
  const names = commands.flatMap(({ options }) =>
    options.filter(({ value }) => value !== undefined).flatMap((option) => option.names),
  );
  return [...new Set(names)].sort();
}
