/** Completion for fish, with the descriptions of the help texts. */
import type { Command } from 'commander';
import { completionVerb } from './completion-verb.ts';
import { completedCommands, namesWithValue, type CompletedCommand, type CompletedOption } from './tree.ts';

export const completionFish = completionVerb('fish', 'iotdm completion fish | source', {
  forever: 'iotdm completion fish > ~/.config/fish/completions/iotdm.fish',
  script: fishCompletion,
});

export function fishCompletion(program: Command): string {
  const commands = completedCommands(program);
  const paths = commands.filter(({ path }) => path !== '').map(({ path }) => quoted(path));
  return `# Completion of iotdm for fish.
function __iotdm_at
    set -l at ''
    set -l skip ''
    for word in (commandline -opc)[2..-1]
        if test -n "$skip"
            set skip ''
            continue
        end
        if contains -- $word ${namesWithValue(commands).join(' ')}
            set skip 1
            continue
        end
        set -l next (string trim "$at $word")
        contains -- $next ${paths.join(' ')}; and set at $next
    end
    test "$at" = "$argv[1]"
end
complete -c iotdm -e
${commands.flatMap(lines).join('\n')}
`;
}

function lines(command: CompletedCommand): string[] {
  const begin = `complete -c iotdm -n ${quoted(`__iotdm_at ${quoted(command.path)}`)}`;
  return [
    ...(command.takesFiles ? [] : [`${begin} -f`]),
    ...command.words.map(({ name, description }) => `${begin} -a ${quoted(name)} -d ${quoted(description)}`),
    ...command.options.map((option) => `${begin} ${optionWords(option)}`),
  ];
}

function optionWords({ names, description, value }: CompletedOption): string {
  const flags = names.map((name) => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`));
  return `${flags.join(' ')}${valueWords(value)} -d ${quoted(description)}`;
}

function valueWords(value: CompletedOption['value']): string {
  if (value === undefined) return '';
  if (value === 'file') return ' -r -F';
  return value === 'unknown' ? ' -x' : ` -x -a ${quoted(value.join(' '))}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
