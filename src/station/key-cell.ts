/** The endorsement key that a cell gives, or what the cell holds in its place. */
import { decodeBase64 } from '../encoding.ts';
import { endorsementKeyProblem } from '../tpm/endorsement-key.ts';
import {
  nameOfKey,
  recognizeEndorsementKey,
  type RecognizedEndorsementKey,
} from '../tpm/endorsement-key-forms.ts';
import type { KeyField } from './enrollment-columns.ts';
import { errorValueIn, type DamageKind } from './spreadsheet-damage.ts';

export function differentKeys(field: KeyField, other: KeyField): string {
  return `${field} and ${other} of this row hold different keys`;
}

export type KeyOfCell =
  /** `text`: the key in base64, as DPS takes it. `certificate`: DER of the one that the key stands in. */
  | { readonly key: Buffer; readonly text: string; readonly certificate?: Buffer }
  /** `isAnotherKey`: the cell was understood, and holds a key that is no endorsement key. */
  | { readonly problem: string; readonly isAnotherKey: boolean; readonly damage?: DamageKind };

/** @param field the column, which says what is expected in it */
export function keyOfCell(field: KeyField, text: string): KeyOfCell {
  const bytes = field === 'endorsementKey' ? decodeBase64(text) : undefined;
  const problem = bytes === undefined ? undefined : endorsementKeyProblem(bytes);
  if (bytes !== undefined && problem === undefined) return { key: bytes, text };
  const error = errorValueIn(text);
  if (error !== undefined) return { problem: error.message, isAnotherKey: false, damage: error.kind };
  const found = recognizeEndorsementKey(Buffer.from(text));
  if (found.kind === 'unrecognized') {
    return { problem: problem ?? `${expectedIn[field]} is expected, ${found.problem}`, isAnotherKey: false };
  }
  if (found.kind !== 'endorsement-key') {
    return { problem: found.problem, isAnotherKey: found.kind === 'other-key' };
  }
  const wrong = wrongColumn(field, text, found);
  if (wrong !== undefined) return { problem: wrong, isAnotherKey: false };
  const { endorsementKey: key, certificate } = found;
  const text64 = key.toString('base64');
  return certificate === undefined ? { key, text: text64 } : { key, text: text64, certificate };
}

const expectedIn: Readonly<Record<KeyField, string>> = {
  endorsementKey: 'base64 of a TPM2B_PUBLIC',
  ekCertificate: 'an EK certificate',
  publicKey: 'a public key',
};

/** What is wrong with a key that was recognized, but in the wrong column or notation. */
function wrongColumn(field: KeyField, text: string, found: RecognizedEndorsementKey): string | undefined {
  const column = found.form === 'EK certificate' ? 'ekCertificate' : 'publicKey';
  if (field === column) return undefined;
  const it = nameOfKey(found);
  if (field !== 'endorsementKey') return `this is ${it}: name the column ${column}`;
  if (found.input === 'TPM2B_PUBLIC (base64)')
    return `${expectedIn[field]} is expected, this ${/\s/.test(text) ? 'has white space in it' : 'is not padded'}`;
  const missing = found.form === 'TPM2B_PUBLIC' ? 'one in base64' : 'a TPM2B_PUBLIC';
  return `this is ${it}, not ${missing}; iotdm ek convert FILE gives the value, or name the column ${column}`;
}
