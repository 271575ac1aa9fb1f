import { Option } from 'commander';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { checkRepair, repairSlot, type RepairOutcome, type SlotRepaired } from '../../src/slot/slots.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export interface SlotRepairOptions {
  readonly undo?: boolean;
}

export type SlotRepairResult =
  | (SlotRepaired & { readonly dryRun?: never })
  | { readonly slot: number; readonly outcome: RepairOutcome; readonly dryRun: true };

export const slotRepair: Verb<[string], SlotRepairOptions, SlotRepairResult> = {
  name: 'repair',
  arguments: [slotArgument],
  summary: 'finish a change to a slot that was interrupted',
  description:
    'Finishes a write or a clear that was interrupted, by a loss of power for one, and proves the slot. The secret is not ' +
    'needed: the state directory holds the new key as this TPM wrapped it until the slot is proved. --undo takes the ' +
    'change back instead, which can be done as long as the old key has not been removed. Changes nothing where nothing ' +
    'was interrupted.',
  examples: ['iotdm slot repair 3', 'iotdm slot repair 3 --undo', 'iotdm slot repair 3 --dry-run'],
  seeAlso: ['iotdm slot show', 'iotdm slot verify', 'iotdm slot write', 'iotdm slot clear'],
  settings: ['tpm', 'timeout', 'change', 'dry-run'],
  options: [new Option('--undo', 'take the change back in place of finishing it')],
  async run(context, [slot], options) {
    const number = parseSlotNumber(slot);
    const slots = await context.openSlotsToChange();
    if (context.settings.dryRun) {
      const { outcome } = await checkRepair(slots, number, options);
      return { slot: number, outcome, dryRun: true };
    }
    return repairSlot(slots, number, options);
  },
  describe(result, { console: { style } }) {
    const { slot, outcome } = result;
    if (result.dryRun === true) return `${plans[outcome].replace('N', String(slot))}\n`;
    const now =
      result.state === 'empty' ? 'It is empty.' : `It holds ${result.uri ?? 'a key without a URI'}.`;
    const mark = outcome === 'nothing' ? '' : `${style.green('✔')} `;
    return `${mark}${outcomes[outcome].replace('N', String(slot))} ${now}\n`;
  },
};

const outcomes: Readonly<Record<RepairOutcome, string>> = {
  finished: 'The change to slot N is finished.',
  undone: 'The change to slot N is taken back.',
  outdated: 'Slot N is as another program has left it; the outdated recovery file is removed.',
  nothing: 'Slot N needs no repair.',
};

const plans: Readonly<Record<RepairOutcome, string>> = {
  finished: 'Would finish the change to slot N.',
  undone: 'Would take back the change to slot N.',
  outdated: 'Would remove an outdated recovery file of slot N, and leave the slot as it is.',
  nothing: 'Slot N needs no repair.',
};
