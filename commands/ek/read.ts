import { Option } from 'commander';
import { hex32 } from '../../src/encoding.ts';
import { registrationIdOf, rsaKeyObject } from '../../src/tpm/endorsement-key.ts';
import type { EkOrigin } from '../../src/tpm/ek-origin.ts';
import type { PrimaryKey, Tpm } from '../../src/tpm/tpm.ts';
import { deliverKey, keyOutputOptions, type KeyOutputOptions } from '../shared/key-formats.ts';
import { checkQrOptions, drawQrCode, qrOptions, writeQrCode, type QrOptions } from '../shared/qr-options.ts';
import { table, type Verb } from '../shared/verb.ts';

export interface EkReadOptions extends KeyOutputOptions, QrOptions {
  readonly persist?: boolean;
  readonly origin?: boolean;
}

export const ekRead: Verb<[], EkReadOptions, void> = {
  name: 'read',
  summary: 'read the endorsement key and the registration id it gives',
  description:
    'Reads the public endorsement key (EK) as DPS wants it, and the registration id that follows from it. ' +
    'Changes nothing in the TPM: where no EK stands at 0x81010001, it is derived, read and flushed. With --origin also ' +
    "says whether the key is the manufacturer's; where no EK certificate names it, keys are derived to compare with.",
  examples: [
    'iotdm ek read',
    'iotdm ek read --json',
    'iotdm ek read --format pem --out ek.pem',
    'iotdm ek read --qr-out label.png',
    'iotdm ek read --origin',
    "iotdm ek read --tpm 'cmd:ssh dut tpm2_send'",
  ],
  seeAlso: ['iotdm tpm check', 'iotdm harvest', 'iotdm enrollment create', 'iotdm srk read'],
  settings: ['tpm', 'timeout', 'change', 'dry-run'],
  options: [
    ...keyOutputOptions(),
    ...qrOptions(),
    new Option(
      '--origin',
      "say whether the manufacturer, one of Azure's SDKs or another program made the key",
    ),
    new Option('--persist', 'keep a derived EK at 0x81010001, as Limpet does'),
  ],
  async run(context, _args, options) {
    checkQrOptions(context, options);
    const tpm = options.persist === true ? await context.openTpmToChange() : await context.openTpm();
    const progress = await context.console.progress(
      'Reading the endorsement key; deriving it takes a chip a while',
    );
    let key: PrimaryKey;
    let origin: EkOrigin | undefined;
    try {
      key = await tpm.readEndorsementKey({ persist: options.persist === true && !context.settings.dryRun });
      if (options.origin === true) origin = await originOf(tpm, key);
    } finally {
      progress.done();
    }
    if (origin === undefined) {
      context.console.detail(originNote(tpm.commandsSent.includes('CreatePrimary')));
    }
    if (options.persist === true) context.console.note(persistNote(key, context.settings.dryRun));
    const result = {
      registrationId: registrationIdOf(key.publicArea),
      endorsementKey: key.publicArea.toString('base64'),
      name: key.name.toString('hex'),
      algorithm: 'rsa2048',
      persistent: key.handle !== null,
      handle: key.handle === null ? null : hex32(key.handle),
      ...(origin === undefined ? {} : { origin }),
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
        ...(origin === undefined ? [] : [['Origin', originTexts[origin]] as const]),
      ])}${drawing}`,
      csv: `registrationId,endorsementKey\n${result.registrationId},${result.endorsementKey}\n`,
      publicArea: key.publicArea,
      keyObject: () => rsaKeyObject(key.modulus),
    });
  },
  describe: () => '',
};

async function originOf(tpm: Tpm, key: PrimaryKey): Promise<EkOrigin> {
  // What template L-1 has just given.
  if (tpm.commandsSent.includes('CreatePrimary')) return 'manufacturer';
  const [{ EkDerivation, findEkOrigin }, { findEkCertificate }] = await Promise.all([
    import('../../src/tpm/ek-origin.ts'),
    import('../../src/tpm/ek-certificate.ts'),
  ]);
  const certificate = await findEkCertificate(tpm, { ownerUsable: tpm.hasAuth('owner') });
  return (await findEkOrigin(key, certificate, new EkDerivation(tpm))).origin;
}

const originTexts: Readonly<Record<EkOrigin, string>> = {
  manufacturer: "the manufacturer's: the EK certificate names it, or template L-1 gives it",
  'azure-sdk': "made by one of Azure's SDKs (empty unique): no manufacturer's certificate names it",
  foreign: "foreign: neither template L-1 nor that of Azure's SDKs gives it",
};

/** What costs nothing to know. */
function originNote(isDerived: boolean): string {
  return isDerived
    ? "the key is the one of template L-1, which is the manufacturer's"
    : "whether the manufacturer, one of Azure's SDKs or another program made the key cannot be told from its bytes: --origin tells";
}

function persistNote(key: PrimaryKey, dryRun: boolean): string {
  if (dryRun && key.handle === null) return 'would keep the derived EK at 0x81010001';
  return 'the EK stands at 0x81010001';
}
