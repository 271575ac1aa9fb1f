/**
 * The one error type of iotdm. Every failure that a user can meet has a stable code; what a code means for the
 * exit status and which command mends it is the business of commands/catalogue.
 */

/** What scripts may rely on. The part before the dot decides the exit code. */
export const errorCodes = [
  'internal.unexpected',
  'usage.invalid',
  'usage.secret-in-argv',
  'usage.no-credentials',
  'usage.needs-confirmation',
  'usage.output-exists',
  'usage.output-unwritable',
  'usage.unsupported',
  'usage.emulator-running',
  'usage.port-unavailable',
  'input.unreadable',
  'input.invalid',
  'input.rows',
  'input.barcode',
  'input.locked',
  'input.recovery-damaged',
  'input.changed',
  'input.journal',
  'input.key-unsuitable',
  'input.private-key',
  'input.station-key',
  'tpm-unavailable.not-found',
  'tpm-unavailable.permission',
  'tpm-unavailable.busy',
  'tpm-unavailable.connection',
  'tpm-unavailable.timeout',
  'tpm-unavailable.protocol',
  'tpm-unavailable.not-started',
  'tpm-unavailable.not-tpm2',
  'tpm-unavailable.failure-mode',
  'tpm-unavailable.unsuitable',
  'tpm-unavailable.software-missing',
  'tpm.authorization',
  'tpm.lockout',
  'tpm.hierarchy-disabled',
  'tpm.clear-disabled',
  'tpm.no-room',
  'tpm.transient-full',
  'tpm.occupied',
  'tpm.key-missing',
  'tpm.unsupported',
  'tpm.refused',
  'tpm.slot-not-empty',
  'tpm.slot-empty',
  'tpm.slot-incomplete',
  'tpm.slot-foreign',
  'tpm.cannot-undo',
  'tpm.parent-unsuitable',
  'tpm.ek-unsuitable',
  'tpm.no-ek-certificate',
  'auth.refused',
  'auth.clock',
  'auth.no-token',
  'service.not-found',
  'service.conflict',
  'service.changed-meanwhile',
  'service.key-differs',
  'service.not-tpm',
  'service.invalid',
  'service.unexpected-answer',
  'service.not-assigned',
  'network.unreachable',
  'network.proxy',
  'network.tls',
  'network.timeout',
  'network.budget',
  'network.throttled',
  'network.unavailable',
  'partial.rows-failed',
  'verify.slot',
  'verify.identity-key',
  'verify.ek-certificate',
  'verify.ek',
  'verify.rows',
  'verify.manifest',
  'verify.identity-conflict',
  'verify.bundle',
  'verify.signature',
  'interrupted.signal',
] as const;

export type ErrorCode = (typeof errorCodes)[number];

export function isErrorCode(text: string): text is ErrorCode {
  return (errorCodes as readonly string[]).includes(text);
}

/** Facts about a failure for scripts: plain JSON, never a secret. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/**
 * Causes within a code that are mended each in its own way; whoever throws names one with `because`. What a user does
 * about each is the business of commands/catalogue.
 */
export const errorReasons = [
  'certificate-other-host',
  'certificate-expired',
  'certificate-not-yet-valid',
  'certificate-unknown-authority',
  'certificate-self-signed',
  'certificate-revoked',
  'certificate-invalid',
  'no-tls',
  'tls-refused',
  'name-unknown',
  'nothing-listens',
  'no-route',
  'not-connected',
  'proxy-credentials',
  'proxy-refuses',
  'proxy-page',
  'proxy-login',
  'proxy-gateway',
  'endorsement-key-refused',
  'registration-id-refused',
  'device-id-refused',
  'api-version-refused',
  'firewall',
  'quota',
  'export-format',
  'access-broker',
  'not-windows',
  'settings-file',
  'emulator-state',
  'emulator-runs',
  'emulator-hangs',
  'emulator-of-another',
  'extra-authority',
  'token-goes-elsewhere',
  'no-device-node',
  'simulator-failed',
  'record-file',
  'changed-while-read',
  'other-identity',
  'other-key',
  'no-symmetric-key',
  'not-a-report',
  'module-slot',
] as const;

export type ErrorReason = (typeof errorReasons)[number];

export function isErrorReason(value: unknown): value is ErrorReason {
  return (errorReasons as readonly unknown[]).includes(value);
}

/** Details that say which of a code's causes it is. */
export function because(reason: ErrorReason, details: ErrorDetails = {}): ErrorDetails {
  return { reason, ...details };
}

/**
 * What became of the request to a TPM or to a service that failed. `none`: it was not sent. `refused`: it was answered,
 * and not carried out. `unknown`: it was sent, and nobody knows whether it was carried out.
 */
export type Effect = 'none' | 'refused' | 'unknown';

export interface ErrorOptions {
  readonly cause?: unknown;
  readonly details?: ErrorDetails | undefined;
  /** Said by the adapter that knows; that of the cause when absent. */
  readonly effect?: Effect | undefined;
}

export class IotdmError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails | undefined;
  /** Undefined for a failure that is no request's. */
  readonly effect: Effect | undefined;

  /** `message` is lower case without a full stop and never holds a secret. */
  constructor(code: ErrorCode, message: string, { cause, details, effect }: ErrorOptions = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'IotdmError';
    this.code = code;
    this.details = details;
    this.effect = effect ?? (cause instanceof IotdmError ? cause.effect : undefined);
  }
}

/** The same failure with another effect: what ends a connection ends requests that were sent, and others that were not. */
export function withEffect(error: IotdmError, effect: Effect): IotdmError {
  if (error.effect === effect) return error;
  const { code, message, cause, details } = error;
  return new IotdmError(code, message, { cause, details, effect });
}

/** The same failure, with more facts; what it says itself stays. */
export function withDetails(error: IotdmError, more: ErrorDetails): IotdmError {
  const { code, message, cause, details, effect } = error;
  return new IotdmError(code, message, { cause, details: { ...more, ...details }, effect });
}

/** Whether what was asked for may have been done: anything but a failure that is known to have done nothing. */
export function mayHaveTakenEffect(error: unknown): boolean {
  return !(error instanceof IotdmError) || (error.effect !== 'none' && error.effect !== 'refused');
}

/** The `code` of a Node.js system error (`ENOENT`, `ECONNREFUSED`, …), or undefined for anything else. */
export function systemErrorCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}
