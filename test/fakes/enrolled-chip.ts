/** A software TPM that is enrolled with an emulated service, and registrations of it in this process. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openAzureService } from '../../src/dps/azure-service.ts';
import type { Enrollment } from '../../src/dps/enrollment.ts';
import { parseServiceConnectionString } from '../../src/dps/service-connection-string.ts';
import { lookForMessage } from '../../src/hub/device-hub.ts';
import type { HubOptions } from '../../src/hub/hub-request.ts';
import { Secret } from '../../src/secret.ts';
import { slotToken } from '../../src/slot/slots.ts';
import { hubCheck } from '../../src/station/hub-check.ts';
import { RegistrationRecords } from '../../src/station/registration-records.ts';
import {
  registerDevice,
  type HubCheck,
  type RegistrationJob,
  type RegistrationOutcome,
} from '../../src/station/registration.ts';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import type { Tpm } from '../../src/tpm/tpm.ts';
import type { EmulatedService, SoftwareTpm } from '../lab/lab.ts';

/** Enrolls the chip, under the id that follows from its EK unless another one is given. @returns the registration id */
export async function enroll(
  chip: SoftwareTpm,
  service: EmulatedService,
  more: Partial<Enrollment> = {},
): Promise<string> {
  const { publicArea } = await chip.use((tpm) => tpm.readEndorsementKey());
  const registrationId = registrationIdOf(publicArea);
  const client = openAzureService({
    credentials: parseServiceConnectionString(
      Secret.fromText(readFileSync(service.connectionStringFile, 'utf8')),
    ),
    ca: readFileSync(service.ca, 'utf8'),
    userAgent: 'iotdm/test',
  });
  try {
    const enrollment = await client.create({
      registrationId,
      attestation: { type: 'tpm', tpm: { endorsementKey: publicArea.toString('base64') } },
      ...more,
    });
    return enrollment.registrationId;
  } finally {
    client.close();
  }
}

export function hubOptions({ hubHost, ca }: EmulatedService): HubOptions {
  const [hostname = '', port] = hubHost.split(':');
  return {
    hostname,
    port: Number(port),
    ca: readFileSync(ca, 'utf8'),
    timeoutMs: 10_000,
    userAgent: 'iotdm/test',
  };
}

/** Asks the emulated hubs, without waiting for them. */
export function checkAtHub(service: EmulatedService): HubCheck {
  return hubCheck({
    hub: () => hubOptions(service),
    now: () => Math.floor(Date.now() / 1000),
    required: true,
    onUnasked: () => undefined,
    delay: () => Promise.resolve(),
  });
}

export function recordsOf(chip: SoftwareTpm): RegistrationRecords {
  return new RegistrationRecords(join(chip.dir, 'recovery'));
}

export interface RegisterOptions extends Partial<Omit<RegistrationJob, 'dps'>> {
  readonly dps?: Partial<RegistrationJob['dps']>;
}

/** Registers the chip into slot 0, and has the hub judge the identity. */
export function registerChip(
  chip: SoftwareTpm,
  service: EmulatedService,
  tpm: Tpm,
  { dps, ...job }: RegisterOptions = {},
): Promise<RegistrationOutcome> {
  return registerDevice({
    slots: { tpm, recovery: chip.access(tpm).recovery },
    slot: 0,
    records: recordsOf(chip),
    hubCheck: checkAtHub(service),
    now: () => new Date(),
    ...job,
    dps: {
      host: service.deviceHost,
      idScope: service.idScope,
      ca: readFileSync(service.ca, 'utf8'),
      delay: () => Promise.resolve(),
      ...dps,
    },
  });
}

/** The hub takes a token that the slot has signed. @throws IotdmError where it does not */
export async function assertAccepted(service: EmulatedService, tpm: Tpm, slot: number): Promise<void> {
  const { sharedAccessSignature } = await slotToken(tpm, slot, Math.floor(Date.now() / 1000) + 60);
  const [, , , path = ''] =
    /^SharedAccessSignature sr=(([^&]*)%2Fdevices%2F([^&]*))&/.exec(sharedAccessSignature) ?? [];
  const [deviceId = '', , moduleId = null] = decodeURIComponent(path).split('/');
  await lookForMessage(hubOptions(service), { deviceId, moduleId }, sharedAccessSignature);
}
