/** How CSV files are read that spreadsheets have been in: the options of every command that takes them. */
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { encodingOfLabel } from '../../src/records/text-source.ts';
import { textColumnProblem } from '../../src/station/text-columns.ts';
import { CommandError } from './failure.ts';

export interface CsvFileOptions {
  readonly encoding?: string;
  readonly asText?: boolean;
}

/** `--encoding` and `--as-text`. @param when such as `with --targets: `, where a command takes other input too */
export function csvOptions(when = ''): Option[] {
  return [
    new Option(
      '--encoding <name>',
      `${when}encoding of a file without a byte order mark, such as windows-1252 or utf-16le (default: utf-8)`,
    ),
    new Option(
      '--as-text',
      `${when}take ids, serial numbers and tags as they stand, also where a spreadsheet seems to have changed them (3.57E+14, Mar-17, #REF!)`,
    ),
  ];
}

export function textColumnsOption(): Option {
  return new Option(
    '--text-columns <names>',
    'columns of tags and desired properties whose cells are texts, such as tags.version,desired.* (1.10 is no number then)',
  ).argParser(parseTextColumns);
}

function parseTextColumns(value: string, before: readonly string[] | undefined): readonly string[] {
  const names = value.split(',').map((name) => name.trim());
  for (const name of names) {
    const problem = textColumnProblem(name);
    if (problem !== undefined) throw new IotdmError('usage.invalid', `--text-columns: ${problem}`);
  }
  return [...(before ?? []), ...names];
}

/** The encoding that was asked for, under the name by which it is decoded. @throws CommandError `usage.invalid` */
export function encodingOf({ encoding: label }: CsvFileOptions): string | undefined {
  if (label === undefined) return undefined;
  const encoding = encodingOfLabel(label);
  if (encoding !== undefined) return encoding;
  throw new CommandError(
    'usage.invalid',
    `--encoding: there is no encoding of the name ${JSON.stringify(label)} here`,
    'expected one such as utf-8, utf-16le, windows-1252 (Western Windows), windows-1250 (Central Europe), macintosh or gb18030',
  );
}
