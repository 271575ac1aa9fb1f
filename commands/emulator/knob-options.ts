/** The options of `emulator start` that make the emulator misbehave, and the help on the language of faults. */
import { Option } from 'commander';
import type { KnobReport, KnobTexts } from '../../src/emulator/knobs.ts';

export const knobOptions = (): Option[] => [
  new Option(
    '--quota <n>',
    'answer 429 to what is more than so many operations a minute (1000), or a second (100/s)',
  ),
  new Option(
    '--bulk-cost <unit>',
    'what a bulk request counts as (default: one for each enrollment)',
  ).choices(['request', 'enrollment']),
  new Option('--latency <ms>', 'hold each answer back for so long; 50-200: for a random time between'),
  new Option('--assign-delay <ms>', 'let devices that register wait so long for their hub'),
  new Option(
    '--fault <spec>',
    'misbehave on purpose, as explained below; may be given several times',
  ).argParser((spec, before: unknown) => [...((before as readonly string[] | undefined) ?? []), spec]),
  new Option('--fault-seed <n>', 'make the random choices of faults and latency repeatable'),
];

/** What `--fault` understands; the words themselves are those of src/emulator/fault-spec.ts. */
export const faultNotes = [
  'Faults: KIND[,KEY=VALUE]…; of several, the first that strikes. Kinds:',
  '  400 … 599     refuse with this status; retry-after=SECONDS; applied=yes: it takes effect',
  '  cut-before    cut the connection before the request is processed',
  '  cut-after     cut it when the request is processed, before the answer',
  '  cut-midway    cut it in the middle of the answer',
  '  stall         answer after ms=N milliseconds, or never',
  '  stall-midway  stop in the middle of the answer for ms=N milliseconds, or for ever',
  '  truncate      answer with half of the JSON document',
  '  unknown-ids   blame enrollments that nobody sent in the answer to a bulk request',
  '  etag-race     have another writer change the enrollments just before',
  '  assign-fail   end the registration of a device in the status failed',
  'Which requests, of those that are authorized; without these keys all:',
  '  method=PUT, path=/enrollments/*   * is any text in one part of the path, ** any text',
  '  rate=5%                           so many of them, chosen at random',
  '  nth=3, nth=2-4, every=10          the third, the second to fourth, each tenth of them',
  '  times=2                           at most twice',
  'Faults end with the emulator: started again without them it is well-behaved.',
].join('\n');

/** The same knobs as arguments, for the process in the background. */
export function knobArguments(texts: KnobTexts): string[] {
  const { quota, bulkCost, latency, assignDelay, fault = [], faultSeed } = texts;
  const single = {
    '--quota': quota,
    '--bulk-cost': bulkCost,
    '--latency': latency,
    '--assign-delay': assignDelay,
    '--fault-seed': faultSeed,
  };
  return [
    ...Object.entries(single).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`])),
    ...fault.map((spec) => `--fault=${spec}`),
  ];
}

export function knobRows(knobs: KnobReport | null): (readonly [string, string])[] {
  if (knobs === null) return [];
  const { quota, bulkCost, latency, assignDelay, faults, faultSeed } = knobs;
  const bulk =
    bulkCost === 'request' ? 'a bulk request counts once' : 'a bulk request counts its enrollments';
  return [
    ...(quota === null ? [] : [['Quota', `${quota}, ${bulk}`] as const]),
    ...(latency === null ? [] : [['Latency', `${latency} ms`] as const]),
    ...(assignDelay === null ? [] : [['Assign delay', `${assignDelay} ms`] as const]),
    ...faults.map((fault) => ['Fault', fault] as const),
    ...(faultSeed === null ? [] : [['Fault seed', String(faultSeed)] as const]),
  ];
}
