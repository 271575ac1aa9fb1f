/** What the commands that read files of enrollments share. */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import {
  checkEnrollmentInput,
  describeFault,
  fileInput,
  type InputCheck,
  type InputFormat,
  type InputSource,
} from '../../src/station/enrollment-input.ts';
import type { Context } from './context.ts';

export interface InputFileOptions {
  readonly ignoreUnknownColumns?: boolean;
}

export const inputFormats = ['csv', 'ndjson', 'json'] as const satisfies readonly InputFormat[];

export function ignoreUnknownColumnsOption(): Option {
  return new Option('--ignore-unknown-columns', 'leave out columns that mean nothing to iotdm');
}

/**
 * Runs a task on files of enrollments after every row in them was checked. Standard input is kept in a file (0600)
 * meanwhile, as it is read twice: once to check, once to work.
 * @throws IotdmError `input.rows` with all faults in its details; the task has not begun then
 */
export async function withCheckedInput<T>(
  context: Context,
  files: readonly string[],
  format: InputFormat | undefined,
  options: InputFileOptions,
  task: (sources: readonly InputSource[], rows: number) => Promise<T>,
): Promise<T> {
  const sources: InputSource[] = [];
  let spool: string | undefined;
  try {
    for (const file of files) {
      if (file === '-') {
        spool ??= await spoolStdin(context);
        const kept = fileInput(spool, format);
        sources.push({ ...kept, name: '<stdin>' });
      } else {
        sources.push(fileInput(file, format));
      }
    }
    const progress = await context.console.progress('Checking all rows');
    const check = await checkEnrollmentInput(sources, options).finally(() => {
      progress.done();
    });
    if (check.faultCount > 0) throw refuseRows(context, check);
    return await task(sources, check.rows);
  } finally {
    if (spool !== undefined) await rm(join(spool, '..'), { recursive: true, force: true });
  }
}

/** Prints the faults and returns the error that ends the command. */
export function refuseRows(context: Context, { faults, faultCount, rows }: InputCheck): IotdmError {
  // A single fault stands in the error line itself.
  if (!context.settings.json && faultCount > 1) {
    for (const fault of faults) context.host.stderr.write(`${describeFault(fault)}\n`);
    if (faultCount > faults.length) context.host.stderr.write(`… and ${faultCount - faults.length} more\n`);
  }
  const one = faultCount === 1;
  return new IotdmError(
    'input.rows',
    `${one ? 'one fault' : `${faultCount} faults`} in ${rows} rows${one && faults[0] !== undefined ? `: ${describeFault(faults[0])}` : ''}`,
    { details: { rows, faultCount, faults } },
  );
}

async function spoolStdin(context: Context): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'iotdm-stdin-'));
  const path = join(folder, 'input');
  context.console.detail('reading standard input');
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      for await (const piece of context.openInput('-', 'the enrollments')) await file.write(piece);
    } finally {
      await file.close();
    }
    return path;
  } catch (error) {
    // Interrupted, or out of space: half a copy is of no use to anybody.
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}
