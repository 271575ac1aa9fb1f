/**
 * What was registered from here: one file for each key that DPS gave to a slot. The TPM says which key stands in a slot, and
 * the file of that key what it was registered as; so that a registration that is done is known and left alone.
 */
import { readdirSync } from 'node:fs';
import { deviceIdProblem, hostNameProblem, registrationIdProblem } from '../dps/enrollment.ts';
import { makeStateDirectory, readState, removeState, writeState } from '../state-directory.ts';

export interface RegistrationRecord {
  readonly slot: number;
  /** Name of the slot's key, hex. */
  readonly keyName: string;
  readonly registrationId: string;
  /** Whether the id is the one derived from the EK. */
  readonly isDerivedId: boolean;
  readonly idScope: string;
  readonly deviceHost: string;
  readonly deviceId: string;
  readonly assignedHub: string;
  readonly substatus: string | null;
  /** ISO 8601, UTC. */
  readonly registeredAt: string;
  /** A later registration was begun: DPS may have given this device another key since, which its hub takes in its place. */
  readonly isSuperseded: boolean;
}

const fileNamePattern = /^registered-[0-9]-[0-9a-f]{68}$/;

/** Whether a file of this name is such a record. */
export function isRegistrationFile(name: string): boolean {
  return fileNamePattern.test(name);
}

export class RegistrationRecords {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** @param keyName of the key in the slot, hex @returns undefined also for a file that is no record of this key */
  find(slot: number, keyName: string): RegistrationRecord | undefined {
    const name = fileName(slot, keyName);
    const text = isRegistrationFile(name) ? readState(this.#dir, name) : undefined;
    const record = text === undefined ? undefined : parseRecord(text);
    return record?.slot === slot && record.keyName === keyName ? record : undefined;
  }

  /** What was registered into this slot of any TPM; none where the directory cannot be read. */
  all(slot: number): RegistrationRecord[] {
    return this.#names()
      .filter((name) => isRegistrationFile(name) && name.startsWith(`registered-${slot}-`))
      .flatMap((name) => this.find(slot, name.slice(name.lastIndexOf('-') + 1)) ?? []);
  }

  #names(): string[] {
    try {
      return readdirSync(this.#dir);
    } catch {
      return [];
    }
  }

  /** @throws IotdmError `usage.output-unwritable` */
  write(record: RegistrationRecord): void {
    makeStateDirectory(this.#dir);
    const text = `${JSON.stringify({ schema: 1, ...record }, null, 2)}\n`;
    writeState(this.#dir, fileName(record.slot, record.keyName), text);
  }

  /** @throws IotdmError `usage.output-unwritable` */
  remove(slot: number, keyName: string): void {
    removeState(this.#dir, fileName(slot, keyName));
  }
}

function fileName(slot: number, keyName: string): string {
  return `registered-${slot}-${keyName}`;
}

function parseRecord(text: string): RegistrationRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const fields = value as Readonly<Record<keyof RegistrationRecord | 'schema', unknown>>;
  const { schema, slot, keyName, registrationId, isDerivedId, idScope, deviceHost, deviceId } = fields;
  const { assignedHub, substatus, registeredAt, isSuperseded } = fields;
  if (
    schema !== 1 ||
    typeof slot !== 'number' ||
    typeof keyName !== 'string' ||
    typeof registrationId !== 'string' ||
    registrationIdProblem(registrationId) !== undefined ||
    typeof isDerivedId !== 'boolean' ||
    typeof idScope !== 'string' ||
    typeof deviceHost !== 'string' ||
    typeof deviceId !== 'string' ||
    deviceIdProblem(deviceId) !== undefined ||
    typeof assignedHub !== 'string' ||
    hostNameProblem(assignedHub) !== undefined ||
    !(substatus === null || typeof substatus === 'string') ||
    typeof registeredAt !== 'string' ||
    typeof isSuperseded !== 'boolean'
  ) {
    return undefined;
  }
  return {
    slot,
    keyName,
    registrationId,
    isDerivedId,
    idScope,
    deviceHost,
    deviceId,
    assignedHub,
    substatus,
    registeredAt,
    isSuperseded,
  };
}
