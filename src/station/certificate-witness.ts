/** Holds the EK certificates of a delivery list against the vendors that are trusted, while its rows are checked. */
import type { TrustedCertificates } from '../trust/roots.ts';
import { CertificateJudge, type CertificateCheckName } from '../trust/verdict.ts';
import type { RowFault } from './enrollment-rows.ts';

/** Where a certificate stands, or should. */
export type CertificatePlace = Pick<RowFault, 'file' | 'line' | 'column'>;

/** What is not in order: the first check that a certificate fails, or that it cannot be read, or is not there. */
export type UnverifiedFor = CertificateCheckName | 'missing' | 'unreadable';

export interface UnverifiedRow extends CertificatePlace {
  readonly message: string;
}

export interface RowVerification {
  /** `require`: a row whose certificate is not verified is a fault. `warn`: it is counted here only. */
  readonly policy: 'require' | 'warn';
  /** Rows whose certificate is that of an EK, in order by itself, and leads to a trusted root. */
  readonly verified: number;
  readonly notVerified: number;
  /** How many for which reason, the most frequent one first. */
  readonly reasons: readonly { readonly for: UnverifiedFor; readonly rows: number }[];
  /** The first ten of them. */
  readonly first: readonly UnverifiedRow[];
}

const LISTED_ROWS = 10;

/** Names in certificates can be as long as their makers like. */
const MAX_MESSAGE = 300;

export class CertificateWitness {
  readonly #judge: CertificateJudge;
  readonly #policy: 'require' | 'warn';
  readonly #reasons = new Map<UnverifiedFor, number>();
  readonly #first: UnverifiedRow[] = [];
  #verified = 0;
  #notVerified = 0;

  /** @param now at which the certificates are to be valid */
  constructor(trusted: TrustedCertificates, now: Date, policy: 'require' | 'warn') {
    this.#judge = new CertificateJudge(trusted, now);
    this.#policy = policy;
  }

  /**
   * Looks at the certificate of a row. That it is for the row's key is seen elsewhere.
   * @param certificate DER; a text that says why there is none to look at; undefined where the row has none
   * @returns what is wrong with the row, undefined where nothing is, or where it is only to be warned of
   */
  look(certificate: Buffer | string | undefined, place: () => CertificatePlace): string | undefined {
    if (certificate === undefined) return this.#refuse('missing', 'the row has no EK certificate', place);
    if (typeof certificate === 'string') return this.#refuse('unreadable', certificate, place);
    const fault = this.#judge.faultOf(certificate);
    if (fault !== undefined) return this.#refuse(fault.failed ?? 'unreadable', fault.reason, place);
    this.#verified += 1;
    return undefined;
  }

  verification(): RowVerification {
    return {
      policy: this.#policy,
      verified: this.#verified,
      notVerified: this.#notVerified,
      reasons: [...this.#reasons]
        .map(([reason, rows]) => ({ for: reason, rows }))
        .toSorted((one, other) => other.rows - one.rows),
      first: this.#first,
    };
  }

  #refuse(reason: UnverifiedFor, text: string, place: () => CertificatePlace): string | undefined {
    const shown = text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}…` : text;
    const message = `the EK certificate is not verified: ${shown}`;
    this.#notVerified += 1;
    this.#reasons.set(reason, (this.#reasons.get(reason) ?? 0) + 1);
    if (this.#policy === 'require') return message;
    if (this.#first.length < LISTED_ROWS) this.#first.push({ ...place(), message });
    return undefined;
  }
}
