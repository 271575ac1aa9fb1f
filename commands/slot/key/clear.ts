import { Option } from 'commander';
import { parseSlotNumber } from '../../../src/slot/layout.ts';
import { checkSlotKeyClearable, clearSlotKey, type SlotKeyCleared } from '../../../src/slot/slots.ts';
import { slotArgument } from '../../shared/slot-argument.ts';
import type { Verb } from '../../shared/verb.ts';

export interface SlotKeyClearOptions {
  readonly force?: boolean;
}

export type SlotKeyClearResult = SlotKeyCleared & { readonly dryRun?: true };

export const slotKeyClear: Verb<[string], SlotKeyClearOptions, SlotKeyClearResult> = {
  name: 'clear',
  arguments: [slotArgument],
  summary: 'destroy the key of a slot, and leave its URI',
  description:
    'Destroys the key of a slot and leaves its URI, if it has one. The key cannot be brought back. Asks first, unless ' +
    '--yes is given.',
  examples: ['iotdm slot key clear 3', 'iotdm slot key clear 3 --yes'],
  seeAlso: ['iotdm slot clear', 'iotdm slot key write'],
  settings: ['tpm', 'timeout', 'change', 'confirm', 'dry-run'],
  options: [new Option('--force', "destroy even what is not a slot's key")],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const slots = await context.openSlotsToChange();
    const found = await checkSlotKeyClearable(slots, number, options);
    if (found.keyName === null) return found;
    if (context.settings.dryRun) return { ...found, dryRun: true };
    await context.confirm(`Destroy the key of slot ${number} for good?`);
    return clearSlotKey(slots, number, options);
  },
  describe({ slot, cleared, dryRun }) {
    if (dryRun === true) return `Would destroy the key of slot ${slot}.\n`;
    return cleared
      ? `Slot ${slot} has no key now; the one it had is destroyed.\n`
      : `Slot ${slot} had no key already.\n`;
  },
};
