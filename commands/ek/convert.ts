import { hexRegistrationIdOf, registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { convertToEndorsementKey, MAX_KEY_INPUT_BYTES } from '../../src/tpm/endorsement-key-forms.ts';
import { table, type Verb } from '../shared/verb.ts';

export interface EkConvertResult {
  /** Base64 of the TPM2B_PUBLIC. */
  readonly endorsementKey: string;
  readonly registrationId: string;
  readonly hexRegistrationId: string;
  /** What the input was, such as `EK certificate (DER, padded)`. */
  readonly input: string;
}

export const ekConvert: Verb<[string], object, EkConvertResult> = {
  name: 'convert',
  arguments: [
    [
      '<file>',
      'public key, EK certificate or modulus, in any form, or what a program prints about it; - reads stdin',
    ],
  ],
  summary: 'turn a public key or EK certificate into the value that DPS takes',
  description:
    'Turns the public half of an RSA 2048 endorsement key into the value that DPS takes, without the device, and says ' +
    'what the input was. Takes a TPM2B_PUBLIC or TPMT_PUBLIC, a public key (SubjectPublicKeyInfo or PKCS#1, PEM or ' +
    'DER), an EK certificate (PEM or DER, also padded or with a TCG header, as it stands in the TPM) and a bare modulus ' +
    '(256 bytes, or as openssl prints it); each as it is, in hexadecimal or in base64. Also takes what programs print ' +
    'about the key: Limpet (-ERK, -enrollmentinfo), ek read and harvest in all their formats, tpm2_readpublic, and Format-Hex of ' +
    'PowerShell, xxd or hexdump -C. Several different keys in one input are refused, as is every other key, and it says ' +
    "why. Checks no signature: that a certificate is its maker's own is not shown by this.",
  examples: [
    'iotdm ek convert ek-certificate.der',
    'openssl rsa -pubin -in ek.pem -noout -modulus | iotdm ek convert -',
    'tpm2_nvread 0x1c00002 | iotdm ek convert - --json',
    'tpm2_readpublic -c 0x81010001 | iotdm ek convert -',
    'iotdm ek convert ek.pem --json | iotdm enrollment import - --dry-run',
  ],
  seeAlso: ['iotdm ek read', 'iotdm enrollment create', 'iotdm enrollment import'],
  settings: [],
  async run(context, [file]) {
    const content = await context.readInput(file, 'the key', MAX_KEY_INPUT_BYTES);
    const { endorsementKey, form, input } = convertToEndorsementKey(content);
    if (form !== 'EK certificate' && form !== 'TPM2B_PUBLIC' && form !== 'TPMT_PUBLIC') {
      context.console.note(`a ${form} does not say what it is for: this one is taken for an endorsement key`);
    }
    return {
      endorsementKey: endorsementKey.toString('base64'),
      registrationId: registrationIdOf(endorsementKey),
      hexRegistrationId: hexRegistrationIdOf(endorsementKey),
      input,
    };
  },
  describe: ({ endorsementKey, registrationId, hexRegistrationId, input }) =>
    table([
      ['Input', input],
      ['Endorsement key', endorsementKey],
      ['Registration id', registrationId],
      ['The same in hex', hexRegistrationId],
    ]) +
    "\nDPS's clients, Limpet and iotdm use the registration id; Microsoft's IoT Edge documentation shows it in hex.\n",
};
