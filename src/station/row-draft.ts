/** One row on its way from a file to an enrollment: gathers its values, checks them, and lists all that is wrong. */
import {
  allocationPolicies,
  deviceIdProblem,
  hostNameProblem,
  provisioningStatuses,
  registrationIdProblem,
  type Enrollment,
  type ReprovisionPolicy,
  type TwinObject,
} from '../dps/enrollment.ts';
import { redact } from '../secret.ts';
import { registrationIdOf } from '../tpm/endorsement-key.ts';
import {
  booleanOf,
  keyFields,
  quoted,
  reprovisionPolicyOf,
  shownText,
  type EnrollmentField,
  type InputField,
  type KeyField,
} from './enrollment-columns.ts';
import type { FaultyRow, ReadRow, RowFault } from './enrollment-rows.ts';
import {
  checkTwinValue,
  placeTwinValue,
  TWIN_PART_BYTES,
  twinSize,
  type MutableTwin,
  type TwinPart,
} from './initial-twin.ts';
import { differentKeys, keyOfCell } from './key-cell.ts';

export type Members = Readonly<Record<string, unknown>>;

export function isMembers(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export interface Spot {
  readonly line: number;
  readonly column: number | null;
}

type FaultExtra = Pick<RowFault, 'damage'>;

interface Text {
  readonly text: string;
  readonly spot: () => Spot;
}

/** RFC 9110, 13.1.1: whatever version there is. */
const ANY_ETAG = '*';

export interface FoundKey {
  readonly field: KeyField;
  readonly key: Buffer;
  /** The key in base64. */
  readonly text: string;
}

/** Gathers one row, and everything that is wrong with it. */
export class RowDraft {
  readonly #file: string;
  protected readonly line: number;
  protected readonly texts: Partial<Record<InputField, Text>> = {};
  readonly #twin: Partial<Record<TwinPart, MutableTwin>> = {};
  #faults: Omit<RowFault, 'registrationId'>[] | undefined;
  /** From a manifest: the endorsement key was read from the TPM, and its certificate only stands beside it. */
  isHarvested = false;
  #reprovisionPolicy: ReprovisionPolicy | undefined;
  #hubs: readonly string[] | undefined;
  #deviceInformation: TwinObject | undefined;
  protected etag: string | undefined;

  constructor(file: string, line: number) {
    this.#file = file;
    this.line = line;
  }

  get hasFaults(): boolean {
    return this.#faults !== undefined;
  }

  fault(field: string | null, spot: Spot, message: string, extra: FaultExtra = {}): void {
    const { line, column } = spot;
    const shownField = field === null ? null : shownText(field);
    // Names of columns come from the file, which may be a wrong one that holds secrets.
    const shown = { field: shownField, message: redact(message), ...extra };
    (this.#faults ??= []).push({ file: this.#file, line, column, code: 'input.invalid', ...shown });
  }

  setText(field: InputField, text: string, spot: () => Spot): void {
    this.texts[field] = { text, spot };
  }

  /** `value` at `path` below the part; `spot` gives the place of what stands further below that. */
  setTwin(
    part: TwinPart,
    path: readonly string[],
    value: unknown,
    spot: (below: readonly string[]) => Spot,
  ): void {
    const checked = checkTwinValue(value, path, (at, problem) => {
      this.fault([part, ...at].join('.'), spot(at.slice(path.length)), problem);
    });
    if (checked === undefined || placeTwinValue((this.#twin[part] ??= {}), path, checked)) return;
    const name = [part, ...path].join('.');
    this.fault(name, spot([]), `${name} is given twice, or both as a value and as an object`);
  }

  /** Of an enrollment in the service's shape, besides its endorsement key: only what is to be deleted is known by it. */
  setAttestation(attestation: unknown, spot: () => Spot): void {
    const type = isMembers(attestation) ? attestation['type'] : undefined;
    if (type === undefined || type === 'tpm') return;
    const shown = typeof type === 'string' ? quoted(type) : 'something else';
    this.fault('attestation.type', spot(), `only tpm can be enrolled here, not ${shown}`);
  }

  setReprovisionPolicy(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    if (isMembers(value)) {
      const { updateHubAssignment, migrateDeviceData } = value;
      if (typeof updateHubAssignment === 'boolean' && typeof migrateDeviceData === 'boolean') {
        this.#reprovisionPolicy = { updateHubAssignment, migrateDeviceData };
        return;
      }
    }
    this.fault(
      'reprovisionPolicy',
      spot(),
      'updateHubAssignment and migrateDeviceData, each true or false, are expected',
    );
  }

  setHubs(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    const hubs = Array.isArray(value) ? value.filter((hub) => typeof hub === 'string') : [];
    const problem = hubs.map(hostNameProblem).find((found) => found !== undefined);
    if (!Array.isArray(value) || hubs.length !== value.length) {
      this.fault('iotHubs', spot(), 'an array of host names is expected');
    } else if (problem !== undefined) this.fault('iotHubs', spot(), problem);
    else if (hubs.length > 0) this.#hubs = hubs;
  }

  setDeviceInformation(value: unknown, spot: (path: readonly string[]) => Spot): void {
    if (value === undefined || value === null) return;
    if (!isMembers(value)) {
      this.fault('optionalDeviceInformation', spot([]), 'a JSON object is expected');
      return;
    }
    const checked = checkTwinValue(value, [], (at, problem) => {
      this.fault(['optionalDeviceInformation', ...at].join('.'), spot(at), problem);
    });
    if (isMembers(checked) && Object.keys(checked).length > 0) this.#deviceInformation = checked;
  }

  setEtag(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    if (typeof value !== 'string') this.fault('etag', spot(), 'a text in quotes is expected');
    else if (!/^[\x21-\x7e]{1,256}$/.test(value)) {
      this.fault(
        'etag',
        spot(),
        'an etag is printable ASCII without spaces; leave it out where none is known',
      );
    } else if (value !== ANY_ETAG) this.etag = value.endsWith('"') ? value : `"${value}"`;
  }

  /** The row as it is, for one that cannot be read any further. */
  faulty(isHeader: boolean, registrationId: string | null = null): FaultyRow {
    const faults = (this.#faults ?? [])
      .toSorted((a, b) => a.line - b.line || (a.column ?? 0) - (b.column ?? 0))
      .map(({ file, line, column, field, code, message, ...extra }) => {
        return { file, line, column, field, registrationId, code, message, ...extra };
      });
    return { line: this.line, isHeader, faults };
  }

  /** Checks what was gathered. */
  finish(): ReadRow {
    const found = this.endorsementKey();
    const registrationId = this.registrationId(found?.key);
    const deviceId = this.#checked('deviceId', givenDeviceIdProblem);
    const iotHubHostName = this.#checked('iotHubHostName', hostNameProblem);
    const provisioningStatus = this.#oneOf('provisioningStatus', provisioningStatuses);
    const allocationPolicy = this.#oneOf('allocationPolicy', allocationPolicies);
    const iotEdge = this.#parsed('iotEdge', booleanOf, 'true or false');
    const reprovisionPolicy =
      this.#parsed('reprovision', reprovisionPolicyOf, 'migrate, reset or never') ?? this.#reprovisionPolicy;
    const serialNumber = this.#checked('serialNumber', serialNumberProblem);
    const tags = this.#twinPart('tags');
    const desired = this.#twinPart('desired');
    this.#checkHubs(allocationPolicy);
    if (found === undefined || registrationId === undefined || this.#faults !== undefined)
      return this.faulty(false, registrationId ?? null);
    const enrollment: { -readonly [Name in keyof Enrollment]: Enrollment[Name] } = {
      registrationId,
      ...(deviceId === undefined ? undefined : { deviceId }),
      attestation: { type: 'tpm', tpm: { endorsementKey: found.text } },
    };
    if (iotEdge !== undefined) enrollment.capabilities = { iotEdge };
    if (iotHubHostName !== undefined) enrollment.iotHubHostName = iotHubHostName;
    if (this.#hubs !== undefined) enrollment.iotHubs = this.#hubs;
    if (allocationPolicy !== undefined) enrollment.allocationPolicy = allocationPolicy;
    if (tags !== undefined || desired !== undefined) enrollment.initialTwin = initialTwin(tags, desired);
    if (provisioningStatus !== undefined) enrollment.provisioningStatus = provisioningStatus;
    if (reprovisionPolicy !== undefined) enrollment.reprovisionPolicy = reprovisionPolicy;
    if (this.#deviceInformation !== undefined) enrollment.optionalDeviceInformation = this.#deviceInformation;
    if (this.etag !== undefined) enrollment.etag = this.etag;
    const line = this.line;
    const row = serialNumber === undefined ? { line, enrollment } : { line, enrollment, serialNumber };
    return { row, endorsementKey: found.key, hasOwnId: this.texts.registrationId !== undefined };
  }

  /** The key that the row gives, in one form or in several that agree. */
  protected endorsementKey(): FoundKey | undefined {
    let first: FoundKey | undefined;
    let isGiven = false;
    // A certificate in a manifest does not stand in for the key.
    const fields = this.isHarvested && this.texts.endorsementKey === undefined ? [] : keyFields;
    for (const field of fields) {
      const entry = this.texts[field];
      if (entry === undefined) continue;
      isGiven = true;
      const { text, spot } = entry;
      const result = keyOfCell(field, text);
      if ('problem' in result) {
        // What a certificate in a manifest is worth is for those to say who verify it; it must not be another's.
        const { problem, damage } = result;
        const extra = damage === undefined ? {} : { damage };
        if (!this.isHarvested || field === 'endorsementKey') this.fault(field, spot(), problem, extra);
        else if (result.isAnotherKey) this.fault(field, spot(), differentKeys(field, 'endorsementKey'));
      } else if (first === undefined) first = { field, key: result.key, text: result.text };
      else if (!first.key.equals(result.key)) this.fault(field, spot(), differentKeys(field, first.field));
    }
    if (!isGiven)
      this.fault('endorsementKey', { line: this.line, column: null }, 'the endorsement key is missing');
    return first;
  }

  /** DPS matches ids without regard to case; they are written in lower case. */
  protected registrationId(endorsementKey: Buffer | undefined): string | undefined {
    const entry = this.texts.registrationId;
    if (entry === undefined) return endorsementKey && registrationIdOf(endorsementKey);
    const id = entry.text.toLowerCase();
    const problem = registrationIdProblem(id);
    if (problem === undefined) return id;
    this.fault('registrationId', entry.spot(), problem);
    return undefined;
  }

  #checked(field: EnrollmentField, problemOf: (text: string) => string | undefined): string | undefined {
    const entry = this.texts[field];
    const problem = entry === undefined ? undefined : problemOf(entry.text);
    if (entry === undefined || problem === undefined) return entry?.text;
    this.fault(field, entry.spot(), problem);
    return undefined;
  }

  #oneOf<T extends string>(field: EnrollmentField, values: readonly T[]): T | undefined {
    if (this.texts[field] === undefined) return undefined;
    const find = (text: string) => values.find((value) => value.toLowerCase() === text.toLowerCase());
    return this.#parsed(field, find, `${values.slice(0, -1).join(', ')} or ${values.at(-1) ?? ''}`);
  }

  #parsed<T>(
    field: EnrollmentField,
    parse: (text: string) => T | undefined,
    expected: string,
  ): T | undefined {
    const entry = this.texts[field];
    if (entry === undefined) return undefined;
    const value = parse(entry.text);
    if (value === undefined)
      this.fault(field, entry.spot(), `${expected} is expected, not ${quoted(entry.text)}`);
    return value;
  }

  #twinPart(part: TwinPart): TwinObject | undefined {
    const twin = this.#twin[part];
    if (twin === undefined || Object.keys(twin).length === 0) return undefined;
    const size = twinSize(twin);
    if (size > TWIN_PART_BYTES[part]) {
      const limit = `IoT Hub takes ${TWIN_PART_BYTES[part]} bytes of ${part}, these are ${size}`;
      this.fault(part, { line: this.line, column: null }, limit);
    }
    return twin;
  }

  #checkHubs(allocationPolicy: string | undefined): void {
    const policy = this.texts.allocationPolicy;
    const hubs = this.#hubs?.length ?? 0;
    if (allocationPolicy === 'static' && policy !== undefined) {
      const named = this.texts.iotHubHostName === undefined ? 0 : 1;
      if (named + hubs === 0) {
        this.fault('allocationPolicy', policy.spot(), 'static allocation needs the hub in iotHubHostName');
      } else if (hubs > 1) {
        this.fault('allocationPolicy', policy.spot(), 'static allocation takes one hub, iotHubs names more');
      }
    } else if (policy === undefined && hubs > 0) {
      this.fault('iotHubs', { line: this.line, column: null }, 'iotHubs needs an allocationPolicy');
    }
  }
}

function initialTwin(
  tags: TwinObject | undefined,
  desired: TwinObject | undefined,
): NonNullable<Enrollment['initialTwin']> {
  if (desired === undefined) return tags === undefined ? {} : { tags };
  return tags === undefined ? { properties: { desired } } : { tags, properties: { desired } };
}

function givenDeviceIdProblem(text: string): string | undefined {
  return deviceIdProblem(text) ?? formulaProblem('a device id', text);
}

function serialNumberProblem(text: string): string | undefined {
  if (/[\p{Cc}\p{Cs}]/u.test(text)) return 'a serial number holds no control characters';
  return formulaProblem('a serial number', text);
}

/** Lists of devices are opened in spreadsheets, which run what is written like this. */
function formulaProblem(what: string, text: string): string | undefined {
  if (!/^(?:[=@]|[+-].*[(|!])/.test(text)) return undefined;
  return `${what} that a spreadsheet takes for a formula is not accepted`;
}
