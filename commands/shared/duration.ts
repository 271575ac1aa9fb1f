/** Times as they are typed: `300`, `10m`, `2h`, `1d`. */

const unitSeconds: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** Seconds, or undefined for what is no time. */
export function secondsOf(text: string): number | undefined {
  const [, digits, unit = 's'] = /^([0-9]{1,7}(?:\.[0-9]{1,3})?)([smhd])?$/.exec(text) ?? [];
  return digits === undefined ? undefined : Number(digits) * (unitSeconds[unit] ?? 1);
}
