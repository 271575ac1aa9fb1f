/** PASS and FAIL, to be read from three metres, with colours and without. */
import type { Console } from '../shared/console.ts';

const P = ['██████ ', '██   ██', '██████ ', '██     ', '██     '] as const;
const A = [' █████ ', '██   ██', '███████', '██   ██', '██   ██'] as const;
const S = [' ██████', '██     ', ' █████ ', '     ██', '██████ '] as const;
const F = ['███████', '██     ', '█████  ', '██     ', '██     '] as const;
const I = ['██', '██', '██', '██', '██'] as const;
const L = ['██     ', '██     ', '██     ', '██     ', '███████'] as const;

const ROWS = 5;
const MARGIN = '  ';

/**
 * Large where the terminal is wide enough, in one line where it is not, or is none.
 * @param columns of the terminal; undefined where stdout is none
 */
export function banner(passed: boolean, columns: number | undefined, style: Console['style']): string {
  const word = passed ? 'PASS' : 'FAIL';
  const letters = passed ? [P, A, S, S] : [F, A, I, L];
  const paint = passed ? style.green.bold : style.red.bold;
  const rows = Array.from(
    { length: ROWS },
    (_, row) => MARGIN + letters.map((letter) => letter[row] ?? '').join('  '),
  );
  const width = Math.max(...rows.map((row) => row.length));
  if (columns === undefined || columns < width) return `${paint(word)}\n`;
  return `\n${rows.map((row) => `${paint(row.trimEnd())}\n`).join('')}\n`;
}
