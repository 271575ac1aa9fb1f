/** What a TPM holds and has counted, as tpm2-tools see it: equal before and after is the proof that nothing changed. */
import type { SoftwareTpm } from './lab.ts';

const kinds = ['persistent', 'transient', 'nv-index', 'loaded-session', 'saved-session'] as const;

export function chipContents(chip: SoftwareTpm): string {
  const handles = kinds.map((kind) => `${kind}:\n${chip.tool('tpm2_getcap', `handles-${kind}`)}`);
  // Holds the lockout counter, the authorizations that are set, and what is left of everything.
  return [...handles, chip.tool('tpm2_getcap', 'properties-variable')].join('');
}
