import { Option } from 'commander';
import { parseSlotNumber } from '../../../src/slot/layout.ts';
import { checkSlotUriWritable, checkUri, writeSlotUri } from '../../../src/slot/slots.ts';
import { noteSdkSlot, slotArgument } from '../../shared/slot-argument.ts';
import type { Verb } from '../../shared/verb.ts';

export interface SlotUriWriteOptions {
  readonly overwrite?: boolean;
  readonly force?: boolean;
}

export interface SlotUriWriteResult {
  readonly slot: number;
  readonly uri: string;
  /** Name of the NV index, hex; null on a dry run. */
  readonly storageName: string | null;
  readonly replaced: boolean;
  readonly dryRun?: true;
}

export const slotUriWrite: Verb<[string, string], SlotUriWriteOptions, SlotUriWriteResult> = {
  name: 'write',
  arguments: [slotArgument, ['<uri>', 'HOST/DEVICE or HOST/DEVICE/MODULE']],
  summary: 'give a slot its URI, and leave its key',
  description:
    'Writes the URI of a slot, HOST/DEVICE or HOST/DEVICE/MODULE, and leaves its key, if it has one. The slot is ready ' +
    'only with both: iotdm slot write writes them together.',
  examples: [
    'iotdm slot uri write 3 plant.azure-devices.net/press-17',
    'iotdm slot uri write 3 plant.azure-devices.net/press-17/axis --overwrite',
  ],
  seeAlso: ['iotdm slot key write', 'iotdm slot write', 'iotdm slot uri read'],
  settings: ['tpm', 'timeout', 'change', 'dry-run'],
  options: [
    new Option('--overwrite', 'replace the URI that the slot has'),
    new Option('--force', "replace even what is not a slot's URI"),
  ],
  async run(context, [slot, uri], options) {
    const number = parseSlotNumber(slot);
    checkUri(uri);
    const slots = await context.openSlotsToChange();
    if (context.settings.dryRun) {
      const { replaced } = await checkSlotUriWritable(slots, number, uri, options);
      return { slot: number, uri, storageName: null, replaced, dryRun: true };
    }
    const written = await writeSlotUri(slots, number, uri, options);
    noteSdkSlot(context, number);
    return written;
  },
  describe({ slot, uri, dryRun }, { console: { style } }) {
    if (dryRun === true) return `Would write ${uri} into slot ${slot}.\n`;
    return `${style.green('✔')} Slot ${slot} has the URI ${uri}.\n`;
  },
};
