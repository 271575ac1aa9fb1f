/** Completion for PowerShell, Windows' own and PowerShell 7. */
import type { Command } from 'commander';
import { completionVerb } from './completion-verb.ts';
import { completedCommands, namesWithValue } from './tree.ts';

export const completionPowershell = completionVerb(
  'powershell',
  'iotdm completion powershell | Out-String | Invoke-Expression',
  { forever: 'iotdm completion powershell | Add-Content $PROFILE', script: powershellCompletion },
);

export function powershellCompletion(program: Command): string {
  const commands = completedCommands(program);
  const words = commands.map(({ path, words: children }) => entry(path, children));
  const options = commands.map(({ path, options: own }) =>
    entry(
      path,
      own.flatMap(({ names, description }) => names.map((name) => ({ name, description }))),
    ),
  );
  const values = commands.flatMap(({ path, options: own }) =>
    own.flatMap(({ names, value }) =>
      value instanceof Array
        ? names.map((name) =>
            entry(
              `${path} ${name}`,
              value.map((choice) => ({ name: choice, description: choice })),
            ),
          )
        : [],
    ),
  );
  return `# Completion of iotdm for PowerShell.
Register-ArgumentCompleter -Native -CommandName iotdm -ScriptBlock {
  param($wordToComplete, $commandAst, $cursorPosition)
  $words = @{
${words.join('\n')}
  }
  $options = @{
${options.join('\n')}
  }
  $values = @{
${values.join('\n')}
  }
  $withValue = @(${namesWithValue(commands).map(quoted).join(', ')})
  $at = ''
  $skip = ''
  foreach ($element in ($commandAst.CommandElements | Select-Object -Skip 1)) {
    if ($element.Extent.EndOffset -ge $cursorPosition) { break }
    $word = $element.ToString()
    if ($skip -ne '') { $skip = ''; continue }
    if ($withValue -ccontains $word) { $skip = $word; continue }
    $next = ($at + ' ' + $word).Trim()
    if ($words.ContainsKey($next)) { $at = $next }
  }
  # Where nothing is offered, PowerShell completes names of files.
  if ($skip -ne '') { $offered = $values[($at + ' ' + $skip)] }
  elseif ($wordToComplete.StartsWith('-')) { $offered = $options[$at] }
  else { $offered = $words[$at] }
  $offered | Where-Object { $_ -and $_[0].StartsWith($wordToComplete) } | ForEach-Object {
    [System.Management.Automation.CompletionResult]::new($_[0], $_[0], 'ParameterValue', $_[1])
  }
}
`;
}

function entry(path: string, items: readonly { name: string; description: string }[]): string {
  const pairs = items.map(({ name, description }) => `@(${quoted(name)}, ${quoted(description || name)})`);
  // A comma before the first keeps a list of one pair from becoming the pair.
  return `    ${quoted(path)} = @(${pairs.length === 1 ? ',' : ''}${pairs.join(', ')})`;
}

function quoted(text: string): string {
  // PowerShell takes typographic quotes for quotes as well.
  return `'${text.replace(/['‘’‚‛]/g, (quote) => quote + quote)}'`;
}
