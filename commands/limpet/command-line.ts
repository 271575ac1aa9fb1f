/** When the command line is Limpet's: by the name that iotdm was called by, and where its arguments begin. */
import { sharedOptionLength } from '../shared/settings.ts';

/**
 * Whether a link or a copy with Limpet's name was started: `/usr/local/bin/limpet`, `C:\tools\Limpet.exe`.
 * @param script the program that runs, as Node.js gives it in argv[1]
 */
export function isCalledLimpet(script: string | undefined): boolean {
  const name = script?.split(/[\\/]/).at(-1) ?? '';
  return /^limpet(\.(exe|js|mjs|cmd|bat|ps1))?$/i.test(name);
}

/**
 * Puts `--` before Limpet's own arguments, so that nothing in them is taken for an option of iotdm: `-VER` is no
 * `-V -E -R`. The options that all commands share stay where they are, before and behind `limpet`.
 */
export function fenceLimpet(args: readonly string[]): readonly string[] {
  const command = afterSharedOptions(args, 0, (at) => args[at]);
  if (args[command] !== 'limpet') return args;
  // A number behind `--wait` is that of a slot: here its own value is given with `=`.
  const start = afterSharedOptions(args, command + 1, () => undefined);
  const first = args[start];
  if (first === undefined || first === '--' || first === '--help') return args;
  return [...args.slice(0, start), '--', ...args.slice(start)];
}

function afterSharedOptions(
  args: readonly string[],
  from: number,
  optionalValue: (at: number) => string | undefined,
): number {
  let at = from;
  for (;;) {
    const length = sharedOptionLength(args[at] ?? '', optionalValue(at + 1));
    if (length === 0) return Math.min(at, args.length);
    at += length;
  }
}
