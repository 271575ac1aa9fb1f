import { hex32 } from '../../src/encoding.ts';
import { rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import { deliverKey, keyOutputOptions, type KeyOutputOptions } from '../shared/key-formats.ts';
import { outputFormat } from '../shared/output-format.ts';
import { table, type Verb } from '../shared/verb.ts';

export const srkRead: Verb<[], KeyOutputOptions, void> = {
  name: 'read',
  summary: 'read the storage root key',
  description:
    'Reads the public storage root key (SRK), the parent of the keys in the slots. ' +
    'Changes nothing in the TPM: where no SRK stands at 0x81000001, it is derived, read and flushed.',
  examples: ['iotdm srk read', 'iotdm srk read --json', 'iotdm srk read --format tpm2b --out srk.pub'],
  seeAlso: ['iotdm ek read', 'iotdm slot list'],
  settings: ['tpm', 'timeout', 'dry-run'],
  options: keyOutputOptions(),
  async run(context, _args, options) {
    outputFormat(context.settings, options.format);
    const tpm = await context.openTpm();
    const key = await tpm.readStorageRootKey();
    const result = {
      storageRootKey: key.publicArea.toString('base64'),
      name: key.name.toString('hex'),
      persistent: key.handle !== null,
      handle: key.handle === null ? null : hex32(key.handle),
    };
    await deliverKey(context, options, {
      result,
      text: table([
        ['Storage root key', result.storageRootKey],
        ['Key name', result.name],
        ['Persistent', result.handle === null ? 'no: derived, read and flushed' : `yes, at ${result.handle}`],
      ]),
      csv: `storageRootKey,name\n${result.storageRootKey},${result.name}\n`,
      publicArea: key.publicArea,
      keyObject: () => rsaKeyObject(key.modulus),
    });
  },
  describe: () => '',
};
