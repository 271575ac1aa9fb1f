/** How a command is declared: one object a file, from which the command line, its help and its output follow. */
import type { Option } from 'commander';
import { Command } from 'commander';
import { Context, type Host } from './context.ts';
import { isShownFor, resolveSettings, type SettingGroup } from './settings.ts';

export { secretFlag } from './secret-flag.ts';

export interface Verb<Arguments extends readonly unknown[], Options, Result> {
  readonly name: string;
  /** In commander's notation: `<slot>`, `[file]`, `<manifest...>`. */
  readonly arguments?: readonly (readonly [notation: string, description: string])[];
  /** One line, for the list of commands. */
  readonly summary: string;
  /** What it does, and what it leaves alone, for its own help. */
  readonly description: string;
  /** A table or other lines of its help that stay as they are, between options and examples. */
  readonly notes?: string;
  readonly examples: readonly string[];
  /** Where to go next. */
  readonly seeAlso: readonly string[];
  readonly settings: readonly SettingGroup[];
  readonly options?: readonly Option[];
  /** Does the work. What it returns is the JSON result; undefined when it has printed its result itself. */
  run(context: Context, args: Arguments, options: Options): Promise<Result>;
  /** The result for people. */
  describe(result: Result, context: Context, options: Options): string | Buffer;
}

/** Rows of `label  value`, aligned. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([label]) => label.length));
  return rows.map(([label, value]) => `${label.padEnd(width)}  ${value}\n`).join('');
}

/** `1 row`, `3 rows`. */
export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}

/** Makes commander's command out of a verb. */
export function declare<Arguments extends readonly unknown[], Options, Result>(
  verb: Verb<Arguments, Options, Result>,
  host: Host,
): Command {
  const command = new Command(verb.name).summary(verb.summary).description(verb.description);
  for (const [notation, description] of verb.arguments ?? []) command.argument(notation, description);
  for (const option of verb.options ?? []) command.addOption(option);
  command.configureHelp({
    showGlobalOptions: true,
    visibleGlobalOptions: (shown) =>
      globalOptions(shown).filter((option) => isShownFor(verb.settings, option)),
  });
  if (verb.notes !== undefined) command.addHelpText('after', `\n${verb.notes}`);
  command.addHelpText('after', footer(verb.examples, verb.seeAlso));
  command.action(async (...received: unknown[]) => {
    const args = received.slice(0, -2) as unknown as Arguments;
    const options = command.opts<Options & object>();
    const context = new Context(
      host,
      resolveSettings(command.optsWithGlobals(), host.environment),
      fullName(command),
    );
    let result: Result;
    try {
      result = await verb.run(context, args, options);
    } finally {
      await context.close();
    }
    if (result === undefined) return;
    if (context.settings.json) await context.print(`${JSON.stringify(result, null, 2)}\n`);
    else await context.print(verb.describe(result, context, options));
  });
  return command;
}

/** Such as `iotdm slot write`. */
export function fullName(command: Command): string {
  return command.parent === null ? command.name() : `${fullName(command.parent)} ${command.name()}`;
}

function globalOptions(command: Command): Option[] {
  const options: Option[] = [];
  for (let parent = command.parent; parent !== null; parent = parent.parent) {
    options.push(...parent.options.filter((option) => !option.hidden && option.long !== '--version'));
  }
  return options;
}

/** Examples and pointers under a help text. */
export function footer(examples: readonly string[], seeAlso: readonly string[]): string {
  const lines = [
    '',
    examples.length === 1 ? 'Example:' : 'Examples:',
    ...examples.map((line) => `  ${line}`),
  ];
  if (seeAlso.length > 0) lines.push('', `See also: ${seeAlso.join(', ')}`);
  return `${lines.join('\n')}\n`;
}
