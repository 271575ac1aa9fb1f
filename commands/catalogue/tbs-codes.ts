/** Windows' TPM Base Services: cause and fix of each code, whose name and meaning are in src/tpm/tbs-code.ts. */
import type { TbsCodeName } from '../../src/tpm/tbs-code.ts';

const elevated = 'run it as administrator: open the terminal with "Run as administrator"';
const services =
  "in an administrator's PowerShell: Get-Service TBS; Start-Service TBS; then run the command again";
const tpmMsc = 'look at the state of the TPM with tpm.msc, or Get-Tpm in PowerShell';
const again = 'run the same command again';
const report = 'run the command again with -vv and report it with that output';

export const tbsEntries: Readonly<Record<TbsCodeName, { readonly cause: string; readonly fix: string }>> = {
  TPM_E_COMMAND_BLOCKED: {
    cause:
      'users who are not administrators may not define NV indexes, move keys to persistent handles or clear the TPM; some commands Windows keeps from everybody, such as TPM2_Startup',
    fix: elevated,
  },
  TPM_E_INVALID_HANDLE: { cause: 'a key that another program or an earlier session loaded', fix: again },
  TPM_E_DUPLICATE_VHANDLE: { cause: 'a passing state of the resource manager', fix: again },
  TPM_E_EMBEDDED_COMMAND_BLOCKED: { cause: 'a command of TPM 1.2 that wraps another one', fix: elevated },
  TPM_E_EMBEDDED_COMMAND_UNSUPPORTED: { cause: 'a command of TPM 1.2 that wraps another one', fix: report },
  TPM_E_RETRY: { cause: 'another program keeps the TPM busy', fix: 'run the same command again in a moment' },
  TPM_E_NEEDS_SELFTEST: {
    cause: 'the machine has just started',
    fix: 'run the same command again in a moment',
  },
  TPM_E_DOING_SELFTEST: {
    cause: 'the machine has just started',
    fix: 'run the same command again in a moment',
  },
  TPM_E_DEFEND_LOCK_RUNNING: {
    cause: 'wrong authorization values',
    fix: 'wait until the TPM recovers; Get-Tpm in PowerShell says how long (LockoutHealTime)',
  },
  TBS_E_INTERNAL_ERROR: {
    cause: 'unexpected behaviour of the TPM or its driver, often a passing one',
    fix: `${again}; if it stays, restart the machine`,
  },
  TBS_E_BAD_PARAMETER: { cause: 'a call that Windows does not accept', fix: report },
  TBS_E_INVALID_OUTPUT_POINTER: { cause: 'a call that Windows does not accept', fix: report },
  TBS_E_INVALID_CONTEXT: { cause: 'the service was restarted while the command ran', fix: again },
  TBS_E_INSUFFICIENT_BUFFER: { cause: 'a TPM or driver that answers more than a TPM may', fix: report },
  TBS_E_IOERROR: {
    cause: 'a TPM that does not answer its driver',
    fix: 'restart the machine; if it stays, update the firmware of machine and TPM',
  },
  TBS_E_INVALID_CONTEXT_PARAM: {
    cause: 'Windows 7 or older, or a machine with a TPM 1.2',
    fix: 'DPS needs a TPM 2.0: look for a switch from 1.2 to 2.0 in the firmware settings',
  },
  TBS_E_SERVICE_NOT_RUNNING: {
    cause: 'the service TBS is stopped, or the TPM is switched off',
    fix: services,
  },
  TBS_E_TOO_MANY_TBS_CONTEXTS: {
    cause: 'programs that do not close their connections',
    fix: 'end other programs that use the TPM, or restart the machine',
  },
  TBS_E_TOO_MANY_RESOURCES: {
    cause: 'programs that keep many keys and sessions',
    fix: 'end other programs that use the TPM, or restart the machine',
  },
  TBS_E_SERVICE_START_PENDING: {
    cause: 'the machine has just started',
    fix: 'run the same command again in a moment',
  },
  TBS_E_PPI_NOT_SUPPORTED: {
    cause: 'firmware without this interface',
    fix: "do it in the device's firmware settings",
  },
  TBS_E_COMMAND_CANCELED: {
    cause: 'the time limit of iotdm or of another program, or the machine went to sleep',
    fix: 'run the same command again; a slow chip may need --timeout 300 when it makes a key',
  },
  TBS_E_BUFFER_TOO_LARGE: { cause: 'a call that Windows does not accept', fix: report },
  TBS_E_TPM_NOT_FOUND: {
    cause: 'the TPM is switched off in the firmware settings, or a virtual machine has none',
    fix: `enable the TPM in the firmware settings; ${tpmMsc}`,
  },
  TBS_E_SERVICE_DISABLED: {
    cause: 'an administrator or a policy disabled the service TBS',
    fix: "in an administrator's PowerShell: Set-Service TBS -StartupType Manual; Start-Service TBS",
  },
  TBS_E_NO_EVENT_LOG: {
    cause: 'firmware that does not measure its start; iotdm does not need the log',
    fix: tpmMsc,
  },
  TBS_E_ACCESS_DENIED: { cause: 'this user is no administrator', fix: elevated },
  TBS_E_PROVISIONING_NOT_ALLOWED: {
    cause: 'a policy that forbids Windows to take the TPM over',
    fix: tpmMsc,
  },
  TBS_E_PPI_FUNCTION_UNSUPPORTED: {
    cause: 'firmware that leaves this request out',
    fix: "do it in the device's firmware settings",
  },
  TBS_E_OWNERAUTH_NOT_FOUND: {
    cause: 'Windows 10 and later discard the owner authorization value once they have used it',
    fix: 'give the value with --owner-auth-file, or clear the TPM with: iotdm tpm clear',
  },
  TBS_E_PROVISIONING_INCOMPLETE: {
    cause: 'a restart or a confirmation in the firmware is still due',
    fix: "restart the machine; then Initialize-Tpm in an administrator's PowerShell",
  },
};
