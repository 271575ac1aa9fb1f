/**
 * Assigns devices to hubs, as their enrollments say, and gives them an identity there. Source: Azure's "IoT Hub Device
 * reprovisioning concepts".
 */

import { createHash, randomBytes, randomUUID } from 'node:crypto';
import {
  newGenerationId,
  type Assignment,
  type DeviceStore,
  type HubIdentity,
  type Registration,
  type Twin,
} from './device-store.ts';
import { newEtag } from './etags.ts';
import type { Members } from './members.ts';
import type { RegisteredDevice } from './registered-device.ts';

export interface AssignmentOptions {
  readonly devices: DeviceStore;
  readonly clock: () => Date;
  /** The hub of devices whose enrollments name none. */
  readonly hub: string;
  readonly assignDelayMs: number;
}

type Place = Pick<Assignment, 'assignedHub' | 'deviceId' | 'substatus'>;

export class Assignments {
  readonly #options: AssignmentOptions;

  constructor(options: AssignmentOptions) {
    this.#options = options;
  }

  /** Registers the device as its enrollment says. */
  assign(device: RegisteredDevice): Registration {
    const { content, registrationId, payload } = device;
    if (content['provisioningStatus'] === 'disabled') return this.leaveUnassigned(device, 'disabled');
    const { devices } = this.#options;
    const previous = devices.registration(registrationId)?.assignment;
    const place = this.#allocate(device, previous);
    const authenticationKey = device.authenticationKey?.(`${place.assignedHub}/${place.deviceId}`);
    const registration: Registration = {
      ...this.#operationOf(device),
      outcome: 'assigned',
      assignment: {
        ...place,
        ...(authenticationKey === undefined ? {} : { authenticationKey }),
        // Azure hands the payload to the function of a custom allocation, and what that returns to the device.
        ...(payload !== undefined && content['allocationPolicy'] === 'custom' ? { payload } : {}),
      },
    };
    devices.commit({
      registration,
      identity: this.#identity(device, place, previous),
      remove:
        previous !== undefined && hasMoved(previous, place)
          ? { hub: previous.assignedHub, deviceId: previous.deviceId }
          : undefined,
    });
    return registration;
  }

  /** A registration that ends without a hub; a device that has one keeps it. */
  leaveUnassigned(device: RegisteredDevice, outcome: 'disabled' | 'failed'): Registration {
    const { devices } = this.#options;
    const previous = devices.registration(device.registrationId)?.assignment;
    const registration: Registration = {
      ...this.#operationOf(device),
      outcome,
      ...(previous === undefined ? {} : { assignment: previous }),
    };
    devices.commit({ registration });
    return registration;
  }

  /** What every registration has, however it ends. */
  #operationOf({ registrationId, sessionKey, proof }: RegisteredDevice): Omit<Registration, 'outcome'> {
    const { devices, clock, assignDelayMs } = this.#options;
    const now = clock();
    return {
      kind: 'registration',
      registrationId,
      createdDateTimeUtc: devices.registration(registrationId)?.createdDateTimeUtc ?? now.toISOString(),
      lastUpdatedDateTimeUtc: now.toISOString(),
      etag: newEtag(),
      operationId: `4.${randomBytes(8).toString('hex')}.${randomUUID()}`,
      ...(sessionKey === undefined ? {} : { sessionKey }),
      ...(proof === undefined ? {} : { proof }),
      doneAt: now.getTime() + assignDelayMs,
    };
  }

  /** Which hub, under which name, and what that means for a device that has been assigned before. */
  #allocate({ registrationId, content }: RegisteredDevice, previous: Assignment | undefined): Place {
    const { updateHubAssignment, migrateDeviceData } = content['reprovisionPolicy'] as {
      readonly updateHubAssignment: boolean;
      readonly migrateDeviceData: boolean;
    };
    const deviceId = (content['deviceId'] as string | undefined) ?? registrationId;
    const wanted = this.#hubFor(registrationId, content);
    if (previous === undefined) {
      return { assignedHub: wanted, deviceId, substatus: 'initialAssignment' };
    }
    const assignedHub = updateHubAssignment ? wanted : previous.assignedHub;
    const isSame = !hasMoved(previous, { assignedHub, deviceId });
    const moved = migrateDeviceData ? 'deviceDataMigrated' : 'deviceDataReset';
    return { assignedHub, deviceId, substatus: isSame ? 'reprovisionedToInitialAssignment' : moved };
  }

  #hubFor(registrationId: string, content: Members): string {
    const single = content['iotHubHostName'] as string | undefined;
    const hubs = (content['iotHubs'] as readonly string[] | undefined) ?? [];
    if (single !== undefined) return single.toLowerCase();
    if (hubs.length === 0) return this.#options.hub;
    // Hashed: evenly, and the same for the same device. The others depend on places and functions that are not here.
    const isHashed = content['allocationPolicy'] === 'hashed';
    const digest = createHash('sha256').update(registrationId.toLowerCase()).digest();
    const index = isHashed ? digest.readUInt32BE(0) % hubs.length : 0;
    return (hubs[index] ?? this.#options.hub).toLowerCase();
  }

  #identity(
    { content, credentials }: RegisteredDevice,
    { assignedHub, deviceId, substatus }: Place,
    previous: Assignment | undefined,
  ): HubIdentity {
    const { devices, clock } = this.#options;
    const now = clock();
    const existing = devices.identity(assignedHub, deviceId);
    const migrated =
      previous !== undefined && substatus === 'deviceDataMigrated'
        ? devices.identity(previous.assignedHub, previous.deviceId)?.twin
        : undefined;
    const capabilities = content['capabilities'] as { readonly iotEdge?: boolean } | undefined;
    return {
      kind: 'device',
      hub: assignedHub,
      deviceId,
      ...credentials,
      generationId: existing?.generationId ?? newGenerationId(now),
      etag: newEtag(),
      createdDateTimeUtc: existing?.createdDateTimeUtc ?? now.toISOString(),
      iotEdge: capabilities?.iotEdge === true,
      twin:
        migrated ?? (substatus === 'deviceDataReset' ? undefined : existing?.twin) ?? initialTwin(content),
    };
  }
}

function hasMoved(
  previous: Assignment,
  { assignedHub, deviceId }: Pick<Assignment, 'assignedHub' | 'deviceId'>,
): boolean {
  return previous.assignedHub !== assignedHub || previous.deviceId !== deviceId;
}

function initialTwin(content: Members): Twin {
  const { tags = {}, properties } = (content['initialTwin'] ?? {}) as {
    readonly tags?: object;
    readonly properties?: { readonly desired?: object };
  };
  return { tags, desired: properties?.desired ?? {} };
}
