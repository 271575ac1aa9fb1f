/** Completion for bash, also the old one of macOS; needs no other package. */
import type { Command } from 'commander';
import { completionVerb } from './completion-verb.ts';
import { completedCommands, namesWithValue, type CompletedCommand } from './tree.ts';

export const completionBash = completionVerb('bash', 'source <(iotdm completion bash)', {
  forever: 'iotdm completion bash > ~/.local/share/bash-completion/completions/iotdm',
  script: bashCompletion,
});

export function bashCompletion(program: Command): string {
  const commands = completedCommands(program);
  return `# Completion of iotdm for bash.
_iotdm_words() {
  case "$1" in
${cases(commands, ({ words }) => words.map(({ name }) => name))}
  esac
}
_iotdm_options() {
  case "$1" in
${cases(commands, ({ options }) => options.flatMap(({ names }) => names))}
  esac
}
_iotdm_values() {
  case "$1" in
${commands.flatMap(valueCases).join('\n')}
  esac
}
_iotdm_files() {
  case "$1" in
    ${commands
      .filter(({ takesFiles }) => takesFiles)
      .map(({ path }) => `'${path}'`)
      .join('|')}) return 0 ;;
  esac
  return 1
}
_iotdm() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" at='' skip='' word next i
  # bash takes --format=pem for three words.
  if [ "$current" = '=' ]; then current=''
  elif [ "$previous" = '=' ]; then previous="\${COMP_WORDS[COMP_CWORD-2]}"
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    if [ -n "$skip" ]; then
      [ "$word" = '=' ] || skip=''
      continue
    fi
    case "$word" in
      ${namesWithValue(commands).join('|')}) skip=1; continue ;;
      -*) continue ;;
    esac
    for next in $(_iotdm_words "$at"); do
      if [ "$next" = "$word" ]; then at="\${at:+$at }$word"; break; fi
    done
  done
  COMPREPLY=()
  local values=''
  if [ -n "$skip" ]; then
    values="$(_iotdm_values "$at $previous")"
    [ "$values" = '<file>' ] && return
  elif [ "\${current#-}" != "$current" ]; then
    values="$(_iotdm_options "$at")"
  else
    _iotdm_files "$at" && return
    values="$(_iotdm_words "$at")"
  fi
  type compopt > /dev/null 2>&1 && compopt +o default
  COMPREPLY=($(compgen -W "$values" -- "$current"))
}
complete -o default -F _iotdm iotdm
`;
}

function cases(
  commands: readonly CompletedCommand[],
  wordsOf: (command: CompletedCommand) => readonly string[],
): string {
  return commands
    .map((command) => ({ path: command.path, words: wordsOf(command) }))
    .filter(({ words }) => words.length > 0)
    .map(({ path, words }) => `    '${path}') echo '${words.join(' ')}' ;;`)
    .join('\n');
}

function valueCases({ path, options }: CompletedCommand): string[] {
  return options.flatMap(({ names, value }) => {
    if (value === undefined || value === 'unknown') return [];
    const places = names.map((name) => `'${path} ${name}'`).join('|');
    return [`    ${places}) echo '${value === 'file' ? '<file>' : value.join(' ')}' ;;`];
  });
}
