import { parseSlotNumber } from '../../src/slot/layout.ts';
import { showSlot, type SlotView } from '../../src/slot/slots.ts';
import { slotArgument, slotTable } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export const slotShow: Verb<[string], object, SlotView> = {
  name: 'show',
  arguments: [slotArgument],
  summary: 'show what a slot holds',
  description:
    'Shows what a slot holds: "empty", "ready" (a key and the name it belongs to), "incomplete" (one of them is ' +
    'missing) or "foreign" (something else stands in its place), and whether a change to it was interrupted. Never ' +
    'shows a key. Changes nothing.',
  examples: ['iotdm slot show 0', 'iotdm slot show 3 --json'],
  seeAlso: ['iotdm slot list', 'iotdm slot write', 'iotdm slot verify', 'iotdm slot repair'],
  settings: ['tpm', 'timeout', 'state'],
  async run(context, [slot]) {
    const number = parseSlotNumber(slot);
    const { tpm, recovery } = await context.openSlots();
    return showSlot(tpm, number, recovery);
  },
  describe: slotTable,
};
