import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { iotdm, lifetimeOfFile, scratchDirectory } from '../lab/lab.ts';

const lifetime = lifetimeOfFile();
let dir: string;

async function script(shell: string): Promise<string> {
  const path = join(dir, `iotdm.${shell}`);
  const { code, stdout, stderr } = await iotdm(['completion', shell], { env: { IOTDM_JSON: '1' } });
  assert.deepEqual([code, stderr], [0, '']);
  writeFileSync(path, stdout);
  return path;
}

function run(shell: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(shell, args, { encoding: 'utf8', cwd: dir });
  assert.deepEqual([status, stderr], [0, '']);
  return stdout;
}

const isThere = (shell: string): boolean => spawnSync(shell, ['-c', 'true']).status === 0;

/** What is typed, the cursor at its end, and what must and must not be offered. */
const lines: readonly [typed: string, offered: readonly string[], notOffered: readonly string[]][] = [
  ['iotdm ', ['tpm', 'ek', 'slot', 'harvest', 'completion', 'help'], ['read', '--json']],
  ['iotdm sl', ['slot'], ['simulator']],
  ['iotdm slot ', ['list', 'show', 'write', 'clear'], ['tpm', 'merge']],
  ['iotdm --quiet ek ', ['read', 'cert', 'verify', 'convert'], ['slot']],
  ['iotdm --tpm device:/dev/tpm0 ek ', ['read'], ['slot']],
  ['iotdm ek read --', ['--format', '--persist', '--tpm', '--json'], ['--dps', '--manifest', '--owner-auth']],
  ['iotdm ek read --fo', ['--format'], ['--json']],
  ['iotdm ek read --format ', ['text', 'json', 'csv', 'tpm2b', 'pem'], ['der']],
  ['iotdm ek cert --format ', ['der', 'pem'], ['tpm2b']],
  ['iotdm ek read --format p', ['pem'], ['json']],
  ['iotdm ek read --out ', ['a-file'], ['read']],
  ['iotdm enrollment import ', ['a-file'], ['create']],
  ['iotdm enrollment import --mode upsert --format ', ['csv', 'ndjson', 'json'], ['upsert']],
  ['iotdm slot show 3 --timeout ', [], ['list', 'show']],
  ['iotdm help ', ['exit-codes', 'slot'], ['write']],
  ['iotdm completion ', ['bash', 'zsh', 'fish', 'powershell'], ['tpm']],
];

function check(offeredFor: (typed: string) => readonly string[]): void {
  for (const [typed, offered, notOffered] of lines) {
    const found = offeredFor(typed);
    for (const word of offered) assert.ok(found.includes(word), `${typed}: ${word} in ${found.join(' ')}`);
    for (const word of notOffered) assert.ok(!found.includes(word), `${typed}: no ${word}`);
  }
}

describe('completion', () => {
  before(async () => {
    dir = await scratchDirectory(lifetime);
    writeFileSync(join(dir, 'a-file'), '');
  });

  it('of bash', async () => {
    const path = await script('bash');
    // What readline does with the function, files included where it leaves the default on.
    const complete = (words: readonly string[]): string[] =>
      run('bash', [
        '--norc',
        '-c',
        'source "$0"; files=yes; compopt() { files=; }; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _iotdm; ' +
          'printf "%s\\n" "${COMPREPLY[@]}"; if [ -n "$files" ]; then compgen -f -- "${COMP_WORDS[COMP_CWORD]}"; fi',
        path,
        ...words,
      ]).split('\n');
    check((typed) => complete(typed.split(' ')));
    // bash takes the equals sign for a word.
    assert.ok(complete(['iotdm', 'ek', 'read', '--format', '=', 'p']).includes('pem'));
    assert.ok(complete(['iotdm', 'ek', 'read', '--format', '=']).includes('json'));
    assert.ok(complete(['iotdm', 'ek', '--timeout', '=', '3', '']).includes('read'));
    // It registers itself, and says nothing where it is loaded twice.
    assert.match(
      run('bash', ['--norc', '-c', 'source "$0"; source "$0"; complete -p iotdm', path]),
      /_iotdm/,
    );
  });

  it('of fish', { skip: !isThere('fish') }, async () => {
    const path = await script('fish');
    check((typed) =>
      run('fish', ['--no-config', '-c', 'source $argv[1]; complete -C $argv[2]', path, typed])
        .split('\n')
        .map((line) => line.split('\t')[0] ?? ''),
    );
  });

  it('of zsh', { skip: !isThere('zsh') }, async () => {
    const path = await script('zsh');
    // Its completion works in a terminal only: here the functions that show words print them.
    const stage =
      'compdef() { :; }; _files() { print a-file; }; compadd() { shift; print -l -- "$@"; }; ' +
      '_describe() { print -l -- "${(P@)${@[-1]}%%:*}"; }; source "$1"; shift; words=("$@"); CURRENT=$#; _iotdm || :';
    check((typed) => {
      const words = typed.split(' ');
      const found = run('zsh', ['-f', '-c', stage, 'zsh', path, ...words]).split('\n');
      return found.filter((word) => word.startsWith(words.at(-1) ?? ''));
    });
    const loaded = run('zsh', [
      '-f',
      '-c',
      'autoload -Uz compinit; compinit -u -D; source "$1"; print -r -- "$_comps[iotdm]"',
      'zsh',
      path,
    ]);
    assert.equal(loaded, '_iotdm\n');
  });

  it('of PowerShell knows every command, and quotes what it says of it', async () => {
    const text = (await iotdm(['completion', 'powershell'])).stdout;
    for (const path of ['', 'slot', 'slot write', 'enrollment import'])
      assert.ok(text.includes(`    '${path}' = @(`));
    for (const line of text.split('\n').filter((entry) => entry.startsWith("    '"))) {
      assert.match(line, /^ {4}'(?:[^']|'')*' = @\((?:,?@\('(?:[^']|'')*', '(?:[^']|'')*'\)(?:, )?)*\)$/);
    }
    assert.match(text, /'ek read --format' = @\(@\('text', 'text'\), @\('json', 'json'\)/);
  });

  it('is asked for by the name of a shell', async () => {
    const { code, stderr } = await iotdm(['completion', 'bahs']);
    assert.equal(code, 2);
    assert.match(stderr, /unknown command 'bahs' \(did you mean bash\?\)/);
    assert.match((await iotdm(['completion', 'zsh', '--help'])).stdout, /source <\(iotdm completion zsh\)/);
  });
});
