/** Runs commands that must fail, in both forms, and checks that both say the same in the form that scripts rely on. */
import assert from 'node:assert/strict';
import { iotdm, type RunOptions } from '../lab/lab.ts';

export interface ShownFailure {
  readonly exitCode: number;
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  /** Standard error of the text form. */
  readonly text: string;
  /** Standard output of the JSON form: only a batch that went through in part has a result beside its error. */
  readonly result: string;
}

interface ErrorDocument {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly hint: string;
    readonly details?: Readonly<Record<string, unknown>>;
  };
}

/** The command twice, as text and then with `--json`: one after the other, as the first may change what the second meets. */
export async function failing(args: readonly string[], options: RunOptions = {}): Promise<ShownFailure> {
  const text = await iotdm(args, options);
  const json = await iotdm([...args, '--json'], options);
  const shown = shownFailure(json);
  assert.equal(text.code, json.code, 'both forms have one exit code');
  assert.equal(text.stdout, '', 'a failure prints no result');
  const [error, hint] = errorLines(text.stderr);
  assert.equal(error, shown.message);
  assert.equal(hint, shown.hint);
  return { ...shown, text: text.stderr };
}

/** The one error line and the one hint line of the text form. */
export function errorLines(stderr: string): [message: string, hint: string] {
  const starting = (prefix: string): string[] =>
    stderr
      .split('\n')
      .filter((line) => line.startsWith(prefix))
      .map((line) => line.slice(prefix.length));
  const errors = starting('iotdm: error: ');
  const hints = starting('iotdm: hint: ');
  assert.equal(errors.length, 1, `one error line in:\n${stderr}`);
  assert.equal(hints.length, 1, `one hint line in:\n${stderr}`);
  const [message = ''] = errors;
  const [hint = ''] = hints;
  assert.match(stderr, /iotdm: error: .+\niotdm: hint: .+\n$/, 'the error and its hint come last');
  checkWording(message);
  checkWording(hint);
  assert.doesNotMatch(stderr, /^\s+at /m, 'no stack');
  return [message, hint];
}

/** The error document of a command that was run with `--json`: the last line of standard error. */
export function shownFailure({
  code: exitCode,
  stdout,
  stderr,
}: Awaited<ReturnType<typeof iotdm>>): ShownFailure {
  const lines = stderr.trimEnd().split('\n');
  const { error, ...rest } = JSON.parse(lines.pop() ?? '') as ErrorDocument;
  for (const line of lines)
    assert.match(line, /^iotdm: warning: /, 'nothing but warnings before the document');
  assert.deepEqual(rest, {});
  const { code, message, hint, details, ...more } = error;
  assert.deepEqual(more, {}, 'no other keys');
  checkWording(message);
  checkWording(hint);
  return { exitCode, code, message, hint, details, text: stderr, result: stdout };
}

/** Lower case, one line, no full stop. Names that begin with a capital (TPM, HTTP) are no sentences. */
function checkWording(text: string): void {
  assert.doesNotMatch(text, /^[A-Z][a-z]/, `lower case: ${text}`);
  assert.doesNotMatch(text, /\.$/, `no full stop: ${text}`);
  assert.doesNotMatch(text, /\. [A-Z]/, `one sentence: ${text}`);
  assert.doesNotMatch(text, /\p{Cc}/u, `one line: ${text}`);
  assert.notEqual(text.trim(), '');
}
