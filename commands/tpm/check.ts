import type { Check, CheckReport, Finding } from '../../src/station/tpm-check.ts';
import { CommandError, toFailure } from '../shared/failure.ts';
import type { Context } from '../shared/context.ts';
import type { Verb } from '../shared/verb.ts';

export interface ShownCheck {
  readonly id: string;
  readonly status: Check['status'];
  readonly message: string;
  readonly hint?: string;
}

export interface TpmCheckResult {
  readonly ok: boolean;
  readonly checks: readonly ShownCheck[];
}

export const tpmCheck: Verb<[], object, TpmCheckResult> = {
  name: 'check',
  summary: 'say whether a device with this TPM would get through DPS, and what to mend',
  description:
    'Looks at everything that registering with DPS and writing a slot need, and names what is wrong and how to mend it. ' +
    'Changes nothing in the TPM: keys that have to be derived are flushed. Where the EK certificate does not name the ' +
    'key at 0x81010001, keys are derived to tell where it comes from, which takes a chip a while. Ends with the exit ' +
    'code of the first check that fails; the result is printed all the same.',
  examples: [
    'iotdm tpm check',
    'iotdm tpm check --json | jq -r \'.checks[] | select(.status == "fail") | .hint\'',
  ],
  seeAlso: ['iotdm tpm info', 'iotdm tpm list', 'iotdm ek read', 'iotdm slot list'],
  settings: ['tpm', 'timeout', 'state'],
  async run(context) {
    const { checkTpm } = await import('../../src/station/tpm-check.ts');
    const progress = await context.console.progress('Checking the TPM; deriving a key takes a chip a while');
    const recovery = await context.recoveryFiles();
    const report = await checkTpm(() => context.openTpm(), { recovery }).finally(() => {
      progress.done();
    });
    const result = { ok: report.ok, checks: report.checks.map(show) };
    const failures = report.checks.filter(({ status }) => status === 'fail');
    const first = failures[0];
    if (first === undefined) return result;
    await context.print(
      context.settings.json ? `${JSON.stringify(result, null, 2)}\n` : describe(result, context),
    );
    throw failure(report, first);
  },
  describe,
};

function show(check: Check): ShownCheck {
  const { id, status, message } = check;
  const hint = hintFor(check);
  return { id, status, message, ...(hint === undefined ? {} : { hint }) };
}

/** How to mend what a check has found. */
export function hintFor({ id, finding, error }: Pick<Check, 'id' | 'finding' | 'error'>): string | undefined {
  if (finding === 'auth-not-given' || finding === 'auth-not-set') return authHint(id, finding);
  if (finding !== undefined) return hints[finding];
  return error === undefined ? undefined : toFailure(error, 'iotdm tpm check').hint;
}

function failure({ checks }: CheckReport, first: Check): CommandError {
  const failed = checks.filter(({ status }) => status === 'fail').map(({ id }) => id);
  const [others, number] = [failed.slice(1), failed.length];
  const message =
    number === 1
      ? `${first.id}: ${first.message}`
      : `${number} checks failed (${failed.join(', ')}); ${first.id}: ${first.message}`;
  return new CommandError(
    first.code ?? 'internal.unexpected',
    message,
    hintFor(first) ?? 'run the command again with -vv',
    { check: first.id, failed: [first.id, ...others] },
  );
}

function describe({ ok, checks }: TpmCheckResult, { console: { style } }: Context): string {
  const marks = {
    pass: style.green('✔'),
    warn: style.yellow('!'),
    fail: style.red('✖'),
    skip: style.dim('-'),
  };
  const width = Math.max(...checks.map(({ id }) => id.length));
  const lines = checks.flatMap(({ id, status, message, hint }) => [
    `${marks[status]} ${id.padEnd(width)}  ${message}\n`,
    ...(hint === undefined ? [] : [`  ${' '.repeat(width)}  ${style.cyan('→')} ${hint}\n`]),
  ]);
  const warnings = checks.filter(({ status }) => status === 'warn').length;
  const noted =
    warnings === 0 ? '' : ` (${warnings === 1 ? 'one thing' : `${warnings} things`} to know above)`;
  const verdict = ok
    ? `${style.green('✔')} No check failed${noted}: nothing here stands in the way of DPS.`
    : `${style.red('✖')} This TPM will not get through DPS as it is.`;
  return `${lines.join('')}\n${verdict}\n`;
}

function authHint(id: string, finding: 'auth-not-given' | 'auth-not-set'): string {
  const hierarchy = id.replace('-auth', '');
  const [flag, variable] = [`--${hierarchy}-auth-file`, `IOTDM_${hierarchy.toUpperCase()}_AUTH`];
  return finding === 'auth-not-given'
    ? `give the value with ${flag} (or ${variable})`
    : `leave out ${flag} (and ${variable})`;
}

const hints: Readonly<Record<Exclude<Finding, 'auth-not-given' | 'auth-not-set'>, string>> = {
  unsuitable: 'look for newer firmware of this TPM, or use another one',
  'locked-out':
    'wait until the TPM recovers, or end the lockout with: tpm2_dictionarylockout --clear-lockout',
  'wrong-values-counted':
    'find the program that uses a wrong value before it locks the TPM; reset with: tpm2_dictionarylockout --clear-lockout',
  'hierarchy-disabled':
    'something disabled it since the start: restart the device, and if it stays so, enable it in the firmware settings',
  'transient-full': 'use /dev/tpmrm0, or flush what another program left behind: tpm2_flushcontext -t',
  'transient-left':
    'what was killed or did not clean up leaves it until the next start: use /dev/tpmrm0, or flush it with: tpm2_flushcontext -t',
  'sessions-full': 'flush what another program left behind: tpm2_flushcontext -l (loaded) and -s (saved)',
  'sessions-left': 'flush what another program left behind: tpm2_flushcontext -l',
  'ek-absent': 'Limpet and the SDKs make it when they register; to make it now: iotdm ek read --persist',
  'ek-unsuitable':
    'if nothing uses it, remove it with tpm2_evictcontrol -C o -c 0x81010001, then: iotdm ek read --persist',
  'certificate-absent':
    'usual for firmware TPMs of Intel and AMD, whose certificates are on the web; DPS does without it',
  'certificate-closed': 'give the owner authorization with --owner-auth-file (or IOTDM_OWNER_AUTH)',
  'certificate-damaged':
    'something wrote to NV index 0x01c00002: restore the certificate from the manufacturer; DPS does without it',
  'certificate-of-another-key':
    "DPS takes the key at 0x81010001 all the same; for the manufacturer's key, remove this one with tpm2_evictcontrol -C o -c 0x81010001, then: iotdm ek read --persist",
  'certificate-of-another-chip':
    'do not ship this device as genuine: certificate and chip do not belong together; ask whoever assembled it',
  'ek-made-by-sdk': 'keep it if the device is enrolled with it: removing it changes the registration id',
  'ek-foreign':
    'find out which program made it before this device is enrolled with it: it cannot be derived again',
  'srk-absent': 'nothing to do: iotdm slot write makes it',
  'srk-unsuitable':
    'if nothing uses it, remove it with: tpm2_evictcontrol -C o -c 0x81000001; iotdm slot write makes the right one',
  'srk-unusual':
    'if nothing uses it, remove it with: tpm2_evictcontrol -C o -c 0x81000001; iotdm slot write makes the usual one',
  'round-trip-failed': 'do not ship this device: what answers as its TPM does not hold the key it shows',
  'slot-0-foreign':
    "Azure's SDKs use slot 0: if nothing needs what stands there, empty it with: iotdm slot clear 0 --force",
  'slot-foreign':
    'choose another slot; or if nothing needs what stands there, empty it with: iotdm slot clear N --force',
  'slots-to-mend':
    'look with: iotdm slot list --all; finish what was interrupted with: iotdm slot repair N; or empty the slot with: iotdm slot clear N',
  'no-room': 'make room: iotdm slot clear N frees a slot, tpm2_evictcontrol removes keys of other programs',
  'little-room': 'make room: iotdm slot list shows the slots in use, iotdm slot clear N frees one',
};
