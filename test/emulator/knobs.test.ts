/** What can be said about quota, latency and faults, and what is refused. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { faultNotes } from '../../commands/emulator/knob-options.ts';
import {
  faultKinds,
  formatFault,
  parseFault,
  selectionKeys,
  type Fault,
} from '../../src/emulator/fault-spec.ts';
import { FaultInjector, type FaultTarget } from '../../src/emulator/faults.ts';
import { knobReport, parseKnobs, parseLatency, type KnobTexts } from '../../src/emulator/knobs.ts';
import { formatQuota, parseQuota, QuotaBucket } from '../../src/emulator/quota.ts';
import { IotdmError } from '../../src/errors.ts';

const refused = (read: () => unknown, message: RegExp): void => {
  assert.throws(read, (error) => {
    assert.ok(error instanceof IotdmError, String(error));
    assert.equal(error.code, 'usage.invalid');
    assert.match(error.message, message);
    return true;
  });
};

const target = (method: string, path: string, more: Partial<FaultTarget> = {}): FaultTarget => ({
  method,
  path,
  isBulk: false,
  isWrite: false,
  isRegistration: false,
  ...more,
});

const given = <Value>(values: fc.Arbitrary<Value>): fc.Arbitrary<Value | undefined> =>
  fc.option(values, { nil: undefined });
const number = fc.integer({ min: 1, max: 999_999 });

const selection = fc
  .record({
    method: given(fc.constantFrom('GET', 'PUT', 'POST', 'DELETE')),
    path: given(fc.constantFrom('/enrollments/*', '**/operations/*', '/a+b(c)|', '/enrollments')),
    chosen: fc.oneof(
      fc.record({ rate: fc.integer({ min: 1, max: 1000 }).map((thousandths) => thousandths / 1000) }),
      fc.record({ nth: fc.tuple(number, number).map(([from, more]) => ({ from, to: from + more - 1 })) }),
      fc.record({ every: number }),
      fc.constant({}),
    ),
    times: given(number),
  })
  .map(({ chosen, ...rest }) => ({ ...rest, ...chosen }));

const faults: fc.Arbitrary<Fault> = fc
  .tuple(
    fc.oneof(
      fc.record({
        kind: fc.constant('status' as const),
        status: fc.integer({ min: 400, max: 599 }),
        retryAfter: given(fc.integer({ min: 0, max: 9999 })),
        applied: given(fc.boolean()),
      }),
      fc.record({ kind: fc.constantFrom('stall' as const, 'stall-midway' as const), ms: given(number) }),
      fc.record({
        kind: fc.constantFrom(
          'cut-before',
          'cut-after',
          'cut-midway',
          'truncate',
          'unknown-ids',
          'etag-race',
          'assign-fail',
        ),
      }),
    ),
    selection,
  )
  .map((parts) => {
    const whole = Object.entries(Object.assign({}, ...parts) as object);
    return Object.fromEntries(whole.filter(([, value]) => value !== undefined)) as unknown as Fault;
  });

describe('the language of faults', () => {
  it('is read as it is written', () => {
    fc.assert(
      fc.property(faults, (fault) => {
        assert.deepEqual(parseFault(formatFault(fault)), fault);
      }),
    );
    assert.deepEqual(parseFault('429'), { kind: 'status', status: 429 });
    assert.deepEqual(parseFault(' 503, retry-after=2, applied=yes, rate=2.5% '), {
      kind: 'status',
      status: 503,
      retryAfter: 2,
      applied: true,
      rate: 0.025,
    });
    assert.deepEqual(parseFault('cut-after,method=post,path=/enrollments,nth=3'), {
      kind: 'cut-after',
      method: 'POST',
      path: '/enrollments',
      nth: { from: 3, to: 3 },
    });
    assert.deepEqual(parseFault('stall,ms=2000,nth=2-4,times=1'), {
      kind: 'stall',
      ms: 2000,
      nth: { from: 2, to: 4 },
      times: 1,
    });
  });

  it('is refused where it is not understood, with the part that is not', () => {
    const faulty: readonly (readonly [string, RegExp])[] = [
      ['', /there is no fault ""/],
      ['cut-befor', /did you mean cut-before/],
      ['banana', /cut-before, .* or a status from 400 to 599/],
      ['200', /no fault "200"/],
      ['600', /no fault "600"/],
      ['503,', /"" is not KEY=VALUE/],
      ['503,rate', /"rate" is not KEY=VALUE/],
      ['503,=5', /is not KEY=VALUE/],
      ['503,rate=5%,rate=6%', /rate is given twice/],
      ['503,rate=0', /"0" will not do for rate/],
      ['503,rate=101%', /"101%" will not do for rate/],
      ['503,rate=-1', /will not do for rate/],
      ['503,rate=.', /will not do for rate/],
      ['503,nth=0', /will not do for nth/],
      ['503,nth=3-2', /will not do for nth/],
      ['503,nth=1-2-3', /will not do for nth/],
      ['503,every=x', /will not do for every/],
      ['503,times=0', /will not do for times/],
      ['503,method=PATCH', /will not do for method/],
      ['503,path=enrollments', /will not do for path/],
      ['503,retry-after=soon', /will not do for retry-after/],
      ['503,applied=maybe', /will not do for applied/],
      ['503,applied=constructor', /will not do for applied/],
      ['503,ms=5', /503 has no ms \(.*retry-after/],
      ['stall,retry-after=5', /stall has no retry-after \(.*ms\)/],
      ['truncate,nth=1,every=2', /do not go together/],
    ];
    for (const [text, message] of faulty) refused(() => parseFault(text), message);
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          parseFault(text);
        } catch (error) {
          assert.ok(error instanceof IotdmError, String(error));
        }
      }),
    );
  });

  it('is explained as a whole in the help of emulator start', () => {
    for (const word of [...faultKinds, ...selectionKeys, 'retry-after', 'applied', 'ms']) {
      assert.match(faultNotes, new RegExp(`(^|[\\s(])${word}(=|\\s)`, 'm'), word);
    }
  });
});

describe('what a fault befalls', () => {
  const struck = (spec: string, requests: readonly FaultTarget[], seed = 1): number[] => {
    const injector = new FaultInjector([parseFault(spec)], seed);
    return requests.flatMap((request, index) => (injector.next(request) === undefined ? [] : [index + 1]));
  };
  const gets = Array.from({ length: 12 }, () => target('GET', '/enrollments/d1'));

  it('is the requests that fit, by number', () => {
    assert.deepEqual(struck('503,nth=3', gets), [3]);
    assert.deepEqual(struck('503,nth=2-4', gets), [2, 3, 4]);
    assert.deepEqual(struck('503,every=5', gets), [5, 10]);
    assert.deepEqual(struck('503,times=2', gets), [1, 2]);
    assert.deepEqual(struck('503,every=4,times=2', gets), [4, 8]);
    const mixed = [...gets.slice(0, 2), target('PUT', '/enrollments/d1'), ...gets.slice(0, 2)];
    assert.deepEqual(struck('503,nth=2,method=GET', mixed), [2]);
    assert.deepEqual(struck('503,method=PUT', mixed), [3]);
  });

  it('is told by the path', () => {
    const paths = [
      '/enrollments',
      '/enrollments/d1',
      '/0ne1/registrations/d1/register',
      '/enrollmentsX',
      '/x.y/a',
    ];
    const fitting = (pattern: string): number[] =>
      struck(
        `503,path=${pattern}`,
        paths.map((path) => target('PUT', path)),
      );
    assert.deepEqual(fitting('/enrollments'), [1]);
    assert.deepEqual(fitting('/enrollments/*'), [2]);
    assert.deepEqual(fitting('/enrollments**'), [1, 2, 4]);
    assert.deepEqual(fitting('**/register'), [3]);
    assert.deepEqual(fitting('/*/registrations/*/register'), [3]);
    assert.deepEqual(fitting('/x.y/*'), [5]);
    assert.deepEqual(fitting('/x?y/a'), []);
  });

  it('is at random as often as was said, and the same with the same seed', () => {
    const many = Array.from({ length: 4000 }, () => target('GET', '/enrollments/d1'));
    const once = struck('503,rate=25%', many, 7);
    assert.ok(once.length > 850 && once.length < 1150, String(once.length));
    assert.deepEqual(struck('503,rate=25%', many, 7), once);
    assert.notDeepEqual(struck('503,rate=25%', many, 8), once);
    assert.equal(struck('503,rate=1', many.slice(0, 50)).length, 50);
  });

  it('is bulk requests, writes and registrations only, for faults of these', () => {
    const all = [
      target('GET', '/enrollments/d1'),
      target('PUT', '/enrollments/d1', { isWrite: true }),
      target('POST', '/enrollments', { isWrite: true, isBulk: true }),
      target('PUT', '/0ne1/registrations/d1/register', { isRegistration: true }),
    ];
    assert.deepEqual(struck('unknown-ids', all), [3]);
    assert.deepEqual(struck('etag-race', all), [2, 3]);
    assert.deepEqual(struck('assign-fail', all), [4]);
  });

  it('is decided by the first fault that strikes, and counted by all', () => {
    const injector = new FaultInjector(['503,nth=2', '500,nth=2-3', '429'].map(parseFault), 1);
    const statuses = gets.slice(0, 4).map((request) => {
      const fault = injector.next(request);
      return fault?.kind === 'status' ? fault.status : 0;
    });
    assert.deepEqual(statuses, [429, 503, 500, 429]);
  });
});

describe('a quota', () => {
  it('is read as it is written', () => {
    for (const [text, canonical] of [
      ['1000', '1000/min'],
      ['100/s', '100/s'],
      ['5/second', '5/s'],
      ['60/min', '60/min'],
      ['7/minute', '7/min'],
    ] as const) {
      assert.equal(formatQuota(parseQuota(text)), canonical);
    }
    for (const text of ['', '0', '-1', '1.5', '100/h', '100/', 'many', '1e3', '10000000000']) {
      refused(() => parseQuota(text), /is not a number such as/);
    }
  });

  it('lets exactly so many through at once, then one by one, and says when the next may come', () => {
    const quota = new QuotaBucket({ operations: 3, per: 'minute' });
    const at = (seconds: number): Date => new Date(1_700_000_000_000 + seconds * 1000);
    assert.deepEqual(
      [0, 1, 2, 3, 19.001, 20, 20, 40, 60, 60].map((seconds) => quota.take(1, at(seconds))),
      [undefined, undefined, undefined, 17, 1, undefined, 20, undefined, undefined, 20],
    );
    // Idle time earns one quota and no more.
    assert.deepEqual(
      [600, 600, 600, 600].map((seconds) => quota.take(1, at(seconds))),
      [undefined, undefined, undefined, 20],
    );
    // A clock that was set back does not lock anybody out.
    assert.equal(quota.take(1, at(0)), 20);
    assert.equal(quota.take(1, at(20)), undefined);
  });

  it('never refuses who keeps to the rate, wherever requests bunch up, and never lets more through', () => {
    const paced = new QuotaBucket({ operations: 100, per: 'second' });
    for (let request = 0; request < 600; request += 1) {
      // Held up until the end of the second, ten arrive together.
      const arrival = Math.ceil((request * 100 + 1) / 1000) * 1000;
      assert.equal(paced.take(10, new Date(arrival)), undefined);
    }
    const hurried = new QuotaBucket({ operations: 100, per: 'second' });
    let passed = 0;
    for (let ms = 0; ms < 10_000; ms += 1) if (hurried.take(1, new Date(ms)) === undefined) passed += 1;
    assert.equal(
      passed,
      1099,
      'the full bucket, and what came in during ten seconds but for the last millisecond',
    );
  });

  it('counts a cost as a whole: what does not fit is refused, and counts nothing', () => {
    const quota = new QuotaBucket({ operations: 12, per: 'second' });
    const at = (ms: number): Date => new Date(ms);
    assert.equal(quota.take(10, at(0)), undefined);
    assert.equal(quota.take(10, at(1)), 1);
    assert.equal(quota.take(2, at(1)), undefined);
    assert.equal(quota.take(1, at(2)), 1);
    // More than a whole quota would never pass: it takes a whole bucket.
    assert.equal(quota.take(50, at(1001)), undefined);
    assert.equal(quota.take(1, at(1002)), 1);
    assert.equal(quota.take(50, at(1999)), 1);
  });
});

describe('knobs', () => {
  it('are reported as they were given, and not at all when none is on', () => {
    const report = (texts: KnobTexts): unknown => knobReport(parseKnobs(texts));
    assert.equal(report({}), undefined);
    assert.equal(report({ bulkCost: 'request', faultSeed: '5', fault: [], assignDelay: '0' }), undefined);
    assert.deepEqual(parseKnobs({ assignDelay: '250' }), { assignDelayMs: 250 });
    assert.deepEqual(report({ quota: '1000' }), {
      quota: '1000/min',
      bulkCost: 'enrollment',
      latency: null,
      assignDelay: null,
      faults: [],
      faultSeed: null,
    });
    assert.deepEqual(
      report({ quota: '9/s', bulkCost: 'request', latency: '5-9', fault: ['503,rate=5%'], faultSeed: '7' }),
      {
        quota: '9/s',
        bulkCost: 'request',
        latency: '5-9',
        assignDelay: null,
        faults: ['503,rate=0.05'],
        faultSeed: 7,
      },
    );
  });

  it('are refused when they make no sense', () => {
    assert.deepEqual(parseLatency('0'), { minMs: 0, maxMs: 0 });
    for (const text of ['', '-5', '9-5', '5-', '1.5', '3600001', '99999999']) {
      refused(() => parseLatency(text), /is not milliseconds such as/);
    }
    for (const assignDelay of ['', '-1', '1.5', '3600001', 'x']) {
      refused(() => parseKnobs({ assignDelay }), /the delay/);
    }
    for (const faultSeed of ['', '-1', 'x', '4294967296'])
      refused(() => parseKnobs({ faultSeed }), /fault seed/);
    refused(() => parseKnobs({ bulkCost: 'ten' }), /bulk cost/);
  });
});
