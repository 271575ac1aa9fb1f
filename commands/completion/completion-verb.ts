/** What the verbs of `iotdm completion` have in common: they differ in the script, and in how a shell loads it. */
import type { Command } from 'commander';
import type { Verb } from '../shared/verb.ts';

export interface ShellCompletion {
  /** The command that makes it stay, for every new shell. */
  readonly forever: string;
  readonly script: (program: Command) => string;
}

/** Bound to the program when the tree is built, as the script is made out of the whole of it. */
export type CompletionVerb = (program: Command) => Verb<[], object, void>;

export function completionVerb(
  shell: string,
  once: string,
  { forever, script }: ShellCompletion,
): CompletionVerb {
  return (program) => ({
    name: shell,
    summary: `print the completion script for ${shell}`,
    description:
      `Prints a script by which ${shell} completes the commands, options and choices of iotdm with the tab key. ` +
      'The first example loads it into the running shell, the second one keeps it for those to come.',
    examples: [once, forever],
    seeAlso: ['iotdm --help'],
    settings: [],
    async run(context) {
      await context.print(script(program));
    },
    describe: () => '',
  });
}
