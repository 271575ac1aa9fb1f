/** What the commands on slots share: the slot's number and its view for people. */
import type { SlotView } from '../../src/slot/slots.ts';
import { table } from './verb.ts';

export const slotArgument = ['<slot>', 'number of the slot, 0 to 9'] as const;

/** The JSON of `slot show`: the keys that scripts rely on. */
export type SlotJson = Omit<SlotView, 'remark'>;

export function slotTable(view: SlotView): string {
  return table([
    ['Slot', String(view.slot)],
    ['State', view.remark === null ? view.state : `${view.state}: ${view.remark}`],
    ['URI', view.uri ?? '-'],
    ['Key name', view.keyName ?? '-'],
  ]);
}
