/** From an error to what the user sees and the shell gets: one exit code and one hint for every error code. */
import { IotdmError, type ErrorCode } from '../../src/errors.ts';
import { redact } from '../../src/secret.ts';

/** Also the table of `iotdm help exit-codes` and the README. */
export const exitCodes = [
  [0, 'done', ''],
  [1, 'unexpected: a bug in iotdm', 'internal'],
  [2, 'wrong usage or unusable input file; nothing was touched', 'usage, input'],
  [3, 'no TPM reached, or it is not a TPM 2.0 that will do', 'tpm-unavailable'],
  [4, 'the TPM refused: authorization, lockout, no room, key missing, slot not empty', 'tpm'],
  [5, 'the service refused the credentials', 'auth'],
  [6, 'the service refused the request: conflict, not found, invalid', 'service'],
  [7, 'network, timeout or throttling outlasted the retries: run again later', 'network'],
  [8, 'a batch finished with some rows failed', 'partial'],
  [9, 'verification failed: certificate, proof, signature, manifest', 'verify'],
  [130, 'interrupted', 'interrupted'],
] as const;

type Family = ErrorCode extends `${infer Name}.${string}` ? Name : never;

const exitCodeOf: Readonly<Record<Family, number>> = {
  internal: 1,
  usage: 2,
  input: 2,
  'tpm-unavailable': 3,
  tpm: 4,
  auth: 5,
  service: 6,
  network: 7,
  partial: 8,
  verify: 9,
  interrupted: 130,
};

/** What a hint may refer to. */
interface Situation {
  /** The command as typed, such as `iotdm slot write`. */
  readonly command: string;
  readonly details: Readonly<Record<string, unknown>>;
}

type Hint = string | ((situation: Situation) => string);

const permissionHint =
  'run as root, or join the group that owns the device: sudo usermod -aG tss $USER, then log in again';
const reachHint = 'check --tpm (or IOTDM_TPM), or start a software TPM with: iotdm simulator start';
const authorizationHint =
  'give the authorization value with --owner-auth-file, --endorsement-auth-file or --lockout-auth-file (or IOTDM_OWNER_AUTH, IOTDM_ENDORSEMENT_AUTH, IOTDM_LOCKOUT_AUTH)';
const helpHint: Hint = ({ command }) => `run: ${command} --help`;

const hints: Readonly<Record<ErrorCode, Hint>> = {
  'internal.unexpected': 'please report this, with what you did and the output of the same command with -v',
  'usage.invalid': helpHint,
  'usage.secret-in-argv':
    'every user of this machine can read a command line: put the secret into a file and give the file, or - for stdin',
  'usage.no-credentials':
    'pass --dps-connection-string-file FILE or set IOTDM_DPS_CONNECTION_STRING; for a rehearsal: iotdm emulator start',
  'usage.needs-confirmation': 'pass --yes if that is what you want',
  'usage.output-exists': 'choose another name, or pass --overwrite to replace it',
  'usage.output-unwritable': 'check the name, the permissions of the folder and the free space',
  'usage.unsupported': 'use device:/dev/tpmrm0, where the kernel manages the TPM for several programs',
  'input.unreadable': 'check the name and the permissions of the file',
  'input.invalid': helpHint,
  'input.locked': 'another iotdm is writing to it: wait for it to end and run the command again',
  'input.key-unsuitable':
    'DPS knows a TPM by its RSA 2048 endorsement key: read it from the device with iotdm ek read, or take its EK certificate',
  'input.private-key':
    'keep it to yourself, and give the public half: openssl pkey -in FILE -pubout -out public.pem',
  'input.rows': 'nothing was sent: mend these rows and run the same command again',
  'tpm-unavailable.not-found': `enable the TPM in the firmware settings, ${reachHint}`,
  'tpm-unavailable.permission': permissionHint,
  'tpm-unavailable.busy': 'end the program that uses the TPM, or use /dev/tpmrm0, and run the command again',
  'tpm-unavailable.connection': reachHint,
  'tpm-unavailable.timeout':
    'another program may hold the TPM; a slow chip may need --timeout 300 when it makes a key',
  'tpm-unavailable.protocol': 'check that --tpm names a TPM and not another service',
  'tpm-unavailable.not-started': 'restart the device, or send TPM2_Startup with: tpm2_startup -c',
  'tpm-unavailable.not-tpm2':
    'DPS needs a TPM 2.0: look for a switch from 1.2 to 2.0 in the firmware settings',
  'tpm-unavailable.failure-mode':
    'restart the device; if it stays like this, update its firmware or replace the TPM',
  'tpm-unavailable.unsuitable': 'look for newer firmware of this TPM, or use another one',
  'tpm-unavailable.software-missing': 'install it: sudo apt-get install -y swtpm swtpm-tools',
  'tpm.authorization': authorizationHint,
  'tpm.lockout':
    'wait until the TPM recovers, or end the lockout with: tpm2_dictionarylockout --clear-lockout',
  'tpm.hierarchy-disabled':
    'something disabled it since the start: restart the device, and if it stays so, enable it in the firmware settings',
  'tpm.clear-disabled':
    'clear the TPM in the firmware settings, or allow it with the platform authorization: tpm2_clearcontrol -C p c',
  'tpm.no-room': 'make room: iotdm slot list shows the slots in use, iotdm slot clear N frees one',
  'tpm.transient-full':
    'another program left objects behind: use /dev/tpmrm0, or flush them with: tpm2_flushcontext -t',
  'tpm.occupied': 'look at what stands there with: iotdm slot list --all',
  'tpm.key-missing': 'look at what the TPM holds with: iotdm slot list --all',
  'tpm.unsupported': 'this TPM lacks a command that iotdm needs: update its firmware',
  'tpm.refused': 'run the command again with -vv to see what was sent to the TPM',
  'tpm.slot-not-empty': 'pass --overwrite to replace what it holds',
  'tpm.slot-empty': ({ details }) =>
    `write it with: iotdm slot write ${slotIn(details)} --connection-string-file FILE`,
  'tpm.slot-incomplete': ({ details }) =>
    `write it again with: iotdm slot write ${slotIn(details)} --overwrite --connection-string-file FILE`,
  'tpm.slot-foreign':
    'another program uses this place; choose another slot, or pass --force to destroy what it holds',
  'tpm.parent-unsuitable':
    'another program made this key; remove it with tpm2_evictcontrol if nothing uses it, and run the command again',
  'tpm.ek-unsuitable':
    'another program put this key there; remove it with tpm2_evictcontrol if nothing uses it, and run the command again',
  'auth.refused':
    'check that the connection string belongs to this service, and that its policy allows the operation',
  'service.not-found': 'look at what there is with: iotdm enrollment list',
  'service.conflict': 'look at what there is with: iotdm enrollment show ID',
  'service.changed-meanwhile': 'somebody else changed it: look at it again and repeat the command',
  'service.invalid': 'mend what the service names and run the command again',
  'service.unexpected-answer': 'check that --dps names a Device Provisioning Service; -vv shows the requests',
  'network.unreachable': 'check the host name, the network and whether a proxy is needed',
  'network.tls':
    'if this is the emulator or an inspecting proxy, give its certificate authority with --ca FILE',
  'network.timeout': 'check the network and run the same command again; --timeout gives it longer',
  'network.throttled': 'the service is busy: run the same command again in a minute',
  'network.unavailable': 'run the same command again later',
  'partial.rows-failed':
    'mend the rows named above and run the same command again: rows that are done are left alone',
  'verify.slot':
    'do not ship this device: clear the slot and write it again, and replace the TPM if it fails twice',
  'verify.ek-certificate':
    'do not ship this device as genuine: the certificate and the chip do not belong together, or it was damaged',
  'verify.manifest': 'restore the manifest from a copy: it was changed after it was written',
  'verify.identity-conflict': 'check the label of the device: one chip and one serial number belong together',
  'interrupted.signal': 'run the same command again to finish',
};

function slotIn(details: Readonly<Record<string, unknown>>): string {
  return typeof details['slot'] === 'number' ? String(details['slot']) : 'N';
}

/** An error of the command line itself, with a hint of its own. */
export class CommandError extends IotdmError {
  readonly hint: string;

  constructor(code: ErrorCode, message: string, hint: string, details?: Readonly<Record<string, unknown>>) {
    super(code, message, details === undefined ? {} : { details });
    this.hint = hint;
  }
}

export interface Failure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  readonly exitCode: number;
  /** For `-v`; only errors that nobody foresaw have one. */
  readonly stack: string | undefined;
}

/** Turns anything that was thrown into what is shown. */
export function toFailure(error: unknown, command: string): Failure {
  const known =
    error instanceof IotdmError
      ? error
      : new IotdmError(
          'internal.unexpected',
          `unexpected: ${error instanceof Error ? error.message : String(error)}`,
        );
  const stack = known.code === 'internal.unexpected' && error instanceof Error ? error.stack : undefined;
  const hint = known instanceof CommandError ? known.hint : hints[known.code];
  return {
    code: known.code,
    message: redact(known.message),
    hint: typeof hint === 'string' ? hint : hint({ command, details: known.details ?? {} }),
    details: known.details,
    exitCode: exitCodeOf[known.code.split('.')[0] as Family],
    stack: stack === undefined ? undefined : redact(stack),
  };
}
