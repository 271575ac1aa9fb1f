import { Option } from 'commander';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { hubCheckOf, hubCheckOptions, type HubCheckSettings } from '../shared/hub.ts';
import {
  describeRegistration,
  register,
  registrationOptions,
  registrationPlan,
  type RegistrationResult,
  type RegistrationSettings,
} from '../shared/registration.ts';
import type { Verb } from '../shared/verb.ts';

export interface DeviceRegisterOptions extends RegistrationSettings, HubCheckSettings {
  readonly slot: string;
  readonly overwrite?: boolean;
  readonly force?: boolean;
}

export const deviceRegister: Verb<[], DeviceRegisterOptions, RegistrationResult> = {
  name: 'register',
  summary: 'register with the Device Provisioning Service, and keep the identity in a slot',
  description:
    'Registers the device by TPM attestation: the service encrypts a key for its endorsement key and storage root key, ' +
    'the TPM proves that it can use it, and the service assigns the device to an IoT Hub and gives it a key of its ' +
    'own, which the TPM takes over without showing it to anybody. Until that key is in the TPM and has signed, the ' +
    'slot stays as it was. A device that is registered is left alone.',
  examples: [
    'iotdm device register --id-scope 0ne000A1B2C',
    'iotdm device register --slot 3 --id-scope 0ne000A1B2C --registration-id press-17',
    'iotdm device register --id-scope 0ne000A1B2C --overwrite',
  ],
  seeAlso: ['iotdm ek read', 'iotdm enrollment create', 'iotdm module provision', 'iotdm slot verify'],
  settings: ['tpm', 'device', 'timeout', 'change', 'dry-run'],
  options: [
    new Option('--slot <n>', "slot for the identity; Azure's SDKs use 0").default('0'),
    ...registrationOptions(),
    ...hubCheckOptions(),
    new Option('--force', 'register anew, though the device is registered'),
    new Option('--overwrite', 'replace the identity that the slot holds, whatever it is'),
  ],
  async run(context, _args, options) {
    const slot = parseSlotNumber(options.slot);
    const dps = await registrationPlan(context, options);
    const check = await hubCheckOf(context, options);
    const slots = await context.openSlotsToChange();
    const { force = false, overwrite = false } = options;
    return register(context, { slots, slot, dps, anew: force, overwrite, ...check });
  },
  describe: describeRegistration,
};
