/** What the reading of enrollment files gives: rows, or what is wrong with them. */
import type { Enrollment } from '../dps/enrollment.ts';
import type { CertificateWitness } from './certificate-witness.ts';
import type { DamageKind } from './spreadsheet-damage.ts';

export interface InputOptions {
  readonly ignoreUnknownColumns?: boolean;
  /** Takes ids, serial numbers and twins as they stand in CSV where they look as if a spreadsheet had changed them. */
  readonly asText?: boolean;
  /** Columns of CSV whose cells are texts, as `tags.version`, `tags.line.*` or `desired.*`. */
  readonly textColumns?: readonly string[];
  /** The rows say what is to be deleted: compared with what is enrolled, or by registration ids alone. */
  readonly deletion?: 'compared' | 'ids-only';
  /** Called for each column and member that is left out for it, with its name as messages show it. */
  readonly onIgnored?: (name: string) => void;
  /** The values are to change an enrollment that is there: they need not make a whole one. */
  readonly partial?: boolean;
}

/** What else is looked at while rows are checked, and only then. */
export interface CheckOptions extends InputOptions {
  /** Holds the EK certificate of each row against trusted vendors. */
  readonly certificates?: CertificateWitness;
}

export interface EnrollmentRow {
  /** 1-based number of the row's first line in its file. */
  readonly line: number;
  readonly enrollment: Enrollment;
  readonly serialNumber?: string;
  /**
   * The device id is not named: it is the registration id as it was written, before that was lower-cased, and is meant
   * for an enrollment that is created. See `namedValues`.
   */
  readonly impliesDeviceId?: true;
}

/** What a row names, which is what an enrollment that is there already is compared and merged with. */
export function namedValues({ enrollment, impliesDeviceId }: EnrollmentRow): Enrollment {
  if (impliesDeviceId !== true) return enrollment;
  const copy: { -readonly [Name in keyof Enrollment]: Enrollment[Name] } = { ...enrollment };
  delete copy.deviceId;
  return copy;
}

export interface RowFault {
  readonly file: string;
  /** 1-based. */
  readonly line: number;
  /** 1-based, in characters; null where a fault has no column. */
  readonly column: number | null;
  /** The column's or member's name, as `iotEdge` or `tags.site`; null for faults of a whole row. */
  readonly field: string | null;
  /** Of the row, where that much is known. */
  readonly registrationId: string | null;
  readonly code: 'input.invalid' | 'verify.ek';
  /** Lower case, without a full stop. */
  readonly message: string;
  /** Set where the value is what a spreadsheet has made of another one. */
  readonly damage?: DamageKind;
}

/** A row that is no enrollment, or a CSV header behind which no row can be read. */
export interface FaultyRow {
  readonly line: number;
  readonly isHeader: boolean;
  /** All that was found, in the order of the file. */
  readonly faults: readonly RowFault[];
}

/** A row in which nothing is wrong, for the search for rows that are there twice. */
export interface SoundRow {
  readonly row: EnrollmentRow;
  /** TPM2B_PUBLIC. */
  readonly endorsementKey: Buffer;
  /** Whether the row names its registration id; else it is the one that follows from the endorsement key. */
  readonly hasOwnId: boolean;
  /** The row's registration id as it stands there, where that is not how it is written to the service. */
  readonly writtenId?: string;
}

/** An enrollment that is to be deleted, as a row knows it. */
export interface DeletionTarget {
  readonly registrationId: string;
  /** Absent where the registration id is all that is known. */
  readonly attestation?: {
    /** `tpm`, `x509`, `symmetricKey`, or whatever the service calls it. */
    readonly type: string;
    readonly tpm?: { readonly endorsementKey: string };
    /** Definition X509Attestation, as far as the row has it; unchecked. */
    readonly x509?: unknown;
  };
  /** With it, that version only. */
  readonly etag?: string;
}

export interface DeletionRow {
  /** 1-based number of the row's first line in its file. */
  readonly line: number;
  readonly enrollment: DeletionTarget;
}

export interface SoundDeletion {
  readonly deletion: DeletionRow;
}

export type ReadRow = SoundRow | SoundDeletion | FaultyRow;

/** A fault on one line: `rows.csv:3:17: deviceId: message`. */
export function describeFault(fault: RowFault): string {
  const place = fault.column === null ? `${fault.line}` : `${fault.line}:${fault.column}`;
  return `${fault.file}:${place}: ${fault.field === null ? '' : `${fault.field}: `}${fault.message}`;
}
