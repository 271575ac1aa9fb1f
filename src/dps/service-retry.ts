/** How long to wait before a throttled or overloaded service is asked again. */

/** The longest wait that a service can impose, in milliseconds. */
export const longestRetryAfterMs = 60_000;

const firstBackoffMs = 500;

/**
 * Milliseconds that a `retry-after` header asks for: seconds or an HTTP date (RFC 9110, 10.2.3), bounded to a minute.
 * Undefined when the header is absent or is neither.
 */
export function retryAfterMs(header: string | undefined, nowMs: number): number | undefined {
  const text = header?.trim() ?? '';
  if (/^[0-9]{1,10}(?:\.[0-9]{1,3})?$/.test(text)) return bounded(Number(text) * 1000);
  // Date.parse also reads much that is no HTTP date, such as a lone number with a sign.
  if (!/^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : bounded(at - nowMs);
}

/**
 * Exponential backoff with full jitter: anything from nothing to 0.5 s after the first attempt, to 1 s after the second,
 * and so on, so that stations that were throttled together do not come back together.
 */
export function backoffMs(attempt: number, random: () => number): number {
  return Math.round(random() * bounded(firstBackoffMs * 2 ** (attempt - 1)));
}

function bounded(ms: number): number {
  return Math.min(Math.max(Math.round(ms), 0), longestRetryAfterMs);
}
