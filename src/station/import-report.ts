/** The report of an import: a CSV with every row of the input exactly once and what has become of it, over all runs. */

import type { ImportJournal, RowFailure, RowState } from '../records/import-journal.ts';
import { csvLine } from '../records/csv.ts';
import type { EnrollmentRow } from './enrollment-input.ts';

/** A row and the file that it stands in. */
export interface ReportedRow extends EnrollmentRow {
  readonly file: string;
}

const columns = ['file', 'line', 'registrationId', 'outcome', 'code', 'message', 'wayOut'];

/** The first line of every report. */
export const reportHeader = csvLine(columns);

/** `unknown`: sent, and the answer never came; `pending`: not sent yet. */
const outcomeNames: Readonly<Record<RowState, string>> = {
  open: 'pending',
  create: 'unknown',
  update: 'unknown',
  delete: 'unknown',
  created: 'created',
  updated: 'updated',
  unchanged: 'unchanged',
  deleted: 'deleted',
  absent: 'skipped',
  failed: 'failed',
};

/**
 * The lines of the report, in the order of the input.
 * @param rows the input from its beginning
 * @param wayOut what mends a failure, in one line
 */
export async function* importReport(
  rows: AsyncIterable<ReportedRow>,
  journal: ImportJournal,
  wayOut: (failure: RowFailure) => string,
): AsyncGenerator<string, void, undefined> {
  yield reportHeader;
  let index = 0;
  for await (const { file, line, enrollment } of rows) {
    const state = journal.state(index);
    const failure = state === 'failed' ? await journal.failure(index) : undefined;
    const cells = [
      file,
      String(line),
      enrollment.registrationId,
      outcomeNames[state],
      failure?.code ?? '',
      failure?.message ?? '',
      failure === undefined ? '' : wayOut(failure),
    ];
    yield csvLine(cells.map(harmless));
    index += 1;
  }
}

/** Spreadsheets take a cell that begins like this for a formula, and what the service says is not ours. */
function harmless(cell: string): string {
  return /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell;
}
