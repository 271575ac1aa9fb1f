/**
 * What makes a rehearsal hard: throttling, delays and faults. They belong to one run of the emulator and are not kept
 * with its state: started without them it is a well-behaved service.
 */

import { IotdmError } from '../errors.ts';
import { formatFault, parseFault, type Fault } from './fault-spec.ts';
import { formatQuota, parseQuota, type BulkCost, type Quota } from './quota.ts';

/** Each answer is held back for a time between these, in milliseconds. */
export interface Latency {
  readonly minMs: number;
  readonly maxMs: number;
}

export interface Knobs {
  /** Of the operators' API, and separately of registrations by devices. */
  readonly quota?: Quota;
  /** `enrollment` when absent. */
  readonly bulkCost?: BulkCost;
  readonly latency?: Latency;
  readonly faults?: readonly Fault[];
  /** How long devices are being assigned to a hub, in milliseconds; not at all when absent. */
  readonly assignDelayMs?: number;
  /** Makes the choices of `rate` and of the latency repeatable; random when absent. */
  readonly faultSeed?: number;
}

/** The same as it stands on a command line. */
export interface KnobTexts {
  readonly quota?: string;
  readonly bulkCost?: string;
  readonly latency?: string;
  readonly assignDelay?: string;
  readonly fault?: readonly string[];
  readonly faultSeed?: string;
}

/** Those that are on, as texts; absent ones are null. */
export interface KnobReport {
  readonly quota: string | null;
  readonly bulkCost: BulkCost | null;
  readonly latency: string | null;
  readonly assignDelay: number | null;
  readonly faults: readonly string[];
  /** What a seed must be for the same choices; null also where nothing is left to chance. */
  readonly faultSeed: number | null;
}

export const defaultBulkCost: BulkCost = 'enrollment';
export const largestSeed = 2 ** 32 - 1;
const longestLatencyMs = 3_600_000;

/** @throws IotdmError `usage.invalid` */
export function parseKnobs(texts: KnobTexts): Knobs {
  const { quota, bulkCost, latency, assignDelay, fault, faultSeed } = texts;
  return {
    ...(quota === undefined ? {} : { quota: parseQuota(quota) }),
    ...(bulkCost === undefined ? {} : { bulkCost: parseBulkCost(bulkCost) }),
    ...(latency === undefined ? {} : { latency: parseLatency(latency) }),
    ...(assignDelay === undefined ? {} : { assignDelayMs: parseAssignDelay(assignDelay) }),
    ...(fault === undefined || fault.length === 0 ? {} : { faults: fault.map(parseFault) }),
    ...(faultSeed === undefined ? {} : { faultSeed: parseSeed(faultSeed) }),
  };
}

/** Undefined when none is on.  */
export function knobReport(knobs: Knobs): KnobReport | undefined {
  const { quota, bulkCost, latency, assignDelayMs = 0, faults = [], faultSeed } = knobs;
  const isOn = quota !== undefined || latency !== undefined || assignDelayMs > 0 || faults.length > 0;
  if (!isOn) return undefined;
  const hasChance =
    faults.some(({ rate }) => rate !== undefined) || (latency !== undefined && latency.minMs < latency.maxMs);
  return {
    quota: quota === undefined ? null : formatQuota(quota),
    bulkCost: quota === undefined ? null : (bulkCost ?? defaultBulkCost),
    latency: latency === undefined ? null : formatLatency(latency),
    assignDelay: assignDelayMs > 0 ? assignDelayMs : null,
    faults: faults.map(formatFault),
    faultSeed: hasChance ? (faultSeed ?? null) : null,
  };
}

/** `200` or `50-200`, milliseconds. @throws IotdmError `usage.invalid` */
export function parseLatency(text: string): Latency {
  const [, min = '', max = min] = /^([0-9]{1,7})(?:-([0-9]{1,7}))?$/.exec(text.trim()) ?? [];
  const latency = { minMs: Number(min), maxMs: Number(max) };
  if (min === '' || latency.minMs > latency.maxMs || latency.maxMs > longestLatencyMs) {
    throw new IotdmError(
      'usage.invalid',
      `the latency "${text}" is not milliseconds such as 200 or 50-200, up to an hour`,
    );
  }
  return latency;
}

function parseAssignDelay(text: string): number {
  const ms = Number(text);
  if (/^[0-9]{1,7}$/.test(text) && ms <= longestLatencyMs) return ms;
  throw new IotdmError(
    'usage.invalid',
    `the delay "${text}" is not milliseconds such as 3000, up to an hour`,
  );
}

function formatLatency({ minMs, maxMs }: Latency): string {
  return minMs === maxMs ? String(minMs) : `${minMs}-${maxMs}`;
}

function parseBulkCost(text: string): BulkCost {
  if (text === 'request' || text === 'enrollment') return text;
  throw new IotdmError('usage.invalid', `the bulk cost "${text}" is neither request nor enrollment`);
}

function parseSeed(text: string): number {
  const seed = Number(text);
  if (/^[0-9]{1,10}$/.test(text) && seed <= largestSeed) return seed;
  throw new IotdmError('usage.invalid', `the fault seed "${text}" is not a number from 0 to ${largestSeed}`);
}
