/** Decides which requests the emulator's faults befall. */

import { createHash } from 'node:crypto';
import type { Fault } from './fault-spec.ts';

export interface FaultTarget {
  readonly method: string;
  /** Without the query string, as it was sent. */
  readonly path: string;
  /** A bulk operation on enrollments. */
  readonly isBulk: boolean;
  /** It changes enrollments, so that another writer can come first. */
  readonly isWrite: boolean;
  /** It registers a device. */
  readonly isRegistration: boolean;
}

interface Armed {
  readonly fault: Fault;
  readonly path: RegExp | undefined;
  /** Requests that fitted so far. */
  fitting: number;
  /** How often it has struck. */
  struck: number;
}

export class FaultInjector {
  readonly #armed: readonly Armed[];
  readonly #seed: number;

  /** @param seed the same seed makes the same choices, whatever else is different */
  constructor(faults: readonly Fault[], seed: number) {
    this.#armed = faults.map((fault) => ({ fault, path: pathPattern(fault.path), fitting: 0, struck: 0 }));
    this.#seed = seed;
  }

  /** The fault for a request: the first in order that strikes. Each counts all requests that fit it. */
  next(target: FaultTarget): Fault | undefined {
    let chosen: Fault | undefined;
    for (const [index, armed] of this.#armed.entries()) {
      if (!fits(armed, target)) continue;
      armed.fitting += 1;
      if (chosen !== undefined || !this.#strikes(armed, index)) continue;
      armed.struck += 1;
      chosen = armed.fault;
    }
    return chosen;
  }

  #strikes({ fault, fitting, struck }: Armed, index: number): boolean {
    const { rate, nth, every, times } = fault;
    if (times !== undefined && struck >= times) return false;
    if (nth !== undefined) return fitting >= nth.from && fitting <= nth.to;
    if (every !== undefined) return fitting % every === 0;
    return rate === undefined || draw(this.#seed, index, fitting) < rate;
  }
}

/** A number from 0 up to 1 that depends on nothing else: requests that overtake each other change no later choice. */
export function draw(seed: number, series: number, index: number): number {
  return createHash('sha256').update(`${seed} ${series} ${index}`).digest().readUInt32BE(0) / 2 ** 32;
}

function fits({ fault, path }: Armed, target: FaultTarget): boolean {
  if (fault.kind === 'unknown-ids' && !target.isBulk) return false;
  if (fault.kind === 'etag-race' && !target.isWrite) return false;
  if (fault.kind === 'assign-fail' && !target.isRegistration) return false;
  if (fault.method !== undefined && fault.method !== target.method) return false;
  return path?.test(target.path) ?? true;
}

function pathPattern(path: string | undefined): RegExp | undefined {
  if (path === undefined) return undefined;
  const source = path
    .split(/(\*+)/)
    .map((part) => (part.startsWith('*') ? (part === '*' ? '[^/]*' : '.*') : escaped(part)))
    .join('');
  return new RegExp(`^${source}$`, 's');
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
