import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';

/** A flag whose use is an error, because its value would be a secret that `ps` shows. */
export function secretFlag(flags: string, instead: string): Option {
  return new Option(flags).hideHelp().argParser(() => {
    throw new IotdmError(
      'usage.secret-in-argv',
      `${flags.split(' ')[0] ?? ''} is not accepted; use ${instead}`,
    );
  });
}
