/** What an input is, whatever its files are called: by this a journal is known to belong to it. */

import { createHash } from 'node:crypto';
import { readable } from '../records/text-source.ts';
import type { InputSource } from './enrollment-input.ts';

/**
 * SHA-256 over the SHA-256 of each source, in hex.
 * @throws IotdmError `input.unreadable`
 */
export async function inputDigest(sources: readonly InputSource[]): Promise<string> {
  const whole = createHash('sha256');
  for (const source of sources) {
    const one = createHash('sha256');
    for await (const piece of readable(source.open(), source.name)) one.update(piece);
    whole.update(one.digest());
  }
  return whole.digest('hex');
}
