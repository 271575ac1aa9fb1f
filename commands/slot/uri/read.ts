import { parseSlotNumber } from '../../../src/slot/layout.ts';
import { readSlotUri, type SlotUri } from '../../../src/slot/slots.ts';
import { slotArgument } from '../../shared/slot-argument.ts';
import type { Verb } from '../../shared/verb.ts';

export const slotUriRead: Verb<[string], object, SlotUri> = {
  name: 'read',
  arguments: [slotArgument],
  summary: 'print the URI of a slot',
  description:
    'Prints the URI of a slot, HOST/DEVICE or HOST/DEVICE/MODULE, whether the slot has a key or not. Changes nothing.',
  examples: ['iotdm slot uri read 3', 'iotdm slot uri read 3 --json'],
  seeAlso: ['iotdm slot show', 'iotdm slot uri write'],
  settings: ['tpm', 'timeout', 'state'],
  async run(context, [slot]) {
    const number = parseSlotNumber(slot);
    const { tpm, recovery } = await context.openSlots();
    return readSlotUri(tpm, number, recovery);
  },
  describe: ({ uri }) => `${uri}\n`,
};
