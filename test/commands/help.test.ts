import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import type { Command } from 'commander';
import { parseLimpet } from '../../commands/limpet/parse.ts';
import { buildProgram, main } from '../../commands/main.ts';
import type { Host } from '../../commands/shared/context.ts';
import { toFailure } from '../../commands/shared/failure.ts';
import { errorCodes, IotdmError } from '../../src/errors.ts';
import { iotdm, scratchDirectory } from '../lab/lab.ts';

function host(): Host & { readonly output: () => string } {
  let output = '';
  const stream = (): PassThrough => {
    const sink = new PassThrough();
    sink.on('data', (bytes: Buffer) => (output += bytes.toString('utf8')));
    return sink;
  };
  return {
    stdin: new PassThrough(),
    stdout: stream(),
    stderr: stream(),
    environment: {},
    signal: new AbortController().signal,
    clock: () => new Date(0),
    tool: 'iotdm/0.0.0',
    self: [],
    output: () => output,
  };
}

/** All commands with a verb, as `['slot', 'write']`. */
function verbs(command: Command, path: readonly string[] = []): (readonly string[])[] {
  if (command.commands.length === 0) return [path];
  return command.commands.flatMap((child) => verbs(child, [...path, child.name()]));
}

const program = buildProgram(host());
const all = verbs(program);

async function helpOf(...args: string[]): Promise<string> {
  const streams = host();
  assert.equal(await main(args, streams), 0);
  return streams.output();
}

describe('--help', () => {
  for (const path of all) {
    it(`iotdm ${path.join(' ')}`, async () => {
      const text = await helpOf(...path, '--help');
      assert.match(text, new RegExp(`^Usage: iotdm ${path.join(' ')}( |$)`, 'm'));
      assert.match(text, /^[A-Z][^\n]*[a-z][.\n]/m, 'a sentence');
      if (path[0] === 'help') return;
      assert.match(text, /^Examples?:\n {2}\S/m);
      assert.match(text, /^See also: iotdm \S/m);
      assert.match(text, /--json/);
      for (const line of text.split('\n')) {
        assert.doesNotMatch(line, /undefined|\[object/);
      }
      assert.equal(await helpOf('help', ...path), text, 'iotdm help says the same');
    });
  }

  it('of iotdm and of its nouns lists what there is', async () => {
    for (const args of [[], ['--help'], ['help']]) {
      const text = await helpOf(...args);
      for (const { name } of program.commands.map((command) => ({ name: command.name() }))) {
        assert.match(text, new RegExp(`^ {2}${name} `, 'm'));
      }
    }
    for (const noun of program.commands.filter(({ commands }) => commands.length > 0)) {
      for (const args of [[noun.name()], [noun.name(), '--help'], ['help', noun.name()]]) {
        const text = await helpOf(...args);
        for (const verb of noun.commands) assert.match(text, new RegExp(`^ {2}${verb.name()}\\b`, 'm'));
      }
    }
  });

  it('shows the exit codes', async () => {
    const text = await helpOf('help', 'exit-codes');
    for (const code of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130])
      assert.match(text, new RegExp(`^ +${code}  \\S`, 'm'));
  });
});

/** The words of one command of a shell line, quotes removed. */
function words(text: string): string[] {
  return [...text.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(([, a, b, c]) => a ?? b ?? c ?? '');
}

/** The `iotdm …` commands in a line of examples. */
function commandsIn(line: string): string[][] {
  return line
    .split(/\$\(|\)|\s\|\s|\s>>?\s|\s&&\s|;\s/)
    .map((part) => words(part.trim().replace(/\s{2,}\S.*$/, '')))
    .map((parts) => parts.slice(parts.indexOf('iotdm')))
    .filter(([first]) => first === 'iotdm')
    .map((parts) => parts.slice(1));
}

/** Why a command line would be refused, or undefined. Options are checked by name, arguments by their number. */
function problemOf(parts: readonly string[]): string | undefined {
  if (parts[0] === 'limpet' && parts.length > 1 && parts[1] !== '--help') {
    // The arguments are Limpet's own.
    const line = parseLimpet(parts.slice(1));
    return line.kind === 'wrong' ? line.problem : undefined;
  }
  let command = program;
  const operands: string[] = [];
  for (let at = 0; at < parts.length; at += 1) {
    const word = parts[at] ?? '';
    if (word.startsWith('-') && word !== '-') {
      const [name = ''] = word.split('=');
      const option = [...command.options, ...program.options].find(
        ({ long, short }) => long === name || short === name,
      );
      if (option === undefined && name !== '--help') return `${command.name()} has no option ${name}`;
      if (option?.required === true && !word.includes('=')) at += 1;
      while (option?.variadic === true && parts[at + 1]?.startsWith('-') === false) at += 1;
      continue;
    }
    const child = command.commands.find((candidate) => candidate.name() === word);
    if (child !== undefined) command = child;
    else if (command.commands.length > 0 && !/^<.*>$/.test(word))
      return `${command.name()} has no command ${word}`;
    else operands.push(word);
  }
  if (parts.includes('--help') || command.commands.length > 0) return undefined;
  const wanted = command.registeredArguments;
  const least = wanted.filter(({ required }) => required).length;
  const most = wanted.some(({ variadic }) => variadic) ? Infinity : wanted.length;
  if (operands.length < least || operands.length > most) return `${operands.length} arguments`;
  for (const option of command.options) {
    if (
      option.mandatory &&
      !parts.some((part) => part === option.long || part.startsWith(`${option.long ?? ''}=`))
    )
      return `${option.long ?? ''} is missing`;
  }
  return undefined;
}

describe('examples', () => {
  it('in help texts are commands that there are', async () => {
    let checked = 0;
    for (const path of [[], ...all]) {
      const text = await helpOf(...path, '--help');
      const lines = text
        .slice(text.search(/^Examples?:/m))
        .split('\n')
        .filter((line) => line.startsWith('  '));
      for (const line of lines) {
        for (const parts of commandsIn(line)) {
          assert.equal(problemOf(parts), undefined, `iotdm ${parts.join(' ')}`);
          checked += 1;
        }
      }
      const seeAlso = /^See also: (.*)$/m.exec(text)?.[1]?.split(', ') ?? [];
      for (const pointer of seeAlso) {
        const parts = words(pointer).slice(1);
        const end = parts.findIndex((part) => part.startsWith('-') || /^<.*>$/.test(part));
        const bare = end === -1 ? parts : parts.slice(0, end);
        assert.equal(problemOf([...parts, '--help']), undefined, pointer);
        const known =
          bare[0] === 'help' ||
          bare.length === 0 ||
          all.some((verb) => bare.every((word, index) => verb[index] === word));
        assert.ok(known, `${path.join(' ')} points to ${pointer}`);
      }
    }
    assert.ok(checked > 40, String(checked));
  });

  it('in hints name commands and options that there are', () => {
    for (const code of errorCodes) {
      const { hint } = toFailure(new IotdmError(code, 'x'), 'iotdm slot write');
      for (const [command] of hint.matchAll(
        /(?<=: |with |run |\()iotdm(?: (?:--?[a-z][a-z-]*|[a-z][a-z-]*|N|ID|FILE))+/g,
      )) {
        const parts = words(command).slice(1);
        let at = program;
        for (const word of parts) {
          const child = at.commands.find((candidate) => candidate.name() === word);
          if (child === undefined) break;
          at = child;
        }
        assert.notEqual(at, program, `${code}: ${command}`);
        for (const option of parts.filter((part) => part.startsWith('--') && part !== '--help')) {
          const found = [...at.options, ...program.options].some(({ long }) => long === option);
          assert.ok(found, `${code}: ${command}: ${option}`);
        }
      }
    }
  });
});

describe('start-up', () => {
  it('for a help text loads neither the TPM library nor the service client, and touches no device', async (t) => {
    const dir = await scratchDirectory(t);
    // Names every module on stderr as it is loaded.
    writeFileSync(
      join(dir, 'hooks.mjs'),
      `import { writeSync } from 'node:fs';
       export async function load(url, context, next) { writeSync(2, 'loaded ' + url + '\\n'); return next(url, context); }`,
    );
    writeFileSync(
      join(dir, 'register.mjs'),
      `import { register } from 'node:module'; register('./hooks.mjs', import.meta.url);`,
    );
    const nodeArgs = ['--import', join(dir, 'register.mjs')];
    const loadedBy = async (...args: string[]): Promise<string[]> => {
      const { stderr } = await iotdm(args, { nodeArgs });
      return [...stderr.matchAll(/^loaded .*\/dist\/(.*)$/gm)].map(([, name]) => name ?? '');
    };
    const isHeavy = (name: string): boolean => /^(tpm|tss|azure|x509|emulator|harvest|ora)/.test(name);
    const unreachable = ['--tpm', 'swtpm:host=127.0.0.1,port=1'];
    const reading = await loadedBy('ek', 'read', ...unreachable);
    assert.ok(reading.some(isHeavy), `the test sees what is loaded: ${reading.join(' ')}`);
    for (const args of [
      ['--help'],
      ['ek', 'read', '--help'],
      ['enrollment', 'import', '--help'],
      ['--version'],
      ['slot', 'bogus'],
      ['limpet', '--help'],
      ['limpet', '-bogus'],
    ]) {
      const loaded = await loadedBy(...args, ...unreachable);
      assert.ok(loaded.length > 0);
      assert.deepEqual(loaded.filter(isHeavy), [], args.join(' '));
    }
  });

  it('prints the version', async () => {
    const { code, stdout } = await iotdm(['--version']);
    assert.equal(code, 0);
    assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
  });
});
