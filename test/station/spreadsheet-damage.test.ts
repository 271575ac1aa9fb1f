import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { errorValueIn, identityDamage, LongNumbers } from '../../src/station/spreadsheet-damage.ts';

const errors = [
  '#REF!',
  '#VALUE!',
  '#N/A',
  '#NAME?',
  '#DIV/0!',
  '#NUM!',
  '#NULL!',
  '#SPILL!',
  '#CALC!',
  '#GETTING_DATA',
  '#BEZUG!',
  '#WERT!',
  '#NV',
  '#ZAHL!',
  '#ÜBERLAUF!',
  '#VALEUR!',
  '#NOM?',
  '#¡REF!',
  '#¡DIV/0!',
  '#¿NOMBRE?',
  '#N/D',
  '#RIF!',
  '#ADR!',
  '#ИМЯ?',
  '#Н/Д',
  '#ERROR!',
  'Err:502',
];
const narrow = ['##', '########', '#'.repeat(300)];
const numbers = [
  '3.57E+14',
  '1,23457E+11',
  '1E+15',
  '8.94E+19',
  '3.57e+14',
  '-1.5E-05',
  '357E+12',
  '1.2346E14',
  '+1E+09',
];
const dates = [
  'Mar-17',
  'Mrz 17',
  'Mrz. 17',
  'Mär-17',
  'Okt 26',
  'Dez-26',
  'Mar-2026',
  'Sept-17',
  'March-17',
  '17-Mar',
  '1-Mar',
  '9-Dec',
  '17. Mrz',
  '17.Mrz',
  '17. Mrz 26',
  '17-Mar-26',
  '17-Mar-2026',
  '17 March 2026',
  '17. März 2026',
  '17-mars',
  '01-févr',
  '17-mar-26',
  'March 17, 2026',
  '3/17/2026',
  '3/17/26',
  '17/03/2026',
  '03/17/2026 00:00',
  '3/17/2026 12:00:00 AM',
  '17.03.2026',
  '17-03-2026',
  '2026-03-17',
  '2026-03-17 00:00:00',
  '2026-03-17T00:00:00',
  '2026/3/17',
  '1900-01-00',
  '9/1/2026',
];
/** Ids and serial numbers that people have. */
const meant = [
  'press-17',
  'SN-0001',
  '357123456789012',
  '00357',
  '1E10',
  '5E12',
  '12E5',
  '0x1E+5',
  'a3.57E+14',
  '-4.5',
  '+12',
  '1.10',
  '1-2',
  '12-34',
  '3-17',
  '17.03',
  '1.2.3',
  '10.0.17.3',
  '17.03.26',
  '17-03-26',
  '20260317',
  '2026-W12',
  '2026-17',
  '2026-003',
  'MAR-17',
  'mar-17',
  'mars-17',
  'jan-01',
  'may-7',
  'led-01',
  'gen-12',
  'set-03',
  'Marl-17',
  'March',
  'Mar',
  'Mar-1',
  'Mar-1745',
  'Maria-17',
  'May-A',
  'SEP-2026',
  'Jan',
  'Dec-001',
  '17Mar',
  '17-Marl',
  '99-Mar',
  '12:30',
  '#1',
  '#',
  'a#REF!',
  '#REF',
  '#hot!',
  'no#',
  '#press-17',
  'E-17',
  'Err:5',
  'N/A',
  'TRUE',
  '1900',
  '31-12',
  '2026-03-17-001',
  'LOT-2026-03-17',
  '1/2',
  '1/2/3',
  '357E',
  '3.57E+1400',
  'a device id is long, and this one is Mar-17 at its end',
];

describe('what spreadsheets make of ids and serial numbers', () => {
  it('is told by what it has become', () => {
    const kinds: [readonly string[], RegExp][] = [
      [errors, /^(.*) is a spreadsheet's error, not a value$/],
      [narrow, /^#+…? is what a spreadsheet shows in place of a value where the column is too narrow$/],
      [numbers, /^(.*) is a number that a spreadsheet has shortened, and its digits are gone$/],
      [dates, /^(.*) is a date that a spreadsheet has made of something else$/],
    ];
    for (const [cells, pattern] of kinds) {
      for (const cell of cells) assert.match(identityDamage(cell)?.message ?? `${cell}: nothing`, pattern);
    }
  });

  it('is not seen in what people call devices', () => {
    for (const cell of meant) assert.equal(identityDamage(cell), undefined, cell);
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z]{1,8}[-_:]?[0-9]{1,9}$|^[0-9A-F]{12}$|^[0-9]{1,15}$/), (cell) => {
        assert.equal(identityDamage(cell), undefined);
      }),
      { numRuns: 2000 },
    );
  });

  it('is an error in any column, a number or a date in those of ids only', () => {
    for (const cell of [...errors, ...narrow]) assert.notEqual(errorValueIn(cell), undefined, cell);
    for (const cell of [...numbers, ...dates, ...meant]) assert.equal(errorValueIn(cell), undefined, cell);
  });

  it('takes no time over long cells', () => {
    for (const cell of [
      '1'.repeat(1e6),
      '#'.repeat(1e6),
      `#${'A'.repeat(1e6)}`,
      '1-'.repeat(5e5),
      'Mar '.repeat(3e5),
    ]) {
      const began = performance.now();
      identityDamage(cell);
      assert.ok(performance.now() - began < 1000);
    }
  });
});

describe('long numbers in a column', () => {
  const problemOf = (...cells: string[]): string | undefined => {
    const numbers = new LongNumbers();
    for (const [index, cell] of cells.entries()) numbers.see(cell, () => ({ line: index + 2, column: 7 }));
    const problem = numbers.problem();
    return problem === undefined ? undefined : `${problem.line}:${problem.column} ${problem.message}`;
  };

  it('that all end in zeros behind their 15th digit have lost their digits', () => {
    assert.equal(
      problemOf('SN-1', '8944500123456780000'),
      '3:7 8944500123456780000 ends in zeros: a spreadsheet keeps 15 digits of a number',
    );
    assert.equal(
      problemOf('3571234567890120', '3571234567890130', 'x', '3571234567890140', '12345678901234500'),
      '2:7 3571234567890120 and all 4 numbers of more than 15 digits in this column end in zeros: a spreadsheet keeps 15 digits of a number',
    );
  });

  it('of which one has all its digits are as they were', () => {
    assert.equal(problemOf('8944500123456780000', '8944500123456780001'), undefined);
    assert.equal(problemOf('8944500123456780001', '8944500123456780000'), undefined);
  });

  it('that may end in zeros by chance are left alone', () => {
    assert.equal(problemOf('3571234567890120', '3571234567890130', '3571234567890140'), undefined);
    assert.equal(problemOf('000000000000000', '123456789012345', 'A8944500123456780000'), undefined);
  });
});
