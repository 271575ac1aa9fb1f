import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Chalk } from 'chalk';
import { banner } from '../../commands/provision/verdict.ts';

const plain = new Chalk({ level: 0 });
const colored = new Chalk({ level: 1 });

const pass = `
  ██████    █████    ██████   ██████
  ██   ██  ██   ██  ██       ██
  ██████   ███████   █████    █████
  ██       ██   ██       ██       ██
  ██       ██   ██  ██████   ██████

`;

it('is large where the terminal is wide enough, and one word where it is not, or is none', () => {
  for (const passed of [true, false]) {
    const word = passed ? 'PASS' : 'FAIL';
    for (const columns of [undefined, 0, 20]) assert.equal(banner(passed, columns, plain), `${word}\n`);
  }
  assert.equal(banner(true, 80, plain), pass);
  assert.notEqual(banner(false, 80, plain), pass);
  assert.equal(banner(true, 80, colored).includes('\u001b[32m'), true);
  assert.equal(banner(false, 80, colored).includes('\u001b[31m'), true);
});
