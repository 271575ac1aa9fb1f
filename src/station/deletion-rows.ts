/**
 * Rows that say which enrollments are to be deleted. What they say of whose enrollment it is will be compared: the kind of
 * attestation, the endorsement key or the certificates, the version. Nothing else in them is looked at, so that a row can
 * stand for an enrollment that could not be imported like that.
 */
import { decodeBase64 } from '../encoding.ts';
import type { JsonRow } from '../records/json-rows.ts';
import { columnOfName, keyFields, quoted, type Column, type InputField } from './enrollment-columns.ts';
import type { CheckOptions, InputOptions, ReadRow } from './enrollment-rows.ts';
import { isMembers, RowDraft, type Spot } from './row-draft.ts';

/** What a row is made of, by what is to be done with it. */
export function draftOf(file: string, line: number, options: CheckOptions): RowDraft {
  const { deletion } = options;
  return deletion === undefined
    ? new RowDraft(file, line, options)
    : new DeletionDraft(file, line, deletion, options);
}

const TPM = 'tpm';
const lookedAt: ReadonlySet<string> = new Set<string>([
  'registrationId',
  ...keyFields,
  'attestation.type',
  'etag',
  'schema',
] satisfies (InputField | 'attestation.type' | 'etag' | 'schema')[]);

class DeletionDraft extends RowDraft {
  readonly #isByIdOnly: boolean;
  #type: string | undefined;
  #x509: unknown;

  constructor(
    file: string,
    line: number,
    deletion: NonNullable<InputOptions['deletion']>,
    options: InputOptions,
  ) {
    super(file, line, options);
    this.#isByIdOnly = deletion === 'ids-only';
  }

  /** What a deletion does not look at cannot be wrong. */
  override fault(...[field, spot, message, extra]: Parameters<RowDraft['fault']>): void {
    if (field === null || this.#isByIdOnly || lookedAt.has(field)) super.fault(field, spot, message, extra);
  }

  override setAttestation(attestation: unknown, spot: () => Spot): void {
    const members = isMembers(attestation) ? attestation : {};
    const { x509 } = members;
    const type = members['type'] ?? (isMembers(members['tpm']) ? TPM : undefined);
    if (typeof type !== 'string' || !/^[A-Za-z0-9]{1,30}$/.test(type)) {
      this.fault('attestation.type', spot(), 'the kind of attestation is missing: tpm, x509 or symmetricKey');
      this.#type = '';
      return;
    }
    this.#type = type;
    this.#x509 = x509 ?? undefined;
  }

  override finish(): ReadRow {
    const type = this.#type ?? TPM;
    const isByKey = type === TPM && !this.#isByIdOnly;
    const key = isByKey ? this.#endorsementKey() : undefined;
    const registrationId = this.registrationId(key)?.toLowerCase();
    if (registrationId === undefined && !isByKey && !this.hasFaults) {
      this.fault('registrationId', { line: this.line, column: null }, idIsMissing);
    }
    if (registrationId === undefined || this.hasFaults) return this.faulty(false, registrationId ?? null);
    const { line } = this;
    if (this.#isByIdOnly) return { deletion: { line, enrollment: { registrationId } } };
    return {
      deletion: {
        line,
        enrollment: {
          registrationId,
          attestation: {
            type,
            ...(key === undefined ? {} : { tpm: { endorsementKey: key.toString('base64') } }),
            ...(this.#x509 === undefined ? {} : { x509: this.#x509 }),
          },
          ...(this.etag === undefined ? {} : { etag: this.etag }),
        },
      },
    };
  }

  /** Any key that DPS could hold, also one of a kind that is not imported; in other columns as an import reads them. */
  #endorsementKey(): Buffer | undefined {
    const [column, ...others] = keyFields.filter((field) => this.texts[field] !== undefined);
    const isAlone = column === 'endorsementKey' && (this.isHarvested || others.length === 0);
    const bytes = isAlone ? decodeBase64(this.texts.endorsementKey?.text ?? '') : undefined;
    const isSized = bytes !== undefined && bytes.length > 2 && bytes.readUInt16BE(0) === bytes.length - 2;
    return isSized ? bytes : this.endorsementKey()?.key;
  }
}

const idIsMissing = 'the registration id is missing';
/** How the fault of whatever else stands in a file of registration ids begins. */
export const onlyIds = 'only registration ids are expected here, and nothing would be compared with';

/** A registration id in JSON: a text, or an object that names nothing else. */
export function idOfJson(row: JsonRow, file: string, options: InputOptions): ReadRow {
  const draft = draftOf(file, row.line, options);
  const members = isMembers(row.value) ? row.value : { registrationId: row.value };
  for (const [name, value] of Object.entries(members)) {
    const spot = () => row.place(isMembers(row.value) ? [name] : []);
    if (value === null || value === '') continue;
    if (!isIdColumn(columnOfName(name))) {
      if (options.ignoreUnknownColumns !== true) draft.fault(name, spot(), notAnId(name));
    } else if (typeof value === 'string') draft.setText('registrationId', value, spot);
    else draft.fault('registrationId', spot(), 'a text in quotes is expected');
  }
  return draft.finish();
}

export function isIdColumn(column: Column | undefined): boolean {
  return column?.kind === 'field' && column.field === 'registrationId';
}

/** What is wrong with a column or a member in a file of registration ids alone. */
export function notAnId(name: string): string {
  return `${onlyIds} ${quoted(name)}`;
}
