import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { inflateSync } from 'node:zlib';
import fc from 'fast-check';
import qrcode from 'qrcode';
import { Context } from '../../commands/shared/context.ts';
import { qrImage, QUIET_ZONE, terminalQrCode } from '../../commands/shared/qr-code.ts';
import { drawQrCode } from '../../commands/shared/qr-options.ts';
import { resolveSettings } from '../../commands/shared/settings.ts';
import { vectorEndorsementKey, vectorRegistrationId } from '../fakes/endorsement-keys.ts';
import { iotdm, scratchDirectory, softwareTpm } from '../lab/lab.ts';

const label = JSON.stringify({
  registrationId: vectorRegistrationId,
  endorsementKey: vectorEndorsementKey,
});

/** Rows of `#` and `.`, with the quiet zone that belongs around them. */
function modulesOf(text: string, errorCorrectionLevel: 'L' | 'M'): string[] {
  const { size, data } = qrcode.create(text, { errorCorrectionLevel }).modules;
  const margin = '.'.repeat(QUIET_ZONE);
  const blank = Array.from({ length: QUIET_ZONE }, () => '.'.repeat(size + 2 * QUIET_ZONE));
  const rows = Array.from({ length: size }, (_, row) =>
    Array.from({ length: size }, (__, column) => (data[row * size + column] === 1 ? '#' : '.')).join(''),
  );
  return [...blank, ...rows.map((row) => `${margin}${row}${margin}`), ...blank];
}

/** Two rows of modules for each line of half blocks; the row below the last one is blank. */
function modulesOfLines(lines: readonly string[]): string[] {
  return lines.flatMap((line) => [
    Array.from(line, (block) => ('█▀'.includes(block) ? '#' : '.')).join(''),
    Array.from(line, (block) => ('█▄'.includes(block) ? '#' : '.')).join(''),
  ]);
}

/** One character for each module of a PNG image of eight bits a channel, RGBA. */
function modulesOfPng(png: Buffer): string[] {
  assert.equal(png.subarray(0, 8).toString('hex'), '89504e470d0a1a0a');
  const data: Buffer[] = [];
  let width = 0;
  for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at)) {
    const type = png.toString('latin1', at + 4, at + 8);
    const chunk = png.subarray(at + 8, at + 8 + png.readUInt32BE(at));
    if (type === 'IHDR') {
      width = chunk.readUInt32BE(0);
      assert.equal(chunk.subarray(4).toString('hex'), `${width.toString(16).padStart(8, '0')}0806000000`);
    }
    if (type === 'IDAT') data.push(chunk);
  }
  const pixels = unfiltered(inflateSync(Buffer.concat(data)), width * 4);
  const scale = 8;
  const rows: string[] = [];
  for (const [y, row] of pixels.entries()) {
    const shades = Array.from({ length: width }, (_, x) => row.toString('hex', 4 * x, 4 * x + 4));
    const text = shades
      .map((shade) => (shade === '000000ff' ? '#' : shade === 'ffffffff' ? '.' : '?'))
      .join('');
    assert.match(text, new RegExp(`^(#{${scale}}|\\.{${scale}})+$`));
    if (y % scale === 0) rows.push(text.replace(new RegExp(`(.).{${scale - 1}}`, 'g'), '$1'));
    else assert.deepEqual(row, pixels[y - 1]);
  }
  return rows;
}

/** The PNG filters, section 9 of the specification. */
function unfiltered(bytes: Buffer, stride: number): Buffer[] {
  const rows: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += stride + 1) {
    const filter = bytes.readUInt8(at);
    const row = Buffer.from(bytes.subarray(at + 1, at + 1 + stride));
    const above = rows.at(-1) ?? Buffer.alloc(stride);
    for (let x = 0; x < stride; x += 1) {
      const [left, up, corner] = [row[x - 4] ?? 0, above[x] ?? 0, above[x - 4] ?? 0];
      const estimate = left + up - corner;
      const [a, b, c] = [left, up, corner].map((value) => Math.abs(estimate - value)) as [
        number,
        number,
        number,
      ];
      const paeth = a <= b && a <= c ? left : b <= c ? up : corner;
      const added = [0, left, up, (left + up) >> 1, paeth][filter] ?? 0;
      row[x] = ((row[x] ?? 0) + added) & 0xff;
    }
    rows.push(row);
  }
  return rows;
}

/** The horizontal strokes of a drawing, one unit high. */
function modulesOfSvg(svg: string): string[] {
  const size = Number(/viewBox="0 0 (\d+) \1"/.exec(svg)?.[1]);
  assert.match(svg, new RegExp(`<path fill="#ffffff" d="M0 0h${size}v${size}H0z"/>`));
  const rows = Array.from({ length: size }, () => Array.from({ length: size }, () => '.'));
  const strokes = /<path stroke="#000000" d="([^"]+)"/.exec(svg)?.[1] ?? '';
  let [x, y] = [0, 0];
  for (const [, letter, first = '0', , second = '0'] of strokes.matchAll(
    /([Mmh])(-?[\d.]+)( (-?[\d.]+))?/g,
  )) {
    if (letter === 'M') [x, y] = [Number(first), Math.floor(Number(second))];
    else if (letter === 'm') [x, y] = [x + Number(first), y + Number(second)];
    else {
      rows[y]?.fill('#', x, x + Number(first));
      x += Number(first);
    }
  }
  return rows.map((row) => row.join(''));
}

describe('the QR code of an endorsement key', () => {
  it('is, module for module, what the standard makes of the text: in blocks, as PNG and as SVG', async () => {
    const texts = fc.oneof(fc.constant(label), fc.string({ minLength: 1, maxLength: 600 }));
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        const { lines, width } = await terminalQrCode(text);
        const expected = modulesOf(text, 'L');
        assert.deepEqual(modulesOfLines(lines), [...expected, '.'.repeat(width)]);
        assert.ok(lines.every((line) => line.length === width));
        assert.deepEqual(modulesOfPng(await qrImage(text, 'png')), modulesOf(text, 'M'));
        assert.deepEqual(modulesOfSvg((await qrImage(text, 'svg')).toString()), modulesOf(text, 'M'));
      }),
      { numRuns: 4, examples: [[label]] },
    );
  });

  it('fits: version 15 in a terminal, 18 on a label', async () => {
    const size = (version: number): number => 17 + 4 * version + 2 * QUIET_ZONE;
    assert.equal((await terminalQrCode(label)).width, size(15));
    assert.equal((await qrImage(label, 'png')).readUInt32BE(16), size(18) * 8);
  });

  it('is dark on white in a terminal with colours, and refused by one that is too narrow', async () => {
    const stdout = Object.assign(new PassThrough(), { isTTY: true, columns: 85 });
    const host = {
      stdin: new PassThrough(),
      stdout,
      stderr: new PassThrough(),
      environment: {},
      signal: new AbortController().signal,
      clock: () => new Date(0),
      tool: 'iotdm/0.1.0',
      self: [],
    };
    const { lines } = await terminalQrCode(label);
    const coloured = await drawQrCode(new Context(host, resolveSettings({}, {})), label);
    assert.equal(
      coloured,
      lines.map((line) => `\u001b[30m\u001b[107m${line}\u001b[49m\u001b[39m\n`).join(''),
    );
    const plain = await drawQrCode(new Context(host, resolveSettings({}, { NO_COLOR: '1' })), label);
    assert.equal(plain, `${lines.join('\n')}\n`);
    stdout.columns = 84;
    await assert.rejects(drawQrCode(new Context(host, resolveSettings({}, {})), label), {
      code: 'usage.invalid',
      message: 'the QR code is 85 columns wide, this terminal has 84',
    });
  });
});

describe('ek read --qr and --qr-out', () => {
  it('show what ek read says', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    const png = join(dir, 'label.PNG');
    const tpm = ['--tpm', chip.tcti];
    const plain = await iotdm(['ek', 'read', ...tpm]);
    const read = await iotdm(['ek', 'read', '--json', '--qr-out', png, ...tpm]);
    assert.equal(read.code, 0, read.stderr);
    const { registrationId, endorsementKey } = JSON.parse(read.stdout) as Record<string, string>;
    const text = JSON.stringify({ registrationId, endorsementKey });
    assert.deepEqual(modulesOfPng(readFileSync(png)), modulesOf(text, 'M'));
    assert.equal(statSync(png).mode & 0o777, 0o600);

    const drawn = await iotdm(['ek', 'read', '--qr', ...tpm]);
    assert.ok(drawn.stdout.startsWith(plain.stdout));
    const lines = drawn.stdout.slice(plain.stdout.length, -1).split('\n');
    assert.deepEqual(modulesOfLines(lines).slice(0, -1), modulesOf(text, 'L'));

    const again = await iotdm(['ek', 'read', '--qr-out', png, ...tpm]);
    assert.deepEqual([again.code, again.stdout], [2, '']);
    assert.match(again.stderr, /^iotdm: error: .*label\.PNG exists already$/m);
    const svg = readFileSync(png);
    assert.equal((await iotdm(['ek', 'read', '--qr-out', png, '--overwrite', ...tpm])).code, 0);
    assert.deepEqual(readFileSync(png), svg);
  });

  it('are refused before a TPM is touched where they cannot be meant', async (t) => {
    const dir = await scratchDirectory(t);
    const witness = join(dir, 'witness');
    for (const flags of [
      ['--qr', '--json'],
      ['--qr', '--format', 'pem'],
      ['--qr', '--out', join(dir, 'ek.txt')],
      ['--qr-out', join(dir, 'ek.jpg')],
      ['--qr-out', join(dir, 'ek.svg'), '--out', join(dir, 'ek.svg')],
    ]) {
      const { code, stdout } = await iotdm(['ek', 'read', '--tpm', `cmd:touch ${witness}`, ...flags]);
      assert.deepEqual([code, stdout], [2, ''], flags.join(' '));
    }
    assert.throws(() => statSync(witness), { code: 'ENOENT' });
  });
});
