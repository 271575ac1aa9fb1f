/** What `--json` and `--format` say together, where a command has both. */
import { IotdmError } from '../../src/errors.ts';
import type { Settings } from './settings.ts';

/**
 * `--format` is asked for on the command line, and so wins over JSON from the environment or the settings file.
 * @throws IotdmError `usage.invalid` where --json asks for something else
 */
export function outputFormat<Format extends string>(
  { json, flags }: Pick<Settings, 'json' | 'flags'>,
  given: Format | undefined,
): Format | 'json' | 'text' {
  if (given === undefined) return json ? 'json' : 'text';
  if (flags.has('json') && given !== 'json') {
    throw new IotdmError('usage.invalid', `--json and --format ${given} ask for two different things`);
  }
  return given;
}
