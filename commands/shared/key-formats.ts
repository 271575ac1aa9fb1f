/** The forms in which `ek read` and `srk read` give a public key. */
import { Option } from 'commander';
import type { KeyObject } from 'node:crypto';
import type { Context } from './context.ts';
import { deliver } from './output-file.ts';
import { outputFormat } from './output-format.ts';

export const keyFormats = ['text', 'json', 'csv', 'tpm2b', 'pem'] as const;
export type KeyFormat = (typeof keyFormats)[number];

export interface KeyOutputOptions {
  readonly format?: KeyFormat;
  readonly out?: string;
  readonly overwrite?: boolean;
}

export function keyOutputOptions(): Option[] {
  return [
    new Option(
      '--format <format>',
      'text where none is given; tpm2b is the raw TPM2B_PUBLIC, pem a SubjectPublicKeyInfo',
    ).choices(keyFormats),
    new Option('--out <file>', 'write to a file (mode 0600) and not to stdout'),
    new Option('--overwrite', 'replace a file that is there'),
  ];
}

export interface KeyContents {
  readonly result: object;
  readonly text: string;
  readonly csv: string;
  readonly publicArea: Buffer;
  readonly keyObject: () => KeyObject;
}

/** Prints a key or writes it to a file, in the form that was asked for. */
export async function deliverKey(
  context: Context,
  options: KeyOutputOptions,
  contents: KeyContents,
): Promise<void> {
  await deliver(context, options, render(outputFormat(context.settings, options.format), contents));
}

function render(
  format: KeyFormat,
  { result, text, csv, publicArea, keyObject }: KeyContents,
): string | Buffer {
  switch (format) {
    case 'text':
      return text;
    case 'json':
      return `${JSON.stringify(result, null, 2)}\n`;
    case 'csv':
      return csv;
    case 'tpm2b':
      return publicArea;
    case 'pem':
      return keyObject().export({ type: 'spki', format: 'pem' });
  }
}
