import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { fenceLimpet, isCalledLimpet } from '../../../commands/limpet/command-line.ts';
import { parseLimpet } from '../../../commands/limpet/parse.ts';
import { limpetSwitches, notation, plannedSwitches, switchNames } from '../../../commands/limpet/switches.ts';

describe('the name that iotdm is called by', () => {
  it('is Limpet in any case, with the endings of programs', () => {
    for (const script of [
      '/usr/local/bin/limpet',
      'limpet',
      String.raw`C:\Windows\System32\Limpet.exe`,
      String.raw`C:\tools\limpet.cmd`,
      '/opt/LIMPET.js',
    ]) {
      assert.equal(isCalledLimpet(script), true, script);
    }
    for (const script of [
      undefined,
      '',
      '/usr/bin/iotdm',
      '/opt/limpet/dist/iotdm.js',
      '/usr/bin/limpets',
      '/usr/bin/limpet.txt',
      '/usr/bin/my-limpet',
    ]) {
      assert.equal(isCalledLimpet(script), false, script);
    }
  });
});

describe("the fence before Limpet's arguments", () => {
  it('stands behind the options that all commands share', () => {
    for (const [args, fenced] of [
      [
        ['limpet', '-VER'],
        ['limpet', '--', '-VER'],
      ],
      [
        ['--tpm', 'tbs', 'limpet', '0', '-RID'],
        ['--tpm', 'tbs', 'limpet', '--', '0', '-RID'],
      ],
      [
        ['limpet', '--tpm', 'tbs', '-vv', '-ERK', 'f'],
        ['limpet', '--tpm', 'tbs', '-vv', '--', '-ERK', 'f'],
      ],
      [
        ['limpet', '--tpm=tbs', '-ERK', '--json'],
        ['limpet', '--tpm=tbs', '--', '-ERK', '--json'],
      ],
      [
        ['limpet', '-h'],
        ['limpet', '--', '-h'],
      ],
    ] as const) {
      assert.deepEqual(fenceLimpet(args), fenced);
    }
    for (const args of [
      [],
      ['limpet'],
      ['limpet', '--help'],
      ['limpet', '--', '-ERK'],
      ['limpet', '--tpm'],
      ['limpet', '--tpm', 'tbs'],
      ['ek', 'read', 'limpet'],
      ['--tpm', 'limpet', 'ek', 'read'],
      ['help', 'limpet'],
    ]) {
      assert.deepEqual(fenceLimpet(args), args);
    }
  });

  it('changes nothing else, whatever the arguments', () => {
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom('limpet', '--tpm', '--json', '--', '-v', '--timeout=3', '-q', '0', '-AST', '--help'),
    );
    fc.assert(
      fc.property(fc.array(word), (args) => {
        const fenced = fenceLimpet(args);
        const at = fenced.findIndex((value, index) => value !== args[index]);
        if (at === -1) assert.deepEqual(fenced, args);
        else assert.deepEqual([fenced[at], fenced.toSpliced(at, 1)], ['--', args]);
      }),
    );
  });
});

describe("Limpet's command line", () => {
  for (const name of switchNames) {
    const row = limpetSwitches[name];
    const head = row.scope === 'slot' ? ['7'] : [];
    const least = (row.required ?? []).map((_, index) => `p${index}`);
    it(`has ${notation(row)}`, () => {
      for (const spelling of [
        (word: string) => `-${word}`,
        (word: string) => `-${word.toLowerCase()}`,
        (word: string) => `/${word.toUpperCase()}`,
      ]) {
        const command = parseLimpet([...head, ...row.words.map(spelling), ...least]);
        assert.deepEqual(command, {
          kind: row.scope,
          name,
          ...(row.scope === 'slot' ? { slot: 7 } : {}),
          parameters: least,
        });
      }
      const words = row.words.map((word) => `-${word}`);
      const full = row.choices ?? [...least, ...(row.optional ?? []).map((_, index) => `q${index}`)];
      const command = parseLimpet([...head, ...words, ...full]);
      assert.deepEqual('parameters' in command && command.parameters, full);
      for (const parameters of [
        ...(least.length > 0 ? [least.slice(1)] : []),
        [...full, row.choices?.[0] ?? 'one-more'],
      ]) {
        assert.equal(parseLimpet([...head, ...words, ...parameters]).kind, 'wrong');
      }
      // A slot where none belongs, or none where one must be.
      const other = row.scope === 'slot' ? [] : ['7'];
      assert.equal(parseLimpet([...other, ...words, ...least]).kind, 'wrong');
    });
  }

  it('takes the words of -azuredps in any order and with a dash', () => {
    for (const words of [
      ['-azuredps', '-enrollmentinfo', '-json'],
      ['-AzureDps', '-EnrollmentInfo', 'JSON'],
      ['/azuredps', '/json', '/enrollmentinfo'],
    ]) {
      assert.deepEqual(parseLimpet(words), { kind: 'tpm', name: 'enrollmentInfo', parameters: ['json'] });
    }
    for (const words of [['-azuredps'], ['-azuredps', 'csv'], ['-azuredps', '-enrollmentinfo', 'xml']]) {
      assert.equal(parseLimpet(words).kind, 'wrong');
    }
  });

  it('leaves parameters as they are, also those that look like switches', () => {
    assert.deepEqual(parseLimpet(['0', '-sur', '-DLD']), {
      kind: 'slot',
      name: 'SUR',
      slot: 0,
      parameters: ['-DLD'],
    });
  });

  it('knows what is not available yet', () => {
    for (const name of plannedSwitches) {
      assert.deepEqual(parseLimpet([`-${name.toLowerCase()}`, 'x', 'y']), { kind: 'planned', name });
      assert.deepEqual(parseLimpet(['3', `-${name}`]), { kind: 'planned', name });
    }
  });

  it('shows its usage to whoever asks', () => {
    for (const words of [[], ['-help'], ['/?'], ['-h'], ['-HHH']]) {
      assert.equal(parseLimpet(words).kind, 'help', words[0]);
    }
  });

  it('says what is wrong, and repeats nothing but a switch', () => {
    const key = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';
    for (const [words, problem] of [
      [['-ERG'], 'there is no switch -erg (did you mean -ERK?)'],
      [['10', '-RID'], 'slots are numbered 0 to 9'],
      [['00', '-RID'], 'slots are numbered 0 to 9'],
      [['-RID'], 'the number of the slot is missing: 0 -RID'],
      [['0', '-LLD'], 'no slot belongs to -LLD'],
      [['0'], 'a switch is missing behind the number of the slot'],
      [['0', '-PCS'], '0 arguments behind -PCS: expected 0 -PCS <connection string>'],
      [[key], /^the first argument is neither a switch/],
      [[`-${key}`], 'there is no switch like this'],
      [['0', key], /^no switch, such as -AST, stands/],
      [['0', '-CHK', key, key], '2 arguments behind -CHK: expected 0 -CHK <key>'],
    ] as const) {
      const command = parseLimpet(words);
      assert.ok(command.kind === 'wrong', words.join(' '));
      if (typeof problem === 'string') assert.equal(command.problem, problem);
      else assert.match(command.problem, problem);
      assert.doesNotMatch(command.problem, /bZD|qa/);
    }
  });

  it('is understood or refused, whatever it is', () => {
    const known = [...switchNames.flatMap((name) => limpetSwitches[name].words), ...plannedSwitches];
    const word = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(...known.flatMap((name) => [`-${name}`, `/${name}`, name])),
      fc.integer({ min: -1, max: 12 }).map(String),
    );
    fc.assert(
      fc.property(fc.array(word, { maxLength: 7 }), (words) => {
        const command = parseLimpet(words);
        if (command.kind !== 'tpm' && command.kind !== 'slot') return;
        const { words: spelled, required = [], optional = [] } = limpetSwitches[command.name];
        const count = command.parameters.length;
        assert.ok(count >= required.length && count <= required.length + optional.length);
        assert.equal(words.length, count + spelled.length + (command.kind === 'slot' ? 1 : 0));
      }),
    );
  });
});
