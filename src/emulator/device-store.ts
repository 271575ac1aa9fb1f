/** What the emulator keeps about devices: registrations with DPS, and identities of devices and modules on hubs. */

import { randomBytes } from 'node:crypto';
import type { CertificateInfo } from './certificate-info.ts';
import { RecordLog } from './record-log.ts';

export interface Registration {
  readonly kind: 'registration';
  /** As the enrollment has it. */
  readonly registrationId: string;
  readonly createdDateTimeUtc: string;
  readonly lastUpdatedDateTimeUtc: string;
  readonly etag: string;
  /** Of the latest registration by the device. */
  readonly operationId: string;
  /** Base64; a device with a TPM signed with it, and signs its questions about the operation with it. */
  readonly sessionKey?: string;
  /** How a device without TPM has proved who it is; absent for one with a TPM. */
  readonly proof?: RegistrationProof;
  /** From then on the operation is done, in milliseconds since 1970. */
  readonly doneAt: number;
  readonly outcome: 'assigned' | 'disabled' | 'failed';
  /** Absent while the device has never been assigned. */
  readonly assignment?: Assignment;
}

/** What the service tells the device of it. */
export interface RegistrationProof {
  readonly kind: 'symmetricKey' | 'x509';
  /** The group that it belongs to; absent where it has an enrollment of its own. */
  readonly enrollmentGroupId?: string;
  readonly certificateInfo?: CertificateInfo;
  /** Of the certificate of the group that it leads to. */
  readonly signingCertificateInfo?: CertificateInfo;
}

export interface Assignment {
  readonly assignedHub: string;
  readonly deviceId: string;
  readonly substatus: string;
  /** The device's own key, in the blob for its TPM; base64. Absent where the device has brought its key with it. */
  readonly authenticationKey?: string;
  readonly payload?: object;
}

export interface Twin {
  readonly tags: object;
  readonly desired: object;
}

/** Of a device or module on a hub. */
export interface HubIdentity {
  readonly kind: 'device' | 'module';
  readonly hub: string;
  readonly deviceId: string;
  readonly moduleId?: string;
  /** Base64; absent for a device that shows a certificate. */
  readonly primaryKey?: string;
  readonly secondaryKey?: string;
  /** Of the certificate that a device shows: SHA-256, upper-case hex. */
  readonly thumbprint?: string;
  readonly generationId: string;
  readonly etag: string;
  readonly createdDateTimeUtc: string;
  readonly managedBy?: string;
  readonly iotEdge?: boolean;
  readonly twin: Twin;
}

type DeviceRecord = Registration | HubIdentity;

/** What is committed as one. */
export interface DeviceChange {
  readonly registration?: Registration;
  /** Ids of registrations. */
  readonly forget?: readonly string[];
  readonly identity?: HubIdentity;
  /** With its modules. */
  readonly remove?: { readonly hub: string; readonly deviceId: string } | undefined;
}

export class DeviceStore {
  readonly #log: RecordLog<DeviceRecord>;
  /** Names of hubs that devices have been assigned to, in lower case. */
  readonly #hubs = new Set<string>();

  private constructor(log: RecordLog<DeviceRecord>) {
    this.#log = log;
    for (const [, record] of log.entries()) if (record.kind === 'device') this.#hubs.add(record.hub);
  }

  /** @throws IotdmError `input.invalid` naming the file and the line that cannot be understood, `input.unreadable` */
  static open(file: string): DeviceStore {
    return new DeviceStore(RecordLog.open(file, isRecord));
  }

  registration(registrationId: string): Registration | undefined {
    const record = this.#log.get(registrationKey(registrationId));
    return record?.kind === 'registration' ? record : undefined;
  }

  /** @param hub without regard to case */
  identity(hub: string, deviceId: string, moduleId?: string): HubIdentity | undefined {
    const record = this.#log.get(identityKey(hub, deviceId, moduleId));
    if (record === undefined || record.kind === 'registration') return undefined;
    // Asked for by a caller, an id may hold a slash, and lead to the key of something else.
    return record.deviceId === deviceId && record.moduleId === moduleId ? record : undefined;
  }

  /** Of all devices that have registered by the group. */
  registrationsOf(enrollmentGroupId: string): readonly Registration[] {
    const wanted = enrollmentGroupId.toLowerCase();
    return [...this.#log.entries()].flatMap(([, record]) =>
      record.kind === 'registration' && record.proof?.enrollmentGroupId?.toLowerCase() === wanted
        ? [record]
        : [],
    );
  }

  /** In lower case. */
  get hubs(): ReadonlySet<string> {
    return this.#hubs;
  }

  hasHub(name: string): boolean {
    return this.#hubs.has(name.toLowerCase());
  }

  commit({ registration, forget = [], identity, remove }: DeviceChange): void {
    const set: Record<string, DeviceRecord> = {};
    if (registration !== undefined) set[registrationKey(registration.registrationId)] = registration;
    if (identity !== undefined) {
      set[identityKey(identity.hub, identity.deviceId, identity.moduleId)] = identity;
    }
    const gone = [
      ...forget.map(registrationKey),
      ...(remove === undefined ? [] : this.#keysOf(remove.hub, remove.deviceId)),
    ].filter((key) => this.#log.get(key) !== undefined);
    this.#log.commit({
      ...(Object.keys(set).length === 0 ? {} : { set }),
      ...(gone.length === 0 ? {} : { delete: gone }),
    });
    if (identity !== undefined) this.#hubs.add(identity.hub);
  }

  /** Forgets registrations whose enrollment or group is gone: what a crash between the logs may leave. */
  forgetOrphans(isEnrolled: (registration: Registration) => boolean): void {
    const orphans = [...this.#log.entries()].flatMap(([key, record]) =>
      record.kind === 'registration' && !isEnrolled(record) ? [key] : [],
    );
    this.#log.commit({ delete: orphans });
  }

  close(): void {
    this.#log.close();
  }

  #keysOf(hub: string, deviceId: string): string[] {
    const device = identityKey(hub, deviceId);
    return [...this.#log.entries()].flatMap(([key]) =>
      key === device || key.startsWith(`${device}/`) ? [key] : [],
    );
  }
}

/** Tells identities apart that have had the same id one after the other. */
export function newGenerationId(now: Date): string {
  return `${now.getTime()}${randomBytes(4).readUInt32BE(0)}`;
}

function registrationKey(registrationId: string): string {
  return `registration/${registrationId.toLowerCase()}`;
}

/** Ids of devices and modules hold no slash. */
function identityKey(hub: string, deviceId: string, moduleId?: string): string {
  const device = `identity/${hub.toLowerCase()}/${deviceId}`;
  return moduleId === undefined ? device : `${device}/${moduleId}`;
}

const texts: Readonly<Record<DeviceRecord['kind'], readonly string[]>> = {
  registration: [
    'registrationId',
    'createdDateTimeUtc',
    'lastUpdatedDateTimeUtc',
    'etag',
    'operationId',
    'outcome',
  ],
  device: ['hub', 'deviceId', 'generationId', 'etag', 'createdDateTimeUtc'],
  module: [
    'hub',
    'deviceId',
    'moduleId',
    'primaryKey',
    'secondaryKey',
    'generationId',
    'etag',
    'createdDateTimeUtc',
  ],
};

function isRecord(key: string, value: unknown): value is DeviceRecord {
  if (typeof value !== 'object' || value === null) return false;
  const members = value as Readonly<Record<string, unknown>>;
  const { kind } = members;
  if (kind !== 'registration' && kind !== 'device' && kind !== 'module') return false;
  if (!texts[kind].every((name) => typeof members[name] === 'string')) return false;
  if (kind === 'registration') {
    const { assignment, sessionKey, proof } = members;
    return (
      key.startsWith('registration/') &&
      typeof members['doneAt'] === 'number' &&
      (typeof sessionKey === 'string' || (typeof proof === 'object' && proof !== null)) &&
      (assignment === undefined || (typeof assignment === 'object' && assignment !== null))
    );
  }
  if (typeof members['primaryKey'] !== 'string' && typeof members['thumbprint'] !== 'string') return false;
  return key.startsWith('identity/') && typeof members['twin'] === 'object' && members['twin'] !== null;
}
