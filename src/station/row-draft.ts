/** One row on its way from a file to an enrollment: gathers its values, checks them, and lists all that is wrong. */
import {
  allocationPolicies,
  allocationProblem,
  deviceIdProblem,
  hostNameProblem,
  issuerNameProblem,
  namespaceNameProblem,
  provisioningStatuses,
  registrationIdProblem,
  webhookApiVersionProblem,
  webhookUrlProblem,
  type CustomAllocation,
  type Enrollment,
  type ReprovisionPolicy,
  type TwinObject,
} from '../dps/enrollment.ts';
import { anyEtag, isEtag, quotedEtag } from '../dps/etag.ts';
import { redact } from '../secret.ts';
import { registrationIdOf } from '../tpm/endorsement-key.ts';
import { publicAreaProblem } from '../tpm/public-area.ts';
import {
  booleanOf,
  hubsOfCell,
  keyFields,
  quoted,
  reprovisionPolicyOf,
  shownText,
  type EnrollmentField,
  type InputField,
  type KeyField,
} from './enrollment-columns.ts';
import type { CertificateWitness } from './certificate-witness.ts';
import type { EnrollmentRow, FaultyRow, CheckOptions, ReadRow, RowFault } from './enrollment-rows.ts';
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

type FaultExtra = Pick<RowFault, 'damage'> & { readonly code?: RowFault['code'] };

interface Text {
  readonly text: string;
  readonly spot: () => Spot;
}

const allocationFields: ReadonlySet<string> = new Set<EnrollmentField>([
  'allocationPolicy',
  'iotHubHostName',
  'iotHubs',
  'webhookUrl',
  'webhookApiVersion',
]);

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
  #hasInitialTwin = false;
  #hasProperties = false;
  #faults: Omit<RowFault, 'registrationId'>[] | undefined;
  readonly #options: CheckOptions;
  /** From a manifest: the endorsement key was read from the TPM, and its certificate only stands beside it. */
  isHarvested = false;
  /** In the service's own form: the case of the registration id is kept, as where there is no device id it is that, too. */
  isVerbatim = false;
  /** The registration id as it stands there, where that is written otherwise and follows from no key. */
  #writtenId: string | undefined;
  #reprovisionPolicy: ReprovisionPolicy | undefined;
  #hubs: readonly string[] | undefined;
  #deviceInformation: TwinObject | undefined;
  protected etag: string | undefined;

  constructor(file: string, line: number, options: CheckOptions = {}) {
    this.#file = file;
    this.line = line;
    this.#options = options;
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

  /** A column or member that means nothing here: a fault, unless such are to be left out. */
  unknown(name: string, spot: () => Spot, message: string): void {
    if (this.#options.ignoreUnknownColumns === true) this.#options.onIgnored?.(shownText(name));
    else this.fault(name, spot(), message);
  }

  /** That the initial twin, or its properties, stand there, be they empty. */
  beginTwin(part: 'initialTwin' | 'properties'): void {
    this.#hasInitialTwin = true;
    if (part === 'properties') this.#hasProperties = true;
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
    if (type === undefined || type === null || type === 'tpm') return;
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
    else this.#hubs = hubs;
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
    if (isMembers(checked)) this.#deviceInformation = checked;
  }

  setEtag(value: unknown, spot: () => Spot): void {
    if (value === undefined || value === null) return;
    if (typeof value !== 'string') this.fault('etag', spot(), 'a text in quotes is expected');
    else if (!isEtag(value)) {
      this.fault(
        'etag',
        spot(),
        'an etag is printable ASCII without spaces; leave it out where none is known',
      );
    } else if (value !== anyEtag) this.etag = quotedEtag(value);
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
    const writtenId = this.#writtenId;
    const deviceId = this.#checked('deviceId', givenDeviceIdProblem) ?? writtenId;
    const iotHubHostName = this.#checked('iotHubHostName', hostNameProblem);
    const iotHubs = this.#iotHubs();
    const provisioningStatus = this.#oneOf('provisioningStatus', provisioningStatuses);
    const allocationPolicy = this.#oneOf('allocationPolicy', allocationPolicies);
    const customAllocationDefinition = this.#customAllocation();
    const iotEdge = this.#parsed('iotEdge', booleanOf, 'true or false');
    const reprovisionPolicy =
      this.#parsed('reprovision', reprovisionPolicyOf, 'migrate, reset or never') ?? this.#reprovisionPolicy;
    const namespaceName = this.#checked('namespaceName', namespaceNameProblem);
    const certificateAuthorityName = this.#checked('certificateAuthorityName', issuerNameProblem);
    const certificatePolicyName = this.#checked('certificatePolicyName', issuerNameProblem);
    const storageRootKey = this.#checked('storageRootKey', publicAreaProblem);
    const serialNumber = this.#checked('serialNumber', serialNumberProblem);
    const tags = this.#twinPart('tags');
    const desired = this.#twinPart('desired');
    const allocation = allocationPolicy ?? iotHubs ?? customAllocationDefinition;
    if (allocation !== undefined && this.#options.partial !== true && !this.#hasAllocationFault) {
      this.#checkAllocation({
        ...(allocationPolicy === undefined ? undefined : { allocationPolicy }),
        ...(iotHubHostName === undefined ? undefined : { iotHubHostName }),
        ...(iotHubs === undefined ? undefined : { iotHubs }),
        ...(customAllocationDefinition === undefined ? undefined : { customAllocationDefinition }),
      });
    }
    if (found === undefined || registrationId === undefined || this.#faults !== undefined)
      return this.faulty(false, registrationId ?? null);
    const endorsementKey = found.text;
    const enrollment: { -readonly [Name in keyof Enrollment]: Enrollment[Name] } = {
      registrationId,
      ...(deviceId === undefined ? undefined : { deviceId }),
      attestation: {
        type: 'tpm',
        tpm: storageRootKey === undefined ? { endorsementKey } : { endorsementKey, storageRootKey },
      },
    };
    if (iotEdge !== undefined) enrollment.capabilities = { iotEdge };
    if (iotHubHostName !== undefined) enrollment.iotHubHostName = iotHubHostName;
    if (iotHubs !== undefined) enrollment.iotHubs = iotHubs;
    if (allocationPolicy !== undefined) enrollment.allocationPolicy = allocationPolicy;
    if (customAllocationDefinition !== undefined)
      enrollment.customAllocationDefinition = customAllocationDefinition;
    const initialTwin = this.#initialTwin(tags, desired);
    if (initialTwin !== undefined) enrollment.initialTwin = initialTwin;
    if (provisioningStatus !== undefined) enrollment.provisioningStatus = provisioningStatus;
    if (reprovisionPolicy !== undefined) enrollment.reprovisionPolicy = reprovisionPolicy;
    if (this.#deviceInformation !== undefined) enrollment.optionalDeviceInformation = this.#deviceInformation;
    if (namespaceName !== undefined) enrollment.namespaceName = namespaceName;
    if (certificateAuthorityName !== undefined)
      enrollment.certificateAuthorityName = certificateAuthorityName;
    if (certificatePolicyName !== undefined) enrollment.certificatePolicyName = certificatePolicyName;
    if (this.etag !== undefined) enrollment.etag = this.etag;
    const row: { -readonly [Name in keyof EnrollmentRow]: EnrollmentRow[Name] } = {
      line: this.line,
      enrollment,
    };
    if (serialNumber !== undefined) row.serialNumber = serialNumber;
    if (writtenId !== undefined && this.texts.deviceId === undefined) row.impliesDeviceId = true;
    const hasOwnId = this.texts.registrationId !== undefined;
    return writtenId === undefined
      ? { row, endorsementKey: found.key, hasOwnId }
      : { row, endorsementKey: found.key, hasOwnId, writtenId };
  }

  /** The key that the row gives, in one form or in several that agree. */
  protected endorsementKey(): FoundKey | undefined {
    let first: FoundKey | undefined;
    let isGiven = false;
    let certificate: Buffer | string | undefined;
    // A certificate in a manifest does not stand in for the key.
    const fields = this.isHarvested && this.texts.endorsementKey === undefined ? [] : keyFields;
    for (const field of fields) {
      const entry = this.texts[field];
      if (entry === undefined) continue;
      isGiven = true;
      const { text, spot } = entry;
      const result = keyOfCell(field, text);
      if (field === 'ekCertificate') certificate = 'problem' in result ? result.problem : result.certificate;
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
    else if (this.#options.certificates !== undefined)
      this.#haveWitnessed(this.#options.certificates, certificate);
    return first;
  }

  /** @param certificate DER, or why there is none in the cell */
  #haveWitnessed(witness: CertificateWitness, certificate: Buffer | string | undefined): void {
    const entry = this.texts.ekCertificate;
    // What cannot be read is a fault already, but for a manifest.
    if (typeof certificate === 'string' && !this.isHarvested) return;
    const spot = (): Spot => entry?.spot() ?? { line: this.line, column: null };
    const problem = witness.look(certificate, () => ({ file: this.#file, ...spot() }));
    if (problem !== undefined) this.fault('ekCertificate', spot(), problem, { code: 'verify.ek' });
  }

  /** DPS matches ids without regard to case; they are written in lower case, except from the service's own form. */
  protected registrationId(endorsementKey: Buffer | undefined): string | undefined {
    const entry = this.texts.registrationId;
    if (entry === undefined) return endorsementKey && registrationIdOf(endorsementKey);
    const { text } = entry;
    const id = text.toLowerCase();
    const problem = registrationIdProblem(id);
    if (problem !== undefined) {
      this.fault('registrationId', entry.spot(), problem);
      return undefined;
    }
    if (text === id || this.isVerbatim) return text;
    const isDerived = endorsementKey !== undefined && registrationIdOf(endorsementKey) === id;
    if (!isDerived) this.#writtenId = text;
    return id;
  }

  #iotHubs(): readonly string[] | undefined {
    const entry = this.texts.iotHubs;
    if (entry === undefined) return this.#hubs;
    const hubs = hubsOfCell(entry.text);
    const problem =
      hubs.length === 0
        ? 'host names are expected, with blanks between them'
        : hubs.map(hostNameProblem).find((found) => found !== undefined);
    if (problem === undefined) return hubs;
    this.fault('iotHubs', entry.spot(), problem);
    return undefined;
  }

  #customAllocation(): CustomAllocation | undefined {
    const webhookUrl = this.#checked('webhookUrl', webhookUrlProblem);
    const apiVersion = this.#checked('webhookApiVersion', webhookApiVersionProblem);
    if (webhookUrl === undefined) return apiVersion === undefined ? undefined : { apiVersion };
    return apiVersion === undefined ? { webhookUrl } : { webhookUrl, apiVersion };
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
    if (twin === undefined) return undefined;
    const size = twinSize(twin);
    if (size > TWIN_PART_BYTES[part]) {
      const limit = `IoT Hub takes ${TWIN_PART_BYTES[part]} bytes of ${part}, these are ${size}`;
      this.fault(part, { line: this.line, column: null }, limit);
    }
    return twin;
  }

  #initialTwin(
    tags: TwinObject | undefined,
    desired: TwinObject | undefined,
  ): Enrollment['initialTwin'] | undefined {
    if (desired !== undefined)
      return tags === undefined ? { properties: { desired } } : { tags, properties: { desired } };
    const properties = this.#hasProperties ? { properties: {} } : undefined;
    if (tags !== undefined) return { tags, ...properties };
    return properties ?? (this.#hasInitialTwin ? {} : undefined);
  }

  /** What is wrong by itself need not go together with the rest. */
  get #hasAllocationFault(): boolean {
    return (this.#faults ?? []).some(({ field }) => field !== null && allocationFields.has(field));
  }

  #checkAllocation(
    allocation: Pick<
      Enrollment,
      'allocationPolicy' | 'iotHubHostName' | 'iotHubs' | 'customAllocationDefinition'
    >,
  ): void {
    const found = allocationProblem(allocation);
    if (found === undefined) return;
    const { field, problem } = found;
    const spot = field === 'iotHubs' ? undefined : this.texts[field]?.spot();
    this.fault(field, spot ?? { line: this.line, column: null }, problem);
  }
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
