/** "Did you mean …": the known name closest to a mistyped one. */

/** Names are far shorter; what comes from a file need not be. */
const MAX_NAME_LENGTH = 64;

/**
 * The candidate at the smallest edit distance without regard to case, or undefined when none is close enough to be
 * meant.
 * @param limit the greatest distance that is close enough; a third of what was typed, and one at least, when absent
 */
export function nearest<Name extends string>(
  typed: string,
  candidates: readonly Name[],
  limit = Math.max(1, Math.floor(typed.length / 3)),
): Name | undefined {
  let best: { name: Name; distance: number } | undefined;
  for (const name of candidates) {
    const distance = editDistance(typed.toLowerCase(), name.toLowerCase());
    if (distance <= limit && (best === undefined || distance < best.distance)) best = { name, distance };
  }
  return best?.name;
}

/** Edit distance of the first 64 characters; two neighbours that changed places count as one mistake. */
export function editDistance(left: string, right: string): number {
  const a = left.slice(0, MAX_NAME_LENGTH);
  const b = right.slice(0, MAX_NAME_LENGTH);
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  let before: number[] = [];
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swap = isSwap ? (before[j - 2] ?? 0) + 1 : Infinity;
      next.push(Math.min(substitution, swap, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    before = row;
    row = next;
  }
  return row[b.length] ?? 0;
}
