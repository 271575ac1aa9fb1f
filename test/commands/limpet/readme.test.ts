import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import type { Command } from 'commander';
import { limpetSwitches, notation, plannedSwitches, switchNames } from '../../../commands/limpet/switches.ts';
import { buildProgram } from '../../../commands/main.ts';
import { runInProcess } from './in-process.ts';

describe("the table of Limpet's commands", () => {
  it('stands in the README, row by row', () => {
    const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
    const cells = [...readme.matchAll(/^\| `(.+?)` +\| (.+?) +\| `(.+?)` +\|$/gm)].map(([, ...row]) => row);
    const expected = switchNames.map((name) => {
      const row = limpetSwitches[name];
      return [
        notation(row).replaceAll('|', String.raw`\|`),
        row.element === null ? 'plain text' : `\`${row.element}\``,
        row.iotdm,
      ];
    });
    assert.deepEqual(
      cells.filter(([left]) => /^(0 )?-[A-Za-z]/.test(left ?? '')),
      expected,
    );
  });

  it('stands in the help, with all that is not available yet', async () => {
    const { stdout } = await runInProcess(['limpet', '--help']);
    for (const name of switchNames) {
      const { iotdm } = limpetSwitches[name];
      assert.ok(
        stdout.split('\n').some((line) => {
          const [left, right] = line.trim().split(/ {2,}/);
          return left === notation(limpetSwitches[name]) && right === iotdm;
        }),
        name,
      );
    }
    for (const name of plannedSwitches) assert.match(stdout, new RegExp(` -${name}\\b`));
  });

  it('names commands that there are', () => {
    const stream = new PassThrough();
    const program = buildProgram({
      stdin: stream,
      stdout: stream,
      stderr: stream,
      environment: {},
      signal: new AbortController().signal,
      clock: () => new Date(0),
      tool: 'iotdm/0.0.0',
      self: [],
    });
    for (const name of switchNames) {
      const { iotdm } = limpetSwitches[name];
      if (iotdm === 'iotdm --version') continue;
      let command: Command | undefined = program;
      for (const word of iotdm.split(' ').slice(1)) {
        if (!/^[a-z]/.test(word)) break;
        command = command.commands.find((child) => child.name() === word) ?? command;
      }
      assert.equal(command.commands.length, 0, `${iotdm} is a command`);
      assert.notEqual(command, program);
    }
  });
});
