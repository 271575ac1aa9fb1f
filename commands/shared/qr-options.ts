/** `--qr` and `--qr-out`: what a phone or a label printer is to know of a key. */
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import type { Context } from './context.ts';
import { CommandError } from './failure.ts';
import type { KeyOutputOptions } from './key-formats.ts';
import { writeOutputFile } from './output-file.ts';
import { outputFormat } from './output-format.ts';

export interface QrOptions {
  readonly qr?: boolean;
  readonly qrOut?: string;
}

export function qrOptions(): Option[] {
  return [
    new Option('--qr', 'draw a QR code of registration id and endorsement key below the text'),
    new Option('--qr-out <file>', 'write that QR code to FILE.png or FILE.svg (mode 0600)'),
  ];
}

/** Refuses what cannot be done before a TPM is touched. @throws IotdmError `usage.invalid` */
export function checkQrOptions(context: Context, options: QrOptions & KeyOutputOptions): void {
  const { qr, qrOut, format, out } = options;
  const isText = outputFormat(context.settings, format) === 'text';
  if (qr === true && (!isText || out !== undefined)) {
    throw new IotdmError(
      'usage.invalid',
      '--qr draws below the text on stdout: leave out --json, --format and --out, or use --qr-out',
    );
  }
  if (qrOut === undefined) return;
  imageTypeOf(qrOut);
  if (qrOut === out) throw new IotdmError('usage.invalid', '--out and --qr-out name the same file');
}

/** The lines that `--qr` prints, in the colours of paper where the terminal has colours. */
export async function drawQrCode(context: Context, text: string): Promise<string> {
  const { terminalQrCode } = await import('./qr-code.ts');
  const { lines, width } = await terminalQrCode(text);
  const { isTTY, columns } = context.host.stdout;
  if (isTTY === true && columns !== undefined && columns < width) {
    throw new CommandError(
      'usage.invalid',
      `the QR code is ${width} columns wide, this terminal has ${columns}`,
      'widen the terminal, or write the QR code to a file with --qr-out FILE.png',
    );
  }
  const paper = context.console.style.black.bgWhiteBright;
  return lines.map((line) => `${paper(line)}\n`).join('');
}

/** @throws IotdmError `usage.output-exists`, `usage.output-unwritable` */
export async function writeQrCode(
  context: Context,
  path: string,
  text: string,
  { overwrite = false }: { overwrite?: boolean | undefined },
): Promise<void> {
  const { qrImage } = await import('./qr-code.ts');
  await writeOutputFile(path, await qrImage(text, imageTypeOf(path)), { overwrite });
  context.console.note(`wrote ${path}`);
}

function imageTypeOf(path: string): 'png' | 'svg' {
  const type = /\.(png|svg)$/i.exec(path)?.[1]?.toLowerCase();
  if (type === 'png' || type === 'svg') return type;
  throw new IotdmError('usage.invalid', `--qr-out takes a file that ends in .png or .svg, not ${path}`);
}
