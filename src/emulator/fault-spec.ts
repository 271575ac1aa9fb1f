/**
 * The language in which the emulator is told to misbehave: `KIND[,KEY=VALUE]…`, such as `503,retry-after=2,rate=5%` or
 * `cut-after,method=POST,path=/enrollments,nth=3`. The kind says what happens, the keys say to which requests.
 */

import { IotdmError } from '../errors.ts';
import { nearest } from '../nearest.ts';

/** Which requests a fault befalls: all that fit method and path, or of those some. */
export interface FaultSelection {
  /** `GET`, `PUT`, `POST` or `DELETE`; any when absent. */
  readonly method?: string;
  /** The path without its query; `*` stands for any text within a part, `**` for any text at all. Any when absent. */
  readonly path?: string;
  /** The share of fitting requests, above 0 and up to 1, chosen by the seed. */
  readonly rate?: number;
  /** Of the fitting requests, counted from 1, these only. */
  readonly nth?: { readonly from: number; readonly to: number };
  /** Every so manieth fitting request. */
  readonly every?: number;
  /** Not more often than this. */
  readonly times?: number;
}

/** A refusal with an error status. */
export interface StatusFault extends FaultSelection {
  readonly kind: 'status';
  /** 400 to 599. */
  readonly status: number;
  /** Whole seconds for the header `retry-after`, which is not sent when absent. */
  readonly retryAfter?: number;
  /** The request takes effect all the same. */
  readonly applied?: boolean;
}

/** An answer that comes late, or stops after its first half and goes on late. */
export interface StallFault extends FaultSelection {
  readonly kind: 'stall' | 'stall-midway';
  /** For ever, that is until the caller gives up, when absent. */
  readonly ms?: number;
}

const plainFaultKinds = [
  'cut-before',
  'cut-after',
  'cut-midway',
  'truncate',
  'unknown-ids',
  'etag-race',
  'assign-fail',
] as const;

export interface PlainFault extends FaultSelection {
  readonly kind: (typeof plainFaultKinds)[number];
}

export type Fault = StatusFault | StallFault | PlainFault;

/** All kinds but the statuses, which stand for themselves. */
export const faultKinds = ['stall', 'stall-midway', ...plainFaultKinds] as const;
export const selectionKeys = ['method', 'path', 'rate', 'nth', 'every', 'times'] as const;
const methods = ['GET', 'PUT', 'POST', 'DELETE'];

/** @throws IotdmError `usage.invalid` naming the part that is not understood */
export function parseFault(text: string): Fault {
  const [kindText = '', ...settings] = text.split(',').map((part) => part.trim());
  const values = new Map<string, string>();
  for (const setting of settings) {
    const equals = setting.indexOf('=');
    const key = setting.slice(0, Math.max(0, equals));
    if (key === '') throw invalid(text, `"${setting}" is not KEY=VALUE`);
    if (values.has(key)) throw invalid(text, `${key} is given twice`);
    values.set(key, setting.slice(equals + 1));
  }
  const take = <Value>(key: string, read: (value: string) => Value | undefined): Record<string, Value> => {
    const value = values.get(key);
    if (value === undefined) return {};
    values.delete(key);
    const result = read(value);
    if (result === undefined) throw invalid(text, `"${value}" will not do for ${key}`);
    return { [key]: result };
  };
  const selection: FaultSelection = {
    ...take('method', (value) => methods.find((method) => method === value.toUpperCase())),
    ...take('path', (value) => (/^[/*]\S*$/.test(value) ? value : undefined)),
    ...take('rate', readRate),
    ...take('nth', readRange),
    ...take('every', readCount),
    ...take('times', readCount),
  };
  if ([selection.rate, selection.nth, selection.every].filter((way) => way !== undefined).length > 1) {
    throw invalid(text, 'rate, nth and every do not go together');
  }
  const fault = ((): Fault => {
    if (/^[45][0-9]{2}$/.test(kindText)) {
      const { 'retry-after': retryAfter } = take('retry-after', readWhole);
      const { applied } = take('applied', readFlag);
      return {
        kind: 'status',
        status: Number(kindText),
        ...(retryAfter === undefined ? {} : { retryAfter }),
        ...(applied === undefined ? {} : { applied }),
        ...selection,
      };
    }
    const kind = faultKinds.find((known) => known === kindText);
    if (kind === undefined) {
      const guess = nearest(kindText, faultKinds);
      const hint =
        guess === undefined
          ? `${faultKinds.join(', ')} or a status from 400 to 599`
          : `did you mean ${guess}`;
      throw invalid(text, `there is no fault "${kindText}" (${hint})`);
    }
    if (kind === 'stall' || kind === 'stall-midway') return { kind, ...take('ms', readWhole), ...selection };
    return { kind, ...selection };
  })();
  for (const key of values.keys()) {
    throw invalid(text, `${kindText} has no ${key} (${selectionKeys.join(', ')}${ownKeys(fault)})`);
  }
  return fault;
}

/** The text that `parseFault` reads as the same fault. */
export function formatFault(fault: Fault): string {
  const { method, path, rate, nth, every, times } = fault;
  const settings: readonly (readonly [string, string | number | undefined])[] = [
    ['retry-after', fault.kind === 'status' ? fault.retryAfter : undefined],
    [
      'applied',
      fault.kind === 'status' && fault.applied !== undefined ? (fault.applied ? 'yes' : 'no') : undefined,
    ],
    ['ms', 'ms' in fault ? fault.ms : undefined],
    ['method', method],
    ['path', path],
    ['rate', rate],
    ['nth', nth && (nth.from === nth.to ? nth.from : `${nth.from}-${nth.to}`)],
    ['every', every],
    ['times', times],
  ];
  const given = settings.filter(([, value]) => value !== undefined);
  return [
    fault.kind === 'status' ? fault.status : fault.kind,
    ...given.map(([key, value]) => `${key}=${String(value)}`),
  ].join(',');
}

function ownKeys(fault: Fault): string {
  if (fault.kind === 'status') return ', retry-after, applied';
  return fault.kind === 'stall' || fault.kind === 'stall-midway' ? ', ms' : '';
}

function readWhole(value: string): number | undefined {
  return /^[0-9]{1,9}$/.test(value) ? Number(value) : undefined;
}

function readCount(value: string): number | undefined {
  return /^[1-9][0-9]{0,8}$/.test(value) ? Number(value) : undefined;
}

function readFlag(value: string): boolean | undefined {
  return value === 'yes' ? true : value === 'no' ? false : undefined;
}

function readRate(value: string): number | undefined {
  if (!/^[0-9]*\.?[0-9]+%?$/.test(value)) return undefined;
  const rate = value.endsWith('%') ? Number(value.slice(0, -1)) / 100 : Number(value);
  return rate > 0 && rate <= 1 ? rate : undefined;
}

function readRange(value: string): { from: number; to: number } | undefined {
  const [first = '', last = first, ...rest] = value.split('-');
  const from = readCount(first);
  const to = readCount(last);
  return from !== undefined && to !== undefined && from <= to && rest.length === 0 ? { from, to } : undefined;
}

function invalid(text: string, problem: string): IotdmError {
  return new IotdmError('usage.invalid', `the fault "${text}" cannot be understood: ${problem}`);
}
