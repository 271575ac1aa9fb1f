/** What the commands on slots share: the slot's number and its view for people. */
import type { SlotView } from '../../src/slot/slots.ts';
import type { Context } from './context.ts';
import { table } from './verb.ts';

export const slotArgument = ['<slot>', 'number of the slot, 0 to 9'] as const;

/** The JSON of `slot show`: the keys that scripts rely on. */
export type SlotJson = Omit<SlotView, 'remark' | 'interrupted'>;

export function slotTable(view: SlotView): string {
  const next = nextStep(view);
  return table([
    ['Slot', String(view.slot)],
    ['State', view.remark === null ? view.state : `${view.state}: ${view.remark}`],
    ['URI', view.uri ?? '-'],
    ['Key name', view.keyName ?? '-'],
    ...(next === undefined ? [] : [['Next', next] as const]),
  ]);
}

/** How to go on with a slot that is neither empty nor ready. */
export function nextStep({ slot, state, uri, keyName, interrupted }: SlotView): string | undefined {
  if (interrupted !== null) return `iotdm slot repair ${slot}`;
  if (state !== 'incomplete') return undefined;
  if (uri !== null) return `iotdm slot key write ${slot} --key-file FILE, or: iotdm slot clear ${slot}`;
  if (keyName !== null) return `iotdm slot uri write ${slot} HOST/DEVICE, or: iotdm slot clear ${slot}`;
  return `iotdm slot write ${slot} --overwrite --connection-string-file FILE, or: iotdm slot clear ${slot}`;
}

/** Slot 0 is the one that Windows.Devices.Tpm and Azure's SDKs take when nobody says which. */
export function noteSdkSlot(context: Context, slot: number): void {
  if (slot !== 0) return;
  context.console.note(
    "slot 0 is the one that Azure's device SDKs use as well: what they register goes into it, and replaces this",
  );
}
