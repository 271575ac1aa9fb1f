/** The tables that follow from Limpet's switches. */
import { limpetSwitches, notation, plannedSwitches, switchNames } from './switches.ts';

/** What a bad command line prints, and one without arguments. */
export function limpetUsage(): string {
  return [
    'Usage: limpet [-SWITCH] [parameters]',
    '       limpet [slot 0..9] [-SWITCH] [parameters]',
    '',
    'Switches in upper or lower case; <…> must be there, {…} may. 0 stands for any slot.',
    '',
    ...columns(switchNames.map((name) => [notation(limpetSwitches[name]), limpetSwitches[name].does])),
    '',
    'What each does in iotdm: iotdm limpet --help',
    '',
  ].join('\n');
}

/** For the help of `iotdm limpet`: how each row is said to iotdm itself. */
export function limpetHelpTable(): string {
  const rows = switchNames.map((name) => {
    const row = limpetSwitches[name];
    return [notation(row), row.iotdm] as const;
  });
  return [
    'Limpet → iotdm:',
    ...columns(rows),
    '',
    `Not available yet: -${plannedSwitches.slice(0, 8).join(' -')}`,
    `                   -${plannedSwitches.slice(8).join(' -')}`,
  ].join('\n');
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
}
