/**
 * What Windows' TPM Base Services answer when it is not the TPM that answers: as the result of a call, and for blocked
 * commands as the code in a response that they make themselves.
 *
 * Source: winerror.h, facility TPM_SERVICES (0x28), and Microsoft's "TBS Return Codes".
 */
import { hex32 } from '../encoding.ts';
import { IotdmError, type ErrorCode } from '../errors.ts';

export interface TbsCode {
  readonly name: string;
  readonly errorCode: ErrorCode;
  /** Begins a message: what has happened. */
  readonly meaning: string;
}

const unavailable = 'tpm-unavailable.connection';

const codes = {
  0x80280400: [
    'TPM_E_COMMAND_BLOCKED',
    'tpm-unavailable.permission',
    'Windows blocks this TPM command for this user',
  ],
  0x80280401: ['TPM_E_INVALID_HANDLE', 'tpm.key-missing', 'the handle names nothing that Windows knows'],
  0x80280402: [
    'TPM_E_DUPLICATE_VHANDLE',
    'tpm-unavailable.busy',
    'the TPM gave a handle that Windows holds already',
  ],
  0x80280403: [
    'TPM_E_EMBEDDED_COMMAND_BLOCKED',
    'tpm-unavailable.permission',
    'Windows blocks the command inside the command',
  ],
  0x80280404: [
    'TPM_E_EMBEDDED_COMMAND_UNSUPPORTED',
    'tpm.unsupported',
    'Windows does not support the command inside the command',
  ],
  0x80280800: ['TPM_E_RETRY', 'tpm-unavailable.busy', 'the TPM is too busy to answer'],
  0x80280801: ['TPM_E_NEEDS_SELFTEST', 'tpm-unavailable.busy', 'the TPM has not tested itself yet'],
  0x80280802: ['TPM_E_DOING_SELFTEST', 'tpm-unavailable.busy', 'the TPM is testing itself'],
  0x80280803: [
    'TPM_E_DEFEND_LOCK_RUNNING',
    'tpm.lockout',
    'the TPM defends itself against guessing and waits',
  ],
  0x80284001: ['TBS_E_INTERNAL_ERROR', unavailable, 'the TPM Base Services failed inside'],
  0x80284002: ['TBS_E_BAD_PARAMETER', unavailable, 'the TPM Base Services do not accept a parameter'],
  0x80284003: ['TBS_E_INVALID_OUTPUT_POINTER', unavailable, 'the TPM Base Services do not accept a buffer'],
  0x80284004: ['TBS_E_INVALID_CONTEXT', unavailable, 'the TPM Base Services no longer know this connection'],
  0x80284005: [
    'TBS_E_INSUFFICIENT_BUFFER',
    'tpm-unavailable.protocol',
    'the response is longer than any response of a TPM',
  ],
  0x80284006: ['TBS_E_IOERROR', unavailable, 'Windows cannot talk to the TPM'],
  0x80284007: [
    'TBS_E_INVALID_CONTEXT_PARAM',
    'tpm-unavailable.not-tpm2',
    'the TPM Base Services do not serve a TPM 2.0',
  ],
  0x80284008: [
    'TBS_E_SERVICE_NOT_RUNNING',
    unavailable,
    'the TPM Base Services do not run and cannot be started',
  ],
  0x80284009: [
    'TBS_E_TOO_MANY_TBS_CONTEXTS',
    'tpm-unavailable.busy',
    'too many programs are connected to the TPM Base Services',
  ],
  0x8028400a: [
    'TBS_E_TOO_MANY_RESOURCES',
    'tpm.transient-full',
    'the TPM Base Services hold too many keys and sessions',
  ],
  0x8028400b: [
    'TBS_E_SERVICE_START_PENDING',
    'tpm-unavailable.busy',
    'the TPM Base Services are still starting',
  ],
  0x8028400c: [
    'TBS_E_PPI_NOT_SUPPORTED',
    'tpm.unsupported',
    'the firmware has no physical presence interface',
  ],
  0x8028400d: ['TBS_E_COMMAND_CANCELED', unavailable, 'the TPM command was cancelled'],
  0x8028400e: ['TBS_E_BUFFER_TOO_LARGE', unavailable, 'a buffer is larger than the TPM Base Services allow'],
  0x8028400f: ['TBS_E_TPM_NOT_FOUND', 'tpm-unavailable.not-found', 'Windows finds no TPM in this machine'],
  0x80284010: ['TBS_E_SERVICE_DISABLED', unavailable, 'the TPM Base Services are disabled'],
  0x80284011: ['TBS_E_NO_EVENT_LOG', 'tpm.unsupported', 'there is no TCG event log'],
  0x80284012: [
    'TBS_E_ACCESS_DENIED',
    'tpm-unavailable.permission',
    'Windows does not let this user do this with the TPM',
  ],
  0x80284013: [
    'TBS_E_PROVISIONING_NOT_ALLOWED',
    'tpm-unavailable.permission',
    'the flags do not allow to provision the TPM',
  ],
  0x80284014: [
    'TBS_E_PPI_FUNCTION_UNSUPPORTED',
    'tpm.unsupported',
    'the firmware does not support this physical presence request',
  ],
  0x80284015: [
    'TBS_E_OWNERAUTH_NOT_FOUND',
    'tpm.authorization',
    'Windows does not hold the owner authorization value',
  ],
  0x80284016: ['TBS_E_PROVISIONING_INCOMPLETE', unavailable, 'Windows has not finished provisioning the TPM'],
} as const satisfies Readonly<Record<number, readonly [string, ErrorCode, string]>>;

/** The numbers of all codes, ascending. */
export const tbsCodes: readonly number[] = Object.keys(codes).map(Number);

/** Such as `TBS_E_TPM_NOT_FOUND`. */
export type TbsCodeName = (typeof codes)[keyof typeof codes][0];

/** What a result means, or undefined for one that is not of the TPM Base Services. */
export function describeTbsCode(code: number): (TbsCode & { readonly name: TbsCodeName }) | undefined {
  const found = (codes as Readonly<Record<number, readonly [TbsCodeName, ErrorCode, string]>>)[code >>> 0];
  return found === undefined ? undefined : { name: found[0], errorCode: found[1], meaning: found[2] };
}

/** With these, a command may have been passed on to the TPM. */
const perhapsPassedOn: readonly TbsCodeName[] = [
  'TBS_E_INTERNAL_ERROR',
  'TBS_E_IOERROR',
  'TBS_E_INSUFFICIENT_BUFFER',
  'TBS_E_SERVICE_NOT_RUNNING',
  'TBS_E_COMMAND_CANCELED',
];

/**
 * The error for a call that did not give TBS_SUCCESS.
 * @param call the function of tbs.dll
 */
export function tbsError(call: string, result: number): IotdmError {
  const code = describeTbsCode(result);
  const details = { responseCode: hex32(result), ...(code === undefined ? {} : { name: code.name }) };
  if (code === undefined) {
    const effect = 'unknown';
    return new IotdmError(unavailable, `${call} failed with ${hex32(result)}`, { details, effect });
  }
  const effect = perhapsPassedOn.includes(code.name) ? 'unknown' : 'refused';
  return new IotdmError(code.errorCode, `${code.meaning} (${code.name})`, { details, effect });
}
