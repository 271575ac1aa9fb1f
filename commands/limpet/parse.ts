/** From Limpet's arguments to a row of its table. Nothing that may be a secret is repeated in what it says. */
import { SLOT_COUNT } from '../../src/slot/layout.ts';
import { nearest } from '../../src/nearest.ts';
import {
  isSlotSwitch,
  limpetSwitches,
  notation,
  plannedSwitches,
  switchNames,
  type LimpetSwitch,
  type SlotSwitchName,
  type SwitchName,
  type TpmSwitchName,
} from './switches.ts';

export type LimpetCommand =
  | { readonly kind: 'help' }
  | { readonly kind: 'tpm'; readonly name: TpmSwitchName; readonly parameters: readonly string[] }
  | {
      readonly kind: 'slot';
      readonly name: SlotSwitchName;
      readonly slot: number;
      readonly parameters: readonly string[];
    }
  /** Limpet has it, and iotdm does not yet. */
  | { readonly kind: 'planned'; readonly name: string }
  | { readonly kind: 'wrong'; readonly problem: string };

const helpWords: readonly string[] = ['help', 'h', '?', 'hhh'];

/** @param words what stands behind the program's name */
export function parseLimpet(words: readonly string[]): LimpetCommand {
  const [first, ...rest] = words;
  if (first === undefined) return { kind: 'help' };
  if (/^\d+$/.test(first)) return parseSlotCommand(first, rest);
  const typed = switchOf(first);
  if (typed === undefined) {
    return wrong('the first argument is neither a switch, such as -ERK, nor the number of a slot');
  }
  if (helpWords.includes(typed)) return { kind: 'help' };
  const found = rowsWith(typed, 0);
  if (found.length === 0) return plannedOr(typed, 'there is no switch', () => switchNames);
  const [name] = found;
  if (name === undefined || found.length > 1) return parseTwoWords(typed, found, rest);
  if (isSlotSwitch(name)) {
    return wrong(`the number of the slot is missing: ${notation(limpetSwitches[name])}`);
  }
  return checked(name, rest, (parameters) => ({ kind: 'tpm', name, parameters }));
}

function parseSlotCommand(number: string, [first, ...rest]: readonly string[]): LimpetCommand {
  const slot = Number(number);
  if (!/^\d$/.test(number)) return wrong(`slots are numbered 0 to ${SLOT_COUNT - 1}`);
  if (first === undefined) return wrong('a switch is missing behind the number of the slot');
  const typed = switchOf(first);
  if (typed === undefined) return wrong('no switch, such as -AST, stands behind the number of the slot');
  const [name] = rowsWith(typed, 0);
  if (name === undefined) {
    return plannedOr(typed, 'there is no switch', () => switchNames.filter(isSlotSwitch));
  }
  if (!isSlotSwitch(name)) return wrong(`no slot belongs to -${limpetSwitches[name].words[0]}`);
  return checked(name, rest, (parameters) => ({ kind: 'slot', name, slot, parameters }));
}

/** `-azuredps -enrollmentinfo csv`; Limpet takes the words behind `-azuredps` in any order. */
function parseTwoWords(
  typed: string,
  candidates: readonly SwitchName[],
  rest: readonly string[],
): LimpetCommand {
  for (const [index, word] of rest.entries()) {
    const name = candidates.find((candidate) => {
      const second = limpetSwitches[candidate].words[1];
      return second !== undefined && switchOf(word) === second.toLowerCase();
    });
    if (name === undefined || isSlotSwitch(name)) continue;
    return checked(name, rest.toSpliced(index, 1), (parameters) => ({ kind: 'tpm', name, parameters }));
  }
  const commands = candidates.map((name) => `-${limpetSwitches[name].words[1] ?? ''}`);
  return wrong(`one of ${commands.join(' and ')} belongs to -${typed}`);
}

function checked(
  name: SwitchName,
  parameters: readonly string[],
  make: (parameters: readonly string[]) => LimpetCommand,
): LimpetCommand {
  const row: LimpetSwitch = limpetSwitches[name];
  const { required = [], optional = [], choices } = row;
  const most = required.length + optional.length;
  if (parameters.length < required.length || parameters.length > most) {
    const number = `${parameters.length} argument${parameters.length === 1 ? '' : 's'}`;
    return wrong(`${number} behind -${row.words.join(' -')}: expected ${notation(row)}`);
  }
  if (choices === undefined) return make(parameters);
  const chosen = parameters.map((word) => switchOf(word) ?? word.toLowerCase());
  if (chosen.some((word) => !choices.includes(word))) {
    return wrong(`behind -${row.words.join(' -')} stands one of ${choices.join(', ')}`);
  }
  return make(chosen);
}

/** What is behind the dash, or behind the slash that Windows users type, in lower case. */
function switchOf(word: string): string | undefined {
  return /^[-/](.+)$/s.exec(word)?.[1]?.toLowerCase();
}

function rowsWith(typed: string, position: 0 | 1): SwitchName[] {
  return switchNames.filter((name) => limpetSwitches[name].words[position]?.toLowerCase() === typed);
}

function plannedOr(typed: string, problem: string, candidates: () => readonly SwitchName[]): LimpetCommand {
  const planned = plannedSwitches.find((name) => name.toLowerCase() === typed);
  if (planned !== undefined) return { kind: 'planned', name: planned };
  // A switch is a short word; anything else may be a key.
  if (!/^[a-z]{1,16}$/.test(typed)) return wrong(`${problem} like this`);
  const words = candidates().map((name) => limpetSwitches[name].words[0]);
  const guess = nearest(typed, words);
  const suggestion = guess === undefined ? '' : ` (did you mean -${guess}?)`;
  return wrong(`${problem} -${typed}${suggestion}`);
}

function wrong(problem: string): LimpetCommand {
  return { kind: 'wrong', problem };
}
