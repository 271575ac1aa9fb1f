/** An option that takes one value and is given twice: of two values for one thing, neither is sure to be the one meant. */
import type { Command } from 'commander';
import { IotdmError } from '../../src/errors.ts';

/**
 * Has the command, and all commands below it, end with `usage.invalid` where an option that takes one value stands twice
 * on the command line. Options that gather their values in a list may; environment and settings file do not count.
 */
export function refuseRepeatedOptions(command: Command): void {
  for (const option of command.options) {
    if (!option.required && !option.optional) continue;
    let isGiven = false;
    // Commander has put the value in its place by then.
    command.on(`option:${option.name()}`, () => {
      const isList = Array.isArray(command.getOptionValue(option.attributeName()));
      if (isGiven && !isList) {
        throw new IotdmError('usage.invalid', `${option.long ?? option.flags} is given twice`);
      }
      isGiven = true;
    });
  }
  for (const child of command.commands) refuseRepeatedOptions(child);
}
