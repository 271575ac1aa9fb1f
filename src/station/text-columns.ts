/** Which columns of CSV hold texts whatever their cells look like: versions such as 1.10 lose their zero as numbers. */
import { columnOfName, nameOfColumn, quoted } from './enrollment-columns.ts';
import { twinPathProblem } from './initial-twin.ts';

/**
 * Why a text names no such column, or undefined where it does.
 * @param name `tags.NAME`, `desired.NAME`, or either with `.*` at its end for all that is below
 */
export function textColumnProblem(name: string): string | undefined {
  const column = columnOfName(withoutStar(name) ?? name);
  const isPart = /^(?:tags|desired)\.\*$/i.test(name);
  if (isPart) return undefined;
  if (column?.kind !== 'twin')
    return `${quoted(name)} is no column of a twin: expected tags.NAME, desired.NAME, or tags.* for all tags`;
  return twinPathProblem(column.path);
}

/** The one of the names and patterns that a column goes by, or undefined. */
export function textColumnOf(column: string, textColumns: readonly string[]): string | undefined {
  return textColumns.find((name) => {
    const above = withoutStar(name);
    return above === undefined ? canonical(name) === column : column.startsWith(`${canonical(above)}.`);
  });
}

function withoutStar(name: string): string | undefined {
  return name.endsWith('.*') ? name.slice(0, -2) : undefined;
}

function canonical(name: string): string {
  const column = columnOfName(name);
  return column === undefined ? name.toLowerCase() : nameOfColumn(column);
}
