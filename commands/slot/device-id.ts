import { parseSlotNumber } from '../../src/slot/layout.ts';
import { slotDeviceId } from '../../src/slot/slots.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export const slotDeviceIdVerb: Verb<[string], object, { readonly deviceId: string }> = {
  name: 'device-id',
  arguments: [slotArgument],
  summary: "print a slot's logical device id, as Limpet does",
  description:
    "Prints the logical device id of a slot as Limpet's -RID does: a digest of the slot's number and the TPM's storage " +
    "root key, URL-encoded. It does not depend on what the slot holds, and is not IoT Hub's device id. Changes nothing.",
  examples: ['iotdm slot device-id 0', 'iotdm slot device-id 3 --json'],
  seeAlso: ['iotdm slot show', 'iotdm srk read'],
  settings: ['tpm', 'timeout'],
  async run(context, [slot]) {
    const number = parseSlotNumber(slot);
    const { deviceId } = await slotDeviceId(await context.openTpm(), number);
    return { deviceId };
  },
  describe: ({ deviceId }) => `${deviceId}\n`,
};
