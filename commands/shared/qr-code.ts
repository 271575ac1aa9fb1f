/** QR codes (ISO/IEC 18004) for a terminal, a label and a phone. The only file that knows the package `qrcode`. */
import qrcode from 'qrcode';

/** The margin that the standard asks for, in modules. */
export const QUIET_ZONE = 4;

/** On a screen nothing is scratched, and the smaller code still fits; a label in a factory is another matter. */
const TERMINAL_CORRECTION = 'L';
const LABEL_CORRECTION = 'M';

/** Pixels of a module: a label printer of 300 dpi makes it 0.7 mm. */
const PIXELS_PER_MODULE = 8;

export interface TerminalQrCode {
  /** Half blocks, two modules above each other in a character; dark ones are drawn. Quiet zone included. */
  readonly lines: readonly string[];
  /** Characters of a line. */
  readonly width: number;
}

export async function terminalQrCode(text: string): Promise<TerminalQrCode> {
  const drawn = await qrcode.toString(text, {
    type: 'utf8',
    errorCorrectionLevel: TERMINAL_CORRECTION,
    margin: QUIET_ZONE,
  });
  const lines = drawn.split('\n');
  return { lines, width: Math.max(...lines.map((line) => line.length)) };
}

export type QrImageType = 'png' | 'svg';

/** The bytes of an image file, dark on white. */
export async function qrImage(text: string, type: QrImageType): Promise<Buffer> {
  const options = { errorCorrectionLevel: LABEL_CORRECTION, margin: QUIET_ZONE } as const;
  if (type === 'png') return qrcode.toBuffer(text, { ...options, type, scale: PIXELS_PER_MODULE });
  return Buffer.from(await qrcode.toString(text, { ...options, type }));
}
