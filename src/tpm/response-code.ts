/**
 * TPM 2.0 response codes: name, and which handle, session or parameter the TPM objects to.
 *
 * Source: TPM 2.0 Library, Part 2, section 6.6 (TPM_RC).
 */
import { hex32 } from '../encoding.ts';
import { IotdmError, type ErrorCode } from '../errors.ts';
import { describeTbsCode } from './tbs-code.ts';

export interface ResponseCode {
  /** As the TPM gave it. */
  readonly code: number;
  /** Such as `TPM_RC_VALUE`, or the number where the specification has no name for it. */
  readonly name: string;
  /** What the TPM objects to, 1-based. */
  readonly about?: { readonly kind: 'handle' | 'session' | 'parameter'; readonly index: number };
}

/** Format 1: bit 7 set, error number in bits 0..5. */
const formatOne: Readonly<Record<number, string>> = {
  0x01: 'ASYMMETRIC',
  0x02: 'ATTRIBUTES',
  0x03: 'HASH',
  0x04: 'VALUE',
  0x05: 'HIERARCHY',
  0x07: 'KEY_SIZE',
  0x08: 'MGF',
  0x09: 'MODE',
  0x0a: 'TYPE',
  0x0b: 'HANDLE',
  0x0c: 'KDF',
  0x0d: 'RANGE',
  0x0e: 'AUTH_FAIL',
  0x0f: 'NONCE',
  0x10: 'PP',
  0x12: 'SCHEME',
  0x15: 'SIZE',
  0x16: 'SYMMETRIC',
  0x17: 'TAG',
  0x18: 'SELECTOR',
  0x1a: 'INSUFFICIENT',
  0x1b: 'SIGNATURE',
  0x1c: 'KEY',
  0x1d: 'POLICY_FAIL',
  0x1f: 'INTEGRITY',
  0x20: 'TICKET',
  0x21: 'RESERVED_BITS',
  0x22: 'BAD_AUTH',
  0x23: 'EXPIRED',
  0x24: 'POLICY_CC',
  0x25: 'BINDING',
  0x26: 'CURVE',
  0x27: 'ECC_POINT',
};

/** Format 0, version 2.0 errors: bit 8 set, bit 11 clear, number in bits 0..6. */
const formatZeroErrors: Readonly<Record<number, string>> = {
  0x00: 'INITIALIZE',
  0x01: 'FAILURE',
  0x03: 'SEQUENCE',
  0x0b: 'PRIVATE',
  0x19: 'HMAC',
  0x20: 'DISABLED',
  0x21: 'EXCLUSIVE',
  0x24: 'AUTH_TYPE',
  0x25: 'AUTH_MISSING',
  0x26: 'POLICY',
  0x27: 'PCR',
  0x28: 'PCR_CHANGED',
  0x2d: 'UPGRADE',
  0x2e: 'TOO_MANY_CONTEXTS',
  0x2f: 'AUTH_UNAVAILABLE',
  0x30: 'REBOOT',
  0x31: 'UNBALANCED',
  0x42: 'COMMAND_SIZE',
  0x43: 'COMMAND_CODE',
  0x44: 'AUTHSIZE',
  0x45: 'AUTH_CONTEXT',
  0x46: 'NV_RANGE',
  0x47: 'NV_SIZE',
  0x48: 'NV_LOCKED',
  0x49: 'NV_AUTHORIZATION',
  0x4a: 'NV_UNINITIALIZED',
  0x4b: 'NV_SPACE',
  0x4c: 'NV_DEFINED',
  0x50: 'BAD_CONTEXT',
  0x51: 'CPHASH',
  0x52: 'PARENT',
  0x53: 'NEEDS_TEST',
  0x54: 'NO_RESULT',
  0x55: 'SENSITIVE',
};

/** Format 0 warnings: bits 8 and 11 set, number in bits 0..6. */
const warnings: Readonly<Record<number, string>> = {
  0x01: 'CONTEXT_GAP',
  0x02: 'OBJECT_MEMORY',
  0x03: 'SESSION_MEMORY',
  0x04: 'MEMORY',
  0x05: 'SESSION_HANDLES',
  0x06: 'OBJECT_HANDLES',
  0x07: 'LOCALITY',
  0x08: 'YIELDED',
  0x09: 'CANCELED',
  0x0a: 'TESTING',
  0x10: 'REFERENCE_H0',
  0x11: 'REFERENCE_H1',
  0x12: 'REFERENCE_H2',
  0x13: 'REFERENCE_H3',
  0x14: 'REFERENCE_H4',
  0x15: 'REFERENCE_H5',
  0x16: 'REFERENCE_H6',
  0x18: 'REFERENCE_S0',
  0x19: 'REFERENCE_S1',
  0x1a: 'REFERENCE_S2',
  0x1b: 'REFERENCE_S3',
  0x1c: 'REFERENCE_S4',
  0x1d: 'REFERENCE_S5',
  0x1e: 'REFERENCE_S6',
  0x20: 'NV_RATE',
  0x21: 'LOCKOUT',
  0x22: 'RETRY',
  0x23: 'NV_UNAVAILABLE',
};

/** TPM_RC_BAD_TAG, the one code that a TPM 2.0 shares with 1.2. */
const BAD_TAG = 0x1e;

/** Bits 9 and 10 of format 0: reserved, and vendor-specific. */
const NOT_OF_THE_SPECIFICATION = 0x600;

/**
 * What answers in the TPM's place puts a number of its own above the TPM's code: a resource manager, such as the
 * kernel's, its layer (drivers/char/tpm/tpm.h), and Windows the facility of an HRESULT.
 */
const RESOURCE_MANAGER = 0x000b;
const HRESULT_TPM = 0x8028;

/** Takes a code as the TPM gives it, as a resource manager does, or as an HRESULT of Windows. */
export function decodeResponseCode(code: number): ResponseCode {
  const ofWindows = describeTbsCode(code);
  if (ofWindows !== undefined) return { code, name: ofWindows.name };
  const layer = code >>> 16;
  const number = layer === RESOURCE_MANAGER || layer === HRESULT_TPM ? code & 0xffff : code;
  const known = decodeTpmCode(number);
  return known === undefined
    ? { code, name: `response code 0x${(code >>> 0).toString(16)}` }
    : { code, ...known };
}

function decodeTpmCode(code: number): Omit<ResponseCode, 'code'> | undefined {
  if (code === 0) return { name: 'TPM_RC_SUCCESS' };
  if (code === BAD_TAG) return { name: 'TPM_RC_BAD_TAG' };
  if (code < 0 || code > 0xfff) return undefined;
  if ((code & 0x80) !== 0) {
    const name = formatOne[code & 0x3f];
    return name === undefined ? undefined : { name: `TPM_RC_${name}`, ...subject(code) };
  }
  if ((code & 0x100) === 0 || (code & NOT_OF_THE_SPECIFICATION) !== 0) return undefined;
  const name = (code & 0x800) !== 0 ? warnings[code & 0x7f] : formatZeroErrors[code & 0x7f];
  return name === undefined ? undefined : { name: `TPM_RC_${name}` };
}

/** The name and the number of every code, without handle, session or parameter: `TPM_RC_VALUE` is 0x84. */
export const responseCodeNumbers: ReadonlyMap<string, number> = new Map([
  ['TPM_RC_SUCCESS', 0],
  ['TPM_RC_BAD_TAG', BAD_TAG],
  ...numbered(formatOne, 0x80),
  ...numbered(formatZeroErrors, 0x100),
  ...numbered(warnings, 0x900),
]);

function numbered(names: Readonly<Record<number, string>>, base: number): [string, number][] {
  return Object.entries(names).map(([number, name]) => [`TPM_RC_${name}`, base | Number(number)]);
}

/** Bit 6: a parameter; otherwise bit 11 tells sessions from handles. Number 0 means that the TPM does not say. */
function subject(code: number): Pick<ResponseCode, 'about'> {
  const number = (code >> 8) & 0xf;
  if ((code & 0x40) !== 0) return number === 0 ? {} : { about: { kind: 'parameter', index: number } };
  const kind = (number & 0x8) !== 0 ? 'session' : 'handle';
  const index = number & 0x7;
  return index === 0 ? {} : { about: { kind, index } };
}

/** Such as `TPM_RC_VALUE (parameter 2)`. */
export function describeResponseCode({ name, about }: ResponseCode): string {
  return about === undefined ? name : `${name} (${about.kind} ${about.index})`;
}

/** Codes after which the same command may simply be sent again (Part 2, 6.6.3). */
export function isRetryable(code: number): boolean {
  return code === 0x908 || code === 0x90a || code === 0x922;
}

/** True for the answer that a handle or NV index names nothing: TPM_RC_HANDLE about the first handle. */
export function saysAbsent(code: number): boolean {
  return code === 0x18b || code === 0x910;
}

const meanings: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  TPM_RC_INITIALIZE: ['tpm-unavailable.not-started', 'the TPM has not been started'],
  TPM_RC_FAILURE: ['tpm-unavailable.failure-mode', 'the TPM is in failure mode'],
  TPM_RC_BAD_TAG: ['tpm-unavailable.not-tpm2', 'the chip does not understand TPM 2.0 commands'],
  TPM_RC_TESTING: ['tpm-unavailable.busy', 'the TPM is still testing itself'],
  TPM_RC_YIELDED: ['tpm-unavailable.busy', 'the TPM stays busy'],
  TPM_RC_RETRY: ['tpm-unavailable.busy', 'the TPM stays busy'],
  TPM_RC_NV_RATE: ['tpm-unavailable.busy', 'the TPM slows down writing to spare its memory'],
  TPM_RC_NV_UNAVAILABLE: ['tpm-unavailable.busy', "the TPM's memory cannot be written just now"],
  TPM_RC_UPGRADE: ['tpm-unavailable.failure-mode', 'the TPM waits for a firmware upgrade'],
  TPM_RC_REBOOT: ['tpm-unavailable.not-started', 'the TPM wants to be restarted first'],
  TPM_RC_AUTH_FAIL: ['tpm.authorization', 'the TPM refused the authorization value'],
  TPM_RC_BAD_AUTH: ['tpm.authorization', 'the TPM refused the authorization value'],
  TPM_RC_AUTH_MISSING: ['tpm.authorization', 'the TPM wants an authorization value'],
  TPM_RC_AUTH_UNAVAILABLE: ['tpm.authorization', 'the TPM does not allow authorization by value here'],
  TPM_RC_AUTH_TYPE: ['tpm.authorization', 'the TPM wants another kind of authorization'],
  TPM_RC_POLICY_FAIL: ['tpm.authorization', 'the policy of this object is not satisfied'],
  TPM_RC_NV_AUTHORIZATION: ['tpm.authorization', 'the NV index does not allow this access'],
  TPM_RC_HIERARCHY: ['tpm.hierarchy-disabled', 'the hierarchy is disabled'],
  TPM_RC_LOCKOUT: ['tpm.lockout', 'the TPM is locked out after wrong authorization values'],
  TPM_RC_NV_SPACE: ['tpm.no-room', 'the TPM has no room left'],
  TPM_RC_OBJECT_MEMORY: ['tpm.transient-full', 'the transient slots of the TPM are used up'],
  TPM_RC_OBJECT_HANDLES: ['tpm.transient-full', 'the transient slots of the TPM are used up'],
  TPM_RC_MEMORY: ['tpm.transient-full', 'the memory of the TPM is used up'],
  TPM_RC_SESSION_MEMORY: ['tpm.transient-full', 'the session slots of the TPM are used up'],
  TPM_RC_SESSION_HANDLES: ['tpm.transient-full', 'the session slots of the TPM are used up'],
  TPM_RC_CONTEXT_GAP: ['tpm.transient-full', 'the sessions of the TPM are used up'],
  TPM_RC_NV_DEFINED: ['tpm.occupied', 'the handle or NV index is taken'],
  TPM_RC_NV_UNINITIALIZED: ['tpm.key-missing', 'the NV index was never written'],
  TPM_RC_COMMAND_CODE: ['tpm.unsupported', 'the TPM does not have this command'],
};

/** The error code of a response, and what has happened; `tpm.refused` for what needs no code of its own. */
export function meaningOf({ code, name }: ResponseCode): readonly [ErrorCode, string] {
  const ofWindows = describeTbsCode(code);
  if (ofWindows !== undefined) return [ofWindows.errorCode, ofWindows.meaning];
  if (saysAbsent(code)) return ['tpm.key-missing', 'nothing stands at the handle'];
  return meanings[name] ?? ['tpm.refused', 'the TPM refused the command'];
}

/**
 * The error for a command that the TPM answered with anything but success. Such a command was not carried out; a TPM in
 * failure mode may have failed in the middle of it.
 */
export function responseError(command: string, code: number): IotdmError {
  const decoded = decodeResponseCode(code);
  const details = { command, responseCode: hex32(code), name: decoded.name };
  const effect = decoded.name === 'TPM_RC_FAILURE' ? 'unknown' : 'refused';
  if (saysAbsent(code)) {
    return new IotdmError('tpm.key-missing', `nothing stands at the handle given to ${command}`, {
      details,
      effect,
    });
  }
  const [errorCode, meaning] = meaningOf(decoded);
  return new IotdmError(errorCode, `${meaning}: ${command} answered ${describeResponseCode(decoded)}`, {
    details,
    effect,
  });
}
