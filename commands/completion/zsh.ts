/** Completion for zsh, with the descriptions of the help texts. */
import type { Command } from 'commander';
import { completionVerb } from './completion-verb.ts';
import { completedCommands, namesWithValue, type CompletedCommand } from './tree.ts';

export const completionZsh = completionVerb('zsh', 'source <(iotdm completion zsh)', {
  forever: 'iotdm completion zsh > "${fpath[1]}/_iotdm"',
  script: zshCompletion,
});

export function zshCompletion(program: Command): string {
  const commands = completedCommands(program);
  return `#compdef iotdm
# Completion of iotdm for zsh.
_iotdm() {
  local at='' skip='' word i
  local -a found
  local -A words_of options_of values_of files_of
  words_of=(
${commands
  .map(({ path, words }) =>
    entry(
      path,
      words.map(({ name, description }) => [name, description]),
    ),
  )
  .join('\n')}
  )
  options_of=(
${commands
  .map(({ path, options }) =>
    entry(
      path,
      options.flatMap(({ names, description }) => names.map((name): [string, string] => [name, description])),
    ),
  )
  .join('\n')}
  )
  values_of=(
${commands.flatMap(values).join('\n')}
  )
  files_of=(${commands
    .filter(({ takesFiles }) => takesFiles)
    .map(({ path }) => `${quoted(path)} 1`)
    .join(' ')})
  for ((i = 2; i < CURRENT; i++)); do
    word="\${words[i]}"
    if [[ -n "$skip" ]]; then skip=''; continue; fi
    case "$word" in
      ${namesWithValue(commands).join('|')}) skip="$word"; continue ;;
      -*) continue ;;
    esac
    found=("\${(@f)words_of[$at]}")
    if (( \${found[(I)\${(b)word}:*]} )); then at="\${at:+$at }$word"; fi
  done
  if [[ -n "$skip" ]]; then
    case "\${values_of[$at $skip]}" in
      '') return 1 ;;
      '<file>') _files ;;
      *) compadd -- \${(z)values_of[$at $skip]} ;;
    esac
  elif [[ "\${words[CURRENT]}" = -* ]]; then
    found=("\${(@f)options_of[$at]}")
    _describe -o option found
  elif [[ -n "\${files_of[$at]}" ]]; then
    _files
  else
    found=("\${(@f)words_of[$at]}")
    [[ -n "\${found[1]}" ]] && _describe command found
  fi
}
if [[ "\${funcstack[1]}" = _iotdm ]]; then _iotdm "$@"; else compdef _iotdm iotdm; fi
`;
}

/** A line for each word, `name:description`. */
function entry(path: string, words: readonly (readonly [string, string])[]): string {
  const lines = words.map(([name, description]) => `${name.replaceAll(':', '\\:')}:${description}`);
  return `    ${quoted(path)} ${quoted(lines.join('\n'))}`;
}

function values({ path, options }: CompletedCommand): string[] {
  return options.flatMap(({ names, value }) => {
    if (value === undefined || value === 'unknown') return [];
    const text = value === 'file' ? '<file>' : value.join(' ');
    return names.map((name) => `    ${quoted(`${path} ${name}`)} ${quoted(text)}`);
  });
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
