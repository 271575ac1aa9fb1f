import { Option } from 'commander';
import { hex32 } from '../../src/encoding.ts';
import { registrationIdOf, rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import type { PrimaryKey } from '../../src/tpm/tpm.ts';
import { deliverKey, keyOutputOptions, type KeyOutputOptions } from '../shared/key-formats.ts';
import { checkQrOptions, drawQrCode, qrOptions, writeQrCode, type QrOptions } from '../shared/qr-options.ts';
import { table, type Verb } from '../shared/verb.ts';

export interface EkReadOptions extends KeyOutputOptions, QrOptions {
  readonly persist?: boolean;
}

export const ekRead: Verb<[], EkReadOptions, void> = {
  name: 'read',
  summary: 'read the endorsement key and the registration id it gives',
  description:
    'Reads the public endorsement key (EK) as DPS wants it, and the registration id that follows from it. ' +
    'Changes nothing in the TPM: where no EK stands at 0x81010001, it is derived, read and flushed.',
  examples: [
    'iotdm ek read',
    'iotdm ek read --json',
    'iotdm ek read --format pem --out ek.pem',
    'iotdm ek read --qr-out label.png',
    "iotdm ek read --tpm 'cmd:ssh dut tpm2_send'",
  ],
  seeAlso: ['iotdm tpm check', 'iotdm harvest', 'iotdm enrollment create', 'iotdm srk read'],
  settings: ['tpm', 'timeout', 'change', 'dry-run'],
  options: [
    ...keyOutputOptions(),
    ...qrOptions(),
    new Option('--persist', 'keep a derived EK at 0x81010001, as Limpet does'),
  ],
  async run(context, _args, options) {
    checkQrOptions(context, options);
    const tpm = options.persist === true ? await context.openTpmToChange() : await context.openTpm();
    const progress = await context.console.progress(
      'Reading the endorsement key; deriving it takes a chip a while',
    );
    let key: PrimaryKey;
    try {
      key = await tpm.readEndorsementKey({ persist: options.persist === true && !context.settings.dryRun });
    } finally {
      progress.done();
    }
    context.console.detail(originNote(tpm.commandsSent.includes('CreatePrimary')));
    if (options.persist === true) context.console.note(persistNote(key, context.settings.dryRun));
    const result = {
      registrationId: registrationIdOf(key.publicArea),
      endorsementKey: key.publicArea.toString('base64'),
      name: key.name.toString('hex'),
      algorithm: 'rsa2048',
      persistent: key.handle !== null,
      handle: key.handle === null ? null : hex32(key.handle),
    };
    const { registrationId, endorsementKey } = result;
    const qrText = JSON.stringify({ registrationId, endorsementKey });
    const drawing = options.qr === true ? await drawQrCode(context, qrText) : '';
    if (options.qrOut !== undefined) await writeQrCode(context, options.qrOut, qrText, options);
    await deliverKey(context, options, {
      result,
      text: `${table([
        ['Registration id', result.registrationId],
        ['Endorsement key', result.endorsementKey],
        ['Key name', result.name],
        ['Algorithm', result.algorithm],
        ['Persistent', result.handle === null ? 'no: derived, read and flushed' : `yes, at ${result.handle}`],
      ])}${drawing}`,
      csv: `registrationId,endorsementKey\n${result.registrationId},${result.endorsementKey}\n`,
      publicArea: key.publicArea,
      keyObject: () => rsaKeyObject(key.modulus),
    });
  },
  describe: () => '',
};

/** What costs nothing to know. */
function originNote(isDerived: boolean): string {
  return isDerived
    ? "the key is the one of template L-1, which is the manufacturer's"
    : "whether the manufacturer, one of Azure's SDKs or another program made the key cannot be told from its bytes: iotdm tpm check tells";
}

function persistNote(key: PrimaryKey, dryRun: boolean): string {
  if (dryRun && key.handle === null) return 'would keep the derived EK at 0x81010001';
  return 'the EK stands at 0x81010001';
}
