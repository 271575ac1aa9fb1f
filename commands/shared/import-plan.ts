/** Prints what an import would do, row by row as it is found out, so that no file is too long for it. */
import type { PlannedRow, PlanTotals } from '../../src/station/import-plan.ts';
import type { Context } from './context.ts';
import { notCompared, type Compared } from './identity-index.ts';
import { table } from './verb.ts';

interface Plan {
  rows(): AsyncIterable<PlannedRow>;
  totals(): PlanTotals;
}

const PIECE_CHARACTERS = 16 * 1024;

/** With `--json` one document: `dryRun`, `mode`, `rows`, and the totals after them. */
export async function printPlan(
  context: Context,
  plan: Plan,
  mode: string,
  compared: Compared,
): Promise<void> {
  const { json } = context.settings;
  let piece = json ? `{\n  "dryRun": true,\n  "mode": ${JSON.stringify(mode)},\n  "rows": [` : '';
  let separator = '\n';
  for await (const row of plan.rows()) {
    if (json) piece += `${separator}    ${JSON.stringify(row)}`;
    else piece += describeRow(row);
    separator = ',\n';
    if (piece.length < PIECE_CHARACTERS) continue;
    await context.print(piece);
    if (context.hasNoReader) return;
    piece = '';
  }
  const totals = plan.totals();
  if (json) {
    const members = JSON.stringify({ ...totals, ...compared }, null, 2).slice(2, -2);
    await context.print(`${piece}${separator === '\n' ? '' : '\n  '}],\n${members}\n}\n`);
  } else {
    const remark = compared.identityCompared === false ? notCompared : '';
    await context.print(`${piece}${describeTotals(totals, mode)}${remark}`);
  }
}

function describeRow({ line, registrationId, action, message }: PlannedRow): string {
  return `${action.padEnd(9)}  line ${line}: ${registrationId}${message === undefined ? '' : `: ${message}`}\n`;
}

function describeTotals(totals: PlanTotals, mode: string): string {
  const { total, requests, minutes } = totals;
  const shown =
    mode === 'delete'
      ? (['delete', 'conflict', 'skip'] as const)
      : (['create', 'update', 'unchanged', 'conflict'] as const);
  return (
    `${total === 1 ? '1 row' : `${total} rows`} compared; nothing was written.\n` +
    table([
      ...shown.map(
        (action) => [`${action.charAt(0).toUpperCase()}${action.slice(1)}`, String(totals[action])] as const,
      ),
      [
        'Requests',
        `${requests}${minutes === null ? '' : `, in about ${minutes < 1 ? `${Math.max(1, Math.ceil(minutes * 60))} s` : `${minutes} minutes`}`}`,
      ],
    ])
  );
}
