/** Limpet's commands on the TPM as a whole. */
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { encodedName, listSlotNames } from '../../src/slot/slots.ts';
import type { Hierarchy } from '../../src/tpm/tss.ts';
import type { Context } from '../shared/context.ts';
import { CommandError } from '../shared/failure.ts';
import { writeOutputFile } from '../shared/output-file.ts';
import { clearAndForget } from '../tpm/clear.ts';
import { simulatorNotice } from '../simulator/start.ts';
import { enrollmentInfo, registered } from './enrollment-info.ts';
import type { LimpetOutput, TpmHandler } from './output.ts';
import type { TpmSwitchName } from './switches.ts';
import { element, inlineElement, type XmlElement } from './xml.ts';

export const tpmHandlers: Readonly<Record<TpmSwitchName, TpmHandler>> = {
  VER: (context) => Promise.resolve(inlineElement('Version', context.host.tool.replace('iotdm/', ''))),

  async GTI(context) {
    const [{ readCapabilities, toTpmInfo }, { bootLogSize }] = await Promise.all([
      import('../../src/tpm/capabilities.ts'),
      import('../../src/tpm/boot-log.ts'),
    ]);
    const tpm = await context.openTpm();
    const info = toTpmInfo(await readCapabilities(tpm));
    // As Limpet says it: whether whoever runs it has the value of an authorization that is set.
    const auth = (state: 'set' | 'notSet', hierarchy: Hierarchy): string => {
      if (state === 'notSet') return 'NotSet';
      return tpm.hasAuth(hierarchy) ? 'Available' : 'Unavailable';
    };
    const logSize = await bootLogSize(tpm.name, (file) => createReadStream(file));
    const values: readonly (readonly [string, string | number | boolean])[] = [
      ['TpmType', info.type],
      ['TpmFamily', info.family],
      ['TpmLevel', info.level],
      ['TpmRevision', info.revision],
      ['TpmManufacturer', info.manufacturer],
      ['TpmVendorString', info.vendorString],
      ['TpmFirmware', info.firmware],
      ['LockoutAuth', auth(info.lockoutAuth, 'lockout')],
      ['EndorsementAuth', auth(info.endorsementAuth, 'endorsement')],
      ['StorageAuth', auth(info.storageAuth, 'owner')],
      ['DisableClear', info.disableClear],
      ['InLockout', info.inLockout],
      ['RSA', info.rsa],
      ['HMAC', info.hmac],
      ['AES', info.aes],
      ['ECC', info.ecc],
      ['TcgLogSize', logSize],
    ];
    return element(
      'TpmInfo',
      values.map(([name, value]) => inlineElement(name, String(value))),
    );
  },

  async FCT(context) {
    const { planClear } = await import('../../src/station/tpm-clear.ts');
    const slots = await context.openSlotsToChange();
    await clearAndForget(slots, await planClear(slots.tpm));
    return element('TpmClear', 'OK');
  },

  LAT: () =>
    Promise.resolve(
      element('TpmAddInSupport', [
        element(
          'Generic',
          addOns.map((name, index) => ({
            ...inlineElement('ACPITABL', name),
            attributes: { index: String(index) },
          })),
        ),
      ]),
    ),

  async IAT(context, [index = '']) {
    const name = /^\d$/.test(index) ? addOns[Number(index)] : undefined;
    if (name === undefined) {
      throw new CommandError(
        'usage.unsupported',
        'there is no add-on TPM with this index: 1 is the simulator, 0 takes it away again',
        'a TPM on a board of its own is the business of the operating system; iotdm tpm list shows which there are',
      );
    }
    if (index === '0') await removeSimulator(context);
    else await installSimulator(context);
    return inlineElement('Installed', name);
  },

  async LLD(context) {
    const devices = await listSlotNames(await context.openTpm());
    return element(
      'LogicalDevices',
      devices.map(({ slot, storageName, keyName }) => ({
        ...element('LogicalDevice', [
          ...(storageName === null ? [] : [element('StorageName', encodedName(storageName))]),
          ...(keyName === null ? [] : [element('HmacKeyName', encodedName(keyName))]),
        ]),
        attributes: { id: String(slot) },
      })),
    );
  },

  async ERK(context, [file]) {
    const { publicArea } = await (await context.openTpm()).readEndorsementKey();
    return publicKey('ERKPub', publicArea, file);
  },

  async SRK(context, [file]) {
    const { publicArea } = await (await context.openTpm()).readStorageRootKey();
    return publicKey('SRKPub', publicArea, file);
  },

  async enrollmentInfo(context, formats) {
    const { publicArea } = await (await context.openTpm()).readEndorsementKey();
    return enrollmentInfo(
      { registrationId: registrationIdOf(publicArea), endorsementKey: publicArea.toString('base64') },
      formats,
    );
  },

  register: registerDevice,
};

/** By index, as `-IAT` takes it. */
const addOns = ['none', 'simulator'] as const;

const SIMULATOR_DIR = join('.iotdm', 'simulator');

async function installSimulator(context: Context): Promise<void> {
  const { startSimulator } = await import('../../src/tpm/simulator.ts');
  const { tcti } = await startSimulator({ dir: SIMULATOR_DIR });
  context.console.warn(simulatorNotice);
  context.console.note(`to use it: export IOTDM_TPM=${tcti ?? ''}`);
}

async function removeSimulator(context: Context): Promise<void> {
  const { stopSimulator } = await import('../../src/tpm/simulator.ts');
  const wasRunning = await stopSimulator(SIMULATOR_DIR);
  context.console.note(
    wasRunning
      ? 'the simulator has ended; its state is kept until: iotdm simulator stop --wipe'
      : 'no simulator was running',
  );
}

/** Limpet replaces a file that is there, and scripts that run for one device after the other rely on it. */
async function publicKey(name: string, publicArea: Buffer, file: string | undefined): Promise<XmlElement> {
  if (file !== undefined) await writeOutputFile(file, publicArea, { overwrite: true });
  return element(name, publicArea.toString('base64'));
}

/** Unlike Limpet's, it empties no slot first: one with another identity is left as it is. */
async function registerDevice(
  context: Context,
  [slot = '', deviceHost = '', idScope = '']: readonly string[],
): Promise<LimpetOutput> {
  const [{ parseSlotNumber }, { hubCheckOf }, { register, registrationPlan }] = await Promise.all([
    import('../../src/slot/layout.ts'),
    import('../shared/hub.ts'),
    import('../shared/registration.ts'),
  ]);
  const number = parseSlotNumber(slot);
  const dps = await registrationPlan(context, {}, {}, { deviceHost, idScope });
  const check = await hubCheckOf(context, {});
  const slots = await context.openSlotsToChange();
  const result = await register(context, {
    ...{ slots, slot: number, dps, anew: false, overwrite: false },
    ...check,
  });
  return registered(result);
}
