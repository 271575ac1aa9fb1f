/** What of an enrollment must belong to no other one: the endorsement key, and the device id in each of its hubs. */
import type { Enrollment, StoredEnrollment } from '../dps/enrollment.ts';
import { shownText } from '../dps/service-errors.ts';
import { IotdmError } from '../errors.ts';
import { digestOf, hubsOverlap, type DeviceName, type IdentityRow } from '../records/identity-row.ts';
import { quoted } from './enrollment-columns.ts';

/**
 * The key and the device ids that an enrollment has: the one that it gives, where it names none its registration id, and
 * the one that its device was registered with last.
 */
export function identityOf(enrollment: Enrollment | StoredEnrollment): IdentityRow {
  const { registrationId, deviceId = registrationId, attestation } = enrollment;
  const declared: DeviceName = { deviceId, hubs: hubsOf(enrollment) };
  const assigned =
    'registrationState' in enrollment ? assignedDevice(enrollment.registrationState) : undefined;
  return {
    id: registrationId.toLowerCase(),
    keyDigest: keyDigestOf(attestation.tpm?.endorsementKey),
    devices: assigned === undefined || isWithin(assigned, [declared]) ? [declared] : [declared, assigned],
  };
}

const noHubs: readonly string[] = [];

function hubsOf({ iotHubHostName, iotHubs = [] }: Enrollment | StoredEnrollment): readonly string[] {
  if (iotHubHostName === undefined && iotHubs.length === 0) return noHubs;
  const hubs = [iotHubHostName ?? [], iotHubs].flat().map((hub) => hub.toLowerCase());
  return [...new Set(hubs)].sort();
}

/** Room for an endorsement key: an import looks at one for every row, and would leave as many for the collector. */
const room = Buffer.alloc(1024);

function keyDigestOf(endorsementKey: string | undefined): string | undefined {
  if (endorsementKey === undefined) return undefined;
  if (endorsementKey.length > room.length) return digestOf(Buffer.from(endorsementKey, 'base64'));
  return digestOf(room.subarray(0, room.write(endorsementKey, 'base64')));
}

/** What the device really is by now, whatever its enrollment says. */
function assignedDevice(state: StoredEnrollment['registrationState']): DeviceName | undefined {
  if (state === undefined || String(state['status']).toLowerCase() !== 'assigned') return undefined;
  const { deviceId, assignedHub } = state;
  if (typeof deviceId !== 'string' || typeof assignedHub !== 'string') return undefined;
  return { deviceId, hubs: [assignedHub.toLowerCase()] };
}

/** Whether these devices have this id already, in every hub that it is for. */
function isWithin({ deviceId, hubs }: DeviceName, devices: readonly DeviceName[]): boolean {
  return devices.some(
    (device) =>
      device.deviceId === deviceId &&
      (device.hubs.length === 0 || (hubs.length > 0 && hubs.every((hub) => device.hubs.includes(hub)))),
  );
}

/** What is written, beside what stands there, where anything does. */
export interface Writing {
  readonly enrollment: Enrollment;
  readonly stored?: StoredEnrollment;
}

/** What a writing gives to an enrollment that it does not have; undefined for nothing. */
export function givenBy({ enrollment, stored }: Writing): IdentityRow | undefined {
  const wanted = identityOf(enrollment);
  if (stored === undefined) return wanted;
  const before = identityOf(stored);
  const keyDigest = wanted.keyDigest === before.keyDigest ? undefined : wanted.keyDigest;
  const devices = wanted.devices.filter((device) => !isWithin(device, before.devices));
  return keyDigest === undefined && devices.length === 0 ? undefined : { ...wanted, keyDigest, devices };
}

export function givesIdentity(writing: Writing): boolean {
  return givenBy(writing) !== undefined;
}

/** What an enrollment will have once it is written. */
export function afterwards({ enrollment, stored }: Writing): IdentityRow {
  const state = stored?.registrationState;
  return identityOf(state === undefined ? enrollment : { ...enrollment, registrationState: state });
}

/** Two enrollments that would have something in common. */
export interface IdentityConflict {
  /** Of the enrollment that has it. */
  readonly other: string;
  readonly sharesKey: boolean;
  readonly deviceId: string | undefined;
  /** Process that is just writing the other one. */
  readonly writer?: number;
}

/** What an enrollment that is to be written has in common with another one; undefined for nothing. */
export function conflictWith(given: IdentityRow, stored: StoredEnrollment): IdentityConflict | undefined {
  const other = identityOf(stored);
  const sharesKey = given.keyDigest !== undefined && given.keyDigest === other.keyDigest;
  const shared = given.devices.find(({ deviceId, hubs }) =>
    other.devices.some((device) => device.deviceId === deviceId && hubsOverlap(device.hubs, hubs)),
  );
  if (!sharesKey && shared === undefined) return undefined;
  return { other: stored.registrationId, sharesKey, deviceId: shared?.deviceId };
}

/** What stands behind the name of the enrollment that was to be written. */
export function conflictText({ other, sharesKey, deviceId, writer }: IdentityConflict): string {
  const name = shownText(other, 128);
  const by = writer === undefined ? '' : `, which process ${writer} is just writing`;
  const id = deviceId === undefined ? '' : `the device id ${quoted(deviceId)}`;
  const what = [sharesKey ? 'the endorsement key' : '', id].filter((text) => text !== '').join(' and ');
  return `would have ${what} of the enrollment ${name}${by}`;
}

export function conflictError(registrationId: string, conflict: IdentityConflict): IotdmError {
  const { other, sharesKey, deviceId } = conflict;
  return new IotdmError('service.conflict', `${registrationId} ${conflictText(conflict)}`, {
    details: {
      registrationId,
      otherRegistrationId: other,
      shared: [...(sharesKey ? ['endorsementKey'] : []), ...(deviceId === undefined ? [] : ['deviceId'])],
      ...(deviceId === undefined ? {} : { deviceId }),
    },
  });
}
