/** The report of an import: a CSV with every row of the input exactly once and what has become of it, over all runs. */

import type { ImportJournal, RowFailure, RowState } from '../records/import-journal.ts';
import { csvLine, csvReportLine } from '../records/csv.ts';

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

export interface ReportedRow {
  readonly file: string;
  readonly line: number;
  readonly enrollment: { readonly registrationId: string };
}

/**
 * The lines of the report, in the order of the input.
 * @param rows the input from its beginning
 * @param wayOut what mends a failure, in one line
 */
export async function* importReport(
  rows: AsyncIterable<readonly ReportedRow[]>,
  journal: ImportJournal,
  wayOut: (failure: RowFailure) => string,
): AsyncGenerator<string, void, undefined> {
  yield reportHeader;
  let index = 0;
  for await (const some of rows) {
    for (const { file, line, enrollment } of some) {
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
      yield csvReportLine(cells);
      index += 1;
    }
  }
}
