import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { accessSync } from 'node:fs';
import { constants } from 'node:os';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import type { Command } from 'commander';
import fc from 'fast-check';
import { fixText, kinds, type Explanation } from '../../commands/catalogue/entry.ts';
import { exitCodes } from '../../commands/catalogue/exit-codes.ts';
import { explain } from '../../commands/catalogue/explain.ts';
import { reasonEntries } from '../../commands/catalogue/reasons.ts';
import { systemErrorNames, systemErrorOfNumber } from '../../commands/catalogue/system-errors.ts';
import { tpmEntries } from '../../commands/catalogue/tpm-codes.ts';
import { tssMessages } from '../../commands/catalogue/tss-messages.ts';
import { buildProgram } from '../../commands/main.ts';
import { toFailure } from '../../commands/shared/failure.ts';
import { serviceErrorCodes } from '../../src/emulator/service-error.ts';
import { errorCodes, IotdmError } from '../../src/errors.ts';
import { refusalError } from '../../src/dps/service-errors.ts';
import { decodeResponseCode, responseCodeNumbers, responseError } from '../../src/tpm/response-code.ts';
import { describeTbsCode, tbsCodes, tbsError } from '../../src/tpm/tbs-code.ts';
import { iotdm } from '../lab/lab.ts';

const run = promisify(execFile);

const hex = (code: number): string => `0x${code.toString(16)}`;

/** The codes and names of what a text may be. */
const readings = (text: string): string[] => explain(text).map(({ code, name }) => `${code} ${name}`);

function one(text: string): Explanation {
  const found = explain(text);
  assert.equal(found.length, 1, `${text}: ${found.map(({ name }) => name).join(', ')}`);
  assert.ok(found[0] !== undefined);
  return found[0];
}

/** Every explanation that the catalogue can give for a known code. */
function wholeCatalogue(): Explanation[] {
  const texts = [
    ...Array.from({ length: 0x1000 }, (_, code) => hex(code)),
    ...tbsCodes.map(hex),
    ...systemErrorNames,
    ...errorCodes,
    ...exitCodes.map(([code]) => `exit ${code}`),
    ...Array.from({ length: 200 }, (_, offset) => `status ${400 + offset}`),
    ...Array.from({ length: 200 }, (_, offset) => [
      ...Array.from({ length: 40 }, (__, number) => String((400 + offset) * 1000 + number)),
      ...[103, 201, 202].map((number) => String((400 + offset) * 1000 + number)),
    ]).flat(),
    ...['0x80280001', '0x80280fff', '0x7000a', '0xa000a', '0xb0143', '0xc0001'],
  ];
  return texts.flatMap((text) => {
    const found = explain(text);
    assert.notEqual(found.length, 0, text);
    return [...found];
  });
}

describe('the catalogue of codes', () => {
  it('says what a number means that is known from IoT Hub only, and what it is where DPS gives it', () => {
    assert.deepEqual(
      explain('429001').map(({ name }) => name),
      ['IoT Hub 429001', 'HTTP 429 Too Many Requests'],
    );
    assert.match(explain('429001')[1]?.meaning ?? '', /does not document 429001 for DPS.*throttling/);
  });

  it('explains each of the 4096 response codes, or says that it is not defined', () => {
    for (let code = 0; code <= 0xfff; code += 1) {
      const { name, kind, code: shown } = one(hex(code));
      assert.equal(kind, 'tpm');
      assert.equal(Number(shown), code);
      const decoded = decodeResponseCode(code);
      if (decoded.name.startsWith('response code')) assert.equal(name, 'not defined');
      else assert.ok(name.startsWith(decoded.name), `${hex(code)}: ${name}`);
    }
  });

  it('has an entry for every name of a response code and none beside them', () => {
    assert.deepEqual(Object.keys(tpmEntries).sort(), [...responseCodeNumbers.keys()].sort());
  });

  it('has an entry for every error code, exit code, TBS code, and what the emulator answers', () => {
    for (const code of errorCodes) assert.equal(one(code).kind, 'iotdm');
    for (const [code] of exitCodes) assert.equal(one(`exit ${code}`).kind, 'exit');
    for (const code of tbsCodes) assert.equal(one(hex(code)).name, describeTbsCode(code)?.name);
    for (const code of Object.values(serviceErrorCodes)) assert.notEqual(explain(String(code)).length, 0);
  });

  it('says in each entry what to do, in one line of plain text', () => {
    for (const { kind, meaning, cause, fix, ...rest } of wholeCatalogue()) {
      assert.ok(kind in kinds);
      for (const text of [meaning, cause, fix]) {
        assert.match(
          text,
          /^(?:[^A-Z\s]|[A-Z][A-Z0-9]|Microsoft|Windows|IoT|Ctrl).*[^.\s]$/,
          JSON.stringify(rest),
        );
        assert.doesNotMatch(text, /\n|undefined|\[object/);
      }
    }
  });

  it('names only commands that exist', () => {
    const silent = new PassThrough();
    const program = buildProgram({
      stdin: silent,
      stdout: silent,
      stderr: silent,
      environment: {},
      signal: new AbortController().signal,
      clock: () => new Date(0),
      tool: 'iotdm/0',
      self: [],
    });
    const known = new Set(commandNames(program));
    // Of the contract of the command line, whether or not they have come yet.
    for (const name of ['tpm check', 'tpm clear', 'tpm info', 'ek verify', 'device register'])
      known.add(name);
    const nouns = new Set([...known].map((name) => name.split(' ')[0]));
    // "the iotdm command", "if iotdm sends it"
    const prose = ['command', 'sends', 'binds', 'needs', 'sees', 'is', 'again'];
    const tools = new Set<string>();
    const ofCauses = Object.values(reasonEntries).map((entry) => ({ fix: fixText(entry.fix) }));
    for (const { fix } of [...wholeCatalogue(), ...ofCauses]) {
      for (const [, noun = '', verb = ''] of fix.matchAll(/\biotdm ([a-z]+)(?: ([a-z][a-z-]+))?/g)) {
        if (prose.includes(noun)) continue;
        assert.ok(nouns.has(noun) && (known.has(`${noun} ${verb}`) || known.has(noun)), fix);
      }
      for (const [tool] of fix.matchAll(/\btpm2_[a-z]+/g)) tools.add(tool);
    }
    assert.ok(tools.size >= 5);
    for (const tool of tools) accessSync(`/usr/bin/${tool}`);
  });

  it('numbers the system errors as this Linux does', () => {
    for (const name of systemErrorNames) {
      const number = (constants.errno as Readonly<Record<string, number>>)[name];
      if (process.platform === 'linux' && number !== undefined && systemErrorOfNumber(number) !== undefined) {
        assert.equal(systemErrorOfNumber(number), name);
      }
    }
    assert.equal(systemErrorOfNumber(13), 'EACCES');
  });
});

/** `slot write` for a verb of a noun, `explain` for a command of its own. */
function commandNames(command: Command): string[] {
  return command.commands.flatMap((child) =>
    child.commands.length === 0
      ? [child.name()]
      : child.commands.map((verb) => `${child.name()} ${verb.name()}`),
  );
}

describe('a code as it is pasted', () => {
  const spellings: [string, string[]][] = [
    ['0x18b', ['0x18b TPM_RC_HANDLE (handle 1)']],
    ['0X0000018B', ['0x18b TPM_RC_HANDLE (handle 1)']],
    ['395', ['0x18b TPM_RC_HANDLE (handle 1)', '0x395 TPM_RC_SIZE (handle 3)']],
    ['98e', ['0x98e TPM_RC_AUTH_FAIL (session 1)']],
    ['TPM_RC_HANDLE', ['0x08b TPM_RC_HANDLE']],
    ['tpm2_rc_handle', ['0x08b TPM_RC_HANDLE']],
    ['TPM_20_E_HANDLE', ['0x08b TPM_RC_HANDLE']],
    ['LOCKOUT', ['0x921 TPM_RC_LOCKOUT']],
    ['TPM_RC_VALUE (parameter 2)', ['0x2c4 TPM_RC_VALUE (parameter 2)']],
    ['TPM_RC_AUTH_FAIL (session 1)', ['0x98e TPM_RC_AUTH_FAIL (session 1)']],
    ['TPM_RC_LOCKOUT (session 1)', ['0x921 TPM_RC_LOCKOUT']],
    ['tpm:session(1):the authorization HMAC check failed…', ['0x98e TPM_RC_AUTH_FAIL (session 1)']],
    ['0x0000098e', ['0x98e TPM_RC_AUTH_FAIL (session 1)']],
    ['0x80280400', ['0x80280400 TPM_E_COMMAND_BLOCKED']],
    ['80280400', ['0x80280400 TPM_E_COMMAND_BLOCKED']],
    ['2150121487', ['0x8028400f TBS_E_TPM_NOT_FOUND']],
    ['-2144845809', ['0x8028400f TBS_E_TPM_NOT_FOUND']],
    ['TBS_E_TPM_NOT_FOUND', ['0x8028400f TBS_E_TPM_NOT_FOUND']],
    ['404201', ['404201 DPS 404201']],
    [
      '400004',
      [
        '400004 DPS 400004 (endorsement key)',
        '400004 DPS 400004 (registration id)',
        '400004 DPS 400004 (API version)',
        '400004 IoT Hub 400004',
      ],
    ],
    ['409777', ['409777 HTTP 409 Conflict']],
    ['{"errorCode":404201,"message":"Enrollment not found."}', ['404201 DPS 404201']],
    ['HTTP/1.1 429 Too Many Requests', ['429 HTTP 429 Too Many Requests']],
    ['status code 503', ['503 HTTP 503 Service Unavailable']],
    ['404', ['404 HTTP 404 Not Found']],
    ['tpm.lockout', ['tpm.lockout tpm.lockout']],
    ['EACCES', ['EACCES EACCES']],
    ['errno 13', ['EACCES EACCES']],
    ['exit 4', ['4 exit code 4']],
    ['exit code: 130', ['130 exit code 130']],
    ['tpm-unavailable', ['3 exit code 3']],
    ['4', ['4 exit code 4']],
    ['5', ['5 exit code 5', 'EIO EIO']],
    [
      'ERROR: Esys_ReadPublic(0x18B) - tpm:handle(1):the handle is not correct for the use',
      ['0x18b TPM_RC_HANDLE (handle 1)'],
    ],
    [
      'iotdm: error: the TPM refused the command: Load answered TPM_RC_INTEGRITY (parameter 1)',
      ['0x1df TPM_RC_INTEGRITY (parameter 1)'],
    ],
    ["Error: EACCES: permission denied, open '/dev/tpmrm0'", ['EACCES EACCES']],
    ['{"error":{"code":"tpm.lockout","message":"the TPM is locked out"}}', ['tpm.lockout tpm.lockout']],
  ];
  for (const [text, expected] of spellings) {
    it(text, () => {
      assert.deepEqual(readings(text), expected);
    });
  }

  it('is nothing where it is none', () => {
    for (const text of [
      '',
      ' ',
      'hello',
      'the device does not work',
      '0xdeadbeef',
      '99999999999',
      'exit 77',
      '(',
    ]) {
      assert.deepEqual(readings(text), [], text);
    }
  });

  it('is recognized in the words of tpm2-tools, all of them', async () => {
    for (const [message, name] of tssMessages) {
      const { stdout } = await run('tpm2_rc_decode', [hex(responseCodeNumbers.get(name) ?? 0)]);
      assert.ok(stdout.includes(message), `${name}: ${stdout}`);
      assert.ok(one(stdout).name.startsWith(name), stdout);
    }
    for (const code of [0x18b, 0x2c4, 0x98e, 0x9a2, 0x5d5, 0xb0143]) {
      const { stdout } = await run('tpm2_rc_decode', [hex(code)]);
      assert.equal(Number(one(stdout).code) & 0xfff, code & 0xfff, stdout);
    }
  });

  it('may be any text at all', () => {
    const pieces = fc.constantFrom(
      '0x',
      'TPM_RC_',
      'tpm:',
      '(',
      ')',
      'exit ',
      'E',
      '404',
      '-',
      '.',
      '\n',
      '\u202e',
      '8028',
    );
    const texts = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.array(fc.oneof(pieces, fc.string(), fc.integer().map(String))).map((parts) => parts.join('')),
      fc.integer().map(hex),
      fc.bigInt().map(String),
    );
    fc.assert(
      fc.property(texts, (text) => {
        for (const { code, name, meaning, cause, fix } of explain(text)) {
          for (const part of [code, name, meaning, cause, fix]) assert.notEqual(part, '');
        }
      }),
    );
  });
});

describe('the hint of an error', () => {
  const hint = (error: unknown): string => toFailure(error, 'iotdm slot write').hint;

  it("is the catalogue's fix for its code", () => {
    for (const code of errorCodes) {
      if (code === 'usage.invalid' || code === 'input.invalid') continue;
      assert.equal(hint(new IotdmError(code, 'message')), one(code).fix);
    }
    assert.equal(hint(new IotdmError('usage.invalid', 'message')), 'run: iotdm slot write --help');
  });

  it("is the fix of the TPM's, Windows' or the service's own code where that says more", () => {
    assert.equal(hint(responseError('Import', 0x1df)), one('0x1df').fix);
    assert.match(hint(responseError('Import', 0x1df)), /iotdm enrollment show/);
    assert.match(hint(tbsError('Tbsip_Submit_Command', 0x80280400)), /administrator/);
    const answer = {
      status: 400,
      contentType: 'application/json',
      errorCodeHeader: undefined,
      retryAfterMs: undefined,
      body: JSON.stringify({ errorCode: 400004, message: 'Endorsement key is invalid.' }),
    };
    assert.match(hint(refusalError('dps.example', answer)), /iotdm ek read/);
  });

  it('stays that of an error that was made out of a response', () => {
    const error = new IotdmError('tpm.slot-foreign', 'message', { details: { responseCode: '0x00000184' } });
    assert.equal(hint(error), one('tpm.slot-foreign').fix);
    const strange = new IotdmError('tpm.refused', 'message', {
      details: { responseCode: 'x', errorCode: -1 },
    });
    assert.equal(hint(strange), one('tpm.refused').fix);
  });
});

describe('iotdm explain', () => {
  it('prints one explanation as an object and several as an array', async () => {
    const single = await iotdm(['explain', '0x98e', '--json']);
    assert.equal(single.code, 0);
    assert.deepEqual(Object.keys(JSON.parse(single.stdout) as object), [
      'code',
      'name',
      'kind',
      'meaning',
      'cause',
      'fix',
    ]);
    const several = await iotdm(['explain', '395', '--json']);
    assert.deepEqual(
      (JSON.parse(several.stdout) as Explanation[]).map(({ code }) => code),
      ['0x18b', '0x395'],
    );
    const words = await iotdm(['explain', 'exit', '4']);
    assert.match(words.stdout, /^Code {10}4 \(iotdm exit code\)\nName {10}exit code 4\n/);
    assert.equal(words.stderr, '');
  });

  it('refuses what it does not know and names the nearest code', async () => {
    const { code, stdout, stderr } = await iotdm(['explain', 'TPM_RC_HANDEL', '--json']);
    assert.equal(code, 2);
    assert.equal(stdout, '');
    const { error } = JSON.parse(stderr) as { error: { code: string; hint: string } };
    assert.equal(error.code, 'usage.invalid');
    assert.match(error.hint, /did you mean "TPM_RC_HANDLE"/);
    const secret = await iotdm(['explain', 'HostName=h;SharedAccessKey=c2VjcmV0c2VjcmV0']);
    assert.doesNotMatch(secret.stderr, /c2VjcmV0/);
  });
});
