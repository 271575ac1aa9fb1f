/** Many devices: a rack of them side by side, or one after the other as their barcodes come. */
import { IotdmError } from '../../errors.ts';
import { serialNumberOf } from './barcode.ts';
import type { DeviceProvisioned } from './device.ts';

/** A device failed before its TPM was looked at. */
export interface NotBegun {
  readonly passed: false;
  readonly serialNumber: string | null;
  readonly failure: IotdmError;
}

export type DeviceOutcome = DeviceProvisioned | NotBegun;

export interface LineSummary {
  readonly total: number;
  readonly passed: number;
  readonly failed: number;
  readonly elapsedMs: number;
}

/** Whether an error is no device's own: of the settings, the files, or the credentials. It would meet the next one too. */
export function isOfTheStation({ code }: IotdmError): boolean {
  return (
    (/^(usage|input|internal)\./.test(code) &&
      code !== 'input.barcode' &&
      code !== 'input.recovery-damaged') ||
    code === 'verify.manifest'
  );
}

/**
 * Provisions the devices of a rack, `concurrency` at a time; one that fails costs no other.
 * @throws IotdmError `interrupted.signal` once those under way have ended; what is the station's own fault
 */
export async function provisionRack<Target>(options: {
  readonly targets: readonly Target[];
  readonly concurrency: number;
  readonly provision: (target: Target) => Promise<DeviceProvisioned>;
  readonly onOutcome: (target: Target, outcome: DeviceProvisioned, done: number) => void;
  readonly signal?: AbortSignal;
}): Promise<LineSummary> {
  const { targets, concurrency, provision, onOutcome, signal } = options;
  const began = performance.now();
  const waiting = targets.values();
  let passed = 0;
  let failed = 0;
  let fatal: unknown;
  const work = async (): Promise<void> => {
    for (const target of waiting) {
      if (fatal !== undefined || signal?.aborted === true) return;
      try {
        const outcome = await provision(target);
        if (outcome.failure?.code === 'interrupted.signal') return;
        if (outcome.passed) passed += 1;
        else failed += 1;
        onOutcome(target, outcome, passed + failed);
        if (outcome.failure !== undefined && isOfTheStation(outcome.failure)) fatal ??= outcome.failure;
      } catch (error) {
        fatal ??= error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, targets.length) }, work));
  const counts = { total: targets.length, passed, failed };
  if (fatal !== undefined) throw withCounts(fatal, counts);
  if (passed + failed < targets.length) {
    throw new IotdmError('interrupted.signal', `interrupted: ${passed} of ${targets.length} devices passed`, {
      details: counts,
    });
  }
  return { ...counts, elapsedMs: Math.round(performance.now() - began) };
}

/**
 * Provisions the device of each barcode, one after the other, until the input ends. A device that fails does not end it.
 * @param lines as `readLines` gives them
 * @throws IotdmError `interrupted.signal`; what is the station's own fault
 */
export async function provisionAsScanned(options: {
  readonly lines: AsyncIterable<string | undefined>;
  readonly provision: (serialNumber: string) => Promise<DeviceProvisioned>;
  readonly onOutcome: (outcome: DeviceOutcome) => Promise<void>;
  /** The line is ready for the next one. */
  readonly onReady: () => void;
}): Promise<LineSummary> {
  const { lines, provision, onOutcome, onReady } = options;
  const began = performance.now();
  let passed = 0;
  let failed = 0;
  onReady();
  for await (const line of lines) {
    const outcome = await provisionScanned(line, provision);
    if (outcome === undefined) continue;
    if (outcome.passed) passed += 1;
    else failed += 1;
    await onOutcome(outcome);
    const counts = { total: passed + failed, passed, failed };
    if (!outcome.passed) {
      const { failure } = outcome;
      if (failure?.code === 'interrupted.signal') throw withCounts(failure, counts);
      if (failure !== undefined && isOfTheStation(failure)) throw withCounts(failure, counts);
    }
    onReady();
  }
  return { total: passed + failed, passed, failed, elapsedMs: Math.round(performance.now() - began) };
}

async function provisionScanned(
  line: string | undefined,
  provision: (serialNumber: string) => Promise<DeviceProvisioned>,
): Promise<DeviceOutcome | undefined> {
  let serialNumber: string | undefined;
  try {
    serialNumber = serialNumberOf(line);
  } catch (error) {
    if (!(error instanceof IotdmError)) throw error;
    return { passed: false, serialNumber: null, failure: error };
  }
  return serialNumber === undefined ? undefined : provision(serialNumber);
}

function withCounts(error: unknown, counts: Readonly<Record<string, number>>): unknown {
  if (!(error instanceof IotdmError)) return error;
  return new IotdmError(error.code, error.message, {
    cause: error,
    details: { ...error.details, ...counts },
  });
}

/**
 * Which TPM was seen with which serial number: whoever forgets to change the device is told so. A pair is remembered only
 * once the manifest has taken it: of a barcode that was the wrong one nothing stays.
 */
export class Acquaintances {
  readonly #serialOf = new Map<string, string>();
  readonly #idOf = new Map<string, string>();

  /** @throws IotdmError `verify.identity-conflict` */
  recognize(serialNumber: string | null, registrationId: string): void {
    if (serialNumber === null) return;
    const serial = this.#serialOf.get(registrationId);
    const id = this.#idOf.get(serialNumber);
    if (serial !== undefined && serial !== serialNumber) {
      throw conflict(`this is still the TPM of ${JSON.stringify(serial)}`, serialNumber, registrationId);
    }
    if (id !== undefined && id !== registrationId) {
      throw conflict('this serial number was that of another TPM before', serialNumber, registrationId);
    }
  }

  remember(serialNumber: string | null, registrationId: string): void {
    if (serialNumber === null) return;
    this.#serialOf.set(registrationId, serialNumber);
    this.#idOf.set(serialNumber, registrationId);
  }
}

function conflict(problem: string, serialNumber: string, registrationId: string): IotdmError {
  return new IotdmError('verify.identity-conflict', problem, { details: { serialNumber, registrationId } });
}
