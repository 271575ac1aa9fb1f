/** The freshly built iotdm as a command on the PATH of the demo and the lab. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const executable = fileURLToPath(new URL('../../dist/iotdm.js', import.meta.url));

/** Makes `DIR/bin/iotdm` and returns `DIR/bin`. */
export function installCommand(dir: string): string {
  const bin = join(dir, 'bin');
  const script = join(bin, 'iotdm');
  mkdirSync(bin, { recursive: true });
  writeFileSync(script, `#!/bin/sh\nexec '${quoted(process.execPath)}' '${quoted(executable)}' "$@"\n`);
  chmodSync(script, 0o755);
  return bin;
}

function quoted(text: string): string {
  return text.replaceAll("'", String.raw`'\''`);
}
