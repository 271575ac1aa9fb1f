import { parseSlotNumber } from '../../src/slot/layout.ts';
import { slotSign } from '../../src/slot/slots.ts';
import { slotArgument } from '../shared/slot-argument.ts';
import type { Verb } from '../shared/verb.ts';

export const slotSignVerb: Verb<[string, string], object, { readonly hmac: string }> = {
  name: 'sign',
  arguments: [slotArgument, ['<file>', 'what to sign (- reads stdin)']],
  summary: "compute the HMAC-SHA256 of a file with the slot's key",
  description:
    "Computes the HMAC-SHA256 of a file with the slot's key, inside the TPM, and prints it in base64.",
  examples: ['iotdm slot sign 0 firmware.bin', 'printf challenge | iotdm slot sign 0 -'],
  seeAlso: ['iotdm slot token', 'iotdm slot show'],
  settings: ['tpm', 'timeout', 'state'],
  async run(context, [slot, file]) {
    const number = parseSlotNumber(slot);
    const data = context.openInput(file, 'what is to be signed');
    const { tpm, recovery } = await context.openSlots();
    const hmac = await slotSign(tpm, number, data, recovery);
    return { hmac: hmac.toString('base64') };
  },
  describe: ({ hmac }) => `${hmac}\n`,
};
