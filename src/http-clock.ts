/** What the `date` of an answer tells of the clock of this machine: tokens are dated by it, and refused when it is off. */

/** A token is good for minutes at least, and no clock that is set is off by as much as this. */
const TOLERANCE_S = 600;

/**
 * Seconds by which this machine is ahead of whoever answered, negative where it is behind, 0 where the answer does not
 * tell.
 * @param date header `date` (RFC 9110, 6.6.1)
 * @param now milliseconds since 1970
 */
export function clockOffsetSeconds(date: string | undefined, now: number): number {
  const theirs = Date.parse(date ?? '');
  return Number.isNaN(theirs) ? 0 : Math.round((now - theirs) / 1000);
}

/** Whether an offset is the clock's, and not the network's. */
export function isClockOff(seconds: number): boolean {
  return Math.abs(seconds) > TOLERANCE_S;
}

/** Beyond what an answer takes on its way: a token that has expired by so little was dated by a clock that is off. */
const EXPIRY_TOLERANCE_S = 60;

/**
 * Whether a token was refused for the clock that had dated it: one that is far off, or behind where the service says that
 * the token has expired.
 * @param said in the service's own words
 */
export function isClockToBlame(seconds: number, said = ''): boolean {
  return isClockOff(seconds) || (seconds < -EXPIRY_TOLERANCE_S && /\bexpir/i.test(said));
}

/** `1 day 2 hours behind the service's`. */
export function describeClock(seconds: number): string {
  const minutes = Math.max(1, Math.round(Math.abs(seconds) / 60));
  const parts = [
    [Math.floor(minutes / 1440), 'day'],
    [Math.floor((minutes % 1440) / 60), 'hour'],
    [minutes % 60, 'minute'],
  ] as const;
  const text = parts
    .filter(([number]) => number > 0)
    .slice(0, 2)
    .map(([number, unit]) => `${number} ${unit}${number === 1 ? '' : 's'}`)
    .join(' ');
  return `${text} ${seconds < 0 ? 'behind' : 'ahead of'} the service's`;
}
