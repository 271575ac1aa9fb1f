/** Sets of row numbers as short texts: `0-9,12`. */

/** @param rows ascending or not; the text is ascending */
export function formatRanges(rows: readonly number[]): string {
  const sorted = rows.toSorted((a, b) => a - b);
  const ranges: string[] = [];
  for (let at = 0; at < sorted.length;) {
    const from = sorted[at] ?? 0;
    let to = from;
    for (at += 1; sorted[at] === to + 1; at += 1) to += 1;
    ranges.push(from === to ? String(from) : `${from}-${to}`);
  }
  return ranges.join(',');
}

/** Calls `each` for every row in the text; false when it is no such text, or names a row of `limit` or above. */
export function readRanges(text: string, limit: number, each: (row: number) => void): boolean {
  for (const part of text.split(',')) {
    const match = /^([0-9]{1,9})(?:-([0-9]{1,9}))?$/.exec(part);
    if (match === null) return false;
    const from = Number(match[1]);
    const to = Number(match[2] ?? match[1]);
    if (from > to || to >= limit) return false;
    for (let row = from; row <= to; row += 1) each(row);
  }
  return true;
}
