/** From an error to what the user sees and the shell gets: one exit code and one hint for every error code. */
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { redact } from '../../src/secret.ts';
import { fixText } from '../catalogue/entry.ts';
import { exitCodeOf } from '../catalogue/exit-codes.ts';
import { fixOf } from '../catalogue/fix-of.ts';

/** An error of the command line itself, with a hint of its own. */
export class CommandError extends IotdmError {
  readonly hint: string;

  constructor(code: ErrorCode, message: string, hint: string, details?: Readonly<Record<string, unknown>>) {
    super(code, message, details === undefined ? {} : { details });
    this.hint = hint;
  }
}

export interface Failure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  readonly exitCode: number;
  /** For `-v`; only errors that nobody foresaw have one. */
  readonly stack: string | undefined;
}

function redactAll(details: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(details).map(([key, value]) => [key, redactValue(value)]));
}

function redactValue(value: unknown): unknown {
  if (typeof value === 'string') return redact(value);
  if (Array.isArray(value)) return value.map(redactValue);
  return typeof value === 'object' && value !== null
    ? redactAll(value as Readonly<Record<string, unknown>>)
    : value;
}

/** All enrollments could not be read for what the command itself does not need. */
function withoutIndex({ details }: IotdmError): string {
  return details?.['index'] === true
    ? '; where they may not be listed, --no-index leaves the comparison out'
    : '';
}

/** Turns anything that was thrown into what is shown. */
export function toFailure(error: unknown, command: string): Failure {
  const known =
    error instanceof IotdmError
      ? error
      : new IotdmError(
          'internal.unexpected',
          `unexpected: ${error instanceof Error ? error.message : String(error)}`,
        );
  const stack = known.code === 'internal.unexpected' && error instanceof Error ? error.stack : undefined;
  const hint = known instanceof CommandError ? known.hint : fixOf(known);
  const details = known.details === undefined ? undefined : redactAll(known.details);
  return {
    code: known.code,
    message: redact(known.message),
    hint: fixText(hint, { command, details: details ?? {} }) + withoutIndex(known),
    details,
    exitCode: exitCodeOf(known.code),
    stack: stack === undefined ? undefined : redact(stack),
  };
}
