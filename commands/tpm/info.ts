import type { TpmInfo } from '../../src/tpm/capabilities.ts';
import { table, type Verb } from '../shared/verb.ts';

export const tpmInfo: Verb<[], object, TpmInfo> = {
  name: 'info',
  summary: 'say who made the TPM, what it can do and what state it is in',
  description:
    'Says who made the TPM, what it can do, and whether its hierarchies have authorization values. ' +
    'Sends six commands, none of which can change anything in the TPM.',
  examples: ['iotdm tpm info', 'iotdm tpm info --json | jq -e .suitableForDps'],
  seeAlso: ['iotdm tpm check', 'iotdm tpm list', 'iotdm ek read'],
  settings: ['tpm', 'timeout'],
  async run(context) {
    const { lacksForDps, readCapabilities, toTpmInfo } = await import('../../src/tpm/capabilities.ts');
    const capabilities = await readCapabilities(await context.openTpm());
    const lacking = lacksForDps(capabilities);
    if (lacking.length > 0)
      context.console.note(`not suitable for DPS: this TPM lacks ${lacking.join(', ')}`);
    return toTpmInfo(capabilities);
  },
  describe(info, { console: { style } }) {
    const algorithms = ['rsa', 'ecc', 'aes', 'hmac'] as const;
    return table([
      ['Manufacturer', info.manufacturer],
      ['Vendor string', info.vendorString],
      ['Firmware', info.firmware],
      ['Specification', `TPM ${info.family}, level ${info.level}, revision ${info.revision}`],
      ['Type', `${info.type} (the vendor's own number)`],
      [
        'Algorithms',
        algorithms
          .filter((name) => info[name])
          .map((name) => name.toUpperCase())
          .join(', '),
      ],
      ['Owner authorization', authorization(info.storageAuth)],
      ['Endorsement authorization', authorization(info.endorsementAuth)],
      ['Lockout authorization', authorization(info.lockoutAuth)],
      ['In lockout', info.inLockout ? style.red('yes') : 'no'],
      ['Can be cleared', info.disableClear ? style.yellow('no: TPM2_Clear is disabled') : 'yes'],
      ['Suitable for DPS', info.suitableForDps ? style.green('yes') : style.red('no')],
    ]);
  },
};

function authorization(state: TpmInfo['storageAuth']): string {
  return state === 'set' ? 'set' : 'not set';
}
