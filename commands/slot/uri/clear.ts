import { Option } from 'commander';
import { parseSlotNumber } from '../../../src/slot/layout.ts';
import { checkSlotUriClearable, clearSlotUri, type SlotUriCleared } from '../../../src/slot/slots.ts';
import { slotArgument } from '../../shared/slot-argument.ts';
import type { Verb } from '../../shared/verb.ts';

export interface SlotUriClearOptions {
  readonly force?: boolean;
}

export type SlotUriClearResult = SlotUriCleared & { readonly dryRun?: true };

export const slotUriClear: Verb<[string], SlotUriClearOptions, SlotUriClearResult> = {
  name: 'clear',
  arguments: [slotArgument],
  summary: 'remove the URI of a slot, and leave its key',
  description:
    'Removes the URI of a slot and leaves its key, if it has one. Asks first, unless --yes is given; the key can be given ' +
    'a URI again with: iotdm slot uri write.',
  examples: ['iotdm slot uri clear 3', 'iotdm slot uri clear 3 --yes'],
  seeAlso: ['iotdm slot clear', 'iotdm slot uri write'],
  settings: ['tpm', 'timeout', 'change', 'confirm', 'dry-run'],
  options: [new Option('--force', "remove even what is not a slot's URI")],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const slots = await context.openSlotsToChange();
    const found = await checkSlotUriClearable(slots, number, options);
    if (found.storageName === null) return found;
    if (context.settings.dryRun) return { ...found, dryRun: true };
    await context.confirm(`Remove the URI ${found.uri ?? '(never written)'} of slot ${number}?`);
    return clearSlotUri(slots, number, options);
  },
  describe({ slot, uri, cleared, dryRun }) {
    const what = uri ?? 'what stood there';
    if (dryRun === true) return `Would remove ${what} from slot ${slot}.\n`;
    return cleared ? `Slot ${slot} has no URI now; it was ${what}.\n` : `Slot ${slot} had no URI already.\n`;
  },
};
