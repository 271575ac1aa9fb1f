import { Option } from 'commander';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { checkSlotClearable, clearSlot } from '../../src/slot/slots.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export interface SlotClearOptions {
  readonly force?: boolean;
}

export interface SlotClearResult {
  readonly slot: number;
  /** What stood there. */
  readonly uri: string | null;
  readonly keyName: string | null;
  readonly cleared: boolean;
  readonly dryRun?: true;
}

export const slotClear: Verb<[string], SlotClearOptions, SlotClearResult> = {
  name: 'clear',
  arguments: [slotArgument],
  summary: 'destroy the identity in a slot',
  description:
    'Destroys the identity in a slot: its URI and its key. The key cannot be brought back: the device cannot connect ' +
    'until it is given a new identity. Asks first, unless --yes is given.',
  examples: ['iotdm slot clear 3', 'iotdm slot clear 3 --yes'],
  seeAlso: ['iotdm slot show', 'iotdm slot write'],
  settings: ['tpm', 'timeout', 'change', 'confirm', 'dry-run'],
  options: [new Option('--force', "destroy even what is not a slot's key or URI")],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const slots = await context.openSlotsToChange();
    const { uri, keyName, state } = await checkSlotClearable(slots, number, options);
    const before = { slot: number, uri, keyName };
    if (state === 'empty') return { ...before, cleared: false };
    if (context.settings.dryRun) return { ...before, cleared: false, dryRun: true };
    await context.confirm(`Destroy the identity ${uri ?? '(without a name)'} in slot ${number} for good?`);
    await clearSlot(slots, number, options);
    return { ...before, cleared: true };
  },
  describe({ slot, uri, cleared, dryRun }) {
    if (dryRun === true) {
      return `Would destroy ${uri === null ? `what slot ${slot} holds` : `${uri} in slot ${slot}`}.\n`;
    }
    return cleared
      ? `Slot ${slot} is empty now; ${uri ?? 'what it held'} is destroyed.\n`
      : `Slot ${slot} was empty already.\n`;
  },
};
