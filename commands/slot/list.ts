import { Option } from 'commander';
import { listSlots, type SlotView } from '../../src/slot/slots.ts';
import type { Verb } from '../shared/verb.ts';

export interface SlotListOptions {
  readonly all?: boolean;
}

export const slotList: Verb<[], SlotListOptions, readonly SlotView[]> = {
  name: 'list',
  summary: 'list the slots in use',
  description: 'Lists the slots in use and what they hold. Never shows a key. Changes nothing.',
  examples: ['iotdm slot list', 'iotdm slot list --all --json'],
  seeAlso: ['iotdm slot show', 'iotdm slot write', 'iotdm slot repair'],
  settings: ['tpm', 'timeout', 'state'],
  options: [new Option('--all', 'list empty slots too')],
  async run(context, _args, { all = false }) {
    const { tpm, recovery } = await context.openSlots();
    const slots = await listSlots(tpm, recovery);
    return slots.filter((slot) => all || slot.state !== 'empty');
  },
  describe(slots, { console: { style } }) {
    if (slots.length === 0) return 'No slot is in use.\n';
    const colors = { empty: style.dim, ready: style.green, incomplete: style.yellow, foreign: style.yellow };
    const rows = slots.map(({ slot, state, uri, remark, interrupted }) => {
      const what = uri ?? '-';
      const next = interrupted === null ? '' : ` → iotdm slot repair ${slot}`;
      const note = remark === null ? '' : `  (${remark})`;
      return `${String(slot).padEnd(4)}  ${colors[state](state.padEnd(10))}  ${what}${note}${next}\n`;
    });
    return `${style.bold('Slot  State       URI')}\n${rows.join('')}`;
  },
};
