import { kinds, type Explanation } from './catalogue/entry.ts';
import { explain, nearestCode } from './catalogue/explain.ts';
import { CommandError } from './shared/failure.ts';
import { table, type Verb } from './shared/verb.ts';

const LONGEST_QUOTE = 60;

export const explainVerb: Verb<[string[]], object, Explanation | readonly Explanation[]> = {
  name: 'explain',
  arguments: [['<code...>', 'a code or the message that holds it, as it was printed']],
  summary: 'what an error code means and how to mend it',
  description:
    'Says what an error code of a TPM, of Windows TBS, of Azure DPS and IoT Hub, of the system or of iotdm means, ' +
    'what causes it as a rule, and which command mends it. Touches neither TPM nor network. ' +
    'A number that may be several things is explained as each of them, the likeliest first.',
  examples: [
    'iotdm explain 0x98e',
    'iotdm explain TPM_RC_HANDLE',
    'iotdm explain 404201',
    'iotdm explain tpm.lockout',
    'iotdm explain EACCES',
    'iotdm explain exit 4',
    'iotdm explain "tpm:session(1):the authorization HMAC check failed"',
  ],
  seeAlso: ['iotdm help exit-codes', 'iotdm tpm check'],
  settings: [],
  run(context, [words]) {
    const text = words.join(' ');
    const found = explain(text);
    const [first, ...others] = found;
    if (first === undefined) return Promise.reject(unknownCode(text));
    if (others.length === 0) return Promise.resolve(first);
    context.console.note(`${quoted(text)} may be each of these ${found.length}`);
    return Promise.resolve(found);
  },
  describe: (result) => (result instanceof Array ? result : [result]).map(describeOne).join('\n'),
};

function describeOne({ code, name, kind, meaning, cause, fix }: Explanation): string {
  return table([
    ['Code', `${code} (${kinds[kind]})`],
    ['Name', name],
    ['Meaning', meaning],
    ['Likely cause', cause],
    ['What to do', fix],
  ]);
}

function unknownCode(text: string): CommandError {
  const guess = nearestCode(text);
  return new CommandError(
    'usage.invalid',
    `${quoted(text)} is no code that is known here`,
    guess === undefined
      ? 'codes look like 0x18b, TPM_RC_HANDLE, 404201, EACCES or tpm.lockout; run: iotdm explain --help'
      : `did you mean "${guess}"? run: iotdm explain ${guess}`,
  );
}

function quoted(text: string): string {
  const shown = text.replace(/[\p{C}\p{Z}]+/gu, ' ').trim();
  return `"${shown.length > LONGEST_QUOTE ? `${shown.slice(0, LONGEST_QUOTE)}…` : shown}"`;
}
